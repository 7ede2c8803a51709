"""What an arm of the table really carries: the pool simulated over raw samples, independent of the planner's figures.

The pool is the one of scheduling/simulate.py without bounds (tests/benchmarks hold the two equal): first come first
served, whatever waits when a slot is free goes in one batch, and who could not be answered in time is refused. Each
inference takes a measured time drawn by how many run when it starts, or by what it takes after a pause where it finds
the pool idle; the planner knows less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from math import ceil, inf, sqrt
from random import Random
from statistics import mean, stdev
from typing import Final

from benchmarks.planner.table import Entry, Row
from orchestrator.scheduling.arrivals import Arrivals, gaps, scaled

# Late requests come in clumps: 20 000 tell their share, and so a capacity, to some 4 %, 100 000 to 2 %.
REQUESTS: Final = 100_000
COARSE: Final = 20_000
COARSE_ERROR: Final = 1.2  # a capacity by the coarse run is not further off than this
RESAMPLED: Final = 6
LOAD_MAX: Final = 0.95  # of the throughput: a finite run cannot tell whether a queue above it would ever end
FRONT_END_S: Final = 0.0002  # of one event loop for each request: nothing served carries more than one over it
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
    arrivals: Sequence[float],
    services: Sequence[Sequence[float]],
    places: Sequence[float],
    rows: int,
    patience_s: float = inf,
    idle: Sequence[float] = (),
) -> list[float]:
    """Return the seconds from arrival to answer of each request.

    `services[k]` are the sorted service times of an inference that starts as the (k+1)-th under way, for each slot;
    `idle` those of one that finds the pool idle (the same as `services[0]` where it is empty);
    `places` (0 to 1) say where among them the n-th inference stands. Who would wait for longer than `patience_s` is
    refused, as the pool refuses whom it cannot answer within the SLO: infinitely late.
    """
    rested = idle or services[0]
    if rows == 1:
        return _one_by_one(arrivals, services, places, patience_s, rested)
    free = [0.0] * len(services)
    answers: list[float] = []
    index, number, count = 0, 0, len(arrivals)
    while index < count:
        start = max(free[0], arrivals[index])
        if start > arrivals[index] and start - arrivals[index] > patience_s:
            answers.append(inf)
            index += 1
            continue
        end = index + 1
        while end < count and end - index < rows and arrivals[end] < start:
            end += 1
        under_way = sum(busy > start for busy in free)
        samples = services[under_way] if under_way or start > arrivals[index] else rested
        done = start + samples[int(places[number] * len(samples))]
        heapreplace(free, done)
        answers += [done - arrived for arrived in arrivals[index:end]]
        index, number = end, number + 1
    return answers


def _one_by_one(
    arrivals: Sequence[float],
    services: Sequence[Sequence[float]],
    places: Sequence[float],
    patience_s: float,
    rested: Sequence[float],
) -> list[float]:
    free = [0.0] * len(services)
    answers: list[float] = []
    others = range(1, len(free))
    for arrived, place in zip(arrivals, places, strict=True):
        start = max(arrived, free[0])
        if start > arrived and start - arrived > patience_s:
            answers.append(inf)
            continue
        under_way = 0
        for slot in others:
            under_way += free[slot] > start
        samples = services[under_way] if under_way or start > arrived else rested
        done = start + samples[int(place * len(samples))]
        heapreplace(free, done)
        answers.append(done - arrived)
    return answers


def patience_s(candidate: Candidate, slo: Slo) -> float:
    """Return the longest wait after which an answer is still expected within the SLO."""
    return slo.latency_s - mean(levels(candidate)[-1])


def levels(candidate: Candidate) -> list[list[float]]:
    """Return the sorted service times of an inference that starts as the first, second, ... under way."""
    measured = sorted({block.concurrency for block in candidate.row.blocks if not block.paced})
    nearest = [measured[min(bisect_left(measured, n), len(measured) - 1)] for n in range(1, candidate.requests + 1)]
    return [sorted(candidate.row.services(level)) for level in nearest]


def rested(candidate: Candidate) -> list[float]:
    """Return the sorted service times of an inference that finds the pool idle."""
    return sorted(candidate.row.rested)


class Truth:
    """The capacities of one model's candidates under one SLO."""

    def __init__(self, entry: Entry, slo: Slo, count: int = REQUESTS) -> None:
        self.entry = entry
        self.slo = slo
        chance = Random(SEED)
        self._places = [chance.random() for _ in range(count)]
        self._gaps = gaps(slo.arrivals, count, SEED + 1)
        self._known: dict[tuple[str, int], float] = {}
        self._resolutions: dict[tuple[str, int], float] = {}

    def latencies(self, candidate: Candidate, rate_per_s: float, count: int | None = None) -> list[float]:
        """Return the latency of each request at a rate, of the first `count` where that is given."""
        arrivals = scaled(self._gaps[:count], rate_per_s)
        patience = patience_s(candidate, self.slo)
        rows, idle = candidate.row.arm.batch, rested(candidate)
        return latencies(arrivals, levels(candidate), self._places[:count], rows, patience, idle)

    def holds(self, candidate: Candidate, rate_per_s: float, count: int | None = None) -> bool:
        """Tell whether the SLO holds at a rate."""
        taken = self.latencies(candidate, rate_per_s, count)
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
        ceiling = min(LOAD_MAX * candidate.most_per_s, 1 / FRONT_END_S)
        coarse = self._between(candidate, ceiling / 1000, ceiling, 1.02, COARSE)
        if coarse == 0:
            return 0.0
        low, high = coarse / COARSE_ERROR, min(ceiling, coarse * COARSE_ERROR)
        return self._between(candidate, low, high, STEP, None)

    def _between(self, candidate: Candidate, low: float, high: float, step: float, count: int | None) -> float:
        """Return the largest rate that holds, to a factor of `step`; 0 where not even `low` does."""
        if self.holds(candidate, high, count):
            return high
        if not self.holds(candidate, low, count):
            return 0.0
        while high / low > step:
            middle = sqrt(low * high)
            low, high = (middle, high) if self.holds(candidate, middle, count) else (low, middle)
        return low

    def resolution(self, candidate: Candidate) -> float:
        """Return how far a capacity may be off for the blocks that happened to be measured: smaller differences tie.

        The 95 % half-width of the ratio of two redrawings of the same blocks, and never less than the anchor's ratio
        to itself.
        """
        if candidate.key not in self._resolutions:
            redrawn = [self._redrawn(candidate, seed) for seed in range(RESAMPLED)]
            spread = 1.96 * sqrt(2) * stdev(redrawn) / mean(redrawn) if any(redrawn) else 0.0
            self._resolutions[candidate.key] = max(self.entry.resolution, spread)
        return self._resolutions[candidate.key]

    def _redrawn(self, candidate: Candidate, seed: int) -> float:
        row = next(row for row in self.entry.resampled(seed).rows if row.arm.key == candidate.row.arm.key)
        per_s = self.capacity(candidate)
        return self._between(replace(candidate, row=row), per_s / 1.3, per_s * 1.3, 1.01, COARSE) if per_s else 0.0

    def best(self) -> tuple[Candidate, float]:
        """Return the oracle's choice and its capacity: nothing in the table carries more."""
        ordered = sorted(candidates(self.entry), key=lambda candidate: -candidate.most_per_s)
        best, most = ordered[0], self.capacity(ordered[0])
        for candidate in ordered[1:]:
            hopeless = min(candidate.most_per_s * LOAD_MAX, 1 / FRONT_END_S) <= most
            hopeless = hopeless or (most > 0 and not self.holds(candidate, most / COARSE_ERROR, COARSE))
            if not hopeless and self.capacity(candidate) > most:
                best, most = candidate, self.capacity(candidate)
        return best, most


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least this share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[max(1, ceil(share * len(ordered))) - 1]


def floor_s(entry: Entry, percentile: float = 99.0) -> float:
    """Return the lowest latency at the percentile that any arm reaches when nothing else is asked of it."""
    return min(quantile(row.rested, percentile / 100) for row in entry.rows)
