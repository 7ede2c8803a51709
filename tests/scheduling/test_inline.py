"""Which models are inferred where their requests arrive, and how many rows go together."""

from __future__ import annotations

import pytest

from orchestrator.scheduling.inline import INLINE_MAX_S, ROWS_MAX, pays, rows_together


def test_only_what_takes_less_than_a_hand_over_is_inferred_inline() -> None:
    assert pays(INLINE_MAX_S)
    assert not pays(INLINE_MAX_S * 1.01)


@pytest.mark.parametrize(
    ("start_s", "row_s", "rows"),
    [
        (10e-6, 0.1e-6, ROWS_MAX),  # rows cost next to nothing
        (10e-6, 40e-6, 1),  # ten times as much for ten rows: nothing to gain
        (50e-6, 30e-6, 16),  # the loop stands still for at most a millisecond: 32 rows would take 1.01 ms
    ],
)
def test_rows_go_together_as_long_as_they_gain_and_the_loop_is_not_held_up(
    start_s: float, row_s: float, rows: int
) -> None:
    def seconds(count: int) -> float:
        return start_s + count * row_s

    assert rows_together(seconds(1), seconds) == rows
