"""Asks the workers how they are: for status, and every few seconds to keep events and find what hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator.agent import status
from orchestrator.agent.reconcile import Reconciler
from orchestrator.agent.restart import Patience, pause_s
from orchestrator.agent.source_store import SourceStore
from orchestrator.agent.status import WorkerView
from orchestrator.agent.store import DeploymentRecord, Store
from orchestrator.agent.supervisor import Supervisor
from orchestrator.errors import OrchError

Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Monitor:
    """What is seen of all deployments."""

    store: Store
    supervisor: Supervisor
    reconciler: Reconciler
    patience: Patience

    async def watch(self) -> None:
        """Look at all deployments again and again, until cancelled."""
        while True:
            await asyncio.sleep(pause_s(len(self.supervisor.units)))
            if self.supervisor.units:
                try:
                    await self.items(None)
                except OrchError as error:
                    log.error("%s", error)
                for name in sorted(self.supervisor.units):
                    self.supervisor.end_hung(name, self.patience, changed=self.reconciler.changes(name))

    async def items(self, names: Sequence[str] | None) -> list[Json]:
        """Return the status of the deployments named, or of all, having asked their workers together."""
        records = [record for record in self.store.deployments() if names is None or record.name in names]
        kinds = SourceStore(self.store).kinds()
        items = await asyncio.gather(
            *(self._item(each, kinds.get(each.origin.source or "", "file")) for each in records)
        )
        known = {item["metadata"]["name"] for item in items}
        items += [item for item in self._planned(names) if item["metadata"]["name"] not in known]
        return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def _planned(self, names: Sequence[str] | None) -> list[Json]:
        """Return the status of what is being planned."""
        items = []
        for name in self.reconciler.attempts.names():
            attempt = self.reconciler.attempts.of(name)
            wanted = None if attempt is None else attempt.of(name)
            if attempt is not None and wanted is not None and (names is None or name in names):
                items.append(status.planned(wanted.document, attempt.since, attempt.message(name)))
        return items

    async def _item(self, record: DeploymentRecord, kind: str) -> Json:
        view = await self.view(record)
        if view.answer is not None:
            with _told():
                record = self._note_applied(record, view.answer)
        seen = status.item(record, self.store.last_revision(record.name), view, time.time(), kind)
        if seen["conditions"] != list(record.conditions):
            with _told():
                self.store.set_conditions(record.name, seen["conditions"])
        return seen

    async def view(self, record: DeploymentRecord) -> WorkerView:
        """Return the deployment's worker as it is seen now."""
        unit = self.supervisor.unit(record.name)
        worker = unit.worker
        answer, silence = None, None
        if worker is not None:
            try:
                answer = await worker.status()
                with _told():
                    self.supervisor.keep_events(worker, answer)
                await self.supervisor.take_back_listener(unit, answer)
                self.supervisor.settle(unit)
            except OrchError as error:
                silence = str(error) if worker.ready_at is not None else None  # else it starts
        if worker is None or worker.ended.is_set():
            return WorkerView(None, unit.restarts, None, unit.state, unit.message, None)
        state, message = unit.state, unit.message
        return WorkerView(worker.identity.pid, unit.restarts, worker.started, state, message, answer, silence)

    def _note_applied(self, record: DeploymentRecord, answer: Json) -> DeploymentRecord:
        """Record that the wanted plan runs after all: after a slow start, a crash, or a new agent."""
        if self.reconciler.busy(record.name) or not answer["ready"] or answer["plan_digest"] != record.desired.digest():
            return record
        revision = self.store.last_revision(record.name)
        if revision is None or revision.result == "applied":
            return record
        self.store.applied(revision)
        self.supervisor.note(record.name, "Normal", "Applied", f"revision {revision.number} runs after all")
        return self.store.deployment(record.name) or record


@contextmanager
def _told() -> Iterator[None]:
    """Log what could not be kept of a status, which is told all the same: above all with a full disk."""
    try:
        yield
    except OrchError as error:
        log.error("%s", error)
