"""Finds the files that a manifest names and says what is wrong with them, before anything uses them."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import Problem
from orchestrator.manifest.explain import dotted
from orchestrator.manifest.files import STDIN, STDIN_NAME

if TYPE_CHECKING:  # load imports this module
    from orchestrator.manifest.load import Document, SourceDocument
    from orchestrator.manifest.spec import ModelSpec, Tls

FOLDER_HINT = "name a file; a SavedModel folder is converted with ovc first"
FILE_HINT = "name the file that holds the token"
PEM_HINT = "name a PEM file"
Fault = tuple[str, str | None]
"""What is wrong with a file, and the hint."""


def resolve_source(document: Document, model: ModelSpec) -> Path:
    """Return where the model's file must be: relative to the document's base, `..` allowed, `~` taken literally."""
    return document.base / model.source


def check_sources(document: Document) -> list[Problem]:
    """Return what is wrong with the files the document names; hashes the models that a digest pins."""
    problems = []
    for index, model in enumerate(document.deployment.spec.models):
        path = resolve_source(document, model)
        fault, key = _unusable(path, FOLDER_HINT, document) or _unweighted(path), "source"
        if fault is None and model.sha256 is not None:
            fault, key = _other_digest(path, model.sha256), "sha256"
        if fault is not None:
            problems.append(_problem(document, fault, "spec", "models", index, key))
    token_file = document.deployment.spec.endpoint.token_file
    fault = None if token_file is None else _unusable(document.base / token_file, FILE_HINT, document)
    if fault is not None:
        problems.append(_problem(document, fault, "spec", "endpoint", "token_file"))
    return problems + _check_tls(document)


def _check_tls(document: Document) -> list[Problem]:
    tls = document.deployment.spec.endpoint.tls
    if tls is None:
        return []
    problems = []
    for key in ("certificate_file", "key_file", "client_ca_file"):
        named = getattr(tls, key)
        fault = None if named is None else _unusable(document.base / named, PEM_HINT, document)
        if fault is not None:
            problems.append(_problem(document, fault, "spec", "endpoint", "tls", key))
    return problems or _check_certificate(document, tls)


def _check_certificate(document: Document, tls: Tls) -> list[Problem]:
    from orchestrator.manifest import tls_files  # ssl: only endpoints with TLS need it

    client_ca = None if tls.client_ca_file is None else document.base / tls.client_ca_file
    base, grpc = document.base, document.deployment.spec.endpoint.grpc is not None
    files = tls_files.TlsFiles(base / tls.certificate_file, base / tls.key_file, client_ca, tls.min_version, grpc)
    try:
        faults = list(tls_files.faults(tls_files.load(files), files, datetime.now(UTC)))
    except tls_files.UnusableError as error:
        faults = [error]
    return [_problem(document, (fault.what, fault.hint), "spec", "endpoint", "tls", fault.key) for fault in faults]


def check_named_files(document: SourceDocument) -> list[Problem]:
    """Return what is wrong with the files that a source names: tokens, keys, secrets."""
    spec, problems = document.manifest.spec, []
    for key, part in (("git", spec.git), ("webhook", spec.webhook)):
        for name in sorted(type(part).model_fields) if part is not None else ():
            named = getattr(part, name) if name.endswith("_file") else None
            fault = None if named is None else _unusable(document.base / named, "name a file", document)
            if fault is not None:
                problems.append(_problem(document, fault, "spec", key, name))
    return problems


def _problem(document: Document | SourceDocument, fault: Fault, *loc: str | int) -> Problem:
    what, hint = fault
    return Problem(f"{dotted(loc)}: {what}", str(document.where(*loc)), hint)


def _unusable(path: Path, folder_hint: str, document: Document | SourceDocument) -> Fault | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"there is no file {path}", _relative(document) + _alike(path)
    except OSError as error:
        return f"{path} cannot be reached: {error.strerror}", None
    if stat.S_ISDIR(mode):
        return f"{path} is a folder", folder_hint
    if not stat.S_ISREG(mode):
        return f"{path} is not a regular file", None
    if not os.access(path, os.R_OK):
        return f"{path} may not be read by this user", "check the file's permissions"
    return None


def _relative(document: Document | SourceDocument) -> str:
    piped = document.where().name in {STDIN, STDIN_NAME}
    return "paths are relative to " + ("the current folder" if piped else "the manifest's folder")


def _unweighted(path: Path) -> Fault | None:
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        return f"the weights {weights} are missing beside {path.name}", "an IR model is an .xml and a .bin file"
    return None


def _alike(path: Path) -> str:
    import difflib  # only a missing file needs it

    try:
        names = sorted(entry.name for entry in path.parent.iterdir())[:1000]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def _other_digest(path: Path, wanted: str) -> Fault | None:
    import hashlib  # only a pinned model needs it

    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}", None
    if digest == wanted:
        return None
    return f"{path} has the digest {digest}, the manifest pins {wanted}", "restore the file, or pin the new digest"
