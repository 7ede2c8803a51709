"""Let millions of requests through the pool's scheduler on a virtual clock, and check what must hold of every one.

    python -m benchmarks.scheduler_soak --arrivals 3000000

Part one is disorder: random limits, loads, classes, timeouts, bodies that come late, callers that leave, inferences
that fail, a device whose pace changes. After every step the scheduler's account is compared with an account kept
here. Part two is overload: what is answered in time at 1.5, 2 and 5 times what the device can do, how late the slowest
percent of the answers is, and what each class gets.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, product
from math import inf
from random import Random
from typing import Final

from orchestrator.scheduling.bound import queue_bound
from orchestrator.scheduling.scheduler import Batch, Cause, Limits, Priority, Refusal, Scheduler, State, Ticket
from orchestrator.scheduling.simulate import TICK_S, simulate

CELL: Final = 20_000  # arrivals for one set of limits
GOODPUT: Final = {1.5: 0.95, 2.0: 0.92, 5.0: 0.80}  # of what the device can do, by the load
LATEST: Final = 1.05  # of the SLO: the 99th percentile of the answered
LEAST_SHARE: Final = 0.045  # of the service, for a class with demand


@dataclass
class Disorder:
    """One cell: a scheduler, a device, callers, and the account that is kept of them."""

    dice: Random
    limits: Limits
    service_s: float
    load: float
    slow_bodies: bool
    ends: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, service_s=self.dice.choice([None, self.service_s]))
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0
        self.alive: dict[Ticket, float] = {}  # by how long it may take to start
        self.running: set[Batch] = set()
        self.lines: dict[tuple[Priority, float], deque[Ticket]] = {}
        self.pace = 1.0
        self.tick_at = TICK_S

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what))

    def run(self, arrivals: int) -> Counter[str]:
        """Let so many requests come, and all of them end."""
        rate = self.load * self.limits.slots * (1 + (self.limits.rows - 1) * 0.5) / self.service_s
        self.left = arrivals
        self.at(0.0, lambda: self.come(rate))
        while self.events or self.alive:
            wake = self.scheduler.wake_at
            if self.events and self.events[0][0] <= min(wake, self.tick_at):
                self.now, _, what = heapq.heappop(self.events)
                what()
            elif wake <= self.tick_at:
                self.now = wake
                self.dispatch()
            else:
                self.now, self.tick_at = self.tick_at, self.tick_at + TICK_S
                self.dropped(self.scheduler.expire(self.now))
                self.dispatch()
        assert self.scheduler.idle, "something is left over"
        assert self.scheduler.held_bytes == 0
        assert sum(self.ends.values()) == arrivals, "an answer was lost"
        return self.ends

    def come(self, rate: float) -> None:
        """Let one request come, and the next one later."""
        dice, scheduler = self.dice, self.scheduler
        self.left -= 1
        if self.left:
            burst = dice.random() < 0.3
            self.at(self.now + (0.0 if burst else dice.expovariate(rate * 0.7)), lambda: self.come(rate))
        if dice.random() < 0.0005:
            self.pace = dice.choice([0.5, 1.0, 1.0, 3.0])
        timeout_s = dice.choice([self.limits.slo_s if self.limits.slo_s < inf else 1.0, 20 * self.service_s])
        priority = dice.choice([None, *Priority])
        idle = scheduler.idle
        answer = scheduler.admit(self.now, deadline=self.now + timeout_s, nbytes=dice.randint(0, 9), priority=priority)
        if isinstance(answer, Refusal):
            assert not idle, "refused by an idle pool"
            assert answer.retry_after_s > 0
            self.ends[answer.cause.name] += 1
        else:
            self.alive[answer] = timeout_s
            if self.slow_bodies and dice.random() < 0.2:
                self.at(self.now + dice.expovariate(1 / self.service_s), lambda: self.arrived(answer))
            else:
                self.arrived(answer)
            if dice.random() < 0.02:
                self.at(self.now + dice.expovariate(1 / self.service_s), lambda: self.leave(answer))
        self.dispatch()

    def arrived(self, ticket: Ticket) -> None:
        """Bring a request's data."""
        rows = min(self.limits.rows, 1 + int(self.dice.expovariate(1.5)))
        if self.scheduler.queue(ticket, self.now, rows):
            self.lines.setdefault((ticket.priority, self.alive[ticket]), deque()).append(ticket)
            self.dispatch()

    def leave(self, ticket: Ticket) -> None:
        """Have a caller go away."""
        if ticket in self.alive and self.scheduler.cancel(ticket):
            self.end(ticket, "CANCELLED")

    def dispatch(self) -> None:
        """Start what can be started."""
        scheduler = self.scheduler
        while True:
            batch, dropped = scheduler.next_batch(self.now)
            self.dropped(dropped)
            if batch is None:
                break
            self.started(batch)
        free = scheduler.in_flight < self.limits.slots
        assert not (free and scheduler.queued) or scheduler.wake_at > self.now, "a free slot and something waits"
        assert scheduler.wake_at == inf or self.limits.gather_s > 0
        assert scheduler.in_flight == len(self.running) <= self.limits.slots, "more in flight than slots"

    def started(self, batch: Batch) -> None:
        """Check a batch, and let it end some time."""
        assert 0 < batch.rows <= self.limits.rows
        for ticket in batch.tickets:
            assert ticket.deadline > self.now, "late work was started"
            if not self.slow_bodies:
                line = self.lines[ticket.priority, self.alive[ticket]]
                while line[0].state is State.DONE:
                    line.popleft()
                assert line.popleft() is ticket, "an equal was overtaken"
        self.running.add(batch)
        spread = self.dice.choice([0.9, 1.0, 1.1, 1.0, 1.0])
        takes = self.service_s * self.pace * spread * (1 + 0.1 * (batch.rows - 1))
        self.at(self.now + takes, lambda: self.finished(batch))

    def finished(self, batch: Batch) -> None:
        """End a batch, well or not."""
        self.running.remove(batch)
        good = self.dice.random() > 0.01
        self.scheduler.finish(batch, self.now, good=good)
        for ticket in batch.tickets:
            self.end(ticket, "answered" if good else "failed")
        self.dispatch()

    def dropped(self, tickets: list[Ticket]) -> None:
        """Check what the scheduler dropped."""
        for ticket in tickets:
            assert ticket.cause is not None
            assert ticket.cause is not Cause.EXPIRED or ticket.deadline <= self.now
            self.end(ticket, ticket.cause.name)

    def end(self, ticket: Ticket, how: str) -> None:
        """Account for an end."""
        allowed_s = self.alive.pop(ticket)  # a KeyError here: answered twice
        longest = allowed_s + TICK_S + 10 * self.service_s * self.limits.rows
        assert self.now - ticket.arrived <= longest, "an admitted request starved"
        self.ends[how] += 1


