"""The classes of requests: what waits of each, earliest deadline first, and how they share places and service.

A higher class goes first. A lower one has a right to SERVICE_LEAST of the rows that are started while it has requests:
what it was passed over for is put to its credit, and with enough credit it goes first once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from math import exp

from orchestrator.scheduling.admission import Safety
from orchestrator.scheduling.ticket import Priority, State, Ticket

PLACES = {Priority.CRITICAL: 1.0, Priority.DEFAULT: 0.9, Priority.SHEDDABLE: 0.5}
"""Of the queue, how much a class and those below it may take; the model's own class, the highest there is, all."""
SERVICE_LEAST = 0.05
DEMAND_S = 1.0  # for which a class counts as wanted after a request of it came, admitted or not
LOAD_S = 1.0  # over which the load by a class is averaged
STALE_MAX = 64  # dropped tickets that may stay in a queue before it is swept; a wedged device never pops them


class Lane:
    """What waits of one class. `waiting` and `rows` count also what is still on its way in, of one row each."""

    __slots__ = ("_busy_s", "_since", "credit", "priority", "queue", "queued", "rows", "safety", "waiting", "wanted_to")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.queue: deque[Ticket] = deque()
        """In the order of deadlines, those alike in the order they came; may hold dropped ones."""
        self.queued = 0
        self.waiting = 0
        self.rows = 0
        self.safety = Safety()
        self.credit = 0.0
        self.wanted_to = 0.0
        self._busy_s = 0.0
        self._since = 0.0

    def push(self, ticket: Ticket) -> None:
        """Queue a ticket behind all that have its deadline or an earlier one."""
        queue = self.queue
        if not queue or queue[-1].deadline <= ticket.deadline:
            queue.append(ticket)
        else:
            queue.insert(bisect_right(queue, ticket.deadline, key=_deadline), ticket)
        self.queued += 1

    def head(self) -> Ticket:
        """Return the one to be served first; only where one is queued."""
        queue = self.queue
        while queue[0].state is not State.QUEUED:
            queue.popleft()
        return queue[0]

    def newest(self) -> Ticket:
        """Return the one that came last; only where one is queued."""
        return max((ticket for ticket in self.queue if ticket.state is State.QUEUED), key=_ready)

    def forget(self, ticket: Ticket) -> None:
        """Count out a ticket that waited; it may stay in the queue, where it is passed over."""
        if ticket.state is State.QUEUED:
            self.queued -= 1
            if len(self.queue) > 2 * self.queued + STALE_MAX:
                self.sweep(ticket)
        self.waiting -= 1
        self.rows -= ticket.rows

    def sweep(self, gone: Ticket | None = None) -> None:
        """Take everything dropped out of the queue, and the one that is just going."""
        self.queue = deque(each for each in self.queue if each.state is State.QUEUED and each is not gone)

    def late(self, now: float) -> list[Ticket]:
        """Return the queued tickets whose deadline has passed."""
        found = []
        for ticket in self.queue:
            if ticket.deadline > now:
                break
            if ticket.state is State.QUEUED:
                found.append(ticket)
        return found

    def served(self, now: float, busy_s: float) -> None:
        """Note that an inference for this class takes that much of the time of one slot."""
        self._busy_s = self._busy_s * exp((self._since - now) / LOAD_S) + busy_s
        self._since = now

    def load(self, now: float) -> float:
        """Return how many slots this class has kept busy lately."""
        return self._busy_s * exp((self._since - now) / LOAD_S) / LOAD_S


def pick(lanes: Sequence[Lane]) -> Lane:
    """Return the class to serve next: the highest with requests, but first one that has the credit; one must wait."""
    first = None
    for lane in lanes:
        if not lane.queued:
            continue
        if first is None:
            first = lane
        elif lane.credit >= lane.head().rows:
            return lane
    assert first is not None, "nothing waits"
    return first


def account(lanes: Sequence[Lane], now: float, rows: int) -> None:
    """Give every class below the highest of `lanes` its share of the rows that start now.

    Credit does not grow beyond two inferences: enough to lose none between them, too little to save up for a burst.
    """
    for lane in lanes[1:]:
        wanted = lane.wanted_to > now
        lane.credit = min(max(lane.credit, 2.0 * rows), lane.credit + SERVICE_LEAST * rows) if wanted else 0.0


def _deadline(ticket: Ticket) -> float:
    return ticket.deadline


def _ready(ticket: Ticket) -> float:
    return ticket.ready
