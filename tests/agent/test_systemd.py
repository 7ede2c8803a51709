"""What systemd is told of the agent, and the unit that starts it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest_agent import WAIT_S, Agent, eventually, manifest

from orchestrator.agent import systemd, unit
from orchestrator.agent.unit import Install
from orchestrator.serving import log_file


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """Stand in for systemd: a socket that takes what it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(WAIT_S)
        yield heard


def test_the_agent_tells_when_it_is_ready_that_it_lives_and_when_it_ends(
    tmp_path: Path, listening: socket.socket
) -> None:
    """And rotates its own log meanwhile: both are done by the same loop."""
    agent = Agent(tmp_path)
    agent.layout.root.mkdir(mode=0o700)
    agent.layout.log.write_bytes(b"x" * log_file.MAX_BYTES)
    try:
        agent.start(NOTIFY_SOCKET=listening.getsockname(), WATCHDOG_USEC="300000")
        heard = {listening.recv(100).decode() for _ in range(4)}
        assert heard == {systemd.READY, systemd.ALIVE}
        eventually(log_file.older(agent.layout.log, 1).exists, "the full log is put aside")
        agent.apply(manifest())
        assert "started worker" in agent.layout.log.read_text()
        (worker,) = agent.workers()
        environ = Path(f"/proc/{worker}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environ
        assert agent.end(signal.SIGTERM) == 0
        assert systemd.STOPPING in _until_silent(listening)
        assert agent.workers() == [worker]
    finally:
        agent.clean_up()


def _until_silent(listening: socket.socket) -> list[str]:
    listening.setblocking(False)
    heard = []
    try:
        while True:
            heard.append(listening.recv(100).decode())
    except BlockingIOError:
        return heard


@pytest.mark.parametrize(
    ("environ", "address", "watchdog_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": "/run/n"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "2000000"}, "\0n", 2.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, "/run/n", 2.0),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "much"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "vsock:2:9"}, None, None),
    ],
)
def test_whom_the_environment_names_is_told(
    environ: dict[str, str], address: str | None, watchdog_s: float | None
) -> None:
    found = systemd.notifier(environ, pid=7)
    assert (found.address, found.watchdog_s) == (address, watchdog_s)


def test_a_systemd_that_is_gone_is_no_error(tmp_path: Path) -> None:
    systemd.Notifier(str(tmp_path / "nobody")).tell(systemd.READY)


SYSTEM = Install(
    system=True,
    command=("/opt/orch/bin/python", "-m", "orchestrator.cli", "agent", "run"),
    state="/var/lib/orch",
    environment_file="/etc/orch/agent.env",
    groups=("render", "video"),
)
USER = Install(
    system=False,
    command=("/home/a b/50%/python", "-m", "orchestrator.cli", "agent", "run"),
    state="/home/a b/$state",
    environment_file="/home/a b/.config/orch/agent.env",
    python_path="/home/a b/orch",
)


def lines(install: Install) -> list[str]:
    return [line for line in unit.unit(install).splitlines() if line and not line.startswith("#")]


def test_the_unit_ends_the_agent_alone_and_watches_over_it() -> None:
    for install in (SYSTEM, USER):
        assert {"Type=notify", "KillMode=process", "Restart=on-failure", "OOMPolicy=continue"} <= set(lines(install))
        assert "WatchdogSec=60" in lines(install)


def test_the_unit_of_the_machine_leaves_workers_what_they_need() -> None:
    found = set(lines(SYSTEM))
    assert {"User=orch", "SupplementaryGroups=render video", "StateDirectory=orch", "PrivateTmp=no"} <= found
    assert {"DeviceAllow=char-drm rw", "DeviceAllow=char-accel rw", "ProtectHome=read-only"} <= found
    # Machine code is written and run, devices are seen, and memory is shared with clients.
    names = {line.partition("=")[0] for line in found}
    assert not names & {"MemoryDenyWriteExecute", "PrivateDevices", "PrivateIPC", "DynamicUser"}


def test_words_with_blanks_and_signs_of_systemd_are_escaped() -> None:
    found = lines(USER)
    assert 'ExecStart="/home/a b/50%%/python" -m orchestrator.cli agent run' in found
    assert 'Environment="ORCH_HOME=/home/a b/$state"' in found
    assert not [line for line in found if line.startswith(("User=", "ProtectSystem=", "DeviceAllow="))]


@pytest.mark.parametrize("install", [SYSTEM, USER], ids=["system", "user"])
def test_every_line_is_one_that_systemd_knows(install: Install, tmp_path: Path) -> None:
    """Compare with the settings of systemd.exec(5) and others; where systemd is, ask itself."""
    for line in lines(install):
        assert line.startswith("[") or line.partition("=")[0] in KNOWN
    program = shutil.which("systemd-analyze")
    if program is not None:
        path = tmp_path / unit.NAME
        # It checks that the program exists, and that of this test does.
        path.write_text(unit.unit(install).replace(unit.quoted(install.command[0]), shutil.which("true") or ""))
        ran = subprocess.run([program, "verify", str(path)], capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")


KNOWN_TEXT = """Description Wants After StartLimitIntervalSec StartLimitBurst WantedBy
    Type ExecStart Environment EnvironmentFile User Group SupplementaryGroups StateDirectory StateDirectoryMode Restart
    RestartSec WatchdogSec TimeoutStopSec KillMode OOMPolicy LimitNOFILE UMask SyslogIdentifier NoNewPrivileges
    CapabilityBoundingSet ProtectSystem ProtectHome ReadWritePaths PrivateTmp DevicePolicy DeviceAllow
    ProtectKernelTunables ProtectKernelModules ProtectKernelLogs ProtectControlGroups ProtectClock ProtectHostname
    ProtectProc RestrictNamespaces RestrictRealtime RestrictSUIDSGID RemoveIPC LockPersonality RestrictAddressFamilies
    SystemCallArchitectures SystemCallFilter SystemCallErrorNumber"""
KNOWN = frozenset(KNOWN_TEXT.split())


def test_the_environment_of_others_says_nothing_for_the_agent() -> None:
    assert systemd.without({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "PATH": os.defpath}) == {"PATH": os.defpath}
