"""Writes the report of `orch plan --report`: gathers decisions and profiles, and puts the page in its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import render
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.staging import write_whole

if TYPE_CHECKING:
    from orchestrator.cli.planning import Step
    from orchestrator.planner.decision import Decision
    from orchestrator.planner.plan import DeploymentPlan, ModelPlan
    from orchestrator.planner.report import ByRule, Planned
    from orchestrator.profiling.measurement import Profile


def check(path: Path, example: str = "plan.html", option: str = "--report") -> None:
    """Raise OrchError where no file can be written at the path."""
    if path.is_dir():
        hint = f"name the file: {option} {path / example}"
        raise OrchError(Kind.INVALID, "is a folder", where=str(path), hint=hint)
    if not path.parent.is_dir():
        raise OrchError(Kind.INVALID, "lies in a folder that is not there", where=str(path))
    if (path.is_file() or not path.exists()) and not os.access(path.parent, os.W_OK | os.X_OK):
        raise OrchError(Kind.INVALID, "lies in a folder that cannot be written to", where=str(path))


def write_report(found: Sequence[Step], path: Path, profiles: Sequence[Path] = ()) -> None:
    """Write the page about all steps to a file, whole or not at all; raise OrchError where it cannot be written.

    Curves come from `profiles`, or where none are given from what this machine has stored.
    """
    from orchestrator.planner.report import machine_facts, report_html  # the planner brings pydantic

    stored = _Profiles(profiles)
    models = [_told(step, model, stored, several=len(found) > 1) for step in found for model in step.plan.models]
    facts = machine_facts(found[0].assembled.facts.inventory) if found else ()
    title = f"Plan of {', '.join(step.name for step in found)}"
    write_whole(path, report_html(models, facts, title=title, date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    render.talk(f"wrote {path}")


class _Profiles:
    """Where profiles are looked up: the files given, else this machine's store."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files

    def of(self, plan: DeploymentPlan, model: ModelPlan, decision: Decision) -> Profile | None:
        """Return the profile that the decision was made from, None where it is not to be had."""
        alike = [
            profile
            for profile in self._all(plan, model)
            if (profile.model_sha256, profile.fingerprint) == (model.sha256, plan.fingerprint)
        ]
        fits = [profile for profile in alike if any(each.arm.key == decision.arm.key for each in profile.arms)]
        return max(fits, key=lambda profile: (profile.cpus == plan.cpus, profile.measured), default=None)

    def _all(self, plan: DeploymentPlan, model: ModelPlan) -> Iterable[Profile]:
        from orchestrator.agent.paths import state_dir  # as above
        from orchestrator.runner.measuring import stored_profiles
        from orchestrator.runner.profiles import read_profiles

        if self._files:
            return [profile for file in self._files for profile in read_profiles(file)]
        return stored_profiles(state_dir(os.environ), model.sha256, plan.fingerprint)


def _told(step: Step, model: ModelPlan, profiles: _Profiles, *, several: bool) -> Planned | ByRule:
    from orchestrator.planner.report import ByRule, Planned  # as above

    plan, decision = step.plan, step.assembled.found.decisions.get(model.name)
    name = f"{plan.name}/{model.name}" if several else model.name
    if decision is None:
        return ByRule(model, name)
    (spec,) = (each for each in step.assembled.document.deployment.spec.models if each.name == model.name)
    return Planned(
        decision, model.slo, plan.cpus, profiles.of(plan, model, decision), name, arrivals=spec.traffic.arrivals
    )
