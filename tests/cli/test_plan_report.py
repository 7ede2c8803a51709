"""`orch plan --report`: the page of a locked plan, written whole, and refused before anything is measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from stand_in import ROOT, orch

from orchestrator.manifest.load import load
from orchestrator.planner.decision import Decision
from orchestrator.planner.lock import locked
from orchestrator.profiling.measurement import Profile
from orchestrator.runner.assemble import assemble_all
from orchestrator.runner.decide import Ask, Policy, Tell
from orchestrator.runner.locks import write_lock
from orchestrator.runner.profiles import write_profiles
from tests.builders_decision import a_decision, a_profile

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  endpoint: {http: 127.0.0.1:0, grpc: null}
  models:
    - {name: digits, source: digits.onnx, slo: {latency: 200ms, rate: 25/s}}
    - {name: again, source: digits.onnx}
"""


def measured(ask: Ask, _tell: Tell, _cancelled: Callable[[], bool], /) -> Mapping[str, Decision]:
    return {name: a_decision(model=name, model_sha256=ask.infos[name].sha256) for name in ask.modes}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return a manifest of two models, of which one is locked, with a profile file beside it."""
    shutil.copy(ROOT / "deployments/models/digits.onnx", tmp_path)
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    (each,) = assemble_all(load([str(path)]).documents, inventory=None, timeout_s=60, policy=Policy(measure=measured))
    lock = locked(None, each.document.deployment, each.facts.inventory, each.plan.cpus, each.found.decisions)
    write_lock(path.with_name("shop.lock.yaml"), lock)
    write_profiles(tmp_path / "profiles.json", [_profile(each.found.decisions["digits"], each.plan.fingerprint)])
    return path


def _profile(decision: Decision, fingerprint: str) -> Profile:
    return a_profile(decision).model_copy(update={"fingerprint": fingerprint})


def test_the_report_of_a_lock_tells_of_every_model_and_where_it_went(shop: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    ran = orch(tmp_path / "state", "plan", "--report", str(page), str(shop))
    assert (ran.returncode, ran.stderr) == (0, f"wrote {page}\n")
    text = page.read_text(encoding="utf-8")
    assert "<title>Plan of shop</title>" in text
    assert "Verified: at 31.2/s" in text
    assert "observed p99: 102 ms at 31.2/s" in text
    assert ">again</h2>" in text
    assert "planned by rule" in text
    assert not list(tmp_path.glob(".out.html*"))


def test_what_a_profile_file_says_is_not_called_measured_now(shop: Path, tmp_path: Path) -> None:
    profiles = str(tmp_path / "profiles.json")
    said = orch(
        tmp_path / "state", "plan", "--profile", profiles, "--replan", "--mode", "predict", "--explain", str(shop)
    )
    assert "(predicted from what was measured before)" in said.stdout
    assert "measured now" not in said.stdout


def test_a_profile_file_gives_the_curves(shop: Path, tmp_path: Path) -> None:
    page, profiles = tmp_path / "out.html", tmp_path / "profiles.json"
    orch(tmp_path / "state", "plan", "--report", str(page), str(shop))
    assert "Curves: simulated" not in page.read_text(encoding="utf-8")
    ran = orch(tmp_path / "state", "plan", "--profile", str(profiles), "--report", str(page), str(shop))
    assert ran.returncode == 0, ran.stderr
    assert "Curves: simulated" in page.read_text(encoding="utf-8")


def test_a_folder_is_refused_and_the_hint_names_a_file(shop: Path, tmp_path: Path) -> None:
    ran = orch(tmp_path / "state", "plan", "--report", str(tmp_path), str(shop))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: {tmp_path}: is a folder\nhint: name the file: --report {tmp_path / 'plan.html'}\n"


@pytest.mark.parametrize("option", ["--report", "--write-profile"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_planned(option: str, tmp_path: Path) -> None:
    """Seen to exit 3, a bug in orch, after all the measuring."""
    ran = orch(tmp_path / "state", "plan", option, UNWRITABLE, str(tmp_path / "no.yaml"))
    assert ran.returncode == 1
    assert ran.stderr == f"error: {UNWRITABLE}: lies in a folder that cannot be written to\n"


@pytest.mark.parametrize("option", ["--report", "--write-profile"])
def test_a_check_writes_nothing_and_says_so(option: str, shop: Path, tmp_path: Path) -> None:
    """Seen to end well without the report."""
    ran = orch(tmp_path / "state", "plan", "--check", option, str(tmp_path / "out"), str(shop))
    assert ran.returncode == 2
    assert "--check writes nothing" in ran.stderr


UNWRITABLE = "/proc/self/out.html"
"""In a folder that nobody may write to, root included."""


def test_a_folder_that_is_not_there_is_refused(shop: Path, tmp_path: Path) -> None:
    page = tmp_path / "gone" / "out.html"
    ran = orch(tmp_path / "state", "plan", "--report", str(page), str(shop))
    assert ran.returncode == 1
    assert ran.stderr == f"error: {page}: lies in a folder that is not there\n"
