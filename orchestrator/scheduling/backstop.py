"""Notice that predictions are wrong: requests wait much longer than was predicted when they were admitted (CoDel).

CoDel drops when the smallest delay of an interval exceeds a target. A pool that is full to its SLO has a long delay by
design, so the delay that counts here is that beyond the promise.
"""

from __future__ import annotations

from math import inf

from orchestrator.scheduling.ticket import Ticket

TARGET_MIN_S = 0.005
TARGET_SHARE = 0.25  # of what the SLO leaves for waiting
INTERVAL_MIN_S = 0.1
INTERVAL_SERVICES = 10
DISCARD = 2.0  # times the target: who waits longer beyond the promise is dropped while the predictions are wrong


class Backstop:
    """Whether predictions are wrong now: no request of the last interval started within the target of its promise."""

    __slots__ = ("_until", "least_s", "on", "target_s")

    def __init__(self) -> None:
        self.on = False
        self.target_s = TARGET_MIN_S
        self.least_s = inf
        """The smallest delay beyond its promise with which a request started in this interval."""
        self._until = 0.0

    def look(self, now: float, budget_s: float, service_s: float) -> None:
        """Judge the interval that ended, to be called now and then; `budget_s` is what the SLO leaves for waiting."""
        if now < self._until:
            return
        self.target_s = max(TARGET_MIN_S, TARGET_SHARE * budget_s)
        self.on = self.target_s < self.least_s < inf
        self._until = now + max(INTERVAL_MIN_S, INTERVAL_SERVICES * service_s)
        self.least_s = inf

    def discards(self, ticket: Ticket, now: float) -> bool:
        """Tell whether the ticket waits too long to be worth an inference while predictions are wrong."""
        return self.on and now - max(ticket.promised, ticket.ready) > DISCARD * self.target_s
