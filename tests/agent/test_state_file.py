"""The state file is kept before an upgrade, written for an older orch, and told apart from damaged ones."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from test_decisions import NOW, a_plan

from orchestrator.agent import state_file
from orchestrator.agent.paths import Layout
from orchestrator.agent.store import MIGRATIONS, Event, Origin, Store, open_or_renew
from orchestrator.errors import Kind, OrchError

FIRST = 1


def an_old_file(path: Path, version: int = FIRST) -> None:
    """Make a file as an orch left it that knew so many migrations, with a deployment, its revision and an event."""
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        for script in MIGRATIONS[:version]:
            old.executescript(script)
        plan = a_plan().model_dump_json()
        old.execute(
            "INSERT INTO deployments (name, manifest, origin, base, labels, generation, desired, applied,"
            " applied_revision, created) VALUES ('shop', 'text', '/d/shop.yaml', '/d', '{}', 3, ?, ?, 7, ?)",
            (plan, plan, NOW),
        )
        old.execute(
            "INSERT INTO revisions (deployment, number, time, generation, manifest, plan, digest, result)"
            " VALUES ('shop', 7, ?, 3, 'text', ?, ?, 'applied')",
            (NOW, plan, a_plan().digest()),
        )
        old.execute(
            "INSERT INTO events (time, deployment, type, reason, object, message)"
            " VALUES (?, 'shop', 'Normal', 'Applied', 'shop', 'm')",
            (NOW,),
        )
        old.execute(f"PRAGMA user_version = {version}")


def opened(path: Path) -> Store:
    store = Store(path)
    store.open()
    return store


def version_of(path: Path) -> int:
    return state_file.checked(path)


def test_an_older_file_is_kept_before_it_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    an_old_file(path)
    kept = state_file.keep_before_upgrade(path)
    assert kept == tmp_path / f"state.db.before-v{len(MIGRATIONS)}"
    store, damaged = open_or_renew(path, "now")
    record = store.deployment("shop")
    assert record is not None
    assert (damaged, record.generation, record.applied, record.applied_revision) == (None, 3, a_plan(), 7)
    store.close()
    assert (version_of(path), version_of(kept)) == (len(MIGRATIONS), FIRST)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert state_file.keep_before_upgrade(path) is None  # there is nothing to upgrade any more


def test_only_a_few_files_from_before_upgrades_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    an_old_file(path)
    for number in range(state_file.KEPT_BEFORE + 2):
        path.with_name(f"state.db.before-v{number + 100}").write_bytes(b"")
    state_file.keep_before_upgrade(path)
    assert len(list(tmp_path.glob("state.db.before-v*"))) == state_file.KEPT_BEFORE


@pytest.mark.parametrize("content", [b"", b"no database at all" * 300])
def test_what_cannot_be_upgraded_is_left_to_whoever_opens_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    assert state_file.keep_before_upgrade(path) is None
    assert [each.name for each in tmp_path.iterdir()] == ["state.db"]


def test_an_upgrade_that_cannot_be_undone_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    an_old_file(path)
    path.with_name(f"state.db.before-v{len(MIGRATIONS)}.new").mkdir()  # stands in for a disk without room
    with pytest.raises(OrchError, match="cannot be copied before its upgrade") as caught:
        state_file.keep_before_upgrade(path)
    assert caught.value.problems[0].hint == "free some space, then start the agent again; nothing was changed"
    assert version_of(path) == FIRST


def test_a_downgraded_file_is_what_the_older_orch_would_have_made(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    store = opened(layout.database)
    revision = store.propose("shop", Origin("text", "/d/shop.yaml", "/d", {"a": "b"}, source="site"), a_plan(), NOW)
    store.applied(revision)
    store.add_events([Event("shop", "Normal", "R", "shop", str(number), NOW) for number in range(3)])
    with store.write() as connection:
        connection.execute(
            "INSERT INTO sources (name, manifest, origin, base, labels, spec, generation, created)"
            " VALUES ('site', '', '', '', '{}', '{}', 1, 0)"
        )
    store.close()
    kept, lost = state_file.downgrade(layout, FIRST)
    assert (version_of(layout.database), version_of(kept)) == (FIRST, len(MIGRATIONS))
    assert set(lost) == {"sources: 1 row", "deployments.source: 1 value", "revisions.source: 1 value"}
    with state_file.reading(layout.database) as connection:
        assert state_file.schema_of(connection) == state_file.expected_schema(FIRST)
        assert connection.execute("SELECT name, labels, applied_revision FROM deployments").fetchall() == [
            ("shop", '{"a": "b"}', 1)
        ]
        assert connection.execute("SELECT seq, message FROM events").fetchall() == [(1, "0"), (2, "1"), (3, "2")]
    assert [each.name for each in tmp_path.glob("state.db-*")] == []  # no log of the newer file is left to be read
    again = opened(layout.database)  # and up again
    record = again.deployment("shop")
    assert record is not None
    assert (record.applied, record.origin.source) == (a_plan(), None)
    again.close()


@pytest.mark.parametrize("wanted", [0, len(MIGRATIONS), len(MIGRATIONS) + 1])
def test_only_an_older_version_is_written(tmp_path: Path, wanted: int) -> None:
    opened(tmp_path / "state.db").close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(OrchError, match=f"versions 1 to {len(MIGRATIONS) - 1}, not {wanted}"):
        state_file.downgrade(Layout(tmp_path), wanted)
    assert (tmp_path / "state.db").read_bytes() == before


def test_every_migration_only_adds() -> None:
    """What `write_for` rests on: all that an older orch knows is there under the same name."""
    known: dict[str, set[str]] = {}
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for script in MIGRATIONS:
            connection.executescript(script)
            now = {name: set(state_file.columns(connection, "main", name)) for name in state_file.tables(connection)}
            assert all(columns <= now.get(table, set()) for table, columns in known.items())
            known = now


def test_a_newer_file_is_refused_with_the_command_that_makes_it_readable(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    an_old_file(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(OrchError, match=f"version {len(MIGRATIONS) + 1}, and this orch reads up to") as caught:
        opened(path)
    assert f"orch agent downgrade --to {len(MIGRATIONS)}" in str(caught.value.problems[0].hint)
    with pytest.raises(OrchError, match="a newer orch wrote this state"):
        state_file.downgrade(Layout(tmp_path), FIRST)


def test_a_copy_is_of_one_moment_while_somebody_writes(tmp_path: Path) -> None:
    store = opened(tmp_path / "state.db")
    store.propose("shop", Origin("t", "p", "b", {}), a_plan(), NOW)
    state_file.copy(tmp_path / "state.db", tmp_path / "copy.db")
    store.propose("other", Origin("t", "p", "b", {}), a_plan(), NOW)
    with state_file.reading(tmp_path / "copy.db") as connection:
        assert connection.execute("SELECT name FROM deployments").fetchall() == [("shop",)]
    store.close()


def test_a_file_that_takes_too_long_to_read_is_given_up(tmp_path: Path) -> None:
    opened(tmp_path / "state.db").close()
    with pytest.raises(OrchError) as caught, state_file.reading(tmp_path / "state.db", timeout_s=0) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e9) SELECT sum(i) FROM n"
        ).fetchall()
    assert caught.value.kind is Kind.DEADLINE


def test_nothing_is_exchanged_while_an_agent_runs(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with layout.lock.open("a+") as agent:
        agent.write("4711\n")
        agent.flush()
        fcntl.flock(agent, fcntl.LOCK_EX)
        with pytest.raises(OrchError, match="an agent runs"), state_file.alone(layout):
            pytest.fail("it was let in")
    with state_file.alone(layout):
        assert layout.lock.read_text() == "4711\n"


def test_nothing_is_exchanged_in_the_folder_of_another_user(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for place in (layout.root, layout.database):  # the folder counts until there is a file
        with pytest.raises(OrchError, match=f"{place}: belongs to another user") as caught:
            state_file.check_owner(layout, os.geteuid() + 1)
        assert caught.value.kind is Kind.UNAUTHORIZED
        state_file.check_owner(layout, os.geteuid())
        layout.database.write_bytes(b"")
