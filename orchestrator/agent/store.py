"""What the agent remembers, in one SQLite file: deployments, their revisions, their workers, and events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan

BUSY_TIMEOUT_S = 5.0  # somebody looks into the file with another program
EVENTS_MAX = 10_000
EVENTS_AGE_S = 7 * 86_400.0
EVENTS_TRIM_EVERY = 100  # insertions between two trims; a trim reads the index only
EVENT_REPEAT_S = 600.0  # an equal event within this time counts up instead of taking a row
EVENTS_ANSWER_MAX = 1000
REVISIONS_MAX = 100  # kept for each deployment
PLANS_KEPT = 256  # parsed: wanted and applied of as many deployments as a machine has

MIGRATIONS = (
    """
    CREATE TABLE deployments (
      name TEXT PRIMARY KEY, manifest TEXT NOT NULL, origin TEXT NOT NULL, base TEXT NOT NULL, labels TEXT NOT NULL,
      generation INTEGER NOT NULL, desired TEXT NOT NULL, applied TEXT, applied_revision INTEGER,
      conditions TEXT NOT NULL DEFAULT '[]', created REAL NOT NULL);
    CREATE TABLE revisions (
      deployment TEXT NOT NULL, number INTEGER NOT NULL, time REAL NOT NULL, generation INTEGER NOT NULL,
      manifest TEXT NOT NULL, plan TEXT NOT NULL, digest TEXT NOT NULL, result TEXT NOT NULL, reason TEXT,
      PRIMARY KEY (deployment, number));
    CREATE TABLE workers (
      deployment TEXT PRIMARY KEY REFERENCES deployments(name) ON DELETE CASCADE,
      pid INTEGER NOT NULL, ticks INTEGER NOT NULL, boot TEXT NOT NULL, slot INTEGER NOT NULL,
      generation INTEGER NOT NULL, restarts INTEGER NOT NULL, started REAL NOT NULL, events_seen INTEGER NOT NULL);
    CREATE TABLE events (
      seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, deployment TEXT NOT NULL, type TEXT NOT NULL,
      reason TEXT NOT NULL, object TEXT NOT NULL, message TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1);
    CREATE INDEX events_of ON events (deployment, seq);
    """,
    """
    ALTER TABLE deployments ADD COLUMN source TEXT;
    ALTER TABLE deployments ADD COLUMN commit_id TEXT;
    ALTER TABLE revisions ADD COLUMN source TEXT;
    ALTER TABLE revisions ADD COLUMN commit_id TEXT;
    ALTER TABLE revisions ADD COLUMN author TEXT;
    CREATE TABLE sources (
      name TEXT PRIMARY KEY, manifest TEXT NOT NULL, origin TEXT NOT NULL, base TEXT NOT NULL, labels TEXT NOT NULL,
      spec TEXT NOT NULL, generation INTEGER NOT NULL, created REAL NOT NULL, state TEXT NOT NULL DEFAULT '{}');
    """,
)
"""Each takes the schema one version further; `user_version` counts those done. Append, never edit."""

Result = Literal["applying", "applied", "failed", "deleted"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a deployment's manifest came from, and its text."""

    manifest: str
    path: str
    """File, or what stood for it."""
    base: str
    """Folder from which its relative paths start."""
    labels: dict[str, str]
    source: str | None = None
    """Source that it came from; None where somebody applied it."""
    commit: str | None = None
    """Of the source's repository, or what stands for it."""
    author: str | None = field(default=None, compare=False)
    """Of the commit; kept with the revision, not with the deployment."""
    note: str | None = field(default=None, compare=False)
    """Why this is applied, where a revision is to say so."""


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """One deployment as it is wanted, and as it last succeeded."""

    name: str
    origin: Origin
    generation: int
    """Counts the plans that were wanted."""
    desired: DeploymentPlan
    applied: DeploymentPlan | None
    """The last plan that a worker ran; None when none ever did."""
    applied_revision: int | None
    conditions: tuple[dict[str, Any], ...]
    created: float

    @property
    def runnable(self) -> DeploymentPlan:
        """Return the plan to start a worker with: the last good one, else the wanted one."""
        return self.desired if self.applied is None else self.applied


