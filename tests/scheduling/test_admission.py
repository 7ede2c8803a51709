"""When a request would start, and how far that is trusted."""

from __future__ import annotations

import pytest

from orchestrator.scheduling.admission import SAFETY_MAX, STUCK_MIN_S, WINDOW, Safety, wait_s
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


def learned(missed: int, windows: int = 1, safety: Safety | None = None) -> Safety:
    safety = safety or Safety()
    for _ in range(windows):
        for number in range(WINDOW):
            safety.learn(number < missed, 0.99)
    return safety


def test_safety_rises_with_misses_by_how_many_there_are_and_falls_slowly() -> None:
    few, many = learned(1).factor, learned(WINDOW).factor
    assert 1.0 < few < 1.03 < 1.2 < many
    assert few > learned(0, safety=learned(1)).factor > 1.01


def test_safety_stays_within_its_bounds() -> None:
    assert learned(WINDOW, 100).factor == SAFETY_MAX
    assert learned(0, 1000).factor == 1.0
