"""What the scheduler decides, one rule at a time."""

from __future__ import annotations

import gc
import weakref

import pytest

from orchestrator.scheduling.scheduler import (
    RETRY_UNKNOWN_S,
    STALE_MAX,
    Batch,
    Cause,
    Limits,
    Priority,
    Refusal,
    Scheduler,
    State,
    Ticket,
)


def admitted(scheduler: Scheduler, now: float = 0.0, *, deadline: float = 10.0, nbytes: int = 0) -> Ticket:
    ticket = scheduler.admit(now, deadline=deadline, nbytes=nbytes)
    assert isinstance(ticket, Ticket), ticket
    return ticket


def queued(scheduler: Scheduler, now: float = 0.0, *, rows: int = 1, deadline: float = 10.0, nbytes: int = 0) -> Ticket:
    ticket = admitted(scheduler, now, deadline=deadline, nbytes=nbytes)
    assert scheduler.queue(ticket, now, rows)
    return ticket


def started(scheduler: Scheduler, now: float = 0.0) -> Batch:
    batch, _ = scheduler.next_batch(now)
    assert batch is not None
    return batch


def refusal(scheduler: Scheduler, now: float = 0.0, *, deadline: float = 10.0, nbytes: int = 0) -> Cause:
    answer = scheduler.admit(now, deadline=deadline, nbytes=nbytes)
    assert isinstance(answer, Refusal)
    return answer.cause


def test_a_request_goes_through_its_states_in_order() -> None:
    scheduler = Scheduler(Limits(1))
    ticket = admitted(scheduler, 1.0)
    assert (ticket.state, scheduler.receiving, scheduler.idle) == (State.RECEIVING, 1, False)
    scheduler.queue(ticket, 1.5)
    assert (ticket.state, ticket.ready, scheduler.queued) == (State.QUEUED, 1.5, 1)
    batch = started(scheduler, 2.0)
    assert (ticket.state, ticket.started, scheduler.in_flight) == (State.RUNNING, 2.0, 1)
    scheduler.finish(batch, 3.0)
    assert (ticket.state, scheduler.idle, scheduler.service_s) == (State.DONE, True, 1.0)


def test_a_request_whose_data_is_not_there_is_not_started() -> None:
    scheduler = Scheduler(Limits(1))
    admitted(scheduler)
    assert scheduler.next_batch(0.0) == (None, [])


def test_the_queue_takes_what_the_free_slots_take_at_once_and_then_its_limit() -> None:
    scheduler = Scheduler(Limits(slots=2, rows=3, queue=4))
    for _ in range(2 * 3 + 4):
        admitted(scheduler)
    assert refusal(scheduler) is Cause.QUEUE_FULL


def test_a_queue_of_none_still_serves_as_many_as_there_are_slots() -> None:
    scheduler = Scheduler(Limits(slots=1, queue=0))
    queued(scheduler)
    batch = started(scheduler)
    assert refusal(scheduler) is Cause.QUEUE_FULL
    scheduler.finish(batch, 1.0)
    queued(scheduler)


def test_memory_is_bounded_apart_from_the_count() -> None:
    scheduler = Scheduler(Limits(1, queue=100, memory_bytes=10))
    admitted(scheduler, nbytes=6)
    assert refusal(scheduler, nbytes=5) is Cause.MEMORY_FULL
    admitted(scheduler, nbytes=4)


def test_what_never_fits_is_not_told_to_come_back() -> None:
    scheduler = Scheduler(Limits(1, memory_bytes=10))
    assert refusal(scheduler, nbytes=11) is Cause.TOO_LARGE


def test_a_deadline_that_is_past_is_refused() -> None:
    assert refusal(Scheduler(Limits(1)), 5.0, deadline=5.0) is Cause.DEADLINE_PAST


@pytest.mark.parametrize("waiting", range(12))
def test_what_is_said_of_a_request_that_is_not_known_yet_is_what_admission_then_says(waiting: int) -> None:
    limits = Limits(queue=8, slots=2, slo_s=0.06)
    scheduler = Scheduler(limits, service_s=0.01)
    for _ in range(waiting):
        if isinstance(ticket := scheduler.admit(0.0, deadline=0.06), Ticket):
            scheduler.queue(ticket, 0.0)
            scheduler.next_batch(0.0)
    full = scheduler.full(0.001, 0, deadline=0.061)
    answer = scheduler.admit(0.001, deadline=0.061)
    assert (full is None) == isinstance(answer, Ticket)
    if full is not None:
        assert full == answer


def test_those_on_their_way_in_count_as_if_they_stood_before_it() -> None:
    scheduler = Scheduler(Limits(queue=8, slots=2, slo_s=0.06), service_s=0.01)
    room = next(coming for coming in range(100) if scheduler.full(0.0, coming, deadline=0.06) is not None)
    for _ in range(room):
        queued(scheduler, deadline=0.06)
        scheduler.next_batch(0.0)
    assert refusal(scheduler, deadline=0.06) is Cause.QUEUE_FULL


def test_of_a_pool_with_several_classes_nothing_is_said_beforehand() -> None:
    scheduler = Scheduler(Limits(queue=1, slots=1, slo_s=0.06), service_s=0.01)
    queued(scheduler, deadline=0.06)
    queued(scheduler, deadline=0.06)
    assert scheduler.full(0.0, 0, deadline=0.06) is not None
    scheduler.admit(0.0, deadline=0.06, priority=Priority.SHEDDABLE)
    assert scheduler.full(0.0, 0, deadline=0.06) is None


