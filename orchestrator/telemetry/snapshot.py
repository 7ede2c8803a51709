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
    """Requests since the pool was made; each ends as rejected, completed, expired, cancelled or failed."""

    accepted: int = 0
    rejected: int = 0
    completed: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    impossible: int = 0
    """Of the rejected those that no pool could have served: too large, too short of time, or while it was replaced."""


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
    nbytes: int = 0
    """Bytes of tensors that the arrivals carried, where their callers say."""
    refused_tenths: int = 0
    """Of the last twenty tenths of a second, whatever the window: those in which something was refused or expired."""


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

Origin = Literal["none", "demand", "bursts", "slo", "host", "steal", "throttling", "neighbour", "input", "model"]
"""Why a pool is full or slow. `demand`: more is asked than it can do; `bursts`: on average it fits; `slo`: one
inference takes longer than the SLO. The others make inferences slower than planned: other processes of the host, its
hypervisor, the cgroup's quota, another model of the worker, larger inputs; `model` where none of these is seen."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """How full a pool is: `value` 1.0 is full; `cause` names the largest term, for people."""

    value: float
    state: SaturationState
    cause: str
    terms: dict[str, float]
    origin: Origin = "none"
    advice: str = ""
    """What to do, with numbers; empty where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What was measured before, against which a pool is held; None where nothing was."""

    capacity_per_s: float | None = None
    """Arrival rate up to which the SLO was measured to hold."""
    capacity_from: Literal["plan", "bench"] = "plan"
    service_s: float | None = None
    """Median of one inference with all requests in flight."""
    rows: int = 1
    """That one inference carried then."""
