"""What may change of a pool while it runs, and the scheduler's limits that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from orchestrator.scheduling.bound import queue_bound
from orchestrator.scheduling.scheduler import Limits
from orchestrator.scheduling.ticket import PRIORITIES

SHARE_DEFAULT = 0.99  # of the answers that are to be within the SLO, where no percentile is given


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What may change while the pool runs."""

    timeout_s: float
    queue_limit: int | None
    memory_bytes: int
    slo_latency_s: float | None = None
    slo_percentile: float | None = None
    slo_rate_per_s: float | None = None
    priority: str = "default"
    """The class of a request that names none, and the highest that one may name."""
    gather_s: float = 0.0
    """How long a batch may be held back to grow, where a profile shows that it pays."""


def limits_of(settings: PoolSettings, slots: int, sizes: tuple[int, ...], service_s: float | None) -> Limits:
    """Return the limits of a pool whose inferences of full batches take `service_s`; `sizes` as in `Limits`, or one."""
    rows = sizes[-1]
    queue = queue_bound(slots * rows, rows, service_s, slo_latency_s=settings.slo_latency_s, limit=settings.queue_limit)
    percentile = settings.slo_percentile
    return Limits(
        slots,
        rows,
        queue,
        settings.memory_bytes,
        slo_s=inf if settings.slo_latency_s is None else settings.slo_latency_s,
        share=SHARE_DEFAULT if percentile is None else percentile / 100,
        sizes=sizes if len(sizes) > 1 else (),
        gather_s=settings.gather_s,
        priority=PRIORITIES[settings.priority],
    )
