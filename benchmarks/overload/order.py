"""What the open-loop client is told and what it tells, one JSON object each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

GAVE_UP = -1
"""The status of a request that had no whole answer when the client's patience was over."""
FAILED = 0
"""The status of a request whose connection was refused or broke."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Poisson arrivals at one rate."""

    rate_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """One request, the same every time; its protocol says how it is framed."""

    protocol: str
    """`http` (a POST) or `grpc` (a unary call over HTTP/2)."""
    path: str
    headers: Mapping[str, str]
    body: str
    """File that holds the body; of grpc the message with its five bytes of length before it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is sent where, and when."""

    host: str
    port: int
    request: Request
    phases: Sequence[Phase]
    seed: int = 0
    give_up_s: float = 1.0
    """Patience of a caller, from when the request was due."""
    connections_first: int = 8
    """Opened before the first arrival."""
    connections_max: int = 8000

    def to_json(self) -> str:
        """Return the order as one line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Order:
        """Return the order that `to_json` wrote."""
        said = json.loads(text)
        return Order(
            **{
                **said,
                "request": Request(**said["request"]),
                "phases": [Phase(**phase) for phase in said["phases"]],
            }
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one arrival."""

    due_s: float
    """When it was due, in seconds from the start."""
    latency_s: float
    """From when it was due until its answer was complete, or until it was given up."""
    status: int
    """Of HTTP, or of gRPC as the HTTP status of the same meaning; GAVE_UP, FAILED."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the client tells at its end."""

    outcomes: Sequence[Outcome] = field(repr=False)
    seconds: float
    cpu: float
    """Cores that the client used."""
    late_sends: int
    """Begun more than LATE_S after they were due."""
    latest_send_s: float
    connections: int
    """Open at the same time, at most."""
    bottleneck: str | None
    """Why the figures say more of the client than of the server; None when they do not."""

    def to_json(self) -> str:
        """Return it as one line; outcomes as columns, which is a third of the size."""
        said = {name: getattr(self, name) for name in self.__slots__ if name != "outcomes"}
        columns = {
            name: [getattr(outcome, name) for outcome in self.outcomes] for name in ("due_s", "latency_s", "status")
        }
        return json.dumps({**said, "outcomes": columns})

    @staticmethod
    def from_json(text: str) -> Told:
        """Return what `to_json` wrote."""
        said = json.loads(text)
        columns = said.pop("outcomes")
        rows = zip(columns["due_s"], columns["latency_s"], columns["status"], strict=True)
        return Told(outcomes=[Outcome(*row) for row in rows], **said)
