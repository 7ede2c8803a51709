"""What a worker tells its exporter of itself and of its pools, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.profiling.measurement import Host
from orchestrator.scheduling.ticket import Cause
from orchestrator.telemetry.drift import Drift
from orchestrator.telemetry.recorder import Executions, Histogram, HistogramKind
from orchestrator.telemetry.snapshot import PoolSnapshot, Saturation


@dataclass(frozen=True, slots=True)
class PoolReport:
    """One pool as the exporter sees it."""

    snapshot: PoolSnapshot
    saturation: Saturation
    histograms: Mapping[HistogramKind, Histogram]
    device: str
    """Where it runs, such as `CPU` or `GPU.0,CPU`."""
    plan: str
    """Digest of the plan that it was made from."""
    streams: int | None = None
    in_slo_total: int | None = None
    capacity_per_s: float | None = None
    headroom_per_s: float | None = None
    drift: Drift = field(default_factory=Drift)
    refused: Mapping[Cause, int] = field(default_factory=dict)
    """Requests refused or dropped, by cause."""
    executions: tuple[Executions, ...] = ()
    healthy: bool = True
    rebuilt: int = 0
    """Times that another pool took the place of a bad one."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker as the exporter sees it."""

    deployment: str
    started_epoch_s: float
    orch_version: str
    openvino_version: str
    pools: tuple[PoolReport, ...] = field(default=())
    host: Host = field(default_factory=Host)
    generation: int = 0
    ready: bool = False
    connections: int | None = None
    """Open HTTP connections; None where it serves none."""
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Answers that were errors, by protocol and kind."""
    traces_dropped: int | None = None
    """Requests whose spans were dropped; None where it makes none."""
    certificate_ends_epoch_s: float | None = None
    """When the certificate of the endpoint ends; None without TLS."""
