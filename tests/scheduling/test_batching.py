"""How many rows go together, and when a batch is held back."""

from __future__ import annotations

from math import inf

import pytest

from orchestrator.scheduling.batching import SPARE_S, rows_to_take
from orchestrator.scheduling.pace import Pace
from orchestrator.scheduling.scheduler import Limits, Scheduler, Ticket
from orchestrator.scheduling.simulate import Fate, simulate


def variants() -> tuple[Limits, Pace]:
    limits = Limits(1, 8, 100, sizes=(1, 4, 8))
    pace = Pace(0.05, limits.sizes, 8, full=8)
    for size, seconds in ((1, 0.01), (4, 0.02), (8, 0.05)):
        pace.seed(size, seconds)
    return limits, pace


@pytest.mark.parametrize(
    ("waiting", "slack_s", "rows"),
    [
        (1, inf, 8),  # whatever is there: the smallest batch that holds it is used
        (2, inf, 4),
        (3, inf, 4),  # 150 rows a second
        (5, inf, 4),  # four at 200 rows a second, not five at 100
        (8, inf, 4),
        (3, 0.012, 1),  # a batch of four would be late
        (3, 0.001, 4),  # so would everything: then what does most
        (9, 0.012, 4),  # more than fits waits: smaller batches would make everybody later
    ],
)
def test_the_compiled_batch_that_does_most_within_the_slack_is_taken(waiting: int, slack_s: float, rows: int) -> None:
    limits, pace = variants()
    assert rows_to_take(limits, pace, waiting, slack_s) == rows


def test_rows_that_cost_each_are_taken_as_long_as_the_first_is_in_time() -> None:
    pace = Pace(0.01, full=16)
    for rows in (1, 16, 1, 16, 1, 16):
        pace.learn(rows, 0.01 + 0.001 * rows, 0.99)
    limits = Limits(1, 16)
    assert rows_to_take(limits, pace, 10, 1.0) == 16
    assert 1 <= rows_to_take(limits, pace, 10, 0.018) < 10
    assert rows_to_take(limits, pace, 10, 0.001) == 16
    assert rows_to_take(limits, pace, 17, 0.018) == 16


def queued(scheduler: Scheduler, now: float, timeout_s: float = 10.0) -> Ticket:
    ticket = scheduler.admit(now, deadline=now + timeout_s)
    assert isinstance(ticket, Ticket)
    scheduler.queue(ticket, now)
    return ticket


def test_nothing_is_held_back_by_default() -> None:
    scheduler = Scheduler(Limits(1, 4), service_s=0.1)
    queued(scheduler, 0.0)
    batch, _ = scheduler.next_batch(0.0)
    assert batch is not None
    assert scheduler.wake_at == inf


def test_a_batch_is_held_back_until_the_time_said_and_no_longer() -> None:
    scheduler = Scheduler(Limits(1, 4, gather_s=0.02), service_s=0.1)
    first = queued(scheduler, 1.0)
    assert scheduler.next_batch(1.0) == (None, [])
    assert scheduler.wake_at == pytest.approx(1.02)
    second = queued(scheduler, 1.01)
    assert scheduler.next_batch(1.01) == (None, [])
    batch, _ = scheduler.next_batch(scheduler.wake_at)
    assert batch is not None
    assert batch.tickets == [first, second]
    assert scheduler.wake_at == inf


def test_a_full_batch_is_not_held_back() -> None:
    scheduler = Scheduler(Limits(1, 2, gather_s=1.0), service_s=0.1)
    for _ in range(2):
        queued(scheduler, 0.0)
    batch, _ = scheduler.next_batch(0.0)
    assert batch is not None


def test_a_batch_is_held_back_no_longer_than_the_oldest_can_wait() -> None:
    scheduler = Scheduler(Limits(1, 4, gather_s=5.0), service_s=0.1)
    queued(scheduler, 0.0, timeout_s=1.0)
    scheduler.next_batch(0.0)
    assert scheduler.wake_at == pytest.approx(1.0 - scheduler.pace.tail_s(4) - SPARE_S)


def test_the_simulator_wakes_the_scheduler_up() -> None:
    fates = simulate([0.0, 0.01], lambda _n, _r, _b: 0.1, Limits(1, 4, gather_s=0.05), expected_s=0.1)
    assert fates == [Fate(0.0, 0.05, pytest.approx(0.15), None), Fate(0.01, 0.05, pytest.approx(0.15), None)]
