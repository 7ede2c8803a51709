"""Inventories as files and as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Cores, Device, Host, Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.inventory.text import inventory_from_yaml, inventory_to_text, inventory_to_yaml

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures/inventories").glob("*.yaml"))
VM = next(path for path in FIXTURES if path.stem == "vm-2core")

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
numbers = st.integers(0, 2**40)
devices = st.builds(
    Device,
    name=words,
    full_name=words,
    type=st.sampled_from(["integrated", "discrete", None]),
    capabilities=st.lists(words, max_size=3).map(tuple),
    range_for_streams=st.none() | st.tuples(numbers, numbers),
    properties=st.dictionaries(words, st.sampled_from(["RO", "RW"]), max_size=4),
    memory_bytes=st.none() | numbers,
)
hosts = st.builds(
    Host,
    name=words,
    cpu=words,
    isa=st.lists(words, max_size=3).map(tuple),
    cores=st.builds(Cores, allowed=st.lists(numbers, min_size=1, max_size=4).map(tuple)),
    quota_cpus=st.none() | st.floats(0.1, 512),
    memory_bytes=numbers,
    kernel=words,
)
inventories = st.builds(
    Inventory,
    openvino=words,
    host=hosts,
    devices=st.lists(devices, max_size=3).map(tuple),
    problems=st.lists(words, max_size=2).map(tuple),
)


# Seen to fail on PyYAML's own quoting, which leaves 08 for our strict reader to refuse.
@given(inventories)
def test_what_is_written_is_read_back(inventory: Inventory) -> None:
    assert inventory_from_yaml(inventory_to_yaml(inventory), "inventory.yaml") == inventory


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_recorded_inventories_are_written_as_they_were_read(path: Path) -> None:
    text = path.read_text()
    inventory = inventory_from_yaml(text, path.name)
    assert inventory_to_yaml(inventory) == text
    assert inventory.host.name == path.stem


def test_every_problem_of_a_file_is_reported_with_its_place() -> None:
    text = VM.read_text().replace("  cgroup: v1", "  cgroup: v3\n  colour: red").replace("openvino:", "version:")
    with pytest.raises(OrchError) as caught:
        inventory_from_yaml(text, "vm.yaml")
    lines = text.splitlines()
    places = {problem.what.partition(":")[0]: problem.where for problem in caught.value.problems}
    line = next(number for number, line in enumerate(lines, 1) if "colour" in line)
    assert caught.value.kind is Kind.INVALID
    assert places["host.colour"] == f"vm.yaml:{line}:3"
    assert places["host.cgroup"] == f"vm.yaml:{line - 1}:11"
    assert places["openvino"] == "vm.yaml:1:1"
    assert places["version"] == "vm.yaml:3:1"
    assert all(problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must hold one inventory, got 0"),
        ("a: 1\n---\nb: 2\n", "must hold one inventory, got 2"),
        ("[", "bad.yaml:"),
        ("text", "the inventory"),
        ("- 1", "the inventory"),
        ("host: !!python/object:os.system x", "tag"),
    ],
)
def test_what_is_no_inventory_is_an_error_with_a_place(text: str, complaint: str) -> None:
    with pytest.raises(OrchError) as caught:
        inventory_from_yaml(text, "bad.yaml")
    assert complaint in str(caught.value)
    assert all(str(problem.where).startswith("bad.yaml:") for problem in caught.value.problems)


def test_people_read_host_devices_and_problems() -> None:
    text = inventory_to_text(inventory_from_yaml(VM.read_text(), "vm.yaml"))
    assert text == (
        "OpenVINO 2026.4.1-22982-e213a147257-releases/2026/4\n"
        "host    vm-2core (Intel(R) Xeon(R) Processor)\n"
        "cores   2 of 2 (affinity), quota none\n"
        "layout  2 physical, 1 thread per core, 1 socket, 1 NUMA\n"
        "memory  23.5GiB, limit none\n"
        "isa     sse4_1 avx2 fma f16c avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16\n"
        "\n"
        "NAME  TYPE        FULL NAME                   STREAMS  PRECISIONS\n"
        "CPU   integrated  Intel(R) Xeon(R) Processor  1-2      BF16,FP32,FP16,INT8,BIN\n"
        "\n"
        'problem: GPU: Cannot load library "libopenvino_intel_gpu_plugin.so": libOpenCL.so.1: cannot open shared object'
        " file: No such file or directory\n"
    )


def test_quota_and_kinds_of_cores_are_shown() -> None:
    cores = Cores(allowed=(0, 1, 2, 3), performance=(0, 1), efficient=(2, 3), threads_per_core=2, sockets=2)
    host = Host(
        name="h", cpu="c", cores=cores, quota_cpus=2.5, cgroup="v2", memory_bytes=2**33, memory_limit_bytes=2**31
    )
    text = inventory_to_text(Inventory(openvino="1", host=host, devices=()))
    assert "cores   2 of 4 (affinity), quota 2.5 cpus (cgroup v2)\n" in text
    assert "layout  3 physical, 2 threads per core, 2 P + 2 E, 2 sockets, 1 NUMA\n" in text
    assert "memory  8GiB, limit 2GiB\n" in text
    assert "isa     unknown\n\nno devices\n" in text


def change(inventory: Inventory, **host: object) -> Inventory:
    return inventory.model_copy(update={"host": inventory.host.model_copy(update=host)})


def test_equal_machines_have_one_fingerprint_whatever_they_are_called() -> None:
    vm = inventory_from_yaml(VM.read_text(), "vm.yaml")
    assert fingerprint(vm) == fingerprint(change(vm, name="other", kernel="7.0"))
    assert fingerprint(vm) == fingerprint(change(vm, memory_bytes=vm.host.memory_bytes + 2**20))
    assert len(fingerprint(vm)) == 16
    assert int(fingerprint(vm), 16) >= 0


def test_whatever_decides_speed_changes_the_fingerprint() -> None:
    vm = inventory_from_yaml(VM.read_text(), "vm.yaml")
    others = [inventory_from_yaml(path.read_text(), path.name) for path in FIXTURES]
    others += [
        change(vm, cpu="another"),
        change(vm, isa=("avx2",)),
        change(vm, quota_cpus=1.5),
        change(vm, cores=Cores(allowed=(0,))),
        change(vm, memory_limit_bytes=2**30),
        vm.model_copy(update={"openvino": "2027.1"}),
        vm.model_copy(update={"devices": ()}),
    ]
    assert len({fingerprint(inventory) for inventory in others}) == len(others)


def test_a_machine_without_a_core_is_refused_at_its_line() -> None:
    """Seen to be planned for."""
    text = re.sub(r"allowed: \[.*\]", "allowed: []", VM.read_text())
    with pytest.raises(OrchError, match=r"vm\.yaml:\d+:\d+: host\.cores\.allowed: tuple should have at least 1 item"):
        inventory_from_yaml(text, "vm.yaml")