def disorders(seed: int) -> Iterator[Disorder]:
    """Return cells without end, none like another."""
    dice = Random(seed)
    while True:
        service_s = dice.choice([0.0003, 0.0025, 0.04])
        rows = dice.choice([1, 1, 1, 4, 8])
        sizes = (1, rows) if rows > 1 and dice.random() < 0.5 else ()
        slots = dice.choice([1, 2, 2, 4])
        slo_s = dice.choice([inf, 4 * service_s, 24 * service_s, 200 * service_s])
        queue = queue_bound(slots * rows, rows, service_s, slo_latency_s=None if slo_s == inf else slo_s)
        limits = Limits(
            slots,
            rows,
            queue,
            dice.choice([60, 10_000, 10_000, 10_000]),
            slo_s=slo_s,
            sizes=sizes,
            gather_s=dice.choice([0.0, 0.0, service_s]) if rows > 1 else 0.0,
            priority=dice.choice(list(Priority)),
        )
        yield Disorder(Random(dice.random()), limits, service_s, dice.choice([0.6, 1.0, 2.0, 5.0]), dice.random() < 0.5)


@dataclass(frozen=True)
class Overload:
    """A device and an SLO."""

    name: str
    service_s: float
    slots: int
    slo_s: float
    times: Callable[[Random], float]
    """Draws a service time, in means."""


def _narrow(dice: Random) -> float:
    return dice.uniform(0.9, 1.1)


def _normal(dice: Random) -> float:
    return max(0.5, dice.gauss(1, 0.1))


def _tailed(dice: Random) -> float:
    return 0.96 * (dice.lognormvariate(0, 0.1) if dice.random() > 0.01 else 4.0)


OVERLOADS: Final = (
    Overload("2.5 ms, 1 slot, SLO 60 ms", 0.0025, 1, 0.06, _narrow),
    Overload("2.5 ms, 2 slots, SLO 60 ms", 0.0025, 2, 0.06, _normal),
    Overload("40 ms, 2 slots, SLO 200 ms", 0.04, 2, 0.2, _normal),
    Overload("0.3 ms, 1 slot, SLO 60 ms", 0.0003, 1, 0.06, _tailed),
    Overload("0.3 ms, 2 slots, SLO 10 ms", 0.0003, 2, 0.01, _narrow),
)


