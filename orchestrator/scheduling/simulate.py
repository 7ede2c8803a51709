"""Drive the pool's own scheduler through given arrivals and service times on a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from math import ceil, inf
from typing import NamedTuple

from orchestrator.scheduling.scheduler import Batch, Cause, Limits, Priority, Refusal, Scheduler, Ticket

TICK_S = 0.05  # how often the runner asks the scheduler what is late

ServiceTimes = Callable[[int, int, int | None], float]
"""Returns the seconds of an inference, given its number (from 0, in the order of the starts), its rows, and how many
others run when it starts; None when it found the pool idle, rather than right after another on the only slot."""

Classes = Callable[[int], Priority | None]
"""Returns the class that a request names, given its number."""


class Fate(NamedTuple):
    """What became of one request; seconds on the virtual clock."""

    arrived: float
    started: float | None
    """When its inference started; None when it was never inferred."""
    ended: float
    """When it was answered."""
    cause: Cause | None
    """Why it was refused or dropped; None when it was served."""

    @property
    def latency_s(self) -> float:
        """Return the seconds from the arrival to the answer."""
        return self.ended - self.arrived


def simulate(
    arrivals: Iterable[float],
    service_s: ServiceTimes,
    limits: Limits,
    *,
    timeout_s: float = inf,
    rows: int = 1,
    nbytes: int = 0,
    expected_s: float | None = None,
    priority: Classes | None = None,
) -> list[Fate]:
    """Return the fate of each request, in the order of `arrivals` (seconds from 0, ascending).

    Each request has `rows` rows, `nbytes` in all, and must start within `timeout_s` of its arrival, as in the pool;
    its data is there when it arrives. `expected_s` is the scheduler's first estimate of a service time. All
    completions of an instant come before its arrivals. Same input, same result.
    """
    run = Run(Scheduler(limits, service_s=expected_s), service_s)
    for number, now in enumerate(arrivals):
        run.until(now)
        run.arrive(number, now, now + timeout_s, rows, nbytes, None if priority is None else priority(number))
    run.until(inf)
    return [run.fates[number] for number in range(len(run.fates))]


def missed(
    arrivals: Iterable[float],
    service_s: ServiceTimes,
    limits: Limits,
    *,
    latency_s: float,
    most: int,
    timeout_s: float = inf,
    expected_s: float | None = None,
) -> int:
    """Return how many requests are refused, dropped, or answered after more than `latency_s`.

    Otherwise as `simulate`; but it ends once there are more than `most`, and tells nothing of each.
    """
    run = _Misses(Scheduler(limits, service_s=expected_s), service_s, latency_s)
    for number, now in enumerate(arrivals):
        run.until(now)
        run.arrive(number, now, now + timeout_s)
        if run.count > most:
            return run.count
    run.until(inf)
    return run.count


def simulate_closed(
    callers: int,
    count: int,
    service_s: ServiceTimes,
    limits: Limits,
    *,
    timeout_s: float = inf,
    expected_s: float | None = None,
) -> list[Fate]:
    """Return the fates of the first `count` requests of callers that each wait for their answer, then ask again.

    A caller that was refused asks again when `retry_after_s` says. Same input, same result.
    """
    run = Run(Scheduler(limits, service_s=expected_s), service_s)
    ready = [(0.0, caller) for caller in range(callers)]
    owner: dict[int, int] = {}
    number = 0
    while number < count:
        if not ready or (run.next_event <= ready[0][0]):
            ready_at = run.next_event
            assert ready_at < inf, "every caller waits, and nothing runs"
            run.until(ready_at)
        else:
            now, caller = heapq.heappop(ready)
            owner[number] = caller
            run.arrive(number, now, now + timeout_s)
            number += 1
        for answered in [key for key in owner if key in run.fates]:
            fate = run.fates[answered]
            pause_s = run.scheduler.retry_after_s(run.now) if fate.cause is not None else 0.0
            # Who was dropped at a tick that has passed meanwhile can only ask from now on.
            heapq.heappush(ready, (max(run.now, fate.ended + pause_s), owner.pop(answered)))
    run.until(inf)
    return [run.fates[number] for number in range(count)]


class Run:
    """One simulation: the scheduler, what runs, and what became of each request so far, by its number."""

    def __init__(self, scheduler: Scheduler, service_s: ServiceTimes) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self.fates: dict[int, Fate] = {}
        self._service_s = service_s
        self._running: list[tuple[float, int, Batch]] = []  # a heap by the time of the end, then the number
        self._starts = 0
        self._next_tick = TICK_S
        self._slots = scheduler.limits.slots

    @property
    def next_event(self) -> float:
        """Return when the next inference ends or a batch is held back no longer; infinity when nothing is to come."""
        return min(self._running[0][0] if self._running else inf, self.scheduler.wake_at)

    def arrive(
        self,
        number: int,
        now: float,
        deadline: float,
        rows: int = 1,
        nbytes: int = 0,
        priority: Priority | None = None,
    ) -> None:
        """Let a request in or refuse it, and start what can be started."""
        assert now >= self.now, "arrivals are in ascending order, from 0"
        self.now = now
        scheduler = self.scheduler
        admitted = scheduler.admit(now, deadline=deadline, nbytes=nbytes, priority=priority)
        if isinstance(admitted, Refusal):
            self._refused(number, now, admitted.cause)
            return
        admitted.payload = number
        scheduler.queue(admitted, now, rows)
        if len(self._running) < self._slots or priority is not None:
            self._dispatch(now)

    def until(self, now: float) -> None:
        """End every inference that is over at `now`, in order, each followed by what can then start."""
        running, scheduler = self._running, self.scheduler
        while True:
            ends = running[0][0] if running else inf
            woken = scheduler.wake_at
            if woken < ends and woken <= now:
                if woken >= self._next_tick:
                    self._tick(woken)
                self._dispatch(woken)
            elif ends <= now and running:
                self._end()
            else:
                break
        if now < inf:
            assert now >= self.now, "arrivals are in ascending order, from 0"
            self.now = now
            if now >= self._next_tick:
                self._tick(now)

    def _end(self) -> None:
        ended, _, batch = heapq.heappop(self._running)
        if ended >= self._next_tick:
            self._tick(ended)
        self.scheduler.finish(batch, ended)
        self._answered(batch, ended)
        if self.scheduler.queued:
            self._dispatch(ended, beside=0)

    def _tick(self, now: float) -> None:
        """Drop what is late as the runner's clockwork would have, each at its tick; nothing else happened meanwhile."""
        last = now // TICK_S * TICK_S
        for ticket in self.scheduler.expire(last):
            self._dropped(ticket, min(last, max(ticket.arrived, ceil(ticket.deadline / TICK_S) * TICK_S)))
        self._next_tick = last + TICK_S

    def _dispatch(self, now: float, beside: int | None = None) -> None:
        """Start what can be started; `beside` is said of what starts while nothing runs."""
        scheduler = self.scheduler
        while True:
            batch, dropped = scheduler.next_batch(now)
            for ticket in dropped:
                self._dropped(ticket, now)
            if batch is None:
                return
            ends = now + self._service_s(self._starts, batch.rows, len(self._running) or beside)
            heapq.heappush(self._running, (ends, self._starts, batch))
            self._starts += 1
            if len(self._running) >= self._slots:
                return

    # What becomes of requests.

    def _answered(self, batch: Batch, now: float) -> None:
        for ticket in batch.tickets:
            self.fates[ticket.payload] = Fate(ticket.arrived, ticket.started, now, None)

    def _refused(self, number: int, now: float, cause: Cause) -> None:
        self.fates[number] = Fate(now, None, now, cause)

    def _dropped(self, ticket: Ticket, now: float) -> None:
        self.fates[ticket.payload] = Fate(ticket.arrived, None, now, ticket.cause)


class _Misses(Run):
    """A simulation that only counts who is not answered within `latency_s`."""

    def __init__(self, scheduler: Scheduler, service_s: ServiceTimes, latency_s: float) -> None:
        super().__init__(scheduler, service_s)
        self.count = 0
        self._latency_s = latency_s

    def _answered(self, batch: Batch, now: float) -> None:
        for ticket in batch.tickets:
            if now - ticket.arrived > self._latency_s:
                self.count += 1

    def _refused(self, *_: object) -> None:
        self.count += 1

    def _dropped(self, *_: object) -> None:
        self.count += 1
