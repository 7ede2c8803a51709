"""Sources from outside: what is asked of a scripted agent, and what people, pipes and programs are told."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from stand_in import as_json, stand_in

from orchestrator.agent.source_state import Fault, SourcePlan, SourceRecord, SourceState, Tried, Trouble
from orchestrator.agent.source_status import NOTHING_AROUND, Around, item
from orchestrator.cli.render import Screen, table
from orchestrator.cli.source_table import description, source_table
from orchestrator.errors import Kind, OrchError, Problem

NOW = datetime.fromisoformat("2026-11-22T15:00:00+00:00")
THEN = NOW.timestamp() - 240
PLAN = SourcePlan(url="https://git.example.com/shop.git", branch="main", path="sites/berlin", webhook="127.0.0.1:9292")
GOOD = Tried(
    commit="c0ffee00" * 5, author="Ada <ada@example.com>", subject="Open", began=THEN, result="applied", generation=1
)
FAULT = Fault(
    what="spec.models[0].compile: unknown key 'streems'",
    where="sites/berlin/shop.yaml:10:17",
    hint="did you mean 'streams'?",
    commit="badc0de0" * 5,
    author="Bob <bob@example.com>",
)
BAD = GOOD.model_copy(
    update={"commit": "badc0de0" * 5, "subject": "Typo", "result": "failed", "kind": "invalid", "faults": (FAULT,)}
)
LOOPING = Around(broken={"shop": "CrashLoop: the worker (pid 7) ended with exit code 1"})


def an_item(plan: SourcePlan = PLAN, around: Around = NOTHING_AROUND, **state: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"applied": GOOD, "attempted": GOOD, "names": ("shop",)} | state
    record = SourceRecord("shop", "text", "/d/source.yaml", {}, plan, 1, THEN, SourceState(**given))
    return item(record, ["shop"], NOW.timestamp(), around)


def shown(*items: dict[str, Any], width: int = 100) -> str:
    return table(source_table(items, NOW), Screen(width))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_the_list_says_below_a_row_what_is_wrong_and_whose_it_is() -> None:
    assert shown(an_item(), an_item(attempted=BAD)).splitlines() == [
        "NAME  TYPE  PLACE                             HEALTH    APPLIED   ATTEMPTED  DEPLOYMENTS  AGE",
        "shop  git   https://git.example.com/shop.git  Healthy   c0ffee00  c0ffee00             1   4m",
        "shop  git   https://git.example.com/shop.git  Degraded  c0ffee00  badc0de0             1   4m",
        "  commit badc0de0 failed: sites/berlin/shop.yaml:10:17: spec.models[0].compile: unknown key",
        "  'streems' (by Bob <bob@example.com>)",
    ]


@pytest.mark.parametrize(
    ("state", "health", "reason", "ready"),
    [
        ({}, "Healthy", "Applied", "True"),
        ({"attempted": BAD}, "Degraded", "CommitFailed", "False"),
        ({"attempted": None, "applied": None}, "Progressing", "Starting", "Unknown"),
        ({"attempted": GOOD.model_copy(update={"result": "running"})}, "Progressing", "Reconciling", "Unknown"),
        ({"trouble": Trouble(what="the host is gone", hint=None, since=THEN)}, "Degraded", "RemoteFailed", "False"),
        ({"held": ("shop",)}, "Healthy", "Held", "True"),
        ({"around": LOOPING}, "Degraded", "DeploymentFailed", "False"),
        ({"around": LOOPING, "held": ("shop",)}, "Degraded", "DeploymentFailed", "False"),
        ({"around": Around(deaf="the port is taken")}, "Degraded", "WebhookFailed", "True"),
        ({"plan": PLAN.model_copy(update={"suspend": True})}, "Suspended", "Suspended", "True"),
    ],
)
def test_health_and_conditions_say_the_same(state: dict[str, Any], health: str, reason: str, ready: str) -> None:
    told = an_item(**state)
    conditions = {each["type"]: each["status"] for each in told["conditions"]}
    assert (told["health"], told["reason"], conditions["Ready"]) == (health, reason, ready)
    assert conditions["Stalled"] == str(reason == "CommitFailed")
    assert conditions["Reconciling"] == str(health == "Progressing")


def test_a_description_has_the_faults_with_what_to_do() -> None:
    text = description(an_item(attempted=BAD), [], Screen(100), NOW)
    assert "Applied      c0ffee00 by Ada <ada@example.com> (Open), 4m ago, applied\n" in text
    assert "Webhook      http://127.0.0.1:9292/hooks/shop\n" in text
    fault = "  sites/berlin/shop.yaml:10:17: spec.models[0].compile: unknown key 'streems'"
    assert f"{fault} (commit badc0de0 by Bob <bob@example.com>)\n    hint: did you mean 'streams'?\n" in text


def test_what_does_not_run_of_a_good_commit_is_named() -> None:
    assert an_item(around=LOOPING)["message"] == (
        "commit c0ffee00 is applied, but not all of it runs: shop: CrashLoop: the worker (pid 7) ended with exit code 1"
    )
    many = Around(broken={f"d{number}": "Missing" for number in range(5)})
    assert an_item(around=many)["message"].endswith("runs: d0: Missing; d1: Missing; d2: Missing; and 2 more")


def test_a_webhook_that_cannot_listen_is_told_beside_its_address() -> None:
    told = an_item(around=Around(deaf="127.0.0.1:9292: cannot listen: Address already in use"))
    text = description(told, [], Screen(200), NOW)
    assert "Webhook      http://127.0.0.1:9292/hooks/shop (does not listen: nobody can tell of a push" in text
    assert "Address already in use" in shown(told)


def test_programs_read_revisions_and_faults_as_flux_has_them(home: Path) -> None:
    answer = {"apiVersion": "orch/v1", "kind": "SourceList", "items": [an_item(attempted=BAD)]}
    with stand_in(home, {"sources": answer}) as agent:
        (told,) = as_json(agent.orch("source", "list", "-o", "json").stdout)["items"]
    assert told["lastAppliedRevision"] == f"main@{GOOD.commit}"
    assert told["lastAttemptedRevision"] == f"main@{BAD.commit}"
    (fault,) = told["attempted"]["faults"]
    assert (fault["file"], fault["line"], fault["author"]) == ("sites/berlin/shop.yaml", 10, "Bob <bob@example.com>")


def test_adding_sends_a_manifest_that_holds_what_was_said(home: Path) -> None:
    with stand_in(home, {"source_put": {"sources": [{"name": "shop", "action": "create"}]}}) as agent:
        said = ("--url", "https://git.example.com/shop.git", "--path", "sites/berlin", "--interval", "30s")
        ran = agent.orch(
            "source", "add", "shop", *said, "--webhook-secret-file", "secret", "--model-root", "/opt/models"
        )
        exported = agent.orch("source", "add", "shop", *said, "--export")
        (params,) = agent.asked("source_put")
    assert (ran.returncode, ran.stdout) == (0, "source shop created\n")
    assert params["documents"][0]["text"] == (
        "apiVersion: orch/v1\nkind: Source\nmetadata:\n  name: shop\nspec:\n"
        "  git:\n    url: https://git.example.com/shop.git\n"
        "  path: sites/berlin\n  interval: 30s\n"
        "  model_roots:\n  - /opt/models\n  webhook:\n    secret_file: secret\n"
    )
    assert exported.stdout.endswith("  path: sites/berlin\n  interval: 30s\n")


def test_reconcile_says_how_it_ended_and_exits_1_when_it_failed(home: Path) -> None:
    error = OrchError(
        Kind.INVALID, [Problem("unknown key (commit badc0de0 by Bob)", "site/shop.yaml:10:17", "drop it")]
    )
    with stand_in(home, {"source_reconcile": error}) as agent:
        ran = agent.orch("source", "reconcile", "shop", "--timeout", "2m")
        assert agent.asked("source_reconcile") == [{"name": "shop", "timeout_s": 120.0, "prune_all": False}]
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "error: site/shop.yaml:10:17: unknown key (commit badc0de0 by Bob)\nhint: drop it\n"
    with stand_in(home, {"source_reconcile": {"text": "commit c0ffee00: 1 changed"}}) as agent:
        ran = agent.orch("source", "reconcile", "shop")
    assert (ran.returncode, ran.stdout) == (0, "shop: commit c0ffee00: 1 changed\n")


def test_a_manifest_of_a_source_is_applied_and_validated_as_any_other(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "source.yaml"
    path.write_text("apiVersion: orch/v1\nkind: Source\nmetadata: {name: shop}\nspec: {folder: /srv/shop}\n")
    with stand_in(home, {"source_put": {"sources": [{"name": "shop", "action": "update"}]}}) as agent:
        assert agent.orch("validate", str(path)).stdout == f"{path}: ok (1 source)\n"
        ran = agent.orch("apply", str(path))
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "source shop updated\n", "")
        dry = agent.orch("apply", "--dry-run", str(path))
        assert (dry.returncode, dry.stderr) == (0, "dry run: source shop updated\n")
        assert [params["dry"] for params in agent.asked("source_put")] == [False, True]


def test_deleting_tells_what_went_with_it(home: Path) -> None:
    with stand_in(home, {"source_delete": {"deleted": "shop", "deployments": ["a", "b"]}}) as agent:
        ran = agent.orch("source", "delete", "shop")
        assert agent.asked("source_delete") == [{"name": "shop", "keep_deployments": False}]
    assert (ran.returncode, ran.stdout) == (0, "a deleted\nb deleted\nsource shop deleted\n")


def test_what_is_wrong_with_an_option_is_said_without_a_line_that_nobody_wrote(home: Path) -> None:
    error = OrchError(Kind.INVALID, [Problem("spec.locks: must be 'measure'", "-:8:10", "did you mean 'measure'?")])
    with stand_in(home, {"source_put": error}) as agent:
        ran = agent.orch("source", "add", "shop", "--url", "/srv/shop.git", "--locks", "measur")
    assert ran.stderr == "error: spec.locks: must be 'measure'\nhint: did you mean 'measure'?\n"
