"""Read what this process may really use of the machine: processors, cgroup limits, memory, instruction sets.

OpenVINO honours the affinity mask but no cgroup quota (openvino issue #37838), so both are read here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import psutil

from orchestrator.inventory.device import Cores, Host

# Instruction sets that decide OpenVINO's kernels and precisions, weakest first; x86 names, then Arm's.
ISA: tuple[str, ...] = (
    "sse4_1",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
)
ISA += ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve")
PROCESSORS_MAX = 2**16  # a list file that names more is broken, not large
NO_LIMIT_BYTES = 2**60  # cgroup v1 writes "no limit" as the largest page-aligned int64
FILE_BYTES_MAX = 2**21  # /proc/cpuinfo of 1024 processors has 1.6 MB; /proc/sys refuses reads of 4 MiB

Cgroup = Literal["v1", "v2", "none"]


def read_host(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Host:
    """Return the host as files under `root` describe it; `allowed` replaces the affinity mask of this process.

    Missing or odd files never raise: what they would have said is left at its default.
    """
    processors = tuple(sorted(os.sched_getaffinity(0) if allowed is None else allowed))
    cpuinfo = _cpuinfo(root)
    groups = cgroup_paths(root)
    memory = _memory_bytes(root)
    return Host(
        name=_text(root / "proc/sys/kernel/hostname") or "unknown",
        cpu=cpuinfo.get("model name") or cpuinfo.get("Processor") or "unknown",
        isa=_isa(cpuinfo),
        cores=_cores(root / "sys/devices", processors),
        quota_cpus=_quota(root, groups),
        cgroup=_version(groups),
        memory_bytes=memory,
        memory_limit_bytes=_memory_limit(root, groups, memory),
        kernel=_text(root / "proc/sys/kernel/osrelease"),
    )


def _text(path: Path) -> str:
    """Return the file's text without surrounding space, nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _numbers(text: str) -> set[int]:
    """Return the processors of a list such as `0-3,8`; parts that are no numbers are passed over."""
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        first, last = _number(low), _number(high or low)
        if first is not None and last is not None and last < PROCESSORS_MAX:
            found.update(range(first, last + 1))
    return found


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the first processor's entries, by name."""
    first = _text(root / "proc/cpuinfo").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _isa(cpuinfo: dict[str, str]) -> tuple[str, ...]:
    flags = set(f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split())
    return tuple(name for name in ISA if name in flags)


def _cores(devices: Path, allowed: Sequence[int]) -> Cores:
    mask = set(allowed)
    performance, efficient = _kinds(devices, allowed)
    topologies = [devices / f"system/cpu/cpu{processor}/topology" for processor in allowed]
    siblings = (_numbers(_text(topology / "thread_siblings_list")) & mask for topology in topologies)
    packages = {_text(topology / "physical_package_id") for topology in topologies} - {""}
    return Cores(
        allowed=tuple(allowed),
        performance=performance,
        efficient=efficient,
        threads_per_core=max(1, *(len(threads) for threads in siblings)) if allowed else 1,
        sockets=max(1, len(packages)),
        numa_nodes=tuple(_numa_nodes(devices / "system/node", mask)),
    )


def _kinds(devices: Path, allowed: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return P and E cores; both empty where all are of one kind."""
    strong = _numbers(_text(devices / "cpu_core/cpus"))
    weak = _numbers(_text(devices / "cpu_atom/cpus"))
    if not (strong and weak):
        capacities = {cpu: _number(_text(devices / f"system/cpu/cpu{cpu}/cpu_capacity")) or 0 for cpu in allowed}
        most = max(capacities.values(), default=0)
        strong = {cpu for cpu, capacity in capacities.items() if capacity == most}
        weak = set(capacities) - strong
    performance = tuple(cpu for cpu in allowed if cpu in strong)
    efficient = tuple(cpu for cpu in allowed if cpu in weak)
    return (performance, efficient) if weak else ((), ())


def _numa_nodes(folder: Path, mask: set[int]) -> Iterator[tuple[int, ...]]:
    names = folder.glob("node[0-9]*") if folder.is_dir() else ()
    for path in sorted(names, key=lambda path: _number(path.name.removeprefix("node")) or 0):
        processors = _numbers(_text(path / "cpulist")) & mask
        if processors:
            yield tuple(sorted(processors))


def _memory_bytes(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        kibibytes = _number(value.removesuffix("kB").strip())
        if name == "MemTotal" and kibibytes:
            return kibibytes * 1024
    return int(psutil.virtual_memory().total)


def cgroup_paths(root: Path) -> dict[str, str]:
    """Return the path of this process by controllers, as in `cpu,cpuacct`; an empty name is version 2."""
    lines = (line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines())
    return {parts[1]: parts[2] for parts in lines if len(parts) == 3}


def _version(groups: dict[str, str]) -> Cgroup:
    if any("cpu" in names.split(",") for names in groups):
        return "v1"
    return "v2" if "" in groups else "none"


def cgroup_folders(root: Path, groups: dict[str, str], controller: str) -> Iterator[Path]:
    """Yield the process's own group and all above it, in every place where the controller may be mounted.

    A container without a cgroup namespace sees the host's path but its own group as the mount's root: the walk ends
    there, and folders that do not exist say nothing.
    """
    mounts = root / "sys/fs/cgroup"
    for names, path in groups.items():
        if names == "":
            places = [mounts, mounts / "unified"]
        elif controller in names.split(","):
            places = [mounts / names, mounts / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
        for place in places:
            yield from (place.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _strictest(folders: Iterable[Path], limits: Sequence[Callable[[Path], float | None]]) -> float | None:
    found = (limit(folder) for folder in folders for limit in limits)
    return min((value for value in found if value is not None), default=None)


def _quota(root: Path, groups: dict[str, str]) -> float | None:
    """Return the processors granted; the strictest ancestor counts."""
    return _strictest(cgroup_folders(root, groups, "cpu"), [_quota_v2, _quota_v1])


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _share(quota, period)


def _quota_v1(folder: Path) -> float | None:
    return _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> float | None:
    granted, length = _number(quota), _number(period)
    return granted / length if granted and length else None


def _memory_limit(root: Path, groups: dict[str, str], memory: int) -> int | None:
    """Return the bytes granted; a limit above the machine's own memory is none."""
    limits = [lambda folder: _limit(folder / "memory.max"), lambda folder: _limit(folder / "memory.limit_in_bytes")]
    strictest = _strictest(cgroup_folders(root, groups, "memory"), limits)
    return None if strictest is None or strictest >= memory else int(strictest)


def _limit(path: Path) -> int | None:
    value = _number(_text(path))
    return value if value is not None and value < NO_LIMIT_BYTES else None
