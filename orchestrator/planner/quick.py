"""Who is late at a rate, ten times sooner than the scheduler itself would tell: the pool as some lines of arithmetic.

First come first served by the slot that is free first, whatever waits in one batch; who finds the queue full or would
not be answered in time is refused. What the scheduler learns meanwhile, ticks, and who joins a batch while the queue is
full, are left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapreplace


@dataclass(frozen=True, slots=True)
class Times:
    """The service time of each inference, by its number and by how many others run when it starts, in seconds."""

    alone: Sequence[float]
    """Of one that finds the pool idle."""
    busy: Sequence[float]
    """With all slots taken."""
    meets: Sequence[float]
    """Whether an inference beside some of the others takes as long as beside none, or as beside all."""
    others: int
    """Slots but its own."""
    streams: Sequence[float] = ()
    """With all streams taken, where one slot more only waits; empty where there is none."""

    def __call__(self, number: int, _rows: int, beside: int | None) -> float:
        """Return the seconds; beside some of the others it is that of a busy one about as often as those are."""
        if beside is None:
            return self.alone[number]
        if beside >= self.others:
            return self.busy[number]
        if not beside:
            return self.alone[number]
        if self.streams:
            return (self.streams if beside > self.meets[number] * (self.others - 1) else self.alone)[number]
        return (self.busy if beside > self.meets[number] * self.others else self.alone)[number]


@dataclass(frozen=True, slots=True)
class Pool:
    """What of a pool decides who is late. `slow`: by what service times are multiplied."""

    slots: int
    rows: int
    queue: int
    latency_s: float
    longest_wait_s: float
    slow: float = 1.0


def missed(pool: Pool, arrived: Sequence[float], times: Times, most: int) -> int:
    """Return how many are late or refused, at least; no more are looked at once it is more than `most`."""
    count = _one_by_one if pool.rows == 1 else _in_batches
    return count(pool, arrived, times, most)


def _one_by_one(pool: Pool, arrived: Sequence[float], times: Times, most: int) -> int:
    busy, latency_s, longest_wait_s, slow = times.busy, pool.latency_s, pool.longest_wait_s, pool.slow
    lone = _lone(pool, times)
    free = [0.0] * pool.slots
    waiting = _starts(pool, arrived)
    started = late = 0
    for at in arrived:
        start = free[0]
        if start <= at:
            seconds = lone(started, at, free)
            heapreplace(free, at + seconds)
        elif start - at > longest_wait_s or not waiting or waiting[0] > at:
            late += 1
            if late > most:
                break
            continue
        else:
            waiting.append(start)
            end = start + slow * busy[started]
            heapreplace(free, end)
            seconds = end - at
        started += 1
        if seconds > latency_s:
            late += 1
            if late > most:
                break
    return late


def _in_batches(pool: Pool, arrived: Sequence[float], times: Times, most: int) -> int:
    busy, latency_s, longest_wait_s, slow, rows = times.busy, pool.latency_s, pool.longest_wait_s, pool.slow, pool.rows
    lone = _lone(pool, times)
    free = [0.0] * pool.slots
    waiting = _starts(pool, arrived)
    first = started = late = 0
    count = len(arrived)
    while first < count and late <= most:
        at, start = arrived[first], free[0]
        if start <= at:
            first += 1
            seconds = lone(started, at, free)
            heapreplace(free, at + seconds)
            late += seconds > latency_s
        elif start - at > longest_wait_s or not waiting or waiting[0] > at:
            late += 1
            first += 1
            continue
        else:
            last = min(count, first + rows)
            end = start + slow * busy[started]
            while first < last and arrived[first] <= start:
                late += end - arrived[first] > latency_s
                waiting.append(start)
                first += 1
            heapreplace(free, end)
        started += 1
    return late


def _lone(pool: Pool, times: Times) -> Callable[[int, float, Sequence[float]], float]:
    """Return what gives the seconds of an inference that finds a slot free, by how many of the others run."""
    slow, alone, busy = pool.slow, times.alone, times.busy
    if pool.slots == 1:
        return lambda number, _at, _free: slow * alone[number]
    if pool.slots == 2:
        return lambda number, at, free: slow * (busy if free[1] > at else alone)[number]
    return lambda number, at, free: slow * times(number, 1, sum([ends > at for ends in free]) or None)


def _starts(pool: Pool, arrived: Sequence[float]) -> deque[float]:
    """Return where the starts of the last who waited are kept, as many as may wait: the first of them tells who may."""
    places = min(pool.queue, len(arrived))
    return deque([0.0] * places, maxlen=places)
