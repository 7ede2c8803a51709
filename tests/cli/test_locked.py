"""Locks at the command line: written, checked, demanded, and never anything measured where they fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from stand_in import ROOT, as_json, orch, stand_in

from orchestrator.inventory.text import inventory_to_yaml
from orchestrator.manifest.load import load
from orchestrator.planner.decision import Decision
from orchestrator.planner.lock import locked
from orchestrator.runner.assemble import Assembled, assemble_all
from orchestrator.runner.decide import Ask, Policy, Tell
from orchestrator.runner.locks import write_lock
from tests.builders_decision import a_decision

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  endpoint: {http: 127.0.0.1:0, grpc: null}
  models:
    - {name: digits, source: digits.onnx, slo: {latency: 200ms, rate: 25/s}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def measured(ask: Ask, _tell: Tell, _cancelled: Callable[[], bool], /) -> Mapping[str, Decision]:
    sentences = ("Two streams carry 41.5/s.", "Would change: the SLO.")
    return {
        name: a_decision(model=name, model_sha256=ask.infos[name].sha256, sentences=sentences) for name in ask.modes
    }


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a manifest with its model, and no lock."""
    shutil.copy(ROOT / "deployments/models/digits.onnx", tmp_path)
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def locked_shop(shop: Path) -> Path:
    """Return a manifest whose lock fits this machine."""
    each = _assembled(shop)
    lock = locked(None, each.document.deployment, each.facts.inventory, each.plan.cpus, each.found.decisions)
    write_lock(shop.with_name("shop.lock.yaml"), lock)
    return shop


def _assembled(path: Path) -> Assembled:
    (each,) = assemble_all(load([str(path)]).documents, inventory=None, timeout_s=60, policy=Policy(measure=measured))
    return each


def test_check_passes_with_a_lock_that_fits_and_says_so(home: Path, locked_shop: Path) -> None:
    ran = orch(home, "plan", "--check", str(locked_shop))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "shop: the lock fits\n", "")


def test_check_passes_where_nothing_is_to_be_locked(home: Path) -> None:
    ran = orch(home, "plan", "--check", "deployments/quickstart.yaml")
    assert (ran.returncode, ran.stdout) == (0, "quickstart: planned by rule, needs no lock\n")


def test_check_fails_without_a_lock_and_says_how_to_write_one(home: Path, shop: Path) -> None:
    ran = orch(home, "plan", "--check", str(shop))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: shop: there is no lock file beside the manifest\nhint: measure once")


def test_check_fails_when_the_slo_drifted_and_names_both(home: Path, locked_shop: Path) -> None:
    locked_shop.write_text(MANIFEST.replace("200ms", "100ms"))
    ran = orch(home, "plan", "--check", str(locked_shop))
    assert ran.returncode == 1
    assert "error: shop/digits: slo was latency 200ms" in ran.stderr
    assert "and is latency 100ms" in ran.stderr


def test_check_for_another_machine_tells_that_the_lock_does_not_know_it(
    home: Path, locked_shop: Path, tmp_path: Path
) -> None:
    other = ROOT / "tests/fixtures/inventories/xeon-dual-socket.yaml"
    ran = orch(home, "plan", "--check", "--inventory", str(other), str(locked_shop))
    assert ran.returncode == 1
    assert "the lock does not know this machine" in ran.stderr
    same = tmp_path / "same.inventory"
    same.write_text(inventory_to_yaml(_assembled(locked_shop).facts.inventory))
    assert orch(home, "plan", "--check", "--inventory", str(same), str(locked_shop)).returncode == 0


def test_a_broken_lock_is_refused_at_its_line(home: Path, locked_shop: Path) -> None:
    lock = locked_shop.with_name("shop.lock.yaml")
    lock.write_text(lock.read_text().replace("kind: Lock", "kind: Lick"))
    ran = orch(home, "plan", "--check", str(locked_shop))
    assert ran.returncode == 1
    assert "shop.lock.yaml:5:7: kind: " in ran.stderr


