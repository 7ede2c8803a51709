"""Arrivals made from a seed, and callers that wait for their answers."""

from __future__ import annotations

import statistics
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling.arrivals import BURSTY_CV, Arrivals, arrivals, gaps
from orchestrator.scheduling.scheduler import Cause, Limits
from orchestrator.scheduling.simulate import simulate_closed

OPEN: tuple[Arrivals, ...] = ("poisson", "constant", "bursty")


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("constant", 0.0), ("bursty", BURSTY_CV)])
def test_gaps_have_their_mean_and_their_spread(kind: Arrivals, cv: float) -> None:
    drawn = gaps(kind, 40_000, 1)
    assert statistics.fmean(drawn) == pytest.approx(1, rel=0.03)
    assert statistics.pstdev(drawn) == pytest.approx(cv, rel=0.05, abs=1e-12)


@pytest.mark.parametrize("kind", OPEN)
def test_arrivals_ascend_at_their_rate_and_repeat_with_their_seed(kind: Arrivals) -> None:
    times = arrivals(kind, 50.0, 5000, 3)
    assert times == sorted(times)
    assert times == arrivals(kind, 50.0, 5000, 3)
    assert 5000 / times[-1] == pytest.approx(50, rel=0.15)


def test_closed_callers_have_no_schedule() -> None:
    with pytest.raises(AssertionError, match="simulate_closed"):
        gaps("closed", 3, 1)


def test_callers_that_wait_keep_the_slots_full_and_no_more() -> None:
    fates = simulate_closed(3, 9, lambda _number, _rows, _beside: 1.0, Limits(2))
    assert [fate.arrived for fate in fates] == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert max(fate.latency_s for fate in fates) == 2.0


def test_a_caller_that_is_refused_asks_again_later() -> None:
    fates = simulate_closed(3, 12, lambda _number, _rows, _beside: 1.0, Limits(1, queue=0), expected_s=1.0)
    refused = [fate for fate in fates if fate.cause is Cause.QUEUE_FULL]
    assert refused
    assert max(fate.ended for fate in fates) < 12


@given(
    st.integers(1, 12),
    st.integers(1, 60),
    st.builds(Limits, st.integers(1, 3), st.integers(1, 4), st.integers(0, 6)),
    st.lists(st.floats(0.01, 2), min_size=1, max_size=5),
    st.sampled_from([0.3, 1.0, inf]),
)
def test_every_closed_request_has_a_fate_and_no_caller_two_at_a_time(
    callers: int, count: int, limits: Limits, times: list[float], timeout_s: float
) -> None:
    """Seen to fail with a caller that asks again before its answer."""
    fates = simulate_closed(
        callers, count, lambda number, _rows, _beside: times[number % len(times)], limits, timeout_s=timeout_s
    )
    assert len(fates) == count
    for fate in fates:
        beside = sum(other.arrived <= fate.arrived < other.ended for other in fates)
        assert beside <= callers