@dataclass(frozen=True, slots=True)
class Revision:
    """One attempt to bring a deployment to a plan."""

    deployment: str
    number: int
    time: float
    generation: int
    manifest: str
    plan: str
    digest: str
    result: Result
    reason: str | None
    source: str | None = None
    """Source that it came from; None where somebody applied it."""
    commit: str | None = None
    author: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """The process that serves a deployment; `ticks` and `boot` tell it from another that got its pid."""

    deployment: str
    pid: int
    ticks: int
    boot: str
    slot: int
    generation: int
    restarts: int
    started: float
    events_seen: int
    """Number of the worker's last event that is kept here."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; `object` is the deployment or DEPLOYMENT/MODEL."""

    deployment: str
    type: Literal["Normal", "Warning"]
    reason: str
    object: str
    message: str
    time: float


class Store:
    """The SQLite file, open; used from one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._insertions = 0
        # Plans cannot be changed, and all of them are read every two seconds.
        self._plan: Callable[[str], DeploymentPlan] = lru_cache(PLANS_KEPT)(read_plan)

    def open(self) -> None:
        """Open and migrate; raise sqlite3.DatabaseError when the file is damaged, OrchError for all else."""
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: whole after a crash, at most the last lost
            rows = connection.execute("PRAGMA quick_check(1)").fetchall()
            if rows != [("ok",)]:
                raise sqlite3.DatabaseError(str(rows))
            _migrate(connection, self._path)
        except sqlite3.OperationalError as error:
            connection.close()
            raise self._error(error) from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def close(self) -> None:
        """Close the file; every write is already on its way to the disk."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- deployments and revisions

    def deployments(self) -> list[DeploymentRecord]:
        """Return all deployments by name."""
        return [_deployment(row, self._plan) for row in self.read("SELECT * FROM deployments ORDER BY name")]

    def deployment(self, name: str) -> DeploymentRecord | None:
        """Return one deployment."""
        rows = self.read("SELECT * FROM deployments WHERE name = ?", name)
        return _deployment(rows[0], self._plan) if rows else None

    def propose(
        self,
        name: str,
        origin: Origin,
        plan: DeploymentPlan,
        now: float,
        generation: int | None = None,
        created: float | None = None,
    ) -> Revision:
        """Record the plan as wanted, with a new revision that is being applied; another plan is a new generation.

        `generation` and `created` are those of a deployment that a lost store knew.
        """
        old = self.deployment(name)
        text, labels = plan.model_dump_json(), json.dumps(origin.labels, sort_keys=True)
        if generation is None:
            generation = 1 if old is None else old.generation + (old.desired.digest() != plan.digest())
        whence = (name, origin.manifest, origin.path, origin.base, labels)
        with self.write() as connection:
            connection.execute(
                "INSERT INTO deployments"
                " (name, manifest, origin, base, labels, generation, desired, created, source, commit_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET manifest = excluded.manifest,"
                " origin = excluded.origin, base = excluded.base, labels = excluded.labels,"
                " generation = excluded.generation, desired = excluded.desired, source = excluded.source,"
                " commit_id = excluded.commit_id",
                (*whence, generation, text, created or now, origin.source, origin.commit),
            )
            number = _next_number(connection, name)
            revision = Revision(
                name, number, now, generation, origin.manifest, text, plan.digest(), "applying", origin.note,
                origin.source, origin.commit, origin.author,
            )  # fmt: skip
            _insert_revision(connection, revision)
        return revision

    def annotate(self, name: str, origin: Origin) -> None:
        """Keep a manifest whose text changed while its plan did not."""
        labels = json.dumps(origin.labels, sort_keys=True)
        with self.write() as connection:
            connection.execute(
                "UPDATE deployments SET manifest = ?, origin = ?, base = ?, labels = ?, source = ?,"
                " commit_id = ? WHERE name = ?",
                (origin.manifest, origin.path, origin.base, labels, origin.source, origin.commit, name),
            )

    def applied(self, revision: Revision) -> None:
        """Record that the worker runs the revision's plan."""
        with self.write() as connection:
            _settle(connection, revision, "applied", revision.reason if revision.result == "applying" else None)
            connection.execute(
                "UPDATE deployments SET applied = ?, applied_revision = ? WHERE name = ?",
                (revision.plan, revision.number, revision.deployment),
            )

    def failed(self, revision: Revision, reason: str) -> None:
        """Record that the revision could not be brought about, and why."""
        noted = reason if revision.reason is None else f"{revision.reason}: {reason}"
        with self.write() as connection:
            _settle(connection, revision, "failed", noted)

    def delete(self, name: str, now: float) -> None:
        """Forget the deployment; its revisions stay, with one more that says so."""
        with self.write() as connection:
            row = connection.execute(
                "SELECT generation, manifest, desired, source, commit_id FROM deployments WHERE name = ?", (name,)
            ).fetchone()
            if row is None:
                return
            number, plan = _next_number(connection, name), DeploymentPlan.model_validate_json(row[2])
            gone = Revision(name, number, now, row[0], row[1], row[2], plan.digest(), "deleted", None, row[3], row[4])
            _insert_revision(connection, gone)
            connection.execute("DELETE FROM deployments WHERE name = ?", (name,))

    def revisions(self, name: str) -> list[Revision]:
        """Return the revisions kept, oldest first."""
        return [Revision(*row) for row in self.read("SELECT * FROM revisions WHERE deployment = ? ORDER BY 2", name)]

    def last_revision(self, name: str) -> Revision | None:
        """Return the newest revision."""
        rows = self.read("SELECT * FROM revisions WHERE deployment = ? ORDER BY number DESC LIMIT 1", name)
        return Revision(*rows[0]) if rows else None

    def set_conditions(self, name: str, conditions: Sequence[dict[str, Any]]) -> None:
        """Keep the conditions, for the times of their transitions."""
        with self.write() as connection:
            connection.execute("UPDATE deployments SET conditions = ? WHERE name = ?", (json.dumps(conditions), name))

    # --- workers

    def workers(self) -> dict[str, WorkerRecord]:
        """Return the worker of each deployment that has one."""
        return {row[0]: WorkerRecord(*row) for row in self.read("SELECT * FROM workers ORDER BY deployment")}

    def set_worker(self, worker: WorkerRecord) -> None:
        """Record the process that serves a deployment."""
        values = (worker.deployment, worker.pid, worker.ticks, worker.boot, worker.slot, worker.generation)
        with self.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, worker.restarts, worker.started, worker.events_seen),
            )

    def forget_worker(self, deployment: str) -> None:
        """Record that no process serves the deployment."""
        with self.write() as connection:
            connection.execute("DELETE FROM workers WHERE deployment = ?", (deployment,))

    # --- events

    def add_events(self, events: Sequence[Event]) -> None:
        """Keep events; one equal to its deployment's last counts that up and takes its place at the end."""
        if not events:
            return
        with self.write() as connection:
            for event in events:
                _insert_event(connection, event)
            self._insertions += len(events)
            if self._insertions >= EVENTS_TRIM_EVERY:
                self._insertions = 0
                oldest = events[-1].time - EVENTS_AGE_S
                connection.execute(
                    "DELETE FROM events WHERE time < ? OR seq <= (SELECT max(seq) FROM events) - ?",
                    (oldest, EVENTS_MAX),
                )

    def events(self, name: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return events with a number above `after`, the newest `limit` of them, oldest first."""
        rows = self.read(
            "SELECT seq, time, deployment, type, reason, object, message, count FROM events"
            " WHERE seq > ? AND (? IS NULL OR deployment = ?) ORDER BY seq DESC LIMIT ?",
            *(after, name, name, max(0, min(limit, EVENTS_ANSWER_MAX))),
        )
        keys = ("seq", "time", "deployment", "type", "reason", "object", "message", "count")
        return [dict(zip(keys, row, strict=True)) for row in reversed(rows)]

    # --- the file

    def read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query; raise OrchError."""
        assert self._connection is not None, "the store is open"
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._error(error) from None

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction: all of it, or nothing and an OrchError."""
        connection = self._connection
        assert connection is not None, "the store is open"
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise self._error(error) from None
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _error(self, error: sqlite3.DatabaseError) -> OrchError:
        hint = "restart the agent (orch agent stop); it rebuilds a damaged file from the running workers"
        if "full" in str(error):
            hint = "free some space, then repeat the command; nothing was lost"
        elif isinstance(error, sqlite3.OperationalError):
            hint = "check that the folder may be written and that no other program holds the file"
        return OrchError(Kind.FAILED, f"cannot keep the state: {error}", where=str(self._path), hint=hint)


def open_or_renew(path: Path, stamp: str) -> tuple[Store, Path | None]:
    """Return the open store; a damaged file is first moved aside, and where to is returned."""
    store = Store(path)
    try:
        store.open()
        return store, None
    except sqlite3.DatabaseError:
        pass
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    store = Store(path)
    store.open()
    return store, aside


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise too_new(path, version)
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def too_new(path: Path, version: int) -> OrchError:
    """Return the error for a state file of a newer orch, with how that one makes it one for this."""
    readable = len(MIGRATIONS)
    what = f"a newer orch wrote this state: version {version}, and this orch reads up to {readable}"
    hint = f"use that orch, or let it write the state for this one: orch agent downgrade --to {readable}"
    return OrchError(Kind.CONFLICT, what, where=str(path), hint=hint)


def read_plan(text: str) -> DeploymentPlan:
    """Return a plan that was kept; raise CONFLICT for one that says what this orch does not know."""
    try:
        return DeploymentPlan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the plan"
        what = f"a plan in the state is of another orch, probably a newer one: {place}: {first['msg']}"
        hint = "use that orch, or the state from before its upgrade, state.db.before-vN (docs/operations.md)"
        raise OrchError(Kind.CONFLICT, what, hint=hint) from None


def _deployment(row: tuple[Any, ...], plan: Callable[[str], DeploymentPlan]) -> DeploymentRecord:
    name, manifest, path, base, labels, generation, desired, applied, number, conditions, created, source, commit = row
    return DeploymentRecord(
        name=name,
        origin=Origin(manifest, path, base, json.loads(labels), source, commit),
        generation=generation,
        desired=plan(desired),
        applied=None if applied is None else plan(applied),
        applied_revision=number,
        conditions=tuple(json.loads(conditions)),
        created=created,
    )


def _next_number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT max(number) FROM revisions WHERE deployment = ?", (name,)).fetchone()
    return 1 + (row[0] or 0)


def _insert_revision(connection: sqlite3.Connection, revision: Revision) -> None:
    r = revision
    settled = (r.deployment, r.number, r.time, r.generation, r.manifest, r.plan, r.digest, r.result, r.reason)
    values = (*settled, r.source, r.commit, r.author)
    connection.execute("INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    connection.execute(
        "DELETE FROM revisions WHERE deployment = ? AND number <= ?", (r.deployment, r.number - REVISIONS_MAX)
    )


def _settle(connection: sqlite3.Connection, revision: Revision, result: Result, reason: str | None) -> None:
    connection.execute(
        "UPDATE revisions SET result = ?, reason = ? WHERE deployment = ? AND number = ?",
        (result, reason, revision.deployment, revision.number),
    )


def _insert_event(connection: sqlite3.Connection, event: Event) -> None:
    last = connection.execute(
        "SELECT seq, time, type, reason, object, message, count FROM events WHERE deployment = ?"
        " ORDER BY seq DESC LIMIT 1",
        (event.deployment,),
    ).fetchone()
    count = 1
    same = (event.type, event.reason, event.object, event.message)
    if last is not None and last[2:6] == same and event.time - last[1] < EVENT_REPEAT_S:
        count = last[6] + 1
        connection.execute("DELETE FROM events WHERE seq = ?", (last[0],))
    connection.execute(
        "INSERT INTO events (time, deployment, type, reason, object, message, count) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event.time, event.deployment, *same, count),
    )
