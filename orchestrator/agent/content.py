"""Keeps the files that a commit's manifests name at paths that only their content decides.

A plan holds the path of a model. Each commit has a checkout of its own, so a model that did not change would be another
one with each commit, and one that was rolled back would be gone with its checkout. Here `models/DIGEST/detector.onnx`
is the same file for as long as its bytes, and those of the files beside it that belong to it, are the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent.planning import Wanted
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan

if TYPE_CHECKING:  # an idle agent needs no YAML
    from orchestrator.manifest.load import Document
    from orchestrator.manifest.spec import Strict

DIGEST_DIGITS = 32
STAGED = ".new"


def address(document: Document, root: Path, kept: Path, beside: Sequence[Sequence[Path]]) -> Document:
    """Return the document with every file that it has inside `root` kept below `kept`; raise FAILED where that fails.

    `beside` are, for each model, the files that belong to it.
    """

    def at(named: str, files: Sequence[Path] = ()) -> str:
        path = Path(os.path.normpath(document.base / named))
        if not path.resolve().is_relative_to(root.resolve()):
            return named
        if not all(each.is_relative_to(path.parent) and ".." not in each.parts for each in files):
            return str(path)  # what belongs to it lies elsewhere, and would not be found beside a copy
        return str(keep([path, *files], kept))

    deployment = document.deployment
    models = [
        model.model_copy(update={"source": at(model.source, files)})
        for model, files in zip(deployment.spec.models, beside, strict=True)
    ]
    endpoint = _with_files(deployment.spec.endpoint, at)
    spec = deployment.spec.model_copy(update={"models": models, "endpoint": endpoint})
    return replace(document, deployment=deployment.model_copy(update={"spec": spec}))


def as_planned(wanted: Wanted, plan: DeploymentPlan) -> Wanted:
    """Return what is wanted with the files where the plan of a source's deployment has them: kept by content."""
    kept = {model.name: model.source for model in plan.models}
    spec = wanted.document.deployment.spec
    models = [model.model_copy(update={"source": kept.get(model.name, model.source)}) for model in spec.models]
    token = {"token_file": plan.endpoint.token_file} if spec.endpoint.token_file is not None else {}
    endpoint = spec.endpoint.model_copy(update=token)
    spec = spec.model_copy(update={"models": models, "endpoint": endpoint})
    deployment = wanted.document.deployment.model_copy(update={"spec": spec})
    return replace(wanted, document=replace(wanted.document, deployment=deployment))


def _with_files(node: Strict, at: Callable[[str], str]) -> Strict:
    """Return the object with each `..._file` in it, and in the objects in it, at its place."""
    found: dict[str, object] = {}
    for name in type(node).model_fields:
        value = getattr(node, name)
        if name.endswith("_file") and isinstance(value, str):
            found[name] = at(value)
        elif hasattr(value, "model_fields"):
            found[name] = _with_files(value, at)
    return node.model_copy(update=found) if found else node


def keep(files: Sequence[Path], kept: Path) -> Path:
    """Return where the first file is kept, the others beside it as they were; they must be in its folder or below."""
    first, folder = files[0], files[0].parent
    try:
        names = {path.relative_to(folder).as_posix(): path for path in files}
        digests = {name: _digest(names[name]) for name in sorted(names)}
        whole = hashlib.sha256("\n".join(f"{digests[name]} {name}" for name in digests).encode()).hexdigest()
        home = kept / whole[:DIGEST_DIGITS]
        if not all((home / name).is_file() for name in names):
            _fill(home, names)
    except OSError as error:
        what = f"cannot be kept: {error.strerror or error}"
        raise OrchError(Kind.FAILED, what, where=str(first), hint="check the space left for the state folder") from None
    return home / first.name


def _fill(home: Path, names: dict[str, Path]) -> None:
    staged = home.with_name(home.name + STAGED)
    shutil.rmtree(staged, ignore_errors=True)
    for name, path in names.items():
        target = staged / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _link(path.resolve(), target)
    shutil.rmtree(home, ignore_errors=True)  # where somebody took a file out of it
    staged.rename(home)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)  # costs no space: a checkout is never written to
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)


def gone(plan: DeploymentPlan, kept: Path) -> bool:
    """Tell whether a model of the plan that is kept below `kept` is not there any more."""
    root, files = kept.resolve(), [Path(model.source) for model in plan.models]
    return any(file.parent.parent.resolve() == root and not file.is_file() for file in files)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(kept: Path, plans: Iterable[str]) -> None:
    """Remove what none of the plans, as JSON texts, names."""
    homes = {each.name: each for each in kept.iterdir()} if kept.is_dir() else {}
    for plan in plans:
        for name in [name for name in homes if name in plan]:
            del homes[name]
    for home in homes.values():
        shutil.rmtree(home, ignore_errors=True)
