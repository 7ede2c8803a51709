"""Decide whether a model is inferred on the thread that its requests arrive on, and how many rows go together."""

from __future__ import annotations

from collections.abc import Callable

# A hand-over to an engine thread and back costs 20 to 60 microseconds here, of Python's lock more under load; above
# this an inference on the event loop would hold up the other callers for longer than it saves.
INLINE_MAX_S = 150e-6
ROWS_MAX = 64  # 32 rows of the tiny MLP took 1.5 times as long as one (docs/adr/0009): little is left to gain
LOOP_MAX_S = 1e-3  # for which the event loop may stand still


def pays(alone_s: float) -> bool:
    """Tell whether an inference of `alone_s` seconds on the caller's thread is cheaper than a hand-over."""
    return alone_s <= INLINE_MAX_S


def rows_together(alone_s: float, seconds: Callable[[int], float]) -> int:
    """Return how many rows to infer together; 1 where that does not pay.

    `seconds` measures an inference of so many rows. Rows are halved until they hold up the loop for no more than
    LOOP_MAX_S and cost less than twice their number of single inferences would.
    """
    rows = ROWS_MAX
    while rows > 1:
        together_s = seconds(rows)
        if together_s <= LOOP_MAX_S and together_s <= rows * alone_s / 2:
            return rows
        rows //= 2
    return 1
