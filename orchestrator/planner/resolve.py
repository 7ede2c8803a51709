"""From a deployment, an inventory and what its models are, to the plan: by rule, without measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment, ModelSpec, Quota, Tls, is_loopback
from orchestrator.planner import properties as keys
from orchestrator.planner.decision import Decision
from orchestrator.planner.demand import Case, Choice, check_compile, choose
from orchestrator.planner.explain import rate
from orchestrator.planner.layout import ThreadClaim, share_threads
from orchestrator.planner.memory import Need, check_memory, need_of
from orchestrator.planner.placement import Fault, Placement, place
from orchestrator.planner.plan import (
    DeploymentPlan,
    EndpointPlan,
    ModelPlan,
    QueuePlan,
    QuotaPlan,
    Reason,
    SloPlan,
    TlsPlan,
)
from orchestrator.planner.processors import Worker
from orchestrator.planner.rules import because
from orchestrator.planner.settings import all_properties, cpu_settings

TIMEOUT_S = 30.0  # longest wait for an answer where neither `queue.timeout` nor an SLO says otherwise
PRIORITY_WEIGHT = {"critical": 4.0, "default": 2.0, "sheddable": 1.0}  # shares of CPU threads (rule 30)


@dataclass(frozen=True, slots=True)
class Placed:
    """A model that has its devices."""

    spec: ModelSpec
    info: ModelInfo
    placement: Placement


def resolve(
    deployment: Deployment,
    inventory: Inventory,
    models: Mapping[str, ModelInfo],
    *,
    cores: tuple[int, ...] | None = None,
    taken_cpus: int = 0,
    token_file: str | None = None,
    tls: TlsPlan | None = None,
    fingerprint: str = "",
    decisions: Mapping[str, Decision] | None = None,
    notes: Iterable[str] = (),
) -> DeploymentPlan:
    """Return the plan of the deployment on this machine.

    `models` has what each model's file is, by the model's name. `cores` are the worker's own; without them it shares
    the machine, of which other workers hold `taken_cpus`. `token_file` and `tls` hold absolute paths. Models among
    `decisions` run as was measured, all others by rule; `notes` are warnings of whoever looked for decisions. Raise
    OrchError (INVALID or UNSUPPORTED) with every problem of every model.
    """
    cpus, warnings = grant_cpus(deployment, inventory, cores, taken_cpus)
    decisions = decisions or {}
    placed, problems = _place_all(deployment, inventory, models, cpus)
    worker = Worker(inventory.host, cpus, cores is not None, sum(one.placement.uses_cpu for one in placed))
    shares, problem = _shares(deployment, placed, worker)
    if not problems and problem is not None:
        problems.append(problem)
    _raise(problems)
    cases = [Case(one.spec, one.info, one.placement, worker, shares.get(one.spec.name, cpus)) for one in placed]
    plans, needs = [], []
    for case in sorted(cases, key=lambda case: case.spec.name):
        plan, need = _plan_model(case, decisions.get(case.spec.name))
        plans.append(plan)
        needs.append(need)
    refusals, memory_warnings = check_memory(needs, inventory.host, deployment.spec.resources.memory, inventory.devices)
    _raise([_problem(deployment, None, Fault("resources.memory", what, "serve fewer models")) for what in refusals])
    # Whoever looked for decisions says best why there are none.
    planning = tuple(notes) or _planning_warnings(deployment, decisions)
    warnings += [*memory_warnings, *planning, *_crowding_warnings(worker), *_clear_text_warnings(deployment)]
    return DeploymentPlan(
        name=deployment.metadata.name,
        endpoint=endpoint_of(deployment, token_file, tls),
        cpus=cpus,
        cores=cores,
        memory_bytes=deployment.spec.resources.memory,
        models=tuple(plans),
        warnings=tuple(warnings),
        fingerprint=fingerprint,
    )


def endpoint_of(deployment: Deployment, token_file: str | None, tls: TlsPlan | None = None) -> EndpointPlan:
    """Return where the deployment's worker listens; `token_file` and `tls` are the paths of its own files.

    Without `tls` the files are as the manifest names them.
    """
    endpoint = deployment.spec.endpoint
    return EndpointPlan(
        http=endpoint.http,
        grpc=endpoint.grpc,
        token_file=token_file,
        tls=tls or tls_of(endpoint.tls),
        quota=_quota(endpoint.quota),
        shared_memory=endpoint.shared_memory,
    )


def tls_of(tls: Tls | None, place: Callable[[str], str] = str) -> TlsPlan | None:
    """Return the TLS files of a manifest; `place` tells where a file that it names is."""
    if tls is None:
        return None
    return TlsPlan(
        certificate_file=place(tls.certificate_file),
        key_file=place(tls.key_file),
        client_ca_file=None if tls.client_ca_file is None else place(tls.client_ca_file),
        min_version=tls.min_version,
    )


def _clear_text_warnings(deployment: Deployment) -> list[str]:
    endpoint = deployment.spec.endpoint
    if endpoint.token_file is None or endpoint.tls is not None:
        return []
    reached = [address for address in (endpoint.http, endpoint.grpc) if address and not is_loopback(address)]
    if not reached:
        return []
    return [f"the token goes over the network in clear text at {' and '.join(reached)}: add spec.endpoint.tls"]


def _quota(quota: Quota | None) -> QuotaPlan | None:
    if quota is None:
        return None
    return QuotaPlan(rate_per_s=quota.rate, burst=quota.burst or max(1, round(quota.rate)))


def grant_cpus(
    deployment: Deployment, inventory: Inventory, cores: tuple[int, ...] | None, taken_cpus: int
) -> tuple[int, list[str]]:
    """Return the cores that the models share, and what to say where these are fewer than asked for, or others'."""
    effective = inventory.host.effective_cpus
    if cores is not None:
        return min(len(cores), effective) or 1, []
    asked, free = deployment.spec.resources.cpus, effective - taken_cpus
    left = max(1, free)
    if (asked or 1) <= free:
        return asked or left, []
    taken, shared = "", ""
    if taken_cpus:
        taken, shared = f", of which other deployments hold {taken_cpus}", " that it shares with them"
    stated = "no core is left" if asked is None else f"resources.cpus is {asked}"
    return left, [f"{stated}, and this machine grants {effective}{taken}: planned for {left}{shared}"]


