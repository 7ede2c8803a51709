"""When requests come, in seconds from 0, made from a seed: same seed, same arrivals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from random import Random
from typing import Literal

Arrivals = Literal["poisson", "constant", "bursty", "closed"]

BURSTY_CV = 2.0  # coefficient of variation of the gaps, as in the scoring protocol


def gaps(kind: Arrivals, count: int, seed: int) -> list[float]:
    """Return `count` gaps between arrivals with mean 1; a rate divides them, so that rates share their chance."""
    draw = _DRAWS[kind](Random(seed))
    return [draw() for _ in range(count)]


def arrivals(kind: Arrivals, rate_per_s: float, count: int, seed: int) -> list[float]:
    """Return the times of `count` arrivals at `rate_per_s`, ascending, the first after the first gap."""
    assert rate_per_s > 0, rate_per_s
    return scaled(gaps(kind, count, seed), rate_per_s)


def scaled(unit_gaps: list[float], rate_per_s: float) -> list[float]:
    """Return the times of arrivals with these gaps of mean 1 at `rate_per_s`."""
    return list(accumulate(gap / rate_per_s for gap in unit_gaps))


def _poisson(draw: Random) -> Callable[[], float]:
    return lambda: draw.expovariate(1.0)


def _constant(_: Random) -> Callable[[], float]:
    return lambda: 1.0


def _bursty(draw: Random) -> Callable[[], float]:
    """Gaps of a gamma distribution: many short, few long."""
    shape = 1 / BURSTY_CV**2
    return lambda: draw.gammavariate(shape, 1 / shape)


def _closed(_: Random) -> Callable[[], float]:
    raise AssertionError("closed callers have no schedule: use simulate_closed")


_DRAWS: dict[Arrivals, Callable[[Random], Callable[[], float]]] = {
    "poisson": _poisson,
    "constant": _constant,
    "bursty": _bursty,
    "closed": _closed,
}
