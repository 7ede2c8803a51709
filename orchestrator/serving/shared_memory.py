"""One region of system shared memory: opened, read and written through its descriptor, never mapped (docs/adr/0012)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import Kind, OrchError

FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open(3) makes its objects on Linux
KEY_MAX_BYTES = 255  # the longest name of a file
AGAIN_HINT = "unregister the region and register it again"
# O_NONBLOCK: opening a FIFO must not wait for its other end. What is no regular file is closed again at once.
FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Registration:
    """What a client registered: `byte_size` bytes from `offset` of the object `key`, under a name of its own."""

    name: str
    key: str
    offset: int
    byte_size: int

    @property
    def end(self) -> int:
        """Return the first byte of the object behind the region."""
        return self.offset + self.byte_size


class Identity(NamedTuple):
    """Which object it is, whatever it is called."""

    device: int
    inode: int


class Region:
    """An open region. Its file is closed with the last reference, so a request under way keeps it."""

    __slots__ = ("_descriptor", "_path", "identity", "registration", "writable")

    def __init__(self, registration: Registration, path: Path, descriptor: int, *, writable: bool) -> None:
        """Take over the descriptor."""
        self.registration = registration
        self.writable = writable
        self._path = path
        self._descriptor = descriptor
        self.identity = _identity(os.fstat(descriptor))

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from `offset` of the region; raise CONFLICT, FAILED.

        The kernel copies. Of an object that has shrunk it copies less, where a mapping would end the process (SIGBUS).
        """
        self._check()
        position = self.registration.offset + offset
        while memory:
            try:
                count = os.preadv(self._descriptor, [memory], position)
            except OSError as error:
                raise self._failed("read", error) from None
            if count == 0:
                raise self._shrunk()
            memory, position = memory[count:], position + count

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` to `offset` of the region; raise CONFLICT, FAILED."""
        self._check()  # an object that has shrunk would grow again
        memory, position = memoryview(data), self.registration.offset + offset
        while memory:
            try:
                count = os.pwrite(self._descriptor, memory, position)
            except OSError as error:
                raise self._failed("written", error) from None
            memory, position = memory[count:], position + count

    def _check(self) -> None:
        status = os.fstat(self._descriptor)
        if status.st_size < self.registration.end:
            raise self._shrunk()
        if status.st_nlink == 0 and self._is_made_anew():
            what = f"the key {self.registration.key!r} names another object now"
            raise OrchError(Kind.CONFLICT, what, where=self._where, hint=AGAIN_HINT)

    def _is_made_anew(self) -> bool:
        """Tell whether the unlinked key was made again, so that the client writes where nobody reads."""
        try:
            return _identity(self._path.lstat()) != self.identity
        except OSError:
            return False  # unlinked early, so that nothing is left behind: a good habit

    def overlaps(self, other: Region) -> bool:
        """Tell whether the two share a byte."""
        mine, its = self.registration, other.registration
        return self.identity == other.identity and mine.offset < its.end and its.offset < mine.end

    @property
    def _where(self) -> str:
        return f"shared memory region {self.registration.name!r}"

    def _shrunk(self) -> OrchError:
        what = f"its object has become smaller than the {self.registration.end} bytes that were registered"
        return OrchError(Kind.CONFLICT, what, where=self._where, hint=AGAIN_HINT)

    def _failed(self, how: str, error: OSError) -> OrchError:
        return OrchError(Kind.FAILED, f"cannot be {how}: {error.strerror}", where=self._where)


def open_region(registration: Registration, folder: Path = FOLDER) -> Region:
    """Open what a client registers; raise INVALID unless the key is a regular file in `folder` that is large enough.

    Nothing is created, links are not followed, and what another file system was mounted over is refused.
    """
    where = f"shared memory key {registration.key[:KEY_MAX_BYTES]!r}"
    path = folder / _file_name(registration.key, where)
    descriptor, writable = _open(path, where)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_dev != folder.stat().st_dev:
            raise OrchError(Kind.INVALID, "is no shared memory object", where=where)
        if registration.end > status.st_size:
            what = f"holds {status.st_size} bytes, the region would end at byte {registration.end}"
            raise OrchError(Kind.INVALID, what, where=where)
    except BaseException:
        os.close(descriptor)
        raise
    return Region(registration, path, descriptor, writable=writable)


def _file_name(key: str, where: str) -> str:
    """Return the name in the folder; slashes before it mean nothing, as in shm_open(3)."""
    name = key.lstrip("/")
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        size = 0
    if name in ("", ".", "..") or "/" in name or "\0" in name or not 0 < size <= KEY_MAX_BYTES:
        hint = "give the name that was given to shm_open, without a folder"
        raise OrchError(Kind.INVALID, "is no name of a shared memory object", where=where, hint=hint)
    return name


def _open(path: Path, where: str) -> tuple[int, bool]:
    try:
        try:
            return os.open(path, os.O_RDWR | FLAGS), True
        except PermissionError:
            return os.open(path, os.O_RDONLY | FLAGS), False  # good for inputs
    except FileNotFoundError:
        hint = "create it first; a server in a container sees it only with the host's /dev/shm (--ipc=host)"
        raise OrchError(Kind.INVALID, "there is no such shared memory object", where=where, hint=hint) from None
    except PermissionError:
        what = f"the server's user ({os.geteuid()}) may not read it"
        raise OrchError(Kind.INVALID, what, where=where, hint="change its owner or mode") from None
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot be opened: {error.strerror}", where=where) from None


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_dev, status.st_ino)
