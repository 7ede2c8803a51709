"""The pool's scheduler: a state machine without clock or I/O that admits, orders, batches, expires and counts.

The caller passes the time (seconds, monotonic) to every method, and acts on what comes back: the runner with the real
clock, a simulator with a virtual one. One request is a `Ticket`; its states and who moves it:

    admit() -> RECEIVING --queue()--> QUEUED --next_batch()--> RUNNING --finish()--> DONE
                   |                    |
                   +--------- expire(), cancel(): dropped, never inferred

A ticket that is running cannot be taken back; `cancel` then only tells that nobody waits for the answer.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Any

# Service times vary little (Clockwork, OSDI'20), so a short memory is enough to follow a machine that gets busier.
SERVICE_MEMORY = 0.1
STALE_MAX = 64  # dropped tickets that may stay in the queue before it is swept; a wedged device never pops them
RETRY_UNKNOWN_S = 0.05  # where no inference has been seen yet
RETRY_MIN_S = 0.001  # the unit of retry_after_ms; 0 would ask for a busy loop


class State(enum.Enum):
    """Where a ticket is."""

    RECEIVING = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


class Cause(enum.Enum):
    """Why a request was refused or dropped."""

    QUEUE_FULL = "queue full"
    MEMORY_FULL = "queue memory full"
    TOO_LARGE = "larger than the memory of the whole queue"
    DEADLINE_PAST = "deadline already past"
    DEADLINE_UNMEETABLE = "deadline cannot be met"
    EXPIRED = "deadline passed in the queue"
    CANCELLED = "caller went away"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the pool; may be changed while it runs.

    `slots` inferences run at the same time, each of at most `rows` rows; `queue` requests may wait or be on their way
    in, holding at most `memory_bytes` together.
    """

    slots: int
    rows: int = 1
    queue: int = 64
    memory_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        assert self.slots >= 1, self
        assert self.rows >= 1, self
        assert self.queue >= 0, self


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was not admitted, and when it may be worth trying again (seconds from now)."""

    cause: Cause
    retry_after_s: float


class Ticket:
    """One admitted request. `payload` belongs to the caller of the scheduler."""

    __slots__ = ("abandoned", "arrived", "deadline", "nbytes", "payload", "rows", "started", "state")

    def __init__(self, arrived: float, deadline: float, nbytes: int) -> None:
        self.arrived = arrived
        self.deadline = deadline
        self.nbytes = nbytes
        self.rows = 1
        self.started = 0.0
        self.state = State.RECEIVING
        self.abandoned = False
        self.payload: Any = None


class Batch:
    """Requests that are inferred together."""

    __slots__ = ("rows", "started", "tickets")

    def __init__(self, tickets: list[Ticket], rows: int, started: float) -> None:
        self.tickets = tickets
        self.rows = rows
        self.started = started


class Scheduler:
    """First come first served over `limits.slots` inferences, with a bounded queue and a deadline for each request."""

    def __init__(self, limits: Limits, *, service_s: float | None = None) -> None:
        self.limits = limits
        self.service_s = service_s
        """Estimate of the time of one inference; None until one was seen."""
        self.draining = False
        self._queue: deque[Ticket] = deque()
        self._receiving: dict[Ticket, None] = {}
        self._queued = 0
        self._held_bytes = 0
        self._running = 0

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
        return self._running

    @property
    def held_bytes(self) -> int:
        """Return the bytes of tensors that wait or are on their way in."""
        return self._held_bytes

    @property
    def idle(self) -> bool:
        """Tell whether nothing runs, waits or comes in."""
        return not (self._running or self._queued or self._receiving)

    def admit(self, now: float, *, deadline: float, nbytes: int = 0) -> Ticket | Refusal:
        """Let a request in, to be queued once its data is there, or refuse it; costs the same however full it is."""
        cause = self._refusal(now, deadline, nbytes)
        if cause is not None:
            return Refusal(cause, self.retry_after_s())
        ticket = Ticket(now, deadline, nbytes)
        self._receiving[ticket] = None
        self._held_bytes += nbytes
        return ticket

    def _refusal(self, now: float, deadline: float, nbytes: int) -> Cause | None:
        if self.draining:
            return Cause.DRAINING
        if deadline <= now:
            return Cause.DEADLINE_PAST
        if nbytes > self.limits.memory_bytes:
            return Cause.TOO_LARGE
        free_slots = max(0, self.limits.slots - self._running)
        if self._queued + len(self._receiving) >= self.limits.queue + free_slots * self.limits.rows:
            return Cause.QUEUE_FULL
        if self._held_bytes + nbytes > self.limits.memory_bytes:
            return Cause.MEMORY_FULL
        return None

    def enlarge(self, ticket: Ticket, nbytes: int) -> Refusal | None:
        """Count `nbytes` more for a request that is coming in; where there is no room for them it is dropped."""
        if ticket.state is not State.RECEIVING:
            return None  # dropped already
        if ticket.nbytes + nbytes > self.limits.memory_bytes:
            cause = Cause.TOO_LARGE
        elif self._held_bytes + nbytes > self.limits.memory_bytes:
            cause = Cause.MEMORY_FULL
        else:
            ticket.nbytes += nbytes
            self._held_bytes += nbytes
            return None
        self._drop(ticket)
        return Refusal(cause, self.retry_after_s())

    def retry_after_s(self) -> float:
        """Return about how long it takes until half of what waits is served; 50 ms where nothing is known."""
        if self.service_s is None:
            return RETRY_UNKNOWN_S
        inferences = (self._queued + len(self._receiving)) / self.limits.rows + self._running
        return max(RETRY_MIN_S, self.service_s, inferences * self.service_s / self.limits.slots / 2)

    def queue(self, ticket: Ticket, rows: int = 1) -> bool:
        """Queue a request whose data has arrived; False when it was dropped meanwhile."""
        assert 1 <= rows <= self.limits.rows, (rows, self.limits)
        if ticket.state is not State.RECEIVING:
            return False
        del self._receiving[ticket]
        ticket.rows = rows
        ticket.state = State.QUEUED
        self._queue.append(ticket)
        self._queued += 1
        return True

    def next_batch(self, now: float) -> tuple[Batch | None, list[Ticket]]:
        """Return the next batch to start, if a slot is free and anything waits, and the tickets that expired first.

        Work conserving: whatever waits goes as soon as a slot is free, up to `limits.rows` rows, in order of arrival
        in the queue.
        """
        expired: list[Ticket] = []
        if self._running >= self.limits.slots:
            return None, expired
        tickets: list[Ticket] = []
        rows = 0
        while self._queue:
            ticket = self._queue[0]
            if ticket.state is not State.QUEUED:
                self._queue.popleft()  # cancelled or expired where it stood
                continue
            if ticket.deadline <= now:
                expired.append(self._drop(self._queue.popleft()))
                continue
            if tickets and rows + ticket.rows > self.limits.rows:
                break
            tickets.append(self._start(self._queue.popleft(), now))
            rows += ticket.rows
            if rows >= self.limits.rows:
                break
        if not tickets:
            return None, expired
        self._running += 1
        return Batch(tickets, rows, now), expired

    def _start(self, ticket: Ticket, now: float) -> Ticket:
        ticket.state = State.RUNNING
        ticket.started = now
        self._queued -= 1
        self._held_bytes -= ticket.nbytes
        return ticket

    def _drop(self, ticket: Ticket) -> Ticket:
        if ticket.state is State.QUEUED:
            self._queued -= 1
        else:
            del self._receiving[ticket]
        self._held_bytes -= ticket.nbytes
        ticket.state = State.DONE
        return ticket

    def finish(self, batch: Batch, now: float, *, good: bool = True) -> None:
        """Free the slot of a batch that has ended; `good` ones teach the service time."""
        assert batch.tickets[0].state is State.RUNNING, "a batch was finished twice"
        self._running -= 1
        for ticket in batch.tickets:
            ticket.state = State.DONE
        if good:
            seen = now - batch.started
            self.service_s = (
                seen if self.service_s is None else self.service_s + SERVICE_MEMORY * (seen - self.service_s)
            )

    def cancel(self, ticket: Ticket) -> bool:
        """Forget a request whose caller went away; True when it will never be inferred, False when it runs or ended."""
        ticket.abandoned = True
        if ticket.state not in (State.RECEIVING, State.QUEUED):
            return False
        self._drop(ticket)
        ticket.payload = None  # it may stand in the queue for a while, and must not hold tensors there
        if len(self._queue) > 2 * self._queued + STALE_MAX:
            self._compact()
        return True

    def _compact(self) -> None:
        self._queue = deque(ticket for ticket in self._queue if ticket.state is State.QUEUED)

    def expire(self, now: float) -> list[Ticket]:
        """Drop what is past its deadline wherever it stands, and return it; to be called now and then."""
        late = [ticket for ticket in self._receiving if ticket.deadline <= now]
        late += [ticket for ticket in self._queue if ticket.state is State.QUEUED and ticket.deadline <= now]
        for ticket in late:
            self._drop(ticket)
        if late:
            self._compact()
        return late

    def reconfigure(self, limits: Limits) -> None:
        """Change the limits in place; what was admitted stays admitted."""
        self.limits = limits
