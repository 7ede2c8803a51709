"""What the doctor finds out by looking: files of the kernel, the state folder, and what runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_agent import Agent, manifest
from test_decisions import NOW, a_plan

from orchestrator.agent import doctor_home, doctor_host, doctor_look, unit
from orchestrator.agent.doctor_facts import Agent as AgentFact
from orchestrator.agent.doctor_facts import AgentState, DeviceKind, Package, Unknown
from orchestrator.agent.paths import Layout, create
from orchestrator.agent.store import Origin, Store
from orchestrator.agent.unit import Install
from orchestrator.profiling.host_counters import Snapshot

BEFORE = doctor_host.Moment(Snapshot(0.0, 2, 0.0, 0.0, throttled_s=1.0), 100, 5, wall_s=1000.0, steady_s=50.0)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_happened_between_two_moments_is_told(tmp_path: Path) -> None:
    counters = Snapshot(2.0, 2, 0.0, 0.0, throttled_s=2.0)
    after = replace(BEFORE, counters=counters, swapped_pages=1100, hot=7, wall_s=1005.0, steady_s=52.0)
    machine = doctor_host.machine(BEFORE, after, tmp_path)
    assert machine.swapped_bytes_s == 1000 * os.sysconf("SC_PAGE_SIZE") / 2
    assert (machine.hot, machine.stepped_s, machine.throttled_share) == (2, 3.0, 0.25)


def test_the_kernel_s_files_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n")
    write(tmp_path / "proc/vmstat", "pgpgin 7\npswpin 30\npswpout 12\n")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    write(tmp_path / "sys/fs/cgroup/memory.current", "5000\n")
    write(tmp_path / "sys/fs/cgroup/memory.stat", "anon 1\ninactive_file 2000\n")
    for processor, governor in ((0, "powersave"), (1, "performance")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{processor}"
        write(folder / "cpufreq/scaling_governor", governor + "\n")
        write(folder / "cpufreq/scaling_driver", "acpi-cpufreq\n")
        write(folder / "thermal_throttle/core_throttle_count", "4\n")
    moment = doctor_host.moment(tmp_path)
    machine = doctor_host.machine(BEFORE, moment, tmp_path)
    assert (moment.swapped_pages, moment.hot) == (42, 8)
    assert (machine.memory_bytes, machine.available_bytes, machine.used_bytes) == (1_024_000, 614_400, 3000)
    assert (machine.governors, machine.self_governing) == (("performance", "powersave"), False)


def test_device_files_are_told_with_their_maker_and_group(tmp_path: Path) -> None:
    write(tmp_path / "dev/dri/renderD128", "")
    write(tmp_path / "dev/dri/card0", "")
    write(tmp_path / "dev/accel/accel0", "")
    write(tmp_path / "sys/class/drm/renderD128/device/vendor", "0x8086\n")
    found = list(doctor_host.device_files(tmp_path))
    assert [(Path(file.path).name, file.kind, file.intel, file.usable) for file in found] == [
        ("renderD128", DeviceKind.GPU, True, True),
        ("accel0", DeviceKind.NPU, None, True),
    ]


def test_a_machine_that_shows_nothing_is_looked_at_without_an_error(tmp_path: Path) -> None:
    machine = doctor_host.machine(BEFORE, doctor_host.moment(tmp_path), tmp_path)
    assert (machine.available_bytes, machine.used_bytes, machine.governors) == (None, None, ())
    assert machine.synchronised in {True, False, None}


def a_store(layout: Layout) -> Store:
    store = Store(layout.database)
    store.open()
    return store


def test_a_state_folder_without_an_agent_is_looked_at(tmp_path: Path) -> None:
    layout = create(tmp_path / "state")
    layout.root.chmod(0o755)
    store = a_store(layout)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        plan = a_plan()
        plan = plan.model_copy(update={"endpoint": plan.endpoint.model_copy(update={"http": address})})
        store.propose("shop", Origin("t", "p", "b", {}), plan, NOW)
        store.close()
        layout.database.chmod(0o644)
        (layout.root / "state.db.damaged-1").write_bytes(b"")
        (layout.workers / "old").mkdir()
        (layout.workers / "shop").mkdir()
        (layout.workers / "old.regions.json").write_text(json.dumps([{"key": "/orch-test-none"}, {"key": "../x"}]))
        state = doctor_home.look(layout)
    assert (state.folder.mode, state.folder.owned, state.agent.state) == (0o755, True, AgentState.NONE)
    assert state.folder.odd_modes == ((str(layout.database), 0o644),)
    assert state.file.damaged == (str(layout.root / "state.db.damaged-1"),)
    assert (state.deployments, state.devices) == (("shop",), frozenset({"CPU"}))
    assert [(worker.name, worker.recorded, worker.pid) for worker in state.workers] == [("old", False, None)]
    assert [(port.address, port.holder) for port in state.ports] == [(address, f"pid {os.getpid()} ({_own_name()})")]
    assert state.shared_memory == ()


def _own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_shared_memory_of_a_deployment_that_is_gone_is_found(tmp_path: Path) -> None:
    layout = create(tmp_path / "state")
    a_store(layout).close()
    key = f"orch-test-{os.getpid()}"
    (layout.workers / "old.regions.json").write_text(json.dumps([{"key": f"/{key}"}]))
    region = Path("/dev/shm") / key
    region.write_bytes(b"x")
    try:
        assert doctor_home.look(layout).shared_memory == (key,)
    finally:
        region.unlink()


def test_a_damaged_state_file_is_a_finding(tmp_path: Path) -> None:
    layout = create(tmp_path / "state")
    layout.database.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    file = doctor_home.look(layout).file
    assert file.version is None
    assert str(file.problem).startswith("the state file is damaged")


def test_a_newer_state_file_is_not_read_further(tmp_path: Path) -> None:
    layout = create(tmp_path / "state")
    a_store(layout).close()
    with closing(sqlite3.connect(layout.database)) as connection:
        connection.execute("PRAGMA user_version = 99")
    state = doctor_home.look(layout)
    assert (state.file.version, state.file.problem, state.deployments) == (99, None, ())


def test_sources_that_do_not_get_on_are_told_with_why(tmp_path: Path) -> None:
    layout = create(tmp_path / "state")
    store = a_store(layout)
    states = {
        "failed": {"attempted": {"commit": "a" * 40, "result": "failed", "faults": [{"what": "no such device"}]}},
        "new": {},
        "unreachable": {"trouble": {"what": "the remote does not answer"}},
    }
    with store.write() as connection:
        for name, state in states.items():
            connection.execute(
                "INSERT INTO sources (name, manifest, origin, base, labels, spec, generation, created, state)"
                " VALUES (?, '', '', '', '{}', '{}', 1, 0, ?)",
                (name, json.dumps(state)),
            )
    store.close()
    assert [(source.name, source.message) for source in doctor_home.look(layout).sources] == [
        ("failed", "commit aaaaaaaaaaaa failed: no such device"),
        ("new", None),
        ("unreachable", "the remote does not answer"),
    ]


def test_an_agent_and_its_worker_are_found_running_hung_killed_and_stopped(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.apply(manifest())
    state = doctor_home.look(agent.layout)
    assert agent.child is not None
    assert (state.agent.state, state.agent.pid) == (AgentState.RUNS, agent.child.pid)
    assert [(worker.name, worker.pid, worker.answers) for worker in state.workers] == [("shop", *agent.workers(), True)]
    assert state.ports == ()
    processes = [agent.child.pid, *agent.workers()]
    monkeypatch.setattr(doctor_home, "AGENT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(doctor_home, "WORKER_TIMEOUT_S", 0.2)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        state = doctor_home.look(agent.layout)
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
        monkeypatch.undo()
    assert (state.agent.state, state.workers[0].answers) == (AgentState.SILENT, False)
    agent.end(signal.SIGKILL)
    state = doctor_home.look(agent.layout)
    assert (state.agent.state, state.workers[0].answers) == (AgentState.KILLED, True)
    agent.start()
    agent.end(signal.SIGTERM)
    assert doctor_home._agent(agent.layout).state is AgentState.NONE


def test_an_agent_that_runs_beside_its_unit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    layout, root = Layout(tmp_path / "state"), tmp_path / "root"
    path = tmp_path / "config" / unit.USER_FOLDER / unit.NAME
    wanted = Install(system=False, command=("orch",), state=str(layout.root), environment_file="/e")
    write(path, unit.unit(wanted))
    assert doctor_home._unit(layout, root) is None  # no systemd runs here
    (root / "run/systemd/system").mkdir(parents=True)
    assert doctor_home._unit(layout, root) == "--user orch-agent.service"
    write(path, unit.unit(replace(wanted, state="/elsewhere")))
    assert doctor_home._unit(layout, root) is None
    write(root / "proc/7/cgroup", f"0::/user.slice/app.slice/{unit.NAME}\n")
    write(root / "proc/8/cgroup", "0::/user.slice\n")
    told = [doctor_home._is_beside(AgentFact(AgentState.RUNS, pid), root) for pid in (7, 8, 9)]
    assert told == [False, True, False]
    assert not doctor_home._is_beside(AgentFact(AgentState.NONE), root)


def test_a_part_that_hangs_or_breaks_is_unknown_and_holds_up_nobody() -> None:
    listening, other = socket.socketpair()
    try:
        waits = doctor_look._begin(lambda: listening.recv(1), "a disk", 0.05)
        breaks = doctor_look._begin(lambda: json.loads("{"), "a file", 5.0)
        assert waits() == Unknown("a disk could not be looked at within 0.05 s")
        assert isinstance(found := breaks(), Unknown)
        assert found.why.startswith("a file could not be looked at: Expecting property name")
    finally:
        other.close()
        listening.close()


def test_what_is_installed_is_what_the_project_asks_for() -> None:
    software = doctor_look._software()
    names = {package.name for package in software.packages}
    assert {"openvino", "pydantic", "typer", "numpy"} <= names
    assert all(package.wanted.startswith(("<", ">")) for package in software.packages)
    assert (software.python_wanted, software.git is not None) == (">=3.11", True)


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("numpy<3,>=2.0", ("numpy", "<3,>=2.0")),
        ("uvicorn[standard] >=0.3", ("uvicorn", ">=0.3")),
        ("a-b.c (>=1) ; python_version < '4'", ("a-b.c", ">=1")),
        ("plain", ("plain", "")),
    ],
)
def test_a_requirement_is_a_name_and_versions(text: str, package: tuple[str, str]) -> None:
    assert doctor_look._requirement(text) == package
    assert Package(*package[:1], None, package[1]).wanted == package[1]
