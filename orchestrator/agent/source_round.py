"""One look at a source, and what follows from it: a commit is taken, what drifted is repaired, or nothing is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, assert_never

from orchestrator.agent import content
from orchestrator.agent.planning import Wanted
from orchestrator.agent.reconcile import APPLY_TIMEOUT_MAX_S, APPLY_TIMEOUT_S, Apply, Reconciler
from orchestrator.agent.source_place import Open, Place, Threads
from orchestrator.agent.source_reading import Read, faults, read_commit
from orchestrator.agent.source_state import Fault, Row, SourceRecord, SourceState, Tried, Trouble
from orchestrator.agent.source_steps import (
    Removal,
    Repair,
    Rest,
    Seen,
    Take,
    drift,
    next_step,
    removal,
    short,
    surroundings,
)
from orchestrator.agent.source_store import SourceStore
from orchestrator.agent.source_undo import Undo
from orchestrator.agent.store import Store
from orchestrator.agent.supervisor import Supervisor
from orchestrator.agent.turns import Report
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.gitops.checkouts import NoRoomError
from orchestrator.gitops.remote import Checkout, Commit

APPLY_S_EACH = 120.0  # for one deployment: its models are measured, compiled and checked
APPLIES_MAX = 4  # an agent makes 16 at a time, and people apply too
REVISIONS_WITH_MODELS = 10  # of each deployment: those that a rollback finds the model files of
PASSING = frozenset({Kind.UNAVAILABLE, Kind.DEADLINE})
"""Errors of a fetch that say nothing about the commit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """The parts of an agent that its sources use."""

    folder: Path
    """Holds a folder for each source."""
    store: Store
    sources: SourceStore
    reconciler: Reconciler
    supervisor: Supervisor
    machine: str
    """What decides, of this machine, whether a commit can run."""
    open: Open
    stopping: asyncio.Event
    """Set when the agent is to end: what is under way is the next one's."""
    threads: Threads = field(default_factory=Threads)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(APPLIES_MAX))
    """Bounds the commits that are brought about at the same time."""

    def note(self, source: str, kind: str, reason: str, message: str) -> None:
        """Keep an event of a source."""
        self.supervisor.note(f"source/{source}", kind, reason, message)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody who asked for a look allows it."""

    prune_all: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a look ended."""

    text: str
    reached: bool = True
    """The remote answered."""
    error: OrchError | None = None
    repairs_failed: bool = False


