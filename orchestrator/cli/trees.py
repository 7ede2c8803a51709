"""Deployments with their locks and the digests of their models, out of folders here or of another Git revision."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.cli.revision import Revision, revision
from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.lfs_pointer import POINTER_BYTES_MAX, parse_pointer
from orchestrator.manifest import files, source
from orchestrator.manifest.load import Document, load_texts
from orchestrator.planner.lock import ModelFile
from orchestrator.planner.lock_text import from_yaml
from orchestrator.planner.sketch import Wanted
from orchestrator.runner.locks import BYTES_MAX, lock_path, read_beside

CHUNK = 2**20


class Tree(Protocol):
    """Where files are read from; paths are absolute, as they are in the working tree."""

    @property
    def name(self) -> str:
        """Return what people call it, in front of a file's path."""

    def manifests(self, path: Path) -> list[Path]:
        """Return the manifest files that a file or folder stands for; none where it is not there."""

    def read(self, path: Path) -> Iterator[bytes] | None:
        """Return the file's content in pieces, to be read to the end; None where there is no such file."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files that lie in one folder instead of another (both the same: those that are here)."""

    name: str
    here: Path
    there: Path

    def manifests(self, path: Path) -> list[Path]:
        """Return the manifest files that a file or folder stands for."""
        place = self._there(path)
        if place.is_dir():
            entries = [entry for entry in place.iterdir() if files.is_manifest(entry.name) and entry.is_file()]
            return sorted(path / entry.name for entry in entries)
        return [path] if place.is_file() else []

    def read(self, path: Path) -> Iterator[bytes] | None:
        """Return the file's content in pieces."""
        place = self._there(path)
        return _read(place) if place.is_file() else None

    def _there(self, path: Path) -> Path:
        return self.there / path.relative_to(self.here) if path.is_relative_to(self.here) else path


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


@dataclass(frozen=True, slots=True)
class Committed:
    """The files of a Git revision; what lies outside of the repository is read as it is now."""

    name: str
    revision: Revision

    def manifests(self, path: Path) -> list[Path]:
        """Return the manifest files that a file or folder stands for."""
        listed = [each for each in self.revision.listed(path) if files.is_manifest(each.name)]
        return sorted(listed) or ([path] if files.is_manifest(path.name) and self._has(path) else [])

    def _has(self, path: Path) -> bool:
        return path in self.revision.listed(path.parent)

    def read(self, path: Path) -> Iterator[bytes] | None:
        """Return the file's content in pieces."""
        if path.is_relative_to(self.revision.root):
            return self.revision.read(path)
        return _read(path) if path.is_file() else None


@contextlib.contextmanager
def base_tree(base: str, paths: Sequence[Path]) -> Iterator[Tree]:
    """Open what the files at `paths` are compared with: a Git revision of the repository around them, or a folder.

    A folder is another checkout, in which the files have the same places as in the current folder, or else it is
    compared with the one folder that is named. Raise OrchError for a base that is none of these.
    """
    if not base:
        hint = "name a Git revision or a folder: --base origin/main"
        raise OrchError(Kind.INVALID, "the base to compare with is empty", where="--base", hint=hint)
    if Path(base).is_dir():
        yield _folder(base, paths)
        return
    around = paths[0] if paths[0].is_dir() else paths[0].parent
    with revision(base, around) as opened:
        yield Committed(base, opened)


def _folder(base: str, paths: Sequence[Path]) -> Folder:
    here, there = Path.cwd(), Path(base).absolute()
    strange = [path for path in paths if not path.is_relative_to(here)]
    if len(paths) == 1 and paths[0].is_dir() and (strange or not (there / paths[0].relative_to(here)).exists()):
        return Folder(base, paths[0], there)
    if strange:
        hint = "go to the folder that holds them, or name one folder alone"
        raise OrchError(Kind.INVALID, f"has no place in {base}", where=str(strange[0]), hint=hint)
    return Folder(base, here, there)


class Reader:
    """Reads deployments out of a tree; what cannot be read is noted, and left out."""

    def __init__(self, tree: Tree) -> None:
        self.notes: list[str] = []
        self._tree = tree
        self._digests: dict[Path, str | None] = {}  # many manifests may share a model

    def deployments(self, paths: Iterable[Path]) -> dict[str, Wanted]:
        """Return the deployments of these files and folders by name."""
        wanted: dict[str, Wanted] = {}
        for path in dict.fromkeys(found for each in paths for found in self._tree.manifests(each)):
            with self._noted(path):
                for each in self._of(path):
                    wanted.setdefault(each.name, each)
        return wanted

    def _of(self, path: Path) -> list[Wanted]:
        text, written = self._text(path, source.BYTES_MAX), self._text(lock_path(path), BYTES_MAX)
        documents = load_texts([files.Text(self._shown(path), text or "", None, path.parent)]).documents
        lock = from_yaml(written, self._shown(lock_path(path))) if written else None
        return [Wanted(each.deployment, lock, self.model_files(each)) for each in documents]

    def model_files(self, document: Document) -> Mapping[str, ModelFile]:
        """Return the digests of the document's models by name, as far as their files can be read."""
        return {model.name: self._file(document.base / model.source) for model in document.deployment.spec.models}

    def _file(self, path: Path) -> ModelFile:
        weights = path.with_suffix(".bin") if path.suffix == ".xml" else None
        return ModelFile(self._digest(path), self._digest(weights) if weights else None)

    def _digest(self, path: Path) -> str | None:
        path = Path(os.path.normpath(path))
        if path not in self._digests:
            self._digests[path] = None
            with self._noted(path):
                pieces = self._tree.read(path)
                self._digests[path] = None if pieces is None else digest(pieces)
        return self._digests[path]

    def _text(self, path: Path, most: int) -> str | None:
        pieces = self._tree.read(path)
        if pieces is None:
            return None
        data = b""
        for piece in pieces:  # to the end, whatever is kept of it
            data += piece if len(data) <= most else b""
        if len(data) > most:
            raise source.too_large(self._shown(path), None)
        return source.decode(data, self._shown(path))

    def _shown(self, path: Path) -> str:
        here = Path.cwd()
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        return f"{self._tree.name}:{shown}" if self._tree.name else str(shown)

    @contextlib.contextmanager
    def _noted(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OrchError as error:
            self.notes.extend(str(problem) for problem in error.problems)
        except OSError as error:
            self.notes.append(f"{self._shown(path)}: cannot be read: {error.strerror}")


def digest(pieces: Iterable[bytes]) -> str:
    """Return the SHA-256 of the content, or the one that a Git LFS pointer names in its place."""
    whole, begin = hashlib.sha256(), b""
    for piece in pieces:
        begin += piece[: POINTER_BYTES_MAX + 1] if len(begin) <= POINTER_BYTES_MAX else b""
        whole.update(piece)
    pointer = parse_pointer(begin)
    return pointer.sha256 if pointer else whole.hexdigest()


def wanted_here(documents: Sequence[Document]) -> dict[str, Wanted]:
    """Return the deployments of documents that were read here; raise OrchError for a lock that cannot be read."""
    here = Path.cwd()
    reader, locks = Reader(Folder("", here, here)), read_beside(documents)
    return {
        name: Wanted(each.deployment, locks.get(name), reader.model_files(each))
        for each in documents
        for name in [each.deployment.metadata.name]
    }
