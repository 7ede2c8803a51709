"""Let one planner measure at a time: two at once would measure each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.leftovers import sweep

WAIT_S = 300.0  # several models of 60 s each
POLL_S = 0.1


def default_path() -> Path:
    """Return the lock of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"orch-measure-{os.getuid()}.lock"


@contextlib.contextmanager
def host_lock(
    path: Path, progress: Callable[[str], None], cancelled: Callable[[], bool], wait_s: float = WAIT_S
) -> Iterator[None]:
    """Hold the lock; raise CONFLICT when another holds it for longer than `wait_s`, CANCELLED when asked to stop.

    The kernel gives it back when this process ends, however it ends; what that left beside the lock is removed.
    """
    descriptor = _open(path)
    try:
        _take(descriptor, path, progress, cancelled, wait_s)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        sweep(path.parent)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OrchError(Kind.FAILED, f"the lock cannot be opened: {error.strerror}", where=str(path)) from None
    if os.fstat(descriptor).st_uid != os.getuid():
        os.close(descriptor)
        raise OrchError(Kind.FAILED, "the lock belongs to somebody else", where=str(path), hint="remove the file")
    return descriptor


def _take(
    descriptor: int, path: Path, progress: Callable[[str], None], cancelled: Callable[[], bool], wait_s: float
) -> None:
    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
        else:
            return
        if not told:
            progress(f"another planner is measuring (process {holder}); waiting for it")
            told = True
        if cancelled():
            raise OrchError(Kind.CANCELLED, "cancelled while another planner was measuring")
        if time.monotonic() > deadline:
            what = f"another planner (process {holder}) has been measuring for {wait_s:g} s"
            raise OrchError(Kind.CONFLICT, what, where=str(path), hint="try again when it has finished")
        time.sleep(POLL_S)