def test_draining_refuses_new_requests_and_finishes_the_admitted_ones() -> None:
    scheduler = Scheduler(Limits(1))
    receiving, waiting = admitted(scheduler), queued(scheduler)
    scheduler.draining = True
    assert refusal(scheduler) is Cause.DRAINING
    assert started(scheduler).tickets == [waiting]
    assert scheduler.queue(receiving, 0.0)


@pytest.mark.parametrize(
    ("rows", "batches"),
    [
        ([1, 1, 1, 1], [[0, 1, 2, 3]]),
        ([1, 1, 1, 1, 1], [[0, 1, 2, 3], [4]]),
        ([3, 2, 1], [[0], [1, 2]]),  # the third would fit with the first, but not before the second
        ([4, 1], [[0], [1]]),
        ([2, 4, 2], [[0], [1], [2]]),
    ],
)
def test_a_batch_is_filled_in_order_and_never_beyond_its_rows(rows: list[int], batches: list[list[int]]) -> None:
    scheduler = Scheduler(Limits(slots=8, rows=4))
    tickets = [queued(scheduler, rows=count) for count in rows]
    formed = []
    while (batch := scheduler.next_batch(0.0)[0]) is not None:
        formed.append([tickets.index(ticket) for ticket in batch.tickets])
        assert batch.rows == sum(ticket.rows for ticket in batch.tickets) <= 4
    assert formed == batches


def test_what_is_late_when_a_slot_is_free_is_returned_instead_of_started() -> None:
    scheduler = Scheduler(Limits(1))
    late, live = queued(scheduler, deadline=1.0), queued(scheduler, deadline=2.0)
    batch, expired = scheduler.next_batch(1.0)
    assert (expired, batch.tickets if batch else None) == ([late], [live])


def test_what_is_late_is_dropped_wherever_it_stands() -> None:
    scheduler = Scheduler(Limits(1))
    running = queued(scheduler, deadline=1.0)
    started(scheduler)
    tickets = [admitted(scheduler, deadline=1.0), queued(scheduler, deadline=1.0)]
    assert scheduler.expire(1.0) == tickets
    assert not scheduler.queue(tickets[0], 1.0)
    assert running.state is State.RUNNING
    assert (scheduler.queued, scheduler.receiving, scheduler.expire(1.0)) == (0, 0, [])


def test_a_cancelled_request_is_never_started() -> None:
    scheduler = Scheduler(Limits(1))
    waiting, receiving = queued(scheduler), admitted(scheduler)
    assert scheduler.cancel(waiting)
    assert scheduler.cancel(receiving)
    assert not scheduler.queue(receiving, 0.0)
    assert scheduler.next_batch(0.0) == (None, [])
    assert scheduler.idle


def test_a_running_request_cannot_be_taken_back() -> None:
    scheduler = Scheduler(Limits(1))
    ticket = queued(scheduler)
    started(scheduler)
    assert not scheduler.cancel(ticket)
    assert (ticket.abandoned, ticket.state) == (True, State.RUNNING)


def test_cancelled_requests_neither_pile_up_nor_hold_their_tensors_while_the_device_hangs() -> None:
    scheduler = Scheduler(Limits(1, queue=10))
    queued(scheduler)
    started(scheduler)  # and never ends

    class Tensors:
        pass

    held = []
    for _ in range(10 * STALE_MAX):
        ticket = queued(scheduler)
        ticket.payload = Tensors()
        held.append(weakref.ref(ticket.payload))
        scheduler.cancel(ticket)
        assert len(scheduler._own.queue) <= STALE_MAX + 1
    del ticket
    gc.collect()
    assert [tensors() for tensors in held if tensors() is not None] == []


def test_a_batch_is_finished_once() -> None:
    scheduler = Scheduler(Limits(2))
    queued(scheduler), queued(scheduler)
    first, _second = started(scheduler), started(scheduler)
    scheduler.finish(first, 1.0)
    with pytest.raises(AssertionError, match="twice"):
        scheduler.finish(first, 1.0)
    assert scheduler.in_flight == 1


def test_only_good_ends_teach_the_service_time() -> None:
    scheduler = Scheduler(Limits(1), service_s=1.0)
    queued(scheduler)
    scheduler.finish(started(scheduler), 100.0, good=False)
    assert scheduler.service_s == 1.0
    queued(scheduler)
    scheduler.finish(started(scheduler, 0.0), 2.0)
    assert scheduler.service_s == pytest.approx(1.1)


def test_the_hint_when_to_come_back_grows_with_what_waits() -> None:
    assert Scheduler(Limits(1)).retry_after_s() == RETRY_UNKNOWN_S
    scheduler = Scheduler(Limits(slots=2, rows=1, queue=10), service_s=0.1)
    assert scheduler.retry_after_s() == pytest.approx(0.1)
    for _ in range(10):
        queued(scheduler)
    started(scheduler), started(scheduler)
    assert scheduler.retry_after_s() == pytest.approx((8 + 2) * 0.1 / 2)
    assert Scheduler(Limits(1), service_s=0.0).retry_after_s() > 0


def test_narrower_limits_keep_what_was_admitted() -> None:
    scheduler = Scheduler(Limits(1, queue=10, memory_bytes=100))
    tickets = [queued(scheduler, nbytes=10) for _ in range(5)]
    scheduler.reconfigure(Limits(1, queue=1, memory_bytes=20))
    assert refusal(scheduler) is Cause.QUEUE_FULL
    for ticket in tickets:
        batch = started(scheduler)
        assert batch.tickets == [ticket]
        scheduler.finish(batch, 1.0)
    assert (scheduler.idle, scheduler.held_bytes) == (True, 0)
