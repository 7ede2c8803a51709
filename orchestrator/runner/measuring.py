"""Decides by measuring on this machine, or from what was measured on it before; profiles lie in the state folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.planner.decision import Decision
from orchestrator.profiling.measurement import Profile
from orchestrator.profiling.store import Key, ProfileStore
from orchestrator.runner.decide import Ask, Measure, Tell
from orchestrator.runner.jointly import measure_together, sharers
from orchestrator.runner.measure import measuring as measuring_with
from orchestrator.runner.profiles import from_profiles, read_profile


def measuring(state: Path, *, fresh: bool = False) -> Measure:
    """Return what measures on this machine and keeps its profiles under the state folder.

    Models in mode `predict` are decided from stored profiles alone, those that share the CPU together. `fresh`
    measures what is stored again.
    """
    store = ProfileStore(_folder(state))
    measure = measuring_with(store, fresh=fresh)

    def decide(ask: Ask, tell: Tell, cancelled: Callable[[], bool], /) -> Mapping[str, Decision]:
        measured = {name: mode for name, mode in ask.modes.items() if mode == "measure"}
        predicted = {name: mode for name, mode in ask.modes.items() if mode != "measure"}
        found: dict[str, Decision] = {}
        if predicted:
            profiles = [profile for name in predicted if (profile := store.load(_key(ask, name))) is not None]
            found |= from_profiles(profiles)(replace(ask, modes=predicted), tell, cancelled)
        together = sharers(ask)
        if together:
            found |= measure_together(ask, together, store, tell, cancelled, fresh=fresh)
            measured = {name: mode for name, mode in measured.items() if name not in together}
        if measured:
            found |= measure(replace(ask, modes=measured), tell, cancelled)
        return found

    return decide


def stored_profiles(state: Path, model_sha256: str, fingerprint: str) -> tuple[Profile, ...]:
    """Return what is stored of a model on this machine, for whatever cores and shapes."""
    paths = sorted(_folder(state).glob(f"{model_sha256[:12]}-*.json"))
    profiles = [profile for path in paths if (profile := read_profile(path)) is not None]
    return tuple(each for each in profiles if (each.model_sha256, each.fingerprint) == (model_sha256, fingerprint))


def _folder(state: Path) -> Path:
    return state / "profiles"


def _key(ask: Ask, model: str) -> Key:
    spec = next(each for each in ask.deployment.spec.models if each.name == model)
    inventory = ask.inventory
    return Key(ask.infos[model].sha256, fingerprint(inventory), inventory.openvino, ask.cpus, spec.shapes)
