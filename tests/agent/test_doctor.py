"""What the doctor says of facts: one finding for each, and the command that mends it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.doctor import NAMES, judge
from orchestrator.agent.doctor_check import GIB, Check, Level
from orchestrator.agent.doctor_facts import (
    Agent,
    AgentState,
    Certificate,
    DeviceFile,
    DeviceKind,
    Engine,
    Facts,
    Folder,
    Machine,
    Package,
    Port,
    Room,
    Software,
    Source,
    State,
    StateFile,
    Unknown,
    Worker,
)

NOW = 1_800_000_000.0
DAY = 86_400.0
SOFTWARE = Software("0.1.0", "3.11.7", ">=3.11", (Package("numpy", "2.4.6", "<3,>=2.0"),), git="2.39.5")
ENGINE = Engine("2026.4.1", ("CPU",))
MACHINE = Machine(
    user="ann",
    cpus=8,
    quota_cpus=None,
    memory_bytes=32 * GIB,
    available_bytes=20 * GIB,
    limit_bytes=None,
    used_bytes=None,
    swapped_bytes_s=0.0,
    governors=("performance",),
    self_governing=False,
    throttled_share=0.0,
    hot=0,
    synchronised=True,
    stepped_s=0.0,
    files_max=1_048_576,
    shared_memory_free=0.9,
)
FOLDER = Folder("/s", exists=True, owner="ann", filesystem="ext4")
FILE = StateFile("/s/state.db", newest=2, version=2)
AGENT = Agent(AgentState.RUNS, 4711, "0.1.0")
SHOP = Worker("shop", "/s/workers/shop", recorded=True, pid=4712, answers=True)
STATE = State(
    FOLDER,
    FILE,
    AGENT,
    ("shop",),
    frozenset({"CPU"}),
    (SHOP,),
    rooms=(Room("/s", "the state", 9 * GIB, 10 * GIB, 9999),),
)
WELL = Facts(NOW, SOFTWARE, ENGINE, MACHINE, STATE)


def found(name: str, facts: Facts) -> list[Check]:
    return [check for check in judge(facts) if check.name == name]


def a_machine(**changes: Any) -> Facts:
    return replace(WELL, machine=replace(MACHINE, **changes))


def a_state(**changes: Any) -> Facts:
    return replace(WELL, state=replace(STATE, **changes))


def test_a_machine_that_is_well_has_nothing_to_mend() -> None:
    checks = judge(WELL)
    assert {check.level for check in checks} == {Level.OK}
    assert [check.command for check in checks if check.command] == []
    assert [check.name for check in checks] == sorted((check.name for check in checks), key=NAMES.index)


GPU = DeviceFile("/dev/dri/renderD128", DeviceKind.GPU, intel=True, usable=True, group="render")
CASES: list[tuple[str, Facts, Level, str, str | None]] = [
    # software
    (
        "python",
        replace(WELL, software=replace(SOFTWARE, python="3.10.2")),
        Level.FAIL,
        "3.10.2 is not supported",
        "venv",
    ),
    (
        "packages",
        replace(
            WELL,
            software=replace(SOFTWARE, packages=(Package("numpy", "3.0", "<3,>=2.0"), Package("rich", None, ">=13.9"))),
        ),
        Level.FAIL,
        "numpy 3.0 (wanted <3,>=2.0), rich missing (wanted >=13.9)",
        "python -m pip install 'numpy<3,>=2.0' 'rich>=13.9'",
    ),
    (
        "openvino",
        replace(WELL, engine=Engine(None, error="died by SIGILL")),
        Level.FAIL,
        "died by SIGILL",
        "--force-reinstall openvino",
    ),
    # devices
    (
        "devices",
        a_machine(device_files=(replace(GPU, usable=False),)),
        Level.WARN,
        "ann may not use /dev/dri/renderD128 (group render)",
        "sudo usermod -aG render ann",
    ),
    (
        "devices",
        replace(
            a_machine(device_files=(replace(GPU, usable=False),)), state=replace(STATE, devices=frozenset({"GPU"}))
        ),
        Level.FAIL,
        "may not use",
        "sudo usermod -aG render ann",
    ),
    (
        "devices",
        a_machine(device_files=(GPU,)),
        Level.WARN,
        "its driver is missing",
        "sudo apt-get install intel-opencl-icd",
    ),
    (
        "devices",
        a_machine(device_files=(DeviceFile("/dev/accel/accel0", DeviceKind.NPU, None, True, "render"),)),
        Level.WARN,
        "OpenVINO sees no NPU",
        "sudo apt-get install intel-driver-compiler-npu intel-level-zero-npu",
    ),
    ("devices", a_machine(device_files=(replace(GPU, intel=False),)), Level.OK, "is not Intel's", None),
    ("devices", a_state(devices=frozenset({"GPU"})), Level.FAIL, "planned on GPU, and there is none", "orch devices"),
    (
        "devices",
        replace(a_machine(device_files=(GPU,)), engine=Engine("2026.4", ("CPU", "GPU.0"))),
        Level.OK,
        "GPU is seen",
        None,
    ),
    # the machine
    (
        "processors",
        a_machine(quota_cpus=0.5),
        Level.WARN,
        "less than one processor",
        "docker update --cpus 2 CONTAINER",
    ),
    (
        "processors",
        a_machine(quota_cpus=2.0, throttled_share=0.3),
        Level.WARN,
        "stopped this group for 30%",
        "orch status -o wide",
    ),
    ("memory", a_machine(available_bytes=GIB), Level.WARN, "1.0 GiB of 32.0 GiB free", "orch status -o wide"),
    (
        "memory",
        a_machine(limit_bytes=2 * GIB, used_bytes=2 * GIB - 1),
        Level.WARN,
        "(the cgroup's limit)",
        "orch status -o wide",
    ),
    ("swap", a_machine(swapped_bytes_s=9.0 * 2**20), Level.WARN, "swaps 9 MiB a second", "ps -eo pid,rss,comm"),
    (
        "clock-speed",
        a_machine(governors=("powersave",)),
        Level.WARN,
        "lowest clock",
        "sudo cpupower frequency-set -g performance",
    ),
    ("clock-speed", a_machine(governors=("powersave",), self_governing=True), Level.OK, "powersave", None),
    ("clock-speed", a_machine(hot=3), Level.WARN, "for heat 3 times", "thermal_zone"),
    ("clock", a_machine(synchronised=False), Level.WARN, "not synchronised", "sudo timedatectl set-ntp true"),
    ("clock", a_machine(synchronised=None), Level.OK, "does not say", None),
    ("clock", a_machine(stepped_s=-2.0), Level.WARN, "jumped by -2.0 s", "timedatectl"),
    ("files", a_machine(files_max=1024), Level.WARN, "1024 files", "ulimit -Hn 65536"),
    ("files", a_machine(files_max=None), Level.OK, "no limit", None),
    ("shared-memory", a_machine(shared_memory_free=0.01), Level.WARN, "/dev/shm is 99% full", "ls -lS /dev/shm"),
    # the state folder
    ("state-path", a_state(folder=replace(FOLDER, too_long=True)), Level.FAIL, "too long", "export ORCH_HOME="),
    (
        "state-folder",
        a_state(folder=replace(FOLDER, owner="root", owned=False)),
        Level.FAIL,
        "belongs to root",
        "sudo -u root ORCH_HOME=/s orch doctor",
    ),
    ("state-folder", a_state(folder=replace(FOLDER, filesystem="nfs4")), Level.FAIL, "on nfs4", "export ORCH_HOME="),
    ("state-folder", a_state(folder=replace(FOLDER, mode=0o755)), Level.FAIL, "mode 0755", "chmod 700 /s"),
    (
        "state-folder",
        a_state(folder=replace(FOLDER, odd_modes=(("/s/agent.sock", 0o666),))),
        Level.FAIL,
        "/s/agent.sock (0666)",
        "chmod 600 /s/agent.sock",
    ),
    (
        "disk",
        a_state(rooms=(Room("/s", "the state", GIB // 2, GIB, None),)),
        Level.WARN,
        "512 MiB free for the state",
        "du -xh",
    ),
    ("disk", a_state(rooms=(Room("/s", "the state", 10, GIB, None),)), Level.FAIL, "0 MiB free", "du -xh"),
    (
        "disk",
        a_state(rooms=(Room("/s", "the state", 9 * GIB, 9 * GIB, 3),)),
        Level.FAIL,
        "3 files can still be made",
        "du --inodes",
    ),
    (
        "state-file",
        a_state(file=replace(FILE, version=None, problem="damaged: x")),
        Level.FAIL,
        "damaged: x",
        "orch agent stop; orch agent start",
    ),
    (
        "state-file",
        a_state(file=replace(FILE, version=3)),
        Level.FAIL,
        "version 3, and this orch reads up to 2",
        "orch agent downgrade --to 2",
    ),
    ("state-file", a_state(file=replace(FILE, version=1)), Level.OK, "upgrades it to 2", None),
    # what runs
    (
        "agent",
        a_state(agent=Agent(AgentState.SILENT, 4711)),
        Level.FAIL,
        "does not answer",
        "kill -9 4711; orch agent start",
    ),
    ("agent", a_state(agent=Agent(AgentState.KILLED)), Level.FAIL, "ended without being asked", "orch agent start"),
    (
        "agent",
        a_state(agent=Agent(AgentState.NONE)),
        Level.FAIL,
        "no agent runs, and 1 deployment recorded",
        "orch agent start",
    ),
    ("agent", a_state(agent=Agent(AgentState.NONE), deployments=(), workers=()), Level.OK, "none runs", None),
    (
        "agent-version",
        a_state(agent=replace(AGENT, version="0.0.9")),
        Level.WARN,
        "0.0.9, this command 0.1.0",
        "orch agent stop; orch agent start",
    ),
    (
        "agent",
        a_state(agent=Agent(AgentState.NONE, unit="orch-agent.service")),
        Level.FAIL,
        "no agent runs",
        "systemctl start orch-agent.service",
    ),
    (
        "agent",
        a_state(agent=replace(AGENT, unit="--user orch-agent.service", beside=True)),
        Level.WARN,
        "beside its systemd unit",
        "orch agent stop; systemctl start --user orch-agent.service",
    ),
    ("workers", a_state(workers=()), Level.FAIL, "nothing serves shop", "orch logs shop"),
    ("workers", a_state(workers=(replace(SHOP, answers=False),)), Level.FAIL, "does not answer", "orch logs shop"),
    (
        "workers",
        a_state(workers=(SHOP, Worker("old", "/s/workers/old", False, None))),
        Level.WARN,
        "/s/workers/old is left",
        "rm -r /s/workers/old",
    ),
    (
        "workers",
        a_state(workers=(SHOP, Worker("old", "/s/workers/old", False, 99, True))),
        Level.WARN,
        "serves no recorded deployment",
        "orch agent stop; orch agent start",
    ),
    (
        "ports",
        a_state(ports=(Port("shop", "http", "127.0.0.1:8000", "pid 77 (nginx)"),)),
        Level.FAIL,
        "shop: http 127.0.0.1:8000 is taken by pid 77 (nginx)",
        "sudo ss -ltnp 'sport = :8000'",
    ),
    (
        "shared-memory",
        a_state(shared_memory=("in 1", "out")),
        Level.WARN,
        "left behind in /dev/shm",
        "rm '/dev/shm/in 1' /dev/shm/out",
    ),
    # sources and certificates
    (
        "git",
        replace(a_state(sources=(Source("site", None),)), software=replace(SOFTWARE, git=None)),
        Level.FAIL,
        "need the program git",
        "sudo apt-get install git",
    ),
    (
        "git",
        replace(a_state(sources=(Source("site", None),)), software=replace(SOFTWARE, git="2.20.1")),
        Level.FAIL,
        "2.20.1 is too old",
        "--only-upgrade git",
    ),
    (
        "sources",
        a_state(sources=(Source("site", "remote gone"),)),
        Level.FAIL,
        "site does not get on: remote gone",
        "orch source describe site",
    ),
    (
        "certificates",
        a_state(certificates=(Certificate("shop", "/c", NOW - 1),)),
        Level.FAIL,
        "has expired",
        "openssl x509 -noout -enddate -in /c",
    ),
    (
        "certificates",
        a_state(certificates=(Certificate("shop", "/c", NOW + 3 * DAY),)),
        Level.WARN,
        "expires in 3 days",
        "openssl",
    ),
    (
        "certificates",
        a_state(certificates=(Certificate("shop", "/c", NOW + 90 * DAY),)),
        Level.OK,
        "90 days left",
        None,
    ),
    (
        "certificates",
        a_state(certificates=(Certificate("shop", "/c", None),)),
        Level.FAIL,
        "cannot be read",
        "ls -l /c",
    ),
]


@pytest.mark.parametrize(
    ("name", "facts", "level", "words", "command"), CASES, ids=[f"{case[0]}: {case[3]}" for case in CASES]
)
def test_a_fact_is_judged_and_mended(name: str, facts: Facts, level: Level, words: str, command: str | None) -> None:
    checks = [check for check in found(name, facts) if words in check.message]
    assert [check.level for check in checks] == [level], found(name, facts)
    assert (checks[0].command is None) == (command is None)
    assert command is None or command in str(checks[0].command)


def test_every_failure_and_warning_names_a_command() -> None:
    silent = [check for case in CASES for check in judge(case[1]) if check.level is not Level.OK and not check.command]
    assert silent == []


def test_files_put_aside_as_damaged_are_told_beside_the_state_of_the_file() -> None:
    checks = found("state-file", a_state(file=replace(FILE, damaged=("/s/state.db.damaged-1",))))
    assert [(check.level, check.command) for check in checks] == [
        (Level.OK, None),
        (Level.WARN, "rm /s/state.db.damaged-1"),
    ]


@pytest.mark.parametrize("file", [replace(FILE, version=None, problem="damaged: x"), replace(FILE, version=99)])
def test_nothing_is_said_to_be_left_over_where_the_state_cannot_be_read(file: StateFile) -> None:
    unknown = (Worker("a", "/s/workers/a", False, None), Worker("b", "/s/workers/b", False, 99, True))
    state = a_state(file=file, workers=unknown, deployments=(), shared_memory=("psm_1",))
    assert [(check.level, check.message) for check in found("workers", state)] == [(Level.OK, "1 serving")]
    assert all("psm_1" not in check.message for check in found("shared-memory", state))


def test_what_could_not_be_found_out_fails_and_the_rest_is_judged() -> None:
    facts = Facts(NOW, Unknown("no metadata"), Unknown("60 s"), Unknown("hangs"), STATE)
    failed = [check for check in judge(facts) if check.level is Level.FAIL]
    assert [(check.name, check.message) for check in failed] == [
        ("software", "no metadata"),
        ("openvino", "60 s"),
        ("machine", "hangs"),
    ]
    assert "agent" in {check.name for check in judge(facts)}


def test_a_broken_engine_is_not_blamed_on_drivers() -> None:
    facts = replace(a_machine(device_files=(GPU,)), engine=Engine(None, error="no module"))
    assert [check.level for check in found("devices", facts)] == [Level.OK]


def test_a_folder_that_is_not_there_yet_is_well() -> None:
    state = State(Folder("/s", exists=False), StateFile("/s/state.db", 2), Agent(AgentState.NONE))
    assert {check.level for check in judge(replace(WELL, state=state))} == {Level.OK}


def test_every_check_has_its_place() -> None:
    assert {check.name for case in CASES for check in judge(case[1])} <= set(NAMES)


def test_the_page_for_operators_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z-]+)`", page.partition("## `orch doctor`")[2]))
    assert set(NAMES) <= told
