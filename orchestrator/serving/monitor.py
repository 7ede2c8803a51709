"""Watches a worker's pools: saturation with its states, events, and what Prometheus and status are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.runner.worker import ServedModel
from orchestrator.telemetry.events import Event, EventLog, EventType
from orchestrator.telemetry.prometheus import PoolReport, WorkerReport
from orchestrator.telemetry.recorder import Histogram, HistogramKind, Recorder
from orchestrator.telemetry.saturation import StateMemory, headroom_per_s, saturation, step
from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, Saturation, Window

STEP_S = 0.5  # a state must be seen within 2 s
KINDS: tuple[HistogramKind, ...] = ("latency", "wait", "service")


class Monitor:
    """Follows the pools that `served` returns; `step` is called each STEP_S, everything else at any time."""

    def __init__(self, deployment: str, served: Callable[[], Mapping[str, ServedModel]]) -> None:
        self._deployment = deployment
        self._served = served
        self._lock = threading.Lock()
        self._log = EventLog(time.time)
        self._memory: dict[str, StateMemory] = {}
        self._last: dict[str, Saturation] = {}
        self._healthy: dict[str, bool] = {}
        self.started = time.time()

    def step(self) -> None:
        """Look at every pool once."""
        now = time.monotonic()
        for name, served in self._served().items():
            memory, measured, transition = step(
                self._memory.get(name, StateMemory()),
                served.pool.snapshot(),
                now,
                capacity_per_s=served.plan.capacity_per_s,
            )
            self._memory[name], self._last[name] = memory, measured
            if transition is not None:
                self.event(transition.type, transition.reason, name, transition.message)
            self._follow_health(name, served)
        for name in self._memory.keys() - self._served().keys():
            del self._memory[name], self._last[name]

    def _follow_health(self, name: str, served: ServedModel) -> None:
        healthy = served.pool.healthy
        if healthy != self._healthy.get(name, True):
            if healthy:
                self.event("Normal", "Recovered", name, "inferences end well again")
            else:
                self.event("Warning", "Unhealthy", name, "inferences fail or hang; `orch logs` may say why")
        self._healthy[name] = healthy

    def event(self, kind: EventType, reason: str, model: str | None, message: str) -> None:
        """Note an event of the deployment or of one of its models."""
        with self._lock:
            self._log.add(kind, reason, f"{self._deployment}/{model}" if model else self._deployment, message)

    def events(self, after: int = 0) -> tuple[Event, ...]:
        """Return the events after `after`."""
        with self._lock:
            return self._log.since(after)

    def saturation(self, name: str) -> Saturation | None:
        """Return how full the pool was at the last step."""
        return self._last.get(name)

    def saturation_value(self, name: str) -> float | None:
        """Return the figure alone, rounded for an answer."""
        last = self._last.get(name)
        return None if last is None else round(last.value, 3)

    def report(self, plan: DeploymentPlan | None, versions: tuple[str, str]) -> WorkerReport:
        """Return what Prometheus is told."""
        digest = plan.digest() if plan else ""
        pools = tuple(self._pool_report(served, digest) for _, served in sorted(self._served().items()))
        return WorkerReport(self._deployment, self.started, *versions, pools)

    def _pool_report(self, served: ServedModel, digest: str) -> PoolReport:
        snapshot = served.pool.snapshot()
        return PoolReport(
            snapshot=snapshot,
            saturation=self._measured(served, snapshot),
            histograms=served.pool.observe(_histograms),
            device=",".join(served.actual.execution_devices) or served.plan.device,
            plan=digest,
            streams=served.actual.streams,
            in_slo_total=served.pool.observe(lambda recorder: recorder.in_slo_total),
            headroom_per_s=headroom_per_s(snapshot, served.plan.capacity_per_s),
        )

    def _measured(self, served: ServedModel, snapshot: PoolSnapshot) -> Saturation:
        """Return how full the pool was at the last step, or is now where there was none."""
        last = self._last.get(served.plan.name)
        return last or saturation(snapshot, capacity_per_s=served.plan.capacity_per_s)

    def model_status(self, served: ServedModel) -> dict[str, Any]:
        """Return the model's part of the status contract (DESIGN.md section 7)."""
        snapshot = served.pool.snapshot()
        measured = self._measured(served, snapshot)
        headroom = headroom_per_s(snapshot, served.plan.capacity_per_s)
        healthy = served.pool.healthy
        return {
            "name": served.plan.name,
            "version": served.plan.version,
            "state": "Draining" if served.pool.draining else "Serving" if healthy else "Failing",
            "message": None if healthy else "inferences fail or hang",
            "device": served.plan.device,
            "requested_device": served.plan.requested,
            "degraded": served.plan.degraded,
            "execution_devices": list(served.actual.execution_devices),
            "plan": _plan(served, snapshot),
            "slo": _slo(served.plan),
            "priority": served.plan.priority,
            "observed": _observed(snapshot),
            "saturation": {
                "value": round(measured.value, 4),
                "state": measured.state,
                "cause": measured.cause,
                "terms": {name: round(value, 4) for name, value in measured.terms.items()},
            },
            "capacity_per_s": served.plan.capacity_per_s,
            "headroom_per_s": None if headroom is None else round(headroom, 2),
            "reasons": [reason.model_dump() for reason in served.plan.reasons],
            "warnings": list(served.plan.warnings),
        }


