"""Pools that share cores: what one that is overloaded leaves to its neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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


def closed(callers: int, *, streams: int = 1, slo_s: float = 1.0, rate_per_s: float = 100.0) -> Load:
    need = Need(slo_s, 99.0, arrivals="closed", callers=callers, timeout_s=slo_s)
    return Load(Stream(streams, 1, ALONE_S), need, rate_per_s, 3)


def test_callers_that_wait_bring_as_much_as_they_reach_whatever_rate_is_declared() -> None:
    """Seen to come at the declared 20/s, 0.2 cores, where eight callers keep a whole core busy."""
    (fates,) = crowd([closed(8, rate_per_s=20.0)], 2, 10.0)
    assert len(fates) == pytest.approx(1000, rel=0.05), "10 s of one stream of 10 ms"
    usual = sorted(fate.latency_s for fate in fates)[len(fates) // 2]
    assert usual == pytest.approx(0.08, rel=0.05), "each waits for the seven before it"


def test_callers_that_wait_take_from_a_neighbour_what_they_keep_busy() -> None:
    neighbour = a_load(40.0, 0.06, streams=1, seed=2)
    (alone,) = crowd([neighbour], 1, 10.0)
    _, beside = crowd([closed(4), neighbour], 1, 10.0)

    def usual(fates: Sequence[Fate]) -> float:
        return sorted(fate.latency_s for fate in fates)[len(fates) // 2]

    assert usual(beside) > 1.5 * usual(alone)


def test_callers_that_wait_ask_through_one_front_end() -> None:
    load = closed(8, streams=2)
    quick = replace(load, stream=replace(load.stream, alone_s=(0.0001,)))
    (fates,) = crowd([quick], 2, 0.5, front_end_s=0.001)
    assert len(fates) <= 508, "a thousand a second, however soon they are answered"


def test_callers_that_are_refused_again_and_again_end() -> None:
    (fates,) = crowd([closed(4096, slo_s=0.02)], 2, 5.0)
    assert len(fates) < 4096 + 4 * 100 * 5 + 4096


def test_requests_that_wait_are_taken_together_up_to_the_rows_of_a_batch() -> None:
    load = a_load(300.0, 0.2, streams=1)
    four = replace(load, stream=replace(load.stream, rows=4))
    (one_each,), (gathered,) = crowd([load], 1, 5.0), crowd([four], 1, 5.0)
    assert in_time(one_each, 0.2) < 0.5
    assert in_time(gathered, 0.2) > 0.95
