"""Brings deployments to what their manifests want: plan, then, having the turn, compare, decide and act."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

from orchestrator.agent import content, listener, paths, planning, trials
from orchestrator.agent.attempt import Attempt, Attempts, changed, deleted, stopping
from orchestrator.agent.decisions import Step, decide, overlap, to_prune, warn_owned, warn_planned
from orchestrator.agent.planning import Asking, Planner, Wanted, merge
from orchestrator.agent.store import DeploymentRecord, Origin, Revision, Store
from orchestrator.agent.supervisor import DRAIN_TIMEOUT_S, Supervisor, Worker, gone
from orchestrator.agent.turns import Report, Turns
from orchestrator.agent.waiting import END_SEEN_S, READY_POLL_MAX_S, ends_within, serves, until_known
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner.diff import Change, diff
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan
from orchestrator.serving import admin

Json = dict[str, Any]

APPLY_TIMEOUT_S = 600.0  # compiling 256 models on 2 cores takes minutes
APPLY_TIMEOUT_MAX_S = 3600.0
PLANNINGS_MAX = 3  # of one apply, when the cores that others have change while it is planned
READY_POLL_MIN_S = 0.02

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Apply:
    """What a caller asks for."""

    documents: Sequence[Mapping[str, Any]]
    prune: bool = False
    timeout_s: float = APPLY_TIMEOUT_S
    plan: str | None = None
    """Digest of the plan that the caller saw; another one is refused."""
    locked: bool = False
    """Refuse what the locks beside the manifests do not hold."""
    measures: bool = True
    """Measure what neither a lock nor the memory of this machine holds; else it is planned by rule."""
    together: bool = False
    """Try no further deployment after one that failed: the caller takes back what was done."""
    gone: Sequence[str] = ()
    """Deployments that the caller deletes afterwards; one that is in the way of another goes first."""
    trial: bool = True
    """Try under load whether a change holds its SLO before it stays."""


@dataclass(frozen=True, slots=True)
class Course:
    """One deployment's way to a plan."""

    plan: DeploymentPlan
    revision: Revision
    report: Report
    deadline: float
    """On the loop's clock."""
    trial: bool = True
    """Whether it has to hold its SLO under load."""

    def tell(self, phase: str, message: str, model: str | None = None) -> None:
        """Report progress."""
        self.report({"deployment": self.plan.name, "model": model, "phase": phase, "message": message})


