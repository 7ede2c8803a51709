"""Commits as read-only folders: made beside, put in place by rename, their files shared by hard links."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.units import format_size

RESERVE_BYTES = 64 * 2**20  # left free on the disk, so that the agent can still write its state
READ_ONLY_FILE, READ_ONLY_FOLDER, OPEN_FOLDER = 0o444, 0o555, 0o755
RECORD_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is kept once: its name (an object id, or a digest) and its bytes."""

    name: str
    size: int

    @property
    def file(self) -> str:
        """Return its file's name, which tells whether the file is whole."""
        return f"{self.name}.{self.size}"


@dataclass(frozen=True, slots=True)
class Record:
    """What is in a checkout, and what was known when it was made."""

    about: Mapping[str, str | float]
    files: Mapping[str, int]
    """Bytes by path."""
    links: Mapping[str, str]


class NoRoomError(OrchError):
    """This machine's disk is full, or would be: what came in vain is to go."""


@contextlib.contextmanager
def disk(where: Path) -> Iterator[None]:
    """Turn what the file system says into an error with a place and something to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            hint = "free some space; what was fetched before goes on being used"
            raise NoRoomError(Kind.UNAVAILABLE, "this machine's disk is full", where=str(where), hint=hint) from None
        if error.errno == errno.ENAMETOOLONG:
            what = "a file's name is too long for this machine's file system"
            raise OrchError(Kind.INVALID, what, where=str(where), hint="shorten it") from None
        what = f"cannot be written: {error.strerror or error}"
        raise OrchError(Kind.UNAVAILABLE, what, where=str(where), hint="check the folder and its owner") from None


def room_in(folder: Path) -> int:
    """Return the bytes that may be written there; negative where even the reserve is touched."""
    with disk(folder):
        return shutil.disk_usage(folder).free - RESERVE_BYTES


def no_room(folder: Path, wanted: str, room: int) -> NoRoomError:
    """Return the error of a disk that has only so much room."""
    kept, free = f"{format_size(RESERVE_BYTES)} to be left free", format_size(room + RESERVE_BYTES)
    what = f"the disk has no room: {wanted}, {kept}, and {free} are free"
    return NoRoomError(Kind.UNAVAILABLE, what, where=str(folder), hint="free some space")


class Checkouts:
    """The checkouts in one folder. One thread of one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._commits = folder / "commits"
        self._blobs = folder / "blobs"

    def root(self, commit_id: str) -> Path:
        """Return where the commit's files are, or would be."""
        return self._commits / commit_id

    # Contents

    def blobs(self) -> dict[str, Blob]:
        """Return the contents that are kept, by name; removes those that are not whole."""
        found = {}
        with disk(self._blobs):
            self._blobs.mkdir(parents=True, exist_ok=True)
            with os.scandir(self._blobs) as entries:
                for entry in entries:
                    name, _, size = entry.name.rpartition(".")
                    if name and size.isdigit() and entry.stat(follow_symlinks=False).st_size == int(size):
                        found[name] = Blob(name, int(size))
                    else:
                        Path(entry.path).unlink(missing_ok=True)
        return found

    def space_for(self, size: int) -> None:
        """Raise NoRoomError, UNAVAILABLE, where the disk has no room for so many bytes more."""
        with disk(self._blobs):
            self._blobs.mkdir(parents=True, exist_ok=True)
        room = room_in(self._blobs)
        if size > room:
            raise no_room(self._blobs, f"{format_size(size)} to be fetched", room)

    def write(self, blob: Blob, pieces: Iterable[bytes]) -> Blob:
        """Keep a content; where `pieces` raises nothing is kept. Raise UNAVAILABLE where it cannot be written."""
        staged, kept = self._blobs / f"new-{blob.name}", self._blobs / blob.file
        with disk(kept):
            self._blobs.mkdir(parents=True, exist_ok=True)
            staged.unlink(missing_ok=True)
            try:
                with staged.open("xb") as file:
                    for piece in pieces:
                        file.write(piece)
                    os.fchmod(file.fileno(), READ_ONLY_FILE)
                staged.replace(kept)
            finally:
                staged.unlink(missing_ok=True)
        return blob

    def read(self, blob: Blob) -> bytes:
        """Return a content."""
        with disk(self._blobs):
            return (self._blobs / blob.file).read_bytes()

    # Checkouts

    def find(self, commit_id: str) -> Record | None:
        """Return what is in the commit's checkout; None where there is none, or it is not whole any more."""
        record = self._read_record(commit_id)
        return record if record is not None and _whole(self.root(commit_id), record) else None

    def place(
        self, commit_id: str, files: Mapping[str, Blob], links: Mapping[str, str], about: Mapping[str, str | float]
    ) -> None:
        """Make the commit's checkout, in place of one that is there."""
        root, staged = self.root(commit_id), self._commits / f".new-{commit_id}"
        with disk(root):
            self._commits.mkdir(parents=True, exist_ok=True)
            self._remove(commit_id)
            remove_tree(staged)
            staged.mkdir(mode=OPEN_FOLDER)
            self._fill(staged, files, links)
            staged.chmod(READ_ONLY_FOLDER)
            staged.rename(root)  # in one folder, for which a folder that is read-only may be renamed
            self._write_record(commit_id, Record(about, {path: blob.size for path, blob in files.items()}, links))

    def add(
        self,
        commit_id: str,
        files: Mapping[str, Blob],
        links: Mapping[str, str],
        about: Mapping[str, str | float] | None,
    ) -> None:
        """Add files to the commit's checkout; those that are there stay as they are. None: what is known stays too."""
        record = self._read_record(commit_id)
        assert record is not None, "files are added to a checkout that is there"
        with disk(self.root(commit_id)):
            self._fill(self.root(commit_id), files, links)
            sizes = {path: blob.size for path, blob in files.items()}
            self._write_record(
                commit_id, Record(about or record.about, {**record.files, **sizes}, {**record.links, **links})
            )

    def keep(self, ids: Collection[str]) -> int:
        """Remove all other checkouts, and contents that none needs; return the bytes of the files that are kept."""
        with disk(self._commits):
            self._commits.mkdir(parents=True, exist_ok=True)
            for entry in sorted(self._commits.iterdir()):
                commit_id = entry.name.removesuffix(".json")
                if commit_id.startswith("."):
                    remove_tree(entry)
                elif commit_id not in ids:
                    self._remove(commit_id)
        kept = 0
        with disk(self._blobs):
            for blob in self.blobs().values():
                path = self._blobs / blob.file
                if path.stat().st_nlink == 1:
                    path.unlink()
                else:
                    kept += blob.size
        return kept

    def _fill(self, root: Path, files: Mapping[str, Blob], links: Mapping[str, str]) -> None:
        """Link the files into place; links come last, so that nothing is ever written through one."""
        for folder, paths in _by_folder(root, files).items():
            with _opened(root, folder):
                for path in paths:
                    _share(self._blobs / files[path].file, root / path)
        for folder, paths in _by_folder(root, links).items():
            with _opened(root, folder):
                for path in paths:
                    (root / path).symlink_to(links[path])

    def _remove(self, commit_id: str) -> None:
        self._record_path(commit_id).unlink(missing_ok=True)  # first: without it the checkout is none
        old = self._commits / f".old-{commit_id}"
        remove_tree(old)
        with contextlib.suppress(FileNotFoundError):
            self.root(commit_id).rename(old)
        remove_tree(old)

    def _record_path(self, commit_id: str) -> Path:
        return self._commits / f"{commit_id}.json"

    def _write_record(self, commit_id: str, record: Record) -> None:
        path = self._record_path(commit_id)
        staged = path.with_name(f".{path.name}")
        text = {"about": dict(record.about), "files": dict(record.files), "links": dict(record.links)}
        staged.write_text(json.dumps(text), encoding="ascii")  # escapes what is no UTF-8, and reads it back
        staged.replace(path)

    def _read_record(self, commit_id: str) -> Record | None:
        try:
            with self._record_path(commit_id).open("rb") as file:
                said = json.loads(file.read(RECORD_BYTES_MAX))
            return Record(said["about"], said["files"], said["links"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # made anew


def _whole(root: Path, record: Record) -> bool:
    try:
        for path, size in record.files.items():
            status = os.lstat(root / path)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return False
        return all(os.readlink(root / path) == target for path, target in record.links.items())  # noqa: PTH115 - as text
    except OSError:
        return False


def _by_folder(root: Path, paths: Iterable[str]) -> dict[str, list[str]]:
    """Return those that are not there yet, by the folder in which they belong."""
    found: dict[str, list[str]] = {}
    for path in sorted(paths):
        if not os.path.lexists(root / path):
            found.setdefault(path.rpartition("/")[0], []).append(path)
    return found


@contextlib.contextmanager
def _opened(root: Path, path: str) -> Iterator[None]:
    """Make a folder, and let something be put into it; all on the way are read-only again afterwards."""
    folder = root
    for part in filter(None, path.split("/")):
        below = folder / part
        if not below.exists():
            was = stat.S_IMODE(folder.stat().st_mode)
            folder.chmod(OPEN_FOLDER)
            below.mkdir(mode=READ_ONLY_FOLDER)
            folder.chmod(was)
        folder = below
    was = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(OPEN_FOLDER)
    try:
        yield
    finally:
        folder.chmod(was)


def _share(blob: Path, target: Path) -> None:
    """Give a content another name; a copy where the file system has no (more) hard links for it."""
    try:
        os.link(blob, target)
    except OSError as error:
        if error.errno not in {errno.EMLINK, errno.EPERM, errno.EXDEV, errno.ENOTSUP}:
            raise
        shutil.copyfile(blob, target)
        target.chmod(READ_ONLY_FILE)


def remove_tree(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, read-only folders too."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(OPEN_FOLDER)
    shutil.rmtree(path, ignore_errors=not path.exists())
