"""What is learned of service times."""

from __future__ import annotations

import random

import pytest

from orchestrator.scheduling.pace import TAIL_MAX, Pace


def test_the_first_inference_is_the_estimate_and_later_ones_move_it() -> None:
    pace = Pace()
    assert (pace.mean_s, pace.seconds(1)) == (None, 0.0)
    pace.learn(1, 2.0, 0.99)
    assert pace.seconds(1) == 2.0
    pace.learn(1, 4.0, 0.99)
    assert pace.mean_s == pace.least_s == pace.full_s == pytest.approx(2.2)


def test_a_start_and_a_time_for_each_row_are_told_apart() -> None:
    dice, pace = random.Random(1), Pace(0.010, full=16)
    for _ in range(500):
        rows = dice.randint(1, 16)
        pace.learn(rows, 0.008 + 0.002 * rows, 0.99)
    assert pace.seconds(1) == pytest.approx(0.010, rel=0.1)
    assert pace.full_s == pytest.approx(0.040, rel=0.1)


def test_what_was_learned_of_rows_stays_when_they_are_alike_for_long() -> None:
    dice, pace = random.Random(1), Pace(0.010, full=16)
    for _ in range(500):
        rows = dice.randint(1, 16)
        pace.learn(rows, 0.008 + 0.002 * rows, 0.99)
    for _ in range(500):
        pace.learn(1, 0.010, 0.99)
    assert pace.full_s == pytest.approx(0.040, rel=0.15)
    assert pace.seconds(1) == pytest.approx(0.010, rel=0.05)


def test_each_compiled_batch_has_its_own_time_however_many_of_its_rows_are_used() -> None:
    pace = Pace(0.03, (1, 8), 8, full=8)
    pace.seed(1, 0.01)
    pace.seed(8, 0.03)
    assert [pace.seconds(rows) for rows in (1, 2, 8)] == [0.01, 0.03, 0.03]
    for _ in range(100):
        pace.learn(5, 0.04, 0.99)
    assert pace.seconds(1) == 0.01
    assert pace.seconds(2) == pytest.approx(0.04, rel=0.01)


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 0.97, 1.03), (0.9, 1.10, 1.17), (0.99, 1.18, 1.35)])
def test_the_tail_is_the_factor_below_which_the_share_stays(share: float, low: float, high: float) -> None:
    dice, pace = random.Random(2), Pace(0.01)
    tails = []
    for number in range(20_000):
        pace.learn(1, 0.01 * dice.gauss(1, 0.1), share)
        if number > 5000:
            tails.append(pace.tail)
    assert low < sum(tails) / len(tails) < high


def test_the_tail_is_bounded_whatever_happens() -> None:
    pace = Pace(0.01)
    for number in range(3000):
        pace.learn(1, 100.0**number if number < 3 else 1e6, 0.99)
    assert pace.tail <= TAIL_MAX
