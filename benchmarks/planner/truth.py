"""What an arm of the table really carries: the pool simulated over raw samples, independent of the planner's figures.

The pool is the one of scheduling/simulate.py without bounds (tests/benchmarks hold the two equal): first come first
served, whatever waits when a slot is free goes in one batch. Each inference takes a measured time drawn by how many
run when it starts; the planner knows less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from math import ceil, sqrt
from random import Random
from typing import Final

from benchmarks.planner.table import Entry, Row
from orchestrator.scheduling.arrivals import Arrivals, gaps, scaled

REQUESTS: Final = 20_000
LOAD_MAX: Final = 0.95  # of the throughput: a finite run cannot tell whether a queue above it would ever end
STEP: Final = 1.004  # the rates that are told apart
SEED: Final = 77_001  # the planner draws its arrivals from others


@dataclass(frozen=True)
class Slo:
    """What the callers need."""

    latency_s: float
    percentile: float = 99.0
    arrivals: Arrivals = "poisson"

    @property
    def miss_max(self) -> float:
        """Return the share of requests that may be late."""
        return 1 - self.percentile / 100 + 1e-12


@dataclass(frozen=True)
class Candidate:
    """A row of the table with a number of requests: what a planner chooses."""

    row: Row
    requests: int

    @property
    def key(self) -> tuple[str, int]:
        """Return what tells candidates of a model apart."""
        return (self.row.arm.key, self.requests)

    @property
    def name(self) -> str:
        """Return the name for people."""
        return f"{self.row.arm.name}, {self.requests} request{'s' * (self.requests > 1)}"

    @property
    def most_per_s(self) -> float:
        """Return requests a second with all slots taken and full batches."""
        services = self.row.services(self.requests)
        return self.requests * self.row.arm.batch * len(services) / sum(services)


def candidates(entry: Entry) -> list[Candidate]:
    """Return everything that may be chosen for a model."""
    return [Candidate(row, requests) for row in entry.rows for requests in row.requests]


def latencies(
    arrivals: Sequence[float], services: Sequence[Sequence[float]], places: Sequence[float], rows: int
) -> list[float]:
    """Return the seconds from arrival to answer of each request.

    `services[k]` are the sorted service times of an inference that starts as the (k+1)-th under way, for each slot;
    `places` (0 to 1) say where among them the n-th inference stands.
    """
    free = [0.0] * len(services)
    answers: list[float] = []
    index, number, count = 0, 0, len(arrivals)
    while index < count:
        start = max(free[0], arrivals[index])
        end = index + 1
        while end < count and end - index < rows and arrivals[end] < start:
            end += 1
        under_way = sum(busy > start for busy in free)
        samples = services[under_way]
        done = start + samples[int(places[number] * len(samples))]
        heapreplace(free, done)
        answers += [done - arrived for arrived in arrivals[index:end]]
        index, number = end, number + 1
    return answers


def levels(candidate: Candidate) -> list[list[float]]:
    """Return the sorted service times of an inference that starts as the first, second, ... under way."""
    measured = sorted({block.concurrency for block in candidate.row.blocks})
    nearest = [measured[min(bisect_left(measured, n), len(measured) - 1)] for n in range(1, candidate.requests + 1)]
    return [sorted(candidate.row.services(level)) for level in nearest]


class Truth:
    """The capacities of one model's candidates under one SLO."""

    def __init__(self, entry: Entry, slo: Slo, count: int = REQUESTS) -> None:
        self.entry = entry
        self.slo = slo
        chance = Random(SEED)
        self._places = [chance.random() for _ in range(count)]
        self._gaps = gaps(slo.arrivals, count, SEED + 1)
        self._known: dict[tuple[str, int], float] = {}

    def latencies(self, candidate: Candidate, rate_per_s: float) -> list[float]:
        """Return the latency of each request at a rate."""
        arrivals = scaled(self._gaps, rate_per_s)
        return latencies(arrivals, levels(candidate), self._places, candidate.row.arm.batch)

    def holds(self, candidate: Candidate, rate_per_s: float) -> bool:
        """Tell whether the SLO holds at a rate."""
        taken = self.latencies(candidate, rate_per_s)
        return sum(latency > self.slo.latency_s for latency in taken) / len(taken) <= self.slo.miss_max

    def capacity(self, candidate: Candidate) -> float:
        """Return the largest rate that holds, requests a second; 0 where none above a thousandth of the most does.

        The candidate's own samples do not count, only this truth's: planners may have seen others.
        """
        if candidate.key not in self._known:
            row = next(row for row in self.entry.rows if row.arm.key == candidate.row.arm.key)
            self._known[candidate.key] = self._search(replace(candidate, row=row))
        return self._known[candidate.key]

    def _search(self, candidate: Candidate) -> float:
        high = LOAD_MAX * candidate.most_per_s
        low = high / 1000
        if not self.holds(candidate, low):
            return 0.0
        if self.holds(candidate, high):
            return high
        while high / low > STEP:
            middle = sqrt(low * high)
            low, high = (middle, high) if self.holds(candidate, middle) else (low, middle)
        return low

    def best(self) -> tuple[Candidate, float]:
        """Return the oracle's choice and its capacity: nothing in the table carries more."""
        ordered = sorted(candidates(self.entry), key=lambda candidate: -candidate.most_per_s)
        best, most = ordered[0], self.capacity(ordered[0])
        for candidate in ordered[1:]:
            hopeless = candidate.most_per_s * LOAD_MAX <= most or (most > 0 and not self.holds(candidate, most))
            if not hopeless and self.capacity(candidate) > most:
                best, most = candidate, self.capacity(candidate)
        return best, most


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least this share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[max(1, ceil(share * len(ordered))) - 1]


def floor_s(entry: Entry, percentile: float = 99.0) -> float:
    """Return the lowest latency at the percentile that any arm reaches when nothing else is asked of it."""
    return min(quantile(row.services(1), percentile / 100) for row in entry.rows)