class Reconciler:
    """Applies and deletes; lives on one event loop."""

    def __init__(self, store: Store, supervisor: Supervisor, planner: Planner) -> None:
        self._store, self._supervisor, self._planner = store, supervisor, planner
        self.attempts = Attempts()
        self._applies, self._turns = Turns(), Turns()
        self._gate = asyncio.Lock()
        self._claims: dict[str, DeploymentPlan] = {}
        self._listening: dict[str, EndpointPlan] = {}
        self._updating: set[str] = set()

    def busy(self, name: str) -> bool:
        """Tell whether the deployment is being changed now."""
        return self._gate.locked() or self._turns.taken(name)

    def changes(self, name: str) -> bool:
        """Tell whether the deployment's worker is changing its pools now, as far as it was asked to."""
        return name in self._updating

    @property
    def alone(self) -> asyncio.Lock:
        """Return what lets nothing be applied or deleted while it is held: it is not known yet what runs."""
        return self._gate

    async def _opened(self, report: Report, deadline: float) -> None:
        """Wait until it is known what runs; raise DEADLINE."""
        if not self._gate.locked():
            return
        report({"deployment": None, "model": None, "phase": "waiting", "message": "finding what runs"})
        try:
            async with asyncio.timeout_at(deadline), self._gate:
                pass
        except TimeoutError:
            raise OrchError(Kind.DEADLINE, "it is not known yet what runs", hint="repeat the command") from None

    # --- apply

    async def apply(self, asked: Apply, report: Report) -> Json:
        """Bring the deployments of the documents about; raise OrchError with all that failed, after trying all."""
        deadline = asyncio.get_running_loop().time() + min(asked.timeout_s, APPLY_TIMEOUT_MAX_S)
        wanted = await asyncio.to_thread(planning.read, asked.documents)
        warn_owned((self._store.deployment(one.name) for one in wanted), report)
        return await self.bring(wanted, asked, report, deadline)

    async def bring(self, wanted: Sequence[Wanted], asked: Apply, report: Report, deadline: float) -> Json:
        """Bring what was read about, as `apply` does; `deadline` is on the loop's clock."""
        await self._opened(report, deadline)
        attempt = Attempt(wanted, time.time())
        self.attempts.begin(attempt)
        try:
            # Applies of one deployment do not even plan at once; what else is done to it may pass until it is planned.
            async with self._applies.take([one.name for one in wanted], report, deadline):
                return await self._apply(attempt, asked, report, deadline)
        finally:
            self.attempts.end(attempt)

    async def _apply(self, attempt: Attempt, asked: Apply, report: Report, deadline: float) -> Json:
        attempt.check_all()
        before = {one.name: self._wish(one.name) for one in attempt.wanted}
        outcomes, errors = [], []
        try:
            plans = await self._plan_and_claim(attempt, asked, report, deadline)
            for one, plan in zip(attempt.wanted, plans, strict=True):
                warn_planned(plan, report)
                try:
                    await self._make_way(plan, asked.gone, report)
                    async with self._turns.take([one.name], report, deadline):
                        attempt.check(one.name)
                        if self._wish(one.name) != before[one.name]:
                            raise changed(one.name)
                        outcomes.append(await self._apply_one(one.origin, plan, report, deadline, trial=asked.trial))
                except OrchError as error:
                    errors.append(error)
                    if asked.together:
                        break
        finally:
            for one in attempt.wanted:
                self._claims.pop(one.name, None)
        pruned = await self._prune(attempt.wanted, report, deadline) if asked.prune and not errors else []
        if errors:
            raise merge(errors, Kind.FAILED if len(errors) > 1 else None)
        return {"deployments": outcomes, "pruned": pruned}

    async def _make_way(self, plan: DeploymentPlan, gone: Sequence[str], report: Report) -> None:
        """Delete what is to go anyway and listens where the plan is to: a deployment was renamed."""
        for name in gone:
            record = self._store.deployment(name)
            if record is not None and overlap(plan.endpoint, record.runnable.endpoint):
                await self.delete([name], report)

    def _wish(self, name: str) -> tuple[float, int, str] | None:
        """Return what tells whether a deployment is still wanted as it was."""
        record = self._store.deployment(name)
        return None if record is None else (record.created, record.generation, record.desired.digest())

    async def _plan_and_claim(
        self, attempt: Attempt, asked: Apply, report: Report, deadline: float
    ) -> list[DeploymentPlan]:
        """Plan, again if others took or gave back cores meanwhile, and claim what the plans take."""
        tell = _telling(attempt, report)
        asking = Asking(asked.locked, measures=asked.measures, tell=_from_any_thread(tell))
        message = _planning_message(attempt.wanted)
        for _ in range(PLANNINGS_MAX):
            report({"deployment": None, "model": None, "phase": "planning", "message": message})
            around = self._cores_around(attempt.wanted)
            plans = await self._plan(attempt.wanted, asked.plan, asking, deadline, attempt)
            if self._cores_around(attempt.wanted) == around:
                self._claims.update({plan.name: plan for plan in plans})
                return plans
            message = "the cores that others have changed meanwhile: planning again"
        what = "the cores that other deployments have changed meanwhile, again and again"
        raise OrchError(Kind.CONFLICT, what, hint="repeat the command when the others have been applied")

    def _running(self) -> dict[str, DeploymentPlan]:
        """Return the plans of what runs or is about to."""
        records = self._store.deployments()
        return {record.name: record.applied for record in records if record.applied is not None} | self._claims

    def _cores_around(self, wanted: Sequence[Wanted]) -> dict[str, tuple[int, ...]]:
        """Return the cores that others than the wanted have for themselves."""
        names = {one.name for one in wanted}
        return {
            name: plan.cores for name, plan in self._running().items() if name not in names and plan.cores is not None
        }

    async def _plan(
        self,
        wanted: Sequence[Wanted],
        expected: str | None,
        asking: Asking,
        deadline: float,
        attempt: Attempt | None = None,
    ) -> list[DeploymentPlan]:
        found = await self._planned(wanted, asking, deadline, attempt)
        errors = [plan for plan in found if isinstance(plan, OrchError)]
        if errors:
            raise merge(errors)
        plans = [plan for plan in found if isinstance(plan, DeploymentPlan)]
        if expected is not None and planning.together(plans) != expected:
            what = f"the plan is {planning.together(plans)} now, not {expected}: machine, models or manifests changed"
            raise OrchError(Kind.CONFLICT, what, hint="look at orch diff again, then apply the new plan")
        return plans

    async def _planned(
        self, wanted: Sequence[Wanted], asking: Asking, deadline: float, attempt: Attempt | None
    ) -> list[DeploymentPlan | OrchError]:
        """Plan in a thread; what it measures ends soon after the deadline, or after somebody called it off."""
        given_up = threading.Event()
        asking = replace(asking, given_up=given_up.is_set)
        work = asyncio.to_thread(self._planner, [one.document for one in wanted], self._running(), asking)
        try:
            async with asyncio.timeout_at(deadline) as scope:
                if attempt is not None:
                    attempt.scope = scope
                return await work
        except TimeoutError:
            if attempt is not None:
                attempt.check_all()
            hint = "apply with a longer --timeout, or state a shorter planning.budget"
            raise OrchError(Kind.DEADLINE, "planning did not end in time", hint=hint) from None
        finally:
            given_up.set()
            if attempt is not None:
                attempt.scope = None

    async def put_back(
        self, origin: Origin, plan: DeploymentPlan, report: Report, deadline: float, *, trial: bool = True
    ) -> Json:
        """Bring about a plan that was made before, without planning; raise its OrchError."""
        await self._opened(report, deadline)
        async with self._turns.take([plan.name], report, deadline):
            return await self._apply_one(origin, plan, report, deadline, trial=trial)

    async def _apply_one(
        self, origin: Origin, plan: DeploymentPlan, report: Report, deadline: float, *, trial: bool
    ) -> Json:
        record = self._store.deployment(plan.name)
        unit = self._supervisor.unit(plan.name)
        if record is not None and record.applied is not None:
            await until_known(unit, report, deadline)
        serving = record is not None and record.applied is not None and serves(unit)
        changes = diff(record.applied if record is not None and serving else None, plan)
        step = decide(record, serving, changes)
        for change in changes:
            report({"change": _change(plan.name, change)})
        if step is Step.NOTHING:
            assert record is not None, "nothing is done only to what exists"
            if record.origin != origin:
                self._store.annotate(plan.name, origin)
        else:
            await self._carry_out(step, origin, plan, report, deadline, trial=trial)
        return await self._outcome(plan.name, changes)

    async def _carry_out(
        self, step: Step, origin: Origin, plan: DeploymentPlan, report: Report, deadline: float, *, trial: bool = True
    ) -> None:
        revision = self._store.propose(plan.name, origin, plan, time.time())
        await self.follow(step, Course(plan, revision, report, deadline, trial))

    async def follow(self, step: Step, course: Course) -> None:
        """Act; the revision ends as applied, or as failed with the error raised; the caller has the turn."""
        name, number = course.plan.name, course.revision.number
        try:
            try:
                worker = await self._act(step, course)
            finally:
                self._listening.pop(name, None)
        except OrchError as error:
            self._store.failed(course.revision, str(error))
            self._supervisor.note(name, "Warning", "RevisionFailed", f"revision {number}: {error}")
            course.tell("failed", str(error))
            self._go_on_without(name)
            raise OrchError(error.kind, [_placed(problem, course.plan) for problem in error.problems]) from None
        self._store.applied(course.revision)
        self._keep_record(worker, course)
        self._supervisor.note(
            name, "Normal", "Applied", f"revision {number} ({step.value}, plan {course.plan.digest()})"
        )

    def _go_on_without(self, name: str) -> None:
        """Start the last good plan again where a failed one has left no worker."""
        unit, record = self._supervisor.unit(name), self._store.deployment(name)
        if record is not None and record.applied is not None and unit.worker is None and unit.restart is None:
            self._supervisor.revive(name, unit.restarts)

    async def _act(self, step: Step, course: Course) -> Worker:
        match step:
            case Step.CREATE:
                return await self._create(course)
            case Step.UPDATE:
                return await self._update(course)
            case Step.REPLACE:
                return await self._replace(course)
            case Step.NOTHING:
                raise AssertionError("nothing is not carried out")
        assert_never(step)

    async def _create(self, course: Course) -> Worker:
        unit = self._supervisor.unit(course.plan.name)
        if unit.worker is not None:
            await self._supervisor.retire(unit.worker, drain_s=0)
        self._check_ours(course.plan)
        if course.plan.endpoint.grpc is not None:
            await asyncio.to_thread(listener.check_free, course.plan.endpoint.grpc, "spec.endpoint.grpc")
        course.tell("starting", "starting the worker")
        worker = self._supervisor.start(course.plan, course.revision.generation)
        self._keep_record(worker, course)
        await self._until_ready(worker, course)
        await trials.warn(worker, course)
        return worker

    async def _update(self, course: Course) -> Worker:
        worker = self._supervisor.unit(course.plan.name).worker
        assert worker is not None, "an update needs a worker"
        params: Json = {"plan": course.plan.model_dump(mode="json"), "generation": course.revision.generation}
        params |= {} if course.trial else {"trial": False}
        self._updating.add(course.plan.name)
        try:
            async with asyncio.timeout_at(course.deadline):
                async for kind, value in admin.astream(worker.paths.control, "apply", params):
                    if kind == "progress":
                        course.tell(value["phase"], value.get("message") or "", value.get("model"))
        except TimeoutError:
            hint = f"orch logs {course.plan.name}, or apply with a longer timeout"
            raise OrchError(Kind.DEADLINE, "the worker did not finish the change in time", hint=hint) from None
        except OrchError as error:
            if error.kind is Kind.UNAVAILABLE and await ends_within(worker, END_SEEN_S):
                raise OrchError(Kind.FAILED, worker.how_it_ended()) from None
            raise
        finally:
            self._updating.discard(course.plan.name)
        worker.generation = course.revision.generation
        with suppress(OrchError):  # the change is made, whatever is seen of it now
            self._supervisor.keep_events(worker, await worker.status())
        self._supervisor.remember(self._supervisor.unit(course.plan.name))
        return worker

    async def _replace(self, course: Course) -> Worker:
        """Start the new worker, on the same socket where the address stays, and end the old one once it serves."""
        unit = self._supervisor.unit(course.plan.name)
        old, held = unit.worker, unit.listener
        before = self._store.deployment(course.plan.name)
        assert old is not None, "only what serves is replaced"
        assert before is not None, "only what serves is replaced"
        assert before.applied is not None, "only what serves is replaced"
        self._check_ours(course.plan)
        same = held is not None and unit.address == course.plan.endpoint.http
        grpc = course.plan.endpoint.grpc
        if grpc is not None and grpc != before.applied.endpoint.grpc:
            await asyncio.to_thread(listener.check_free, grpc, "spec.endpoint.grpc")
        listening = held if same else self._supervisor.listen(course.plan)
        candidate = None
        try:
            course.tell("starting", "starting the new worker beside the old one")
            seen = await trials.seen(old)
            candidate = self._supervisor.launch(course.plan, course.revision.generation, 1 - old.slot, listening)
            await self._until_ready(candidate, course)
            await trials.hold(candidate, old, seen, course)
        except BaseException as error:
            if candidate is not None:
                refused = isinstance(error, OrchError) and candidate.ready_at is not None  # it has requests of its own
                await self._supervisor.retire(candidate, drain_s=DRAIN_TIMEOUT_S if refused else 0)
            if listening is not None and not same:
                listening.close()
            raise
        self._supervisor.install(candidate, listening, course.plan.endpoint.http)
        self._store.applied(course.revision)
        course.tell("draining", "the old worker finishes what it has")
        await self._supervisor.retire(old)
        return candidate

    def _check_ours(self, plan: DeploymentPlan) -> None:
        """Raise CONFLICT, naming the deployment, when another one listens, or is about to, where this one is to."""
        records = [record for record in self._store.deployments() if record.name != plan.name]
        taken = {one.name: one.runnable.endpoint for one in records if self._supervisor.unit(one.name).worker}
        for name, endpoint in sorted((taken | self._listening).items()):
            for field in overlap(plan.endpoint, endpoint):
                what = f"{getattr(plan.endpoint, field)} is taken by the deployment {name!r}"
                raise OrchError(Kind.CONFLICT, what, hint=f"change spec.endpoint.{field}")
        self._listening[plan.name] = plan.endpoint

    async def _until_ready(self, worker: Worker, course: Course) -> None:
        """Wait until the worker serves; raise OrchError with its own reason, how it died, or DEADLINE."""
        loop = asyncio.get_running_loop()
        pause_s = READY_POLL_MIN_S
        told: dict[str, str] = {}
        while loop.time() < course.deadline:
            if await ends_within(worker, pause_s):
                raise worker.failure() or OrchError(Kind.FAILED, worker.how_it_ended())
            pause_s = min(READY_POLL_MAX_S, pause_s * 1.5)
            try:
                status = await worker.status()
            except OrchError:
                continue  # it has not opened its socket yet, or compiles on all cores
            if status["message"] and status["message"] != told.get(""):
                told[""] = status["message"]
                course.tell(str(status["state"]).lower(), status["message"])
            for model in status["models"]:
                if told.get(model["name"]) != model["state"]:
                    told[model["name"]] = model["state"]
                    course.tell(str(model["state"]).lower(), model.get("message") or "", model["name"])
            if status["ready"]:
                self._supervisor.keep_events(worker, status)
                return
        what = "the worker was not ready in time; it goes on starting"
        raise OrchError(Kind.DEADLINE, what, hint=f"orch logs {course.plan.name}, or apply with a longer timeout")

    def _keep_record(self, worker: Worker, course: Course) -> None:
        """Leave beside the worker what a lost store would be rebuilt from."""
        record = self._store.deployment(course.plan.name)
        if record is None:
            return
        text = json.dumps(
            {
                "name": record.name,
                "generation": record.generation,
                "created": record.created,
                "origin": {
                    "manifest": record.origin.manifest,
                    "path": record.origin.path,
                    "base": record.origin.base,
                    "labels": record.origin.labels,
                    "source": record.origin.source,
                    "commit": record.origin.commit,
                },
                "desired": record.desired.model_dump(mode="json"),
            }
        )
        try:
            paths.write(worker.paths.record, text)
        except OrchError as error:  # only a second disaster would need it
            log.error("%s: %s", record.name, error)

    async def _outcome(self, name: str, changes: Sequence[Change]) -> Json:
        record = self._store.deployment(name)
        assert record is not None, "it was just applied"
        worker = self._supervisor.unit(name).worker
        endpoint: Json = {"http": record.desired.endpoint.http, "grpc": record.desired.endpoint.grpc}
        if worker is not None:
            try:
                endpoint = (await worker.status()).get("endpoint") or endpoint
            except OrchError as error:
                log.warning("%s: %s", name, error)
        return {
            "name": name,
            "generation": record.generation,
            "revision": record.applied_revision,
            "changes": [_change(name, change) for change in changes],
            "ok": True,
            "endpoint": endpoint,
        }

    # --- delete

    async def delete(self, names: Sequence[str], report: Report) -> Json:
        """Delete deployments; raise NOT_FOUND, having done nothing, when one of them is not known."""
        deadline = asyncio.get_running_loop().time() + APPLY_TIMEOUT_S
        await self._opened(report, deadline)
        async with self._turns.take(names, report, deadline):
            known = {record.name for record in self._store.deployments()} | set(self.attempts.names())
            missing = [gone(name) for name in names if name not in known]
            if missing:
                raise merge(missing)
            return {"deleted": [await self._delete(name, report) for name in dict.fromkeys(names)]}

    def call_off_all(self) -> None:
        """Let every apply end before what it does next: the agent is to stop."""
        for name in self.attempts.names():
            self.attempts.call_off(name, stopping(name))

    async def _delete(self, name: str, report: Report) -> str:
        report({"deployment": name, "model": None, "phase": "draining", "message": "finishing what it has"})
        self.attempts.call_off(name, deleted(name))
        if self._store.deployment(name) is None:  # it was only being planned
            return name
        # The wish first: an agent that is killed here leaves a stray worker, which its successor ends.
        self._store.delete(name, time.time())
        await self._supervisor.remove(name)
        self._supervisor.note(name, "Normal", "Deleted", "the deployment was deleted")
        report({"deployment": name, "model": None, "phase": "deleted", "message": ""})
        return name

    async def _prune(self, wanted: Sequence[Wanted], report: Report, deadline: float) -> list[str]:
        names = self._to_prune(wanted)
        async with self._turns.take(names, report, deadline):
            # Somebody else may have applied or deleted one meanwhile.
            return [await self._delete(name, report) for name in self._to_prune(wanted) if name in names]

    def _to_prune(self, wanted: Sequence[Wanted]) -> list[str]:
        return to_prune(self._store.deployments(), wanted, lambda path: Path(path).exists())

    # --- after a start of the agent

    async def resume(self, name: str) -> None:
        """Bring about what an agent that was killed left half done."""
        deadline = asyncio.get_running_loop().time() + APPLY_TIMEOUT_S
        async with self._turns.take([name], nobody, deadline):
            record, revision = self._store.deployment(name), self._store.last_revision(name)
            if record is None or revision is None or revision.result != "applying":
                return
            serving = record.applied is not None and serves(self._supervisor.unit(name))
            step = decide(record, serving, diff(record.applied if serving else None, record.desired))
            step = Step.UPDATE if step is Step.NOTHING else step
            try:
                await self.follow(step, Course(record.desired, revision, nobody, deadline))
            except OrchError as error:
                log.warning("%s: %s", name, error)

    async def replan(self, record: DeploymentRecord) -> None:
        """Plan anew for a machine that may have changed, and start by that plan if so; the caller is alone."""
        text = {"text": record.origin.manifest, "name": record.origin.path, "base": record.origin.base}
        try:
            wanted = await asyncio.to_thread(planning.read, [text])
            deadline = asyncio.get_running_loop().time() + APPLY_TIMEOUT_S
            # Nobody waits for this one to be measured: it is to serve again.
            own = [one for one in wanted if one.name == record.name]
            if record.origin.source is not None:
                own = [content.as_planned(one, record.runnable) for one in own]
            plan = (await self._plan(own, None, Asking(), deadline))[0]
        except (OrchError, IndexError) as error:
            self._supervisor.note(record.name, "Warning", "NotPlanned", f"the plan before is used: {error}")
            return
        if plan.fingerprint != record.runnable.fingerprint:
            deadline = asyncio.get_running_loop().time() + APPLY_TIMEOUT_S
            try:
                await self._carry_out(Step.CREATE, record.origin, plan, nobody, deadline)
            except OrchError as error:
                log.warning("%s: %s", record.name, error)


