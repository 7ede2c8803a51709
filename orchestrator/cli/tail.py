"""Reads the end of a log file, and what is written to it afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError

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
            data, start = b"", status.st_size
            while start > 0 and data.count(b"\n") <= count and len(data) < TAIL_MAX_BYTES:
                step = min(BLOCK_BYTES, start)
                start -= step
                file.seek(start)
                data = file.read(step) + data
    except FileNotFoundError:
        raise OrchError(Kind.NOT_FOUND, "there is no log yet", where=str(path)) from None
    except OSError as error:
        raise OrchError(Kind.FAILED, f"cannot be read: {error.strerror}", where=str(path)) from None
    lines = data.splitlines(keepends=True)
    kept = lines[len(lines) - min(count, len(lines)) :]
    return b"".join(kept).decode("utf-8", "replace"), Position(status.st_ino, status.st_size)


def appended(path: Path, position: Position) -> Iterator[str]:
    """Yield what is written after the position, for ever; begins anew when the file is cut or replaced."""
    while True:
        text, position = _new(path, position)
        if text:
            yield text
        else:
            time.sleep(POLL_S)


def _new(path: Path, position: Position) -> tuple[str, Position]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            offset = position.offset if status.st_ino == position.inode and status.st_size >= position.offset else 0
            file.seek(offset)
            data = file.read(BLOCK_BYTES)
    except OSError:
        return "", position  # between two files of that name; the next look finds it
    # Only whole lines, so that no character is cut in two; a line longer than a block is passed on as it is.
    whole = data if len(data) == BLOCK_BYTES and b"\n" not in data else data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace"), Position(status.st_ino, offset + len(whole))