@dataclass(frozen=True)
class Kept:
    """What was kept: goodput of what the device can do, 99th percentile of the SLO, seconds until well again."""

    goodput: float
    p99: float
    recovery_s: float


def overload(case: Overload, load: float, count: int, seed: int = 1) -> Kept:
    """Return what is kept at a load; afterwards half of what the device can do comes for as long."""
    dice = Random(seed)
    most_per_s = case.slots / case.service_s
    heavy = list(accumulate(dice.expovariate(load * most_per_s) for _ in range(count)))
    light = list(accumulate((dice.expovariate(0.5 * most_per_s) for _ in range(count // 4)), initial=heavy[-1]))
    fates = simulate(heavy + light[1:], _device(case, seed), limits(case), timeout_s=case.slo_s)
    settled = fates[count // 10 : count]
    answered = sorted(fate.latency_s for fate in settled if fate.cause is None)
    good = sum(latency <= case.slo_s for latency in answered)
    span = heavy[-1] - heavy[count // 10]
    bad = [fate.arrived for fate in fates[count:] if fate.cause is not None or fate.latency_s > case.slo_s]
    well = (max(bad) if len(bad) > 0.01 * len(light) else max(bad[: len(bad) // 2], default=heavy[-1])) - heavy[-1]
    return Kept(good / span / most_per_s, answered[int(0.99 * len(answered))] / case.slo_s, well)


def shares(case: Overload, load: float, count: int, own: Priority, seed: int = 1) -> dict[Priority, float]:
    """Return what part of what the device can do each class gets in time; each asks for `load` times all."""
    dice = Random(seed)
    classes = [priority for priority in Priority if priority >= own]
    most_per_s = case.slots / case.service_s
    times = list(accumulate(dice.expovariate(load * len(classes) * most_per_s) for _ in range(count)))
    named = [dice.choice(classes) for _ in times]
    fates = simulate(
        times, _device(case, seed), limits(case, own), timeout_s=case.slo_s, priority=lambda number: named[number]
    )
    found: Counter[Priority] = Counter()
    for fate, priority in list(zip(fates, named, strict=True))[count // 10 :]:
        found[priority] += fate.cause is None and fate.latency_s <= case.slo_s
    return {each: found[each] / (times[-1] - times[count // 10]) / most_per_s for each in classes}


def limits(case: Overload, own: Priority = Priority.DEFAULT) -> Limits:
    """Return the limits that a pool of such a model has."""
    queue = queue_bound(case.slots, 1, case.service_s, slo_latency_s=case.slo_s)
    return Limits(case.slots, 1, queue, slo_s=case.slo_s, priority=own)


def _device(case: Overload, seed: int) -> Callable[[int, int, int], float]:
    dice = Random(seed + 1)
    return lambda _number, _rows, _beside: case.service_s * case.times(dice)


def main() -> int:
    """Run both parts, and tell; 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arrivals", type=int, default=1_000_000, help="in all; four fifths of them in disorder")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began, done, ends = time.monotonic(), 0, Counter[str]()
    for cell in disorders(asked.seed):
        count = min(CELL, asked.arrivals * 4 // 5 - done)
        if count <= 0:
            break
        ends += cell.run(count)
        done += count
    print(f"disorder: {done} arrivals, every property held; {time.monotonic() - began:.0f} s")
    print("  " + ", ".join(f"{how} {number}" for how, number in sorted(ends.items())))
    each = max(5000, asked.arrivals // 5 // (len(OVERLOADS) * (len(GOODPUT) + 1)))
    missed = 0
    print(f"overload: {each} arrivals each; goodput of what the device can do, p99 of the answered of the SLO")
    for case, load in product(OVERLOADS, GOODPUT):
        kept = overload(case, load, each, asked.seed)
        wrong = kept.goodput < GOODPUT[load] or kept.p99 > LATEST or kept.recovery_s > 1
        missed += wrong
        print(
            f"  {case.name:28s} x {load:<4g} goodput {kept.goodput:.3f}  p99 {kept.p99:.3f}  well after"
            f" {kept.recovery_s:.2f} s{'  MISSED' if wrong else ''}"
        )
    for case in OVERLOADS:
        got = shares(case, 1.5, each, Priority.CRITICAL, asked.seed)
        wrong = min(got.values()) < LEAST_SHARE
        missed += wrong
        text = ", ".join(f"{priority.name.lower()} {share:.3f}" for priority, share in got.items())
        print(f"  {case.name:28s} each class asks 1.5 times all: {text}{'  MISSED' if wrong else ''}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
