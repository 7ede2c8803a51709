"""Folders that measurements left behind which were killed: found and removed when the next one begins."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

PREFIXES = ("orch-measure-", "orch-together-")
SETTLED_S = 2.0  # from making a folder to the process that is told of it takes milliseconds


def sweep(parent: Path) -> None:
    """Remove the folders of this user's measurements that nothing runs in; the caller holds the measuring lock.

    What measures without that lock, as benchmarks do, is told by its worker, which has the folder among its arguments
    and dies with whoever started it.
    """
    left = [folder for folder in _folders(parent) if _settled(folder)]
    used = _arguments() if left else frozenset()
    for folder in left:
        if os.fsencode(folder) not in used:
            shutil.rmtree(folder, ignore_errors=True)  # for a folder that stays, the next one tries again


def _folders(parent: Path) -> list[Path]:
    try:
        with os.scandir(parent) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.startswith(PREFIXES) and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _settled(folder: Path) -> bool:
    """Tell whether the folder is this user's, and not just being made."""
    try:
        found = folder.stat(follow_symlinks=False)
    except OSError:
        return False
    return found.st_uid == os.getuid() and time.time() - found.st_mtime > SETTLED_S


def _arguments() -> frozenset[bytes]:
    """Return every argument of every process that can be seen."""
    found: set[bytes] = set()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.update(process.read_bytes().split(b"\0"))
        except OSError:  # it has ended
            continue
    return frozenset(found)
