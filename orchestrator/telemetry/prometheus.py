"""Export the snapshots of a worker's pools to Prometheus, read at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from orchestrator.profiling.measurement import Host
from orchestrator.scheduling.ticket import Cause
from orchestrator.telemetry import saturation
from orchestrator.telemetry.families import Line, families
from orchestrator.telemetry.recorder import Executions, Histogram
from orchestrator.telemetry.report import PoolReport, WorkerReport
from orchestrator.telemetry.snapshot import Origin, SaturationState

STATES: tuple[SaturationState, ...] = ("OK", "BUSY", "SATURATED", "OVERLOADED")
ORIGINS: tuple[Origin, ...] = get_args(Origin)
TERM_LABELS = {
    saturation.OFFERED: "offered",
    saturation.PLANNED: "capacity",
    saturation.WAIT_SLO: "wait_slo",
    saturation.SERVICE_SLO: "inference_slo",
    saturation.WAIT_QUEUE: "wait_queue",
    saturation.REFUSING: "refusing",
}
# A caller that goes away was not refused.
REASONS = {cause: cause.name.lower() for cause in Cause if cause is not Cause.CANCELLED}
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Rows; the last one is what no plan exceeds."""
# Nothing that a client chooses may be a label: the number of series is bounded by the manifest.
POOL_LABELS = ("deployment", "model", "version")


Reading = float | Mapping[str, float] | Mapping[str, str] | Histogram | None
"""A number; numbers by the value of the extra label; the labels of an info; a histogram; None leaves the series out."""


@dataclass(frozen=True, slots=True)
class PoolMetric:
    """One line of the table: a metric that every pool has."""

    name: str
    type: Literal["counter", "gauge", "histogram", "info"]
    help: str
    read: Callable[[PoolReport], Reading]
    label: str | None = None
    """The extra label whose values `read` returns as keys."""


def _outcomes(pool: PoolReport) -> dict[str, float]:
    totals = pool.snapshot.totals
    return {
        "completed": totals.completed,
        "rejected": totals.rejected,
        "expired": totals.expired,
        "cancelled": totals.cancelled,
        "failed": totals.failed,
    }


def _batches(executions: Sequence[Executions]) -> Histogram:
    """Return the inferences by the rows that they carried: bounds and sum are rows, not seconds."""
    counts = [sum(each.inferences for each in executions if each.rows <= bound) for bound in (*BATCH_BOUNDS, inf)]
    rows = sum(each.rows * each.inferences for each in executions)
    return Histogram((*map(float, BATCH_BOUNDS), inf), tuple(counts), float(rows))


def _origin(pool: PoolReport) -> Origin:
    """Return why it is full, or else why it is slow."""
    drifted = pool.saturation.origin == "none" and pool.drift.drifted
    return pool.drift.origin if drifted else pool.saturation.origin


def _host(host: Host) -> dict[str, float]:
    shares = {"others": host.foreign, "hypervisor": host.steal, "quota": host.throttled}
    return shares if host.pressure is None else shares | {"pressure": host.pressure}


def _share(percentile: float | None) -> float | None:
    return None if percentile is None else percentile / 100


