"""How many requests may wait in front of a pool: the same bound when serving and when planning."""

from __future__ import annotations

import math

QUEUE_LIMIT_DEFAULT = 128  # without an SLO: enough for the callers of one machine, small enough to be refused in time
QUEUE_LIMIT_MAX = 1000  # with an SLO and a very fast model; more only hides that the pool is full


def queue_bound(
    concurrency: int, rows: int, service_s: float | None, *, slo_latency_s: float | None, limit: int | None = None
) -> int:
    """Return how many requests may wait: the manifest's `limit`, else what can still be answered within the SLO.

    Little's law: while the last one waits its budget (SLO less one service time), `concurrency` requests are served
    each service time.
    """
    if limit is not None:
        return limit
    if slo_latency_s is None or service_s is None:
        return QUEUE_LIMIT_DEFAULT
    budget = max(0.0, slo_latency_s - service_s)
    return min(QUEUE_LIMIT_MAX, max(concurrency, rows, math.ceil(concurrency * budget / max(service_s, 1e-6))))
