"""A look tells demand from interference, and says so in words with numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import a_snapshot, a_window, flat, steady

from benchmarks.saturation import ARMS, Phase, slowed, stepped, watch
from orchestrator.profiling.measurement import Host
from orchestrator.telemetry.advice import ADVICE_MAX, Case, advice
from orchestrator.telemetry.drift import Around, Drift
from orchestrator.telemetry.look import ALONE, UNMEASURED, Memory, Seen, Transition, look
from orchestrator.telemetry.saturation import PLANNED, WAIT_SLO, saturation
from orchestrator.telemetry.snapshot import Origin, PoolSnapshot, Quantiles, Yardstick

SOFT = {"wait": flat(0.0)}


def looked(
    snapshot: PoolSnapshot, seconds: int, yardstick: Yardstick = UNMEASURED, around: Around = ALONE
) -> tuple[Seen, list[Transition]]:
    """Return the last of so many looks, one a second, and all changes."""
    memory, changes = Memory(), []
    for second in range(seconds):
        seen = look(memory, snapshot, float(second), yardstick=yardstick, around=around)
        memory = seen.memory
        changes += seen.transitions
    return seen, changes


LOUD = a_snapshot(**steady(250, **SOFT))


def test_an_event_says_the_numbers_and_what_to_do() -> None:
    seen, changes = looked(LOUD, 4)
    assert changes == [
        Transition(
            "Warning",
            "PoolSaturated",
            "detector went from OK to SATURATED, 125% full by offered load:"
            " 250/s arrive, about 200/s can be answered: send less, add cores (resources.cpus), or use a faster device;"
            " p99 11 ms, SLO 40 ms at p99",
        )
    ]
    assert seen.saturation.origin == "demand"


def test_thousands_of_requests_are_told_in_plain_figures() -> None:
    _, changes = looked(a_snapshot(**steady(2504, **SOFT), service_s=0.0013), 4)
    assert "2504/s arrive, about 1538/s can be answered" in changes[0].message


@pytest.mark.parametrize(("source", "word"), [("plan", "planned"), ("bench", "benched")])
def test_a_measured_capacity_is_named_with_where_it_is_from(source: str, word: str) -> None:
    yardstick = Yardstick(61.0, source)  # type: ignore[arg-type]
    seen, _ = looked(a_snapshot(**steady(72, **SOFT)), 4, yardstick)
    assert (seen.saturation.cause, seen.saturation.origin) == (PLANNED, "demand")
    assert seen.saturation.advice == (
        f"rate 72/s is above the {word} 61/s: send less, or raise slo.rate and apply again, which plans for it"
    )


@pytest.mark.parametrize(
    ("foreign", "why"),
    [
        (0.05, "it does not hold now; send less, or measure it anew: orch bench"),
        (0.7, "other processes use 70% of the cores; stop or move them, or send less"),
    ],
)
def test_refusals_below_the_measured_capacity_are_not_told_as_too_high_a_rate(foreign: float, why: str) -> None:
    """Seen to say `rate 100/s is now below the planned 190/s: send less` of a pool that refused 22 %."""
    refusing = a_snapshot(**steady(100, **SOFT, rejected=44, refused_tenths=20))
    seen, _ = looked(refusing, 4, Yardstick(190.0), Around(Host(foreign=foreign)))
    assert (seen.saturation.state, seen.saturation.origin) == ("OVERLOADED", "demand")
    assert seen.saturation.advice == f"100/s is below the planned 190/s, yet 22% are refused: {why}"


def test_a_busy_pool_is_told_what_is_left_and_wakes_nobody() -> None:
    seen, changes = looked(a_snapshot(**steady(48, **SOFT)), 7, Yardstick(61.0))
    assert seen.saturation.state == "BUSY"
    assert seen.saturation.advice == "48/s of the planned 61/s arrive: 13/s are left"
    assert [change.type for change in changes] == ["Normal"]


def test_waits_at_a_load_that_fits_are_bursts() -> None:
    seen, _ = looked(a_snapshot(**steady(60, wait=flat(0.040))), 4)
    assert (seen.saturation.cause, seen.saturation.origin) == (WAIT_SLO, "bursts")
    assert seen.saturation.advice.startswith("60/s fit on average, but come in bursts and they wait too long (133%):")


def test_an_inference_longer_than_the_slo_is_no_demand() -> None:
    seen, _ = looked(a_snapshot(service_s=0.060, **steady(10, **SOFT, service=flat(0.060))), 4)
    assert seen.saturation.origin == "slo"
    assert "one inference takes 60 ms" in seen.saturation.advice


def test_single_slow_inferences_are_not_told_as_a_slow_model() -> None:
    rarely = Quantiles(p50=0.0006, p95=0.050, p99=0.300)
    seen, _ = looked(a_snapshot(service_s=0.0006, **steady(80, **SOFT, service=rarely)), 4)
    assert seen.saturation.origin == "slo"
    assert seen.saturation.advice == (
        "inferences take 0.6 ms, but the slowest more than the 40 ms that the SLO allows:"
        " look for what else uses these cores, or relax slo.latency"
    )


def test_what_has_passed_is_not_told_as_a_burst() -> None:
    bursts, idle = a_snapshot(**steady(60, wait=flat(0.040))), a_snapshot(**steady(0, **SOFT))
    memory, changes = Memory(), []
    for second, snapshot in enumerate([bursts] * 10 + [idle] * 30):
        seen = look(memory, snapshot, float(second))
        memory = seen.memory
        changes += seen.transitions
    assert [change.reason for change in changes] == ["PoolSaturated", "PoolBusy", "PoolOk"]
    assert "bursts" in changes[0].message
    assert not [change.message for change in changes[1:] if "bursts" in change.message]


def test_a_pool_that_is_full_only_because_it_is_slow_blames_what_slows_it() -> None:
    slow = a_snapshot(service_s=0.025, **steady(90, wait=flat(0.002), service=flat(0.025)))
    around = Around(Host(foreign=0.45))
    seen, changes = looked(slow, 4, Yardstick(150.0, "plan", 0.010), around)
    assert (seen.saturation.state, seen.saturation.origin) == ("SATURATED", "host")
    assert seen.saturation.advice == (
        "inferences take 25 ms, planned 10 ms (2.5 times): other processes use 45% of the cores;"
        " stop or move them, or keep cores for orch (cpuset)"
    )
    assert seen.saturation.advice in changes[-1].message


def test_a_drift_is_an_event_when_it_comes_and_when_it_goes() -> None:
    slow = a_snapshot(service_s=0.016, **steady(40, **SOFT, service=flat(0.016)))
    well = a_snapshot(**steady(40, **SOFT))
    memory, changes = Memory(), []
    for second, snapshot in enumerate([well] * 20 + [slow] * 10 + [well] * 25):
        seen = look(memory, snapshot, float(second), yardstick=Yardstick(150.0, "plan", 0.010))
        memory = seen.memory
        changes += seen.transitions
    assert [(change.type, change.reason) for change in changes] == [
        ("Warning", "InferenceSlow"),
        ("Normal", "InferenceWell"),
    ]
    assert changes[0].message.startswith("detector: inferences take 16 ms, planned 10 ms (1.6 times): nothing")


def test_inferences_that_are_well_again_are_not_told_as_slow() -> None:
    """Seen to say `inferences take 4.36 ms, planned 4.19 ms (1.0 times): nothing seen on the host explains it`."""
    slow = a_snapshot(service_s=0.016, **steady(40, **SOFT, service=flat(0.016)))
    well = a_snapshot(service_s=0.0104, **steady(40, **SOFT, service=flat(0.0104)))
    memory, yardstick = Memory(), Yardstick(150.0, "plan", 0.010)
    told = []
    for second, snapshot in enumerate([slow] * 10 + [well] * 10):
        seen = look(memory, snapshot, float(second), yardstick=yardstick)
        memory = seen.memory
        told.append((seen.drift.drifted, seen.drift_advice[:32], seen.saturation.advice[:32]))
    assert told[9] == (True, "inferences take 16 ms, planned 1", "inferences take 16 ms, planned 1")
    assert told[-1] == (True, "", "")


def test_where_only_the_newest_inferences_are_slow_they_are_told() -> None:
    full = steady(90, wait=flat(0.060), service=flat(0.0104))
    seen, _ = looked(a_snapshot(service_s=0.014, **full), 4, Yardstick(150.0, "plan", 0.010))
    assert seen.saturation.state == "SATURATED"
    assert seen.saturation.advice.startswith(
        "the newest inferences take 14 ms, planned 10 ms (1.4 times): nothing seen"
    )


def test_a_calm_pool_is_told_nothing() -> None:
    seen, changes = looked(a_snapshot(**steady(40, **SOFT)), 30, Yardstick(150.0, "plan", 0.010))
    assert (seen.saturation.origin, seen.saturation.advice, seen.drift_advice, changes) == ("none", "", "", [])


rates = st.floats(min_value=0, max_value=1e9)
shares = st.floats(min_value=0, max_value=1)


@given(
    st.sampled_from(get_args(Origin)),
    st.sampled_from(get_args(Origin)),
    st.sampled_from(["OK", "BUSY", "SATURATED", "OVERLOADED"]),
    st.tuples(rates, rates, rates, rates),
    st.tuples(shares, shares, shares, shares),
    st.booleans(),
)
def test_any_advice_is_one_line_of_bounded_length(
    origin: Origin,
    slow: Origin,
    state: str,
    figures: tuple[float, float, float, float],
    part: tuple[float, float, float, float],
    bare: bool,
) -> None:
    rate, capacity, observed, expected = figures
    snapshot = a_snapshot(**steady(60))
    if bare:
        snapshot = replace(snapshot, slo_latency_s=None, service_s=None, window=a_window(service=flat(None)))
    drift = Drift(expected, "plan", observed, observed / expected if expected else None, True, slow, 2.0, slow=True)
    case = Case(
        snapshot=snapshot,
        measured=replace(saturation(snapshot), state=state, origin=origin),  # type: ignore[arg-type]
        drift=drift,
        around=Around(Host(foreign=part[0], steal=part[1], throttled=part[2]), part[3]),
        yardstick=Yardstick(None if bare else capacity),
        rate_per_s=rate,
    )
    text = advice(case)
    assert len(text) <= ADVICE_MAX
    assert "\n" not in text
    assert text


MOBILENET = ARMS[0]


@pytest.mark.parametrize("case", slowed(0.7, 2.4, 12.0), ids=lambda case: case.origin)
def test_interference_is_not_called_demand(case: object) -> None:
    phases = [Phase(20.0, 0.6), case.phase]  # type: ignore[attr-defined]
    full = [glance for glance in watch(MOBILENET, "poisson", phases, 3) if glance.state in {"SATURATED", "OVERLOADED"}]
    assert full[-1].seen.saturation.origin == case.origin  # type: ignore[attr-defined]


def test_demand_is_not_called_interference_although_its_senders_use_the_same_cores() -> None:
    crowded = [Phase(20.0, 0.6), Phase(12.0, 1.6, 1.1, Host(foreign=0.25))]
    for phases in (stepped(1.5, calm_s=20.0), crowded):
        full = [glance for glance in watch(MOBILENET, "poisson", phases, 4) if glance.state == "OVERLOADED"]
        assert {glance.seen.saturation.origin for glance in full} == {"demand"}
