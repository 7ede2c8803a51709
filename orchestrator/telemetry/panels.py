"""The panels of the dashboard: what is asked of Prometheus, and how an answer is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OF_MODEL = 'deployment=~"$deployment",model=~"$model"'
OF_DEPLOYMENT = 'deployment=~"$deployment"'
BY = "deployment, model"
LEGEND = "{{deployment}}/{{model}}"
STATES = ("OK", "BUSY", "SATURATED", "OVERLOADED")


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel."""

    expr: str
    legend: str = LEGEND


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `unit` is Grafana's name of it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    help: str = ""
    kind: Literal["timeseries", "stat", "state-timeline", "table"] = "timeseries"
    width: int = 8
    steps: tuple[tuple[str, float], ...] = ()
    """Colours from these values on."""
    words: tuple[str, ...] = ()
    """What the values 0, 1, 2 ... mean."""


def _rate(metric: str, by: str = BY, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{OF_MODEL}{more}}}[$__rate_interval]))"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {_rate(metric + '_bucket', BY + ', le')})"


def _max(metric: str, by: str = BY) -> str:
    return f"max by ({by}) ({metric}{{{OF_MODEL}}})"


def _state() -> str:
    """Return 0 for OK to 3 for OVERLOADED."""
    parts = (
        f'{rank} * max by ({BY}) (orch_saturation_state{{{OF_MODEL},state="{state}"}})' for rank, state in _ranked()
    )
    return " + ".join(parts)


def _ranked() -> list[tuple[int, str]]:
    return list(enumerate(STATES))[1:]


_FULL = (("green", 0.0), ("yellow", 0.7), ("red", 1.0))
_IN_SLO = (("red", 0.0), ("yellow", 0.9), ("green", 0.99))
_UP = (("red", 0.0), ("green", 1.0))
_ENDED = 'outcome=~"completed|expired|failed"'


