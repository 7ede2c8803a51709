"""The store keeps what it is told, whole or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_decisions import NOW, a_plan

from orchestrator.agent import store as stores
from orchestrator.agent.store import Event, Origin, Store, WorkerRecord, open_or_renew
from orchestrator.errors import Kind, OrchError

ORIGIN = Origin("text", "/d/shop.yaml", "/d", {"site": "berlin"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state.db")
    made.open()
    yield made
    made.close()


def an_event(message: str = "m", *, time: float = NOW) -> Event:
    return Event("shop", "Normal", "R", "shop", message, time)


def test_a_proposal_is_wanted_and_becomes_applied(store: Store) -> None:
    revision = store.propose("shop", ORIGIN, a_plan(), NOW)
    wanted = store.deployment("shop")
    assert wanted is not None
    assert (wanted.origin, wanted.applied, wanted.desired, wanted.generation) == (ORIGIN, None, a_plan(), 1)
    store.applied(revision)
    applied = store.deployment("shop")
    assert applied is not None
    assert (applied.applied, applied.applied_revision) == (a_plan(), 1)


def test_only_another_plan_is_a_new_generation(store: Store) -> None:
    generations = [
        store.propose("shop", ORIGIN, plan, NOW).generation for plan in (a_plan(), a_plan(), a_plan(limit=2))
    ]
    assert generations == [1, 1, 2]
    assert [revision.number for revision in store.revisions("shop")] == [1, 2, 3]


def test_a_failed_revision_leaves_the_last_good_plan(store: Store) -> None:
    store.applied(store.propose("shop", ORIGIN, a_plan(), NOW))
    store.failed(store.propose("shop", ORIGIN, a_plan(limit=2), NOW), "no")
    record = store.deployment("shop")
    assert record is not None
    assert (record.runnable, record.desired) == (a_plan(), a_plan(limit=2))
    assert [(one.result, one.reason) for one in store.revisions("shop")] == [("applied", None), ("failed", "no")]


def test_deleting_forgets_the_worker_and_keeps_the_history(store: Store) -> None:
    store.propose("shop", ORIGIN, a_plan(), NOW)
    store.set_worker(WorkerRecord("shop", 1, 2, "boot", 0, 1, 0, NOW, 0))
    store.delete("shop", NOW)
    assert (store.deployments(), store.workers()) == ([], {})
    assert [revision.result for revision in store.revisions("shop")] == ["applying", "deleted"]


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first, damaged = open_or_renew(path, "now")
    first.propose("shop", ORIGIN, a_plan(), NOW)
    first.close()
    second, damaged_again = open_or_renew(path, "now")
    assert (damaged, damaged_again) == (None, None)
    assert [record.name for record in second.deployments()] == ["shop"]
    second.close()


def test_an_equal_event_counts_up_at_the_end(store: Store) -> None:
    store.add_events([an_event("a"), an_event("a", time=NOW + 1), an_event("b"), an_event("a", time=NOW + 2)])
    events = store.events("shop", 0, 10)
    assert [(one["message"], one["count"]) for one in events] == [("a", 2), ("b", 1), ("a", 1)]
    assert [one["message"] for one in store.events(None, events[1]["seq"], 10)] == ["a"]


def test_events_are_trimmed_by_number_and_age(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "EVENTS_MAX", 5)
    store.add_events([an_event(str(number)) for number in range(stores.EVENTS_TRIM_EVERY)])
    assert [one["message"] for one in store.events(None, 0, 100)] == ["95", "96", "97", "98", "99"]
    later = NOW + stores.EVENTS_AGE_S + 1
    store.add_events([an_event(str(number), time=later) for number in range(stores.EVENTS_TRIM_EVERY)])
    assert {one["time"] for one in store.events(None, 0, 100)} == {later}


def test_old_revisions_make_room(store: Store) -> None:
    for _ in range(stores.REVISIONS_MAX + 3):
        store.propose("shop", ORIGIN, a_plan(), NOW)
    revisions = store.revisions("shop")
    assert (len(revisions), revisions[0].number) == (stores.REVISIONS_MAX, 4)


def test_a_full_disk_is_said_and_nothing_is_lost(store: Store) -> None:
    store.propose("shop", ORIGIN, a_plan(), NOW)
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OrchError, match="full") as caught:
        store.propose("other", Origin("x" * 100_000, "p", "b", {}), a_plan(), NOW)
    assert "nothing was lost" in str(caught.value.problems[0].hint)
    assert [record.name for record in store.deployments()] == ["shop"]


@pytest.mark.parametrize("content", [b"no database at all" * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    store, damaged = open_or_renew(path, "now")
    assert damaged == tmp_path / "state.db.damaged-now"
    assert damaged.read_bytes() == content
    assert store.deployments() == []
    store.close()


def test_the_state_of_a_newer_orch_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OrchError, match="a newer orch") as caught:
        open_or_renew(path, "now")
    assert caught.value.kind is Kind.CONFLICT


def test_a_deployment_and_its_revisions_keep_where_they_came_from(store: Store) -> None:
    origin = Origin("text", "/d/shop.yaml", "/d", {}, "berlin", "c0ffee", "Ada <ada@example.com>")
    store.applied(store.propose("shop", origin, a_plan(), NOW))
    store.annotate("shop", Origin("text", "/d/shop.yaml", "/d", {}, "berlin", "decade"))
    store.delete("shop", NOW)
    first, last = store.revisions("shop")
    assert (first.source, first.commit, first.author) == ("berlin", "c0ffee", "Ada <ada@example.com>")
    assert (last.source, last.commit, last.result) == ("berlin", "decade", "deleted")


def test_the_state_of_the_first_orch_is_carried_over(tmp_path: Path) -> None:
    path, plan = tmp_path / "state.db", a_plan().model_dump_json()
    connection = sqlite3.connect(path)
    connection.executescript(f"BEGIN; {stores.MIGRATIONS[0]}; PRAGMA user_version = 1; COMMIT;")
    values = ("shop", "text", "/d/shop.yaml", "/d", "{}", 3, plan, plan, 4, "[]", NOW)
    connection.execute(f"INSERT INTO deployments VALUES ({','.join('?' * len(values))})", values)
    revision = ("shop", 4, NOW, 3, "text", plan, a_plan().digest(), "applied", None)
    connection.execute(f"INSERT INTO revisions VALUES ({','.join('?' * len(revision))})", revision)
    connection.commit()
    connection.close()
    store, damaged = open_or_renew(path, "now")
    record, last = store.deployment("shop"), store.last_revision("shop")
    store.close()
    assert damaged is None
    assert record is not None
    assert last is not None
    assert (record.origin, record.applied) == (Origin("text", "/d/shop.yaml", "/d", {}), a_plan())
    assert (last.number, last.source, last.commit, last.author) == (4, None, None, None)
