"""Follows every source: looks at each in turn and on events, and does what callers ask of them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.agent import paths, source_left, source_status
from orchestrator.agent.restart import UnitState
from orchestrator.agent.source_hooks import Hooks
from orchestrator.agent.source_left import FETCHED, RECORD
from orchestrator.agent.source_round import REVISIONS_WITH_MODELS, Asked, Outcome, Round, Site
from orchestrator.agent.source_state import SourceRecord, SourceState
from orchestrator.agent.source_status import Around
from orchestrator.agent.source_steps import pause_s, repair_pause_s
from orchestrator.agent.source_store import from_text, to_text
from orchestrator.agent.supervisor import LOG_ENDS, Unit
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.gitops.checkouts import remove_tree

if TYPE_CHECKING:
    from orchestrator.manifest.load import SourceDocument

Json = dict[str, Any]
SOURCES_MAX = 32
FOLDER_POLL_S = 2.0  # a folder is looked at this often: names, sizes and times only
UPKEEP_S = 60.0  # between two looks at whether all are followed, and all addresses listened on
FOLLOWING_TIMEOUT_S = 5.0  # callers wait 10 s for an answer
END_TIMEOUT_S = 60.0  # for a look under way when its source is deleted
BROKEN = frozenset({UnitState.CRASH_LOOP, UnitState.FAILED, UnitState.MISSING})

Waiting = tuple[Asked, Report, "asyncio.Future[Outcome]"]
"""Somebody who asked for a look."""

log = logging.getLogger(__name__)


class Follower:
    """Looks at one source again and again."""

    def __init__(self, site: Site, name: str, around: Callable[[SourceRecord], Around]) -> None:
        self._site, self._name, self._around = site, name, around
        self._wake = asyncio.Event()
        self._asked: list[Waiting] = []
        self._failures, self._repairs, self._repair_after = 0, 0, 0.0
        self._ending = False
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("source %s: a bug of ours, it is followed no more", self._name, exc_info=error)
        self._answer(self._asked, OrchError(Kind.INTERNAL, "the source is followed no more", where=self._name))

    def wake(self) -> None:
        """Look soon: something happened."""
        self._wake.set()

    async def ask(self, asked: Asked, report: Report) -> Outcome:
        """Look now, or right after the look under way, and return how it ended."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._asked.append((asked, report, answer))
        self._wake.set()
        return await answer

    async def end(self) -> None:
        """Look no more, once the look under way has ended; it is cut short after END_TIMEOUT_S."""
        self._ending = True
        self._wake.set()
        if self.task is not None:
            await asyncio.wait([self.task], timeout=END_TIMEOUT_S)
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self._answer(self._asked, OrchError(Kind.CONFLICT, "the source was deleted meanwhile", where=self._name))

    async def _run(self) -> None:
        while not self._ending and not self._site.stopping.is_set():
            record = self._site.sources.one(self._name)
            if record is None:
                return
            self._wake.clear()
            asked, self._asked = self._asked, []
            if record.plan.suspend:
                hint = f"orch source resume {self._name}"
                self._answer(asked, OrchError(Kind.CONFLICT, "the source is suspended", where=self._name, hint=hint))
                await self._wake.wait()
                continue
            try:
                await self._look(record, asked)
            except OrchError as error:
                log.error("source %s: %s", self._name, error)
                self._answer(asked, error)
                self._failures += 1
            finally:
                self._answer(asked, OrchError(Kind.INTERNAL, "the look at the source ended early", where=self._name))
            if self._site.stopping.is_set():
                return
            self.keep_conditions()
            await self._rest(record)

    async def _look(self, record: SourceRecord, asked: Sequence[Waiting]) -> None:
        def report(line: Json) -> None:
            for _, told, _ in asked:
                told(line)

        place = self._site.open(self._site.folder / self._name / "git", record.plan)
        wish = Asked(any(each.prune_all for each, _, _ in asked)) if asked else None
        now = asyncio.get_running_loop().time()
        look = Round(self._site, self._name, place, report)
        outcome = await look.run(wish, may_repair=now >= self._repair_after)
        self._failures = 0 if outcome.reached else self._failures + 1
        self._repairs = self._repairs + 1 if outcome.repairs_failed else 0
        self._repair_after = now + repair_pause_s(record.plan.interval_s, self._repairs) if self._repairs else 0.0
        for _, _, answer in asked:
            if not answer.done():
                answer.set_result(outcome)

    async def _rest(self, record: SourceRecord) -> None:
        interval_s = record.plan.interval_s
        if record.plan.folder is not None:
            interval_s = min(interval_s, FOLDER_POLL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s(interval_s, self._failures, random.random())):
                await self._wake.wait()

    def keep_conditions(self) -> None:
        """Keep the conditions, where they are others than before, with the time when that was seen."""
        record = self._site.sources.one(self._name)
        if record is not None:
            found = source_status.conditions(record, time.time(), self._around(record))
            if found != record.state.conditions:
                self._site.sources.keep(self._name, record.state.model_copy(update={"conditions": found}))

    def _answer(self, asked: Sequence[Waiting], error: OrchError) -> None:
        for _, _, answer in asked:
            if not answer.done():
                answer.set_exception(error)


