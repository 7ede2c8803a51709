"""How many rows go into the next inference, and whether it is worth waiting for more.

Natural batching first: whatever has arrived when a slot is free. Only a pool that was told that waiting pays
(`Limits.gather_s`, from its profile) holds a batch back, and no longer than the oldest request's deadline allows
(Symphony): there is no fixed timer.
"""

from __future__ import annotations

from orchestrator.scheduling.pace import Pace
from orchestrator.scheduling.ticket import Limits, Ticket

SPARE_S = 0.002  # left over of the oldest request's slack when a batch is held back


def rows_to_take(limits: Limits, pace: Pace, waiting: int, slack_s: float) -> int:
    """Return up to how many of `waiting` rows to infer together, when the first must be answered within `slack_s`.

    As many rows a second as can be, within the slack - unless more waits than fits in one inference: smaller batches
    would then only make everybody later.
    """
    if limits.rows == 1 or waiting <= 1 or pace.mean_s is None:
        return limits.rows
    crowded = waiting > limits.rows
    if not limits.sizes:
        return limits.rows if crowded else _that_fit(limits.rows, pace, slack_s)
    sizes = [size for size in limits.sizes if crowded or pace.tail_s(size) <= slack_s] or limits.sizes
    return max(sizes, key=lambda size: (min(waiting, size) / max(pace.seconds(size), 1e-9), size))


def _that_fit(rows: int, pace: Pace, slack_s: float) -> int:
    """Return the rows of an inference that ends within the slack; all where not even one does."""
    one = pace.tail_s(1)
    more = pace.tail_s(2) - one
    if one > slack_s or more <= 0:
        return rows
    return 1 + int(min(rows - 1, (slack_s - one) / more))


def hold_until(limits: Limits, pace: Pace, oldest: Ticket, rows: int) -> float:
    """Return until when a batch that has `rows` rows so far, the first ready one `oldest`, is to be held back."""
    if rows >= limits.rows:
        return oldest.ready
    latest = min(oldest.deadline, oldest.arrived + limits.slo_s) - pace.tail_s(limits.rows) - SPARE_S
    return min(oldest.ready + limits.gather_s, latest)