def _place_all(
    deployment: Deployment, inventory: Inventory, models: Mapping[str, ModelInfo], cpus: int
) -> tuple[list[Placed], list[tuple[Kind, Problem]]]:
    placed, problems = [], []
    for spec in deployment.spec.models:
        info = models[spec.name]
        placement, faults = place(spec, info, inventory)
        if placement is not None:
            faults = (*check_compile(spec, info, placement, cpus), *_check_properties(spec, placement))
            placed.append(Placed(spec, info, placement))
        if spec.sha256 is not None and spec.sha256 != info.sha256:
            what = f"the manifest pins {spec.sha256[:12]}..., and {spec.source} is {info.sha256[:12]}..."
            faults = (*faults, Fault("sha256", what, "restore the file, or pin the new digest", Kind.INVALID))
        problems += [_problem(deployment, spec, fault) for fault in faults]
    return placed, problems


def _check_properties(spec: ModelSpec, placement: Placement) -> tuple[Fault, ...]:
    faults = []
    for key in sorted(spec.properties):
        rejection = keys.check(key, spec.properties[key], placement.devices, placement.virtual)
        if rejection is not None:
            faults.append(Fault(f"properties.{key}", rejection.what, rejection.hint))
    return tuple(faults)


def _problem(deployment: Deployment, spec: ModelSpec | None, fault: Fault) -> tuple[Kind, Problem]:
    where = deployment.metadata.name + (f"/{spec.name}" if spec else "")
    return fault.kind, Problem(fault.what, f"{where}: {fault.field}", fault.hint)


def _raise(problems: Iterable[tuple[Kind, Problem]]) -> None:
    problems = tuple(problems)
    if problems:
        kind = Kind.INVALID if any(kind is Kind.INVALID for kind, _ in problems) else Kind.UNSUPPORTED
        raise OrchError(kind, [problem for _, problem in problems])


def _shares(
    deployment: Deployment, placed: Iterable[Placed], worker: Worker
) -> tuple[Mapping[str, int], tuple[Kind, Problem] | None]:
    """Return each CPU model's threads (rule 21), or the problem that what they ask for does not fit."""
    on_cpus = [one for one in placed if one.placement.uses_cpu]
    rates = [one.spec.slo.rate for one in on_cpus if one.spec.slo and one.spec.slo.rate]
    mean = sum(rates) / len(rates) if rates else 1.0
    claims = {one.spec.name: _claim(one.spec, mean) for one in on_cpus}
    cpus = worker.cpus
    # Several models on several sockets share physical cores (rule 25), unless they ask for more than there are.
    shares = share_threads(worker.physical if len(claims) > 1 else cpus, claims) or share_threads(cpus, claims)
    if shares is not None:
        return shares, None
    asks = ", ".join(f"{name} {claims[name].floor}" for name in sorted(claims))
    total = sum(claim.floor for claim in claims.values())
    what = f"the models need {total} threads together ({asks}), and the worker has {cpus} cores"
    hint = "lower `compile.threads` or `compile.streams`, or leave them to orch"
    return {}, _problem(deployment, None, Fault("models", what, hint))


