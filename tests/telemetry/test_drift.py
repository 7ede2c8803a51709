"""Slower inferences are seen, held against what was measured, and blamed on what changed around them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from snapshots import a_snapshot, a_window, flat

from orchestrator.profiling.measurement import Host
from orchestrator.telemetry.drift import ENTER_S, LEAVE_S, STABLE_S, Around, Drift, DriftMemory, follow
from orchestrator.telemetry.snapshot import Origin, PoolSnapshot, Yardstick

PLANNED = Yardstick(service_s=0.010)
BY_RULE = Yardstick()
CALM = Around(Host(foreign=0.05))


def taking(service_s: float, rate_per_s: float = 40.0, nbytes_each: int = 1000, **changes: object) -> PoolSnapshot:
    """Return a pool of two requests whose inferences take so long."""
    arrivals = round(rate_per_s * 10)
    window = a_window(
        arrivals=arrivals, completed=arrivals, service=flat(service_s), nbytes=nbytes_each * arrivals, **changes
    )
    recent = replace(window, seconds=2.0, arrivals=arrivals // 5, completed=arrivals // 5)
    return a_snapshot(window=window, recent=recent, service_s=service_s)


def watched(*parts: tuple[float, PoolSnapshot, Around], yardstick: Yardstick = PLANNED) -> tuple[DriftMemory, Drift]:
    """Return what is known after so many seconds of each."""
    now, memory, drift = 0.0, DriftMemory(), Drift()
    for seconds, snapshot, around in parts:
        for _ in range(round(seconds * 2)):
            memory, drift = follow(memory, snapshot, yardstick, around, now)
            now += 0.5
    return memory, drift


WELL = (60.0, taking(0.010), CALM)


def test_inferences_that_take_what_was_planned_have_not_drifted() -> None:
    _, drift = watched(WELL)
    assert drift.ratio == pytest.approx(1.0)
    assert (drift.expected_s, drift.source, drift.drifted, drift.origin) == (0.010, "plan", False, "none")


def test_slow_inferences_drift_after_a_hold_and_recover_after_a_longer_one() -> None:
    slow, well = taking(0.015), taking(0.010)
    assert not watched(WELL, (ENTER_S - 1, slow, CALM))[1].drifted
    assert watched(WELL, (ENTER_S + 1, slow, CALM))[1].drifted
    assert watched(WELL, (ENTER_S + 1, slow, CALM), (LEAVE_S - 1, well, CALM))[1].drifted
    assert not watched(WELL, (ENTER_S + 1, slow, CALM), (LEAVE_S + 1, well, CALM))[1].drifted


def test_a_ratio_around_the_threshold_does_not_flap() -> None:
    parts = [(1.0, taking(0.0127 if index % 2 else 0.0120), CALM) for index in range(60)]
    assert watched(WELL, (ENTER_S + 1, taking(0.014), CALM), *parts)[1].drifted
    assert not watched(WELL, *parts)[1].drifted


def test_waiting_for_each_other_under_load_is_no_drift() -> None:
    _, drift = watched((60.0, taking(0.015, rate_per_s=150.0), CALM))
    assert drift.ratio == pytest.approx(1.5)
    assert not drift.drifted


@pytest.mark.parametrize(
    ("around", "nbytes_each", "origin"),
    [
        (Around(Host(foreign=0.45)), 1000, "host"),
        (Around(Host(foreign=0.06, steal=0.15)), 1000, "steal"),
        (Around(Host(foreign=0.05, throttled=0.20)), 1000, "throttling"),
        (Around(Host(foreign=0.05), neighbours=0.4), 1000, "neighbour"),
        (CALM, 2000, "input"),
        (CALM, 1000, "model"),
    ],
)
def test_the_cause_is_what_changed_most(around: Around, nbytes_each: int, origin: Origin) -> None:
    _, drift = watched(WELL, (ENTER_S + 1, taking(0.016, nbytes_each=nbytes_each), around))
    assert (drift.drifted, drift.origin) == (True, origin)


def test_a_little_load_that_was_always_there_is_not_blamed() -> None:
    usual = Around(Host(foreign=0.2), neighbours=0.2)
    _, drift = watched((60.0, taking(0.010), usual), (ENTER_S + 1, taking(0.016), usual))
    assert drift.origin == "model"


@pytest.mark.parametrize(
    ("usual", "origin"),
    [(Around(Host(foreign=0.7)), "host"), (Around(Host(foreign=0.1), neighbours=0.5), "neighbour")],
)
def test_much_load_is_blamed_although_it_was_always_there(usual: Around, origin: Origin) -> None:
    """Seen to blame nobody while others took 70 % of the cores: that had become what is usual at a lighter load."""
    _, drift = watched((60.0, taking(0.010), usual), (ENTER_S + 1, taking(0.016), usual))
    assert (drift.drifted, drift.origin) == (True, origin)


def test_what_is_new_is_blamed_before_what_is_merely_much() -> None:
    before, now = Around(Host(foreign=0.7)), Around(Host(foreign=0.7, throttled=0.1))
    assert watched((60.0, taking(0.010), before), (ENTER_S + 1, taking(0.016), now))[1].origin == "throttling"


@pytest.mark.parametrize("rate_per_s", [40.0, 0.1], ids=["well again", "hardly a request"])
def test_who_slowed_inferences_down_is_remembered_as_long_as_they_are_called_slow(rate_per_s: float) -> None:
    """Seen to say `slowed down by unknown`, or by nothing that is seen, once the load that did it was gone."""
    loud = (ENTER_S + 1, taking(0.016), Around(Host(foreign=0.45)))
    _, drift = watched(WELL, loud, (5.0, taking(0.0104, rate_per_s=rate_per_s), CALM))
    assert (drift.drifted, drift.slow, drift.origin) == (True, False, "host")
    assert watched(WELL, loud, (LEAVE_S + 1, taking(0.010), CALM))[1].origin == "none"


def test_pressure_alone_blames_nobody_since_a_pool_makes_it_itself() -> None:
    _, drift = watched(WELL, (ENTER_S + 1, taking(0.016), Around(Host(foreign=0.05, pressure=0.97))))
    assert drift.origin == "model"


def test_a_plan_by_rule_is_held_against_its_first_steady_minute() -> None:
    steady = (STABLE_S - 1, taking(0.020), CALM)
    assert watched(steady, yardstick=BY_RULE)[1].ratio is None
    _, drift = watched(steady, (2.0, taking(0.020), CALM), (ENTER_S + 1, taking(0.030), CALM), yardstick=BY_RULE)
    assert (drift.source, drift.expected_s, drift.drifted) == ("first minute", pytest.approx(0.020), True)
    assert drift.ratio == pytest.approx(1.5)


def test_a_minute_that_was_not_steady_is_no_measure() -> None:
    wild = [(10.0, taking(service_s), CALM) for service_s in (0.010, 0.014, 0.010, 0.014, 0.010, 0.014, 0.010)]
    assert watched(*wild, yardstick=BY_RULE)[1].expected_s is None


def test_more_load_than_in_the_first_minute_is_not_compared_with_it() -> None:
    minute = (STABLE_S + 1, taking(0.010, rate_per_s=20.0), CALM)
    _, drift = watched(minute, (20.0, taking(0.014, rate_per_s=60.0), CALM), yardstick=BY_RULE)
    assert not drift.drifted


def test_too_few_answers_or_larger_batches_than_measured_are_not_compared() -> None:
    few = taking(0.020, rate_per_s=0.5)
    assert watched((10.0, few, CALM))[1].ratio is None
    gathered = taking(0.020, rows_per_batch=8.0)
    assert watched((10.0, gathered, CALM))[1].ratio is None
    assert watched((10.0, gathered, CALM), yardstick=Yardstick(service_s=0.020, rows=8))[1].ratio == pytest.approx(1.0)


def test_a_drift_outlasts_a_pause_in_the_load() -> None:
    quiet = taking(0.016, rate_per_s=0.1)
    memory, drift = watched(WELL, (ENTER_S + 1, taking(0.016), CALM), (5.0, quiet, CALM))
    assert drift.drifted
    assert drift.ratio is None
    assert memory.latch.on
