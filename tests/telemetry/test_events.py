"""The event log is bounded, ordered, and counts repeats."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.telemetry.events import Event, EventLog, rfc3339


def a_clock(start: float = 1_795_336_200.0) -> Callable[[], float]:
    times = iter(range(10_000))
    return lambda: start + next(times)


def test_an_event_has_its_time_in_utc() -> None:
    event = EventLog(a_clock()).add("Warning", "WorkerDied", "shop", "exit status 9")
    assert event == Event(
        *(1, "2026-11-22T08:30:00.000Z", "Warning", "WorkerDied", "shop", "exit status 9"),
        count=1,
        first_time="2026-11-22T08:30:00.000Z",
    )


def test_a_repeat_is_counted_and_becomes_the_newest() -> None:
    log = EventLog(a_clock())
    log.add("Warning", "WorkerDied", "shop", "exit status 9")
    log.add("Normal", "Applied", "shop", "revision 2")
    repeat = log.add("Warning", "WorkerDied", "shop", "exit status 9")
    assert [(event.seq, event.reason, event.count) for event in log.since()] == [
        (2, "Applied", 1),
        (3, "WorkerDied", 2),
    ]
    assert repeat.first_time < repeat.time


def test_a_different_message_is_a_different_event() -> None:
    log = EventLog(a_clock())
    log.add("Normal", "Applied", "shop", "revision 1")
    log.add("Normal", "Applied", "shop", "revision 2")
    assert [event.message for event in log.since()] == ["revision 1", "revision 2"]


def test_a_follower_gets_only_what_is_new_including_repeats() -> None:
    log = EventLog(a_clock())
    last = log.add("Normal", "Applied", "shop", "revision 1")
    assert log.since(last.seq) == ()
    again = log.add("Normal", "Applied", "shop", "revision 1")
    assert log.since(last.seq) == (again,)


def test_events_of_a_deployment_include_those_of_its_models_only() -> None:
    log = EventLog(a_clock())
    for name in ("shop", "shop/detector", "shop-2/detector"):
        log.add("Normal", "Applied", name, "done")
    assert [event.object for event in log.since(object="shop")] == ["shop", "shop/detector"]


@given(st.lists(st.integers(min_value=0, max_value=8), max_size=60), st.integers(min_value=1, max_value=5))
def test_the_log_is_bounded_and_its_numbers_rise(messages: list[int], limit: int) -> None:
    log = EventLog(a_clock(), limit)
    for message in messages:
        log.add("Normal", "Said", "shop", str(message))
    seqs = [event.seq for event in log.since()]
    assert len(seqs) <= limit
    assert seqs == sorted(set(seqs))
    assert not messages or seqs[-1] == len(messages)


def test_times_sort_as_text() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1.9996) < rfc3339(2.5)
