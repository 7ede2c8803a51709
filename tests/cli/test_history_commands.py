"""History, rollback and differences between revisions from outside, against a scripted agent."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from stand_in import as_json, stand_in

from orchestrator.cli.history_commands import history_table
from orchestrator.cli.render import Screen, table
from orchestrator.cli.revisions import changes_of, numbers, text_of
from orchestrator.errors import Kind, OrchError
from tests.builders import a_model, a_plan

NOW = datetime.fromisoformat("2026-11-22T15:00:00+00:00")


def an_item(number: int, **over: Any) -> dict[str, Any]:
    return {
        "revision": number,
        "time": f"2026-11-22T14:0{number}:00.000Z",
        "generation": number,
        "result": "applied",
        "current": False,
        "source": None,
        "commit": None,
        "author": None,
        "digest": f"{number:012x}",
        "reason": None,
    } | over


ITEMS = [
    an_item(1, source="shops", commit="0123456789abcdef0123456789abcdef01234567", author="Ada <ada@example.org>"),
    an_item(
        2, result="failed", reason="m: p99 61 ms over the SLO of 40 ms in 2.0 s under 55/s; the revision before held it"
    ),
    an_item(3, current=True, reason="rollback to 1"),
]
LIST = {"apiVersion": "orch/v1", "kind": "RevisionList", "name": "shop", "items": ITEMS}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_history_in_a_pipe_is_rows_with_times_and_whole_commits(home: Path) -> None:
    with stand_in(home, {"history": LIST}) as agent:
        ran = agent.orch("history", "shop")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.splitlines() == [
            "REVISION\tTIME\tRESULT\tPLAN\tSOURCE\tCOMMIT\tREASON",
            f"1\t2026-11-22T14:01:00.000Z\tapplied\t{1:012x}\tshops\t{ITEMS[0]['commit']}\t-",
            f"2\t2026-11-22T14:02:00.000Z\tfailed\t{2:012x}\t-\t-\t{ITEMS[1]['reason']}",
            f"3\t2026-11-22T14:03:00.000Z\tcurrent\t{3:012x}\t-\t-\trollback to 1",
        ]
        assert as_json(agent.orch("history", "shop", "-o", "json").stdout) == LIST
        assert agent.asked("history") == [{"name": "shop"}] * 2


def test_history_on_a_terminal_fits_and_cuts_reasons_last() -> None:
    text = table(history_table(ITEMS, NOW, Screen(80)), Screen(80))
    assert text == (
        "REVISION  AGE  RESULT   SOURCE  COMMIT        REASON\n"
        "       1  59m  applied  shops   0123456789ab  -\n"
        "       2  58m  failed   -       -             m: p99 61 ms over the SLO of 40 m…\n"
        "       3  57m  current  -       -             rollback to 1\n"
    )


def test_a_rollback_says_what_changed_and_where_it_is(home: Path) -> None:
    change = {"model": "m", "action": "update", "cause": "queue limit 9 -> 3", "details": []}
    result = {"deployments": [{"name": "shop", "revision": 4, "changes": [change]}], "to": 1}
    line = {"deployment": "shop", "model": "m", "phase": "trying", "message": "under its load"}
    with stand_in(home, {"rollback": [line, result]}) as agent:
        ran = agent.orch("rollback", "shop", "--to", "1", "--no-trial")
        assert (ran.returncode, ran.stderr) == (0, "shop/m: trying (under its load)\n")
        assert ran.stdout == "shop/m updated (queue limit 9 -> 3)\nshop is at revision 4: rollback to 1\n"
        assert agent.asked("rollback") == [{"name": "shop", "to": 1, "timeout_s": 600.0, "trial": False}]
        agent.orch("rollback", "shop")
        assert agent.asked("rollback")[1] == {"name": "shop", "to": None, "timeout_s": 600.0}


def test_a_rollback_says_until_when_a_source_leaves_the_deployment_alone(home: Path) -> None:
    change = {"model": "m", "action": "update", "cause": "queue limit 9 -> 3", "details": []}
    outcome = {"name": "shop", "revision": 4, "changes": [change]}
    with stand_in(home, {"rollback": {"deployments": [outcome], "to": 1, "held_from": "s"}}) as agent:
        told = agent.orch("rollback", "shop").stderr
        assert told == "hint: the source 's' leaves shop alone until: orch source resume s\n"


def test_a_rollback_that_is_refused_says_why_and_exits_1(home: Path) -> None:
    error = OrchError(Kind.CONFLICT, "the file that was planned is gone", where="/models/a.onnx", hint="restore it")
    with stand_in(home, {"rollback": error}) as agent:
        ran = agent.orch("rollback", "shop")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: /models/a.onnx: the file that was planned is gone\nhint: restore it\n"


def test_apply_tells_warnings_at_the_end_and_can_leave_the_trial_out(home: Path) -> None:
    change = {"model": "m", "action": "create", "cause": "no pool ran before", "details": []}
    result = {"deployments": [{"name": "shop", "changes": [change]}], "pruned": []}
    warning = {"deployment": "shop", "model": "m", "phase": "warning", "message": "one inference alone takes 61 ms"}
    with stand_in(home, {"apply": [warning, result]}) as agent:
        ran = agent.orch("apply", "deployments/quickstart.yaml", "--no-trial")
        assert ran.returncode == 0
        assert ran.stderr == "warning: shop/m: one inference alone takes 61 ms\n"
        assert agent.asked("apply")[0]["trial"] is False


@pytest.mark.parametrize(("text", "found"), [("3", (None, 3)), ("3..5", (3, 5)), ("12..4", (12, 4))])
def test_revisions_are_named_by_one_number_or_two(text: str, found: tuple[int | None, int]) -> None:
    assert numbers(text) == found


def test_a_revision_that_is_what_runs_differs_in_nothing(home: Path) -> None:
    answer = {"number": 1, "plan": a_plan(a_model()).model_dump(mode="json")}
    with stand_in(home, {"revision": answer}) as agent:
        ran = agent.orch("diff", "shop", "--revision", "1")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert agent.asked("revision") == [{"name": "shop", "number": None}, {"name": "shop", "number": 1}]


def test_trouble_with_revisions_is_2_as_in_diff(home: Path) -> None:
    with stand_in(home, {"revision": OrchError(Kind.NOT_FOUND, "there is no revision 7", where="shop")}) as agent:
        ran = agent.orch("diff", "shop", "--revision", "7")
        assert (ran.returncode, ran.stderr) == (2, "error: shop: there is no revision 7\n")
        assert agent.orch("diff", "shop", "--revision", "last").returncode == 2
        assert agent.orch("diff", "shop", "b", "--revision", "1").returncode == 2


def test_what_differs_between_revisions_is_shown_as_in_diff_with_the_way_back() -> None:
    first, second = (a_plan(a_model(queue={"limit": limit})).model_dump(mode="json") for limit in (9, 3))
    assert text_of("shop", 4, 2, changes_of(first, second)) == (
        "~  shop/detector  update     queue limit 9 -> 3\n"
        "Revision 4 to 2: 1 update. Go back with: orch rollback shop --to 2\n"
    )
