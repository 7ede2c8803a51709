"""What a source does next, how long it rests, and what a commit may remove: literals in, decisions out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.source_state import Row, SourceState, Tried
from orchestrator.agent.source_steps import (
    BACKOFF_MAX_S,
    JITTER,
    REPAIR_PAUSE_MAX_S,
    Removal,
    Repair,
    Rest,
    Seen,
    Take,
    drift,
    next_step,
    pause_s,
    removal,
    repair_pause_s,
    surroundings,
)
from orchestrator.errors import Kind


def tried(commit: str = "c1", result: Any = "applied", **more: Any) -> Tried:
    return Tried(commit=commit, began=0.0, result=result, generation=1, surroundings="alone", **more)


def seen(head: str | None = "c1", **more: Any) -> Seen:
    given: dict[str, Any] = {"generation": 1, "surroundings": "alone", "drifted": {}} | more
    return Seen(head, **given)


GOOD = SourceState(applied=tried(), attempted=tried(), names=("shop",))
BAD = SourceState(applied=tried("c0"), attempted=tried(result="failed", kind=Kind.FAILED.value), names=("shop",))
DRIFTED = {"shop": "applied by hand"}


@pytest.mark.parametrize(
    ("state", "look", "step"),
    [
        (SourceState(), seen(), Take("c1", "a new commit")),
        (SourceState(), seen(None), Rest("the remote does not answer")),
        (GOOD, seen(), Rest("nothing changed")),
        (GOOD, seen("c2"), Take("c2", "a new commit")),
        (GOOD, seen("c2", drifted=DRIFTED), Take("c2", "a new commit")),
        (GOOD, seen(asked=True), Take("c1", "asked for")),
        (GOOD, seen(generation=2), Take("c1", "the source's manifest changed")),
        (GOOD, seen(surroundings="crowded"), Rest("nothing changed")),
        (GOOD, seen(drifted=DRIFTED), Repair("c1", ("shop",), "shop: applied by hand")),
        (GOOD, seen(None, drifted=DRIFTED), Repair("c1", ("shop",), "shop: applied by hand")),
        (BAD, seen(), Rest("nothing changed")),
        (BAD, seen(asked=True), Take("c1", "asked for")),
        (BAD, seen("c0"), Take("c0", "a new commit")),
        (BAD, seen(generation=2), Take("c1", "the source's manifest changed")),
        (BAD, seen(surroundings="room"), Take("c1", "it failed, and since then something around it changed")),
        (BAD, seen(drifted=DRIFTED), Repair("c0", ("shop",), "shop: applied by hand")),
    ],
)
def test_what_is_done_next(state: SourceState, look: Seen, step: object) -> None:
    assert next_step(state, look) == step


def test_an_attempt_that_was_not_finished_is_made_again() -> None:
    state = SourceState(attempted=tried(result="running"))
    assert next_step(state, seen()) == Take("c1", "the last attempt was not finished")


@pytest.mark.parametrize(("kind", "again"), [(Kind.UNAVAILABLE, True), (Kind.OVERLOADED, True), (Kind.INVALID, False)])
def test_only_an_error_that_passes_by_itself_is_tried_again(kind: Kind, again: bool) -> None:
    state = SourceState(attempted=tried(result="failed", kind=kind.value))
    assert isinstance(next_step(state, seen()), Take) is again


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (Row("berlin", "c1", "p"), None),
        (None, "deleted by hand"),
        (Row(None, None, "p"), "applied by hand"),
        (Row("paris", "c1", "p"), "taken by the source paris"),
        (Row("berlin", "c1", "p", settled=False), "its last change failed"),
        (Row("berlin", "c0ffee00aa", "p"), "at commit c0ffee00 instead of c1"),
    ],
)
def test_drift_is_any_way_not_to_be_as_the_last_good_commit_has_it(row: Row | None, why: str | None) -> None:
    rows = {} if row is None else {"shop": row}
    assert drift("berlin", GOOD, rows) == ({} if why is None else {"shop": why})


def test_what_is_held_or_was_never_applied_has_not_drifted() -> None:
    assert drift("berlin", GOOD.model_copy(update={"held": ("shop",)}), {}) == {}
    assert drift("berlin", SourceState(names=("shop",)), {}) == {}


def test_surroundings_are_the_machine_and_what_others_run() -> None:
    rows = {"a": Row("berlin", "c1", "p1"), "b": Row(None, None, "p2")}
    before = surroundings("berlin", rows, "machine")
    assert surroundings("berlin", rows | {"a": Row("berlin", "c2", "p3")}, "machine") == before
    assert surroundings("berlin", rows, "another") != before
    assert surroundings("berlin", {"a": rows["a"]}, "machine") != before
    assert surroundings("berlin", rows | {"b": Row(None, None, "p3")}, "machine") != before


@pytest.mark.parametrize(
    ("owned", "wanted", "prune", "all_may_go", "expected"),
    [
        ("ab", "a", True, False, Removal(("b",))),
        ("ab", "abc", True, False, Removal()),
        ("ab", "a", False, False, Removal()),
        ("ab", "c", True, True, Removal(("a", "b"))),
        ("ab", "", True, False, Removal((), "would remove all 2 deployments of this source (a, b)")),
        ("ab", "c", True, False, Removal((), "would remove all 2 deployments of this source (a, b)")),
        ("a", "", True, False, Removal((), "would remove the one deployment of this source (a)")),
        ("abcd", "", True, False, Removal((), "would remove all 4 deployments of this source (a, b, c, …)")),
        ("", "", True, False, Removal()),
    ],
)
def test_a_commit_removes_what_it_no_longer_has_but_not_everything(
    owned: str, wanted: str, prune: bool, all_may_go: bool, expected: Removal
) -> None:
    assert removal(list(owned), list(wanted), prune=prune, all_may_go=all_may_go) == expected


@given(st.floats(1, 86_400), st.integers(0, 100), st.floats(0, 1))
def test_a_remote_is_asked_within_an_interval_and_left_in_peace_for_a_bounded_time(
    interval_s: float, failures: int, chance: float
) -> None:
    pause = pause_s(interval_s, failures, chance)
    assert interval_s * (1 - JITTER) <= pause <= max(interval_s, BACKOFF_MAX_S)
    assert pause_s(interval_s, 0, chance) <= interval_s
    assert pause <= pause_s(interval_s, failures + 1, chance)


def test_repairs_that_fail_are_tried_less_and_less_often() -> None:
    assert [repair_pause_s(60, failures) for failures in (0, 1, 2, 99)] == [0, 120, 240, REPAIR_PAUSE_MAX_S]
