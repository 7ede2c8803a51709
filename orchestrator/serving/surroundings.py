"""Watches what goes on around a worker's pools: other load on the host, steal, quota, and its other models."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping

from orchestrator.profiling import host_counters
from orchestrator.profiling.measurement import Host
from orchestrator.runner.worker import ServedModel
from orchestrator.telemetry.drift import Around
from orchestrator.telemetry.snapshot import PoolSnapshot

EVERY_S = 1.0
SPAN_S = 3.0  # as the windows that are read first: what slows inferences down is to be seen together with it


class Surroundings:
    """The host over the last three seconds. `read` is to be called again and again, best off the event loop."""

    def __init__(self) -> None:
        self._cores = tuple(sorted(os.sched_getaffinity(0)))
        self._snapshots: deque[host_counters.Snapshot] = deque(maxlen=round(SPAN_S / EVERY_S) + 1)
        self.host = Host()

    @property
    def cores(self) -> int:
        """Return how many processors this process may use."""
        return len(self._cores)

    def read(self) -> None:
        """Read the kernel's counters, at most once a second: well below a millisecond, and never raises."""
        now = time.monotonic()
        if self._snapshots and now - self._snapshots[-1].at_s < EVERY_S * 0.9:
            return
        self._snapshots.append(host_counters.snapshot(self._cores, (os.getpid(),)))
        self.host = host_counters.between(self._snapshots[0], self._snapshots[-1])


def around(
    name: str, served: Mapping[str, ServedModel], snapshots: Mapping[str, PoolSnapshot], host: Host, cores: int
) -> Around:
    """Return what goes on around the pool `name`: the host, and the share of the cores that the other models take."""
    others = sum(_cores_used(served[other], snapshots[other]) for other in snapshots if other != name)
    return Around(host, min(1.0, others / max(1, cores)))


def _cores_used(served: ServedModel, snapshot: PoolSnapshot) -> float:
    """Return on how many cores the model's inferences ran on average, 0 where they do not run on the CPU."""
    if "CPU" not in served.actual.execution_devices:
        return 0.0
    threads, streams = served.actual.threads or 1, served.actual.streams or 1
    return snapshot.window.busy_s / max(snapshot.window.seconds, 1.0) * max(1.0, threads / streams)
