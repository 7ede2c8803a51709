"""When requests arrive: endless schedules, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

BURST = 8  # requests of one burst, on average


def arrivals(process: str, rate_per_s: float, seed: int) -> Iterator[float]:
    """Yield when requests arrive, in seconds from 0, for ever: `poisson`, `constant` or `bursty`."""
    random = Random(seed)
    now = 0.0
    while True:
        yield now
        now += _gap(process, rate_per_s, random)


def _gap(process: str, rate_per_s: float, random: Random) -> float:
    match process:
        case "constant":
            return 1.0 / rate_per_s
        case "poisson":
            return random.expovariate(rate_per_s)
        case "bursty":  # Poisson bursts of a geometric number of requests at once
            return random.expovariate(rate_per_s / BURST) if random.random() < 1.0 / BURST else 0.0
    raise AssertionError(process)
