"""Simulate several pools that share one machine's cores: each its own scheduler, all their inferences on the cores.

What is simplified, on purpose: an inference computes on as many cores as its stream has threads; while more threads
compute than there are cores, the kernel shares them evenly, so that a stream of one thread slows down by threads over
cores, and one of several, which waits at every layer for its slowest thread, by that rounded up. Who computes beside
others is slower by `beside`, the same for every neighbour. The front ends' CPU time shortens the cores while all are
taken, and callers that wait for their answers ask again through it, one after the other.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from orchestrator.planner.capacity import Need
from orchestrator.scheduling.arrivals import arrivals
from orchestrator.scheduling.bound import queue_bound
from orchestrator.scheduling.scheduler import Batch, Limits, Refusal, Scheduler
from orchestrator.scheduling.simulate import TICK_S, Fate

DONE = 1e-12  # seconds of computing that are none: what rounding leaves
CALLERS_MAX = 4096  # simulated: more than any queue takes
ASKED_MAX = 4  # times what a pool can serve: of callers who ask more most are refused, and nothing else is to be learnt
FRONT_END_MAX = 0.5  # of the cores: more a fair kernel would not give the front ends


@dataclass(frozen=True, slots=True)
class Stream:
    """How one model computes: so many streams, each of so many threads."""

    streams: int
    threads: int
    alone_s: tuple[float, ...]
    """Service times of inferences beside which nothing computed."""
    beside: float = 1.0
    """By what they are longer while other cores compute, memory and caches being shared."""
    rows: int = 1
    """Requests that one inference takes at most; it computes all rows, however few are asked."""

    @property
    def rows_per_s(self) -> float:
        """Return the requests a second that it serves when no stream is ever idle."""
        return self.streams * self.rows * len(self.alone_s) / math.fsum(self.alone_s) / self.beside


@dataclass(frozen=True, slots=True)
class Load:
    """What one model is asked, and how it computes."""

    stream: Stream
    need: Need
    rate_per_s: float
    """Of the arrivals; says nothing of closed callers, who bring what they reach."""
    seed: int

    @property
    def callers(self) -> int:
        """Return how many wait for their answers, 0 where requests come by themselves."""
        return min(CALLERS_MAX, self.need.callers or 1) if self.need.arrivals == "closed" else 0

    @property
    def most_per_s(self) -> float:
        """Return the arrivals, of closed callers the most that are ever answered."""
        return most_per_s(self.need, self.stream) if self.callers else self.rate_per_s


def most_per_s(need: Need, stream: Stream) -> float:
    """Return how many answers a second closed callers reach at most."""
    return min(need.callers or 1, stream.streams * stream.rows) * len(stream.alone_s) / math.fsum(stream.alone_s)


def crowd(
    loads: Sequence[Load], cpus: int, seconds: float, *, front_end_s: float = 0.0
) -> tuple[tuple[Fate, ...], ...]:
    """Return for each load the fates of the requests that arrive within so many seconds, in order of arrival.

    Closed callers each ask again when they are answered; who was refused, when the pool says.
    """
    return _Crowd(loads, cpus, front_end_s).run(seconds)


class _Job:
    """One inference under way, by what it has still to compute."""

    __slots__ = ("batch", "left_s", "load")

    def __init__(self, load: int, batch: Batch, left_s: float) -> None:
        self.load = load
        self.batch = batch
        self.left_s = left_s


class _Crowd:
    """One simulation."""

    def __init__(self, loads: Sequence[Load], cpus: int, front_end_s: float) -> None:
        self._loads = loads
        self._cpus = cpus
        taken = min(FRONT_END_MAX * cpus, front_end_s * sum(load.most_per_s for load in loads))
        self._stall = cpus / (cpus - taken)
        self._front_end_s = front_end_s
        self._callers = [load.callers for load in loads]
        self._ready = [(0.0, load) for load, callers in enumerate(self._callers) for _ in range(callers)]
        """A heap of when which load's callers ask again."""
        self._in_at = 0.0
        """When the front end has taken in all that asked again."""
        self._stop_s = 0.0
        self._asked_max = [0.0 for _ in loads]
        self._pools = [_scheduler(load) for load in loads]
        self._chances = [Random(load.seed).random for load in loads]
        self._jobs: list[_Job] = []
        self._threads = 0
        self._slow_by: dict[int, list[float]] = {}
        self._slow = [1.0] * len(loads)
        self._now = 0.0
        self._next_tick = TICK_S
        self._fates: list[dict[int, Fate]] = [{} for _ in loads]
        self._numbers = [0] * len(loads)

    def run(self, seconds: float) -> tuple[tuple[Fate, ...], ...]:
        """Let everything arrive, and end."""
        self._stop_s = seconds
        self._asked_max = [load.callers + ASKED_MAX * load.most_per_s * seconds for load in self._loads]
        schedules = []
        for load, one in enumerate(self._loads):
            if one.need.arrivals == "closed":
                continue
            count = max(1, math.ceil(one.rate_per_s * seconds))
            schedules += [(at, load) for at in arrivals(one.need.arrivals, one.rate_per_s, count, one.seed)]
        for at, load in sorted(schedules):
            self._until(at)
            self._arrive(load, at)
        self._until(inf)
        return tuple(tuple(fates[number] for number in sorted(fates)) for fates in self._fates)

    def _arrive(self, load: int, now: float) -> None:
        pool = self._pools[load]
        number = self._numbers[load]
        self._numbers[load] = number + 1
        admitted = pool.admit(now, deadline=now + self._loads[load].need.timeout_s)
        if isinstance(admitted, Refusal):
            self._fated(load, number, Fate(now, None, now, admitted.cause))
            return
        admitted.payload = number
        pool.queue(admitted, now)
        self._dispatch(load)

    def _fated(self, load: int, number: int, fate: Fate) -> None:
        """Note what became of a request; the caller that waited for it will ask again."""
        self._fates[load][number] = fate
        if not self._callers[load]:
            return
        if fate.cause is None:
            again = self._in_at = max(self._in_at, self._now) + self._front_end_s
        else:
            again = max(self._now, fate.ended) + self._pools[load].retry_after_s(self._now)
        if again < self._stop_s and self._numbers[load] < self._asked_max[load]:
            heapq.heappush(self._ready, (again, load))

    def _until(self, until: float) -> None:
        """Compute until then; each inference that ends makes room for the next of its pool."""
        slow, ready = self._slow, self._ready
        while self._jobs or ready:
            first, ends_in = None, inf
            for job in self._jobs:
                left = job.left_s * slow[job.load]
                if left < ends_in:
                    first, ends_in = job, left
            ends = self._now + ends_in
            if ready and ready[0][0] <= min(ends, until):
                self._ask()
            elif first is None or ends > until:
                break
            else:
                self._compute(ends)
                first.left_s = 0.0
                self._end_jobs()
            slow = self._slow
        if until < inf:
            self._compute(until)
            if until >= self._next_tick:
                self._tick()

    def _ask(self) -> None:
        """Let the next closed caller ask."""
        at, load = heapq.heappop(self._ready)
        self._compute(max(at, self._now))
        if self._now >= self._next_tick:
            self._tick()
        self._arrive(load, self._now)

    def _compute(self, until: float) -> None:
        passed, self._now = until - self._now, until
        slow = self._slow
        for job in self._jobs:
            job.left_s -= passed / slow[job.load]

    def _end_jobs(self) -> None:
        now = self._now
        if now >= self._next_tick:
            self._tick()
        ended = [job for job in self._jobs if job.left_s <= DONE]
        for job in ended:
            self._jobs.remove(job)
            self._threads -= self._loads[job.load].stream.threads
            self._pools[job.load].finish(job.batch, now)
            for ticket in job.batch.tickets:
                self._fated(job.load, ticket.payload, Fate(ticket.arrived, ticket.started, now, None))
            self._dispatch(job.load)
        self._share_cores()

    def _tick(self) -> None:
        self._next_tick = self._now // TICK_S * TICK_S + TICK_S
        for load, pool in enumerate(self._pools):
            if not pool.queued:
                continue
            for ticket in pool.expire(self._now):
                self._fated(load, ticket.payload, Fate(ticket.arrived, None, self._now, ticket.cause))

    def _dispatch(self, load: int) -> None:
        pool, one = self._pools[load], self._loads[load].stream
        while pool.queued and pool.in_flight < one.streams:
            batch, dropped = pool.next_batch(self._now)
            for ticket in dropped:
                self._fated(load, ticket.payload, Fate(ticket.arrived, None, self._now, ticket.cause))
            if batch is None:
                return
            left_s = one.alone_s[int(self._chances[load]() * len(one.alone_s))]
            self._jobs.append(_Job(load, batch, left_s))
            self._threads += one.threads
            self._share_cores()

    def _share_cores(self) -> None:
        """Set by what the inferences of each load are slower now than alone."""
        slow = self._slow_by.get(self._threads)
        if slow is None:
            slow = self._slow_by[self._threads] = [self._slower(one.stream) for one in self._loads]
        self._slow = slow

    def _slower(self, stream: Stream) -> float:
        threads, mine = self._threads, stream.threads
        crowding = max(1.0, threads / self._cpus)
        stall = self._stall if threads >= self._cpus else 1.0
        slow = crowding if mine == 1 else math.ceil(crowding - 1e-9)
        return slow * stall * (stream.beside if threads > mine else 1.0)


def _scheduler(load: Load) -> Scheduler:
    stream = load.stream
    expected_s = math.fsum(stream.alone_s) / len(stream.alone_s) * stream.beside
    need, rows = load.need, stream.rows
    queue = queue_bound(stream.streams * rows, rows, expected_s, slo_latency_s=need.latency_s, limit=need.queue_limit)
    limits = Limits(stream.streams, rows, queue, share=need.share)
    return Scheduler(limits, service_s=expected_s)
