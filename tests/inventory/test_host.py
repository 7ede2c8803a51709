"""What is read of a machine, from small recorded /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.inventory.host import read_host

GIB = 2**30
XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6430\nflags\t\t: fpu sse4_1 avx2 avx512f amx_tile\n\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def machine(root: Path, files: dict[str, str] | None = None) -> Path:
    """Write a plain machine of four processors and 16 GiB, with more files on top."""
    basis = {"proc/cpuinfo": XEON, "proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\n"}
    return tree(root, basis | (files or {}))


def test_this_machine_is_read_without_help() -> None:
    host = read_host()
    assert set(host.cores.allowed) == os.sched_getaffinity(0)
    assert 1 <= host.effective_cpus <= len(host.cores.allowed)
    assert host.memory_bytes > 0
    assert host.name != "unknown"
    assert host.kernel


def test_names_and_instruction_sets_are_read(tmp_path: Path) -> None:
    files = {"proc/sys/kernel/hostname": "shop-1\n", "proc/sys/kernel/osrelease": "6.8.0\n"}
    host = read_host(machine(tmp_path, files), range(4))
    assert (host.name, host.kernel, host.cpu) == ("shop-1", "6.8.0", "Intel(R) Xeon(R) Gold 6430")
    assert host.isa == ("sse4_1", "avx2", "avx512f", "amx_tile")
    assert host.memory_bytes == 16 * GIB


def test_an_empty_tree_gives_defaults_and_never_raises(tmp_path: Path) -> None:
    host = read_host(tmp_path, [0, 1])
    assert (host.name, host.cpu, host.isa, host.cgroup) == ("unknown", "unknown", (), "none")
    assert (host.quota_cpus, host.memory_limit_bytes) == (None, None)
    assert (host.cores.threads_per_core, host.cores.sockets, host.cores.numa_nodes) == (1, 1, ())
    assert host.memory_bytes > 0


@pytest.mark.parametrize("content", ["", "max", "\0\xff", "-5 0", "1 0", "0-", "a,b", "9" * 40, "0-99999999"])
def test_odd_files_are_passed_over(tmp_path: Path, content: str) -> None:
    names = [
        "proc/cpuinfo",
        "proc/meminfo",
        "sys/fs/cgroup/cpu.max",
        "sys/fs/cgroup/memory.max",
        "sys/devices/cpu_core/cpus",
        "sys/devices/cpu_atom/cpus",
        "sys/devices/system/node/node0/cpulist",
        "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
    ]
    files = dict.fromkeys(names, content) | {"proc/self/cgroup": f"0::/\n{content}\n"}
    host = read_host(tree(tmp_path, files), [0])
    assert host.effective_cpus == 1
    assert host.quota_cpus is None


def test_a_folder_where_a_file_should_be_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").mkdir(parents=True)
    assert read_host(tmp_path, [0]).cpu == "unknown"


def test_the_strictest_ancestor_decides_the_quota_of_version_2(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/system.slice/orch.service/worker\n",
        "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/system.slice/orch.service/cpu.max": "400000 100000\n",
        "sys/fs/cgroup/system.slice/orch.service/worker/cpu.max": "max 100000\n",
    }
    host = read_host(machine(tmp_path, files), range(4))
    assert (host.cgroup, host.quota_cpus, host.effective_cpus) == ("v2", 1.5, 1)


def test_version_2_inside_a_container_is_read_at_the_root_of_its_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/memory.max": str(2 * GIB),
    }
    host = read_host(machine(tmp_path, files), range(4))
    assert (host.quota_cpus, host.effective_cpus, host.memory_limit_bytes) == (2.5, 2, 2 * GIB)


def test_version_1_is_read_where_cpu_and_cpuacct_share_a_mount(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/docker/4f"
    files = {
        "proc/self/cgroup": "4:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n",
        f"{folder}/cpu.cfs_quota_us": "300000\n",
        f"{folder}/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/docker/4f/memory.limit_in_bytes": str(4 * GIB),
    }
    host = read_host(machine(tmp_path, files), range(8))
    assert (host.cgroup, host.quota_cpus, host.effective_cpus) == ("v1", 3.0, 3)
    assert host.memory_limit_bytes == 4 * GIB


def test_version_1_in_a_container_that_sees_the_hosts_path_is_read_at_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "3:cpu,cpuacct:/docker/4f\n4:memory:/docker/4f\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
    }
    host = read_host(machine(tmp_path, files), range(8))
    assert (host.quota_cpus, host.effective_cpus, host.memory_limit_bytes) == (0.5, 1, GIB)


def test_no_limit_in_version_1_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "3:cpu:/\n4:memory:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    host = read_host(machine(tmp_path, files), range(8))
    assert (host.cgroup, host.quota_cpus, host.memory_limit_bytes, host.effective_cpus) == ("v1", None, None, 8)


def test_a_memory_limit_above_the_machines_memory_is_none(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(64 * GIB)}
    assert read_host(machine(tmp_path, files), [0]).memory_limit_bytes is None


def test_a_hybrid_mount_of_both_versions_is_read_in_both(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "3:memory:/\n1:cpu:/\n0::/app\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/unified/app/memory.max": str(GIB),
    }
    host = read_host(machine(tmp_path, files), range(8))
    assert (host.cgroup, host.quota_cpus, host.memory_limit_bytes) == ("v1", 2.0, GIB)


def topology(siblings: dict[int, str], package: dict[int, int] | None = None) -> dict[str, str]:
    folder = "sys/devices/system/cpu/cpu{}/topology/{}"
    files = {folder.format(cpu, "thread_siblings_list"): text for cpu, text in siblings.items()}
    return files | {folder.format(cpu, "physical_package_id"): str(number) for cpu, number in (package or {}).items()}


def test_sockets_nodes_and_threads_per_core_are_read(tmp_path: Path) -> None:
    files = topology({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, {0: 0, 1: 1, 4: 0, 5: 1})
    files |= {"sys/devices/system/node/node0/cpulist": "0,4", "sys/devices/system/node/node1/cpulist": "1,5"}
    cores = read_host(machine(tmp_path, files), [0, 1, 4, 5]).cores
    assert (cores.threads_per_core, cores.sockets, cores.physical) == (2, 2, 2)
    assert cores.numa_nodes == ((0, 4), (1, 5))


def test_a_mask_with_one_thread_of_each_core_has_whole_cores(tmp_path: Path) -> None:
    files = topology({0: "0-1", 2: "2-3"}) | {"sys/devices/system/node/node0/cpulist": "0-3"}
    cores = read_host(machine(tmp_path, files), [0, 2]).cores
    assert (cores.threads_per_core, cores.physical) == (1, 2)
    assert cores.numa_nodes == ((0, 2),)


def test_nodes_without_an_allowed_processor_are_left_out_and_ten_comes_after_two(tmp_path: Path) -> None:
    lists = {2: "0-1", 10: "2-3", 11: "8"}
    files = {f"sys/devices/system/node/node{node}/cpulist": text for node, text in lists.items()}
    assert read_host(machine(tmp_path, files), range(4)).cores.numa_nodes == ((0, 1), (2, 3))


def test_performance_and_efficient_cores_are_told_apart(tmp_path: Path) -> None:
    files = topology({0: "0-1", 1: "0-1", 2: "2", 3: "3"})
    files |= {"sys/devices/cpu_core/cpus": "0-1", "sys/devices/cpu_atom/cpus": "2-3"}
    cores = read_host(machine(tmp_path, files), range(4)).cores
    assert (cores.performance, cores.efficient) == ((0, 1), (2, 3))
    assert cores.physical == 3


def test_capacities_tell_the_kinds_apart_on_arm(tmp_path: Path) -> None:
    capacities = {0: 446, 1: 446, 2: 1024, 3: 1024}
    files = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str(value) for cpu, value in capacities.items()}
    files["proc/cpuinfo"] = "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n"
    host = read_host(machine(tmp_path, files), range(4))
    assert (host.cores.performance, host.cores.efficient) == ((2, 3), (0, 1))
    assert host.isa == ("asimd", "i8mm", "bf16")


def test_one_kind_of_core_is_no_kind(tmp_path: Path) -> None:
    files = {"sys/devices/cpu_core/cpus": "0-3"}
    cores = read_host(machine(tmp_path, files), range(4)).cores
    assert (cores.performance, cores.efficient) == ((), ())
