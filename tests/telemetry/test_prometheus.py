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

from orchestrator.telemetry import reference
from orchestrator.telemetry.prometheus import (
    POOL_METRICS,
    PoolCollector,
    PoolReport,
    WorkerReport,
    make_registry,
    render,
)
from orchestrator.telemetry.recorder import Recorder
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
    allowed |= {"cause", "term", "taken_by"}
    families = registry_of(a_pool_report()).collect()
    assert {label for family in families for sample in family.samples for label in sample.labels} <= allowed


def test_the_documentation_is_generated_from_the_table() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page()
    assert all(metric.help in reference.page() for metric in POOL_METRICS)
