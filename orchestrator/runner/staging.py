"""Writes files by staging name and rename, so that nobody ever sees, or is left with, half of one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from orchestrator.errors import Kind, OrchError


def write_whole(path: Path, text: str) -> None:
    """Write the file, or leave the one that was there and nothing beside it; raise OrchError where that fails."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a terminal has no half of a file
            path.write_text(text, encoding="utf-8")
        else:
            _staged(path, text)
    except OSError as error:
        raise OrchError(Kind.FAILED, f"cannot be written: {error.strerror}", where=str(path)) from None


def _staged(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it may not be there, nor the folder be writable
            staged.unlink()
        raise
