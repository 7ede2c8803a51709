"""A StatusList as the contract of DESIGN.md section 7 has it, for tests of what is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

DETECTOR: dict[str, Any] = {
    "name": "detector",
    "state": "Serving",
    "device": "CPU",
    "execution_devices": ["CPU"],
    "plan": {
        "expression": "explicit",
        "properties": {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"},
        "streams": 2,
        "threads": 2,
        "batch": 1,
        "requests": 2,
        "reason": "2 cores, 2 streams",
        "verified": True,
        "verdict": "verified",
        "capacity_interval_per_s": [90.0, 100.0],
    },
    "slo": {"latency_ms": 40.0, "percentile": 99.0, "rate_per_s": 60.0},
    "observed": {
        "window_s": 10,
        "rate_per_s": 58.2,
        "goodput_per_s": 58.2,
        "latency_ms": {"p50": 9.1, "p95": 16.0, "p99": 21.3},
        "in_flight": 2,
        "queued": 0,
        "accepted_total": 9000,
        "completed_total": 8990,
        "cancelled_total": 8,
        "rejected_total": 0,
        "expired_total": 0,
        "failed_total": 0,
    },
    "saturation": {"value": 0.61, "state": "OK", "cause": "offered load"},
    "capacity_per_s": 95.0,
    "headroom_per_s": 36.8,
}

EMBEDDER: dict[str, Any] = {
    "name": "embedder",
    "state": "Serving",
    "device": "AUTO:GPU,CPU",
    "execution_devices": ["GPU", "CPU"],
    "plan": {
        "expression": "hint",
        "properties": {"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"},
        "streams": None,
        "threads": None,
        "batch": 1,
        "requests": 8,
        "reason": "MULTI is planned as AUTO",
        "verified": True,
    },
    "slo": {"latency_ms": 20.0, "percentile": 95.0, "rate_per_s": None},
    "observed": {
        "window_s": 10,
        "rate_per_s": 412.0,
        "goodput_per_s": 310.4,
        "latency_ms": {"p50": 11.0, "p95": 31.5, "p99": 88.0},
        "in_flight": 8,
        "queued": 31,
        "accepted_total": 123456,
        "rejected_total": 7,
        "expired_total": 3,
        "failed_total": 0,
    },
    "saturation": {"value": 1.04, "state": "SATURATED", "cause": "queue wait"},
    "capacity_per_s": None,
    "headroom_per_s": None,
}

ITEMS: list[dict[str, Any]] = [
    {
        "metadata": {"name": "shop-vision", "generation": 4},
        "revision": {"number": 4, "source": "file", "commit": None},
        "sync": "Synced",
        "health": "Healthy",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Serving",
                "message": "2 models serve",
                "lastTransitionTime": "2026-03-01T09:00:00Z",
                "observedGeneration": 4,
            }
        ],
        "endpoint": {"http": "http://127.0.0.1:8000", "grpc": "127.0.0.1:8001"},
        "worker": {"pid": 4711, "restarts": 0, "started": "2026-03-01T09:00:00Z"},
        "models": [DETECTOR, EMBEDDER],
    },
    {
        "metadata": {"name": "line-7", "generation": 1},
        "revision": {"number": 1, "source": "file", "commit": None},
        "sync": "OutOfSync",
        "health": "Missing",
        "conditions": [],
        "endpoint": {"http": "http://127.0.0.1:8010", "grpc": None},
        "worker": {"pid": None, "restarts": 3, "started": None},
        "models": [
            {
                "name": "counter",
                "state": "Missing",
                "device": "GPU",
                "execution_devices": [],
                "plan": {
                    "expression": "explicit",
                    "properties": {"NUM_STREAMS": "2"},
                    "streams": 2,
                    "threads": None,
                    "batch": 4,
                    "requests": 4,
                    "reason": "16 cameras",
                    "verified": False,
                },
                "slo": None,
                "observed": None,
                "saturation": None,
                "capacity_per_s": None,
                "headroom_per_s": None,
            }
        ],
    },
]
