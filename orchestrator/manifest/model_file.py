"""Finds the model file that a manifest names and says what is wrong with it, before anything reads it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import Problem

if TYPE_CHECKING:  # load imports this module
    from orchestrator.manifest.load import Document
    from orchestrator.manifest.spec import ModelSpec


def resolve_source(document: Document, model: ModelSpec) -> Path:
    """Return where the model's file must be: relative to the document's base, `..` allowed, `~` taken literally."""
    return document.base / model.source


def check_sources(document: Document) -> list[Problem]:
    """Return what is wrong with the document's model files; hashes those that a digest pins."""
    problems = []
    for index, model in enumerate(document.deployment.spec.models):
        path = resolve_source(document, model)
        what, hint = _unusable(path)
        key = "source"
        if what is None and model.sha256 is not None:
            what, hint = _other_digest(path, model.sha256)
            key = "sha256"
        if what is not None:
            at = document.where("spec", "models", index, key)
            problems.append(Problem(f"spec.models[{index}].{key}: {what}", str(at), hint))
    return problems


def _unusable(path: Path) -> tuple[str | None, str | None]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"there is no file {path}", "paths are relative to the manifest's folder" + _alike(path)
    except OSError as error:
        return f"{path} cannot be reached: {error.strerror}", None
    if stat.S_ISDIR(mode):
        return f"{path} is a folder", "name the model's file; a SavedModel folder is converted with ovc first"
    if not stat.S_ISREG(mode):
        return f"{path} is not a regular file", None
    if not os.access(path, os.R_OK):
        return f"{path} may not be read by this user", "check the file's permissions"
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        return f"the weights {weights} are missing beside {path.name}", "an IR model is an .xml and a .bin file"
    return None, None


def _alike(path: Path) -> str:
    import difflib  # only a missing file needs it

    try:
        names = sorted(entry.name for entry in path.parent.iterdir())[:1000]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def _other_digest(path: Path, wanted: str) -> tuple[str | None, str | None]:
    import hashlib  # only a pinned model needs it

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}", None
    if digest == wanted:
        return None, None
    return f"{path} has the digest {digest}, the manifest pins {wanted}", "restore the file, or pin the new digest"
