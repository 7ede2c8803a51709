"""Pools that share cores: what one that is overloaded leaves to its neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from orchestrator.planner.capacity import Need
from orchestrator.planner.crowd import Load, Stream, crowd
from orchestrator.scheduling.simulate import Fate

DICE = Random(1)
ALONE_S = tuple(0.01 * DICE.uniform(0.9, 1.1) for _ in range(100))


def a_load(rate_per_s: float, slo_s: float, *, streams: int = 2, times: float = 1.0, seed: int = 1) -> Load:
    stream = Stream(streams, 1, tuple(each * times for each in ALONE_S))
    return Load(stream, Need(slo_s, 99.0, timeout_s=slo_s), rate_per_s, seed)


def in_time(fates: Sequence[Fate], slo_s: float) -> float:
    return sum(fate.cause is None and fate.latency_s <= slo_s for fate in fates) / len(fates)


@pytest.mark.parametrize("times", [1.0, 10.0])
def test_a_pool_asked_for_five_times_what_it_can_leaves_its_neighbour_within_the_slo(times: float) -> None:
    """Two cores and three threads: the neighbour's one thread has two thirds of a core, and asks for 0.4."""
    neighbour = a_load(40.0, 0.06, streams=1, seed=2)
    greedy = a_load(1000.0 / times, 0.1 * times, times=times)
    _, kept = crowd([greedy, neighbour], 2, 10.0)
    answered = sorted(fate.latency_s for fate in kept if fate.cause is None)
    assert in_time(kept, 0.06) > 0.95
    assert answered[int(0.99 * len(answered))] <= 1.05 * 0.06


def test_what_does_not_fit_beside_an_overloaded_pool_is_refused_and_not_late() -> None:
    """Five threads: a fifth of two cores is 40 % of a core, of which a neighbour that asks for 60 % gets its part."""
    neighbour = a_load(60.0, 0.06, streams=1, seed=2)
    _, kept = crowd([a_load(1000.0, 0.1, streams=4), neighbour], 2, 10.0)
    answered = sorted(fate.latency_s for fate in kept if fate.cause is None)
    assert 0.4 < in_time(kept, 0.06) < 0.8
    assert answered[int(0.99 * len(answered))] <= 1.05 * 0.06
