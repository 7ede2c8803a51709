"""What was applied before, and the way back: the plan of a revision as it was made, brought about without planning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.agent.reconcile import APPLY_TIMEOUT_MAX_S, Reconciler
from orchestrator.agent.status import rfc3339
from orchestrator.agent.store import DeploymentRecord, Origin, Revision, Store
from orchestrator.agent.supervisor import gone
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner.plan import DeploymentPlan

Json = dict[str, Any]


class Owners(Protocol):
    """The sources: whoever owns a deployment would bring its own commit back at once."""

    def hold(self, deployment: str) -> bool:
        """Leave a deployment alone until its source is resumed; False where that was so, or it has no source."""

    def let_go(self, deployment: str) -> None:
        """Follow a deployment again that was held."""


@dataclass(frozen=True, slots=True)
class History:
    """The revisions of all deployments; lives on the reconciler's loop."""

    store: Store
    reconciler: Reconciler
    machine: Callable[[], str]
    """Return the fingerprint of this machine; blocks."""
    owners: Owners

    def items(self, name: str) -> Json:
        """Return the revisions kept of a deployment, also of one that was deleted, oldest first; raise NOT_FOUND."""
        revisions, record = self.store.revisions(name), self.store.deployment(name)
        if not revisions:
            raise gone(name)
        current = None if record is None else record.applied_revision
        items = [_item(each, current) for each in revisions]
        return {"apiVersion": "orch/v1", "kind": "RevisionList", "name": name, "items": items}

    def plan(self, name: str, number: int | None) -> Json:
        """Return the plan of a revision, or of what runs; raise NOT_FOUND."""
        record = self.store.deployment(name)
        if number is not None:
            revision = find(name, self.store.revisions(name), number)
            return {"number": number, "plan": DeploymentPlan.model_validate_json(revision.plan).model_dump(mode="json")}
        if record is None or record.applied is None:
            raise gone(name) if record is None else OrchError(Kind.NOT_FOUND, "nothing was applied yet", where=name)
        return {"number": record.applied_revision, "plan": record.applied.model_dump(mode="json")}

    async def rollback(self, name: str, to: int | None, *, trial: bool, timeout_s: float, report: Report) -> Json:
        """Bring the plan of an earlier revision about, by default of the last applied before that is another one.

        Raise OrchError, having touched nothing, where its files, machine or cores are not as they were.
        """
        deadline = asyncio.get_running_loop().time() + min(timeout_s, APPLY_TIMEOUT_MAX_S)
        record = self.store.deployment(name)
        if record is None:
            raise gone(name)
        revision = choose(name, self.store.revisions(name), record.applied_revision, to)
        plan = DeploymentPlan.model_validate_json(revision.plan)
        message = f"whether revision {revision.number} can run as it did"
        report({"deployment": name, "model": None, "phase": "looking", "message": message})
        await self._check(plan)
        held = self.owners.hold(name)
        try:
            origin = _origin(record, revision)
            outcome = await self.reconciler.put_back(origin, plan, report, deadline, trial=trial)
        except OrchError:
            if held:  # nothing was gone back to, so its source goes on
                self.owners.let_go(name)
            raise
        return {"deployments": [outcome], "to": revision.number, "held_from": record.origin.source}

    async def _check(self, plan: DeploymentPlan) -> None:
        problems = _cores_taken(plan, self.store.deployments())
        problems += await asyncio.to_thread(altered, plan)
        if not problems and plan.fingerprint and await asyncio.to_thread(self.machine) != plan.fingerprint:
            what = (
                "was planned for a machine with other cores, devices, memory or another OpenVINO than this one has now"
            )
            problems.append(Problem(what, plan.name, "apply the manifest again: orch plans it for this machine"))
        if problems:
            raise OrchError(Kind.CONFLICT, problems)


def find(name: str, revisions: Sequence[Revision], number: int) -> Revision:
    """Return the revision of that number; raise NOT_FOUND, naming those that are kept."""
    found = next((each for each in revisions if each.number == number), None)
    if found is None:
        kept = f"kept are {revisions[0].number} to {revisions[-1].number}" if revisions else "there is none"
        what = f"there is no revision {number}: {kept}"
        raise OrchError(Kind.NOT_FOUND, what, where=name, hint=f"orch history {name}")
    return found


def choose(name: str, revisions: Sequence[Revision], current: int | None, to: int | None) -> Revision:
    """Return the revision to go back to: `to`, or the last that was applied before the current one and differs.

    One of the same plan - what a source repaired, say - would bring nothing back.
    Raise NOT_FOUND where there is none, CONFLICT for one that never served.
    """
    if to is not None:
        found = find(name, revisions, to)
        if found.result != "applied":
            why = f": {found.reason}" if found.reason else ""
            what = f"revision {to} never served, it is {found.result}{why}"
            raise OrchError(Kind.CONFLICT, what, where=name, hint=f"orch history {name} shows those applied")
        return found
    runs = next((each.digest for each in revisions if each.number == current), None)
    applied = [each for each in revisions if each.result == "applied" and current is not None]
    before = [each for each in applied if each.number < (current or 0) and each.digest != runs]
    if not before:
        what = "no other plan was applied before the current revision" if current else "nothing was applied yet"
        raise OrchError(Kind.NOT_FOUND, what, where=name, hint=f"orch history {name}")
    return before[-1]


def altered(plan: DeploymentPlan) -> list[Problem]:
    """Return what is wrong with the model files of a plan: gone, or of another content than then; blocks."""
    from orchestrator.backend.model_file import other_content  # an idle agent hashes nothing

    found = (other_content(Path(model.source), model.sha256, model.weights_sha256) for model in plan.models)
    return [problem for problem in found if problem is not None]


def _cores_taken(plan: DeploymentPlan, records: Sequence[DeploymentRecord]) -> list[Problem]:
    """Return which cores of the plan other deployments have for themselves now."""
    problems = []
    for record in records:
        theirs = None if record.applied is None or record.name == plan.name else record.applied.cores
        shared = sorted(set(plan.cores or ()) & set(theirs or ()))
        if shared:
            what = f"its cores {', '.join(map(str, shared))} are those of the deployment {record.name!r} now"
            problems.append(
                Problem(what, plan.name, "apply the manifest again: orch plans with the cores that are left")
            )
    return problems


def _origin(record: DeploymentRecord, revision: Revision) -> Origin:
    return Origin(
        manifest=revision.manifest,
        path=record.origin.path,
        base=record.origin.base,
        labels=record.origin.labels,
        source=record.origin.source,
        commit=revision.commit,
        author=revision.author,
        note=f"rollback to {revision.number}",
    )


def _item(revision: Revision, current: int | None) -> Json:
    return {
        "revision": revision.number,
        "time": rfc3339(revision.time),
        "generation": revision.generation,
        "result": revision.result,
        "current": revision.number == current,
        "source": revision.source,
        "commit": revision.commit,
        "author": revision.author,
        "digest": revision.digest,
        "reason": revision.reason,
    }