def _histograms(recorder: Recorder) -> dict[HistogramKind, Histogram]:
    return {kind: recorder.histogram(kind) for kind in KINDS}


def _plan(served: ServedModel, snapshot: PoolSnapshot) -> dict[str, Any]:
    """Return plan and read-back side by side: `properties` are the planned ones, `actual` what OpenVINO says."""
    plan, actual = served.plan, served.actual
    return {
        "expression": plan.expression,
        "properties": dict(plan.properties),
        "device_properties": {device: dict(values) for device, values in plan.device_properties.items()},
        "actual": {"properties": dict(actual.properties), "streams": actual.streams, "threads": actual.threads},
        "planned": {"streams": plan.streams, "threads": plan.threads, "requests": plan.requests},
        "streams": actual.streams,
        "threads": actual.threads,
        "batch": plan.batch,
        "requests": snapshot.requests,
        "inline": served.pool.inline,
        "rows_together": served.pool.batch,
        "queue_limit": snapshot.queue_limit,
        "timeout_ms": round(plan.queue.timeout_s * 1000, 3),
        "reason": "; ".join(f"{reason.subject}: {reason.text}" for reason in plan.reasons),
        **plan_proof(plan),
        "checked_service_ms": round(served.checked.service_s * 1000, 3),
    }


def plan_proof(plan: ModelPlan) -> dict[str, Any]:
    """Return what was measured for the plan: whether it is verified, the verdict, the capacity's interval."""
    known = plan.capacity_low_per_s is not None and plan.capacity_high_per_s is not None
    return {
        "verified": plan.verdict == "verified",
        "verdict": plan.verdict,
        "capacity_interval_per_s": [plan.capacity_low_per_s, plan.capacity_high_per_s] if known else None,
        "planned_service_ms": None if plan.service_s is None else round(plan.service_s * 1000, 3),
    }


def _slo(plan: ModelPlan) -> dict[str, float | None] | None:
    if plan.slo is None:
        return None
    return {
        "latency_ms": round(plan.slo.latency_s * 1000, 3),
        "percentile": plan.slo.percentile,
        "rate_per_s": plan.slo.rate_per_s,
    }


def _observed(snapshot: PoolSnapshot) -> dict[str, Any]:
    window = snapshot.window
    seconds = max(window.seconds, 1e-9)
    return {
        "window_s": round(window.seconds, 1),
        "rate_per_s": round(window.arrivals / seconds, 2),
        "goodput_per_s": round(window.in_slo / seconds, 2),
        "latency_ms": _milliseconds(window.latency),
        "wait_ms": _milliseconds(window.wait),
        "service_ms": _milliseconds(window.service),
        "busy": _busy(snapshot, window),
        "in_flight": snapshot.in_flight,
        "queued": snapshot.queued,
        "receiving": snapshot.receiving,
        **{f"{name}_total": count for name, count in asdict(snapshot.totals).items()},
    }


def _busy(snapshot: PoolSnapshot, window: Window) -> float:
    return round(min(1.0, window.busy_s / max(window.seconds * snapshot.requests, 1e-9)), 4)


def _milliseconds(quantiles: Quantiles) -> dict[str, float | None]:
    return {name: None if value is None else round(value * 1000, 3) for name, value in asdict(quantiles).items()}
