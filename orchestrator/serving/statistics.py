"""The statistics extension: what a pool has counted, in the shape that Triton's clients read."""

from __future__ import annotations

from typing import Any, NamedTuple

from orchestrator.telemetry.recorder import Executions, HistogramKind, Recorder
from orchestrator.telemetry.snapshot import Totals

NS = 1_000_000_000
KINDS: tuple[HistogramKind, ...] = ("latency", "wait", "service")


class Counted(NamedTuple):
    """What a recorder knows since its pool began; seconds, summed over the answered requests."""

    totals: Totals
    latency_s: float
    wait_s: float
    service_s: float
    executions: tuple[Executions, ...]
    last: float | None
    """When the last inference ended, on the pool's clock."""


def counted(recorder: Recorder) -> Counted:
    """Read a recorder, for `Pool.observe`."""
    latency, wait, service = (recorder.histogram(kind).sum_s for kind in KINDS)
    return Counted(recorder.totals(), latency, wait, service, recorder.executions(), recorder.last_inference)


def model_statistics(name: str, version: str, seen: Counted, last_inference_ms: int) -> dict[str, Any]:
    """Return one entry of `model_stats`; the same keys make JSON and protobuf.

    Inputs are received where the engine reads them, and a request's time ends when the engine's does, so compute_input
    and compute_output take no time of their own. Requests that were refused, expired, cancelled or failed are counted
    as `fail`, not timed.
    """
    totals = seen.totals
    answered = totals.completed
    batches = seen.executions
    return {
        "name": name,
        "version": version,
        "last_inference": last_inference_ms,
        "inference_count": sum(each.rows * each.inferences for each in batches),
        "execution_count": sum(each.inferences for each in batches),
        "inference_stats": {
            "success": _duration(answered, seen.latency_s),
            "fail": _duration(totals.rejected + totals.expired + totals.cancelled + totals.failed, 0.0),
            "queue": _duration(answered, seen.wait_s),
            "compute_input": _duration(answered, 0.0),
            "compute_infer": _duration(answered, seen.service_s),
            "compute_output": _duration(answered, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": each.rows,
                "compute_input": _duration(each.inferences, 0.0),
                "compute_infer": _duration(each.inferences, each.busy_s),
                "compute_output": _duration(each.inferences, 0.0),
            }
            for each in batches
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * NS)}
