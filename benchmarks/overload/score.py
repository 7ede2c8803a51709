"""Figures of one step of load, from what became of its arrivals: pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.overload.order import Outcome

WINDOW_S: Final = 0.5  # over which it is judged whether a server is well again
STEP_S: Final = 0.05  # how finely
WELL: Final = 0.95  # share of the arrivals in time
OK, FULL = 200, 503


@dataclass(frozen=True, slots=True)
class Score:
    """How a server did under one load."""

    arrivals: int
    offered_per_s: float
    in_time_per_s: float
    """Answers with status 200 within the SLO: goodput."""
    in_time_share: float
    answered_ms_p50: float | None
    answered_ms_p99: float | None
    refused_ms_p99: float | None
    statuses: dict[str, int]
    """By status; -1: given up by the caller, 0: the connection broke."""


def score(outcomes: Sequence[Outcome], begin_s: float, end_s: float, slo_s: float) -> Score:
    """Return the figures of the arrivals that were due in [begin_s, end_s)."""
    mine = [outcome for outcome in outcomes if begin_s <= outcome.due_s < end_s]
    seconds = end_s - begin_s
    answered = [outcome.latency_s for outcome in mine if outcome.status == OK]
    refused = [outcome.latency_s for outcome in mine if outcome.status == FULL]
    good = sum(latency <= slo_s for latency in answered)
    return Score(
        arrivals=len(mine),
        offered_per_s=round(len(mine) / seconds, 1),
        in_time_per_s=round(good / seconds, 1),
        in_time_share=round(good / max(1, len(mine)), 4),
        answered_ms_p50=_milliseconds(answered, 0.5),
        answered_ms_p99=_milliseconds(answered, 0.99),
        refused_ms_p99=_milliseconds(refused, 0.99),
        statuses={str(status): count for status, count in sorted(Counter(one.status for one in mine).items())},
    )


def recovery_s(outcomes: Sequence[Outcome], fall_s: float, end_s: float, slo_s: float) -> float | None:
    """Return how long after the load's fall the arrivals of the next half second are in time again, and all later ones.

    None when that is not seen until `end_s`.
    """
    after = [outcome for outcome in outcomes if fall_s <= outcome.due_s < end_s]
    well: float | None = None
    steps = math.floor((end_s - fall_s - WINDOW_S) / STEP_S + 1e-9)
    for step in range(steps + 1):
        begin = fall_s + step * STEP_S
        window = [one for one in after if begin <= one.due_s < begin + WINDOW_S]
        good = sum(one.status == OK and one.latency_s <= slo_s for one in window)
        if window and good < WELL * len(window):
            well = None
        elif well is None:
            well = step * STEP_S
    return None if well is None else round(well, 2)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _milliseconds(values: Sequence[float], share: float) -> float | None:
    found = quantile(values, share)
    return None if found is None else round(1000 * found, 2)
