"""One real agent and worker, watched by a real Prometheus and OTLP receiver: what is told is what is asked for."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import yaml
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import use_span
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from orchestrator.client import Client
from orchestrator.telemetry import dashboard
from orchestrator.telemetry.agent_page import AGENT_METRICS
from orchestrator.telemetry.panels import Query
from orchestrator.telemetry.prometheus import POOL_LABELS, POOL_METRICS, WORKER_METRICS
from tests.e2e.conftest import ROOT, Home
from tests.observability.collector import Collector
from tests.observability.prometheus_tools import RULES, Prometheus, free_port, program, prometheus, promtool

SLO = "slo: {latency: 500ms, percentile: 99, rate: 5/s}"
# What only some workers and agents have.
SOMETIMES = {
    *("orch_capacity_requests_per_second", "orch_headroom_requests_per_second"),  # a measured plan
    *("orch_inference_drift_ratio", "orch_inference_expected_seconds", "orch_inference_observed_seconds"),  # a minute
    "orch_saturation_term_ratio",  # enough requests
    "orch_certificate_not_after_timestamp_seconds",
    "orch_source_silent_since_timestamp_seconds",
}
FOREIGN = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
IMAGE = np.zeros((1, 1, 8, 8), np.float32)


@dataclass
class Site:
    """What the tests look at."""

    home: Home
    collector: Collector
    http: str
    grpc: str
    agent: str

    def page(self, address: str) -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "manifests").mkdir()
    shutil.copy(ROOT / "deployments/models/digits.onnx", folder / "manifests")
    home, collector = Home(folder), Collector()
    agent = f"127.0.0.1:{free_port()}"
    home.environ = {
        "ORCH_AGENT_METRICS": agent,
        "ORCH_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    try:
        (folder / home.manifest("shop", SLO)).rename(folder / "manifests" / "shop.yaml")
        home.orch("source", "add", "site", "--folder", "manifests", "--interval", "1s")
        home.orch("source", "reconcile", "site")
        endpoint = home.status("shop")["endpoint"]
        yield Site(home, collector, endpoint["http"].removeprefix("http://"), endpoint["grpc"], agent)
    finally:
        home.end()
        collector.close()


def infer(site: Site, count: int = 1) -> None:
    with Client(f"http://{site.http}") as client:
        for _ in range(count):
            client.infer("digits", {"image": IMAGE})


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Return every query of the dashboard as Grafana would send it, with all deployments and models."""
    filled = (query.expr.replace("$deployment", ".*").replace("$model", ".*") for query in exprs())
    return [expr.replace("$__rate_interval", "5s") for expr in filled]


def exprs() -> list[Query]:
    return [query for panel in dashboard.panels() for query in panel.queries]


