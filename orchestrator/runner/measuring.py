"""Decides by measuring on this machine: each model of a deployment in turn, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.decision import Decision
from orchestrator.profiling.measurement import Profile
from orchestrator.runner.decide import Ask, Measure, Tell


def measuring(state: Path) -> Measure:
    """Return what measures on this machine and keeps its profiles under the state folder."""

    def decide(_ask: Ask, _tell: Tell, _cancelled: Callable[[], bool], /) -> Mapping[str, Decision]:
        raise OrchError(Kind.UNSUPPORTED, f"nothing measures yet (profiles would lie in {state})")

    return decide


def stored_profiles(_state: Path, _model_sha256: str, _fingerprint: str) -> tuple[Profile, ...]:
    """Return what is stored of a model on this machine."""
    return ()
