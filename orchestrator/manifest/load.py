"""Loads manifests: texts in, checked deployments out, or every error of every file at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from pydantic import ValidationError

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import explain, files
from orchestrator.manifest.model_file import check_sources, resolve_source
from orchestrator.manifest.source import BYTES_MAX, Finding, Node, Position, lookup, parse, too_large
from orchestrator.manifest.spec import API_VERSION, Deployment

if TYPE_CHECKING:
    from orchestrator.manifest.source_spec import Source

__all__ = [
    "Document",
    "Manifests",
    "SourceDocument",
    "check_sources",
    "load",
    "load_text",
    "load_texts",
    "resolve_source",
]

LOCK = "Lock"  # the kind of the file that the planner writes beside a manifest
SOURCE = "Source"
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
class SourceDocument:
    """One source as it was read."""

    manifest: Source
    path: Path | None
    base: Path
    """Folder from which its relative paths start."""
    source: str
    """Text of this document."""
    root: Node = field(repr=False, compare=False)

    def where(self, *loc: str | int) -> Position:
        """Return the position of the value at `loc`, or of the nearest object around it."""
        return lookup(self.root, loc).position


@dataclass(frozen=True, slots=True)
class Manifests:
    """All deployments and sources that a command line names, in its order."""

    documents: tuple[Document, ...]
    sources: tuple[SourceDocument, ...] = ()


def load(paths: Sequence[str], *, stdin: TextIO | BinaryIO | None = None, base: Path | None = None) -> Manifests:
    """Return the deployments in the files and folders named, `-` being `stdin` with its paths relative to `base`.

    Raise OrchError with the problems of all files together.
    """
    texts, problems = files.read_all(paths, stdin=stdin, base=base)
    if not paths:
        problems.append(Problem("no manifest is named", None, "name a file, a folder, or - for standard input"))
    return load_texts(texts, problems)


def load_texts(texts: Iterable[files.Text], problems: Iterable[Problem] = ()) -> Manifests:
    """Return the deployments and sources in the texts; raise OrchError with the problems of all of them together."""
    wrong, found = list(problems), list[Document | SourceDocument]()
    for text in texts:
        documents, more = _documents(text)
        found += documents
        wrong += more
    deployments = tuple(each for each in found if isinstance(each, Document))
    sources = tuple(each for each in found if isinstance(each, SourceDocument))
    wrong += [*_clashes(deployments), *_taken_names(sources, SOURCE.lower())]
    _raise_if(wrong)
    return Manifests(deployments, sources)


def load_text(text: str, *, name: str, base: Path) -> tuple[Document, ...]:
    """Return the deployments in a text that errors shall call `name`; raise OrchError with all its problems."""
    if len(text) > BYTES_MAX:
        raise too_large(name, None)
    found = load_texts([files.Text(name, text, None, base)])
    _raise_if([_no_deployment(each) for each in found.sources])
    return found.documents


def _no_deployment(document: SourceDocument) -> Problem:
    at = str(document.where("kind"))
    return Problem("kind: must be 'Deployment' here, got 'Source'", at, "apply sources with orch apply FILE")


def _raise_if(problems: list[Problem]) -> None:
    if len(problems) > PROBLEMS_MAX:
        rest = len(problems) - PROBLEMS_MAX
        problems = [*problems[:PROBLEMS_MAX], Problem(f"and {rest} more", None, "correct these first")]
    if problems:
        raise OrchError(Kind.INVALID, problems)


def _documents(text: files.Text) -> tuple[list[Document | SourceDocument], list[Problem]]:
    parsed = parse(text.text, text.name)
    documents: list[Document | SourceDocument] = []
    findings = list(parsed.findings)
    for document in parsed.documents:
        manifest, found = _manifest(document.root)
        # A value that YAML itself could not read is reported once.
        findings += [finding for finding in found if finding.position not in parsed.positions]
        if isinstance(manifest, Deployment):
            documents.append(Document(manifest, text.path, text.base, document.text, document.line, document.root))
        elif manifest is not None:
            documents.append(SourceDocument(manifest, text.path, text.base, document.text, document.root))
    if not parsed.documents and not findings:
        what = "holds no manifest: " + ("only comments" if "#" in text.text else "it is empty")
        return [], [Problem(what, str(Position(text.name, 1, 1)), "see deployments/ for examples")]
    findings.sort(key=lambda finding: (finding.position.line, finding.position.column))
    return documents, [finding.problem for finding in findings]


def _manifest(root: Node) -> tuple[Deployment | Source | None, list[Finding]]:
    stranger = _stranger(root)
    if stranger is not None:
        return None, [stranger]
    model: type[Deployment | Source] = Deployment
    if root.value.get("kind") == SOURCE:
        from orchestrator.manifest.source_spec import Source  # most manifests are none

        model = Source
    try:
        # Only the names of the format: `api_version` is for Python.
        return model.model_validate(root.value, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, explain.explain(root, error.errors(include_url=False), PROBLEMS_MAX, model)


def _stranger(root: Node) -> Finding | None:
    """Return what says that this is another kind of document, so that not each of its keys is called unknown."""
    if not isinstance(root.value, dict):
        what = f"a manifest is a mapping that begins with apiVersion: {API_VERSION}, got {explain.seen(root.value)}"
        return Finding(root.position, Problem(what, str(root.position)))
    for key, allowed in (("apiVersion", API_VERSION), ("kind", "Deployment")):
        value = root.value.get(key, allowed)
        if value != allowed and (key, value) != ("kind", SOURCE):
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


def _clashes(documents: Sequence[Document]) -> Iterator[Problem]:
    """Yield the names and addresses that two deployments claim, with both places."""
    yield from _taken_names(documents, "deployment")
    hosts: dict[int, dict[str, Position]] = {}
    for document in documents:
        yield from _address_clashes(document, hosts)


def _taken_names(documents: Sequence[Document] | Sequence[SourceDocument], kind: str) -> Iterator[Problem]:
    names: dict[str, Position] = {}
    for document in documents:
        manifest = document.deployment if isinstance(document, Document) else document.manifest
        name, at = manifest.metadata.name, document.where("metadata", "name")
        if name in names:
            what = f"metadata.name: the {kind} name {name!r} is taken, first at {names[name]}"
            yield Problem(what, str(at), f"give each {kind} its own name")
        names.setdefault(name, at)


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
