"""Keeps one worker process alive for each deployment: starts, watches, restarts, adopts and ends them."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from orchestrator.agent import listener, paths, process
from orchestrator.agent.paths import Layout, WorkerPaths
from orchestrator.agent.process import Identity
from orchestrator.agent.restart import Deaths, Patience, Silence, Stage, UnitState
from orchestrator.agent.store import DeploymentRecord, Event, Store, WorkerRecord
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.serving import admin

STATUS_TIMEOUT_S = 1.0
READY_POLL_S = 0.1
ADOPT_TIMEOUT_S = 10.0  # a worker may be compiling on all cores when a new agent asks
DRAIN_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0  # to end, beyond the time to drain; and from SIGKILL on
LOG_ENDS = "; its log ends:\n"
GIVE_UP_LISTENING_S = 4.0  # clients wait in the backlog this long at most; in a crash loop they are refused

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process."""

    deployment: str
    slot: int
    paths: WorkerPaths
    identity: Identity
    pidfd: int
    generation: int
    started: float
    """Unix time."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None
    """Negative for a signal; None while it runs, or when it was not our child."""
    retiring: bool = False
    ready_at: float | None = None
    """When it was first seen ready, on the monotonic clock."""
    events_seen: int = 0
    log_offset: int = 0
    """Where its own lines begin in the log."""
    begun: float = field(default_factory=time.monotonic)
    """When it was started or adopted, on the monotonic clock."""
    silent_since: float | None = None
    """When it was first asked in vain since its last answer, on the monotonic clock."""
    silent_polls: int = 0
    says: str = ""
    """Its state in its last answer."""
    hung: bool = False
    """It was ended because it did not answer."""

    async def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> admin.Json:
        """Return the worker's own status; raise OrchError when it does not answer in time."""
        asked = time.monotonic()
        try:
            status: admin.Json = await admin.acall(self.paths.control, "status", timeout_s=timeout_s)
        except OrchError:
            self.silent_polls += 1
            self.silent_since = asked if self.silent_since is None else self.silent_since
            raise
        self.silent_since, self.silent_polls, self.says = None, 0, status["state"]
        if status["ready"] and self.ready_at is None:
            self.ready_at = time.monotonic()
        return status

    def kill(self, number: signal.Signals) -> None:
        """Send the process a signal, if it still runs."""
        if not self.ended.is_set():  # else the number of its pidfd may be another's by now
            process.kill(self.pidfd, number)

    def failure(self) -> OrchError | None:
        """Return why the worker's plan cannot run, if the worker said so before it ended."""
        try:
            return admin.error_from_json(json.loads(self.paths.failure.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def silence(self) -> Silence:
        """Return how long it has not answered."""
        seconds = 0.0 if self.silent_since is None else time.monotonic() - self.silent_since
        return Silence(seconds, self.silent_polls)

    def stage(self, changed: bool) -> Stage:
        """Return what it is about; `changed` tells whether the agent changes it now."""
        if self.ready_at is None:
            return Stage.STARTING
        return Stage.CHANGING if changed or self.says in {"Starting", "Changing"} else Stage.SERVING

    def how_it_ended(self) -> str:
        """Return how the process ended and the last lines of its log, for people."""
        match self.exit_code:
            case _ if self.hung:
                how = "did not answer and was ended"
            case None:
                how = "ended"
            case code if code < 0:
                how = f"was killed by {signal.Signals(-code).name}"
            case code:
                how = f"ended with exit code {code}"
        tail = process.tail(self.paths.log, offset=self.log_offset)
        return f"the worker (pid {self.identity.pid}) {how}" + (f"{LOG_ENDS}{tail}" if tail else "")


@dataclass(slots=True, eq=False)
class Unit:
    """One deployment's place: its worker, the socket it listens on, and how often it died."""

    name: str
    worker: Worker | None = None
    listener: socket.socket | None = None
    address: str | None = None
    """HOST:PORT that the listener was made for."""
    slot: int = 0
    """Folder of its worker; a replacement starts in the other one."""
    state: UnitState = UnitState.MISSING
    message: str = ""
    restarts: int = 0
    deaths: Deaths = field(default_factory=Deaths)
    restart: asyncio.Task[None] | None = None
    """A start that waits for its time."""
    looking: asyncio.Task[None] | None = None
    """Looks whether a worker that was started again comes up."""


class Supervisor:
    """The workers of one state folder; lives on one event loop."""

    def __init__(self, layout: Layout, store: Store, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.units: dict[str, Unit] = {}
        self._layout, self._store, self._command = layout, store, tuple(command)
        self._environ = {**environ, "CI": "true", "PYTHONUNBUFFERED": "1"}
        self._workers: set[Worker] = set()
        self._ending = False

    def unit(self, name: str) -> Unit:
        """Return the deployment's place, made when there is none yet."""
        return self.units.setdefault(name, Unit(name))

    # --- starting

    def listen(self, plan: DeploymentPlan) -> socket.socket | None:
        """Return a listening socket for the plan's HTTP address; raise OrchError when it is taken."""
        return None if plan.endpoint.http is None else listener.bind(plan.endpoint.http)

    def launch(self, plan: DeploymentPlan, generation: int, slot: int, listening: socket.socket | None) -> Worker:
        """Start a worker process for the plan and watch it; the caller installs or retires it."""
        if self._ending:
            raise OrchError(Kind.UNAVAILABLE, "all deployments are being stopped", where=plan.name)
        place = self._layout.worker(plan.name, slot)
        try:
            place.folder.mkdir(mode=0o700, exist_ok=True)
            process.clear(place)
        except OSError as error:
            raise paths.state_error(error, place.folder) from None
        paths.write(place.plan, plan.model_dump_json(indent=1))
        descriptor = None if listening is None else listening.fileno()
        offset = process.rotate(place.log)
        pid = process.spawn(self._arguments(place, plan, generation, descriptor), self._environ, place.log, descriptor)
        identity = process.identify(pid) or Identity(pid, 0)  # 0: it has ended already; the pidfd will say so
        worker = self._watch(plan.name, place, identity, slot)
        assert worker is not None, "a child keeps its pid until it is reaped"
        worker.generation, worker.log_offset = generation, offset
        log.info("%s: started worker pid %d for generation %d", plan.name, pid, generation)
        return worker

    def _arguments(
        self, place: WorkerPaths, plan: DeploymentPlan, generation: int, descriptor: int | None
    ) -> list[str]:
        words = [*self._command, process.STATE_FLAG, str(place.folder), "--plan", str(place.plan)]
        words += ["--generation", str(generation)]
        words += ["--regions", str(self._layout.regions(plan.name))]
        if descriptor is not None:
            words += ["--listen-fd", str(process.LISTEN_FD)]
        if plan.cores is not None:
            words += ["--cores", ",".join(map(str, plan.cores))]
        return words

    def install(self, worker: Worker, listening: socket.socket | None, address: str | None) -> None:
        """Make the worker the one that serves its deployment, with the socket that it listens on."""
        unit = self.unit(worker.deployment)
        if unit.listener is not None and unit.listener is not listening:
            unit.listener.close()
        unit.worker, unit.listener, unit.address, unit.slot = worker, listening, address, worker.slot
        unit.state, unit.message = UnitState.RUNNING, ""
        self.remember(unit)

    def remember(self, unit: Unit) -> None:
        """Keep in the store which process serves the deployment."""
        worker = unit.worker
        assert worker is not None, "only a worker is remembered"
        identity = worker.identity
        record = WorkerRecord(
            unit.name, identity.pid, identity.ticks, process.boot_id(), worker.slot, worker.generation,
            unit.restarts, worker.started, worker.events_seen,
        )  # fmt: skip
        try:
            self._store.set_worker(record)
        except OrchError as error:  # a full disk stops no worker; a new agent finds it by its folder
            log.error("%s: %s", unit.name, error)

    def start(self, plan: DeploymentPlan, generation: int) -> Worker:
        """Start the deployment's worker where none runs; raise OrchError when it cannot be started."""
        unit = self.unit(plan.name)
        self._cancel_restart(unit)
        unit.deaths = Deaths()
        return self._start(unit, plan, generation)

    def _start(self, unit: Unit, plan: DeploymentPlan, generation: int) -> Worker:
        assert unit.worker is None, "one worker serves a deployment"
        if unit.address != plan.endpoint.http:
            self._stop_listening(unit)
        listening = unit.listener if unit.listener is not None else self.listen(plan)
        try:
            worker = self.launch(plan, generation, unit.slot, listening)
        except BaseException:
            if listening is not None:
                listening.close()
            unit.listener = None
            raise
        self.install(worker, listening, plan.endpoint.http)
        return worker

    # --- watching

    def _watch(self, deployment: str, place: WorkerPaths, identity: Identity, slot: int) -> Worker | None:
        pidfd = process.open_pidfd(identity)
        if pidfd is None:
            return None
        worker = Worker(deployment, slot, place, identity, pidfd, generation=0, started=time.time())
        self._workers.add(worker)
        asyncio.get_running_loop().add_reader(pidfd, self._on_end, worker)
        return worker

    def _on_end(self, worker: Worker) -> None:
        self._unwatch(worker)
        worker.exit_code = process.reap(worker.identity.pid)
        worker.ended.set()
        unit = self.units.get(worker.deployment)
        if unit is not None and unit.worker is worker:
            unit.worker = None
            if worker.retiring:
                unit.state = UnitState.MISSING
            else:
                self._bury(unit, worker)

    def end_hung(self, name: str, patience: Patience, *, changed: bool) -> None:
        """End a worker that has not answered for too long; what follows is as after a death."""
        worker = self.unit(name).worker
        if worker is None or worker.retiring or worker.hung:
            return
        silence = worker.silence()
        if patience.is_over(silence, worker.stage(changed), time.monotonic() - worker.begun):
            what = f"worker pid {worker.identity.pid} has not answered for {silence.seconds:.0f} s and is ended"
            self.note(name, "Warning", "WorkerHung", what)
            worker.hung = True
            worker.kill(signal.SIGKILL)

    def _unwatch(self, worker: Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
            asyncio.get_running_loop().remove_reader(worker.pidfd)
            process.close(worker.pidfd)

    def _bury(self, unit: Unit, worker: Worker) -> None:
        """Decide what follows a death that nobody asked for."""
        record = self._record(unit.name)
        if record is None:
            unit.state = UnitState.MISSING
            return
        failure = worker.failure()
        how = worker.how_it_ended()
        if failure is not None and record.applied is None:  # it never ran: trying again cannot help
            unit.state, unit.message = UnitState.FAILED, str(failure)
            self._stop_listening(unit)
            self.note(unit.name, "Warning", "CannotRun", str(failure))
        else:
            healthy_s = None if worker.ready_at is None else time.monotonic() - worker.ready_at
            unit.deaths = unit.deaths.after(healthy_s)
            self._restart_later(unit, _said(failure) if failure else how)

    def _restart_later(self, unit: Unit, reason: str) -> None:
        delay_s = unit.deaths.delay_s
        looping = unit.deaths.looping
        unit.state = UnitState.CRASH_LOOP if looping else UnitState.BACKOFF
        unit.message = reason
        if delay_s > GIVE_UP_LISTENING_S:
            self._stop_listening(unit)
        when = f"starting it again in {delay_s:g} s" if delay_s else "starting it again"
        what, ends, tail = reason.partition(LOG_ENDS)
        # The log comes last: a row of a table shows as much of it as there is room.
        self.note(unit.name, "Warning", "CrashLoop" if looping else "WorkerDied", f"{what}; {when}{ends}{tail}")
        if delay_s:
            unit.restart = asyncio.create_task(self._restart_after(unit, delay_s))
        else:
            self._restart(unit)

    async def _restart_after(self, unit: Unit, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        unit.restart = None
        self._restart(unit)

    def revive(self, name: str, restarts: int) -> None:
        """Start the worker of a deployment that has run before, as after a death; a failure is tried again later.

        `restarts` were counted before this one.
        """
        unit = self.unit(name)
        unit.restarts = restarts
        self._restart(unit)

    def _restart(self, unit: Unit) -> None:
        record = self._record(unit.name)
        if record is None or unit.worker is not None or self._ending:
            return
        unit.restarts += 1
        state, message = unit.state, unit.message
        try:
            worker = self._start(unit, record.runnable, record.generation)
        except OrchError as error:
            unit.deaths = unit.deaths.after(None)
            self._restart_later(unit, str(error))
        else:
            unit.looking = asyncio.create_task(self._see_ready(worker))
            if unit.deaths.looping:  # shown until it has been healthy
                unit.state, unit.message = state, message

    async def _see_ready(self, worker: Worker) -> None:
        """Look until the worker is ready, so that it is known, should it die, whether it had come up."""
        while not worker.ended.is_set() and worker.ready_at is None:
            with suppress(OrchError):
                await worker.status()
            await asyncio.sleep(READY_POLL_S)

    def settle(self, unit: Unit) -> None:
        """Take back what is said about deaths once the worker has been ready."""
        if unit.worker is not None and unit.worker.ready_at is not None and not unit.deaths.looping:
            unit.state, unit.message = UnitState.RUNNING, ""
        elif unit.worker is not None and unit.worker.ready_at is not None:
            healthy_s = time.monotonic() - unit.worker.ready_at
            if unit.deaths.after(healthy_s).quick == 1:
                unit.deaths, unit.state, unit.message = Deaths(), UnitState.RUNNING, ""

    def _record(self, name: str) -> DeploymentRecord | None:
        try:
            return self._store.deployment(name)
        except OrchError as error:
            log.error("%s: %s", name, error)
            return None

    # --- ending

    async def retire(self, worker: Worker, drain_s: float = DRAIN_TIMEOUT_S) -> None:
        """End a worker: SIGTERM lets it finish what it has, for `drain_s` at most; then insist."""
        worker.retiring = True
        worker.kill(signal.SIGTERM)
        if not await _ended(worker, drain_s + STOP_TIMEOUT_S):
            worker.kill(signal.SIGKILL)
            if not await _ended(worker, STOP_TIMEOUT_S):
                log.error("%s: worker pid %d does not end", worker.deployment, worker.identity.pid)

    async def remove(self, name: str) -> None:
        """End the deployment's worker, close its socket and remove its folders."""
        unit = self.units.get(name)
        if unit is not None:
            self._cancel_restart(unit)
            if unit.worker is not None:
                await self.retire(unit.worker)
            self._stop_listening(unit)
            del self.units[name]
        for slot in (0, 1):
            shutil.rmtree(self._layout.worker(name, slot).folder, ignore_errors=True)
        with suppress(OSError):
            self._layout.regions(name).unlink(missing_ok=True)

    async def stop_all(self) -> None:
        """End every worker, as for the machine's shutdown; the deployments stay wanted."""
        self._ending = True  # a change under way starts nothing anew
        for unit in self.units.values():
            self._cancel_restart(unit)
        workers = tuple(self._workers)  # with those that are about to replace another
        await asyncio.gather(*(self.retire(worker) for worker in workers))
        for worker in workers:
            self._store.forget_worker(worker.deployment)

    def close(self) -> None:
        """Let go of the workers, which run on."""
        for worker in tuple(self._workers):
            self._unwatch(worker)
        for unit in self.units.values():
            self._cancel_restart(unit)
            self._stop_listening(unit)

    def _stop_listening(self, unit: Unit) -> None:
        if unit.listener is not None:
            unit.listener.close()
            unit.listener = None

    def _cancel_restart(self, unit: Unit) -> None:
        if unit.restart is not None:
            unit.restart.cancel()
            unit.restart = None
        if unit.looking is not None:
            unit.looking.cancel()
            unit.looking = None

    # --- adopting

    async def adopt(self, name: str, slot: int, identity: Identity, record: WorkerRecord | None) -> bool:
        """Take over a running worker; one that does not answer is ended, and False returned."""
        worker = self._watch(name, self._layout.worker(name, slot), identity, slot)
        if worker is None:
            return False
        try:
            status = await worker.status(ADOPT_TIMEOUT_S)
        except OrchError as error:
            self.note(name, "Warning", "WorkerStuck", f"worker pid {identity.pid} is ended: {error}")
            await self.retire(worker, drain_s=0)
            return False
        worker.generation = status["generation"]
        unit = self.unit(name)
        if record is not None:
            unit.restarts = record.restarts
            worker.started, worker.events_seen = record.started, record.events_seen
        else:  # the store was lost; how often it died is not known any more
            worker.started = datetime.fromisoformat(status["started"]).timestamp()
        if worker.ended.is_set():
            return False
        self.install(worker, None, None)
        await self.take_back_listener(unit, status)
        log.info("%s: adopted worker pid %d", name, identity.pid)
        return True

    async def take_back_listener(self, unit: Unit, answer: admin.Json) -> None:
        """Get the listening socket that a former agent made from the worker, once it listens."""
        worker, plan = unit.worker, answer["plan"]  # no plan yet while it compiles
        if worker is None or unit.listener is not None or plan is None or plan["endpoint"]["http"] is None:
            return
        listening = await asyncio.to_thread(listener.receive, worker.paths.fds)
        if listening is not None and unit.worker is worker and unit.listener is None:
            unit.listener, unit.address = listening, plan["endpoint"]["http"]
        elif listening is not None:
            listening.close()

    async def dismiss(self, name: str, identity: Identity, place: WorkerPaths) -> None:
        """End a worker of our state folder that no deployment needs."""
        worker = self._watch(name, place, identity, 0)
        if worker is not None:
            self.note(name, "Warning", "StrayWorker", f"worker pid {identity.pid} serves no deployment and is ended")
            await self.retire(worker)

    def keep_events(self, worker: Worker, answer: admin.Json) -> None:
        """Keep the events in a worker's status that are not kept yet."""
        new = [event for event in answer["events"] if event["seq"] > worker.events_seen]
        if not new:
            return
        self._store.add_events([_event(worker.deployment, event) for event in new])
        worker.events_seen = max(event["seq"] for event in new)
        unit = self.unit(worker.deployment)
        if unit.worker is worker:
            self.remember(unit)

    def note(self, name: str, kind: Any, reason: str, message: str) -> None:
        """Keep an event of the deployment, and log it."""
        log.log(logging.WARNING if kind == "Warning" else logging.INFO, "%s: %s: %s", name, reason, message)
        try:
            self._store.add_events([Event(name, kind, reason, name, message, time.time())])
        except OrchError as error:
            log.error("%s: the event is not kept: %s", name, error)


async def _ended(worker: Worker, within_s: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await worker.ended.wait()
    return worker.ended.is_set()


def _said(failure: OrchError) -> str:
    """Return why a worker could not start, with what to do about it: whoever reads it waits for nothing else."""
    hints = dict.fromkeys(problem.hint for problem in failure.problems if problem.hint)
    return "; ".join((str(failure), *hints))


def _event(deployment: str, event: admin.Json) -> Event:
    when = datetime.fromisoformat(event["time"]).timestamp()
    return Event(deployment, event["type"], event["reason"], event["object"], event["message"], when)


def gone(name: str) -> OrchError:
    """Return the error for a deployment that nobody knows."""
    return OrchError(Kind.NOT_FOUND, f"there is no deployment {name!r}", hint="orch status lists those that run")
