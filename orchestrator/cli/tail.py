"""Reads the end of a log, and what is written to it afterwards, also across the files that it is rotated into."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.log_file import KEPT, older

BLOCK_BYTES = 64 * 1024
TAIL_MAX_BYTES = 16 * 2**20  # a worker's log is a few lines an hour; more is not read for "the last lines"
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read; the inode tells when another file took its name."""

    inode: int
    offset: int


def last_lines(path: Path, count: int) -> tuple[str, Position]:
    """Return the last `count` lines and the position after them; raise OrchError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            lines = _ending(file, status.st_size, count)
    except FileNotFoundError:
        raise OrchError(Kind.NOT_FOUND, "there is no log yet", where=str(path)) from None
    except OSError as error:
        raise OrchError(Kind.FAILED, f"cannot be read: {error.strerror}", where=str(path)) from None
    for number in range(1, KEPT + 1):
        if len(lines) >= count:
            break
        lines = _ending_of(older(path, number), count - len(lines)) + lines
    return b"".join(lines).decode("utf-8", "replace"), Position(status.st_ino, status.st_size)


def _ending_of(path: Path, count: int) -> list[bytes]:
    try:
        with path.open("rb") as file:
            return _ending(file, os.fstat(file.fileno()).st_size, count)
    except OSError:
        return []  # not rotated so often yet


def _ending(file: BinaryIO, size: int, count: int) -> list[bytes]:
    data, start = b"", size
    while start > 0 and data.count(b"\n") <= count and len(data) < TAIL_MAX_BYTES:
        step = min(BLOCK_BYTES, start)
        start -= step
        file.seek(start)
        data = file.read(step) + data
    lines = data.splitlines(keepends=True)
    return lines[len(lines) - min(count, len(lines)) :]


def appended(path: Path, position: Position) -> Iterator[str]:
    """Yield what is written after the position, for ever; goes on in the next file when the log is rotated."""
    while True:
        text, position = _new(path, position)
        if text:
            yield text
        else:
            time.sleep(POLL_S)


def _new(path: Path, position: Position) -> tuple[str, Position]:
    """Return what follows the position: in the file that was read, wherever it is now, then in the next newer one."""
    files = [path, *(older(path, number) for number in range(1, KEPT + 1))]  # newest first
    at = next((number for number, file in enumerate(files) if _inode(file) == position.inode), None)
    if at is None:  # removed, or rotated away while nobody looked
        return _read(path, Position(0, 0), position)
    text, new = _read(files[at], position, position)
    if text or at == 0:
        return text, new
    return _read(files[at - 1], Position(0, 0), position)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _read(path: Path, after: Position, before: Position) -> tuple[str, Position]:
    """Return whole lines after a position, and where they end; `before` again where there is no such file now."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            offset = after.offset if status.st_ino == after.inode and status.st_size >= after.offset else 0
            file.seek(offset)
            data = file.read(BLOCK_BYTES)
    except OSError:
        return "", before  # between two files of that name; the next look finds it
    # Only whole lines, so that no character is cut in two; a line longer than a block is passed on as it is.
    whole = data if len(data) == BLOCK_BYTES and b"\n" not in data else data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace"), Position(status.st_ino, offset + len(whole))
