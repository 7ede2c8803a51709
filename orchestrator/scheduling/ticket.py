"""What the scheduler and its callers hand to each other: limits, tickets, batches, refusals and their causes."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple


class Priority(enum.IntEnum):
    """Who goes first when not all can be served; the names are the manifest's words."""

    CRITICAL = 0
    DEFAULT = 1
    SHEDDABLE = 2


PRIORITIES = {priority.name.lower(): priority for priority in Priority}


class State(enum.Enum):
    """Where a ticket is."""

    RECEIVING = enum.auto()
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


class Cause(enum.Enum):
    """Why a request was refused or dropped."""

    QUEUE_FULL = "queue full"
    MEMORY_FULL = "queue memory full"
    TOO_LARGE = "larger than the memory of the whole queue"
    DEADLINE_PAST = "deadline already past"
    DEADLINE_UNMEETABLE = "deadline cannot be met"
    EXPIRED = "deadline passed in the queue"
    DISPLACED = "displaced by a request of a higher priority"
    OVERDUE = "waited much longer than was predicted"
    CANCELLED = "caller went away"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the pool; may be changed while it runs.

    `slots` inferences run at the same time, each of at most `rows` rows; `queue` requests may wait or be on their way
    in, holding at most `memory_bytes` together.
    """

    slots: int
    rows: int = 1
    queue: int = 64
    memory_bytes: int = 256 * 2**20
    slo_s: float = inf
    """Within which a request is to be answered: whose prediction is longer is refused."""
    share: float = 0.99
    """Of the answers that are to be within the SLO."""
    sizes: tuple[int, ...] = ()
    """The batches that the model was compiled for, ascending, the last one `rows`; a part of one costs all of it.
    Empty: an inference costs what its rows cost."""
    gather_s: float = 0.0
    """How long a batch may be held back to grow, where deadlines allow; 0: whatever waits starts at once."""
    priority: Priority = Priority.DEFAULT
    """The model's own: the class of a request that names none, and the highest that one may name."""

    def __post_init__(self) -> None:
        assert self.slots >= 1, self
        assert self.rows >= 1, self
        assert self.queue >= 0, self
        assert not self.sizes or self.sizes[-1] == self.rows, self


class Refusal(NamedTuple):
    """A request that was not admitted, and when it may be worth trying again (seconds from now)."""

    cause: Cause
    retry_after_s: float


class Ticket:
    """One admitted request. `payload` belongs to the caller of the scheduler."""

    __slots__ = (
        *("abandoned", "arrived", "cause", "deadline", "nbytes", "payload", "priority", "promised", "ready", "rows"),
        *("started", "state"),
    )

    def __init__(self, arrived: float, deadline: float, nbytes: int, priority: Priority, promised: float) -> None:
        self.arrived = arrived
        self.deadline = deadline
        self.nbytes = nbytes
        self.priority = priority
        self.promised = promised
        """When its inference was predicted to start; the arrival where it was not to wait."""
        self.ready = arrived
        """When its data was there."""
        self.rows = 1
        self.started = 0.0
        self.state = State.RECEIVING
        self.abandoned = False
        self.cause: Cause | None = None
        """Why it was dropped; None unless it was."""
        self.payload: Any = None


class Batch:
    """Requests that are inferred together."""

    __slots__ = ("expected", "rows", "started", "tickets")

    def __init__(self, tickets: list[Ticket], rows: int, started: float, expected: float) -> None:
        self.tickets = tickets
        self.rows = rows
        self.started = started
        self.expected = expected
        """When it should end."""
