"""Build pool snapshots for tests: valid defaults, override one thing."""

from __future__ import annotations

from typing import Any

from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, Totals, Window


def flat(seconds: float | None) -> Quantiles:
    return Quantiles(seconds, seconds, seconds)


def a_window(**changes: Any) -> Window:
    """Ten seconds at 60 requests/s, all answered at once."""
    values: dict[str, Any] = {
        "seconds": 10.0,
        "arrivals": 600,
        "completed": 600,
        "in_slo": 600,
        "rejected": 0,
        "expired": 0,
        "failed": 0,
        "busy_s": 6.0,
        "latency": flat(0.011),
        "wait": flat(0.001),
        "service": flat(0.010),
        "rows_per_batch": 1.0,
    }
    return Window(**(values | changes))


def a_snapshot(**changes: Any) -> PoolSnapshot:
    """Two requests of 10 ms, so at most 200/s, with an SLO of 40 ms at p99 for 60/s."""
    values: dict[str, Any] = {
        "model": "detector",
        "version": "1",
        "requests": 2,
        "batch": 1,
        "in_flight": 1,
        "queued": 0,
        "receiving": 0,
        "queue_limit": 6,
        "queued_bytes": 0,
        "slo_latency_s": 0.040,
        "slo_percentile": 99.0,
        "slo_rate_per_s": 60.0,
        "service_s": 0.010,
        "totals": Totals(accepted=9000, rejected=3, completed=8990, expired=2, cancelled=1, failed=5),
        "window": a_window(),
        "recent": a_window(seconds=2.0, arrivals=120, completed=120, in_slo=120),
    }
    return PoolSnapshot(**(values | changes))


def steady(rate_per_s: float, **changes: Any) -> dict[str, Window]:
    """Return both windows of a load that has not changed for ten seconds."""

    def window(seconds: float) -> Window:
        count = round(rate_per_s * seconds)
        return a_window(**({"seconds": seconds, "arrivals": count, "completed": count, "in_slo": count} | changes))

    return {"window": window(10.0), "recent": window(2.0)}
