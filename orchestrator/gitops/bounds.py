"""What a repository may name on this machine: files inside it and under the operator's model roots, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.errors import OrchError, Problem
from orchestrator.gitops.companions import companions
from orchestrator.manifest.explain import dotted
from orchestrator.manifest.load import Document, resolve_source
from orchestrator.manifest.spec import FileName

PATH_PROPERTIES = ("_DIR", "_PATH", "_FILE")  # how OpenVINO ends the names of those that it reads or writes files by
TO_REPOSITORY = "put the file into the repository, or below"
BESIDE_IT = "keep it on this machine, below"  # what is no model, such as a token, does not belong into a repository
Loc = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The folders in which a repository's files may lie, links resolved."""

    root: Path
    model_roots: tuple[Path, ...]

    @classmethod
    def of(cls, root: Path, model_roots: Sequence[Path]) -> Bounds:
        """Return the bounds with all links of the folders themselves resolved."""
        return cls(_real(root), tuple(_real(each) for each in model_roots))

    def fault(self, path: Path, hint: str = TO_REPOSITORY) -> tuple[str, str] | None:
        """Return what is wrong with a path, and the hint; None where it lies inside, with all its links resolved."""
        real = _real(path)
        if any(real.is_relative_to(each) for each in (self.root, *self.model_roots)):
            return None
        led = "" if real == Path(os.path.normpath(path)) else f", which links lead to {str(real)!r}"
        roots = ", ".join(str(each) for each in self.model_roots) or "it has none"
        return f"names {str(path)!r}{led}, outside of the repository", f"{hint} a model root of the source ({roots})"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def problems(documents: Sequence[Document], root: Path, model_roots: Sequence[Path]) -> list[Problem]:
    """Return what the documents of a repository name outside of `root` and of `model_roots`, each with its place.

    Looked at are models with the files that belong to them, token files and whatever else the manifest has for files,
    paths in `properties`, the manifests themselves, and their locks. A file that is not there is not looked for.
    """
    bounds = Bounds.of(root, model_roots)
    return [problem for document in documents for problem in _problems(document, bounds)]


def _problems(document: Document, bounds: Bounds) -> Iterator[Problem]:
    if document.path is not None:
        for path, what in ((document.path, "the manifest"), *((lock, "its lock") for lock in _locks(document.path))):
            fault = bounds.fault(path)
            if fault is not None:
                yield Problem(f"{what} {fault[0]}", str(document.where()), fault[1])
    for loc, text in _files_named(document.deployment.spec, ("spec",)):
        hint = TO_REPOSITORY if loc[-1] == "source" else BESIDE_IT
        yield from _fault(document, loc, bounds.fault(document.base / text, hint))
    for index, model in enumerate(document.deployment.spec.models):
        at: Loc = ("spec", "models", index)
        source = resolve_source(document, model)
        if bounds.fault(source) is None:
            yield from _fault(document, (*at, "source"), _companion_fault(source, bounds))
        for key, value in model.properties.items():
            if isinstance(value, str) and (key.endswith(PATH_PROPERTIES) or "/" in value):
                yield from _fault(document, (*at, "properties", key), _property_fault(value, bounds))


def _locks(manifest: Path) -> Iterator[Path]:
    stem = manifest.name.removesuffix(".yaml").removesuffix(".yml")
    for suffix in (".lock.yaml", ".lock.yml"):
        lock = manifest.with_name(stem + suffix)
        if os.path.lexists(lock):
            yield lock


def _companion_fault(model: Path, bounds: Bounds) -> tuple[str, str] | None:
    if not model.is_file():
        return None
    try:
        names = companions(model)
    except OrchError as error:
        return str(error), "export the model again"
    faults = (bounds.fault(model.parent / name) for name in names)
    fault = next((fault for fault in faults if fault is not None), None)
    return None if fault is None else (f"the model {fault[0]}", fault[1])


def _property_fault(value: str, bounds: Bounds) -> tuple[str, str] | None:
    """Return what is wrong with a path that the engine takes as it is, and so from whatever folder it runs in."""
    if Path(value).is_absolute():
        return bounds.fault(Path(value), BESIDE_IT)
    return (
        f"names {value!r}, which is relative to no known folder",
        "write the whole path, below a model root of the source",
    )


def _fault(document: Document, loc: Loc, fault: tuple[str, str] | None) -> Iterator[Problem]:
    if fault is not None:
        yield Problem(f"{dotted(loc)}: {fault[0]}", str(document.where(*loc)), fault[1])


def _files_named(node: BaseModel, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Yield each value that names a file, known by the mark of its type, so that none is forgotten."""
    for name, field in type(node).model_fields.items():
        value, here = getattr(node, name), (*loc, field.alias or name)
        if isinstance(value, str) and _names_file(field):
            yield here, value
        elif isinstance(value, BaseModel):
            yield from _files_named(value, here)
        elif isinstance(value, list):
            for index, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from _files_named(each, (*here, index))


def _names_file(field: FieldInfo) -> bool:
    marks = [
        *field.metadata,
        *(mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())),
    ]
    return any(isinstance(mark, FileName) for mark in marks)
