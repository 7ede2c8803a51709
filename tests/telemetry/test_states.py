"""States neither flap nor lag: an overload is seen within two seconds, and ten minutes of bursts raise no alarm."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import a_snapshot, a_window, flat, steady

from benchmarks.saturation import ALARMS, ARMS, DUE_S, Arm, Phase, alarms, delay_s, stepped, watch
from orchestrator.scheduling.arrivals import Arrivals
from orchestrator.telemetry.saturation import saturation
from orchestrator.telemetry.snapshot import PoolSnapshot, SaturationState, Totals, Yardstick
from orchestrator.telemetry.states import SUM_MAX, SURE, Evidence, StateMemory, gathered, step

SOFT = {"wait": flat(0.0)}
NOTHING = Yardstick()


def states(script: list[tuple[float, PoolSnapshot]]) -> list[SaturationState]:
    memory = StateMemory()
    seen: list[SaturationState] = []
    for now, snapshot in script:
        memory = step(memory, snapshot, saturation(snapshot), NOTHING, now)
        seen.append(memory.state)
    return seen


def seconds(start: int, count: int, snapshot: PoolSnapshot) -> list[tuple[float, PoolSnapshot]]:
    return [(float(second), snapshot) for second in range(start, start + count)]


CALM = a_snapshot(**steady(60, **SOFT))
LIVELY = a_snapshot(**steady(150, **SOFT))  # 75 %
LOUD = a_snapshot(**steady(250, **SOFT))  # 125 %
REFUSED = a_snapshot(**steady(250, **SOFT, rejected=50, refused_tenths=5))
REFUSING = replace(CALM, recent=replace(CALM.recent, refused_tenths=14))


def test_busy_needs_to_hold_for_five_seconds() -> None:
    assert states(seconds(0, 7, LIVELY)) == ["OK"] * 5 + ["BUSY"] * 2


def test_an_interrupted_signal_starts_its_hold_anew() -> None:
    assert set(states(seconds(0, 4, LIVELY) + seconds(4, 1, CALM) + seconds(5, 4, LIVELY))) == {"OK"}


def test_too_much_load_is_saturated_within_three_seconds_and_overloaded_when_it_is_refused() -> None:
    assert states(seconds(0, 7, REFUSED)) == ["OK"] * 3 + ["SATURATED"] * 2 + ["OVERLOADED"] * 2


def test_refusals_in_most_tenths_of_two_seconds_are_an_overload_at_once() -> None:
    assert states([(0.0, REFUSING)]) == ["OVERLOADED"]
    fewer = replace(CALM, recent=replace(CALM.recent, refused_tenths=9))
    assert set(states(seconds(0, 20, fewer))) == {"OK"}


def test_few_or_uneven_arrivals_above_the_capacity_are_chance_until_there_is_evidence() -> None:
    few = a_snapshot(service_s=0.3, **steady(8, **SOFT))  # 120 % of 6.7/s, by eighty requests
    assert set(states(seconds(0, 10, few))) == {"OK", "BUSY"}
    many = a_snapshot(service_s=0.003, **steady(800, **SOFT))
    assert states(seconds(0, 10, many))[-1] == "SATURATED"


def test_a_load_around_the_threshold_does_not_flap() -> None:
    loads = [a_snapshot(**steady(rate, **SOFT)) for rate in (150, 130)] * 30  # 75 %, 65 %: around 70 %, above 56 %
    seen = states(seconds(0, 6, LIVELY) + [(6.0 + index, load) for index, load in enumerate(loads)])
    assert seen[5:] == ["BUSY"] * 61


def test_relief_comes_step_by_step_after_twice_the_hold() -> None:
    assert states(seconds(0, 6, REFUSED) + seconds(6, 15, CALM))[6:] == ["OVERLOADED"] * 10 + ["OK"] * 5


def test_a_saturated_pool_whose_load_falls_to_busy_is_called_busy() -> None:
    seen = states(seconds(0, 8, LOUD) + seconds(8, 8, LIVELY))
    assert (seen[7], seen[-1]) == ("SATURATED", "BUSY")


def test_no_state_is_reached_twice_as_fast_by_asking_twice_as_often() -> None:
    often = states([(tenth / 10, LIVELY) for tenth in range(52)])
    assert (often[49], often[51]) == ("OK", "BUSY")


def evidence(counts: list[int], capacity_per_s: float | None = 100.0) -> Evidence:
    found, total = Evidence(), 0
    found = gathered(found, total, capacity_per_s, 0.0)
    for index, count in enumerate(counts, start=1):
        total += count
        found = gathered(found, total, capacity_per_s, index / 2)
    return found


def test_arrivals_within_the_capacity_leave_no_evidence_and_more_of_them_do() -> None:
    assert evidence([30] * 100).nats == 0.0
    assert evidence([30] * 100 + [75, 75]).nats >= SURE
    assert evidence([30] * 100 + [1000] * 20).nats == SUM_MAX


def test_uneven_arrivals_count_for_less() -> None:
    uneven = evidence([5, 55] * 60)
    assert uneven.spread > 15
    assert evidence([30] * 120).spread < 1
    assert 0 < evidence([5, 55] * 60 + [75, 75]).nats < SURE


def test_a_step_does_not_excuse_itself_as_unevenness() -> None:
    before = evidence([30] * 100).spread
    assert evidence([30] * 100 + [75] * 4).spread == pytest.approx(before, abs=0.05)


def test_without_a_capacity_there_is_no_evidence() -> None:
    assert evidence([1000] * 10, None).nats == 0.0


def test_a_look_after_a_pause_or_at_a_new_pool_starts_anew() -> None:
    sure = evidence([75] * 10)
    assert sure.nats > 0
    assert gathered(sure, 100_000, 100.0, 60.0).nats == 0.0
    assert gathered(sure, 3, 100.0, 5.5).nats == 0.0


counts = st.integers(min_value=0, max_value=10**6)


@given(st.lists(st.tuples(counts, st.floats(min_value=-1, max_value=30)), max_size=40), st.none() | st.floats(0, 1e6))
def test_evidence_stays_within_its_bounds_whatever_comes(
    looks: list[tuple[int, float]], capacity_per_s: float | None
) -> None:
    found, total, now = Evidence(), 0, 0.0
    for count, later in looks:
        total, now = total + count, now + later
        found = gathered(found, total, capacity_per_s, now)
        assert 0 <= found.nats <= SUM_MAX
        assert 0 <= found.spread <= 25


def test_requests_that_no_pool_could_have_served_are_no_demand() -> None:
    memory = StateMemory()
    for look in range(20):
        hopeless = Totals(accepted=30 * look, rejected=1000 * look, impossible=1000 * look)
        snapshot = replace(CALM, totals=hopeless)
        memory = step(memory, snapshot, saturation(snapshot), NOTHING, look / 2)
    assert (memory.state, memory.evidence.nats) == ("OK", 0.0)


def test_an_idle_pool_is_ok() -> None:
    nothing = a_window(arrivals=0, completed=0, in_slo=0)
    assert set(states(seconds(0, 5, a_snapshot(window=nothing, recent=nothing)))) == {"OK"}


RESNET, TIGHT = ARMS[2], ARMS[1]


@pytest.mark.parametrize(("arm", "kind"), [(RESNET, "poisson"), (RESNET, "constant"), (TIGHT, "bursty")])
def test_ten_minutes_at_sixty_percent_raise_no_false_alarm(arm: Arm, kind: Arrivals) -> None:
    """Seen to fail with every refused burst taken for a pool that is full: five alarms for the tight SLO."""
    assert [glance.at for glance in alarms(watch(arm, kind, [Phase(600, 0.6)], seed=1))] == []


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("arm", [ARMS[0], ARMS[1]], ids=lambda arm: arm.name)
def test_a_step_to_overload_is_seen_within_two_seconds(arm: Arm, planned: bool) -> None:
    calm_s = 20.0
    for seed in range(4):
        delay, glance = delay_s(watch(arm, "poisson", stepped(1.5, calm_s=calm_s), seed, planned=planned), calm_s)
        assert delay is not None
        assert delay <= DUE_S, (seed, delay)
        assert glance is not None
        assert glance.state in ALARMS
        assert glance.seen.saturation.origin == "demand"
