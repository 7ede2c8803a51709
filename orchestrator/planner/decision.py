"""What measuring decided for one model: the arm, its capacity, the proof, and why the others were not taken."""

from __future__ import annotations

from orchestrator.planner.plan import Frozen
from orchestrator.profiling.measurement import Arm, Proof, ReadBack, Verdict


class Capacity(Frozen):
    """The largest arrival rate at which an arm holds the SLO, predicted; requests a second."""

    per_s: float
    low_per_s: float
    high_per_s: float
    formula_per_s: float | None = None
    """The closed formula's figure, as a cross-check."""


class Rejected(Frozen):
    """An arm that was not taken, and why in one line."""

    arm: Arm
    reason: str
    capacity: Capacity | None = None
    streams: int | None = None
    """Of the compiled model; None where it was not compiled."""
    service_s: float | None = None
    """Median of one inference with all requests in flight."""
    alone_s: float | None = None
    """Median of one inference that finds the pool idle."""
    per_s: float | None = None
    """Closed-loop throughput in rows a second."""
    inflation: float = 1.0
    """By what the capacity takes service times to be longer than measured, because a proof showed it."""


class Decision(Frozen):
    """The outcome of planning one model by measurement."""

    model: str
    model_sha256: str
    arm: Arm
    actual: ReadBack
    capacity: Capacity | None
    """None where no SLO was given."""
    service_s: float
    """Median of one inference with all requests in flight."""
    service_p99_s: float
    alone_s: float
    """Median of one inference that finds the pool idle: the floor of any latency."""
    per_s: float
    """Closed-loop throughput in rows a second."""
    verdict: Verdict
    reason: str = ""
    """Why it is that verdict, in one line."""
    inflation: float = 1.0
    """By what the capacity takes service times to be longer than measured, because a proof showed it."""
    stretch: float = 1.0
    """By what capacities take latencies to be longer than service times explain, because the proof showed it."""
    proof: Proof | None = None
    floor_s: float | None = None
    """The lowest latency at the SLO's percentile that any arm reached unloaded."""
    rejected: tuple[Rejected, ...] = ()
    sentences: tuple[str, ...] = ()
    """The explanation in plain sentences with numbers, `what would change it` last."""
    resolution: float | None = None
    front_end_s: float = 0.0
    """CPU time of the server for each request that the capacity counts with; 0 where it was not said."""
    seconds: float = 0.0
    """How long deciding took."""
    compiled: int = 0
    """Arms that were compiled."""