class Round:
    """One look at one source."""

    def __init__(self, site: Site, name: str, place: Place, report: Report) -> None:
        self._site, self._name, self._place, self._report = site, name, place, report
        self._undo = Undo(site.store, site.sources, site.reconciler)

    async def run(self, asked: Asked | None, *, may_repair: bool = True) -> Outcome:
        """Look and act; what fails is in the outcome, and kept in the store."""
        head, trouble = await self._head()
        rows, record = self._site.sources.rows(), self._record()
        drifted = self._drifted(record.state, rows) if may_repair or asked else {}
        around = surroundings(self._name, rows, self._site.machine)
        step = next_step(record.state, Seen(head, record.generation, around, drifted, asked is not None))
        match step:
            case Take(commit):
                return await self._take(commit, asked or Asked())
            case Repair(commit, names, reason):
                return await self._repair(commit, names, reason, reached=trouble is None)
            case Rest(reason):
                return Outcome(reason, trouble is None, trouble or _last_failure(record.state))
        assert_never(step)

    def _drifted(self, state: SourceState, rows: Mapping[str, Row]) -> dict[str, str]:
        followed = set(state.names) - set(state.held)
        plans = {each.name: each.desired for each in self._site.store.deployments() if each.name in followed}
        gone = [name for name, plan in plans.items() if content.gone(plan, self._kept)]
        return dict.fromkeys(gone, "its model files are gone") | drift(self._name, state, rows)

    def _record(self) -> SourceRecord:
        record = self._site.sources.one(self._name)
        if record is None:
            raise OrchError(Kind.NOT_FOUND, f"there is no source {self._name!r}", hint="orch source list shows them")
        return record

    def _keep(self, **changes: Any) -> SourceState:
        """Keep a state with these changes, where they are any."""
        before = self._record().state
        state = before.model_copy(update=changes)
        if state != before:
            self._site.sources.keep(self._name, state)
        return state

    def _note(self, kind: str, reason: str, message: str) -> None:
        self._site.note(self._name, kind, reason, message)

    async def _off(self, call: Callable[[], Any]) -> Any:
        return await self._site.threads.run(call)

    async def _head(self) -> tuple[str | None, OrchError | None]:
        """Return the commit at the remote, or why it is not known; a change of that is kept and told."""
        try:
            head: str = await self._off(self._place.head)
        except OrchError as error:
            self._in_trouble(error)
            return None, error
        if self._record().state.trouble is not None:
            self._keep(trouble=None)
            self._note("Normal", "RemoteBack", "the remote answers again")
        return head, None

    def _in_trouble(self, error: OrchError) -> None:
        before, first = self._record().state.trouble, error.problems[0]
        if before is None or before.what != str(error):
            since = time.time() if before is None else before.since
            self._keep(trouble=Trouble(what=str(error), hint=first.hint, since=since))
            self._note("Warning", "RemoteFailed", f"{error}; what runs goes on")

    # --- a commit

    async def _take(self, commit_id: str, asked: Asked) -> Outcome:
        try:
            checkout: Checkout = await self._off(lambda: self._place.fetch(commit_id))
        except OrchError as error:
            if isinstance(error, NoRoomError):
                await self._tidy()  # first: on a full disk nothing can be kept
            if error.kind in PASSING:
                self._in_trouble(error)
                return Outcome("the commit was not fetched", reached=False, error=error)
            commit: Commit = await self._off(lambda: self._place.known(commit_id))
            outcome = self._failed(commit, error, _plain(error, commit))
            await self._tidy()
            return outcome
        self._begin(checkout.commit)
        try:
            read = await self._read(checkout, asked)
        except OrchError as error:
            return await self._failed_at(checkout, error, Read())
        return await self._bring_about(checkout, read, asked)

    def _begin(self, commit: Commit) -> None:
        """Note that the commit is being tried, and what runs before it, unless an agent that ended noted that."""
        record = self._record()
        last = record.state.attempted
        if last is None or last.commit != commit.id:
            self._note("Normal", "Fetched", _told(commit))
        unfinished = last is not None and last.result == "running" and record.state.before is not None
        tried = _tried(commit, record.generation, "running")
        self._keep(attempted=tried, before=record.state.before if unfinished else {})

    async def _read(self, checkout: Checkout, asked: Asked) -> Read:
        plan = self._record().plan
        plan = plan.model_copy(update={"prune_all": plan.prune_all or asked.prune_all})
        read: Read = await self._off(lambda: read_commit(self._name, plan, checkout, self._place.bring, self._kept))
        return read

    @property
    def _kept(self) -> Path:
        return self._site.folder / self._name / "models"

    async def _bring_about(self, checkout: Checkout, read: Read, asked: Asked) -> Outcome:
        record = self._record()
        wanted = [one for one in read.wanted if one.name not in record.state.held]
        try:
            self._check_owners(wanted)
            gone = self._removal(record, read, asked)
            touched = [*gone.names, *(one.name for one in wanted)]
            self._keep(before=self._undo.remember(touched) | (record.state.before or {}))
            result = await self._apply(wanted, record, gone.names, trial=True)
        except OrchError as error:
            if self._site.stopping.is_set():
                raise
            await self._put_back()
            return await self._failed_at(checkout, error, read)
        pruned = await self._prune(gone)
        return await self._succeeded(checkout, read, result, pruned)

    def _check_owners(self, wanted: Sequence[Wanted]) -> None:
        rows = self._site.sources.rows()
        problems = [
            Problem(
                f"the deployment belongs to the source {rows[one.name].source!r}", one.name, "rename one of the two"
            )
            for one in wanted
            if one.name in rows and rows[one.name].source not in {None, self._name}
        ]
        if problems:
            raise OrchError(Kind.CONFLICT, problems)

    def _removal(self, record: SourceRecord, read: Read, asked: Asked) -> Removal:
        owned = [name for name, row in self._site.sources.rows().items() if row.source == self._name]
        named = {one.name for one in read.wanted} | set(record.state.held)
        all_may_go = record.plan.prune_all or asked.prune_all
        found = removal(owned, named, prune=record.plan.prune, all_may_go=all_may_go)
        if found.refused is not None:
            hint = f"orch source reconcile {self._name} --prune-all allows it once, spec.prune_all: true always"
            raise OrchError(Kind.CONFLICT, found.refused, where=record.plan.path, hint=hint)
        return found

    async def _apply(
        self, wanted: Sequence[Wanted], record: SourceRecord, gone: Sequence[str] = (), *, trial: bool
    ) -> dict[str, Any]:
        if not wanted:
            return {"deployments": []}
        locks = record.plan.locks
        asked = Apply((), locked=locks == "refuse", measures=locks == "measure", together=True, gone=gone, trial=trial)
        async with self._site.room:
            return await self._site.reconciler.bring(wanted, asked, self._report, _deadline(len(wanted)))

    async def _put_back(self) -> None:
        before = self._record().state.before or {}
        for error in await self._undo.put_back(before, self._report, _deadline(len(before))):
            self._note("Warning", "NotPutBack", str(error))

    async def _prune(self, gone: Removal) -> list[str]:
        for name in gone.names:
            with suppress(OrchError):  # it has made way for another, or somebody else was quicker
                await self._site.reconciler.delete([name], self._report)
        pruned = [name for name in gone.names if self._site.store.deployment(name) is None]
        if pruned:
            self._note("Normal", "Pruned", f"{', '.join(pruned)}: no longer in {self._record().plan.path}")
        return pruned

    async def _succeeded(self, checkout: Checkout, read: Read, result: dict[str, Any], pruned: list[str]) -> Outcome:
        record, commit = self._record(), checkout.commit
        before = record.state.applied
        tried = _tried(commit, record.generation, "applied")
        names = tuple(sorted(one.name for one in read.wanted))
        self._keep(applied=tried, attempted=tried, names=names, before=None)
        text = f"{_told(commit)}: {_counted(result['deployments'], pruned)}"
        if before is None or before.commit != commit.id or _acted(result["deployments"]) or pruned:
            self._note("Normal", "Applied", text)
        await self._tidy()
        return Outcome(text)

    async def _failed_at(self, checkout: Checkout, error: OrchError, read: Read) -> Outcome:
        found = await self._off(lambda: faults(error, checkout, read, self._place.authored))
        outcome = self._failed(checkout.commit, error, found)
        await self._tidy()
        return outcome

    def _failed(self, commit: Commit, error: OrchError, found: tuple[Fault, ...]) -> Outcome:
        record = self._record()
        around = surroundings(self._name, self._site.sources.rows(), self._site.machine)
        tried = _tried(commit, record.generation, "failed").model_copy(
            update={"surroundings": around, "faults": found, "kind": error.kind.value}
        )
        self._keep(attempted=tried, before=None)
        running = "" if record.state.applied is None else f"; commit {short(record.state.applied.commit)} goes on"
        self._note("Warning", "Failed", f"{_told(commit)}{running}: {_first(found)}")
        return Outcome(f"{_told(commit)} failed", error=failure(tried))

    async def _tidy(self) -> None:
        """Remove the checkouts and the model files that nothing needs any more."""
        state, rows = self._record().state, self._site.sources.rows()
        ids = {each.commit for each in (state.applied, state.attempted) if each is not None}
        ids |= {row.commit for row in rows.values() if row.source == self._name and row.commit is not None}
        plans = self._site.sources.last_plans(REVISIONS_WITH_MODELS)
        with suppress(OrchError):
            await self._off(lambda: self._clear(ids, plans))

    def _clear(self, ids: Collection[str], plans: Sequence[str]) -> None:
        self._place.keep(ids)
        content.sweep(self._kept, plans)

    # --- drift

    async def _repair(self, commit_id: str, names: Sequence[str], reason: str, *, reached: bool) -> Outcome:
        """Bring the deployments back to the last good commit."""
        record = self._record()
        try:
            checkout: Checkout = await self._off(lambda: self._place.fetch(commit_id))
            read = await self._read(checkout, Asked())
            wanted = [one for one in read.wanted if one.name in names]
            self._check_owners(wanted)
            await self._apply(wanted, record, trial=False)  # it was good, and what it replaces was not asked for
        except OrchError as error:
            if self._site.stopping.is_set():
                raise
            self._note("Warning", "NotRepaired", f"{reason}: {error}")
            return Outcome(f"not repaired: {reason}", reached, error, repairs_failed=True)
        self._note("Normal", "DriftRepaired", f"{reason}; back at commit {short(commit_id)}")
        return Outcome(f"repaired: {reason}", reached, _last_failure(record.state))


