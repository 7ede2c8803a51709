"""The state file as a whole: copied while in use, kept before an upgrade, checked, and written for an older orch."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator.agent.paths import Layout, state_error
from orchestrator.agent.store import MIGRATIONS, too_new
from orchestrator.errors import Kind, OrchError

NEWEST = len(MIGRATIONS)
KEPT_BEFORE = 3  # files from before an upgrade
BUSY_TIMEOUT_S = 5.0
CHECK_TIMEOUT_S = 10.0
STEPS_PER_LOOK = 10_000  # virtual machine instructions of SQLite between two looks at the clock
DAMAGED = "the state file is damaged"


@contextmanager
def reading(path: Path, timeout_s: float = CHECK_TIMEOUT_S) -> Iterator[sqlite3.Connection]:
    """Open a file to be read only, also while an agent writes it; raise OrchError where that fails or takes longer."""
    deadline = time.monotonic() + timeout_s
    try:
        with closing(sqlite3.connect(_uri(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_LOOK)
            yield connection
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            raise OrchError(Kind.DEADLINE, f"not read within {timeout_s:g} s", where=str(path)) from None
        raise OrchError(Kind.FAILED, f"the state cannot be read: {error}", where=str(path)) from None
    except sqlite3.DatabaseError as error:
        raise OrchError(Kind.INVALID, f"{DAMAGED}: {error}", where=str(path)) from None


@contextmanager
def alone(layout: Layout, hint: str = "end it first, its deployments go on serving: orch agent stop") -> Iterator[None]:
    """Hold the state folder while its file is exchanged; raise CONFLICT where an agent has it.

    What the lock file says is left as it is: who reads it must not take this process for an agent.
    """
    check_owner(layout, os.geteuid())
    try:
        holder = layout.lock.open("a", encoding="utf-8")
    except OSError as error:
        raise state_error(error, layout.lock) from None
    with holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OrchError(Kind.CONFLICT, "an agent runs", where=str(layout.root), hint=hint) from None
        yield


def check_owner(layout: Layout, user: int) -> None:
    """Raise UNAUTHORIZED where files of this user would be in the way of the agent's own."""
    place = layout.database if layout.database.exists() else layout.root
    owner = place.stat().st_uid
    if owner != user:
        hint = f"run it as that user: sudo -u '#{owner}' ORCH_HOME={layout.root} orch ..."
        raise OrchError(Kind.UNAUTHORIZED, f"belongs to another user (uid {owner})", where=str(place), hint=hint)


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def version(connection: sqlite3.Connection) -> int:
    """Return how many migrations made the file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def checked(path: Path, timeout_s: float = CHECK_TIMEOUT_S) -> int:
    """Return the version of a file that is whole; raise OrchError INVALID for a damaged one."""
    with reading(path, timeout_s) as connection:
        found = version(connection)
        rows = connection.execute("PRAGMA quick_check(1)").fetchall()
    if rows != [("ok",)]:
        raise OrchError(Kind.INVALID, f"{DAMAGED}: {rows[0][0]}", where=str(path))
    return found


def copy(path: Path, target: Path, timeout_s: float = 60.0) -> None:
    """Copy a file as it is at one moment, by SQLite's own way, to one file without a log beside it (0600)."""
    staged = target.with_name(target.name + ".new")
    staged.unlink(missing_ok=True)
    os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with reading(path, timeout_s) as source, closing(sqlite3.connect(staged, isolation_level=None)) as new:
            source.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def keep_before_upgrade(path: Path) -> Path | None:
    """Copy a file of an older orch, and return where to, before this one changes it; raise OrchError when that fails.

    None where there is nothing to upgrade, or where the file is damaged, which whoever opens it will find.
    """
    if not path.exists():
        return None
    try:
        with reading(path) as connection:
            found = version(connection)
        if not 0 < found < NEWEST:
            return None
        kept = path.with_name(f"{path.name}.before-v{NEWEST}")
        copy(path, kept)
    except OrchError as error:
        if error.kind is Kind.INVALID:
            return None
        raise
    except OSError as error:
        hint = "free some space, then start the agent again; nothing was changed"
        what = f"the state cannot be copied before its upgrade: {error.strerror}"
        raise OrchError(Kind.FAILED, what, where=str(path), hint=hint) from None
    for old in _kept(path)[KEPT_BEFORE:]:
        old.unlink(missing_ok=True)
    return kept