def _claim(spec: ModelSpec, mean_rate: float) -> ThreadClaim:
    rate = spec.slo.rate if spec.slo and spec.slo.rate else mean_rate
    asked = spec.compile
    streams = asked.streams if asked and isinstance(asked.streams, int) else 1
    return ThreadClaim(
        weight=PRIORITY_WEIGHT[spec.priority] * rate, least=streams, exact=asked.threads if asked else None
    )


def _plan_model(case: Case, decision: Decision | None) -> tuple[ModelPlan, Need]:
    plan = _by_rule(case)
    if decision is not None:
        plan = as_decided(plan, decision)
    need = need_of(plan.name, case.info, case.placement.devices, plan.batch, plan.requests or plan.streams or 1)
    return plan, need


def as_decided(plan: ModelPlan, decision: Decision) -> ModelPlan:
    """Return the plan with the arm that measuring chose, whole: exactly what was measured is what is compiled."""
    arm, capacity = decision.arm, decision.capacity
    streams = arm.properties.get(keys.NUM_STREAMS, "")
    kept = [reason for reason in plan.reasons if reason.subject in _BESIDE_DECISIONS]
    figures = {
        "device": arm.device,
        "expression": arm.expression,
        "properties": dict(sorted(arm.properties.items())),
        "device_properties": {name: dict(sorted(each.items())) for name, each in sorted(arm.device_properties.items())},
        "streams": int(streams) if streams.isdecimal() else None,
        "threads": arm.threads,
        "batch": arm.batch,
        "requests": arm.requests,
        "capacity_per_s": capacity.per_s if capacity else None,
        "capacity_low_per_s": capacity.low_per_s if capacity else None,
        "capacity_high_per_s": capacity.high_per_s if capacity else None,
        "verdict": decision.verdict,
        "service_s": decision.service_s,
        "service_p99_s": decision.service_p99_s,
        "reasons": (*_decision_reasons(decision), *kept),
        "warnings": (*plan.warnings, *_verdict_warnings(decision, plan.slo.rate_per_s if plan.slo else None)),
    }
    return plan.model_copy(update=figures)


_BESIDE_DECISIONS = frozenset({"device", "shapes", "queue", "priority", "properties"})
"""Subjects of rules that stand beside a decision; all others say how an arm would have been chosen without it."""


def _decision_reasons(decision: Decision) -> tuple[Reason, ...]:
    """Return the first sentence, which says why, and the last, which says what would change it, and the proof."""
    sentences = decision.sentences or (f"{decision.arm.name}, chosen by measuring",)
    reasons = [because("measured", text) for text in dict.fromkeys((sentences[0], sentences[-1]))]
    if decision.proof is not None:
        reasons.append(because("proof", f"{decision.proof.verdict}: {decision.proof.reason}"))
    return tuple(reasons)


def _verdict_warnings(decision: Decision, rate_per_s: float | None) -> tuple[str, ...]:
    match decision.verdict:
        case "verified":
            return ()
        case "unverified" if rate_per_s is not None and decision.capacity and decision.capacity.per_s < rate_per_s:
            carries = rate(decision.capacity.per_s)
            return (
                f"the SLO is predicted not to hold at its rate: {carries} are carried, {rate(rate_per_s)} asked for",
            )
        case "unverified":
            return ("the SLO was predicted and not proven by an open-loop run",)
        case "rejected":
            return ("the SLO does not hold at its rate: the open-loop run missed it; see the reasons",)
        case "infeasible":
            why = f": {decision.reason}" if decision.reason else ""
            return (f"the SLO cannot be held on this machine{why}",)
    assert_never(decision.verdict)


