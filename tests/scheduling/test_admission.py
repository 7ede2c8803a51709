"""When a request would start, and how far that is trusted."""

from __future__ import annotations

import pytest

from orchestrator.scheduling.admission import SAFETY_MAX, STUCK_MIN_S, Safety, wait_s
from orchestrator.scheduling.ticket import Batch


def ending(*at: float) -> list[Batch]:
    return [Batch([], 1, 0.0, end) for end in at]


@pytest.mark.parametrize(
    ("ahead", "slots", "ends", "waits"),
    [
        (0, 1, [], 0.0),
        (0, 2, [11.0], 0.0),  # a slot is free
        (1, 2, [10.5], 0.5),  # the one ahead takes it; the next is free in half a second
        (0, 1, [10.25], 0.25),
        (3, 1, [10.25], 3.25),
        (0, 2, [10.75, 10.25], 0.25),
        (1, 2, [10.75, 10.25], 0.75),
        (2, 2, [10.75, 10.25], 1.25),
        (0, 1, [9.75], 0.25),  # overdue by so much: as much again
        (1, 1, [], 1.0),  # one is on its way in, and will be first
    ],
)
def test_a_request_starts_when_enough_of_those_before_it_have_ended(
    ahead: int, slots: int, ends: list[float], waits: float
) -> None:
    assert wait_s(10.0, ahead, slots, ending(*ends), 1.0) == pytest.approx(waits)


def test_an_inference_that_does_not_end_leaves_the_other_slots() -> None:
    hung, now = ending(1.0, 20.1), 20.0
    assert wait_s(now, 3, 2, hung, 0.01) == pytest.approx(0.13)
    assert wait_s(now, 0, 1, hung[:1], 0.01) == pytest.approx(19.0)  # the only one: nobody knows
    hiccup = ending(now - STUCK_MIN_S / 2)
    assert wait_s(now, 0, 1, hiccup, 0.0001) == pytest.approx(STUCK_MIN_S / 2)


def learned(safety: Safety, *missed: bool, share: float = 0.99) -> Safety:
    for each in missed:
        safety.learn(each, share)
    return safety


def test_the_mean_is_counted_on_until_answers_are_late_then_the_tail_then_more() -> None:
    safety = Safety()
    assert safety.answer_s(1.0, 0.5, 2.0) == 1.5
    half = learned(Safety(), *[True] * 5).answer_s(1.0, 0.5, 2.0)
    assert 1.5 < half < 2.0
    assert learned(Safety(), *[True] * 50).answer_s(1.0, 0.5, 2.0) == pytest.approx(SAFETY_MAX * 2.0)


def test_the_factor_keeps_its_place_when_just_the_share_that_may_be_late_is() -> None:
    safety = learned(Safety(), *[True] * 10)
    before = safety.factor
    learned(safety, *([True] + [False] * 99) * 20)
    assert safety.factor == pytest.approx(before, abs=0.01)


def test_the_factor_stays_within_its_bounds_and_falls_to_none() -> None:
    assert learned(Safety(), *[True] * 100).factor == SAFETY_MAX
    assert learned(Safety(), *[False] * 10).factor == 0.0
    assert learned(learned(Safety(), *[True] * 100), *[False] * 4000).factor == 0.0


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_at_the_border_between_mean_and_tail_nothing_jumps(late: float) -> None:
    safety = Safety()
    safety.factor = 1.0
    below = safety.answer_s(1.0, 0.5, 3.0)
    safety.factor = 1.0 + 1e-9 + late
    assert safety.answer_s(1.0, 0.5, 3.0) == pytest.approx(below * (1 + late))
