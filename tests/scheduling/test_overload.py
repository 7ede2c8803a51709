"""What the scheduler keeps under more load than it can serve, in virtual time; the long run is a benchmark."""

from __future__ import annotations

import random
from itertools import accumulate
from math import inf

import pytest

from benchmarks.scheduler_soak import GOODPUT, LATEST, OVERLOADS, Overload, disorders, limits, overload, shares
from orchestrator.scheduling.arrivals import arrivals
from orchestrator.scheduling.scheduler import Cause, Limits, Priority, Scheduler
from orchestrator.scheduling.simulate import Run, simulate


@pytest.mark.parametrize("load", GOODPUT)
@pytest.mark.parametrize("case", OVERLOADS, ids=lambda case: case.name)
def test_goodput_and_latency_are_kept_under_overload(case: Overload, load: float) -> None:
    kept = overload(case, load, 4000)
    assert kept.goodput >= GOODPUT[load]
    assert kept.p99 <= LATEST
    assert kept.recovery_s <= 1.0


@pytest.mark.parametrize("case", OVERLOADS[:3], ids=lambda case: case.name)
def test_every_class_with_demand_keeps_its_share_of_the_service(case: Overload) -> None:
    """Seen to fail without credit, and without prediction."""
    got = shares(case, 1.5, 6000, Priority.CRITICAL)
    assert min(got.values()) >= 0.045
    assert got[Priority.CRITICAL] >= 0.85


def test_critical_requests_do_not_notice_what_is_sheddable() -> None:
    case = OVERLOADS[1]
    times = arrivals("poisson", 0.6 * case.slots / case.service_s, 3000, 1)
    named = [random.Random(number).choice(list(Priority)) for number in range(3000)]
    alone = [at for at, priority in zip(times, named, strict=True) if priority is Priority.CRITICAL]
    crowded = list(accumulate(random.Random(2).expovariate(3 * case.slots / case.service_s) for _ in range(15_000)))
    both = sorted([(at, Priority.CRITICAL) for at in alone] + [(at, Priority.SHEDDABLE) for at in crowded])
    fates = simulate(
        [at for at, _ in both],
        lambda _number, _rows, _beside: case.service_s,
        limits(case, Priority.CRITICAL),
        timeout_s=case.slo_s,
        priority=lambda number: both[number][1],
    )
    critical = [fate for fate, (at, named) in zip(fates, both, strict=True) if named is Priority.CRITICAL and at < 5]
    assert all(fate.cause is None for fate in critical)
    assert max(fate.latency_s for fate in critical) < 4 * case.service_s


def test_disorder_breaks_no_property() -> None:
    """120 kinds of pools, 150 requests each; every property is checked at every step."""
    answered = 0
    for cell, _ in zip(disorders(3), range(120), strict=False):
        answered += cell.run(150)["answered"]
    assert answered > 5000


def test_a_floor_above_the_slo_is_served_and_not_refused_as_a_whole() -> None:
    """One at a time where nothing waits: the answers are late, and the operator can see it."""
    fates = simulate(
        arrivals("poisson", 50.0, 500, 1), lambda _n, _r, _b: 0.1, Limits(2, slo_s=0.06), timeout_s=0.06, expected_s=0.1
    )
    answered = [fate for fate in fates if fate.cause is None]
    assert len(answered) > 15 * fates[-1].arrived  # of 20 a second that two slots without a queue could at most
    assert {fate.cause for fate in fates} <= {None, Cause.DEADLINE_UNMEETABLE, Cause.QUEUE_FULL}


def test_a_device_that_becomes_four_times_slower_is_followed() -> None:
    """Nothing but a few answers at the change is late, with a timeout far beyond the SLO that drops nobody."""
    run: Run
    slow = range(3000, 5000)

    def service_s(number: int, _rows: int, _beside: int) -> float:
        return 0.01 if number in slow else 0.0025

    run = Run(Scheduler(Limits(1, 1, 24, slo_s=0.06), service_s=0.0025), service_s)
    times = arrivals("poisson", 800.0, 40_000, 2)
    for number, at in enumerate(times):
        run.until(at)
        run.arrive(number, at, at + 10.0)
    run.until(inf)
    answered = [fate for fate in run.fates.values() if fate.cause is None]
    late = [fate for fate in answered if fate.latency_s > 0.06]
    assert len(answered) > 10_000
    assert len(late) < 0.01 * len(answered)
