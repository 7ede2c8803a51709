"""Every alert fires when it should and is quiet when it should be, by promtool itself; and the runbook knows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.prometheus_tools import ROOT, RULES, promtool

POOL = 'deployment="shop",model="detector",version="1",job="orch",instance="a:1"'
WORKER = 'deployment="shop",job="orch",instance="a:1"'
UNIT = 'deployment="shop",job="orch-agent",instance="a:2"'
SOURCE = 'source="site",job="orch-agent",instance="a:2"'
SEVERITIES = {"critical", "warning", "info"}


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


@dataclass(frozen=True)
class Case:
    """Series that make an alert fire at a time, and series that are just not bad enough."""

    at: str
    fires: dict[str, str]
    quiet: dict[str, str]
    interval: str = "1m"


def pool(metric: str, more: str = "") -> str:
    return f"{metric}{{{POOL}{',' + more if more else ''}}}"


def slo(share: float, good: str, length: int) -> dict[str, str]:
    """Return the series of a model that answers 60 requests in each interval, `good` of them in time."""
    return {
        pool("orch_requests_total", 'outcome="completed"'): f"0+60x{length}",
        pool("orch_requests_in_slo_total"): f"0+{good}x{length}",
        pool("orch_slo_share_ratio"): f"{share}x{length}",
    }


def one(metric: str, labels: str, fires: str, quiet: str, at: str) -> Case:
    return Case(at, {f"{metric}{{{labels}}}": fires}, {f"{metric}{{{labels}}}": quiet})


def refusing(refused: str) -> dict[str, str]:
    return {
        pool("orch_requests_refused_total", 'reason="queue_full"'): refused,
        pool("orch_requests_refused_total", 'reason="too_large"'): "0+50x30",
        pool("orch_requests_total", 'outcome="completed"'): "0+100x30",
    }


def failing(failed: str) -> dict[str, str]:
    return {
        pool("orch_requests_total", 'outcome="failed"'): failed,
        pool("orch_requests_total", 'outcome="completed"'): "0+100x30",
    }


def headroom(left: str) -> dict[str, str]:
    return {
        pool("orch_headroom_requests_per_second"): left,
        pool("orch_capacity_requests_per_second"): "100x60",
    }


def source(since: str) -> dict[str, str]:
    return {
        f"orch_source_silent_since_timestamp_seconds{{{SOURCE}}}": since,
        f"orch_source_interval_seconds{{{SOURCE}}}": "30x60",
        f"orch_source_suspended{{{SOURCE}}}": "0x60",
    }


def applied(ready: str, suspended: str) -> dict[str, str]:
    return {f"orch_source_ready{{{SOURCE}}}": ready, f"orch_source_suspended{{{SOURCE}}}": suspended}


def held(deployments: str, suspended: str) -> dict[str, str]:
    return {
        f"orch_source_held_deployments{{{SOURCE}}}": deployments,
        f"orch_source_suspended{{{SOURCE}}}": suspended,
    }


def suspended(values: str) -> dict[str, str]:
    return {f"orch_source_suspended{{{SOURCE}}}": values}


CASES = {
    # 20 % missed of a p99: 20 times the budget; 10 % is ten times.
    "OrchSloBurnFast": Case("80m", slo(0.99, "48", 90), slo(0.99, "54", 90)),
    "OrchSloBurn": Case("7h", slo(0.99, "54", 90), slo(0.99, "58", 90), "5m"),
    "OrchSloBurnSlow": Case("80h", slo(0.99, "58", 170), slo(0.99, "59.9", 170), "30m"),
    "OrchSaturated": one("orch_saturation_state", f'{POOL},state="SATURATED"', "1x20", "0x20", "12m"),
    "OrchOverloaded": one("orch_saturation_state", f'{POOL},state="OVERLOADED"', "1x20", "1x3 0x10", "7m"),
    "OrchRefusing": Case("20m", refusing("0+5x30"), refusing("0+0.5x30")),
    "OrchHeadroomLow": Case("40m", headroom("5x60"), headroom("15x60")),
    "OrchInferenceSlow": one("orch_inference_drift_ratio", POOL, "1.5x20", "1.2x20", "15m"),
    "OrchUnauthorized": one(
        "orch_error_answers_total", f'{WORKER},protocol="http",kind="unauthorized"', "0+60x60", "0+2x60", "45m"
    ),
    "OrchTargetDown": one("up", 'job="orch",instance="a:1"', "0x10", "1x10", "5m"),
    "OrchNotReady": one("orch_ready", WORKER, "0x10", "0x1 1x10", "5m"),
    "OrchModelUnhealthy": one("orch_pool_healthy", POOL, "0x10", "1x10", "5m"),
    "OrchPoolRebuilt": one("orch_pool_rebuilds_total", POOL, "0x10 2x60", "0x10 1x60", "40m"),
    "OrchRequestsFailing": Case("20m", failing("0+5x30"), failing("0+0.5x30")),
    "OrchInternalErrors": one(
        "orch_error_answers_total", f'{WORKER},protocol="grpc",kind="internal"', "0x3 1x30", "1x30", "10m"
    ),
    "OrchCertificateExpires": one(
        "orch_certificate_not_after_timestamp_seconds", WORKER, f"{13 * 86400}x30", f"{15 * 86400}x30", "15m"
    ),
    "OrchCertificateExpiresNow": one(
        "orch_certificate_not_after_timestamp_seconds", WORKER, f"{86400}x30", f"{5 * 86400}x30", "15m"
    ),
    "OrchWorkerCrashLoop": one("orch_deployment_worker_state", f'{UNIT},state="crash_loop"', "0x3 1x10", "0x10", "5m"),
    "OrchWorkerRestarting": one("orch_deployment_worker_restarts_total", UNIT, "0x5 4x60", "0x5 1x60", "20m"),
    "OrchDeploymentMissing": one("orch_deployment_health", f'{UNIT},health="Missing"', "1x10", "1x1 0x10", "5m"),
    "OrchDeploymentDegraded": one("orch_deployment_health", f'{UNIT},health="Degraded"', "1x20", "0x20", "10m"),
    "OrchOutOfSync": one("orch_deployment_sync", f'{UNIT},sync="OutOfSync"', "1x30", "1x10 0x20", "20m"),
    "OrchRevisionFailed": one("orch_deployment_revision_failed", UNIT, "1x10", "0x10", "5m"),
    "OrchSourceStalled": Case("20m", source("0x60"), source("0+60x60")),
    "OrchSourceNotApplied": Case("20m", applied("0x30", "0x30"), applied("0x30", "1x30")),
    "OrchSourceHeld": Case("26h", held("1x60", "0x60"), held("1x60", "1x60"), "30m"),
    "OrchSourceSuspended": Case("26h", suspended("1x60"), suspended("1x40 0x20"), "30m"),
}


def marked(series: dict[str, str], case: str) -> list[dict[str, str]]:
    """Return the series with a label that keeps the cases apart: the rules sum it away nowhere."""
    return [{"series": f'{each[:-1]},case="{case}"}}', "values": values} for each, values in series.items()]


def unit_test(names: Iterable[str], interval: str) -> dict[str, Any]:
    """Return one test of promtool: the alerts fire for the series that are bad, and for no other."""
    known = {name: CASES[name] for name in names}
    both = [(case.fires, f"{name} fires") for name, case in known.items()]
    both += [(case.quiet, f"{name} is quiet") for name, case in known.items()]
    return {
        "interval": interval,
        "input_series": [line for series, label in both for line in marked(series, label)],
        "promql_expr_test": [
            {
                "expr": f'count by (case) (ALERTS{{alertname="{name}",alertstate="firing",case=~"{name} .*"}})',
                "eval_time": case.at,
                "exp_samples": [{"labels": f'{{case="{name} fires"}}', "value": 1}],
            }
            for name, case in known.items()
        ],
    }


def complaints(folder: Path, names: Iterable[str], interval: str) -> str:
    """Return what promtool says of the cases with series of this interval."""
    test = unit_test(sorted(names), interval)
    file = folder / f"alerts-{interval}.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": [test]}))
    ran = promtool("test", "rules", str(file))
    return ran.stdout + ran.stderr if ran.returncode else ""


def test_promtool_has_nothing_to_say_about_the_rules() -> None:
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(alerts())


@pytest.mark.parametrize("interval", sorted({case.interval for case in CASES.values()}))
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path, interval: str) -> None:
    names = {name for name, case in CASES.items() if case.interval == interval}
    assert complaints(tmp_path, names, interval) == ""


def test_a_case_that_is_wrong_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CASES["OrchNotReady"]
    monkeypatch.setitem(CASES, "OrchNotReady", Case(wrong.at, wrong.quiet, wrong.fires))
    assert "OrchNotReady" in complaints(tmp_path, {"OrchNotReady"}, "1m")


def test_each_alert_says_how_bad_it_is_and_where_the_runbook_has_it() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    anchors = {f"docs/runbook.md#{title.lower()}" for title in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    assert {rule["annotations"]["runbook"] for rule in alerts().values()} == anchors
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert rule["labels"]["severity"] in SEVERITIES
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_an_slo_whose_budget_is_half_of_all_can_be_missed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A p50 allows half of the answers to be late: 14.4 times as many there are not.
    monkeypatch.setitem(CASES, "OrchSloBurnFast", Case("80m", slo(0.5, "6", 90), slo(0.5, "36", 90)))
    assert complaints(tmp_path, {"OrchSloBurnFast"}, "1m") == ""