def _telling(attempt: Attempt, report: Report) -> Report:
    """Return what reports, and notes how far the planning is."""

    def tell(line: Json) -> None:
        attempt.note(line["deployment"], line["model"], line["phase"], line["message"])
        report(line)

    return tell


def _from_any_thread(report: Report) -> Callable[[str, str | None, str, str], None]:
    """Return what reports, from whichever thread, on the loop of the caller."""
    loop = asyncio.get_running_loop()

    def tell(deployment: str, model: str | None, phase: str, message: str) -> None:
        line = {"deployment": deployment, "model": model, "phase": phase, "message": message}
        with suppress(RuntimeError):  # the loop has ended, and with it who listened
            loop.call_soon_threadsafe(report, line)

    return tell


def nobody(_progress: Json) -> None:
    """Report to nobody."""


def _planning_message(wanted: Sequence[Wanted]) -> str:
    models = sum(len(one.document.deployment.spec.models) for one in wanted)
    return f"asking OpenVINO about this machine and {models} model{'' if models == 1 else 's'}"


def _change(name: str, change: Change) -> Json:
    return {
        "deployment": name,
        "model": change.model,
        "action": change.action,
        "symbol": change.symbol,
        "cause": change.cause,
        "details": list(change.details),
    }


def _placed(problem: Problem, plan: DeploymentPlan) -> Problem:
    """Return the problem with the deployment in its place: a worker has one alone, and names its models."""
    if problem.where is None:
        return replace(problem, where=plan.name)
    named = {model.name for model in plan.models}
    return replace(problem, where=f"{plan.name}/{problem.where}") if problem.where in named else problem
