"""How each model's plan is found: by measuring, from stored profiles, or by rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from orchestrator.manifest.spec import Deployment, ModelSpec, Planning

Mode = Literal["measure", "predict", "hint"]


def mode_of(model: ModelSpec, planning: Planning, override: Mode | None = None) -> Mode:
    """Return how the model's plan is found; `override` goes before what the manifest says.

    Without an SLO there is nothing to measure against, whatever is asked for. Where nobody says, a model is measured
    that has a rate to hold and leaves it to orch how.
    """
    if model.slo is None:
        return "hint"
    asked = override or planning.mode
    if asked is not None:
        return asked
    return "measure" if model.slo.rate is not None and model.compile is None else "hint"


def to_decide(deployment: Deployment, override: Mode | None = None) -> Mapping[str, Mode]:
    """Return the models whose plan is not found by rule, by name, with how it is found."""
    planning = deployment.spec.planning
    modes = {model.name: mode_of(model, planning, override) for model in deployment.spec.models}
    return {name: modes[name] for name in sorted(modes) if modes[name] != "hint"}
