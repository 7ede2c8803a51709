"""Measure the models of a deployment that share the CPU, choose a layout for all of them, and prove it with all loaded.

Each model's few arms are measured alone, which tells how long an inference takes on one thread and on several; the
layout is predicted from that (planner/joint.py), and proved as a whole. After a rejection the model that missed gets a
larger part of the cores, at most MOVES_MAX times. A layout is asked for a tenth more than the declared rates; where
none holds that, the best one is asked for the rates themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest import target
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.decision import Decision
from orchestrator.planner.evidence import ambient
from orchestrator.planner.joint import Joint, Layout, Member, decided, moved, options_of, plan_together
from orchestrator.planner.memory import host_limit
from orchestrator.planner.modes import Mode
from orchestrator.planner.placement import place
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.planner.room import capacity_of, room
from orchestrator.planner.steps import Verify, question_of
from orchestrator.planner.verdict import BLOCKS, the_test
from orchestrator.profiling.host_lock import default_path, host_lock
from orchestrator.profiling.measurement import ArmProfile, Proof, Verdict
from orchestrator.profiling.store import ProfileStore
from orchestrator.runner.decide import Ask, Tell
from orchestrator.runner.measure import Around, Subject, measure_arms
from orchestrator.runner.proof import Stage
from orchestrator.runner.together import prove_together

MOVES_MAX = 3
MEASURING_SHARE = 0.5  # of each model's budget; what is left is for the proof of all
PROOF_START_S = 4.0  # until a worker serves all models
GAP_S = 0.2
SEED = 1
NO_RATE = "no rate is stated"
NOT_MEASURED = "its device is left open"
UNPREDICTABLE = "it was not measured in a way that predicts it among others"
HEADROOM = 1.1  # times the declared rates that a layout is proved at first: at its edge a proof says yes too easily


@dataclass(frozen=True, slots=True)
class Measured:
    """One model of the set, measured alone."""

    spec: ModelSpec
    alone: Decision
    profiles: tuple[ArmProfile, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A layout that was run with all models loaded."""

    layout: Layout
    proofs: Mapping[str, Proof]

    @property
    def failed(self) -> tuple[str, ...]:
        """Return the models that were rejected, in order of their names."""
        return tuple(name for name in sorted(self.proofs) if self.proofs[name].verdict == "rejected")


def sharers(ask: Ask) -> tuple[str, ...]:
    """Return the models that must be planned together: on the CPU, with a rate to hold; none where it is only one.

    Beside those to be measured all whose `compile` is stated: they keep it, and their load is there all the same.
    """
    found = [model.name for model in ask.deployment.spec.models if _shares(model, ask.modes.get(model.name))]
    return tuple(found) if len(found) > 1 and any(ask.modes.get(name) == "measure" for name in found) else ()


def _shares(model: ModelSpec, mode: Mode | None) -> bool:
    on_cpu = model.device.mode is target.Mode.DIRECT and model.device.devices[0].partition(".")[0] == "CPU"
    takes_part = mode == "measure" or (mode is None and model.compile is not None)
    return takes_part and on_cpu and model.slo is not None and model.slo.rate is not None


