"""`orch doctor` from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import as_json, orch

from orchestrator.agent.doctor_check import Check, Level
from orchestrator.cli import doctor_command
from orchestrator.cli.render import Output, Screen


def test_a_machine_without_an_agent_is_looked_at_and_what_fails_is_the_exit_code(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "state.db").write_bytes(b"no database at all" * 300)
    (home / "state.db").chmod(0o600)
    ran = orch(home, "doctor", "-o", "json")
    report = as_json(ran.stdout)
    assert (ran.returncode, report["kind"]) == (1, "DoctorReport")
    failed = [item for item in report["items"] if item["status"] == "FAIL"]
    assert [(item["check"], item["command"]) for item in failed] == [
        ("state-file", "orch agent stop; orch agent start")
    ]
    assert ran.stderr == f"1 of {len(report['items'])} checks fail\n"
    (engine,) = [item for item in report["items"] if item["check"] == "openvino"]
    assert (engine["status"], "CPU" in engine["message"]) == ("OK", True)
    assert (home / "state.db").read_bytes() == b"no database at all" * 300


CHECKS = (
    Check("clock", Level.OK, "synchronised"),
    Check("agent", Level.FAIL, "no agent runs, and 2 deployments recorded", "orch agent start"),
)


def test_a_terminal_shows_the_command_below_and_cuts_nothing() -> None:
    assert doctor_command._for_people(CHECKS, Screen(45)) == (
        "OK    clock  synchronised\n"
        "FAIL  agent  no agent runs, and 2 deployments\n"
        "             recorded\n"
        "             $ orch agent start"
    )


def test_a_pipe_gets_a_row_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_command._text(CHECKS, Output.TABLE) == (
        "STATUS\tCHECK\tFOUND\tCOMMAND\n"
        "OK\tclock\tsynchronised\t-\n"
        "FAIL\tagent\tno agent runs, and 2 deployments recorded\torch agent start\n"
    )
