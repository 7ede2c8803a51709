"""What a new agent does first: find the workers that run, adopt them, start what is missing, end what is astray."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.agent import process
from orchestrator.agent.paths import Layout, WorkerPaths
from orchestrator.agent.process import Identity
from orchestrator.agent.reconcile import Reconciler
from orchestrator.agent.store import DeploymentRecord, Origin, Store, WorkerRecord
from orchestrator.agent.supervisor import ADOPT_TIMEOUT_S, Supervisor
from orchestrator.errors import OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.serving import admin

log = logging.getLogger(__name__)
Found = dict[Path, list[Identity]]


@dataclass(frozen=True, slots=True)
class Adoption:
    """The parts of a new agent."""

    layout: Layout
    store: Store
    supervisor: Supervisor
    reconciler: Reconciler
    done: asyncio.Event = field(default_factory=asyncio.Event)
    """Every worker that runs is known."""

    async def run(self, damaged: Path | None) -> None:
        """Make what runs match what is wanted; `damaged` is where a damaged store was put."""
        resuming: list[asyncio.Task[None]] = []
        async with self.reconciler.alone:  # nothing is applied before it is known what runs
            try:
                await self._run(damaged)
                names = [record.name for record in self.store.deployments()]
                resuming = [asyncio.create_task(self.reconciler.resume(name)) for name in names]
                await asyncio.sleep(0)  # each has its turn before any caller
            finally:
                self.done.set()
        await asyncio.gather(*resuming)

    async def _run(self, damaged: Path | None) -> None:
        found = process.find(self.layout.workers)
        if damaged is not None:
            await self._rebuild(found, damaged)
        known = self.store.workers()
        records = self.store.deployments()
        await asyncio.gather(*(self._bring_back(record, known.get(record.name), found) for record in records))
        await asyncio.gather(
            *(
                self.supervisor.dismiss(folder.name, identity, WorkerPaths(folder))
                for folder, identities in sorted(found.items())
                for identity in identities
            )
        )

    async def _bring_back(self, record: DeploymentRecord, known: WorkerRecord | None, found: Found) -> None:
        candidates = [
            (slot, identity)
            for slot in (0, 1)
            for identity in found.pop(self.layout.worker(record.name, slot).folder, [])
        ]
        # The one on record first: beside it a replacement may have been on its way.
        candidates.sort(key=lambda one: known is None or (one[1].pid, one[1].ticks) != (known.pid, known.ticks))
        adopted = False
        for slot, identity in candidates:
            if adopted:
                place = self.layout.worker(record.name, slot)
                await self.supervisor.dismiss(record.name, identity, place)
            else:
                adopted = await self.supervisor.adopt(record.name, slot, identity, known)
        if not adopted:
            await self._start_again(record, known)

    async def _start_again(self, record: DeploymentRecord, known: WorkerRecord | None) -> None:
        rebooted = known is not None and known.boot != process.boot_id()
        if rebooted:
            await self.reconciler.replan(record)
        unit = self.supervisor.unit(record.name)
        revision = self.store.last_revision(record.name)
        unfinished = revision is not None and revision.result == "applying" and record.applied is None
        if unit.worker is None and not unfinished:  # the unfinished is resumed
            self.supervisor.note(record.name, "Normal", "Starting", "no worker ran when the agent started")
            self.supervisor.revive(record.name, known.restarts if known is not None else -1)

    async def _rebuild(self, found: Found, damaged: Path) -> None:
        """Fill a new store from what lies beside the workers, or from what they say themselves."""
        folders = sorted(folder for folder in self.layout.workers.iterdir() if folder.is_dir())
        rebuilt = []
        for folder in folders:
            kept = _from_record(WorkerPaths(folder)) or await _from_worker(WorkerPaths(folder), folder in found)
            if kept is None or self.store.deployment(kept.plan.name) is not None:
                continue
            revision = self.store.propose(
                kept.plan.name, kept.origin, kept.plan, time.time(), kept.generation, kept.created
            )
            self.store.applied(revision)
            rebuilt.append(kept.plan.name)
        message = f"the state was damaged and lies in {damaged}; rebuilt: {', '.join(rebuilt) or 'nothing'}"
        log.error("%s", message)
        for name in rebuilt:
            self.supervisor.note(name, "Warning", "StateRebuilt", message)


@dataclass(frozen=True, slots=True)
class Kept:
    """A deployment as far as it is known without the store."""

    plan: DeploymentPlan
    origin: Origin
    generation: int
    created: float | None
    """Unix time; None where nobody knows."""


def _from_record(place: WorkerPaths) -> Kept | None:
    try:
        kept = json.loads(place.record.read_text(encoding="utf-8"))
        plan = DeploymentPlan.model_validate_json(json.dumps(kept["desired"]))
        return Kept(plan, Origin(**kept["origin"]), kept["generation"], kept.get("created"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _from_worker(place: WorkerPaths, runs: bool) -> Kept | None:
    if not runs:
        return None
    try:
        status = await admin.acall(place.control, "status", timeout_s=ADOPT_TIMEOUT_S)
        plan = DeploymentPlan.model_validate_json(json.dumps(status["plan"]))
    except (OrchError, ValueError) as error:
        log.error("%s: %s", place.folder, error)
        return None
    return Kept(plan, Origin("", "", "", {}), status["generation"], created=None)