def exported() -> dict[str, set[str]]:
    """Return the names that queries may use, with their labels, by the tables of the exporters."""
    tables = {line.exported: set(line.labels) for line in (*WORKER_METRICS, *AGENT_METRICS)}
    for metric in POOL_METRICS:
        labels = {*POOL_LABELS, *({metric.label} if metric.label else ())}
        suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
        for suffix in suffixes.get(metric.type, [""]):
            tables[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return tables


def test_rules_and_dashboard_name_only_what_is_exported_with_labels_that_it_has() -> None:
    known = exported() | {rule["record"]: set(POOL_LABELS) for rule in rules() if "record" in rule}
    known |= {name: {"job", "instance"} for name in FOREIGN}
    for expr in [*(rule["expr"] for rule in rules()), *queries()]:
        used = re.findall(r"((?:orch|process)_[a-z0-9_]+|orch:[a-z0-9_:]+|\bup\b)(?:\{([^}]*)\})?", expr)
        assert used, expr
        for name, matchers in used:
            assert name in known, f"{name} in {expr}"
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= known[name], f"{name} in {expr}"


def test_the_pages_have_every_metric_of_the_tables_and_no_other(site: Site) -> None:
    infer(site, 3)
    told = set()
    for address in (site.http, site.agent):
        page = site.page(address)
        families = list(text_string_to_metric_families(page))
        told |= {sample.name for family in families for sample in family.samples if sample.name.startswith("orch")}
    told = {name for name in told if not name.endswith("_created")}
    ours = set(exported())
    assert told - ours == set()
    assert ours - told <= SOMETIMES


def test_promtool_accepts_both_pages_and_what_the_command_prints(site: Site) -> None:
    import subprocess

    pages = [site.page(site.http), site.page(site.agent), site.home.orch("agent", "metrics").stdout]
    for page in pages:
        command = [program("promtool"), "check", "metrics"]
        ran = subprocess.run(command, input=page, capture_output=True, text=True, timeout=30, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_real_prometheus_evaluates_every_rule_and_answers_every_query_of_the_dashboard(
    site: Site, tmp_path: Path
) -> None:
    with prometheus(tmp_path, {"orch": site.http, "orch-agent": site.agent}) as server:

        def scraped() -> bool:
            infer(site, 3)
            rates = server.query('rate(orch_requests_in_slo_total{model="digits"}[5s]) > 0')
            return bool(rates) and len(server.query("up == 1")) == 2

        server.until(scraped)
        server.until(lambda: all(rule["health"] == "ok" for rule in evaluated(server)))
        assert {rule["name"] for rule in evaluated(server)} == {
            rule.get("alert", rule.get("record")) for rule in rules()
        }
        assert [rule["name"] for rule in evaluated(server) if rule.get("state") == "firing"] == []
        answered = {expr: server.query(expr) for expr in queries()}
        assert server.query('orch_deployment_health{health="Healthy"} == 1')
        assert server.query("orch_source_ready == 1")
    empty = {panel.title for panel in dashboard.panels() if not any(answered[filled(q)] for q in panel.queries)}
    assert empty <= {
        "Headroom",
        "Beyond the SLO",
        "Refusals by reason",
        "Error answers by kind",
        "Saturation by term",
    } | {
        *("Inferences against the plan", "Sources: silent for"),
    }


def filled(query: Query) -> str:
    return query.expr.replace("$deployment", ".*").replace("$model", ".*").replace("$__rate_interval", "5s")


def evaluated(server: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in server.api("rules")["groups"] for rule in group["rules"]]


def test_the_client_sends_its_span_along_and_the_workers_spans_are_in_its_trace(site: Site) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    span = provider.get_tracer("test").start_span("caller")
    with use_span(span):
        infer(site)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    spans = {each.name: each for each in site.collector.of(trace_id, 3)}
    server = spans["POST /v2/models/{model}/infer"]
    assert server.parent_span_id.hex() == f"{span.get_span_context().span_id:016x}"
    assert {spans[name].parent_span_id for name in ("queue", "inference")} == {server.span_id}
    assert server.start_time_unix_nano <= spans["queue"].start_time_unix_nano
    assert spans["inference"].end_time_unix_nano <= server.end_time_unix_nano
    assert "orch/shop" in site.collector.services


def test_a_client_that_says_nothing_of_traces_sees_nothing_of_them(site: Site) -> None:
    body = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}]})
    request = urllib.request.Request(f"http://{site.http}/v2/models/digits/infer", body.encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert not {"x-request-id", "traceparent"} & {name.lower() for name in answer.headers}


def test_a_grpc_call_is_traced_by_its_metadata(site: Site) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    with tritonclient.grpc.InferenceServerClient(site.grpc) as client:
        given = tritonclient.grpc.InferInput("image", list(IMAGE.shape), "FP32")
        given.set_data_from_numpy(IMAGE)
        client.infer("digits", [given], headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    spans = {each.name: each for each in site.collector.of(trace_id, 3)}
    assert spans["inference.GRPCInferenceService/ModelInfer"].parent_span_id.hex() == "b7ad6b7169203331"
    assert {"queue", "inference"} <= spans.keys()


def test_errors_of_grpc_calls_are_counted_too(site: Site) -> None:
    with tritonclient.grpc.InferenceServerClient(site.grpc) as client, pytest.raises(InferenceServerException):
        client.infer("nobody", [])
    line = 'orch_error_answers_total{deployment="shop",kind="not-found",protocol="grpc"} 1.0'
    assert line in site.page(site.http).splitlines()


def test_agent_and_worker_write_their_logs_as_lines_of_json(site: Site) -> None:
    logs = [path for path in (site.home.folder / "home").rglob("*.log") if path.name != "requests.log"]
    lines = {path: path.read_text().splitlines() for path in logs}
    assert len(lines) == 2
    for texts in lines.values():
        records = [json.loads(line) for line in texts]
        assert records
        assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    told = {
        record.get("deployment") or record.get("process")
        for texts in lines.values()
        for record in map(json.loads, texts)
    }
    assert told == {"shop", "agent"}


def test_the_files_are_written_out_once_and_ones_own_are_kept(site: Site) -> None:
    written = site.home.orch("observability", "export", "monitoring").stdout.split()
    assert [Path(path).name for path in written] == ["alerts.yaml", "dashboard.json", "prometheus.yaml"]
    folder = site.home.folder / "monitoring"
    assert promtool("check", "config", str(folder / "prometheus.yaml")).returncode == 0
    site.home.orch("observability", "export", "monitoring")
    (folder / "alerts.yaml").write_text("groups: []\n")
    refused = site.home.orch("observability", "export", "monitoring", check=False)
    assert (refused.returncode, "alerts.yaml" in refused.stderr) == (1, True)
    assert (folder / "alerts.yaml").read_text() == "groups: []\n"
    site.home.orch("observability", "export", "monitoring", "--force")
    assert (folder / "alerts.yaml").read_text() == RULES.read_text()
