"""Latency against arrival rate of an arm, for drawing: the pool's scheduler simulated with measured service times."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from orchestrator.planner.explain import quantile
from orchestrator.profiling.measurement import ArmProfile
from orchestrator.scheduling.scheduler import Limits
from orchestrator.scheduling.simulate import simulate

BUSY = (0.05, 0.25, 0.45, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97)  # of the throughput: denser where the curve bends
REQUESTS_IN_ALL = 150_000  # of all arms and rates of one page: keeps drawing below two seconds
REQUESTS_MAX = 3000  # at one rate
POINTS_MIN = 3  # even where all are too slow: a curve, not a dot
SEED = 1
_NO_LIMIT = 2**40


class Point(NamedTuple):
    """A point of a curve."""

    per_s: float
    latency_s: float


def curve(profile: ArmProfile, percentile: float, ceiling_s: float, arms: int) -> tuple[Point, ...]:
    """Return latency at the percentile for rising Poisson rates, up to the first above `ceiling_s`; at least three.

    Empty without service times. `arms` are drawn together and share the work. The same arrivals, sped up, are used at
    every rate of every arm, so the curves can be compared and rise smoothly. A batch takes as long as a full one.
    """
    samples = busy_samples(profile)
    if not samples:
        return ()
    slots = max(1, profile.actual.requests)
    most = slots * profile.arm.batch * len(samples) / sum(samples)
    count = min(REQUESTS_MAX, REQUESTS_IN_ALL // (len(BUSY) * max(1, arms)))
    units = _unit_arrivals(max(200, count))
    points: list[Point] = []
    for share in BUSY:
        latency_s = _latency_s(
            units, share * most, samples, Limits(slots, profile.arm.batch, _NO_LIMIT, _NO_LIMIT), percentile
        )
        points.append(Point(share * most, max(latency_s, points[-1].latency_s if points else 0.0)))
        if latency_s > ceiling_s and len(points) >= POINTS_MIN:
            break
    return tuple(points)


def busy_samples(profile: ArmProfile) -> tuple[float, ...]:
    """Return the seconds of each inference with the most of them in flight, of clean blocks where there are any."""
    most = max((block.concurrency for block in profile.blocks), default=0)
    busy = [block for block in profile.blocks if block.concurrency == most]
    clean = [block for block in busy if not block.host.tainted()] or busy
    return tuple(value for block in clean for value in block.service_s if value > 0)


def _unit_arrivals(count: int) -> tuple[float, ...]:
    """Return Poisson arrivals at one a second."""
    chance, now, found = Random(SEED), 0.0, []
    for _ in range(count):
        now += chance.expovariate(1)
        found.append(now)
    return tuple(found)


def _latency_s(
    units: tuple[float, ...], per_s: float, samples: tuple[float, ...], limits: Limits, percentile: float
) -> float:
    order = Random(SEED).choices(samples, k=len(units))
    fates = simulate([unit / per_s for unit in units], lambda number, _: order[number], limits)
    return quantile(tuple(fate.latency_s for fate in fates), percentile)
