"""Reads the machine for `orch doctor`: what the kernel's files say, at two moments and between them."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.doctor_facts import DeviceFile, DeviceKind, Machine
from orchestrator.inventory.host import cgroup_folders, cgroup_paths, read_host
from orchestrator.profiling import host_counters

FILE_BYTES_MAX = 2**20
INTEL = "0x8086"
SELF_GOVERNING = frozenset({"intel_pstate", "amd-pstate-epp", "amd-pstate"})
STA_UNSYNC = 0x40  # of adjtimex(2): the clock follows no other
TIMEX_BYTES, TIMEX_STATUS_AT = 512, 40  # more than struct timex; its status behind five longs, on 64-bit Linux
PROCESSORS_LOOKED_AT = 1024


@dataclass(frozen=True, slots=True)
class Moment:
    """Counters of the machine at one moment."""

    counters: host_counters.Snapshot
    swapped_pages: int
    hot: int
    wall_s: float
    steady_s: float


def moment(root: Path = Path("/")) -> Moment:
    """Read the counters now."""
    pages = dict(_pairs(_text(root / "proc/vmstat"), ("pswpin", "pswpout")))
    return Moment(
        counters=host_counters.snapshot(sorted(os.sched_getaffinity(0)), (), root),
        swapped_pages=sum(pages.values()),
        hot=sum(_numbers(_text(path) for path in _processors(root, "thermal_throttle/core_throttle_count"))),
        wall_s=time.time(),
        steady_s=time.clock_gettime(time.CLOCK_BOOTTIME),  # goes on while the machine sleeps, as the wall clock does
    )


def machine(before: Moment, after: Moment, root: Path = Path("/")) -> Machine:
    """Return the machine as files under `root` describe it, and as it was between two moments."""
    host = read_host(root)
    seconds = max(1e-3, after.steady_s - before.steady_s)
    memory = dict(_pairs(_text(root / "proc/meminfo"), ("MemAvailable:",)))
    drivers = {_text(path).strip() for path in _processors(root, "cpufreq/scaling_driver")}
    governors = {_text(path).strip() for path in _processors(root, "cpufreq/scaling_governor")} - {""}
    return Machine(
        user=user_name(os.geteuid()),
        cpus=len(host.cores.allowed),
        quota_cpus=host.quota_cpus,
        memory_bytes=host.memory_bytes,
        available_bytes=memory["MemAvailable:"] * 1024 if memory else None,
        limit_bytes=host.memory_limit_bytes,
        used_bytes=_used(root),
        swapped_bytes_s=max(0, after.swapped_pages - before.swapped_pages) * resource.getpagesize() / seconds,
        governors=tuple(sorted(governors)),
        self_governing=bool(drivers & SELF_GOVERNING),
        throttled_share=host_counters.between(before.counters, after.counters).throttled,
        hot=max(0, after.hot - before.hot),
        synchronised=synchronised(),
        stepped_s=(after.wall_s - before.wall_s) - (after.steady_s - before.steady_s),
        files_max=_files_max(),
        shared_memory_free=_free_share(root / "dev/shm"),
        device_files=tuple(device_files(root)),
    )


def device_files(root: Path) -> Iterator[DeviceFile]:
    """Yield the device files of accelerators: /dev/dri/renderD*, /dev/accel/accel*."""
    for kind, pattern, place in (
        (DeviceKind.GPU, "dri/renderD*", "sys/class/drm"),
        (DeviceKind.NPU, "accel/accel*", "sys/class/accel"),
    ):
        for path in sorted((root / "dev").glob(pattern)):
            vendor = _text(root / place / path.name / "device/vendor").strip()
            yield DeviceFile(
                path=str(path),
                kind=kind,
                intel=vendor == INTEL if vendor else None,
                usable=os.access(path, os.R_OK | os.W_OK),
                group=_group(path),
            )


def synchronised() -> bool | None:
    """Return whether the kernel's clock follows another, as adjtimex(2) says; None where it does not say."""
    buffer = ctypes.create_string_buffer(TIMEX_BYTES)  # zeros: only asked, nothing set
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    status = int.from_bytes(buffer.raw[TIMEX_STATUS_AT : TIMEX_STATUS_AT + 4], "little")
    return not status & STA_UNSYNC


def user_name(uid: int) -> str:
    """Return the user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(path: Path) -> str:
    gid = path.stat().st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _processors(root: Path, file: str) -> list[Path]:
    return sorted((root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/{file}"))[:PROCESSORS_LOOKED_AT]


def _used(root: Path) -> int | None:
    """Return what the cgroup holds, without the page cache that it would give back."""
    for folder in cgroup_folders(root, cgroup_paths(root), "memory"):
        for name, cache in (("memory.current", "inactive_file"), ("memory.usage_in_bytes", "total_inactive_file")):
            used = _text(folder / name).strip()
            if used.isdecimal():
                given_back = dict(_pairs(_text(folder / "memory.stat"), (cache,))).get(cache, 0)
                return max(0, int(used) - given_back)
    return None


def _files_max() -> int | None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _free_share(folder: Path) -> float | None:
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail / room.f_blocks if room.f_blocks else None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


def _pairs(text: str, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield name and number of the lines that begin with one of the names."""
    wanted = set(names)
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] in wanted and words[1].isdecimal():
            yield words[0], int(words[1])


def _numbers(texts: Iterable[str]) -> Iterator[int]:
    yield from (int(text) for text in texts if text.strip().isdecimal())