# The order of the page and of docs/metrics.md. Names: base units, `_total` for counters, as promtool checks.
POOL_METRICS = (
    PoolMetric(
        *("orch_requests", "counter", "Requests that have ended, by outcome; each ends in exactly one."),
        _outcomes,
        "outcome",
    ),
    PoolMetric(
        *("orch_requests_accepted", "counter", "Requests admitted, whether or not they have ended."),
        lambda pool: pool.snapshot.totals.accepted,
    ),
    PoolMetric(
        *("orch_requests_in_slo", "counter", "Requests answered within the SLO's latency, or at all without an SLO."),
        lambda pool: pool.in_slo_total,
    ),
    PoolMetric(
        *("orch_requests_refused", "counter", "Requests refused, or dropped before their inference, by reason."),
        lambda pool: {label: pool.refused.get(cause, 0) for cause, label in REASONS.items()},
        "reason",
    ),
    PoolMetric(
        *("orch_inferences_in_flight", "gauge", "Inferences running now, at most orch_infer_requests."),
        lambda pool: pool.snapshot.in_flight,
    ),
    PoolMetric(
        *("orch_requests_queued", "gauge", "Requests complete and waiting for an infer request now."),
        lambda pool: pool.snapshot.queued,
    ),
    PoolMetric(
        *("orch_requests_receiving", "gauge", "Requests admitted whose body is still on its way."),
        lambda pool: pool.snapshot.receiving,
    ),
    PoolMetric(
        *("orch_queue_limit_requests", "gauge", "Requests that may wait before others are refused."),
        lambda pool: pool.snapshot.queue_limit,
    ),
    PoolMetric(
        *("orch_queue_bytes", "gauge", "Bytes of tensors that wait now."),
        lambda pool: pool.snapshot.queued_bytes,
    ),
    PoolMetric(
        *("orch_request_latency_seconds", "histogram", "From a request's arrival to its answer."),
        lambda pool: pool.histograms["latency"],
    ),
    PoolMetric(
        *("orch_queue_wait_seconds", "histogram", "From a request's arrival to the start of its inference."),
        lambda pool: pool.histograms["wait"],
    ),
    PoolMetric(
        *("orch_inference_seconds", "histogram", "From the start of a request's inference to its end."),
        lambda pool: pool.histograms["service"],
    ),
    PoolMetric(
        *(
            "orch_batch_rows",
            "histogram",
            "Rows that one inference carried; its count is the inferences that ended well.",
        ),
        lambda pool: _batches(pool.executions),
    ),
    PoolMetric(
        *("orch_inference_busy_seconds", "counter", "Time that infer requests were taken, summed over all of them."),
        lambda pool: sum(each.busy_s for each in pool.executions),
    ),
    PoolMetric(
        *("orch_streams", "gauge", "Streams of the compiled model; absent where the device has none."),
        lambda pool: pool.streams,
    ),
    PoolMetric(
        *("orch_infer_requests", "gauge", "Inferences that may run at the same time."),
        lambda pool: pool.snapshot.requests,
    ),
    PoolMetric(
        *("orch_batch_limit_rows", "gauge", "Rows that may share one inference."),
        lambda pool: pool.snapshot.batch,
    ),
    PoolMetric(
        *("orch_slo_latency_seconds", "gauge", "Latency that the manifest promises; absent without an SLO."),
        lambda pool: pool.snapshot.slo_latency_s,
    ),
    PoolMetric(
        *("orch_slo_share_ratio", "gauge", "Share of requests for which it promises that latency, 0.99 for p99."),
        lambda pool: _share(pool.snapshot.slo_percentile),
    ),
    PoolMetric(
        *("orch_slo_requests_per_second", "gauge", "Arrival rate up to which it promises that latency."),
        lambda pool: pool.snapshot.slo_rate_per_s,
    ),
    PoolMetric(
        *("orch_saturation_ratio", "gauge", "How full the pool is by its fullest term, 1 is full, more is too much."),
        lambda pool: pool.saturation.value,
    ),
    PoolMetric(
        *("orch_saturation_state", "gauge", "1 for the state that the pool is in, 0 for the others."),
        lambda pool: {str(state): float(pool.saturation.state == state) for state in STATES},
        "state",
    ),
    PoolMetric(
        *("orch_saturation_term_ratio", "gauge", "What the figure is the largest of, by term."),
        lambda pool: {TERM_LABELS[name]: value for name, value in pool.saturation.terms.items()},
        "term",
    ),
    PoolMetric(
        *("orch_saturation_cause", "gauge", "1 for why the pool is full or slow, 0 for the others."),
        lambda pool: {str(origin): float(_origin(pool) == origin) for origin in ORIGINS},
        "cause",
    ),
    PoolMetric(
        *("orch_capacity_requests_per_second", "gauge", "Arrival rate measured to hold the SLO; absent if unknown."),
        lambda pool: pool.capacity_per_s,
    ),
    PoolMetric(
        *("orch_headroom_requests_per_second", "gauge"),
        "Arrivals to spare before the SLO breaks: 0 or less while the pool is full, absent if unknown.",
        lambda pool: pool.headroom_per_s,
    ),
    PoolMetric(
        *("orch_inference_drift_ratio", "gauge", "Median inference of the last seconds over what it should take."),
        lambda pool: pool.drift.ratio,
    ),
    PoolMetric(
        *("orch_inference_expected_seconds", "gauge", "Median inference as planned, or of the first steady minute."),
        lambda pool: pool.drift.expected_s,
    ),
    PoolMetric(
        *("orch_inference_observed_seconds", "gauge", "Median inference of the last seconds."),
        lambda pool: pool.drift.observed_s,
    ),
    PoolMetric(
        *("orch_pool_healthy", "gauge", "1 while inferences end well, 0 when they fail or hang."),
        lambda pool: float(pool.healthy),
    ),
    PoolMetric(
        *("orch_pool_rebuilds", "counter", "Times that a pool whose inferences failed or hung was built anew."),
        lambda pool: pool.rebuilt,
    ),
    PoolMetric(
        *("orch_model", "info", "Where the model runs, and the plan that says so; the value is always 1."),
        lambda pool: {"device": pool.device, "plan": pool.plan},
    ),
)

