"""Finds what measuring decided for a deployment: in its lock, in this machine's memory, or by measuring now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.decision import Decision
from orchestrator.planner.explain import explain
from orchestrator.planner.lock import Drift, Lock, drift, locked, settled
from orchestrator.planner.modes import Mode, to_decide
from orchestrator.planner.plan import SloPlan
from orchestrator.runner.locks import Memory

Tell = Callable[[str, str | None, str, str], None]
"""Takes deployment, model, phase (measuring, verifying, ...) and a message for people."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A deployment, models of which are to be measured on a machine."""

    deployment: Deployment
    infos: Mapping[str, ModelInfo]
    inventory: Inventory
    cpus: int
    """Cores that its models share."""
    cores: tuple[int, ...] | None
    """Logical processors of its own; None where it shares the machine's."""
    modes: Mapping[str, Mode]
    """The models to decide, and how."""
    budget_s: float
    """For each of them."""


class Measure(Protocol):
    """Decides by measuring, or from stored profiles; blocks."""

    def __call__(self, ask: Ask, tell: Tell, cancelled: Callable[[], bool], /) -> Mapping[str, Decision]:
        """Return the decisions by model, without those of which there is nothing to predict from.

        Raise OrchError: CANCELLED when `cancelled` came true, or what kept it from measuring.
        """


def silent(_deployment: str, _model: str | None, _phase: str, _message: str) -> None:
    """Tell nobody."""


def never() -> bool:
    """Return that nobody cancels."""
    return False


def unmeasured(_ask: Ask, model: str) -> str:
    """Return what is said of a model of which nothing complete enough is stored on this machine."""
    return (
        f"{model} has no profile of this machine that is complete enough, so it is planned by rule: measure it with "
        "orch plan --mode measure, or name its profile with --profile"
    )


@dataclass(frozen=True, slots=True)
class Policy:
    """How decisions are found. By default there are none: all is planned by rule."""

    locks: Mapping[str, Lock] = field(default_factory=dict)
    """What stands beside the manifests, by deployment."""
    memory: Memory | None = None
    measure: Measure | None = None
    """None: nothing is measured."""
    locked: bool = False
    """Refuse what needs a decision that the lock does not have."""
    replan: bool = False
    """Measure although a lock or the memory fits."""
    mode: Mode | None = None
    """Goes before `planning.mode`."""
    budget_s: float | None = None
    """Goes before `planning.budget`."""
    tell: Tell = silent
    cancelled: Callable[[], bool] = never
    lacks: Callable[[Ask, str], str] = unmeasured
    """Return why there is no decision for a model, as a warning for the plan."""


@dataclass(frozen=True, slots=True)
class Found:
    """The decisions for one deployment, and where they come from."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    origin: Literal["rule", "lock", "memory", "measured"] = "rule"
    wanted: Mapping[str, Mode] = field(default_factory=dict)
    """The models that a decision was wanted for."""
    notes: tuple[str, ...] = ()
    """Warnings for the plan."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the models that wanted a decision and have none."""
        return tuple(name for name in self.wanted if name not in self.decisions)


def find(
    deployment: Deployment,
    infos: Mapping[str, ModelInfo],
    inventory: Inventory,
    cpus: int,
    cores: tuple[int, ...] | None,
    policy: Policy,
) -> Found:
    """Return the decisions for the deployment; raise OrchError CONFLICT where the policy demands a lock that fits."""
    wanted = to_decide(deployment, policy.mode)
    if not wanted:
        return Found()
    name, here = deployment.metadata.name, fingerprint(inventory)
    lock = policy.locks.get(name)
    drifts = () if lock is None else drift(lock, deployment, infos, inventory, cpus, wanted)
    fits = lock is not None and not drifts and not policy.replan
    if lock is not None and fits:
        return Found(lock.decisions(here, name), "lock", wanted)
    if policy.locked:
        raise _refusal(name, lock, drifts)
    notes = tuple(f"the lock does not fit, so it was not used: {_named(each)}" for each in drifts)
    memory = None if policy.memory is None or policy.replan else policy.memory.recall(name)
    if memory is not None and not drift(memory, deployment, infos, inventory, cpus, wanted):
        return Found(memory.decisions(here, name), "memory", wanted, notes)
    budget_s = policy.budget_s or deployment.spec.planning.budget
    return _measured(Ask(deployment, infos, inventory, cpus, cores, wanted, budget_s), policy, notes)


def _named(drift: Drift) -> str:
    return drift.what if drift.model is None else f"{drift.model}: {drift.what}"


def _refusal(name: str, lock: Lock | None, drifts: tuple[Drift, ...]) -> OrchError:
    if lock is None:
        hint = "measure once, review and commit it: orch plan --write-lock FILE"
        return OrchError(Kind.CONFLICT, "there is no lock file beside the manifest", where=name, hint=hint)
    problems = [
        Problem(each.what, name if each.model is None else f"{name}/{each.model}", each.hint) for each in drifts
    ]
    return OrchError(Kind.CONFLICT, problems or [Problem("a lock is demanded, and measuring anew is too", name)])


def _measured(ask: Ask, policy: Policy, notes: tuple[str, ...]) -> Found:
    if policy.measure is None:
        return Found(wanted=ask.modes, notes=notes)
    try:
        raw = policy.measure(ask, policy.tell, policy.cancelled)
    except OrchError as error:
        # UNSUPPORTED: it was measured, and the models do not fit on this machine together; no rule can help.
        if error.kind is Kind.UNSUPPORTED:
            raise _placed(error, ask.deployment.metadata.name) from None
        if error.kind in {Kind.CANCELLED, Kind.INTERNAL}:
            raise
        return Found(wanted=ask.modes, notes=(*notes, f"measuring failed, so it is planned by rule: {error}"))
    decisions = {name: settled(_explained(ask, raw[name])) for name in sorted(raw)}
    notes += tuple(policy.lacks(ask, name) for name in ask.modes if name not in decisions)
    if not decisions:
        return Found(wanted=ask.modes, notes=notes)
    name = ask.deployment.metadata.name
    if policy.memory is not None and all(mode == "measure" for mode in ask.modes.values()):
        weights = {model: info.weights_sha256 for model, info in ask.infos.items()}
        before = policy.memory.recall(name)
        policy.memory.keep(name, locked(before, ask.deployment, ask.inventory, ask.cpus, decisions, weights))
    return Found(decisions, "measured", ask.modes, notes)


def _placed(error: OrchError, deployment: str) -> OrchError:
    """Return the error with its problems, which name models at most, named as those of the deployment."""
    problems = [
        Problem(each.what, deployment if each.where is None else f"{deployment}/{each.where}", each.hint)
        for each in error.problems
    ]
    return OrchError(error.kind, problems)


def _explained(ask: Ask, decision: Decision) -> Decision:
    if decision.sentences:
        return decision
    spec = next(model for model in ask.deployment.spec.models if model.name == decision.model)
    slo = spec.slo
    plan = SloPlan(latency_s=slo.latency, percentile=slo.percentile, rate_per_s=slo.rate) if slo else None
    sentences = explain(decision, plan, plan.rate_per_s if plan else None, ask.cpus)
    return decision.model_copy(update={"sentences": sentences})
