"""From what the agent knows and what a worker says to the status that people and tools read: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.agent.restart import UnitState
from orchestrator.agent.store import DeploymentRecord, Revision
from orchestrator.planner.plan import ModelPlan

if TYPE_CHECKING:  # an idle agent needs no YAML
    from orchestrator.manifest.load import Document
    from orchestrator.manifest.spec import ModelSpec

Json = dict[str, Any]
Health = Literal["Healthy", "Progressing", "Degraded", "Suspended", "Missing"]
Sync = Literal["Synced", "OutOfSync", "Unknown"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A deployment's worker as the agent sees it."""

    pid: int | None
    restarts: int
    started: float | None
    state: UnitState
    message: str
    answer: Json | None
    """The worker's own status."""
    silence: str | None = None
    """Why there is no answer from a process that runs."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a deployment is, in one word, with its reason."""

    health: Health
    reason: str
    message: str


def rfc3339(time_s: float) -> str:
    """Return a Unix time as people and tools read it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def item(
    record: DeploymentRecord, revision: Revision | None, worker: WorkerView, now: float, kind: str = "file"
) -> Json:
    """Return one item of the StatusList; `kind` is what it came from: file, git or folder."""
    verdict = judge(revision, worker)
    answer = worker.answer
    number = record.applied_revision or (revision.number if revision else None)
    return {
        "metadata": {
            "name": record.name,
            "generation": record.generation,
            "labels": record.origin.labels,
            "created": rfc3339(record.created),
        },
        "revision": {"number": number, "source": kind, "commit": record.origin.commit, "from": record.origin.source},
        "sync": sync(record, worker),
        "health": verdict.health,
        "conditions": conditions(record, verdict, worker, now),
        "endpoint": endpoint(record, answer),
        "worker": {
            "pid": worker.pid,
            "restarts": worker.restarts,
            "started": None if worker.started is None else rfc3339(worker.started),
        },
        "models": models(record, worker),
    }


def planned(document: Document, since: float, message: str) -> Json:
    """Return the item of a deployment whose first plan is being made since a Unix time."""
    deployment = document.deployment
    endpoint = deployment.spec.endpoint
    verdict = Verdict("Progressing", "Planning", message)
    wanted = (("Ready", "False"), ("Progressing", "True"), ("Degraded", "False"))
    return {
        "metadata": {
            "name": deployment.metadata.name,
            "generation": 0,
            "labels": dict(deployment.metadata.labels),
            "created": rfc3339(since),
        },
        "revision": {"number": None, "source": "file", "commit": None, "from": None},
        "sync": "OutOfSync",
        "health": verdict.health,
        "conditions": [_condition(kind, value, verdict, None, 0, since) for kind, value in wanted],
        "endpoint": {"http": _url(endpoint.http, endpoint.tls), "grpc": endpoint.grpc},
        "worker": {"pid": None, "restarts": 0, "started": None},
        "models": [_unplanned(model) for model in deployment.spec.models],
    }


def _unplanned(model: ModelSpec) -> Json:
    slo = model.slo
    return {
        "name": model.name,
        "state": "Planning",
        "device": str(model.device),
        "execution_devices": [],
        "plan": None,
        "slo": None
        if slo is None
        else {"latency_ms": slo.latency * 1e3, "percentile": slo.percentile, "rate_per_s": slo.rate},
        "observed": None,
        "saturation": None,
        "drift": None,
        "capacity_per_s": None,
        "capacity_from": None,
        "headroom_per_s": None,
        "reasons": [],
        "message": None,
    }


def models(record: DeploymentRecord, worker: WorkerView) -> list[Json]:
    """Return what the worker says of its models; what is planned while it says nothing or compiles the first time."""
    if worker.answer is not None and worker.answer["models"]:
        return list(worker.answer["models"])
    return [absent(model, worker) for model in record.runnable.models]


def sync(record: DeploymentRecord, worker: WorkerView) -> Sync:
    """Tell whether the worker runs the plan that is wanted."""
    if worker.answer is not None:
        return "Synced" if worker.answer["plan_digest"] == record.desired.digest() else "OutOfSync"
    return "Unknown" if worker.pid is not None else "OutOfSync"


BROKEN = frozenset({"Failed", "Failing", "Degraded"})
SLOWED_BY = {
    "host": "other processes of the host",
    "steal": "the hypervisor",
    "throttling": "the CPU quota",
    "neighbour": "another model of the deployment",
    "input": "larger inputs",
    "model": "something that is not seen on the host",
}


def judge(revision: Revision | None, worker: WorkerView) -> Verdict:
    """Return the deployment's health; the first that holds counts, worst first."""
    failed = revision is not None and revision.result == "failed"
    match worker.state:
        case UnitState.FAILED:
            return Verdict("Degraded", "CannotRun", worker.message)
        case UnitState.CRASH_LOOP:
            return Verdict("Degraded", "CrashLoop", worker.message)
        case _ if worker.silence is not None:
            return Verdict("Degraded", "NoAnswer", worker.silence)
        case UnitState.BACKOFF:
            return Verdict("Progressing", "WorkerDied", worker.message)
        case UnitState.MISSING:
            reason = revision.reason if failed and revision is not None else None
            return Verdict("Missing", "NoWorker", reason or worker.message or "no worker runs")
    if worker.answer is None:
        return Verdict("Progressing", "Starting", "the worker starts")
    if failed and revision is not None:
        serving = "the revision before it serves" if worker.answer["ready"] else "nothing serves"
        return Verdict("Degraded", "RevisionFailed", f"revision {revision.number} failed, {serving}: {revision.reason}")
    return _judge_answer(worker.answer)