# What a worker has once.
WORKER_METRICS: tuple[Line[WorkerReport], ...] = (
    Line(
        *("orch_host_cpu_ratio", "gauge"),
        "Share of the worker's cores over three seconds, by who took it; pressure: of the time that something waited.",
        ("deployment", "taken_by"),
        lambda worker: {(worker.deployment, taken_by): share for taken_by, share in _host(worker.host).items()},
    ),
    Line(
        *("orch_ready", "gauge"),
        "1 while every model answers inferences, as the health route says; a full pool is ready.",
        ("deployment",),
        lambda worker: {(worker.deployment,): float(worker.ready)},
    ),
    Line(
        *("orch_error_answers", "counter"),
        "Inference requests that were answered with an error, by protocol and kind, also those that no pool saw.",
        ("deployment", "protocol", "kind"),
        lambda worker: {(worker.deployment, *labels): count for labels, count in sorted(worker.errors.items())},
    ),
    Line(
        *("orch_http_connections", "gauge"),
        "HTTP connections that are open.",
        ("deployment",),
        lambda worker: _known(worker, worker.connections),
    ),
    Line(
        *("orch_certificate_not_after_timestamp_seconds", "gauge"),
        "When the certificate of the endpoint ends, in seconds since the epoch; absent without TLS.",
        ("deployment",),
        lambda worker: _known(worker, worker.certificate_ends_epoch_s),
    ),
    Line(
        *("orch_traces_dropped", "counter"),
        "Requests whose spans were dropped because too many waited; absent unless traces are on.",
        ("deployment",),
        lambda worker: _known(worker, worker.traces_dropped),
    ),
    Line(
        *("orch_generation", "gauge"),
        "Generation of the plan that the worker runs; the agent counts those that were wanted.",
        ("deployment",),
        lambda worker: {(worker.deployment,): worker.generation},
    ),
    Line(
        *("orch_worker_start_time_seconds", "gauge"),
        "When the worker started, in seconds since the epoch.",
        ("deployment",),
        lambda worker: {(worker.deployment,): worker.started_epoch_s},
    ),
    Line(
        *("orch_build", "info"),
        "Versions in use; the value is always 1.",
        ("version", "openvino"),
        lambda worker: {(worker.orch_version, worker.openvino_version): 1},
    ),
)


def _known(worker: WorkerReport, number: float | None) -> dict[tuple[str, ...], float]:
    return {} if number is None else {(worker.deployment,): number}


class PoolCollector(Collector):
    """Ask `source` for the worker's report at each scrape and turn it into metric families."""

    def __init__(self, source: Callable[[], WorkerReport]) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples, so that registering asks nothing of the worker."""
        return [_family(metric) for metric in POOL_METRICS]

    def collect(self) -> Iterable[Metric]:
        """Return one family for each line of the tables that has a value."""
        report = self._source()
        for metric in POOL_METRICS:
            family = _family(metric)
            for pool in report.pools:
                _add(family, metric, _label_values(report, pool), metric.read(pool))
            if family.samples:
                yield family
        yield from families(WORKER_METRICS, report)


def make_registry(source: Callable[[], WorkerReport]) -> CollectorRegistry:
    """Return a registry of this worker's metrics: the pools', and the process's own CPU, memory and descriptors."""
    registry = CollectorRegistry()
    registry.register(PoolCollector(source))
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str | None = None) -> tuple[bytes, str]:
    """Return the page and its content type, as OpenMetrics where the Accept header asks for it."""
    encode, content_type = choose_encoder(accept or "")
    return encode(registry), content_type


def _family(metric: PoolMetric) -> Metric:
    labels = [*POOL_LABELS, *([metric.label] if metric.label else [])]
    kinds = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
        "info": InfoMetricFamily,
    }
    family: Metric = kinds[metric.type](metric.name, metric.help, labels=labels)
    return family


def _label_values(report: WorkerReport, pool: PoolReport) -> list[str]:
    return [report.deployment, pool.snapshot.model, pool.snapshot.version]


def _add(family: Metric, metric: PoolMetric, labels: list[str], reading: Reading) -> None:
    if reading is None:
        return
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(reading, Histogram)
        bounds = map(floatToGoString, reading.bounds_s)
        family.add_metric(labels, list(zip(bounds, reading.counts, strict=True)), reading.sum_s)
    elif isinstance(family, InfoMetricFamily):
        assert isinstance(reading, Mapping)
        family.add_metric(labels, {name: str(value) for name, value in reading.items()})
    elif metric.label is not None:
        assert isinstance(reading, Mapping)
        for value, number in reading.items():
            family.add_metric([*labels, value], number)  # type: ignore[attr-defined]
    else:
        family.add_metric(labels, reading)  # type: ignore[attr-defined]
