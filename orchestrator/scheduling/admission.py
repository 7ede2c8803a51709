"""Tell when a request that comes now would be answered, and by how much such a prediction must be trusted less.

Clockwork's and Bouncer's test: admit what can be answered in time, and nothing else. The cost does not depend on how
much waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.scheduling.ticket import Batch

STUCK = 8.0  # times its usual time by which an inference is overdue until it counts as one that will not end,
STUCK_MIN_S = 0.5  # and at least this: for that long a busy host may well keep an inference of a millisecond waiting

SAFETY_MAX = 2.0
WINDOW = 50  # answers that were predicted to be close to the deadline, for one step of the safety
UP = 0.02
UP_BY_MISSED = 0.2  # more for a window that was badly wrong: all of it missed is +0.22
DOWN = 0.005
CLOSE = 0.5  # of the SLO: a prediction below says nothing of the margin


def wait_s(now: float, ahead: int, slots: int, running: Sequence[Batch], service_s: float) -> float:
    """Return the seconds until an inference starts before which `ahead` others of `service_s` seconds start.

    What runs ends when it should; what is overdue takes, as far as anybody can tell, as long again as it is overdue.
    One far overdue does not count as a slot while there are others.
    """
    free = max(0, slots - len(running))
    turn = ahead - free
    if turn < 0:
        return 0.0
    ends = [service_s] * free  # what starts there now ends then
    ends += [abs(batch.expected - now) for batch in running]
    if len(ends) > 1:
        ends.sort()
        while len(ends) > 1 and ends[-1] > STUCK_MIN_S and ends[-1] > STUCK * service_s:
            ends.pop()
    rounds, place = divmod(turn, len(ends))
    return ends[place] + rounds * service_s


class Safety:
    """The factor on a predicted answer time: rises with every window of misses, falls slowly without."""

    __slots__ = ("_missed", "_seen", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._seen = 0
        self._missed = 0

    def learn(self, missed: bool, share: float) -> None:
        """Take an answer into account that was late, or was predicted to be close to it."""
        self._seen += 1
        self._missed += missed
        if self._seen < WINDOW:
            return
        wrong = self._missed / self._seen - (1 - share)
        step = UP + UP_BY_MISSED * wrong if wrong > 0 else -DOWN
        self.factor = min(SAFETY_MAX, max(1.0, self.factor + step))
        self._seen = self._missed = 0
