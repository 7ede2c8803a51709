"""What measuring processes and their parent say to each other, one JSON object a line."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.errors import Kind
from orchestrator.profiling.measurement import Arm, Block, ReadBack
from orchestrator.profiling.trust import Trust
from orchestrator.scheduling.arrivals import Arrivals

FAILED = 0
"""The status of a request without an answer: refused connection, broken answer; measurement.GIVEN_UP is another."""


class Line(BaseModel):
    """Base of what crosses the pipes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ToCompile(Line):
    """The arm to be measured, and the model it is an arm of."""

    arm: Arm
    path: str
    shapes: dict[str, list[int | str]] = {}
    name: str = ""
    """For messages."""


class ToRun(Line):
    """One block to be run: a closed loop, single inferences with pauses, or with `rate_per_s` an open loop."""

    concurrency: int
    seconds: float
    round: int = 0
    paced: bool = False
    rate_per_s: float | None = None
    seed: int = 0


class BenchOrder(Line):
    """One line to the child."""

    compile: ToCompile | None = None
    block: ToRun | None = None


class Compiled(Line):
    """The arm as it was compiled and warmed up."""

    actual: ReadBack
    compile_s: float
    """Seconds of compiling alone."""
    memory_bytes: int
    """What the process grew by until it was warm."""


class Failure(Line):
    """Why an order could not be carried out."""

    kind: Kind
    what: str


class BenchAnswer(Line):
    """One line from the child."""

    compiled: Compiled | None = None
    block: Block | None = None
    error: Failure | None = None


class LoadOrder(Line):
    """What is sent where, when, how often."""

    host: str
    port: int
    path: str
    """Of the request: `/v2/models/NAME/infer`."""
    headers: dict[str, str] = {}
    body: str
    """File that holds the body of every request."""
    arrivals: Arrivals = "poisson"
    rate_per_s: float | None = None
    """Arrivals a second; not of `closed`."""
    callers: int | None = None
    """Of `closed`: callers that each send the next request when they have their answer."""
    seed: int = 0
    seconds: float = Field(gt=0, le=3600)
    requests_max: int | None = None
    connections_max: int = Field(default=256, ge=1, le=4096)
    connections_first: int = Field(default=8, ge=1, le=4096)
    """Opened before the first arrival."""
    timeout_s: float = 10.0
    """After which an unanswered request is given up."""
    trust: Trust | None = None
    """With TLS: which servers are trusted."""


class Outcome(NamedTuple):
    """What became of one arrival; a list of its fields in JSON."""

    due_s: float
    """When it was due, in seconds from the start."""
    latency_s: float
    """From when it was due until its answer was complete."""
    status: int
    """Of HTTP; FAILED or GIVEN_UP without one."""
    late_s: float = 0.0
    """What of the latency is the generator's own: it woke so long after the request was due."""


class LoadReport(Line):
    """What the generator says of itself."""

    sent: int
    answered: int
    """With status 200."""
    refused: int
    """With status 503."""
    expired: int
    """With status 504."""
    failed: int
    """Everything else: another status, a broken connection."""
    given_up: int = 0
    """Not answered within `timeout_s`, or never sent for want of a connection."""
    seconds: float
    cpu: float
    """Cores that it used."""
    late_sends: int
    """More than LATE_S after they were due."""
    latest_send_s: float
    late_wakes: int = 0
    """Of the late ones those that the generator itself was late for, not for want of a connection."""
    connections: int
    bottleneck: str | None = None
    """Why the figures are its own rather than the server's; None when they are not."""
    full: str | None = None
    """The same where it could do no more, which spoils all latencies; being late spoils those of the late."""