def _by_rule(case: Case) -> ModelPlan:
    spec, placement = case.spec, case.placement
    choice = choose(case)
    threads, cpu_reasons, on_cpus = cpu_settings(case, choice)
    properties, device_properties, reasons, warnings = all_properties(case, choice, on_cpus)
    shapes, shape_reasons = _shapes(case)
    return ModelPlan(
        name=spec.name,
        version=spec.version,
        source=case.info.path,
        sha256=case.info.sha256,
        weights_sha256=case.info.weights_sha256,
        requested=str(spec.device),
        device=str(placement),
        degraded=placement.degraded,
        expression="hint" if choice.streams is None else "explicit",
        properties=properties,
        device_properties=device_properties,
        shapes=shapes,
        streams=choice.streams if isinstance(choice.streams, int) else None,
        threads=threads,
        batch=choice.batch,
        requests=choice.requests,
        queue=queue_of(spec),
        slo=slo_of(spec),
        concurrency=spec.traffic.concurrency,
        priority=spec.priority,
        reasons=(*placement.reasons, *choice.reasons, *cpu_reasons, *shape_reasons, *reasons, _queue_reason(spec)),
        warnings=(*placement.warnings, *choice.warnings, *warnings, *_model_warnings(case, choice)),
    )


def _shapes(case: Case) -> tuple[dict[str, list[int | str]], tuple[Reason, ...]]:
    """Return the new input shapes: as asked, with the batch fixed at 1 for an NPU that takes static shapes only."""
    shapes = {name: list(case.spec.shapes[name]) for name in sorted(case.spec.shapes)}
    if not case.placement.of("NPU") or case.asked.batch is not None:
        return shapes, ()
    fixed: dict[str, list[int | str]] = {
        tensor.name: [1, *(dim.low for dim in tensor.shape[1:])]
        for tensor in case.info.inputs
        if tensor.shape and not tensor.shape[0].static
    }
    if not fixed:
        return shapes, ()
    return {**shapes, **fixed}, (because("shapes", "batch fixed at 1: an NPU takes static shapes only", 29),)


def queue_of(spec: ModelSpec) -> QueuePlan:
    """Return the queue in front of the model, as the manifest says or as its SLO leaves time for."""
    timeout = spec.queue.timeout or (spec.slo.latency if spec.slo else TIMEOUT_S)
    return QueuePlan(limit=spec.queue.limit, timeout_s=timeout, memory_bytes=spec.queue.memory)


def slo_of(spec: ModelSpec) -> SloPlan | None:
    """Return the model's SLO in plain numbers."""
    slo = spec.slo
    return SloPlan(latency_s=slo.latency, percentile=slo.percentile, rate_per_s=slo.rate) if slo else None


def _queue_reason(spec: ModelSpec) -> Reason:
    if spec.queue.timeout is not None:
        whose = "timeout as the manifest asks"
    elif spec.slo is not None:
        whose = "timeout from the SLO: a later answer is worth nothing"
    else:
        whose = f"timeout {TIMEOUT_S:g} s, because nothing says how long callers wait"
    limit = "limit as the manifest asks" if spec.queue.limit is not None else "limit derived while it runs"
    return because("queue", f"{limit}; {whose}")


def _model_warnings(case: Case, choice: Choice) -> tuple[str, ...]:
    warnings = []
    if case.info.stateful and (choice.requests or choice.streams or 2) != 1:
        warnings.append("the model keeps state, and each infer request has its own: callers are not kept to one")
    sockets = case.worker.host.cores.sockets
    if (
        choice.latency
        and case.placement.uses_cpu
        and sockets > 1
        and case.share > case.worker.host.cores.physical // sockets
    ):
        warnings.append(f"LATENCY uses one of {sockets} sockets; state `traffic.concurrency` to use all")
    return tuple(warnings)


def _planning_warnings(deployment: Deployment, decisions: Mapping[str, Decision]) -> list[str]:
    """Say so where the manifest asks for measuring by name and nothing was measured."""
    mode = deployment.spec.planning.mode
    if mode in {None, "hint"}:
        return []
    without = [model.name for model in deployment.spec.models if model.name not in decisions]
    if not without:
        return []
    why = "" if all(model.slo for model in deployment.spec.models) else " (a model without an SLO has no measure)"
    return [f"planning.mode is {mode}, and nothing was measured of {', '.join(without)}{why}: planned by rule"]


def _crowding_warnings(worker: Worker) -> list[str]:
    if worker.cpu_models <= worker.cpus:
        return []
    cores = "core" if worker.cpus == 1 else "cores"
    return [f"{worker.cpu_models} models share {worker.cpus} {cores}: one thread each, and they slow each other down"]
