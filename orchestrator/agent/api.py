"""The agent's methods: what the command line calls over agent.sock."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.agent import paths, scrape
from orchestrator.agent.decisions import warn_owned
from orchestrator.agent.history import History
from orchestrator.agent.monitor import Monitor
from orchestrator.agent.names import names
from orchestrator.agent.paths import Layout
from orchestrator.agent.reconcile import APPLY_TIMEOUT_S, Apply, Reconciler
from orchestrator.agent.source_api import SourceApi
from orchestrator.agent.sources import Sources
from orchestrator.agent.status import Json, rfc3339
from orchestrator.agent.store import DeploymentRecord, Store
from orchestrator.agent.supervisor import Supervisor, gone
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin
from orchestrator.serving.admin import Method, Progress

PROGRESS_MAX = 1000  # lines that wait for a caller who does not read; further ones are dropped
DESCRIBE_EVENTS = 50
EVENTS_DEFAULT = 200
ADOPTED_TIMEOUT_S = 5.0  # callers wait 10 s for an answer
BENCHED_TIMEOUT_S = 5.0  # for a worker to take a figure
REQUESTS_TIMEOUT_S = 5.0  # for a worker to write the last lines of its log


@dataclass(frozen=True, slots=True)
class Api:
    """The methods over the parts of an agent."""

    layout: Layout
    store: Store
    supervisor: Supervisor
    reconciler: Reconciler
    monitor: Monitor
    history: History
    sources: Sources
    version: str
    started: float
    stopping: asyncio.Event
    """Ends the agent when set."""
    adopted: asyncio.Event
    """Set when every worker that runs is known."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def methods(self) -> Mapping[str, Method]:
        """Return the methods by name."""
        return {
            "version": self._version,
            "apply": self._apply,
            "status": self._status,
            "describe": self._describe,
            "events": self._events,
            "delete": self._delete,
            "plans": self._plans,
            "history": self._history,
            "revision": self._revision,
            "rollback": self._rollback,
            "stop": self._stop,
            "benched": self._benched,
            "requests": self._requests,
            "names": self._names,
            "metrics": self._metrics,
            **SourceApi(self.sources, self._detached).methods(),
        }

    async def _version(self, _params: Json, _progress: Progress) -> Json:
        return {
            "version": self.version,
            "pid": os.getpid(),
            "started": rfc3339(self.started),
            "state_dir": str(self.layout.root),
        }

    async def _apply(self, params: Json, progress: Progress) -> Json:
        asked = Apply(
            documents=_list(params, "documents"),
            prune=bool(params.get("prune", False)),
            timeout_s=float(params.get("timeout_s") or APPLY_TIMEOUT_S),
            plan=params.get("plan"),
            locked=bool(params.get("locked", False)),
            trial=bool(params.get("trial", True)),
        )
        return await self._detached(lambda report: self.reconciler.apply(asked, report), progress)

    async def _history(self, params: Json, _progress: Progress) -> Json:
        return self.history.items(str(params.get("name")))

    async def _revision(self, params: Json, _progress: Progress) -> Json:
        return self.history.plan(str(params.get("name")), _revision_number(params, "number"))

    async def _rollback(self, params: Json, progress: Progress) -> Json:
        name, to = str(params.get("name")), _revision_number(params, "to")
        trial, timeout_s = bool(params.get("trial", True)), float(params.get("timeout_s") or APPLY_TIMEOUT_S)

        def work(report: Report) -> Awaitable[Json]:
            return self.history.rollback(name, to, trial=trial, timeout_s=timeout_s, report=report)

        return await self._detached(work, progress)

    async def _delete(self, params: Json, progress: Progress) -> Json:
        names = _list(params, "names")

        def work(report: Report) -> Awaitable[Json]:
            warn_owned([self.store.deployment(name) for name in names], report)
            return self.reconciler.delete(names, report)

        return await self._detached(work, progress)

    async def _detached(self, work: Callable[[Report], Awaitable[Json]], progress: Progress) -> Json:
        """Run the work to its end, also when the caller goes away, and tell the caller how it goes."""
        lines: asyncio.Queue[Json | None] = asyncio.Queue(PROGRESS_MAX)

        def report(line: Json) -> None:
            if lines.qsize() < PROGRESS_MAX - 1:  # the last place is for the end
                lines.put_nowait(line)

        async def run() -> Json:
            try:
                return await work(report)
            finally:
                lines.put_nowait(None)

        task = asyncio.create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        while (line := await lines.get()) is not None:
            await progress(line)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is in the store and the log; the caller may have gone

    async def _status(self, params: Json, _progress: Progress) -> Json:
        names = params.get("names")
        await self._settled()
        items = await self.monitor.items(names)
        known = {item["metadata"]["name"] for item in items}
        for name in names or ():
            if name not in known:
                raise gone(name)
        return {"apiVersion": "orch/v1", "kind": "StatusList", "items": items}

    async def _describe(self, params: Json, _progress: Progress) -> Json:
        await self._settled()
        record = self._record(params)
        worker = self.supervisor.unit(record.name).worker
        item = (await self.monitor.items([record.name]))[0]
        place = self.layout.worker(record.name) if worker is None else worker.paths
        return {
            "status": item,
            "plan": record.runnable.model_dump(mode="json"),
            "manifest": record.origin.manifest,
            "path": record.origin.path,
            "events": self._kept_events(record.name, 0, DESCRIBE_EVENTS),
            "log": str(place.log),
            "requests": str(place.requests),
            "revisions": [
                {
                    "number": revision.number,
                    "time": rfc3339(revision.time),
                    "generation": revision.generation,
                    "result": revision.result,
                    "reason": revision.reason,
                    "digest": revision.digest,
                }
                for revision in self.store.revisions(record.name)
            ],
        }

    async def _events(self, params: Json, _progress: Progress) -> Json:
        after = int(params.get("after") or 0)
        events = self._kept_events(params.get("name"), after, int(params.get("limit") or EVENTS_DEFAULT))
        return {"events": events, "last": events[-1]["seq"] if events else after}

    def _kept_events(self, name: str | None, after: int, limit: int) -> list[Json]:
        return [{**event, "time": rfc3339(event["time"])} for event in self.store.events(name, after, limit)]

    async def _plans(self, params: Json, _progress: Progress) -> Json:
        names = params.get("names")
        records = [record for record in self.store.deployments() if names is None or record.name in names]
        return {record.name: record.applied.model_dump(mode="json") for record in records if record.applied is not None}

    async def _benched(self, params: Json, _progress: Progress) -> Json:
        """Tell the worker what capacity a bench found: `name` of the deployment, `model`, `capacity_per_s`."""
        record = self._record(params)
        worker = self.supervisor.unit(record.name).worker
        if worker is None:
            raise OrchError(Kind.UNAVAILABLE, "no worker runs", where=record.name)
        told = {"model": params.get("model"), "capacity_per_s": params.get("capacity_per_s")}
        await admin.acall(worker.paths.control, "benched", told, timeout_s=BENCHED_TIMEOUT_S)
        return {"ok": True}

    async def _requests(self, params: Json, _progress: Progress) -> Json:
        """Switch the log of single requests: `name` of the deployment, `on`; tell where it is."""
        record = self._record(params)
        worker = self.supervisor.unit(record.name).worker
        if worker is None:
            raise OrchError(Kind.UNAVAILABLE, "no worker runs", where=record.name)
        asked = {"on": params.get("on")}
        told: Json = await admin.acall(worker.paths.control, "requests", asked, timeout_s=REQUESTS_TIMEOUT_S)
        return told

    async def _metrics(self, _params: Json, _progress: Progress) -> Json:
        """Return the page that Prometheus reads."""
        await self._settled()
        page, content_type = await scrape.page(self)
        return {"page": page.decode(), "content_type": content_type}

    async def _stop(self, params: Json, _progress: Progress) -> Json:
        workers = bool(params.get("workers", False))
        # Whoever comes now starts the next agent, which waits for this one to end.
        paths.retire(self.layout)
        self.sources.stop()
        self.reconciler.call_off_all()
        try:
            if workers:
                await self.supervisor.stop_all()
        finally:  # nobody can reach it any more, so it ends also where the disk is full
            self.stopping.set()
        return {"stopping": True, "workers": workers, "pid": os.getpid()}

    async def _names(self, _params: Json, _progress: Progress) -> Json:
        """Return the names that a shell completes."""
        return names(self.store)

    async def _settled(self) -> None:
        """Wait a little for a new agent to find what runs, so that nothing is called missing that is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ADOPTED_TIMEOUT_S):
                await self.adopted.wait()

    def _record(self, params: Json) -> DeploymentRecord:
        name = str(params.get("name"))
        record = self.store.deployment(name)
        if record is None and self.reconciler.attempts.of(name) is not None:
            hint = f"orch status {name} shows how far it is"
            raise OrchError(Kind.UNAVAILABLE, f"{name!r} is still being planned", hint=hint)
        if record is None:
            raise gone(name)
        return record


def _revision_number(params: Json, key: str) -> int | None:
    value = params.get(key)
    if value is None or (isinstance(value, int) and value > 0):
        return value
    raise OrchError(Kind.INVALID, f"{key} must be the number of a revision, got {value!r}")


def _list(params: Json, key: str) -> list[Any]:
    value = params.get(key)
    if not isinstance(value, list):
        raise OrchError(Kind.INVALID, f"{key} must be a list, got {value!r}")
    return value
