"""Whole plans as `orch plan` prints them, for recorded machines; a case is a folder under tests/golden/plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.diff import diff
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.planner.text import plan_to_text
from tests.builders import a_recorded_inventory

CASES = sorted((Path(__file__).parent.parent / "golden" / "plans").iterdir())


def plan_of(case: Path, manifest: Path) -> DeploymentPlan:
    """Return the plan of the manifest on the case's machine."""
    facts = json.loads((case / "models.json").read_text(encoding="utf-8"))
    deployment = Deployment.model_validate(yaml.safe_load(manifest.read_text(encoding="utf-8")))
    models = {name: ModelInfo.model_validate(info) for name, info in facts["models"].items()}
    cores = tuple(facts["cores"]) if "cores" in facts and manifest.stem == "before" else None
    return resolve(deployment, a_recorded_inventory(facts["inventory"]), models, cores=cores)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plan_reads_as_recorded(case: Path, update_golden: bool) -> None:
    before = case / "before.yaml"
    observed = plan_of(case, before) if before.exists() else None
    plan = plan_of(case, case / "deployment.yaml")
    text = plan_to_text(plan, diff(observed, plan), file="deployment.yaml")
    golden = case / "plan.txt"
    if update_golden:
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
