"""Profiles as files: exported from one machine, and planned from on another without measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Facts
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.manifest.explain import dotted
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.arms import candidates
from orchestrator.planner.decision import Decision
from orchestrator.planner.search import Search
from orchestrator.planner.steps import Finish, question_of
from orchestrator.profiling.measurement import Profile
from orchestrator.runner.decide import Ask, Measure, Tell
from orchestrator.runner.staging import write_whole

BYTES_MAX = 64 * 2**20  # hundreds of models with all their samples
THERE = "measure it where it runs with orch plan --write-profile FILE, and name that FILE with --profile"
CORES = "state `resources.cpus` as it was measured, or measure with as many"
HINT = "write one where the models were measured: orch plan --write-profile FILE"


class ProfileList(Facts):
    """What a profile file holds."""

    api_version: Literal["orch/v1"] = "orch/v1"
    kind: Literal["ProfileList"] = "ProfileList"
    items: tuple[Profile, ...]


def read_profiles(path: Path) -> tuple[Profile, ...]:
    """Return the profiles in a file; raise OrchError for one that cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot be read: {error.strerror}", where=str(path), hint=HINT) from None
    if len(data) > BYTES_MAX:
        raise OrchError(Kind.TOO_LARGE, f"is larger than {BYTES_MAX} bytes", where=str(path))
    try:
        return ProfileList.model_validate_json(data).items
    except ValidationError as error:
        problems = [
            Problem(f"{dotted(each['loc']) or 'profile'}: {each['msg']}", str(path), HINT) for each in error.errors()
        ]
        raise OrchError(Kind.INVALID, problems[:20]) from None


def read_profile(path: Path) -> Profile | None:
    """Return the one profile in a file of the store, None where it cannot be read."""
    try:
        return Profile.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_profiles(path: Path, profiles: Iterable[Profile]) -> None:
    """Write the profiles to a file; raise OrchError where it cannot be written."""
    ordered = sorted(profiles, key=lambda profile: (profile.fingerprint, profile.model_sha256, profile.cpus))
    write_whole(path, ProfileList(items=tuple(ordered)).model_dump_json() + "\n")


def from_profiles(profiles: Sequence[Profile]) -> Measure:
    """Return what decides by these profiles alone, and measures nothing."""

    def decide(ask: Ask, tell: Tell, _cancelled: Callable[[], bool]) -> Mapping[str, Decision]:
        specs = {model.name: model for model in ask.deployment.spec.models}
        found = {}
        for name in ask.modes:
            decision = _predicted(ask, specs[name], profiles)
            if decision is not None:
                tell(ask.deployment.metadata.name, name, "predicted", decision.arm.name)
                found[name] = decision
        return found

    return decide


def lacking(profiles: Sequence[Profile]) -> Callable[[Ask, str], str]:
    """Return what says why these profiles decide nothing of a model, and what would."""

    def say(ask: Ask, model: str) -> str:
        why, remedy = _lack(ask, next(each for each in ask.deployment.spec.models if each.name == model), profiles)
        return f"{model} is planned by rule: {why}; {remedy}"

    return say


def _lack(ask: Ask, spec: ModelSpec, profiles: Sequence[Profile]) -> tuple[str, str]:
    info, here = ask.infos[spec.name], fingerprint(ask.inventory)
    of_model = [profile for profile in profiles if profile.model_sha256 == info.sha256]
    of_machine = [profile for profile in of_model if profile.fingerprint == here]
    of_cores = [profile for profile in of_machine if profile.cpus == ask.cpus]
    if not profiles:
        return "no profile is named", THERE
    if not of_model:
        return f"no profile named is of this model file ({info.sha256[:12]}...)", THERE
    if not of_machine:
        there = _machine(of_model[0].fingerprint, of_model[0].cpus, of_model[0].openvino)
        planned_for = _machine(here, ask.cpus, ask.inventory.openvino)
        return f"its profile is of another machine, {there}, and this plan is for {planned_for}", THERE
    if not of_cores:
        counts = " or ".join(str(cpus) for cpus in sorted({profile.cpus for profile in of_machine}))
        return f"its profile is of {counts} of this machine's cores, and {ask.cpus} are planned for", CORES
    return "its profile has other input shapes, or is not complete enough", THERE


def _machine(fingerprint: str, cpus: int, openvino: str) -> str:
    return f"{fingerprint} with {cpus} {'core' if cpus == 1 else 'cores'} and OpenVINO {openvino}"


def _predicted(ask: Ask, spec: ModelSpec, profiles: Sequence[Profile]) -> Decision | None:
    info, here = ask.infos[spec.name], fingerprint(ask.inventory)
    fitting = [
        profile
        for profile in profiles
        if (profile.model_sha256, profile.fingerprint, profile.cpus) == (info.sha256, here, ask.cpus)
        and {name: list(dims) for name, dims in profile.shapes.items()} == spec.shapes
    ]
    stored = [arm for profile in fitting for arm in profile.arms]
    if not stored:
        return None
    question = question_of(spec, info, cpus=ask.cpus, budget_s=ask.budget_s, predict=True)
    found = candidates(spec, info, ask.inventory, cpus=ask.cpus, own_cores=ask.cores is not None)
    taught = [profile.stretch for profile in fitting if profile.stretch is not None]
    step = Search(question, found, stored, max(taught, default=None)).next()
    return step.decision if isinstance(step, Finish) else None
