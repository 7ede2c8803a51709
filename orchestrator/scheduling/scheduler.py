"""The pool's scheduler: a state machine without clock or I/O that admits, orders, batches, expires and counts.

The caller passes the time (seconds, monotonic) to every method, and acts on what comes back: the runner with the real
clock, a simulator with a virtual one. One request is a `Ticket`; its states and who moves it:

    admit() -> RECEIVING --queue()--> QUEUED --next_batch()--> RUNNING --finish()--> DONE
                   |                    |
                   +--------- dropped: late, hopeless, displaced, or by cancel(); never inferred

A ticket that is running cannot be taken back; `cancel` then only tells that nobody waits for the answer. Tickets that
the scheduler drops by itself come back once, from `next_batch` or `expire`, with their `cause`.
"""

from __future__ import annotations

from math import inf

from orchestrator.scheduling.admission import wait_s
from orchestrator.scheduling.backstop import Backstop
from orchestrator.scheduling.batching import hold_until, rows_to_take
from orchestrator.scheduling.classes import DEMAND_S, PLACES, SERVICE_LEAST, STALE_MAX, Lane, account, pick
from orchestrator.scheduling.pace import Pace
from orchestrator.scheduling.ticket import Batch, Cause, Limits, Priority, Refusal, State, Ticket

__all__ = ["STALE_MAX", "Batch", "Cause", "Limits", "Priority", "Refusal", "Scheduler", "State", "Ticket"]

RETRY_UNKNOWN_S = 0.05  # where no inference has been seen yet
RETRY_MIN_S = 0.001  # the unit of retry_after_ms; 0 would ask for a busy loop
RETRY_MAX_S = 30.0  # nobody knows for how long a device hangs


