"""What holds of the scheduler whatever happens, in whatever order.

Each property was seen to fail on a bug planted in scheduler.py:

| property | planted bug |
|---|---|
| never more in flight than slots | `self._running > self.limits.slots` in next_batch |
| never more rows in a batch than allowed | no `break` where the next request does not fit |
| every request ends in exactly one way | next_batch drops what is late without returning it |
| work conserving | next_batch returns None as soon as something was late |
| first come first served | `self._queue.appendleft` in queue |
| late or cancelled work never starts | `ticket.deadline < now - 1` in next_batch; no look at the state |
| bounds hold and return to zero | `_drop` does not give back the bytes |
| dropped requests do not pile up | no `_compact` in cancel |
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.scheduling.scheduler import STALE_MAX, Batch, Limits, Refusal, Scheduler, State, Ticket


class SchedulerMachine(RuleBasedStateMachine):
    """Calls the scheduler in any order on a clock that only goes forward, and keeps its own account."""

    @initialize(
        slots=st.integers(1, 3),
        rows=st.integers(1, 4),
        queue=st.integers(0, 6),
        memory_bytes=st.integers(0, 40),
    )
    def make(self, slots: int, rows: int, queue: int, memory_bytes: int) -> None:
        self.limits = Limits(slots, rows, queue, memory_bytes)
        self.scheduler = Scheduler(self.limits)
        self.now = 0.0
        self.receiving: list[Ticket] = []
        self.queued: list[Ticket] = []
        self.running: list[Batch] = []
        self.accepted = 0
        self.endings: dict[Ticket, str] = {}

    def end(self, ticket: Ticket, how: str) -> None:
        assert ticket not in self.endings, f"ended as {self.endings[ticket]}, then as {how}"
        self.endings[ticket] = how

    @rule(step=st.floats(0, 2))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(patience=st.floats(-1, 4), nbytes=st.integers(0, 20))
    def admit(self, patience: float, nbytes: int) -> None:
        answer = self.scheduler.admit(self.now, deadline=self.now + patience, nbytes=nbytes)
        if isinstance(answer, Refusal):
            assert answer.retry_after_s > 0
            return
        assert patience > 0
        assert not self.scheduler.draining
        self.accepted += 1
        self.receiving.append(answer)

    @precondition(lambda self: self.receiving)
    @rule(data=st.data())
    def queue(self, data: st.DataObject) -> None:
        ticket = self.receiving.pop(data.draw(st.integers(0, len(self.receiving) - 1)))
        assert self.scheduler.queue(ticket, data.draw(st.integers(1, self.limits.rows)))
        self.queued.append(ticket)

    @rule(count=st.integers(1, 8), patience=st.floats(1, 4))
    def arrive(self, count: int, patience: float) -> None:
        for _ in range(count):
            answer = self.scheduler.admit(self.now, deadline=self.now + patience)
            if isinstance(answer, Ticket):
                self.accepted += 1
                assert self.scheduler.queue(answer)
                self.queued.append(answer)

    @rule()
    def dispatch(self) -> None:
        while True:
            batch, expired = self.scheduler.next_batch(self.now)
            for ticket in expired:
                assert ticket.deadline <= self.now
                self.queued.remove(ticket)
                self.end(ticket, "expired")
            if batch is None:
                break
            self.check_start(batch)
        live = [ticket for ticket in self.queued if ticket.deadline > self.now]
        assert not live or len(self.running) >= self.limits.slots, "a free slot and a live request"

    def check_start(self, batch: Batch) -> None:
        assert batch.tickets
        assert batch.rows == sum(ticket.rows for ticket in batch.tickets) <= self.limits.rows
        for ticket in batch.tickets:
            assert ticket.deadline > self.now
            assert ticket not in self.endings
            earlier = [other for other in self.queued[: self.queued.index(ticket)] if other.deadline > self.now]
            assert earlier == [], "a later request overtook an earlier one"
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
        assert self.scheduler.cancel(ticket)
        assert not self.scheduler.cancel(ticket)
        (self.receiving if ticket in self.receiving else self.queued).remove(ticket)
        self.end(ticket, "cancelled")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.running))
        assert not self.scheduler.cancel(batch.tickets[0])

    @rule()
    def expire(self) -> None:
        for ticket in self.scheduler.expire(self.now):
            assert ticket.deadline <= self.now
            (self.receiving if ticket in self.receiving else self.queued).remove(ticket)
            self.end(ticket, "expired")
        assert all(ticket.deadline > self.now for ticket in self.receiving + self.queued)

    @rule()
    def drain(self) -> None:
        self.scheduler.draining = True

    @rule(queue=st.integers(0, 6), memory_bytes=st.integers(0, 40))
    def reconfigure(self, queue: int, memory_bytes: int) -> None:
        self.limits = Limits(self.limits.slots, self.limits.rows, queue, memory_bytes)
        self.scheduler.reconfigure(self.limits)

    @invariant()
    def account(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        scheduler = self.scheduler
        assert scheduler.in_flight == len(self.running) <= self.limits.slots
        assert scheduler.queued == len(self.queued)
        assert scheduler.receiving == len(self.receiving)
        assert scheduler.held_bytes == sum(ticket.nbytes for ticket in self.receiving + self.queued)
        in_flight = sum(len(batch.tickets) for batch in self.running)
        assert self.accepted == len(self.endings) + len(self.queued) + len(self.receiving) + in_flight
        assert len(scheduler._queue) <= 2 * len(self.queued) + STALE_MAX

    def teardown(self) -> None:
        """Let everything end: nothing may be left over."""
        if not hasattr(self, "scheduler"):
            return
        for ticket in list(self.receiving):
            self.scheduler.queue(ticket)
            self.receiving.remove(ticket)
            self.queued.append(ticket)
        self.dispatch()
        while self.running:
            batch = self.running.pop()
            self.scheduler.finish(batch, self.now)
            for ticket in batch.tickets:
                self.end(ticket, "completed")
            self.dispatch()
        assert self.scheduler.idle
        assert self.scheduler.held_bytes == 0
        assert len(self.endings) == self.accepted
        assert all(ticket.state is State.DONE for ticket in self.endings)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