def _kept(path: Path) -> list[Path]:
    """Return the files from before upgrades, the newest first."""
    found = [each for each in path.parent.glob(f"{path.name}.before-v*") if each.suffix != ".new"]
    return sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)


def write_for(source: Path, target: Path, wanted: int) -> tuple[str, ...]:
    """Write a file as an orch knows it that made `wanted` migrations; return what that one has no place for.

    Migrations only ever add tables and columns (a test holds them to that), so all that both know is carried over.
    """
    staged = target.with_name(target.name + ".new")
    staged.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(staged))}", uri=True, isolation_level=None)) as new:
            staged.chmod(0o600)
            for script in MIGRATIONS[:wanted]:
                new.executescript(script)
            new.execute("ATTACH ? AS old", (_uri(source),))
            lost = tuple(_carry_over(new))
            new.execute(f"PRAGMA user_version = {wanted}")
            new.execute("DETACH old")
        checked(staged)
        staged.replace(target)
    except sqlite3.DatabaseError as error:
        raise OrchError(Kind.FAILED, f"the state cannot be written: {error}", where=str(target)) from None
    finally:
        staged.unlink(missing_ok=True)
    return lost


def _carry_over(connection: sqlite3.Connection) -> Iterator[str]:
    """Copy each table that both know, and yield what only the newer one has."""
    connection.execute("BEGIN")
    known = set(tables(connection, "main"))
    for table in tables(connection, "old"):
        if table not in known:
            rows = connection.execute(f"SELECT count(*) FROM old.{table}").fetchone()[0]  # noqa: S608 - our own names
            if rows:
                yield f"{table}: {rows} row{'' if rows == 1 else 's'}"
            continue
        both = [name for name in columns(connection, "main", table) if name in columns(connection, "old", table)]
        names = ", ".join(both)
        connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM old.{table}")  # noqa: S608
        for name in columns(connection, "old", table):
            if name not in both and (filled := _filled(connection, table, name)):
                yield f"{table}.{name}: {filled} value{'' if filled == 1 else 's'}"
    connection.execute("COMMIT")


def _filled(connection: sqlite3.Connection, table: str, column: str) -> int:
    query = f"SELECT count({column}) FROM old.{table}"  # noqa: S608 - our own names
    return int(connection.execute(query).fetchone()[0])


def tables(connection: sqlite3.Connection, schema: str = "main") -> list[str]:
    """Return the names of the tables that migrations made."""
    query = f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"  # noqa: S608
    return [row[0] for row in connection.execute(query)]


def columns(connection: sqlite3.Connection, schema: str, table: str) -> list[str]:
    """Return the names of a table's columns."""
    return [row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({table})")]


def schema_of(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return kind and name of all that the file holds, triggers and views included."""
    return {(row[0], row[1]) for row in connection.execute("SELECT type, name FROM sqlite_master")}


def expected_schema(wanted: int) -> set[tuple[str, str]]:
    """Return what `schema_of` finds in a file that so many migrations made."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for script in MIGRATIONS[:wanted]:
            connection.executescript(script)
        return schema_of(connection)


def downgrade(layout: Layout, wanted: int) -> tuple[Path, tuple[str, ...]]:
    """Put a state file for an older orch in place; return where the present one is kept, and what that one lacks.

    The caller holds the lock of the state folder. Raise OrchError, having changed nothing.
    """
    path = layout.database
    found = checked(path)
    if found > NEWEST:
        raise too_new(path, found)
    if not 0 < wanted < found:
        known = f"versions 1 to {found - 1}" if found > 1 else "nothing older"
        what = f"the state is version {found} and can be written for {known}, not {wanted}"
        raise OrchError(Kind.INVALID, what, where=str(path))
    kept = path.with_name(f"{path.name}.version-{found}")
    copy(path, kept)
    lost = write_for(kept, path.with_name(path.name + ".older"), wanted)
    _empty_log(path)
    path.with_name(path.name + ".older").replace(path)
    return kept, lost


def _empty_log(path: Path) -> None:
    """Bring what lies in the write-ahead log into the file, so that none is left beside another file."""
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
