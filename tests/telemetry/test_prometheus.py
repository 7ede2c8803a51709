"""The metrics page is valid for Prometheus' own tool, bounded in series, and documented."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from snapshots import a_snapshot

from orchestrator.scheduling.ticket import Cause
from orchestrator.telemetry import dashboard, reference
from orchestrator.telemetry.agent_page import AgentReport, DeploymentReport, SourceReport, agent_registry
from orchestrator.telemetry.prometheus import POOL_METRICS, PoolCollector, make_registry, render
from orchestrator.telemetry.recorder import Executions, Recorder
from orchestrator.telemetry.report import PoolReport, WorkerReport
from orchestrator.telemetry.saturation import saturation

POOL = {"deployment": "shop-vision", "model": "detector", "version": "1"}


def a_pool_report(**changes: object) -> PoolReport:
    recorder = Recorder(0.0)
    for total_s in (0.004, 0.006, 0.300):
        recorder.completed(1.0, 0.001, 0.003, total_s, True)
    snapshot = a_snapshot()
    values: dict[str, object] = {
        "snapshot": snapshot,
        "saturation": saturation(snapshot, "BUSY"),
        "histograms": {kind: recorder.histogram(kind) for kind in ("latency", "wait", "service")},
        "device": "CPU",
        "plan": "3f9c1e",
        "streams": 2,
        "in_slo_total": 8900,
        "headroom_per_s": 36.8,
    }
    return PoolReport(**(values | changes))  # type: ignore[arg-type]


def a_worker_report(*pools: PoolReport) -> WorkerReport:
    return WorkerReport("shop-vision", 1_795_336_200.0, "0.1.0", "2026.4.1", pools)


def registry_of(*pools: PoolReport) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: a_worker_report(*pools)))
    return registry


def promtool_complaints(text: bytes) -> str:
    # `.ci/promtool` puts it beside the interpreter where the machine has none; without it these tests fail, on purpose.
    promtool = shutil.which("promtool") or str(Path(sys.executable).parent / "promtool")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    return (checked.stdout + checked.stderr).decode() if checked.returncode else ""


def test_promtool_has_nothing_to_complain_about() -> None:
    registry = make_registry(lambda: a_worker_report(a_pool_report()))
    assert promtool_complaints(render(registry)[0]) == ""


def test_promtool_would_complain_about_a_page_that_is_wrong() -> None:
    assert "counter" in promtool_complaints(b"# HELP orch_wrong Wrong.\n# TYPE orch_wrong counter\norch_wrong 1\n")


def test_values_are_those_of_the_snapshot() -> None:
    registry = registry_of(a_pool_report())
    assert registry.get_sample_value("orch_requests_total", POOL | {"outcome": "completed"}) == 8990
    assert registry.get_sample_value("orch_requests_total", POOL | {"outcome": "rejected"}) == 3
    assert registry.get_sample_value("orch_requests_in_slo_total", POOL) == 8900
    assert registry.get_sample_value("orch_queue_limit_requests", POOL) == 6
    assert registry.get_sample_value("orch_slo_share_ratio", POOL) == 0.99
    assert registry.get_sample_value("orch_headroom_requests_per_second", POOL) == 36.8
    assert registry.get_sample_value("orch_model_info", POOL | {"device": "CPU", "plan": "3f9c1e"}) == 1


def test_exactly_one_state_is_one() -> None:
    registry = registry_of(a_pool_report())
    states = {
        state: registry.get_sample_value("orch_saturation_state", POOL | {"state": state})
        for state in ("OK", "BUSY", "SATURATED", "OVERLOADED")
    }
    assert states == {"OK": 0, "BUSY": 1, "SATURATED": 0, "OVERLOADED": 0}


def test_histograms_are_cumulative_and_end_with_all() -> None:
    registry = registry_of(a_pool_report())
    bucket = "orch_request_latency_seconds_bucket"
    counts = [registry.get_sample_value(bucket, POOL | {"le": le}) for le in ("0.0025", "0.005", "0.01", "0.5", "+Inf")]
    assert counts == [0, 1, 2, 3, 3]
    assert registry.get_sample_value("orch_request_latency_seconds_sum", POOL) == 0.310
    assert registry.get_sample_value("orch_request_latency_seconds_count", POOL) == 3


def test_what_is_unknown_is_absent_rather_than_zero() -> None:
    bare = replace(a_snapshot(), slo_latency_s=None, slo_percentile=None, slo_rate_per_s=None)
    text = render(registry_of(a_pool_report(snapshot=bare, headroom_per_s=None, streams=None)))[0].decode()
    assert "orch_slo_" not in text
    assert "orch_headroom" not in text
    assert "orch_streams" not in text


def test_a_worker_without_pools_has_a_page() -> None:
    text = render(registry_of())[0]
    assert b"orch_build_info" in text
    assert promtool_complaints(text) == ""


def test_registering_asks_nothing_of_the_worker() -> None:
    def source() -> WorkerReport:
        raise AssertionError("asked before the first scrape")

    CollectorRegistry().register(PoolCollector(source))


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    registry = registry_of(a_pool_report())
    text, content_type = render(registry, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert {"orch_requests", "orch_build"} <= {family.name for family in parse_openmetrics(text.decode())}
    plain, content_type = render(registry, None)
    assert content_type.startswith("text/plain")
    assert list(text_string_to_metric_families(plain.decode()))


def test_a_hostile_name_cannot_break_the_page() -> None:
    snapshot = replace(a_snapshot(), model='a"b\\c\nd 1')
    text = render(registry_of(a_pool_report(snapshot=snapshot)))[0]
    assert promtool_complaints(text) == ""
    families = list(text_string_to_metric_families(text.decode()))
    assert {sample.labels.get("model") for family in families for sample in family.samples} == {'a"b\\c\nd 1', None}


def test_every_series_has_only_bounded_labels() -> None:
    allowed = {"deployment", "model", "version", "outcome", "state", "le", "device", "plan", "openvino"}
    allowed |= {"cause", "term", "taken_by", "reason", "protocol", "kind"}
    families = registry_of(a_pool_report()).collect()
    assert {label for family in families for sample in family.samples for label in sample.labels} <= allowed


def test_the_documentation_is_generated_from_the_table() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()
    assert all(metric.help in reference.page() for metric in POOL_METRICS)
    assert reference.DASHBOARD.read_text(encoding="utf-8") == dashboard.text()


def test_refusals_are_told_by_reason_from_the_start() -> None:
    registry = registry_of(a_pool_report(refused={Cause.QUEUE_FULL: 3, Cause.CANCELLED: 9}))
    refused = "orch_requests_refused_total"
    assert registry.get_sample_value(refused, POOL | {"reason": "queue_full"}) == 3
    assert registry.get_sample_value(refused, POOL | {"reason": "deadline_unmeetable"}) == 0
    assert registry.get_sample_value(refused, POOL | {"reason": "cancelled"}) is None


def test_batches_are_told_by_their_rows() -> None:
    executions = (Executions(1, 10, 0.5), Executions(3, 4, 0.25), Executions(600, 1, 1.0))
    registry = registry_of(a_pool_report(executions=executions))
    bucket = "orch_batch_rows_bucket"
    assert [registry.get_sample_value(bucket, POOL | {"le": le}) for le in ("1.0", "2.0", "4.0", "512.0", "+Inf")] == [
        *(10, 10, 14, 14),
        15,
    ]
    assert registry.get_sample_value("orch_batch_rows_sum", POOL) == 10 + 12 + 600
    assert registry.get_sample_value("orch_inference_busy_seconds_total", POOL) == 1.75


def test_a_bad_pool_and_what_was_done_for_it_are_told() -> None:
    registry = registry_of(a_pool_report(healthy=False, rebuilt=2))
    assert registry.get_sample_value("orch_pool_healthy", POOL) == 0
    assert registry.get_sample_value("orch_pool_rebuilds_total", POOL) == 2


def test_what_a_worker_has_only_sometimes_is_left_out_and_else_told() -> None:
    names = ("orch_http_connections", "orch_traces_dropped_total", "orch_certificate_not_after_timestamp_seconds")
    registry = CollectorRegistry()
    full = replace(a_worker_report(), connections=7, traces_dropped=0, certificate_ends_epoch_s=1.9e9, ready=True)
    registry.register(PoolCollector(lambda: full))
    labels = {"deployment": "shop-vision"}
    assert [registry.get_sample_value(name, labels) for name in names] == [7, 0, 1.9e9]
    assert [registry_of().get_sample_value(name, labels) for name in names] == [None, None, None]
    assert registry.get_sample_value("orch_ready", labels) == 1


AGENT = AgentReport(
    "0.1.0",
    1_795_336_200.0,
    (DeploymentReport("shop", "Degraded", "Synced", "crash_loop", 4, "site", "3f9c1e", 6, 7, 1.7e9, True),),
    (SourceReport("site", 30.0, False, False, 2, 1.7e9, 1.7e9, None, "3f9c1e", ""),),
)


def test_the_agents_page_is_valid_and_says_what_workers_cannot() -> None:
    registry = agent_registry(AGENT)
    assert promtool_complaints(render(registry)[0]) == ""
    states = "orch_deployment_worker_state"
    assert registry.get_sample_value(states, {"deployment": "shop", "state": "crash_loop"}) == 1
    assert registry.get_sample_value(states, {"deployment": "shop", "state": "running"}) == 0
    assert registry.get_sample_value("orch_deployment_worker_restarts_total", {"deployment": "shop"}) == 4
    assert registry.get_sample_value("orch_deployment_revision_failed", {"deployment": "shop"}) == 1
    origin = {"deployment": "shop", "source": "site", "commit": "3f9c1e"}
    assert registry.get_sample_value("orch_deployment_info", origin) == 1
    assert registry.get_sample_value("orch_source_held_deployments", {"source": "site"}) == 2
    assert registry.get_sample_value("orch_source_applied_timestamp_seconds", {"source": "site"}) is None


def test_an_agent_that_keeps_nothing_has_a_page() -> None:
    assert promtool_complaints(render(agent_registry(AgentReport("0", 1.0)))[0]) == ""
