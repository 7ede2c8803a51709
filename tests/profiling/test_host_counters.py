"""The machine's counters, read from recorded files, and what they say of a block."""

from __future__ import annotations

from pathlib import Path

from orchestrator.profiling.host_counters import Snapshot, between, snapshot
from orchestrator.profiling.measurement import Host

STAT = """cpu  9999 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 1000 5 4 6 10 50 0
cpu1 200 0 100 1000 0 0 0 30 0 0
cpu2 7000 0 0 0 0 0 0 700 0 0
intr 1 2 3
"""
PROCESS = "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 120 30 40 10 20 0 4 0 100 0 0"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_only_the_processors_asked_for_are_counted(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/stat": STAT})
    seen = snapshot([0, 1], [], root, at_s=5.0)
    assert (seen.at_s, seen.cores) == (5.0, 2)
    assert (seen.busy_s, seen.steal_s) == (4.6, 0.4)


def test_our_own_time_includes_children_that_ended(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/stat": STAT, "proc/42/stat": PROCESS})
    assert snapshot([0], [42, 43], root, at_s=0.0).own_s == {42: 2.0, 43: 0.0}


def test_throttling_is_read_from_both_versions_of_cgroups(tmp_path: Path) -> None:
    one = write(
        tmp_path / "v1",
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.stat": "throttled_time 2500000000\n",
        },
    )
    two = write(
        tmp_path / "v2",
        {
            "proc/self/cgroup": "0::/job/part\n",
            "sys/fs/cgroup/job/part/cpu.stat": "usage_usec 9\nthrottled_usec 0\n",
            "sys/fs/cgroup/job/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 1500000\n",
        },
    )
    assert snapshot([0], [], one, at_s=0.0).throttled_s == 2.5
    assert snapshot([0], [], two, at_s=0.0).throttled_s == 1.5, "a quota above us holds us back as well"


def test_a_machine_that_says_nothing_counts_nothing(tmp_path: Path) -> None:
    assert snapshot([0], [1], tmp_path, at_s=1.0) == Snapshot(1.0, 1, 0.0, 0.0, {1: 0.0}, 0.0, None)


def test_what_is_not_ours_is_foreign() -> None:
    before = Snapshot(10.0, 2, 100.0, 1.0, {7: 50.0, 8: 1.0}, 0.0, 3.0)
    after = Snapshot(12.0, 2, 103.2, 1.2, {7: 52.0, 8: 1.4}, 0.04, 3.5)
    assert between(before, after) == Host(foreign=0.2, steal=0.05, throttled=0.01, pressure=0.25)


def test_shares_never_leave_their_range() -> None:
    before = Snapshot(0.0, 1, 10.0, 0.0, {7: 5.0})
    gone = Snapshot(1.0, 1, 10.0, 0.0, {7: 0.0})
    assert between(before, gone) == Host()
    assert between(gone, gone) == Host()
    assert between(before, Snapshot(1.0, 1, 99.0, 9.0, {7: 5.0})) == Host(foreign=1.0, steal=1.0)


def test_this_machine_can_be_read() -> None:
    seen = snapshot([0], [1])
    assert seen.busy_s > 0