def _judge_answer(answer: Mapping[str, Any]) -> Verdict:
    message = answer.get("message") or ""
    if answer["state"] == "Failed":
        return Verdict("Degraded", "WorkerFailed", message)
    broken = [model for model in answer["models"] if model["state"] in BROKEN or model.get("degraded")]
    if broken:
        return Verdict("Degraded", "ModelDegraded", "; ".join(f"{m['name']}: {_message(m)}" for m in broken))
    if not answer["ready"] or answer["state"] != "Serving":
        return Verdict("Progressing", answer["state"], message)
    return Verdict("Healthy", "Serving", message or _count(len(answer["models"])))


def _count(models: int) -> str:
    return "the model serves" if models == 1 else f"all {models} models serve"


def _message(model: Mapping[str, Any]) -> str:
    return str(model.get("message") or model.get("degraded") or model["state"])


def conditions(record: DeploymentRecord, verdict: Verdict, worker: WorkerView, now: float) -> list[Json]:
    """Return the conditions, each with the time when its status last changed."""
    ready = "Unknown" if worker.silence is not None else str(bool(worker.answer and worker.answer["ready"]))
    wanted = (
        ("Ready", ready),
        ("Progressing", str(verdict.health == "Progressing")),
        ("Degraded", str(verdict.health == "Degraded")),
    )
    before = {condition["type"]: condition for condition in record.conditions}
    told = [_condition(kind, value, verdict, before.get(kind), record.generation, now) for kind, value in wanted]
    drifted, slow = _drifted(worker)
    return [*told, _condition("Drifted", drifted, slow, before.get("Drifted"), record.generation, now)]


def _drifted(worker: WorkerView) -> tuple[str, Verdict]:
    """Tell whether inferences are slower than they should be, by whom; without numbers, which change all the time."""
    if worker.answer is None:
        return "Unknown", Verdict("Healthy", "NoAnswer", "no worker tells")
    drifts = {model["name"]: model.get("drift") or {} for model in worker.answer["models"]}
    slow = {name: SLOWED_BY.get(drift["origin"], "unknown") for name, drift in drifts.items() if drift.get("drifted")}
    if slow:
        message = "; ".join(f"{name} is slowed down by {origin}" for name, origin in slow.items())
        return "True", Verdict("Healthy", "InferenceSlow", message)
    return "False", Verdict("Healthy", "NotSlow", "no model is known to be slower than it should be")


def _condition(kind: str, value: str, verdict: Verdict, before: Json | None, generation: int, now: float) -> Json:
    unchanged = before is not None and before["status"] == value
    return {
        "type": kind,
        "status": value,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and unchanged else rfc3339(now),
        "observedGeneration": generation,
    }


def endpoint(record: DeploymentRecord, answer: Mapping[str, Any] | None) -> Json:
    """Return where clients reach the deployment: real ports where the worker knows them."""
    told = answer.get("endpoint") if answer is not None else None
    plan = record.runnable.endpoint
    http, grpc = (told.get("http"), told.get("grpc")) if told else (plan.http, plan.grpc)
    if http is not None and "://" not in http:
        http = _url(http, plan.tls)
    tls = told.get("tls") if told else None
    return {"http": http, "grpc": grpc} | ({} if tls is None else {"tls": tls})


def _url(address: str | None, tls: object) -> str | None:
    """Return where an address of the manifest is asked."""
    return None if address is None else f"{'http' if tls is None else 'https'}://{address}"


def absent(model: ModelPlan, worker: WorkerView) -> Json:
    """Return a model of a worker that says nothing."""
    slo = model.slo
    return {
        "name": model.name,
        "state": _absent_state(worker),
        "device": model.device,
        "execution_devices": [],
        "plan": {
            "expression": model.expression,
            "properties": model.properties,
            "streams": model.streams,
            "threads": model.threads,
            "batch": model.batch,
            "requests": model.requests,
            "reason": _reason(model.reasons),
            "verified": model.verdict == "verified",
            "verdict": model.verdict,
        },
        "slo": None
        if slo is None
        else {"latency_ms": slo.latency_s * 1e3, "percentile": slo.percentile, "rate_per_s": slo.rate_per_s},
        "observed": None,
        "saturation": None,
        "drift": None,
        "capacity_per_s": model.capacity_per_s,
        "capacity_from": None if model.capacity_per_s is None else "plan",
        "headroom_per_s": None,
        "reasons": [reason.model_dump() for reason in model.reasons],
        "message": None,
    }


def _absent_state(worker: WorkerView) -> str:
    if worker.pid is None:
        return "Missing"
    return "Unknown" if worker.silence is not None else "Starting"


def _reason(reasons: Iterable[Any]) -> str:
    return "; ".join(f"{reason.subject}: {reason.text}" for reason in reasons)
