"""From a manifest with an SLO to a measured plan that serves, its lock, and a machine that trusts the lock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import Home

SLO = "slo: {latency: 300ms, percentile: 95, rate: 5/s}"
MEASURE = "{mode: measure, budget: 6s}"


def profiles(home: Home) -> list[Path]:
    return sorted((home.folder / "home" / "profiles").glob("*"))


def planned(home: Home, *arguments: str) -> dict[str, Any]:
    (item,) = json.loads(home.orch("plan", "-o", "json", *arguments).stdout)["items"]
    return dict(item)


def test_a_plan_is_measured_once_locked_and_applied_elsewhere_without_measuring(home: Home) -> None:
    manifest = home.manifest(extra=SLO, planning=MEASURE)
    measured = home.orch("apply", manifest)
    assert "demo/digits: measuring" in measured.stderr
    assert len(profiles(home)) == 1

    model = home.status()["models"][0]
    assert model["capacity_per_s"] > 0
    assert model["headroom_per_s"] <= model["capacity_per_s"]
    assert model["plan"]["verdict"] in {"verified", "unverified", "rejected"}
    assert "verdict:" in home.orch("describe", "demo").stdout

    again = home.orch("apply", manifest)
    assert "demo/digits unchanged" in again.stdout
    assert "measuring" not in again.stderr
    assert planned(home, manifest)["origin"] == "memory"

    written = home.orch("plan", "--write-lock", "--write-profile", "digits.profiles", manifest)
    assert "measuring" not in written.stderr
    assert home.orch("plan", "--check", manifest).stdout == "demo: the lock fits\n"

    other = replace(home, environ={"ORCH_HOME": str(home.folder / "elsewhere")})
    elsewhere = other.orch("plan", "--locked", "-o", "json", manifest)
    assert json.loads(elsewhere.stdout)["items"][0]["origin"] == "lock"
    assert elsewhere.stderr == ""
    assert not (home.folder / "elsewhere" / "profiles").exists()
    locked, here = planned(home, manifest), json.loads(elsewhere.stdout)["items"][0]
    assert locked["plan"]["models"] == here["plan"]["models"]
