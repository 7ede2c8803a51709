"""Loads manifests: texts in, checked deployments out, or every error of every file at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from pydantic import ValidationError

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import explain, files
from orchestrator.manifest.model_file import check_sources, resolve_source
from orchestrator.manifest.source import BYTES_MAX, Finding, Node, Position, lookup, parse, too_large
from orchestrator.manifest.spec import API_VERSION, Deployment

__all__ = ["Document", "Manifests", "check_sources", "load", "load_text", "resolve_source"]

LOCK = "Lock"  # the kind of the file that the planner writes beside a manifest
PROBLEMS_MAX = 50  # shown in one error; nobody reads more before correcting these


@dataclass(frozen=True, slots=True)
class Document:
    """One deployment as it was read; its own text begins on `line` of the file."""

    deployment: Deployment
    path: Path | None
    base: Path
    """Folder from which its relative paths start."""
    source: str
    """Text of this document."""
    line: int
    root: Node = field(repr=False, compare=False)

    def where(self, *loc: str | int) -> Position:
        """Return the position of the value at `loc`, or of the nearest object around it."""
        return lookup(self.root, loc).position


@dataclass(frozen=True, slots=True)
class Manifests:
    """All deployments that a command line names, in its order."""

    documents: tuple[Document, ...]


def load(paths: Sequence[str], *, stdin: TextIO | BinaryIO | None = None, base: Path | None = None) -> Manifests:
    """Return the deployments in the files and folders named, `-` being `stdin` with its paths relative to `base`.

    Raise OrchError with the problems of all files together.
    """
    texts, problems = files.read_all(paths, stdin=stdin, base=base)
    documents: list[Document] = []
    for text in texts:
        found, wrong = _documents(text)
        documents += found
        problems += wrong
    problems += _clashes(documents)
    if not paths:
        problems.append(Problem("no manifest is named", None, "name a file, a folder, or - for standard input"))
    _raise_if(problems)
    return Manifests(tuple(documents))


def load_text(text: str, *, name: str, base: Path) -> tuple[Document, ...]:
    """Return the deployments in a text that errors shall call `name`; raise OrchError with all its problems."""
    if len(text) > BYTES_MAX:
        raise too_large(name, None)
    documents, problems = _documents(files.Text(name, text, None, base))
    _raise_if([*problems, *_clashes(documents)])
    return tuple(documents)


def _raise_if(problems: list[Problem]) -> None:
    if len(problems) > PROBLEMS_MAX:
        rest = len(problems) - PROBLEMS_MAX
        problems = [*problems[:PROBLEMS_MAX], Problem(f"and {rest} more", None, "correct these first")]
    if problems:
        raise OrchError(Kind.INVALID, problems)


def _documents(text: files.Text) -> tuple[list[Document], list[Problem]]:
    parsed = parse(text.text, text.name)
    documents: list[Document] = []
    findings = list(parsed.findings)
    for document in parsed.documents:
        deployment, found = _deployment(document.root)
        # A value that YAML itself could not read is reported once.
        findings += [finding for finding in found if finding.position not in parsed.positions]
        if deployment is not None:
            documents.append(Document(deployment, text.path, text.base, document.text, document.line, document.root))
    if not parsed.documents and not findings:
        what = "holds no manifest: " + ("only comments" if "#" in text.text else "it is empty")
        return [], [Problem(what, str(Position(text.name, 1, 1)), "see deployments/ for examples")]
    findings.sort(key=lambda finding: (finding.position.line, finding.position.column))
    return documents, [finding.problem for finding in findings]


def _deployment(root: Node) -> tuple[Deployment | None, list[Finding]]:
    stranger = _stranger(root)
    if stranger is not None:
        return None, [stranger]
    try:
        # Only the names of the format: `api_version` is for Python.
        return Deployment.model_validate(root.value, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, explain.explain(root, error.errors(include_url=False), PROBLEMS_MAX)


def _stranger(root: Node) -> Finding | None:
    """Return what says that this is another kind of document, so that not each of its keys is called unknown."""
    if not isinstance(root.value, dict):
        what = f"a manifest is a mapping that begins with apiVersion: {API_VERSION}, got {explain.seen(root.value)}"
        return Finding(root.position, Problem(what, str(root.position)))
    for key, allowed in (("apiVersion", API_VERSION), ("kind", "Deployment")):
        value = root.value.get(key, allowed)
        if value != allowed:
            position = lookup(root, (key,)).position
            what = f"{key}: must be {allowed!r}, got {explain.seen(value)}"
            hint = _manifest_of(position.name) if value == LOCK else f"write {key}: {allowed}"
            return Finding(position, Problem(what, str(position), hint))
    return None


def _manifest_of(lock: str) -> str:
    """Return the hint for a lock where its manifest was meant."""
    suffix = next((suffix for suffix in files.LOCK_SUFFIXES if lock.endswith(suffix)), None)
    manifest = lock.removesuffix(suffix) + files.SUFFIXES[0] if suffix else "the manifest that it belongs to"
    return f"this is a lock, which is read together with its manifest; name {manifest}"


def _clashes(documents: Iterable[Document]) -> Iterator[Problem]:
    """Yield the names and addresses that two deployments claim, with both places."""
    names: dict[str, Position] = {}
    hosts: dict[int, dict[str, Position]] = {}
    for document in documents:
        name, at = document.deployment.metadata.name, document.where("metadata", "name")
        if name in names:
            what = f"metadata.name: the deployment name {name!r} is taken, first at {names[name]}"
            yield Problem(what, str(at), "give each deployment its own name")
        names.setdefault(name, at)
        yield from _address_clashes(document, hosts)


_ANY_HOSTS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound to


def _address_clashes(document: Document, hosts: dict[int, dict[str, Position]]) -> Iterator[Problem]:
    endpoint = document.deployment.spec.endpoint
    for key, address in (("http", endpoint.http), ("grpc", endpoint.grpc)):
        host, port = _host_port(address or ":0")
        if port == 0:  # none, or any free one
            continue
        taken = hosts.setdefault(port, {})
        rivals = taken if host in _ANY_HOSTS else (host, *_ANY_HOSTS)
        first = next((taken[rival] for rival in rivals if rival in taken), None)
        at = document.where("spec", "endpoint", key)
        if first is not None:
            what = f"spec.endpoint.{key}: the address {address} is taken, first at {first}"
            yield Problem(what, str(at), f"give each deployment its own: endpoint: {{{key}: HOST:PORT}}")
        taken.setdefault(host, at)


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.lower().rpartition(":")
    return "127.0.0.1" if host == "localhost" else host, int(port)
