"""From what is kept of a source to the status that people and tools read, in the words of Flux and Argo CD: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agent.source_state import Fault, SourceRecord, SourceState, Tried
from orchestrator.telemetry.events import rfc3339

Json = dict[str, Any]
BROKEN_SHOWN = 3  # deployments in one message


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a source is, in one word, with its reason."""

    health: str
    """Healthy, Progressing, Degraded or Suspended."""
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Around:
    """What decides how a source is, beside what is kept of it."""

    broken: Mapping[str, str] = field(default_factory=dict)
    """Deployments of its last good commit that no worker serves, and how each is."""
    deaf: str | None = None
    """Why nobody can tell it of a push; None where one can, or need not."""


NOTHING_AROUND = Around()


def judge(record: SourceRecord, around: Around = NOTHING_AROUND) -> Verdict:
    """Return how the source is; the first that holds counts."""
    state, last = record.state, record.state.attempted
    if record.plan.suspend:
        return Verdict("Suspended", "Suspended", f"nothing is taken until: orch source resume {record.name}")
    if last is not None and last.result == "running":
        return Verdict("Progressing", "Reconciling", f"commit {last.commit[:8]} is being brought about")
    if last is not None and last.result == "failed":
        return Verdict("Degraded", "CommitFailed", _why(last))
    if state.trouble is not None:
        return Verdict("Degraded", "RemoteFailed", state.trouble.what)
    if last is None:
        return Verdict("Progressing", "Starting", "nothing was taken yet")
    if around.broken:
        return Verdict("Degraded", "DeploymentFailed", _broken(last, around.broken))
    if around.deaf is not None:
        return Verdict("Degraded", "WebhookFailed", _polled(around.deaf))
    if state.held:
        return Verdict("Healthy", "Held", f"rolled back by hand and left alone: {', '.join(state.held)}")
    return Verdict("Healthy", "Applied", f"all runs of commit {last.commit[:8]}")


def _broken(last: Tried, broken: Mapping[str, str]) -> str:
    each = "; ".join(f"{name}: {how}" for name, how in sorted(broken.items())[:BROKEN_SHOWN])
    more = f"; and {len(broken) - BROKEN_SHOWN} more" if len(broken) > BROKEN_SHOWN else ""
    return f"commit {last.commit[:8]} is applied, but not all of it runs: {each}{more}"


def _polled(why: str) -> str:
    return f"nobody can tell of a push, so it is polled: {why}"


def _why(last: Tried) -> str:
    faults = last.faults or (Fault(what="no reason is known"),)
    more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"commit {last.commit[:8]} failed: {fault_text(faults[0])}{more}"


def fault_text(fault: Fault) -> str:
    """Return one thing that is wrong with a commit: where, what, and whose."""
    where = f"{fault.where}: " if fault.where else ""
    author = f" (by {fault.author})" if fault.author else ""
    return f"{where}{fault.what}{author}"


def conditions(record: SourceRecord, now: float, around: Around = NOTHING_AROUND) -> tuple[Json, ...]:
    """Return the conditions, each with the time when its status last changed."""
    verdict, last = judge(record, around), record.state.attempted
    ready = {"Healthy": "True", "Progressing": "Unknown"}.get(verdict.health, "False")
    if record.plan.suspend or verdict.reason == "WebhookFailed":
        ready = str(last is not None and last.result == "applied")
    wanted = [
        ("Ready", ready, verdict),
        ("Reconciling", str(verdict.health == "Progressing"), verdict),
        ("Stalled", str(verdict.reason == "CommitFailed"), verdict),
    ]
    if record.plan.webhook is not None:
        wanted.append(("Listening", str(around.deaf is None), _hearing(record.plan.webhook, around.deaf)))
    before = {each["type"]: each for each in record.state.conditions}
    return tuple(_condition(kind, value, why, before.get(kind), record.generation, now) for kind, value, why in wanted)


def _hearing(address: str, deaf: str | None) -> Verdict:
    if deaf is not None:
        return Verdict("Degraded", "WebhookFailed", _polled(deaf))
    return Verdict("Healthy", "Listening", f"pushes are told at {address}")


def _condition(kind: str, value: str, verdict: Verdict, before: Json | None, generation: int, now: float) -> Json:
    since = before["lastTransitionTime"] if before is not None and before["status"] == value else rfc3339(now)
    return {
        "type": kind,
        "status": value,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def item(record: SourceRecord, owned: Sequence[str], now: float, around: Around = NOTHING_AROUND) -> Json:
    """Return one item of the SourceList; `owned` are the deployments that came from it."""
    state, verdict = record.state, judge(record, around)
    return {
        "metadata": {
            "name": record.name,
            "generation": record.generation,
            "labels": record.labels,
            "created": rfc3339(record.created),
        },
        "type": record.plan.kind,
        "place": record.plan.place,
        "spec": record.plan.model_dump(mode="json"),
        "health": verdict.health,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastAppliedRevision": _revision(record, state.applied),
        "lastAttemptedRevision": _revision(record, state.attempted),
        "applied": _tried(state.applied),
        "attempted": _tried(state.attempted),
        "remote": _remote(state),
        "deployments": sorted(owned),
        "held": list(state.held),
        "conditions": list(conditions(record, now, around)),
    }


def _revision(record: SourceRecord, tried: Tried | None) -> str | None:
    """Return the revision as Flux writes it: BRANCH@COMMIT."""
    if tried is None:
        return None
    return f"{record.plan.branch}@{tried.commit}" if record.plan.branch else tried.commit


def _tried(tried: Tried | None) -> Json | None:
    if tried is None:
        return None
    return {
        "commit": tried.commit,
        "author": tried.author or None,
        "subject": tried.subject or None,
        "committed": rfc3339(tried.time) if tried.time else None,
        "began": rfc3339(tried.began),
        "result": tried.result,
        "faults": [_fault(fault) for fault in tried.faults],
    }


def _fault(fault: Fault) -> Json:
    file, _, rest = (fault.where or "").partition(":")
    line = rest.partition(":")[0]
    return {
        "what": fault.what,
        "where": fault.where,
        "file": file if line.isdecimal() else None,
        "line": int(line) if line.isdecimal() else None,
        "commit": fault.commit,
        "author": fault.author,
        "hint": fault.hint,
    }


def _remote(state: SourceState) -> Json:
    trouble = state.trouble
    if trouble is None:
        return {"answers": True, "message": None, "hint": None, "since": None}
    return {"answers": False, "message": trouble.what, "hint": trouble.hint, "since": rfc3339(trouble.since)}
