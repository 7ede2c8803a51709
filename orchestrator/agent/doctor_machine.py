"""Judges the machine: processors, memory, clock and limits, as far as they decide whether an SLO can hold."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.agent.doctor_check import MIB, Check, Level, size, well
from orchestrator.agent.doctor_facts import SHARED_MEMORY, Machine

MEMORY_FREE_WARN = 0.05
SWAPPED_WARN_BYTES_S = 4 * MIB  # a latency SLO does not survive reading pages back from a disk
THROTTLED_WARN = 0.05
STEPPED_WARN_S = 0.1
FILES_MAX_WARN = 4096  # each connection is one
SHARED_MEMORY_WARN = 0.1


def machine(found: Machine) -> Iterator[Check]:
    """Judge the machine as this process may use it."""
    yield _processors(found)
    yield _memory(found)
    yield _swap(found)
    yield _clock_speed(found)
    yield _clock(found)
    yield _files(found)
    if found.shared_memory_free is not None and found.shared_memory_free < SHARED_MEMORY_WARN:
        full = f"{1 - found.shared_memory_free:.0%}"
        what = f"{SHARED_MEMORY} is {full} full: clients cannot make shared memory for their tensors"
        yield Check("shared-memory", Level.WARN, what, f"ls -lS {SHARED_MEMORY}")


def _processors(machine: Machine) -> Check:
    granted = machine.cpus if machine.quota_cpus is None else min(float(machine.cpus), machine.quota_cpus)
    what = f"{machine.cpus} processors" + ("" if machine.quota_cpus is None else f", quota {machine.quota_cpus:g}")
    if granted < 1:
        what += ": less than one processor; a stream needs a whole one to hold a latency"
        return Check("processors", Level.WARN, what, "docker update --cpus 2 CONTAINER")
    if machine.throttled_share > THROTTLED_WARN:
        what += f"; the quota stopped this group for {machine.throttled_share:.0%} of the time"
        return Check("processors", Level.WARN, what, "orch status -o wide")
    return well("processors", what)


def _memory(machine: Machine) -> Check:
    if machine.limit_bytes is not None and machine.used_bytes is not None:
        free, of, name = machine.limit_bytes - machine.used_bytes, machine.limit_bytes, "the cgroup's limit"
    elif machine.available_bytes is not None:
        free, of, name = machine.available_bytes, machine.memory_bytes, "the machine's memory"
    else:
        return well("memory", f"{size(machine.memory_bytes)}")
    what = f"{size(max(0, free))} of {size(of)} free ({name})"
    if free < MEMORY_FREE_WARN * of:
        return Check("memory", Level.WARN, what + ": the kernel may end a worker", "orch status -o wide")
    return well("memory", what)


def _swap(machine: Machine) -> Check:
    rate = machine.swapped_bytes_s
    if rate > SWAPPED_WARN_BYTES_S:
        what = f"the machine swaps {size(int(rate))} a second: no latency holds"
        return Check("swap", Level.WARN, what, "ps -eo pid,rss,comm --sort=-rss | head")
    return well("swap", "hardly any" if rate else "none while looked at")


def _clock_speed(machine: Machine) -> Check:
    if machine.hot:
        what = f"processors were slowed down for heat {machine.hot} times while looked at: check cooling"
        return Check("clock-speed", Level.WARN, what, "grep . /sys/class/thermal/thermal_zone*/temp")
    if "powersave" in machine.governors and not machine.self_governing:
        what = "the governor `powersave` holds the processors at their lowest clock"
        return Check("clock-speed", Level.WARN, what, "sudo cpupower frequency-set -g performance")
    return well("clock-speed", f"governor {', '.join(machine.governors)}" if machine.governors else "not governed here")


def _clock(machine: Machine) -> Check:
    if abs(machine.stepped_s) > STEPPED_WARN_S:
        what = f"the clock jumped by {machine.stepped_s:+.1f} s while looked at"
        return Check("clock", Level.WARN, what, "timedatectl timesync-status")
    if machine.synchronised is False:
        what = "the clock is not synchronised: times of events, certificates and commits cannot be compared"
        return Check("clock", Level.WARN, what, "sudo timedatectl set-ntp true")
    return well(
        "clock", "synchronised" if machine.synchronised else "steady; the kernel does not say whether it is right"
    )


def _files(machine: Machine) -> Check:
    if machine.files_max is not None and machine.files_max < FILES_MAX_WARN:
        what = f"a process may open {machine.files_max} files: each connection is one"
        return Check("files", Level.WARN, what, "ulimit -Hn 65536")
    return well("files", "no limit" if machine.files_max is None else f"up to {machine.files_max} for a process")