def failure(tried: Tried) -> OrchError:
    """Return the error of a commit that failed."""
    problems = [Problem(_attributed(fault, tried), fault.where, fault.hint) for fault in tried.faults]
    kind = next((kind for kind in Kind if kind.value == tried.kind), Kind.FAILED)
    return OrchError(kind, problems or [Problem("failed", tried.commit)])


def _attributed(fault: Fault, tried: Tried) -> str:
    author = f" by {fault.author}" if fault.author else ""
    return f"{fault.what} (commit {short(fault.commit or tried.commit)}{author})"


def _last_failure(state: SourceState) -> OrchError | None:
    last = state.attempted
    return failure(last) if last is not None and last.result == "failed" else None


def _tried(commit: Commit, generation: int, result: Any) -> Tried:
    return Tried(
        commit=commit.id,
        author=commit.author,
        subject=commit.subject,
        time=commit.time,
        began=time.time(),
        result=result,
        generation=generation,
    )


def _told(commit: Commit) -> str:
    author = f" by {commit.author}" if commit.author else ""
    subject = f" ({commit.subject})" if commit.subject else ""
    return f"commit {short(commit.id)}{author}{subject}"


def _plain(error: OrchError, commit: Commit) -> tuple[Fault, ...]:
    return tuple(
        Fault(what=each.what, where=each.where, hint=each.hint, commit=commit.id, author=commit.author or None)
        for each in error.problems
    )


def _first(found: Sequence[Fault]) -> str:
    if not found:
        return "no reason is known"
    first = found[0]
    more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
    author = f" (by {first.author})" if first.author else ""
    return f"{first.where}: {first.what}{author}{more}" if first.where else f"{first.what}{author}{more}"


def _acted(deployments: Sequence[dict[str, Any]]) -> bool:
    return any(change["action"] != "unchanged" for each in deployments for change in each["changes"])


def _counted(deployments: Sequence[dict[str, Any]], pruned: Sequence[str]) -> str:
    changed = sum(_acted([each]) for each in deployments)
    parts = [f"{changed} changed"] if changed else []
    if len(deployments) > changed:
        parts.append(f"{len(deployments) - changed} unchanged")
    if pruned:
        parts.append(f"{len(pruned)} removed")
    return ", ".join(parts) or "nothing is left"


def _deadline(deployments: int) -> float:
    seconds = min(APPLY_TIMEOUT_MAX_S, max(APPLY_TIMEOUT_S, APPLY_S_EACH * deployments))
    return asyncio.get_running_loop().time() + seconds