def test_a_plan_with_a_lock_runs_what_it_holds_and_is_the_same_for_diff(home: Path, locked_shop: Path) -> None:
    planned = as_json(orch(home, "plan", str(locked_shop), "-o", "json").stdout)
    (item,) = planned["items"]
    assert item["origin"] == "lock"
    assert item["plan"]["models"][0]["verdict"] == "verified"
    assert item["decisions"]["digits"]["sentences"][0] == "Two streams carry 41.5/s."
    compared = orch(home, "diff", str(locked_shop))
    assert (compared.returncode, compared.stderr) == (1, "")
    assert f"--plan {planned['digest']}" in compared.stdout


def test_explain_says_why_and_what_would_change_it(home: Path, locked_shop: Path) -> None:
    ran = orch(home, "plan", "--explain", str(locked_shop))
    assert ran.stdout == "shop/digits (as locked)\n  Two streams carry 41.5/s.\n  Would change: the SLO.\n"
    assert "planned by rule" in orch(home, "plan", "--explain", "deployments/quickstart.yaml").stdout


def test_explain_says_why_a_lock_was_not_used(home: Path, locked_shop: Path) -> None:
    other = str(ROOT / "tests/fixtures/inventories/xeon-dual-socket.yaml")
    text = " ".join(orch(home, "plan", "--explain", "--inventory", other, str(locked_shop)).stdout.split())
    assert text.startswith("shop/digits (planned by rule)")
    assert "warning: the lock does not fit, so it was not used: the lock does not know this machine" in text
    assert "warning: digits is planned by rule: no profile is named; measure it where it runs" in text


def test_diff_measures_nothing_and_says_what_apply_would_measure(home: Path, shop: Path) -> None:
    ran = orch(home, "diff", str(shop))
    assert ran.returncode == 1
    assert ran.stderr.startswith("not measured yet, shown as planned by rule: shop/digits")
    assert "--plan" not in ran.stdout


def test_writing_a_lock_that_fits_changes_nothing(home: Path, locked_shop: Path) -> None:
    lock = locked_shop.with_name("shop.lock.yaml")
    before = lock.read_bytes()
    ran = orch(home, "plan", "--write-lock", str(locked_shop))
    assert (ran.returncode, lock.read_bytes()) == (0, before)
    assert "is as it should be" in ran.stderr


def test_nothing_is_locked_that_was_planned_by_rule(home: Path, shop: Path) -> None:
    shop.write_text(MANIFEST.replace("spec:", "spec:\n  planning: {mode: hint}"))
    ran = orch(home, "plan", "--write-lock", str(shop))
    assert (ran.returncode, ran.stderr) == (0, "nothing to lock: everything is planned by rule\n")
    shop.write_text(MANIFEST.replace("spec:", "spec:\n  planning: {mode: predict}"))
    ran = orch(home, "plan", "--write-lock", str(shop))
    assert ran.returncode == 1
    assert ran.stderr.startswith("warning: shop: digits has no profile of this machine that is complete enough")
    assert "error: shop: nothing was measured of digits" in ran.stderr
    assert not shop.with_name("shop.lock.yaml").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--check", "--replan"], "leave one of them out"),
        (["--check", "--write-lock"], "--check writes nothing"),
        (["--inventory", "x", "--replan"], "cannot be measured from here"),
        (["--inventory", "x", "--mode", "measure"], "cannot be measured from here"),
        (["--mode", "guess"], "'guess' is none of measure, predict, hint"),
        (["--budget", "5"], "--budget must be a duration with its unit"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    home: Path, shop: Path, options: list[str], words: str
) -> None:
    ran = orch(home, "plan", *options, str(shop))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert words in ran.stderr


def test_apply_locked_tells_the_agent(home: Path, shop: Path) -> None:
    with stand_in(home, {"apply": {"deployments": []}}) as agent:
        assert agent.orch("apply", "--locked", str(shop)).returncode == 0
        assert agent.asked("apply")[0]["locked"] is True
    ran = orch(home, "apply", "--locked", "--dry-run", str(shop))
    assert ran.returncode == 1
    assert "no lock file" in ran.stderr