class Sources:
    """The sources of an agent; lives on one event loop."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._followers: dict[str, Follower] = {}
        self._hooks = Hooks(site, self._pushed)
        self._following = asyncio.Event()
        self._leaving: set[str] = set()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Return the tasks of all sources."""
        return [follower.task for follower in self._followers.values() if follower.task is not None]

    async def run(self, adopted: asyncio.Event, *, rebuild: bool = False) -> None:
        """Follow all sources that are known, once it is known what runs, until cancelled.

        `rebuild` first finds those that a damaged store has lost.
        """
        await adopted.wait()
        if rebuild:
            self._rebuild()
        try:
            while True:
                await self._follow_all()
                self._following.set()
                with suppress(OrchError):  # the store cannot be read now
                    await self._sweep_left()
                await asyncio.sleep(UPKEEP_S)
        finally:
            self._hooks.close()

    async def _follow_all(self) -> None:
        """Follow each source that nobody follows, and listen where that failed before."""
        records = self._site.sources.all()
        for record in records:
            follower = self._followers.get(record.name)
            gone = follower is None or follower.task is None or follower.task.done()
            if gone and record.name not in self._leaving:
                self._follow(record.name)
            elif follower is not None:
                with suppress(OrchError):  # a full disk ends nothing
                    follower.keep_conditions()
        await self._hooks.listen(records)

    async def _sweep_left(self) -> None:
        """Remove the models that deployments of deleted sources no longer need."""
        known = {record.name for record in self._site.sources.all()} | self._leaving
        await self._sweep(source_left.left(self._site.folder, known))

    async def _sweep(self, folders: Sequence[Path]) -> None:
        if folders:
            plans = self._site.sources.last_plans(REVISIONS_WITH_MODELS)
            await asyncio.to_thread(source_left.sweep, folders, plans)

    async def settled(self) -> None:
        """Wait a little for a new agent to follow its sources, so that none is called missing that is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOWING_TIMEOUT_S):
                await self._following.wait()

    def _rebuild(self) -> None:
        for path in sorted(self._site.folder.glob(f"*/{RECORD}")):
            try:
                record = from_text(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.error("%s: the source is not rebuilt: %s", path, error)
                continue
            self._site.sources.put(record)
            self._site.note(
                record.name, "Warning", "StateRebuilt", "the state was damaged; the source is followed again"
            )

    def _follow(self, name: str) -> Follower:
        follower = self._followers[name] = Follower(self._site, name, self._around)
        follower.start()
        return follower

    def _pushed(self, name: str) -> None:
        if name in self._followers:
            log.info("source %s: a push was told", name)
            self._followers[name].wake()

    def stop(self) -> None:
        """Let every look end: what is under way is left to the next agent."""
        self._site.stopping.set()
        for follower in self._followers.values():
            follower.wake()

    # --- what callers ask

    async def put(self, documents: Sequence[SourceDocument], *, dry: bool = False) -> list[Json]:
        """Create or change sources; return for each what that was. Raise OrchError, having done nothing, otherwise."""
        from orchestrator.agent.source_plan import source_plan  # an idle agent needs no YAML
        from orchestrator.manifest.model_file import check_named_files  # as above

        problems = [problem for document in documents for problem in check_named_files(document)]
        known = {record.name: record for record in self._site.sources.all()}
        names = {document.manifest.metadata.name for document in documents} | set(known)
        if len(names) > SOURCES_MAX:
            hint = "one source may hold many deployments"
            problems.append(Problem(f"{len(names)} sources, and an agent follows at most {SOURCES_MAX}", None, hint))
        if problems:
            raise OrchError(Kind.INVALID, problems)
        done = []
        for document in documents:
            plan, name = source_plan(document), document.manifest.metadata.name
            labels, path = dict(document.manifest.metadata.labels), str(document.path or "-")
            before = known.get(name)
            same = before is not None and (before.plan, before.manifest) == (plan, document.source)
            action = "create" if before is None else "unchanged" if same else "update"
            done.append({"name": name, "action": action})
            if not same and not dry:
                generation = 1 if before is None else before.generation + (before.plan != plan)
                created = time.time() if before is None else before.created
                state = SourceState() if before is None else before.state
                self._change(SourceRecord(name, document.source, path, labels, plan, generation, created, state))
        if not dry:
            await self._hooks.listen(self._site.sources.all())
        return done

    def _change(self, record: SourceRecord) -> None:
        before = self._site.sources.one(record.name)
        moved = before is not None and (before.plan.place, before.plan.branch, before.plan.path) != (
            record.plan.place,
            record.plan.branch,
            record.plan.path,
        )
        if moved:  # what was fetched is of another place
            with suppress(OSError):
                remove_tree(self._site.folder / record.name / FETCHED)
        folder = self._site.folder / record.name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.write(folder / RECORD, to_text(record))
        self._site.sources.put(record)
        reason = "Created" if before is None else "Changed"
        self._site.note(record.name, "Normal", reason, f"{record.plan.place} {record.plan.path}")
        follower = self._followers.get(record.name) or self._follow(record.name)
        follower.wake()

    def items(self, names: Sequence[str] | None) -> list[Json]:
        """Return the status of the sources named, or of all; raise NOT_FOUND for one that is not known."""
        records = {record.name: record for record in self._site.sources.all()}
        for name in names or ():
            if name not in records:
                raise _no_source(name)
        rows, now = self._site.sources.rows(), time.time()
        owned = {name: [each for each, row in rows.items() if row.source == name] for name in records}
        return [
            source_status.item(record, owned[name], now, self._around(record))
            for name, record in records.items()
            if names is None or name in names
        ]

    async def reconcile(self, name: str, asked: Asked, report: Report) -> Json:
        """Look at a source now and return its status; raise OrchError with what is wrong with its last commit."""
        self._known(name)
        outcome = await self._followers[name].ask(asked, report)
        if outcome.error is not None:
            raise outcome.error
        return {"text": outcome.text, "source": self.items([name])[0]}

    async def suspend(self, name: str, on: bool) -> Json:
        """Take nothing of a source any more, or go on: then with what was held, too."""
        record = self._known(name)
        state = record.state if on else record.state.model_copy(update={"held": ()})
        plan = record.plan.model_copy(update={"suspend": on})
        if (plan, state) != (record.plan, record.state):
            changed = SourceRecord(
                name, record.manifest, record.path, record.labels, plan, record.generation, record.created, state
            )
            self._site.sources.put(changed)
            self._site.note(name, "Normal", "Suspended" if on else "Resumed", "by hand")
        self._followers[name].wake()
        return self.items([name])[0]

    def hold(self, deployment: str) -> bool:
        """Leave a deployment alone until its source is resumed; False where that was so, or it has no source."""
        row = self._site.sources.rows().get(deployment)
        record = None if row is None or row.source is None else self._site.sources.one(row.source)
        if record is None or deployment in record.state.held:
            return False
        self._keep_held(record, (*record.state.held, deployment))
        self._site.note(record.name, "Normal", "Held", f"{deployment} is left alone until the source is resumed")
        return True

    def let_go(self, deployment: str) -> None:
        """Follow a deployment again that was held."""
        for record in self._site.sources.all():
            if deployment in record.state.held:
                self._keep_held(record, tuple(each for each in record.state.held if each != deployment))
                self._site.note(record.name, "Normal", "LetGo", f"{deployment} follows its source again")

    def _keep_held(self, record: SourceRecord, held: tuple[str, ...]) -> None:
        self._site.sources.keep(record.name, record.state.model_copy(update={"held": held}))

    async def delete(self, name: str, *, keep_deployments: bool, report: Report) -> list[str]:
        """Forget a source; delete its deployments too, unless they are to be kept. Return those deleted."""
        self._known(name)
        self._leaving.add(name)
        try:
            await self._followers.pop(name).end()
            return await self._forget(name, keep_deployments=keep_deployments, report=report)
        finally:
            self._leaving.discard(name)

    async def _forget(self, name: str, *, keep_deployments: bool, report: Report) -> list[str]:
        (self._site.folder / name / RECORD).unlink(missing_ok=True)
        owned = [each for each, row in self._site.sources.rows().items() if row.source == name]
        if owned and not keep_deployments:
            await self._site.reconciler.delete(owned, report)
        self._site.sources.forget(name)
        await self._hooks.listen(self._site.sources.all())
        await self._sweep([self._site.folder / name])
        kept = f"; kept: {', '.join(owned)}" if owned and keep_deployments else ""
        self._site.note(name, "Normal", "Deleted", f"the source was deleted{kept}")
        return [] if keep_deployments else owned

    def _around(self, record: SourceRecord) -> Around:
        """Return what decides how a source is, beside what is kept of it; nothing while it is not known what runs."""
        if not self._following.is_set():
            return Around()
        broken = _broken(record.state.names, self._site.supervisor.units)
        return Around(broken, self._hooks.failure(record.plan.webhook))

    def _known(self, name: str) -> SourceRecord:
        record = self._site.sources.one(name)
        if record is None or name not in self._followers:
            raise _no_source(name)
        return record


def _broken(names: Iterable[str], units: Mapping[str, Unit]) -> dict[str, str]:
    """Return which of the deployments no worker serves, and how each is."""
    found = {}
    for name in names:
        unit = units.get(name)
        state = UnitState.MISSING if unit is None else unit.state
        if state in BROKEN:
            why = "" if unit is None else unit.message.partition(LOG_ENDS)[0]
            found[name] = f"{state.value}: {why}" if why else state.value
    return found


def _no_source(name: str) -> OrchError:
    return OrchError(Kind.NOT_FOUND, f"there is no source {name!r}", hint="orch source list shows those there are")
