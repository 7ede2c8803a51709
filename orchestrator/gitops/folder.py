"""A plain folder as a source: what changed in it is a commit, and what is applied is a copy that stays as it is."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.checkouts import Blob, Checkouts, Record
from orchestrator.gitops.gathering import Limits
from orchestrator.gitops.remote import Checkout, Commit
from orchestrator.gitops.tree import LINK_MODE, Entry, Tree
from orchestrator.manifest.git_address import parse_folder

PIECE_BYTES = 1024 * 1024
ID_DIGITS = 40  # as long as a commit's
FILE_MODE = "100644"


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or link as the folder had it; `path` from the folder."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    target: str | None

    @property
    def key(self) -> str:
        """Return the name under which its copy is kept: another one once it was written to."""
        text = f"{self.path}\0{self.size}\0{self.mtime_ns}\0{self.inode}"
        return hashlib.sha256(os.fsencode(text)).hexdigest()[:ID_DIGITS]


class Folder:
    """A folder and the copies that were made of it. Not for two threads at a time.

    Names that begin with a dot are not looked at. A change is a changed name, size, time or link.
    """

    def __init__(self, path: Path, store: Path, within: str = ".", limits: Limits | None = None) -> None:
        """Take the folder, where copies of it are kept, and the folder in it that holds the manifests."""
        self._path = path
        self._within = within
        self._checkouts = Checkouts(store)
        self._limits = limits or Limits()

    def head(self) -> str:
        """Return the digest of what is in the folder now; costs a look at each file's metadata, and reads none."""
        return _digest(self._scan())

    def fetch(self, commit_id: str) -> Checkout:
        """Return the copy of the folder as it was at `head`; raise UNAVAILABLE where it changed since."""
        record = self._checkouts.find(commit_id)
        if record is None:
            record = self._copy(commit_id)
        commit = Commit(commit_id, "", float(record.about["time"]), "")
        root = self._checkouts.root(commit_id)
        folder = root / parse_folder(self._within)
        if not folder.is_dir():
            hint = "make it, or change path"
            raise OrchError(Kind.NOT_FOUND, f"has no folder {self._within!r}", where=str(self._path), hint=hint)
        return Checkout(commit, root, folder)

    def bring(self, checkout: Checkout, paths: Iterable[str]) -> tuple[str, ...]:
        """Return which of `paths`, relative to the folder, it has: all of it was copied."""
        return tuple(path for path in map(parse_folder, paths) if (checkout.root / path).exists())

    def known(self, commit_id: str) -> Commit:
        """Return the commit: a folder says nothing about its changes."""
        return Commit(commit_id, "", 0.0, "")

    def authored(self, checkout: Checkout, file: Path, line: int) -> Commit:
        """Return the commit: a folder does not know who wrote what."""
        del file, line
        return checkout.commit

    def keep(self, ids: Collection[str]) -> None:
        """Remove all other copies."""
        self._checkouts.keep(ids)

    def _copy(self, commit_id: str) -> Record:
        found = self._scan()
        if _digest(found) != commit_id:
            raise self._changed()
        by_path = {each.path: each for each in found}
        links = {each.path: each.target for each in found if each.target is not None}
        entries = [Entry(each.path, FILE_MODE if each.target is None else LINK_MODE, each.key) for each in found]
        taken = Tree(entries, links).take(["."])
        self._limits.check({path: by_path[path].size for path in taken.files})
        kept = self._checkouts.blobs()
        missing = [by_path[path] for path, key in sorted(taken.files.items()) if key not in kept]
        self._checkouts.space_for(sum(each.size for each in missing))
        for each in missing:
            kept[each.key] = self._checkouts.write(Blob(each.key, each.size), self._content(each))
        if self.head() != commit_id:
            raise self._changed()
        newest = max((each.mtime_ns for each in found), default=0) / 1e9
        record = Record({"time": newest}, {}, {})
        files = {path: kept[key] for path, key in taken.files.items()}
        self._checkouts.place(commit_id, files, taken.links, record.about)
        return record

    def _scan(self) -> list[Seen]:
        """Return what is in the folder, sorted; raise NOT_FOUND, and TOO_LARGE for too many files."""
        found: list[Seen] = []
        try:
            for entry in _entries(str(self._path)):
                about = _seen(entry, os.path.join(self._path, ""))  # noqa: PTH118 - with the last slash
                if about is not None:
                    found.append(about)
                if len(found) > self._limits.files:
                    self._limits.check({each.path: 0 for each in found})
        except FileNotFoundError:
            if not self._path.exists():
                hint = "make it, or name another one"
                raise OrchError(Kind.NOT_FOUND, "there is no such folder", where=str(self._path), hint=hint) from None
            raise self._changed() from None
        except NotADirectoryError:
            raise OrchError(Kind.NOT_FOUND, "is not a folder", where=str(self._path)) from None
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise OrchError(Kind.UNAUTHORIZED, what, where=error.filename or str(self._path)) from None
        return sorted(found, key=lambda each: each.path)

    def _content(self, seen: Seen) -> Iterator[bytes]:
        try:
            descriptor = os.open(self._path / seen.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise OrchError(
                Kind.UNAVAILABLE, f"cannot be read: {error.strerror}", where=str(self._path / seen.path)
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
            status = os.fstat(descriptor)
            if (status.st_size, status.st_mtime_ns, status.st_ino) != (seen.size, seen.mtime_ns, seen.inode):
                raise self._changed()

    def _changed(self) -> OrchError:
        hint = "the next look takes it as it then is"
        return OrchError(Kind.UNAVAILABLE, "the folder changed while it was read", where=str(self._path), hint=hint)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield the files and links below the folder, in any order."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def _seen(entry: os.DirEntry[str], prefix: str) -> Seen | None:
    """Return the file or link; None for pipes, sockets and devices."""
    status = entry.stat(follow_symlinks=False)
    target = None
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(entry.path)  # noqa: PTH115 - as text, as it stands
    elif not stat.S_ISREG(status.st_mode):
        return None
    return Seen(entry.path[len(prefix) :], status.st_size, status.st_mtime_ns, status.st_ino, target)


def _digest(found: Iterable[Seen]) -> str:
    whole = hashlib.sha256()
    for each in found:
        whole.update(os.fsencode(f"{each.key} {each.target or ''}\n"))
    return whole.hexdigest()[:ID_DIGITS]
