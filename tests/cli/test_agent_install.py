"""`orch agent install` and `uninstall` from outside, with a folder of settings of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import orch, stand_in

UNIT = "systemd/user/orch-agent.service"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def test_a_dry_run_writes_the_unit_and_nothing_else(tmp_path: Path, config: Path) -> None:
    home = tmp_path / "home"
    for scope, wanted in (("--user", "default.target"), ("--system", "multi-user.target")):
        ran = orch(home, "agent", "install", scope, "--dry-run", XDG_CONFIG_HOME=str(config))
        assert (ran.returncode, ran.stderr) == (0, "")
        assert f"WantedBy={wanted}" in ran.stdout
        assert ("ProtectSystem=strict" in ran.stdout) == (scope == "--system")
        assert f"ORCH_HOME={home if scope == '--user' else '/var/lib/orch'}\n" in ran.stdout
    assert not config.exists()


def test_installing_writes_the_unit_keeps_the_environment_and_says_what_to_run(tmp_path: Path, config: Path) -> None:
    home = tmp_path / "home"
    ran = orch(home, "agent", "install", "--user", XDG_CONFIG_HOME=str(config))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        f"wrote {config}/orch/agent.env",
        f"wrote {config}/{UNIT}",
        "now run:",
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now orch-agent.service",
    ]
    (config / "orch/agent.env").write_text("OPENVINO_LOG_LEVEL=1\n")
    with stand_in(home, {}):
        ran = orch(home, "agent", "install", "--user", XDG_CONFIG_HOME=str(config))
    assert "note: an agent runs there already (process 1); end it first: orch agent stop" in ran.stdout.splitlines()
    assert (config / "orch/agent.env").read_text() == "OPENVINO_LOG_LEVEL=1\n"
    ran = orch(home, "agent", "uninstall", "--user", XDG_CONFIG_HOME=str(config))
    assert (ran.returncode, (config / UNIT).exists()) == (0, False)
    ran = orch(home, "agent", "uninstall", "--user", XDG_CONFIG_HOME=str(config))
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (1, f"error: {config / UNIT}: there is no unit")


def test_with_now_systemd_is_told_and_its_failure_is_ours(tmp_path: Path, config: Path) -> None:
    """A program of that name stands in for systemctl: it notes what it is asked, and fails where it is to."""
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "asked"
    systemctl = programs / "systemctl"
    systemctl.write_text(
        f'#!/bin/sh\necho "$@" >> {asked}\n[ "$2" != "$FAIL_AT" ] || {{ echo "no bus" >&2; exit 1; }}\n'
    )
    systemctl.chmod(0o755)
    environ = {"XDG_CONFIG_HOME": str(config), "PATH": f"{programs}:/usr/bin:/bin"}
    ran = orch(tmp_path / "home", "agent", "install", "--user", "--now", **environ)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert asked.read_text().splitlines() == ["--user daemon-reload", "--user enable --now orch-agent.service"]
    ran = orch(tmp_path / "home", "agent", "install", "--user", "--now", **environ, FAIL_AT="enable")
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: systemctl --user enable --now orch-agent.service: no bus\nhint: journalctl")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["install", "--user", "--system"], "exclude each other"),
        (["install", "--user", "--now"], "there is no systemctl here"),
        (["downgrade", "--to", "1"], "there is no state"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, config: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "empty").mkdir()
    ran = orch(tmp_path / "home", "agent", *arguments, XDG_CONFIG_HOME=str(config), PATH=str(tmp_path / "empty"))
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
    assert words in ran.stderr
