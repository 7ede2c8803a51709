"""Tell when a request that comes now would be answered, and by how much such a prediction must be trusted less.

Clockwork's and Bouncer's test: admit what can be answered in time, and nothing else. The cost does not depend on how
much waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.scheduling.ticket import Batch

STUCK = 8.0  # times its usual time by which an inference is overdue until it counts as one that will not end,
STUCK_MIN_S = 0.5  # and at least this: for that long a busy host may well keep an inference of a millisecond waiting

SAFETY_MAX = 3.0
STEP = 0.1  # by which the safety moves: up by the share that is to be in time, down by the rest of it


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
    """How careful a prediction is: 0 takes the mean inference, 1 the tail, more multiplies the whole prediction.

    A request at the margin is better admitted while the SLO has late answers to spare: it may well be in time. Where
    the queue stands at its bound all are at the margin, and the mean would make half of them late. So the factor
    rises with each late answer and falls a little with each other one, until just the share that may be late is.
    """

    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 0.0

    def learn(self, missed: bool, share: float) -> None:
        """Take an answer into account, of which `share` are to be in time."""
        step = STEP * share if missed else STEP * (share - 1)
        self.factor = min(SAFETY_MAX, max(0.0, self.factor + step))

    def answer_s(self, wait_s: float, service_s: float, tail: float) -> float:
        """Return in how many seconds an answer is to be counted on: the wait, and an inference with its tail."""
        if self.factor > 1:
            return self.factor * (wait_s + service_s * tail)
        return wait_s + service_s * (1 + self.factor * (tail - 1))
