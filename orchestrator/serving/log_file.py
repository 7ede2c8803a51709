"""Keeps log files bounded: the full one makes room for a new one, while the process goes on writing."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 8 * 2**20
KEPT = 3  # full files beside the one that is written to: 32 MiB for each process at most
STDOUT, STDERR = 1, 2


def older(path: Path, number: int) -> Path:
    """Return where a log is after so many rotations."""
    return path.with_name(f"{path.name}.{number}")


def shift(path: Path, kept: int = KEPT) -> None:
    """Rename NAME to NAME.1, that to NAME.2 and so on; the one beyond `kept` goes. Raise OSError where that fails."""
    for number in range(kept, 0, -1):
        with suppress(FileNotFoundError):
            (older(path, number - 1) if number > 1 else path).replace(older(path, number))


def rotate_own(path: Path, max_bytes: int = MAX_BYTES, descriptors: tuple[int, ...] = (STDOUT, STDERR)) -> bool:
    """Give this process a new log when the one that its stdout and stderr lead to is full, or was removed.

    The file is renamed and the descriptors are led to a new one, so no line is lost, whoever in this process writes
    it. Nothing is done where they lead elsewhere: to a terminal, the journal, a pipe. A disk on which no new file can
    be made leaves all as it is, to be tried again.
    """
    own = [number for number in descriptors if _leads_to(number, path)]
    if not own or (os.fstat(own[0]).st_size < max_bytes and path.exists()):
        return False
    try:
        _begin_anew(path, own)
    except OSError:
        return False
    return True


def _leads_to(descriptor: int, path: Path) -> bool:
    """Tell whether a descriptor leads to the log, also when somebody has removed the file."""
    try:
        own = os.fstat(descriptor)
        if not stat.S_ISREG(own.st_mode):
            return False
        if own.st_nlink == 0:
            return Path(f"/proc/self/fd/{descriptor}").readlink() == path.with_name(path.name + " (deleted)")
        return os.path.samestat(own, path.stat())
    except OSError:
        return False


def _begin_anew(path: Path, descriptors: list[int]) -> None:
    staged = path.with_name(path.name + ".new")
    new = os.open(staged, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        shift(path)
        staged.replace(path)
        for descriptor in descriptors:
            os.dup2(new, descriptor)
    finally:
        os.close(new)
