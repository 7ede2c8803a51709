"""Watches a worker's pools: saturation with its states, drift, events, and what Prometheus and status are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.runner.pool import Pool
from orchestrator.runner.repair import Repairs
from orchestrator.runner.worker import ServedModel
from orchestrator.serving.surroundings import Surroundings, around
from orchestrator.telemetry.advice import figure
from orchestrator.telemetry.events import Event, EventLog, EventType
from orchestrator.telemetry.look import Memory, Seen, look
from orchestrator.telemetry.recorder import Histogram, HistogramKind, Recorder
from orchestrator.telemetry.report import PoolReport, WorkerReport
from orchestrator.telemetry.saturation import headroom_per_s
from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, Saturation, Window, Yardstick

STEP_S = 0.5  # a state must be seen within 2 s
KINDS: tuple[HistogramKind, ...] = ("latency", "wait", "service")


class Monitor:
    """Follows the pools that `served` returns; `step` is called each STEP_S, everything else at any time."""

    def __init__(
        self, deployment: str, served: Callable[[], Mapping[str, ServedModel]], repairs: Repairs | None = None
    ) -> None:
        self._deployment = deployment
        self._served = served
        self._repairs = repairs
        self._lock = threading.Lock()
        self._log = EventLog(time.time)
        self._memory: dict[str, tuple[Pool, Memory]] = {}
        self._last: dict[str, Seen] = {}
        self._benched: dict[str, tuple[Pool, float]] = {}
        self._healthy: dict[str, bool] = {}
        self._surroundings = Surroundings()
        self.started = time.time()

    def read_host(self) -> None:
        """Read what else the host does; before each `step`, off the event loop."""
        self._surroundings.read()

    def step(self) -> None:
        """Look at every pool once."""
        now = time.monotonic()
        served = self._served()
        snapshots = {name: model.pool.snapshot() for name, model in served.items()}
        for name, model in served.items():
            seen = self._look(name, model, served, snapshots, now)
            self._memory[name], self._last[name] = (model.pool, seen.memory), seen
            for transition in seen.transitions:
                self.event(transition.type, transition.reason, name, transition.message)
            self._follow_health(name, model)
        for name in self._memory.keys() - served.keys():
            del self._memory[name], self._last[name]

    def _look(
        self,
        name: str,
        model: ServedModel,
        served: Mapping[str, ServedModel],
        snapshots: Mapping[str, PoolSnapshot],
        now: float,
    ) -> Seen:
        pool, memory = self._memory.get(name, (model.pool, Memory()))
        if pool is not model.pool:  # another plan, or another file: what was learned of the old one says nothing
            memory = Memory()
        beside = around(name, served, snapshots, self._surroundings.host, self._surroundings.cores)
        return look(memory, snapshots[name], now, yardstick=self._yardstick(model), around=beside)

    def _yardstick(self, served: ServedModel) -> Yardstick:
        plan = served.plan
        pool, benched = self._benched.get(plan.name, (None, None))
        if benched is not None and pool is served.pool:
            return Yardstick(benched, "bench", plan.service_s, plan.batch)
        return Yardstick(plan.capacity_per_s, "plan", plan.service_s, plan.batch)

    def benched(self, name: str, capacity_per_s: float) -> None:
        """Hold the model from now on against a capacity that `orch bench` found, until it is replaced.

        Raise NOT_FOUND for an unknown model, INVALID for a capacity that is no rate.
        """
        model = self._served().get(name)
        if model is None:
            raise OrchError(Kind.NOT_FOUND, f"no model {name!r}", where=self._deployment)
        if not 0 < capacity_per_s < float("inf"):
            raise OrchError(Kind.INVALID, f"a capacity is a positive rate, got {capacity_per_s!r}", where=name)
        self._benched[name] = (model.pool, capacity_per_s)
        self.event(
            "Normal", "CapacityBenched", name, f"a bench found {figure(capacity_per_s)}/s; headroom counts from it"
        )

    def _follow_health(self, name: str, served: ServedModel) -> None:
        healthy = served.pool.healthy
        if healthy != self._healthy.get(name, True):
            if healthy:
                self.event("Normal", "Recovered", name, "inferences end well again")
            else:
                self.event("Warning", "Unhealthy", name, "inferences fail or hang; `orch logs` may say why")
        self._healthy[name] = healthy

    def _complaint(self, name: str) -> str:
        """Say what is wrong with a bad pool, and what is done about it."""
        done = "" if self._repairs is None else f"; {self._repairs.said(name)}"
        return f"inferences fail or hang{done}"

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
        last = self._last.get(name)
        return None if last is None else last.saturation

    def saturation_value(self, name: str) -> float | None:
        """Return the figure alone, rounded for an answer."""
        last = self._last.get(name)
        return None if last is None else round(last.saturation.value, 3)

    def report(self, plan: DeploymentPlan | None, versions: tuple[str, str]) -> WorkerReport:
        """Return what Prometheus is told."""
        digest = plan.digest() if plan else ""
        pools = tuple(self._pool_report(served, digest) for _, served in sorted(self._served().items()))
        return WorkerReport(self._deployment, self.started, *versions, pools, self._surroundings.host)

    def _pool_report(self, served: ServedModel, digest: str) -> PoolReport:
        snapshot = served.pool.snapshot()
        seen, yardstick = self._seen(served, snapshot), self._yardstick(served)
        return PoolReport(
            snapshot=snapshot,
            saturation=seen.saturation,
            histograms=served.pool.observe(_histograms),
            device=",".join(served.actual.execution_devices) or served.plan.device,
            plan=digest,
            streams=served.actual.streams,
            in_slo_total=served.pool.observe(lambda recorder: recorder.in_slo_total),
            capacity_per_s=yardstick.capacity_per_s,
            headroom_per_s=headroom_per_s(snapshot, yardstick.capacity_per_s, seen.saturation.state),
            drift=seen.drift,
            refused=dict(served.pool.causes),
            executions=served.pool.observe(lambda recorder: recorder.executions()),
            healthy=served.pool.healthy,
            rebuilt=0 if self._repairs is None else self._repairs.course(served.plan.name).rebuilt,
        )

    def _seen(self, served: ServedModel, snapshot: PoolSnapshot) -> Seen:
        """Return what the last step saw, or what there is to see now where there was none."""
        last = self._last.get(served.plan.name)
        return last or look(Memory(), snapshot, time.monotonic(), yardstick=self._yardstick(served))

    def model_status(self, served: ServedModel) -> dict[str, Any]:
        """Return the model's part of the status contract (DESIGN.md section 7)."""
        snapshot = served.pool.snapshot()
        seen, yardstick = self._seen(served, snapshot), self._yardstick(served)
        headroom = headroom_per_s(snapshot, yardstick.capacity_per_s, seen.saturation.state)
        healthy = served.pool.healthy
        return {
            "name": served.plan.name,
            "version": served.plan.version,
            "state": "Draining" if served.pool.draining else "Serving" if healthy else "Failing",
            "message": None if healthy else self._complaint(served.plan.name),
            "rebuilt": 0 if self._repairs is None else self._repairs.course(served.plan.name).rebuilt,
            "device": served.plan.device,
            "requested_device": served.plan.requested,
            "degraded": served.plan.degraded,
            "execution_devices": list(served.actual.execution_devices),
            "plan": _plan(served, snapshot),
            "slo": _slo(served.plan),
            "priority": served.plan.priority,
            "observed": _observed(snapshot),
            "saturation": _saturation(seen.saturation),
            "drift": _drift(seen),
            "capacity_per_s": yardstick.capacity_per_s,
            "capacity_from": yardstick.capacity_from if yardstick.capacity_per_s is not None else None,
            "headroom_per_s": None if headroom is None else round(headroom, 2),
            "reasons": [reason.model_dump() for reason in served.plan.reasons],
            "warnings": list(served.plan.warnings),
        }


def _saturation(measured: Saturation) -> dict[str, Any]:
    return {
        "value": round(measured.value, 4),
        "state": measured.state,
        "cause": measured.cause,
        "origin": measured.origin,
        "advice": measured.advice or None,
        "terms": {name: round(value, 4) for name, value in measured.terms.items()},
    }


def _drift(seen: Seen) -> dict[str, Any]:
    """Return how long inferences take against how long they should; null where that is not known."""
    drift = seen.drift
    return {
        "drifted": drift.drifted,
        "ratio": None if drift.ratio is None else round(drift.ratio, 3),
        "observed_ms": _rounded_ms(drift.observed_s),
        "expected_ms": _rounded_ms(drift.expected_s),
        "expected_from": drift.source,
        "origin": drift.origin,
        "advice": seen.drift_advice or None,
    }


def _rounded_ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


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
        "planned_service_ms": _rounded_ms(plan.service_s),
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
    return {name: _rounded_ms(value) for name, value in asdict(quantiles).items()}
