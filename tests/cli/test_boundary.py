"""The one error boundary: every way out has its code and its words, and none a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.cli.boundary import EXIT_CODES, guarded, trouble_exits
from orchestrator.errors import Kind, OrchError, Problem


def leave(exception: BaseException, home: Path) -> int:
    def main() -> None:
        raise exception

    return guarded(main, command=["orch", "status"], environ={"ORCH_HOME": str(home)})


def test_every_kind_of_error_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == set(Kind)
    assert {code for kind, code in EXIT_CODES.items() if kind is not Kind.INTERNAL} == {1}


def test_problems_are_lines_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = OrchError(Kind.INVALID, [Problem("is wrong", "a.yaml:3:1", "mend it"), Problem("is bad")])
    assert leave(error, tmp_path) == 1
    assert capsys.readouterr() == ("", "error: a.yaml:3:1: is wrong\nhint: mend it\nerror: is bad\n")


def test_a_clean_end_is_0_and_an_exit_keeps_its_code(tmp_path: Path) -> None:
    assert guarded(lambda: None, command=[], environ={}) == 0
    assert leave(SystemExit(0), tmp_path) == 0
    assert leave(SystemExit(None), tmp_path) == 0
    assert leave(SystemExit(2), tmp_path) == 2
    assert leave(SystemExit("words"), tmp_path) == 1


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), SystemExit(130)])
def test_ctrl_c_is_130_with_a_word(
    exception: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(exception, tmp_path) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_is_3_with_a_report_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(ZeroDivisionError("division by zero"), tmp_path) == 3
    told = capsys.readouterr().err
    assert "Traceback" not in told
    (report,) = (tmp_path / "reports").iterdir()
    assert str(report) in told
    text = report.read_text()
    assert "command: orch status" in text
    assert "ZeroDivisionError: division by zero" in text
    assert f"python: {sys.version.split()[0]}" in text
    assert report.stat().st_mode & 0o077 == 0


def test_a_bug_is_told_even_where_no_report_can_be_written_to_the_state_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reports").write_text("in the way")
    assert leave(ZeroDivisionError("division by zero"), tmp_path) == 3
    report = Path(capsys.readouterr().err.split()[-1])
    assert report.is_file()
    report.unlink()


@pytest.mark.parametrize(("kind", "code"), [(Kind.INVALID, 2), (Kind.FAILED, 2), (Kind.INTERNAL, 3)])
def test_trouble_has_a_code_of_its_own_where_1_means_a_difference(
    kind: Kind, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        with trouble_exits(2):
            raise OrchError(kind, "no")

    assert guarded(main, command=[], environ={}) == code
    assert capsys.readouterr().err == "error: no\n"
