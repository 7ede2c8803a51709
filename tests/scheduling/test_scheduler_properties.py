"""What holds of the scheduler whatever happens, in whatever order.

Each property was seen to fail on a bug planted in scheduling/:

| property | planted bug |
|---|---|
| never more in flight than slots | `len(self._running) <= self.limits.slots` in next_batch |
| never more rows in a batch than allowed | no `break` where the next request does not fit |
| every request ends in exactly one way | `_drop` does not note the ticket |
| work conserving | `_take` gives up as soon as something was late |
| the earliest deadline first, equals in order | `bisect_left` in Lane.push |
| late or cancelled work never starts | `ticket.deadline < now - 1` in _hopeless; no look at the state |
| bounds hold and return to zero | `_forget` does not give back the bytes |
| dropped requests do not pile up | no `sweep` in Lane.forget |
"""

from __future__ import annotations

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.scheduling.scheduler import (
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

PRIORITY = st.sampled_from([None, *Priority])


class SchedulerMachine(RuleBasedStateMachine):
    """Calls the scheduler in any order on a clock that only goes forward, and keeps its own account."""

    @initialize(
        slots=st.integers(1, 3),
        rows=st.integers(1, 4),
        queue=st.integers(0, 6),
        memory_bytes=st.integers(0, 40),
        slo_s=st.sampled_from([0.5, 3.0, inf]),
        service_s=st.sampled_from([None, 0.1, 1.0]),
        compiled=st.booleans(),
        gather_s=st.sampled_from([0.0, 0.3]),
        priority=st.sampled_from(Priority),
    )
    def make(
        self,
        slots: int,
        rows: int,
        queue: int,
        memory_bytes: int,
        slo_s: float,
        service_s: float | None,
        compiled: bool,
        gather_s: float,
        priority: Priority,
    ) -> None:
        sizes = tuple(sorted({1, rows})) if compiled and rows > 1 else ()
        self.limits = Limits(
            slots, rows, queue, memory_bytes, slo_s=slo_s, sizes=sizes, gather_s=gather_s, priority=priority
        )
        self.scheduler = Scheduler(self.limits, service_s=service_s)
        self.now = 0.0
        self.receiving: list[Ticket] = []
        self.queued: list[Ticket] = []
        self.running: list[Batch] = []
        self.accepted = 0
        self.endings: dict[Ticket, str] = {}

    def end(self, ticket: Ticket, how: str) -> None:
        assert ticket not in self.endings, f"ended as {self.endings[ticket]}, then as {how}"
        self.endings[ticket] = how

    def forget(self, ticket: Ticket, how: str) -> None:
        (self.receiving if ticket in self.receiving else self.queued).remove(ticket)
        self.end(ticket, how)

    def dropped(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            match ticket.cause:
                case Cause.EXPIRED:
                    assert ticket.deadline <= self.now
                case Cause.DEADLINE_UNMEETABLE | Cause.OVERDUE:
                    assert ticket.deadline > self.now
                case Cause.DISPLACED:
                    assert ticket.priority > self.limits.priority
                case other:
                    raise AssertionError(f"dropped for {other}")
            self.forget(ticket, "dropped")

    @rule(step=st.floats(0, 2))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(patience=st.floats(-1, 4), nbytes=st.integers(0, 20), priority=PRIORITY)
    def admit(self, patience: float, nbytes: int, priority: Priority | None) -> None:
        answer = self.ask(patience, nbytes, priority)
        if isinstance(answer, Ticket):
            self.receiving.append(answer)

    def ask(self, patience: float, nbytes: int, priority: Priority | None) -> Ticket | Refusal:
        scheduler, now = self.scheduler, self.now
        idle, draining = scheduler.idle, scheduler.draining
        answer = scheduler.admit(now, deadline=now + patience, nbytes=nbytes, priority=priority)
        if isinstance(answer, Refusal):
            assert answer.retry_after_s > 0
            possible = now + patience > now and nbytes <= self.limits.memory_bytes and not draining
            assert not (idle and possible), "refused by an idle pool"
            named = self.limits.priority if priority is None else max(priority, self.limits.priority)
            lower = [ticket for ticket in self.queued if ticket.priority > named]
            full = answer.cause is Cause.QUEUE_FULL and len(self.queued + self.receiving) <= self.limits.queue
            assert not (full and lower and named is self.limits.priority), "refused for what a lower class holds"
            return answer
        assert patience > 0
        assert not draining
        assert answer.priority >= self.limits.priority
        self.accepted += 1
        return answer

    @precondition(lambda self: self.receiving)
    @rule(data=st.data())
    def queue(self, data: st.DataObject) -> None:
        ticket = self.receiving.pop(data.draw(st.integers(0, len(self.receiving) - 1)))
        assert self.scheduler.queue(ticket, self.now, data.draw(st.integers(1, self.limits.rows)))
        self.queued.append(ticket)

    @rule(count=st.integers(1, 8), patience=st.floats(1, 4), priority=PRIORITY)
    def arrive(self, count: int, patience: float, priority: Priority | None) -> None:
        for _ in range(count):
            answer = self.ask(patience, 0, priority)
            if isinstance(answer, Ticket):
                assert self.scheduler.queue(answer, self.now)
                self.queued.append(answer)

    @rule()
    def dispatch(self) -> None:
        while True:
            batch, dropped = self.scheduler.next_batch(self.now)
            self.dropped(dropped)
            if batch is None:
                break
            self.check_start(batch)
        live = [ticket for ticket in self.queued if ticket.deadline > self.now]
        held = self.now < self.scheduler.wake_at < inf
        assert not live or held or len(self.running) >= self.limits.slots, "a free slot and a live request"
        assert not held or self.limits.gather_s > 0

    def check_start(self, batch: Batch) -> None:
        assert batch.tickets
        assert batch.rows == sum(ticket.rows for ticket in batch.tickets) <= self.limits.rows
        for ticket in batch.tickets:
            assert ticket.deadline > self.now
            assert ticket not in self.endings
            before = self.queued[: self.queued.index(ticket)]
            same = [other for other in self.queued if other.priority is ticket.priority and other is not ticket]
            assert all(other.deadline >= ticket.deadline for other in same), "an earlier deadline was overtaken"
            assert all(other.deadline != ticket.deadline for other in same if other in before), "an equal was overtaken"
            self.queued.remove(ticket)
        self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), good=st.booleans())
    def finish(self, data: st.DataObject, good: bool) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.scheduler.finish(batch, self.now, good=good)
        for ticket in batch.tickets:
            self.end(ticket, "completed")

    @precondition(lambda self: self.receiving or self.queued)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.receiving + self.queued))
        waiting = ticket.state in (State.RECEIVING, State.QUEUED)  # else it was displaced, and is not told yet
        assert self.scheduler.cancel(ticket) == waiting
        assert not self.scheduler.cancel(ticket)
        if waiting:
            self.forget(ticket, "cancelled")

    @precondition(lambda self: self.receiving or self.queued)
    @rule(data=st.data(), patience=st.floats(0, 2))
    def tighten(self, data: st.DataObject, patience: float) -> None:
        ticket = data.draw(st.sampled_from(self.receiving + self.queued))
        self.scheduler.tighten(ticket, ticket.arrived + patience)
        if ticket in self.queued:  # it is behind those who had this deadline before
            self.queued.remove(ticket)
            self.queued.append(ticket)

    @precondition(lambda self: self.receiving)
    @rule(data=st.data(), nbytes=st.integers(0, 20))
    def enlarge(self, data: st.DataObject, nbytes: int) -> None:
        ticket = data.draw(st.sampled_from(self.receiving))
        if self.scheduler.enlarge(ticket, nbytes) is not None:
            self.forget(ticket, "refused")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.running))
        assert not self.scheduler.cancel(batch.tickets[0])

    @rule()
    def expire(self) -> None:
        self.dropped(self.scheduler.expire(self.now))
        assert all(ticket.deadline > self.now for ticket in self.receiving + self.queued)

    @rule()
    def drain(self) -> None:
        self.scheduler.draining = True

    @invariant()
    def account(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        waiting = [ticket for ticket in self.receiving + self.queued if ticket.state is not State.DONE]
        assert scheduler.in_flight == len(self.running) <= self.limits.slots
        assert scheduler.queued + scheduler.receiving == len(waiting)
        assert scheduler.held_bytes == sum(ticket.nbytes for ticket in waiting) <= self.limits.memory_bytes
        assert len(waiting) <= self.limits.queue + self.limits.slots * self.limits.rows, "more wait than may"
        in_flight = sum(len(batch.tickets) for batch in self.running)
        assert self.accepted == len(self.endings) + len(self.queued) + len(self.receiving) + in_flight
        for lane in scheduler._lanes:
            mine = [ticket for ticket in waiting if ticket.priority is lane.priority]
            assert (lane.waiting, lane.rows) == (len(mine), sum(ticket.rows for ticket in mine))
            assert len(lane.queue) <= 2 * lane.queued + STALE_MAX + 1

    def teardown(self) -> None:
        """Let everything end: nothing may be left over."""
        if not hasattr(self, "scheduler"):
            return
        for ticket in list(self.receiving):
            if self.scheduler.queue(ticket, self.now):
                self.receiving.remove(ticket)
                self.queued.append(ticket)
        for _ in range(1000):
            self.dispatch()
            if self.scheduler.wake_at < inf:
                self.now = self.scheduler.wake_at
                continue
            if not self.running:
                break
            batch = self.running.pop()
            self.scheduler.finish(batch, self.now)
            for ticket in batch.tickets:
                self.end(ticket, "completed")
        assert self.scheduler.idle
        assert self.scheduler.held_bytes == 0
        assert len(self.endings) == self.accepted
        assert all(ticket.state is State.DONE for ticket in self.endings)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