def _beside(ask: Ask, left_out: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the models that may take cores from those planned together, and why they are not counted."""
    found, counted = [(name, UNPREDICTABLE) for name in left_out], sharers(ask)
    for model in ask.deployment.spec.models:
        placement, _ = place(model, ask.infos[model.name], ask.inventory)
        if model.name not in counted and placement is not None and placement.uses_cpu:
            found.append((model.name, NO_RATE if model.slo is None or model.slo.rate is None else NOT_MEASURED))
    return tuple(sorted(found))


def measure_together(
    ask: Ask, names: Sequence[str], store: ProfileStore, tell: Tell, cancelled: Callable[[], bool], *, fresh: bool
) -> Mapping[str, Decision]:
    """Return the decisions for models that share the CPU.

    Raise OrchError: UNSUPPORTED where their demands do not fit, CANCELLED, or what kept a model from being measured.
    """
    began = time.monotonic()
    deployment = ask.deployment.metadata.name
    measured = [_measured(ask, name, store, tell, cancelled, fresh=fresh) for name in names]
    members = [_member(ask, each) for each in measured]
    alone = {each.spec.name: each.alone for each in measured}
    left_out = tuple(member.model for member in members if not member.options)
    members = [member for member in members if member.options]
    if len(members) < 2 or any(each.verdict == "infeasible" for each in alone.values()):
        return _each_alone(ask, alone, left_out)
    disturbed = ambient([profile for each in measured for profile in each.profiles])
    beside = _beside(ask, left_out)
    joint = plan_together(members, ask.cpus, memory=_memory_limit(ask), disturbed=disturbed, beside=beside)

    def progress(message: str) -> None:
        tell(deployment, None, "verifying", message)

    left_s = max(0.0, len(names) * ask.budget_s - (time.monotonic() - began))
    with host_lock(default_path(), progress, cancelled):
        attempts = _prove(_Trial(ask, joint, alone, progress, cancelled), left_s)
    seconds = time.monotonic() - began
    chosen = min(attempts, key=lambda each: _badness(each, joint)) if attempts else Attempt(joint.layouts[0], {})
    most = room(joint, chosen.layout)
    found = {name: _decided(joint, chosen, alone[name], most[name]) for name in most}
    lonely = {name: alone[name] for name in left_out if ask.modes.get(name) == "measure"}
    return {**lonely, **{name: each.model_copy(update={"seconds": seconds}) for name, each in found.items()}}


def _each_alone(ask: Ask, alone: Mapping[str, Decision], left_out: Sequence[str]) -> dict[str, Decision]:
    """Return the decisions where no layout can help; those that lack nothing say who does."""
    infeasible = [name for name in sorted(alone) if alone[name].verdict == "infeasible"]
    why = f"{' and '.join(infeasible)} cannot hold the SLO even alone"
    if not infeasible:
        why = f"of {' and '.join(left_out)} too little was measured to predict it among others"
    reason = f"{why}, so no layout of all models was tried, and this is predicted as if it were alone"
    return {
        name: each if name in infeasible else each.model_copy(update={"reason": reason})
        for name, each in alone.items()
        if name in infeasible or ask.modes.get(name) == "measure"
    }


def _measured(
    ask: Ask, name: str, store: ProfileStore, tell: Tell, cancelled: Callable[[], bool], *, fresh: bool
) -> Measured:
    spec = next(model for model in ask.deployment.spec.models if model.name == name)
    subject = Subject(
        spec,
        ask.infos[name],
        ask.inventory,
        ask.cpus,
        ask.cores,
        MEASURING_SHARE * ask.budget_s,
        predict=True,
    )

    def progress(message: str) -> None:
        tell(ask.deployment.metadata.name, name, "measuring", message)

    return Measured(spec, *measure_arms(subject, Around(store, progress, cancelled, fresh=fresh)))


def _member(ask: Ask, measured: Measured) -> Member:
    spec, info = measured.spec, ask.infos[measured.spec.name]
    need = question_of(spec, info, cpus=ask.cpus).need
    assert need is not None, "sharers have an SLO"
    assert spec.slo is not None
    assert spec.slo.rate is not None
    options = options_of(
        spec,
        info,
        ask.inventory,
        measured.profiles,
        cpus=ask.cpus,
        cpu_models=_cpu_models(ask),
        own_cores=ask.cores is not None,
    )
    grown = [profile.memory_bytes for profile in measured.profiles if profile.memory_bytes]
    memory = max(info.weights_bytes, min(grown, default=0))
    return Member(spec.name, need, spec.slo.rate, options, spec.priority, memory)


def _cpu_models(ask: Ask) -> int:
    return max(2, len(ask.deployment.spec.models))


def _memory_limit(ask: Ask) -> tuple[int, str]:
    return host_limit(ask.inventory.host, ask.deployment.spec.resources.memory)


# The proof.


@dataclass(frozen=True, slots=True)
class _Trial:
    """What layouts are run with."""

    ask: Ask
    joint: Joint
    alone: Mapping[str, Decision]
    progress: Callable[[str], None]
    cancelled: Callable[[], bool]


def _prove(trial: _Trial, left_s: float) -> list[Attempt]:
    """Run the best layout; as long as a model misses, the one that then gives it more, within the budget."""
    attempts: list[Attempt] = []
    layout: Layout | None = trial.joint.layouts[0]
    stop = time.monotonic() + left_s
    while layout is not None and len(attempts) <= MOVES_MAX:
        seconds = stop - time.monotonic() - PROOF_START_S
        if seconds < BLOCKS:
            break
        load = HEADROOM if layout.slack >= HEADROOM else 1.0
        attempts.append(_attempt(trial, layout, len(attempts), seconds, load))
        if not attempts[-1].failed:
            return attempts
        layout = moved(trial.joint, [each.layout for each in attempts], attempts[-1].failed[0])
    seconds = stop - time.monotonic() - PROOF_START_S
    if attempts and seconds >= BLOCKS:
        best = min(attempts, key=lambda each: _badness(each, trial.joint))
        attempts.append(_attempt(trial, best.layout, len(attempts), seconds, 1.0))
    return attempts


def _attempt(trial: _Trial, layout: Layout, number: int, seconds: float, load: float) -> Attempt:
    ask = trial.ask
    trial.progress(f"all models at {_times(load)}, {layout.kind}: {layout.words}")
    steps = {member.model: _step(member, layout, SEED + number, seconds, load) for member in trial.joint.members}
    decisions = {name: _decided(trial.joint, Attempt(layout, {}), trial.alone[name], None) for name in steps}
    stage = Stage(
        plan=plan_of(ask, decisions),
        info=next(iter(ask.infos.values())),
        cores=ask.cores,
        allowed=ask.cores or ask.inventory.host.cores.allowed,
        progress=trial.progress,
        cancelled=trial.cancelled,
    )
    try:
        return Attempt(layout, prove_together(steps, stage, ask.infos, seconds))
    except OrchError as error:
        if error.kind is Kind.CANCELLED:
            raise
        trial.progress(f"could not be proved: {error}")
        return Attempt(layout, {})


def _times(load: float) -> str:
    return "their rates" if load == 1.0 else f"{load:g} times their rates"


def _step(member: Member, layout: Layout, seed: int, seconds: float, load: float) -> Verify:
    option = layout.options[member.model]
    test = the_test(member.need.percentile, layout.forecasts[member.model].service_s)
    gap_s = max(GAP_S, min(1.0, test.episode_s))
    least_per_s = member.rate_per_s if member.need.arrivals == "closed" else None
    return Verify(option.arm, load * member.rate_per_s, member.need, test, seed, seconds, gap_s, least_per_s)


def plan_of(ask: Ask, decisions: Mapping[str, Decision]) -> DeploymentPlan:
    """Return the plan of the whole deployment with these decisions, on a port of its own on loopback."""
    spec = ask.deployment.spec
    endpoint = spec.endpoint.model_copy(update={"http": "127.0.0.1:0", "grpc": None, "token_file": None, "tls": None})
    resources = spec.resources.model_copy(update={"cpus": ask.cpus})
    wanted = ask.deployment.model_copy(
        update={"spec": spec.model_copy(update={"endpoint": endpoint, "resources": resources})}
    )
    return resolve(wanted, ask.inventory, ask.infos, cores=ask.cores, decisions=decisions)


def _badness(attempt: Attempt, joint: Joint) -> tuple[float, ...]:
    """Return what puts the better run first: fewer rejected of the highest priority, then fewer misses."""
    order = ("critical", "default", "sheddable")
    failed = set(attempt.failed)
    by_priority = [
        float(sum(member.model in failed for member in joint.members if member.priority == priority))
        for priority in order
    ]
    sent = sum(proof.sent for proof in attempt.proofs.values())
    missed = sum(proof.misses for proof in attempt.proofs.values()) / sent if sent else 1.0
    return (*by_priority, missed)


def _decided(joint: Joint, attempt: Attempt, alone: Decision, most_per_s: float | None) -> Decision:
    proof = attempt.proofs.get(alone.model)
    verdict: Verdict = proof.verdict if proof is not None else "unverified"
    reason = proof.reason if proof is not None else "the layout was predicted, and not run with all models loaded"
    capacity = None if most_per_s is None else capacity_of(most_per_s, alone, proof)
    return decided(joint, attempt.layout, alone, verdict, reason, proof, capacity)
