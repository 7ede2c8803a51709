"""Latency against arrival rate of an arm, for drawing: what its capacity is found by, at a few rates."""

from __future__ import annotations

import math
from typing import NamedTuple

from orchestrator.planner.capacity import Need, quantile, simulated
from orchestrator.planner.evidence import service_of
from orchestrator.profiling.measurement import ArmProfile
from orchestrator.scheduling.arrivals import Arrivals

BUSY = (0.05, 0.25, 0.45, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97)  # of the throughput: denser where the curve bends
REQUESTS_IN_ALL = 180_000  # of all arms and rates of one page: keeps drawing below two seconds
REQUESTS_MIN, REQUESTS_MAX = 200, 3000  # at one rate
POINTS_MIN = 3  # even where all are too slow: a curve, not a dot
_NO_LIMIT = 10**9  # of the queue: the curve goes on where the pool would begin to refuse


class Point(NamedTuple):
    """A point of a curve."""

    per_s: float
    latency_s: float


def curve(
    profile: ArmProfile,
    percentile: float,
    ceiling_s: float,
    *,
    cpus: int,
    arms: int,
    inflation: float = 1.0,
    stretch: float = 1.0,
    front_end_s: float = 0.0,
    arrivals: Arrivals = "poisson",
    most_per_s: float = math.inf,
) -> tuple[Point, ...]:
    """Return latency at the percentile for rising rates, up to the first above `ceiling_s`; at least three points.

    Empty without service times. `cpus` are the cores that the arm was given; `arms` are drawn together and share the
    work; `inflation` and `stretch` are what a proof taught, `front_end_s` the server's CPU time for each request, and
    `most_per_s` what it takes in. All rates share their chance, so that the curve is smooth. A batch takes as long as a
    full one.
    """
    assert arrivals != "closed", "callers that wait have no rate"
    if not any(block.service_s for block in profile.blocks):
        return ()
    service = service_of(profile, cpus=cpus, front_end_s=front_end_s, inflation=inflation, stretch=stretch)
    need = Need(latency_s=ceiling_s, percentile=percentile, arrivals=arrivals, queue_limit=_NO_LIMIT)
    most = min(service.most_per_s, most_per_s)
    count = max(REQUESTS_MIN, min(REQUESTS_MAX, REQUESTS_IN_ALL // (len(BUSY) * max(1, arms))))
    points: list[Point] = []
    for share in BUSY:
        rate_per_s = share * most
        fates = simulated(service, need, rate_per_s, count)
        latency_s = quantile([service.latency_s(fate) for fate in fates], need.share)
        points.append(Point(rate_per_s, max(latency_s, points[-1].latency_s if points else 0.0)))
        if latency_s > ceiling_s and len(points) >= POINTS_MIN:
            break
    return tuple(points)
