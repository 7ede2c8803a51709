"""What a pool looks like at one moment, as plain data: counters, the last seconds, and what is derived from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds; None where nothing was observed."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Requests since the pool was made; each request ends in exactly one of the last five."""

    accepted: int = 0
    rejected: int = 0
    completed: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in the last `seconds`."""

    seconds: float
    arrivals: int
    completed: int
    in_slo: int
    rejected: int
    expired: int
    """In the queue, not while their own bodies came."""
    failed: int
    busy_s: float
    """Seconds of inference summed over all infer requests."""
    latency: Quantiles
    """From arrival to answer."""
    wait: Quantiles
    """From arrival to the start of the inference."""
    service: Quantiles
    """From start to end of the inference."""
    rows_per_batch: float | None = None


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool now."""

    model: str
    version: str
    requests: int
    """Infer requests that may be in flight."""
    batch: int
    in_flight: int
    queued: int
    receiving: int
    """Admitted, with the body still on its way."""
    queue_limit: int
    queued_bytes: int
    slo_latency_s: float | None
    slo_percentile: float | None
    slo_rate_per_s: float | None
    service_s: float | None
    """Present estimate of the time of one inference."""
    totals: Totals
    window: Window
    """The last ten seconds."""
    recent: Window
    """The last second or two, for states that must be seen soon."""


SaturationState = Literal["OK", "BUSY", "SATURATED", "OVERLOADED"]


@dataclass(frozen=True, slots=True)
class Saturation:
    """How full a pool is: `value` 1.0 is full; `cause` names the largest term, for people."""

    value: float
    state: SaturationState
    cause: str
    terms: dict[str, float]
