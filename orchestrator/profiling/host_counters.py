"""Read what the machine did from the kernel's counters, and say what of it was not ours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.inventory.host import cgroup_folders, cgroup_paths
from orchestrator.profiling.measurement import Host

FILE_BYTES_MAX = 2**20  # /proc/stat of a machine with a thousand processors has 100 kB
BUSY = ("user", "nice", "system", "irq", "softirq")  # guest time is in user already (proc(5))
FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one instant, in seconds; their differences over a block are what it was."""

    at_s: float
    cores: int
    """Processors that are counted."""
    busy_s: float
    """CPU time of everybody."""
    steal_s: float
    own_s: Mapping[int, float] = field(default_factory=dict)
    """CPU time of our own processes, by pid."""
    throttled_s: float = 0.0
    """Time that the quotas of our cgroup and those above it held somebody back."""
    pressure_s: float | None = None
    """Time that something runnable waited for a CPU (PSI, some); None where it cannot be read."""


def snapshot(cores: Iterable[int], own: Iterable[int], root: Path = Path("/"), at_s: float | None = None) -> Snapshot:
    """Read the counters of these processors and processes (with the children they have reaped).

    What cannot be read counts as nothing; never raises.
    """
    processors = frozenset(cores)
    busy, steal = _processors(_text(root / "proc/stat"), processors)
    return Snapshot(
        at_s=time.monotonic() if at_s is None else at_s,
        cores=len(processors),
        busy_s=busy,
        steal_s=steal,
        own_s={pid: _process(_text(root / f"proc/{pid}/stat")) for pid in own},
        throttled_s=_throttled(root),
        pressure_s=_pressure(_text(root / "proc/pressure/cpu")),
    )


def between(before: Snapshot, after: Snapshot) -> Host:
    """Return what the machine did between two snapshots, as shares of the time of the processors counted."""
    seconds = after.at_s - before.at_s
    if seconds <= 0 or not after.cores:
        return Host()
    whole = seconds * after.cores
    # A process that ended meanwhile has no counter left: what it did since counts as foreign, never as negative.
    own = sum(max(0.0, after.own_s.get(pid, 0.0) - spent) for pid, spent in before.own_s.items())
    pressure = None
    if before.pressure_s is not None and after.pressure_s is not None:
        pressure = _share(after.pressure_s - before.pressure_s, seconds)
    return Host(
        foreign=_share(after.busy_s - before.busy_s - own, whole),
        steal=_share(after.steal_s - before.steal_s, whole),
        throttled=_share(after.throttled_s - before.throttled_s, whole),
        pressure=pressure,
    )


def _share(part_s: float, whole_s: float) -> float:
    return round(min(1.0, max(0.0, part_s / whole_s)), 4)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


def _processors(text: str, processors: frozenset[int]) -> tuple[float, float]:
    """Return busy and stolen seconds of these processors."""
    busy = steal = 0
    for line in text.splitlines():
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if not (name.startswith("cpu") and number.isdigit() and int(number) in processors):
            continue
        times = dict(zip(FIELDS, map(int, values), strict=False))
        busy += sum(times.get(name, 0) for name in BUSY)
        steal += times.get("steal", 0)
    return busy / _TICKS, steal / _TICKS


def _process(text: str) -> float:
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return sum(map(int, fields[11:15])) / _TICKS if len(fields) > 14 else 0.0  # utime, stime, cutime, cstime


def _throttled(root: Path) -> float:
    folders = cgroup_folders(root, cgroup_paths(root), "cpu")
    return max((_throttled_in(_text(folder / "cpu.stat")) for folder in folders), default=0.0)


def _throttled_in(text: str) -> float:
    entries = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) == 2)
    if "throttled_usec" in entries:  # version 2
        return int(entries["throttled_usec"]) / 1e6
    return int(entries.get("throttled_time", "0")) / 1e9  # version 1


def _pressure(text: str) -> float | None:
    for line in text.splitlines():
        if line.startswith("some ") and "total=" in line:
            return int(line.rpartition("total=")[2]) / 1e6
    return None


_TICKS = os.sysconf("SC_CLK_TCK")
