"""Worker processes that faults are done to, and waiting, bounded, for how they take it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import prlimit
from typing import Any, TypeVar

from benchmarks.reload_under_load import WorkerProcess

WAIT_S = 30.0
STEP_S = 0.01
HERE = Path(__file__).parent
T = TypeVar("T")


class SimulatedWorker(WorkerProcess):
    """A worker over simulated devices that go wrong: one entry of `faults` for each compilation."""

    def __init__(self, state: Path, *faults: dict[str, Any]) -> None:
        state.mkdir(mode=0o700, parents=True)
        self.state = state
        self.log = state / "worker.log"
        command = [sys.executable, str(HERE / "simulated_worker.py"), str(state), json.dumps(faults or ({},))]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)


def eventually(look: Callable[[], T], what: str) -> T:
    """Return what `look` returns as soon as that is true; fail after WAIT_S."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / STEP_S)):
        if found := look():
            return found
        pause.wait(STEP_S)
    raise AssertionError(f"within {WAIT_S:g} s not: {what}")


def port(status: dict[str, Any]) -> int:
    """Return the HTTP port of a worker that serves."""
    return int(status["endpoint"]["http"].rpartition(":")[2])


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def memory_bytes(pid: int, key: str) -> int:
    """Return a figure of the process's memory: VmRSS, VmSize."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


@contextmanager
def limited(pid: int, resource: int, soft: int) -> Iterator[None]:
    """Hold a process to a soft limit for a while."""
    before, hard = prlimit(pid, resource)
    prlimit(pid, resource, (soft, hard))
    try:
        yield
    finally:
        prlimit(pid, resource, (before, hard))