def _stat(
    title: str, unit: str, expr: str, text: str, legend: str = LEGEND, *, steps: tuple[tuple[str, float], ...]
) -> Panel:
    return Panel(title, unit, (Query(expr, legend),), text, "stat", 6, steps)


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Is it well",
        (
            _stat(
                *("Ready", "short", f"min by (deployment) (orch_ready{{{OF_DEPLOYMENT}}})"),
                *("1 while every model answers inferences.", "{{deployment}}"),
                steps=_UP,
            ),
            _stat(
                *("Answered within the SLO", "percentunit"),
                f"{_rate('orch_requests_in_slo_total')} / {_rate('orch_requests_total', BY, ',' + _ENDED)}",
                "Of the admitted requests.",
                steps=_IN_SLO,
            ),
            _stat(
                *("p99 against the SLO", "percentunit"),
                f"{_quantile(0.99, 'orch_request_latency_seconds')} / {_max('orch_slo_latency_seconds')}",
                "Above 100 % a p99 SLO is missed.",
                steps=_FULL,
            ),
            _stat(
                *("How full", "percentunit", _max("orch_saturation_ratio"), "By the fullest term; 100 % is full."),
                steps=_FULL,
            ),
        ),
    ),
    (
        "Load",
        (
            Panel(
                *("Requests by outcome", "reqps", (Query(_rate("orch_requests_total", "outcome"), "{{outcome}}"),)),
                "Each request ends in exactly one.",
            ),
            Panel(
                *("Goodput", "reqps"),
                (
                    Query(_rate("orch_requests_in_slo_total")),
                    Query(_rate("orch_requests_total"), LEGEND + " all"),
                    Query(_max("orch_capacity_requests_per_second"), LEGEND + " capacity"),
                    Query(_max("orch_slo_requests_per_second"), LEGEND + " SLO's rate"),
                ),
                "Answers within the SLO, against everything that ended, what was measured, and what was promised.",
            ),
            Panel(
                *("Refusals by reason", "reqps"),
                (Query(_rate("orch_requests_refused_total", "model, reason") + " > 0", "{{model}} {{reason}}"),),
                "Refused at admission, or dropped before the inference.",
            ),
            Panel(
                *("Error answers by kind", "reqps"),
                (
                    Query(
                        f"sum by (deployment, kind) (rate(orch_error_answers_total{{{OF_DEPLOYMENT}}}"
                        "[$__rate_interval])) > 0",
                        "{{deployment}} {{kind}}",
                    ),
                ),
                "Also those that no pool saw: unknown models, wrong tokens, quotas.",
            ),
            Panel(
                *("Headroom", "reqps", (Query(_max("orch_headroom_requests_per_second")),)),
                "Arrivals to spare before the SLO breaks; nothing where no capacity was measured.",
            ),
            Panel(
                *("Beyond the SLO", "percentunit"),
                (
                    Query(f"max by ({BY}) (orch:slo_errors:ratio_rate1h{{{OF_MODEL}}})", LEGEND + " 1h"),
                    Query(f"max by ({BY}) (orch:slo_errors:ratio_rate6h{{{OF_MODEL}}})", LEGEND + " 6h"),
                    Query(f"1 - {_max('orch_slo_share_ratio')}", LEGEND + " allowed"),
                ),
                "Of the admitted requests, by the recording rules of alerts.yaml.",
            ),
        ),
    ),
    (
        "Time",
        (
            Panel(
                *("Latency against the SLO", "s"),
                (
                    Query(_quantile(0.5, "orch_request_latency_seconds"), LEGEND + " p50"),
                    Query(_quantile(0.99, "orch_request_latency_seconds"), LEGEND + " p99"),
                    Query(_max("orch_slo_latency_seconds"), LEGEND + " SLO"),
                ),
                "From a request's arrival to its answer.",
            ),
            Panel(
                *("Waiting", "s"),
                (
                    Query(_quantile(0.5, "orch_queue_wait_seconds"), LEGEND + " p50"),
                    Query(_quantile(0.99, "orch_queue_wait_seconds"), LEGEND + " p99"),
                ),
                "From a request's arrival to the start of its inference.",
            ),
            Panel(
                *("Inference", "s"),
                (
                    Query(_quantile(0.5, "orch_inference_seconds"), LEGEND + " p50"),
                    Query(_quantile(0.99, "orch_inference_seconds"), LEGEND + " p99"),
                    Query(_max("orch_inference_expected_seconds"), LEGEND + " expected"),
                ),
                "One inference; expected is the median as planned.",
            ),
        ),
    ),
    (
        "How full, and why",
        (
            Panel(*("State", "short", (Query(_state()),), "Of the pool.", "state-timeline", 12, (), STATES)),
            Panel(
                *("Saturation by term", "percentunit"),
                (Query(_max("orch_saturation_term_ratio", "model, term"), "{{model}} {{term}}"),),
                "The figure is the largest of these.",
                width=12,
                steps=_FULL,
            ),
            Panel(
                *("Cause", "short"),
                (Query(f"{_max('orch_saturation_cause', 'model, cause')} == 1", "{{model}} {{cause}}"),),
                "Why a pool is full or slow.",
            ),
            Panel(
                *("Queue", "short"),
                (
                    Query(f"sum by ({BY}) (orch_requests_queued{{{OF_MODEL}}})", LEGEND + " waiting"),
                    Query(f"sum by ({BY}) (orch_inferences_in_flight{{{OF_MODEL}}})", LEGEND + " in flight"),
                    Query(f"sum by ({BY}) (orch_queue_limit_requests{{{OF_MODEL}}})", LEGEND + " limit"),
                ),
            ),
            Panel(
                *("Batch", "short"),
                (
                    Query(f"{_rate('orch_batch_rows_sum')} / {_rate('orch_batch_rows_count')}", LEGEND + " mean"),
                    Query(_quantile(0.95, "orch_batch_rows"), LEGEND + " p95"),
                    Query(_max("orch_batch_limit_rows"), LEGEND + " limit"),
                ),
                "Rows that share one inference.",
            ),
            Panel(
                *("Infer requests in use", "percentunit"),
                (Query(f"{_rate('orch_inference_busy_seconds_total')} / {_max('orch_infer_requests')}"),),
                "Share of the time that infer requests were taken.",
            ),
            Panel(
                *("Inferences against the plan", "short", (Query(_max("orch_inference_drift_ratio")),)),
                "Times as long as they should take; above 1.25 is an alert.",
            ),
            Panel(
                *("Cores taken by others", "percentunit"),
                (
                    Query(
                        f"max by (deployment, taken_by) (orch_host_cpu_ratio{{{OF_DEPLOYMENT}}})",
                        "{{deployment}} {{taken_by}}",
                    ),
                ),
                "Of the worker's cores.",
            ),
        ),
    ),
    (
        "Operations",
        (
            Panel(
                *("Health", "short"),
                (Query(f"orch_deployment_health{{{OF_DEPLOYMENT}}} == 1", "{{deployment}} {{health}}"),),
                "As `orch status` says it; from the agent.",
                *("table", 8),
            ),
            Panel(
                *("Revisions", "short"),
                (
                    Query(f"orch_deployment_applied_revision{{{OF_DEPLOYMENT}}}", "{{deployment}} applied"),
                    Query(f"orch_deployment_attempted_revision{{{OF_DEPLOYMENT}}}", "{{deployment}} attempted"),
                ),
                "Apart while the last change has failed.",
            ),
            Panel(
                *("Restarts and rebuilds in an hour", "short"),
                (
                    Query(
                        f"increase(orch_deployment_worker_restarts_total{{{OF_DEPLOYMENT}}}[1h])",
                        "{{deployment}} worker restarted",
                    ),
                    Query(f"sum by ({BY}) (increase(orch_pool_rebuilds_total{{{OF_MODEL}}}[1h]))", LEGEND + " rebuilt"),
                ),
            ),
            Panel(
                *("Sources: silent for", "s"),
                (Query("time() - orch_source_silent_since_timestamp_seconds", "{{source}}"),),
            ),
            Panel(
                *("Sources: not applied, held", "short"),
                (
                    Query("orch_source_held_deployments", "{{source}} held"),
                    Query("1 - orch_source_ready", "{{source}} not applied"),
                ),
            ),
            Panel(
                *("Workers: uptime", "s"),
                (Query(f"time() - orch_worker_start_time_seconds{{{OF_DEPLOYMENT}}}", "{{deployment}}"),),
            ),
            Panel(
                *("Memory", "bytes"),
                (Query('process_resident_memory_bytes{job=~"orch|orch-agent"}', "{{job}} {{instance}}"),),
            ),
            Panel(
                *("CPU", "short"),
                (
                    Query(
                        'rate(process_cpu_seconds_total{job=~"orch|orch-agent"}[$__rate_interval])',
                        "{{job}} {{instance}}",
                    ),
                ),
                "Cores.",
            ),
            Panel(
                *("Connections", "short", (Query(f"orch_http_connections{{{OF_DEPLOYMENT}}}", "{{deployment}}"),)),
                "HTTP connections that are open.",
            ),
        ),
    ),
)
