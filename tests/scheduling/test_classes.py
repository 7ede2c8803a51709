"""Classes: who goes first, who makes room, and what nobody can take away."""

from __future__ import annotations

import pytest

from orchestrator.scheduling.scheduler import Cause, Limits, Priority, Refusal, Scheduler, State, Ticket

CRITICAL, DEFAULT, SHEDDABLE = Priority


def pool(own: Priority = CRITICAL, **limits: float) -> Scheduler:
    return Scheduler(Limits(1, **({"queue": 10} | limits), priority=own), service_s=0.1)  # type: ignore[arg-type]


def ask(scheduler: Scheduler, priority: Priority | None, *, now: float = 0.0, nbytes: int = 0) -> Ticket | Cause:
    answer = scheduler.admit(now, deadline=now + 60.0, nbytes=nbytes, priority=priority)
    if isinstance(answer, Refusal):
        return answer.cause
    scheduler.queue(answer, now)
    return answer


def started(scheduler: Scheduler, now: float = 0.0) -> list[Ticket]:
    batch, _ = scheduler.next_batch(now)
    assert batch is not None
    scheduler.finish(batch, now + 0.1)
    return batch.tickets


def test_a_higher_class_goes_first_and_equals_in_order() -> None:
    scheduler = pool()
    tickets = [ask(scheduler, priority) for priority in (SHEDDABLE, DEFAULT, CRITICAL, DEFAULT, CRITICAL)]
    assert [tickets.index(started(scheduler)[0]) for _ in range(5)] == [2, 4, 1, 3, 0]


def test_within_a_class_the_earliest_deadline_goes_first() -> None:
    scheduler = pool()
    for deadline in (9.0, 5.0, 7.0, 5.0):
        ticket = scheduler.admit(0.0, deadline=deadline)
        assert isinstance(ticket, Ticket)
        ticket.payload = deadline
        scheduler.queue(ticket, 0.0)
    assert [started(scheduler)[0].payload for _ in range(4)] == [5.0, 5.0, 7.0, 9.0]


@pytest.mark.parametrize(
    ("own", "named", "given"),
    [
        (DEFAULT, None, DEFAULT),
        (DEFAULT, CRITICAL, DEFAULT),  # no caller rises above the model
        (DEFAULT, SHEDDABLE, SHEDDABLE),
        (SHEDDABLE, None, SHEDDABLE),
        (CRITICAL, DEFAULT, DEFAULT),
    ],
)
def test_a_caller_may_lower_its_class_but_not_raise_it_above_the_models(
    own: Priority, named: Priority | None, given: Priority
) -> None:
    ticket = ask(pool(own), named)
    assert isinstance(ticket, Ticket)
    assert ticket.priority is given


@pytest.mark.parametrize(("priority", "most"), [(CRITICAL, 10), (DEFAULT, 9), (SHEDDABLE, 5)])
def test_a_class_takes_no_more_than_its_places(priority: Priority, most: int) -> None:
    scheduler = pool()
    ask(scheduler, CRITICAL)
    scheduler.next_batch(0.0)
    taken = [ask(scheduler, priority) for _ in range(12)]
    assert sum(isinstance(each, Ticket) for each in taken) == most
    assert taken[-1] is Cause.QUEUE_FULL


def test_the_models_own_class_takes_the_whole_queue() -> None:
    scheduler = pool(SHEDDABLE)
    assert sum(isinstance(ask(scheduler, None), Ticket) for _ in range(20)) == 11


def test_a_full_queue_makes_room_for_a_higher_class_and_tells_who_was_displaced() -> None:
    scheduler = pool(queue=4)
    ask(scheduler, CRITICAL)
    scheduler.next_batch(0.0)
    waiting = [
        ask(scheduler, priority, now=at) for at, priority in enumerate((SHEDDABLE, DEFAULT, SHEDDABLE, CRITICAL))
    ]
    assert isinstance(ask(scheduler, CRITICAL, now=5.0), Ticket)
    assert scheduler.expire(5.0) == [waiting[2]]  # the lowest class, the last of it
    assert isinstance(waiting[2], Ticket)
    assert (waiting[2].cause, waiting[2].state, scheduler.queued) == (Cause.DISPLACED, State.DONE, 4)


def test_memory_is_made_free_for_a_higher_class_too() -> None:
    scheduler = pool(memory_bytes=10)
    low = ask(scheduler, SHEDDABLE, nbytes=8)
    assert isinstance(ask(scheduler, CRITICAL, nbytes=6), Ticket)
    assert scheduler.held_bytes == 6
    assert ask(scheduler, CRITICAL, nbytes=6) is Cause.MEMORY_FULL
    assert scheduler.next_batch(0.0)[1] == [low]


def test_a_class_is_not_made_to_wait_for_what_goes_after_it() -> None:
    scheduler = pool(queue=20, slo_s=0.5)
    ask(scheduler, CRITICAL)
    scheduler.next_batch(0.0)
    while isinstance(ask(scheduler, DEFAULT), Ticket):
        pass
    assert ask(scheduler, SHEDDABLE) is Cause.DEADLINE_UNMEETABLE
    assert isinstance(ask(scheduler, CRITICAL), Ticket)


def test_a_class_that_is_always_passed_over_goes_first_once_in_a_while() -> None:
    scheduler = pool(queue=1000)
    low = [ask(scheduler, SHEDDABLE) for _ in range(10)]
    served = 0
    for round_ in range(200):
        now = round_ * 0.1
        scheduler.admit(now, deadline=now + 60, priority=SHEDDABLE)  # there is still demand
        ask(scheduler, CRITICAL, now=now)
        served += started(scheduler, now)[0] in low
    assert served >= 9  # a twentieth of 200, less what it takes to earn the first


def test_a_ticket_whose_deadline_is_brought_forward_moves_up() -> None:
    scheduler = pool()
    first, second = ask(scheduler, None), ask(scheduler, None)
    assert isinstance(second, Ticket)
    scheduler.tighten(second, 30.0)
    assert started(scheduler) == [second]
    assert started(scheduler) == [first]


def test_what_cannot_be_in_time_any_more_gives_way_to_what_can() -> None:
    scheduler = Scheduler(Limits(1), service_s=0.1)
    tickets = []
    for deadline in (0.15, 1.0):
        ticket = scheduler.admit(0.0, deadline=deadline)
        assert isinstance(ticket, Ticket)
        scheduler.queue(ticket, 0.0)
        tickets.append(ticket)
    batch, dropped = scheduler.next_batch(0.1)
    assert batch is not None
    assert (batch.tickets, dropped) == ([tickets[1]], [tickets[0]])
    assert tickets[0].cause is Cause.DEADLINE_UNMEETABLE


def test_what_is_alone_is_served_however_late() -> None:
    scheduler = Scheduler(Limits(1), service_s=0.1)
    ticket = scheduler.admit(0.0, deadline=0.15)
    assert isinstance(ticket, Ticket)
    scheduler.queue(ticket, 0.0)
    batch, _ = scheduler.next_batch(0.1)
    assert batch is not None