class Scheduler:
    """Admits what can be answered in time to `limits.slots` inferences; the rest is refused at once."""

    def __init__(self, limits: Limits, *, service_s: float | None = None, service_rows: int = 1) -> None:
        """Begin with `service_s`, the time of one inference of `service_rows` rows, where it is known."""
        self.limits = limits
        self.pace = Pace(service_s, limits.sizes, service_rows, full=limits.rows)
        self.draining = False
        self.lag_s = 0.0
        """What passes outside the pool of a request's time: before it is seen, and after its inference has ended."""
        self.wake_at = inf
        """When to ask for the next batch again, though nothing comes or ends until then; infinite: no need to."""
        self._lanes = tuple(Lane(priority) for priority in Priority)
        self._own = self._lanes[limits.priority]
        self._mixed = False  # whether requests of another class than the model's own have come
        self._receiving: dict[Ticket, None] = {}
        self._queued = 0
        self._held_bytes = 0
        self._running: list[Batch] = []
        self._dropped: list[Ticket] = []
        self._backstop = Backstop()

    @property
    def service_s(self) -> float | None:
        """Return the estimate of the time of one inference, over all that were seen lately; None before the first."""
        return self.pace.mean_s

    @property
    def full_s(self) -> float | None:
        """Return the estimate of the time of an inference of as many rows as there may be; None before any."""
        return None if self.pace.mean_s is None else self.pace.full_s

    @property
    def queued(self) -> int:
        """Return how many requests wait for an inference."""
        return self._queued

    @property
    def receiving(self) -> int:
        """Return how many admitted requests are still on their way in."""
        return len(self._receiving)

    @property
    def in_flight(self) -> int:
        """Return how many inferences run."""
        return len(self._running)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of tensors that wait or are on their way in."""
        return self._held_bytes

    @property
    def idle(self) -> bool:
        """Tell whether nothing runs, waits or comes in."""
        return not (self._running or self._queued or self._receiving)

    @property
    def dropped(self) -> bool:
        """Tell whether tickets were dropped that neither `next_batch` nor `expire` has returned yet."""
        return bool(self._dropped)

    def safety(self, priority: Priority | None = None) -> float:
        """Return the factor by which predictions of a class (the model's own) are trusted less at present."""
        return self._lanes[self.limits.priority if priority is None else priority].safety.factor

    def admit(
        self, now: float, *, deadline: float, nbytes: int = 0, priority: Priority | None = None
    ) -> Ticket | Refusal:
        """Let a request in, to be queued once its data is there, or refuse it; costs the same however full it is.

        `priority`: its class, None or one above the model's own for that one.
        """
        limits = self.limits
        lane = self._own if priority is None else self._lane_of(priority, now)
        free = limits.slots - len(self._running)
        waiting = self._queued + len(self._receiving)
        promised = now
        if (
            self.draining
            or deadline <= now
            or waiting >= limits.queue + (free * limits.rows if free > 0 else 0)
            or self._held_bytes + nbytes > limits.memory_bytes
            or lane is not self._own
        ):
            cause = self._refusal(now, deadline, nbytes, lane)
            if cause is not None:
                return Refusal(cause, self.retry_after_s(now))
        if waiting >= free:
            turn = lane.rows // limits.rows - free
            most_s = (turn // limits.slots + 2) * self.pace.full_s
            if lane is self._own and turn >= 0 and self._surely(now, most_s, deadline, lane):
                promised = now + most_s
            elif waits := self._wait_s(now, lane):
                if self._too_long(waits, deadline - now, lane):
                    return Refusal(Cause.DEADLINE_UNMEETABLE, self.retry_after_s(now))
                promised = now + waits
        if self._mixed:
            self._make_room(nbytes, lane)
        ticket = Ticket(now, deadline, nbytes, lane.priority, promised)
        self._receiving[ticket] = None
        self._held_bytes += nbytes
        lane.waiting += 1
        lane.rows += 1
        return ticket

    def full(self, now: float, coming: int, *, deadline: float) -> Refusal | None:
        """Return the refusal of a request that would come behind `coming` others of which nothing is known yet.

        None where it might be let in: `admit` decides. Of a pool with several classes nothing is said, as a request's
        class is not known before it has come.
        """
        limits, lane = self.limits, self._own
        if self._mixed or self.draining or deadline <= now:
            return None
        free = limits.slots - len(self._running)
        waiting = self._queued + len(self._receiving) + coming
        if waiting >= limits.queue + (free * limits.rows if free > 0 else 0):
            return Refusal(Cause.QUEUE_FULL, self.retry_after_s(now))
        if waiting < free or self.pace.mean_s is None:
            return None
        waits = wait_s(now, (lane.rows + coming) // limits.rows, limits.slots, self._running, self.pace.full_s)
        if waits and self._too_long(waits, deadline - now, lane):
            return Refusal(Cause.DEADLINE_UNMEETABLE, self.retry_after_s(now))
        return None

    def _lane_of(self, priority: Priority, now: float) -> Lane:
        """Return the class that a request belongs to: the one it names, but none above the model's own."""
        if priority <= self.limits.priority:
            return self._own
        self._mixed = True
        lane = self._lanes[priority]
        lane.wanted_to = now + DEMAND_S
        return lane

    def _refusal(self, now: float, deadline: float, nbytes: int, lane: Lane) -> Cause | None:
        """Return which bound forbids to admit; what waits of lower classes can be displaced."""
        limits = self.limits
        if self.draining:
            return Cause.DRAINING
        if deadline <= now:
            return Cause.DEADLINE_PAST
        if nbytes > limits.memory_bytes:
            return Cause.TOO_LARGE
        places = self._places()
        waiting = self._queued + len(self._receiving)
        if waiting >= places and not (self._mixed and waiting - self._displaceable(lane) < places):
            return Cause.QUEUE_FULL
        if self._mixed and lane.priority > limits.priority:
            below = sum(each.waiting for each in self._lanes[lane.priority :])
            if below >= places - limits.queue + int(PLACES[lane.priority] * limits.queue):
                return Cause.QUEUE_FULL
        if self._held_bytes + nbytes > limits.memory_bytes and not (
            self._mixed and self._held_bytes - self._displaceable_bytes(lane) + nbytes <= limits.memory_bytes
        ):
            return Cause.MEMORY_FULL
        return None

    def _places(self) -> int:
        limits = self.limits
        return limits.queue + max(0, limits.slots - len(self._running)) * limits.rows

    def _displaceable(self, lane: Lane) -> int:
        return sum(each.queued for each in self._lanes[lane.priority + 1 :])

    def _displaceable_bytes(self, lane: Lane) -> int:
        lower = self._lanes[lane.priority + 1 :]
        return sum(ticket.nbytes for each in lower for ticket in each.queue if ticket.state is State.QUEUED)

    def _make_room(self, nbytes: int, lane: Lane) -> None:
        """Drop what came last of the lowest classes until one more fits."""
        while (
            self._queued + len(self._receiving) >= self._places()
            or self._held_bytes + nbytes > self.limits.memory_bytes
        ):
            lowest = next(each for each in reversed(self._lanes) if each.queued)
            assert lowest.priority > lane.priority, "nobody is displaced by his own class"
            self._drop(lowest.newest(), Cause.DISPLACED)

    def _surely(self, now: float, waits: float, deadline: float, lane: Lane) -> bool:
        """Tell at little cost whether even a pessimist would admit: most are, and a plan simulates thousands."""
        full_s, slo_s = self.pace.full_s, self.limits.slo_s - self.lag_s
        left = deadline - now
        return lane.safety.answer_s(waits, full_s, self.pace.tail) <= min(slo_s, left) and (
            not self._running or self._running[0].expected + full_s > now
        )

    def _wait_s(self, now: float, lane: Lane) -> float:
        """Return how long a request of this class would wait for its inference to start: what goes before it only."""
        pace, limits = self.pace, self.limits
        if pace.mean_s is None:
            return 0.0
        full_s = pace.full_s
        if lane is self._own or lane.credit >= lane.rows + 1:  # with credit it has a right to be next
            return wait_s(now, lane.rows // limits.rows, limits.slots, self._running, full_s)
        higher = self._lanes[: lane.priority]
        rows = lane.rows + sum(each.rows for each in higher)
        left = 1 - sum(each.load(now) for each in higher) / limits.slots
        waits = wait_s(now, rows // limits.rows, limits.slots, self._running, full_s)
        return waits / max(SERVICE_LEAST, left)

    def _too_long(self, waits: float, left: float, lane: Lane) -> bool:
        limits, pace = self.limits, self.pace
        budget = min(left, limits.slo_s - self.lag_s)
        return lane.safety.answer_s(waits, pace.full_s, pace.tail) > budget

    def retry_after_s(self, now: float | None = None) -> float:
        """Return about how long it takes until all that waits and runs is served; 50 ms where nothing is known."""
        full_s = self.full_s
        if full_s is None:
            return RETRY_UNKNOWN_S
        rows = sum([lane.rows for lane in self._lanes]) if self._mixed else self._own.rows
        drain = (len(self._running) + rows / self.limits.rows) * full_s / self.limits.slots
        if now is not None and self._running:
            drain += max(0.0, now - self._running[0].expected)  # a device that hangs
        return min(RETRY_MAX_S, max(RETRY_MIN_S, full_s, drain))

    def queue(self, ticket: Ticket, now: float, rows: int = 1) -> bool:
        """Queue a request whose data has arrived; False when it was dropped meanwhile."""
        assert 1 <= rows <= self.limits.rows, (rows, self.limits)
        if ticket.state is not State.RECEIVING:
            return False
        del self._receiving[ticket]
        ticket.state = State.QUEUED
        ticket.ready = now
        lane = self._lanes[ticket.priority]
        if rows != 1:
            ticket.rows = rows
            lane.rows += rows - 1
        lane.push(ticket)
        self._queued += 1
        return True

    def next_batch(self, now: float) -> tuple[Batch | None, list[Ticket]]:
        """Return the next batch to start, if a slot is free and anything waits, and the tickets that were dropped.

        Work conserving: whatever waits goes as soon as a slot is free, up to `limits.rows` rows, the highest class
        and in it the earliest deadline first. A batch that is held back to grow sets `wake_at` instead.
        """
        self.wake_at = inf
        tickets: list[Ticket] = []
        rows = 0
        if self._queued and len(self._running) < self.limits.slots:
            tickets, rows = self._take(now)
        dropped = self._dropped
        if dropped:
            self._dropped = []
        else:
            dropped = []
        if not tickets:
            return None, dropped
        if self._mixed:
            self._account(now, tickets, rows)
        if self.limits.slo_s < inf:
            self._compare(tickets, now)
        pace = self.pace
        batch = Batch(tickets, rows, now, now + (pace.full_s if rows == self.limits.rows else pace.seconds(rows)))
        self._running.append(batch)
        return batch, dropped

    def _take(self, now: float) -> tuple[list[Ticket], int]:
        """Return what starts now, in order, with its rows; drop what is not worth it any more."""
        tickets: list[Ticket] = []
        rows, most = 0, 0
        safe = now + 2 * self.pace.least_s
        while self._queued:
            lane = pick(self._lanes) if self._mixed else self._own
            ticket = lane.queue[0]
            if ticket.state is not State.QUEUED:
                lane.queue.popleft()  # dropped where it stood
                continue
            if ticket.deadline <= safe or self._backstop.on:  # else there is nothing to look at
                hopeless = self._hopeless(ticket, now)
                if hopeless is not None:
                    self._drop(ticket, hopeless)
                    continue
            if not most:
                most = 1 if self.limits.rows == 1 else self._most_rows(ticket, now)
                if not most:
                    break  # held back
            elif rows + ticket.rows > most:
                break
            lane.queue.popleft()
            self._queued -= 1
            lane.queued -= 1
            lane.waiting -= 1
            lane.rows -= ticket.rows
            self._held_bytes -= ticket.nbytes
            ticket.state = State.RUNNING
            ticket.started = now
            tickets.append(ticket)
            rows += ticket.rows
            if rows >= most:
                break
        return tickets, rows

    def _hopeless(self, ticket: Ticket, now: float) -> Cause | None:
        """Return why a ticket is not worth an inference.

        What cannot be in time any more only makes others late - unless nobody else waits, or it never could have been.
        """
        deadline = ticket.deadline
        if deadline <= now:
            return Cause.EXPIRED
        if self._backstop.discards(ticket, now):
            return Cause.OVERDUE
        least_s = self.pace.least_s
        if now + least_s > deadline and self._queued > 1 and ticket.arrived + least_s <= deadline:
            return Cause.DEADLINE_UNMEETABLE
        return None

    def _most_rows(self, oldest: Ticket, now: float) -> int:
        """Return how many rows to infer together, 0 where they are held back to grow."""
        limits = self.limits
        if self._queued == 1 and limits.gather_s == 0.0:
            return oldest.rows  # there is nothing else to take: a caller who is alone pays for no choice
        queued = sum(lane.rows for lane in self._lanes) - len(self._receiving)
        if limits.gather_s > 0 and self.pace.mean_s is not None:
            until = hold_until(limits, self.pace, oldest, queued)
            if now < until:
                self.wake_at = until
                return 0
        slack_s = min(oldest.deadline, oldest.arrived + limits.slo_s) - now
        return max(oldest.rows, rows_to_take(limits, self.pace, queued, slack_s))

    def _compare(self, tickets: list[Ticket], now: float) -> None:
        """Note how far behind its promise the batch starts."""
        for ticket in tickets:
            beyond_s = now - max(ticket.promised, ticket.ready)
            if beyond_s < self._backstop.least_s:
                self._backstop.least_s = beyond_s

    def _account(self, now: float, tickets: list[Ticket], rows: int) -> None:
        account(self._lanes[self.limits.priority :], now, rows)
        each_s = self.pace.seconds(rows) / rows
        for ticket in tickets:
            lane = self._lanes[ticket.priority]
            lane.credit = max(0.0, lane.credit - ticket.rows)
            lane.served(now, each_s * ticket.rows)

    def _drop(self, ticket: Ticket, cause: Cause) -> None:
        """Forget a ticket that waited, and have it returned with its cause."""
        self._forget(ticket)
        ticket.cause = cause
        self._dropped.append(ticket)

    def _forget(self, ticket: Ticket) -> None:
        self._lanes[ticket.priority].forget(ticket)
        if ticket.state is State.QUEUED:
            self._queued -= 1
        else:
            del self._receiving[ticket]
        self._held_bytes -= ticket.nbytes
        ticket.state = State.DONE

    def finish(self, batch: Batch, now: float, *, good: bool = True) -> None:
        """Free the slot of a batch that has ended; `good` ones teach the service time."""
        assert batch.tickets[0].state is State.RUNNING, "a batch was finished twice"
        self._running.remove(batch)
        judged = good and self.limits.slo_s < inf
        for ticket in batch.tickets:
            ticket.state = State.DONE
            if judged:
                self._judge(ticket, now)
        if good:
            self.pace.learn(batch.rows, now - batch.started, self.limits.share)

    def _judge(self, ticket: Ticket, now: float) -> None:
        """Learn how careful to be; an answer that was late without a wait says nothing of whom to admit."""
        arrived = ticket.arrived
        safety = self._lanes[ticket.priority].safety
        if now + self.lag_s > arrived + self.limits.slo_s:
            if ticket.promised > arrived:
                safety.learn(True, self.limits.share)
        elif safety.factor:
            safety.learn(False, self.limits.share)

    def cancel(self, ticket: Ticket) -> bool:
        """Forget a request whose caller went away; True when it will never be inferred, False when it runs or ended."""
        ticket.abandoned = True
        if ticket.state not in (State.RECEIVING, State.QUEUED):
            return False
        self._forget(ticket)
        ticket.cause = Cause.CANCELLED
        ticket.payload = None  # it may stand in the queue for a while, and must not hold tensors there
        return True

    def tighten(self, ticket: Ticket, deadline: float) -> None:
        """Bring a deadline forward, if that is earlier."""
        if deadline >= ticket.deadline:
            return
        ticket.deadline = deadline
        if ticket.state is State.QUEUED:
            lane = self._lanes[ticket.priority]
            lane.queue.remove(ticket)
            lane.queued -= 1
            lane.push(ticket)

    def enlarge(self, ticket: Ticket, nbytes: int) -> Refusal | None:
        """Count more bytes of a request that is on its way in; where they do not fit, drop it and return why."""
        if ticket.state is not State.RECEIVING:
            return None
        most = self.limits.memory_bytes
        if self._held_bytes + nbytes <= most:
            ticket.nbytes += nbytes
            self._held_bytes += nbytes
            return None
        self._forget(ticket)
        ticket.cause = Cause.TOO_LARGE if ticket.nbytes + nbytes > most else Cause.MEMORY_FULL
        return Refusal(ticket.cause, self.retry_after_s())

    def expire(self, now: float) -> list[Ticket]:
        """Drop what is past its deadline wherever it stands, and return it with all else that was dropped since."""
        pace, limits = self.pace, self.limits
        if limits.slo_s < inf and pace.mean_s is not None:
            full_s = pace.full_s
            self._backstop.look(now, limits.slo_s - pace.tail * full_s, full_s)
        late = [ticket for ticket in self._receiving if ticket.deadline <= now]
        for lane in self._lanes:
            late += lane.late(now)
        for ticket in late:
            self._drop(ticket, Cause.EXPIRED)
        if late:
            for lane in self._lanes:
                lane.sweep()
        dropped, self._dropped = self._dropped, []
        return dropped

    def reconfigure(self, limits: Limits) -> None:
        """Change the limits in place; what was admitted stays admitted."""
        self.limits = limits
        self._own = self._lanes[limits.priority]
        self._mixed = self._mixed or any(lane.waiting for lane in self._lanes if lane is not self._own)
