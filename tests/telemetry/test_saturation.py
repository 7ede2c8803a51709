"""Saturation names the right cause with the right figure, and its states neither flap nor lag."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import a_snapshot, a_window, flat, steady

from orchestrator.telemetry.recorder import Recorder
from orchestrator.telemetry.saturation import (
    ACTIONS,
    IDLE,
    MOST,
    OFFERED,
    PLANNED,
    REFUSING,
    SERVICE_SLO,
    WAIT_QUEUE,
    WAIT_SLO,
    StateMemory,
    Transition,
    headroom_per_s,
    saturation,
    step,
)
from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, SaturationState

NOTHING = {"arrivals": 0, "completed": 0, "in_slo": 0, "busy_s": 0.0, "rows_per_batch": None} | dict.fromkeys(
    ("latency", "wait", "service"), Quantiles()
)
SOFT = {"wait": flat(0.0)}


def test_offered_load_is_arrivals_against_what_the_requests_can_answer() -> None:
    full = saturation(a_snapshot(**steady(120, **SOFT)))
    assert full.value == pytest.approx(0.6)
    assert full.cause == OFFERED


def test_arrivals_beyond_what_was_measured_are_named_as_such() -> None:
    full = saturation(a_snapshot(**steady(120, **SOFT)), capacity_per_s=100.0)
    assert (full.value, full.cause) == (pytest.approx(1.2), PLANNED)
    assert PLANNED not in saturation(a_snapshot(**steady(120, **SOFT))).terms
    assert PLANNED not in saturation(a_snapshot(**steady(120, **SOFT)), capacity_per_s=0.0).terms


def test_headroom_is_what_the_capacity_has_left_and_negative_when_too_much_arrives() -> None:
    snapshot = a_snapshot(**steady(120, **SOFT))
    assert headroom_per_s(snapshot, 150.0) == pytest.approx(30.0)
    assert headroom_per_s(snapshot, 100.0) == pytest.approx(-20.0)
    assert headroom_per_s(snapshot, None) is None


def test_offered_load_can_exceed_one() -> None:
    assert saturation(a_snapshot(**steady(500, **SOFT))).value == pytest.approx(2.5)


def test_a_full_batch_serves_its_rows_at_once() -> None:
    full = saturation(a_snapshot(batch=4, **steady(400, **SOFT, rows_per_batch=2.0)))
    assert full.terms[OFFERED] == pytest.approx(0.5)


def test_waiting_is_measured_against_what_the_slo_leaves() -> None:
    full = saturation(a_snapshot(**steady(60, wait=flat(0.024), service=flat(0.010))))
    assert full.terms[WAIT_SLO] == pytest.approx(0.8)
    assert full.cause == WAIT_SLO


def test_the_slo_percentile_chooses_the_quantile() -> None:
    waits = Quantiles(p50=0.003, p95=0.015, p99=0.030)
    measured = {
        percentile: saturation(a_snapshot(slo_percentile=percentile, **steady(60, wait=waits))).terms[WAIT_SLO]
        for percentile in (50.0, 90.0, 95.0, 99.0, 99.9)
    }
    assert measured == pytest.approx({50.0: 0.1, 90.0: 0.5, 95.0: 0.5, 99.0: 1.0, 99.9: 1.0})


def test_one_slow_answer_among_few_is_not_taken_for_a_quantile() -> None:
    waits = Quantiles(p50=0.003, p95=0.015, p99=0.300)
    assert saturation(a_snapshot(**steady(10, wait=waits))).terms[WAIT_SLO] == pytest.approx(0.5)


def test_a_model_slower_than_its_slo_is_named_as_such() -> None:
    full = saturation(a_snapshot(**steady(10, service=flat(0.060))))
    assert (full.cause, full.value) == (SERVICE_SLO, pytest.approx(1.5))


def test_without_an_slo_the_wait_is_measured_against_a_full_queue() -> None:
    full = saturation(a_snapshot(slo_latency_s=None, slo_percentile=None, **steady(60, wait=flat(0.024))))
    assert full.cause == WAIT_QUEUE
    assert full.value == pytest.approx(0.024 / (6 / 200))  # six requests at 200/s are 30 ms


def test_refusals_count_as_full_whatever_the_load() -> None:
    full = saturation(a_snapshot(**steady(60, **SOFT, rejected=6, expired=6)))
    assert full.cause == REFUSING
    assert full.value > 1


def test_an_idle_or_unborn_pool_is_empty() -> None:
    idle = saturation(a_snapshot(window=a_window(**NOTHING), recent=a_window(**NOTHING)))
    unborn = saturation(a_snapshot(window=a_window(**NOTHING), recent=a_window(**NOTHING), service_s=None))
    assert (idle.value, idle.cause) == (0.0, IDLE)
    assert (unborn.value, unborn.cause, unborn.terms) == (0.0, IDLE, {})


def test_the_first_request_of_a_life_is_not_a_thousand_a_second() -> None:
    young = a_window(**NOTHING | {"seconds": 0.001, "arrivals": 1})
    assert saturation(a_snapshot(window=young, recent=young)).value == pytest.approx(0.005)


counts = st.integers(min_value=0, max_value=100_000)
times = st.none() | st.floats(min_value=0, max_value=1e4)
windows = st.builds(
    a_window,
    seconds=st.floats(min_value=0, max_value=11),
    **dict.fromkeys(("arrivals", "completed", "in_slo", "rejected", "expired", "failed"), counts),
    **dict.fromkeys(("wait", "service", "latency"), st.builds(flat, times)),
    rows_per_batch=st.none() | st.floats(min_value=1, max_value=64),
)
snapshots = st.builds(
    a_snapshot,
    window=windows,
    recent=windows,
    service_s=times,
    slo_latency_s=st.none() | st.floats(min_value=1e-4, max_value=100),
    slo_percentile=st.none() | st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]),
    queue_limit=st.integers(min_value=0, max_value=1000),
    requests=st.integers(min_value=1, max_value=64),
    batch=st.integers(min_value=1, max_value=64),
)


# Seen to fail without the cap (a service of 1e4 s against an SLO of 0.1 ms).
@given(snapshots)
def test_any_snapshot_has_a_finite_value_that_its_cause_explains(snapshot: PoolSnapshot) -> None:
    full = saturation(snapshot)
    assert 0 <= full.value <= MOST
    assert full.cause in ACTIONS
    assert full.value == max(full.terms.values(), default=0.0)


def states(script: list[tuple[float, PoolSnapshot]]) -> tuple[list[SaturationState], list[Transition]]:
    memory = StateMemory()
    seen: list[SaturationState] = []
    transitions = []
    for now, snapshot in script:
        memory, measured, transition = step(memory, snapshot, now)
        seen.append(measured.state)
        if transition:
            transitions.append(transition)
    return seen, transitions


def seconds(start: int, count: int, snapshot: PoolSnapshot) -> list[tuple[float, PoolSnapshot]]:
    return [(float(second), snapshot) for second in range(start, start + count)]


CALM = a_snapshot(**steady(60, **SOFT))
LIVELY = a_snapshot(**steady(150, **SOFT))  # 75 %
LOUD = a_snapshot(**steady(250, **SOFT))  # 125 %
REFUSED = a_snapshot(**steady(250, **SOFT, rejected=50))


def test_busy_needs_to_hold_for_five_seconds() -> None:
    seen, _ = states(seconds(0, 7, LIVELY))
    assert seen == ["OK"] * 5 + ["BUSY"] * 2


def test_an_interrupted_signal_starts_its_hold_anew() -> None:
    seen, transitions = states(seconds(0, 4, LIVELY) + seconds(4, 1, CALM) + seconds(5, 4, LIVELY))
    assert set(seen) == {"OK"}
    assert not transitions


def test_too_much_load_is_saturated_within_three_seconds_and_overloaded_when_it_is_refused() -> None:
    seen, transitions = states(seconds(0, 7, REFUSED))
    assert seen == ["OK"] * 3 + ["SATURATED"] * 2 + ["OVERLOADED"] * 2
    assert [transition.reason for transition in transitions] == ["PoolSaturated", "PoolOverloaded"]


def test_a_load_around_the_threshold_does_not_flap() -> None:
    loads = [a_snapshot(**steady(rate, **SOFT)) for rate in (150, 130)] * 30  # 75 %, 65 %: around 70 %, above 56 %
    script = seconds(0, 6, LIVELY) + [(6.0 + index, load) for index, load in enumerate(loads)]
    assert len(states(script)[1]) == 1


def test_relief_comes_step_by_step_after_twice_the_hold() -> None:
    seen, transitions = states(seconds(0, 6, REFUSED) + seconds(6, 15, CALM))
    calm = seen[6:]
    assert calm == ["OVERLOADED"] * 10 + ["OK"] * 5
    assert transitions[-1].type == "Normal"


def test_a_saturated_pool_whose_load_falls_to_busy_is_called_busy() -> None:
    seen, _ = states(seconds(0, 8, LOUD) + seconds(8, 8, LIVELY))
    assert seen[7] == "SATURATED"
    assert seen[-1] == "BUSY"


def test_a_transition_says_the_numbers_and_what_to_do() -> None:
    _, transitions = states(seconds(0, 4, LOUD))
    assert transitions == [
        Transition(
            previous="OK",
            state="SATURATED",
            type="Warning",
            reason="PoolSaturated",
            message="detector went from OK to SATURATED: 125% full by offered load, 250 requests/s arrive,"
            " about 200/s can be answered, p99 11 ms, SLO 40 ms at p99;"
            " send less, or give it more: raise resources.cpus or slo.rate in the manifest and apply again",
        )
    ]


def test_thousands_of_requests_are_told_in_plain_figures() -> None:
    _, transitions = states(seconds(0, 4, a_snapshot(**steady(2504, **SOFT), service_s=0.0013)))
    assert "2504 requests/s arrive, about 1538/s can be answered" in transitions[0].message


def test_no_state_is_reached_twice_as_fast_by_asking_twice_as_often() -> None:
    every_second = states(seconds(0, 6, LIVELY))[1]
    often = states([(tenth / 10, LIVELY) for tenth in range(51)])[1]
    assert [each.state for each in often] == [each.state for each in every_second] == ["BUSY"]


@pytest.mark.parametrize(("load", "alarms"), [(0.6, set()), (1.5, {"SATURATED"})])
def test_ten_minutes_of_poisson_arrivals_give_no_false_alarm_and_an_overload_is_seen(
    load: float, alarms: set[str]
) -> None:
    """Two requests of 10 ms, unbounded patience: a simulation of M/D/2 feeds the real recorder."""
    draw = random.Random(5)
    recorder = Recorder(0.0)
    free = [0.0, 0.0]
    now = 0.0
    memory, second = StateMemory(), 1
    raised: set[str] = set()
    ends: list[tuple[float, float, float]] = []
    while now < 600 and not (alarms and now > 20):
        now += draw.expovariate(200 * load)
        recorder.arrived(now)
        start = max(now, min(free))
        free[free.index(min(free))] = start + 0.010
        ends.append((start + 0.010, start - now, start + 0.010 - now))
        while ends and ends[0][0] <= now:
            end, wait_s, total_s = ends.pop(0)
            recorder.completed(end, wait_s, 0.010, total_s, total_s <= 0.060)
        if now >= second:
            snapshot = replace(
                a_snapshot(slo_latency_s=0.060), window=recorder.window(now, 10), recent=recorder.window(now, 2)
            )
            memory, measured, _ = step(memory, snapshot, now)
            raised |= {measured.state} & {"SATURATED", "OVERLOADED"}
            second += 1
    assert raised == alarms
