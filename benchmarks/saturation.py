"""Score how soon saturation is seen, how often wrongly, and whether its cause is named right, on virtual time.

The pool's own scheduler serves arrivals of known load (against the capacity that the planner finds for the arm); what
became of them is told to the real recorder, and every half second somebody looks. So the truth is known, and an hour
takes seconds. `python -m benchmarks.saturation --hours 4 --steps 100`
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from random import Random
from statistics import median
from typing import Final

from orchestrator.planner.capacity import Need, Service, capacity
from orchestrator.profiling.measurement import Host
from orchestrator.scheduling.arrivals import Arrivals, gaps
from orchestrator.scheduling.bound import queue_bound
from orchestrator.scheduling.scheduler import Limits
from orchestrator.scheduling.simulate import Fate, simulate
from orchestrator.telemetry.drift import Around
from orchestrator.telemetry.look import Memory, Seen, look
from orchestrator.telemetry.recorder import Recorder
from orchestrator.telemetry.snapshot import Origin, PoolSnapshot, SaturationState, Yardstick

LOOK_S: Final = 0.5
ALARMS: Final = frozenset({"SATURATED", "OVERLOADED"})
KINDS: Final[tuple[Arrivals, ...]] = ("poisson", "constant", "bursty")
CALM_S: Final = 30.0  # before a step
AFTER_S: Final = 10.0  # for which a step is watched
DUE_S: Final = 2.0
REQUESTS_MAX: Final = 400_000  # of one simulation: some ten seconds
SERVICE_MEMORY: Final = 0.1  # as the scheduler's
HOST_SPAN_S: Final = 3.0  # over which the host's counters are read
QUIET: Final = Host(foreign=0.03, steal=0.002)


@dataclass(frozen=True)
class Arm:
    """A model as it is served: so many inferences at a time, their seconds, its SLO."""

    name: str
    slots: int
    service_s: float
    slo_s: float

    def times(self, seed: int, count: int = 400) -> list[float]:
        """Return service times: nearly the same each time, one in fifty half as long again."""
        draw = Random(seed)
        return [self.service_s * draw.gauss(1.0, 0.04) * (1.5 if draw.random() < 0.02 else 1.0) for _ in range(count)]

    def capacity_per_s(self, kind: Arrivals) -> float:
        """Return the largest rate at which the planner says that p99 holds the SLO."""
        return _capacity(self, kind)


@cache
def _capacity(arm: Arm, kind: Arrivals) -> float:
    times = tuple(arm.times(1))
    service = Service(alone_s=times, busy_s=(times,), slots=arm.slots)
    return capacity(service, Need(arm.slo_s, 99.0, kind, timeout_s=arm.slo_s)).per_s


ARMS: Final = (
    Arm("4.5 ms, 2 at a time, SLO 60 ms", 2, 0.0045, 0.060),
    Arm("2.4 ms, 1 at a time, SLO 15 ms", 1, 0.0024, 0.015),
    Arm("40 ms, 2 at a time, SLO 200 ms", 2, 0.040, 0.200),
    Arm("40 ms, 2 at a time, SLO 1 s", 2, 0.040, 1.0),
    Arm("300 ms, 2 at a time, SLO 2 s", 2, 0.300, 2.0),
)


@dataclass(frozen=True)
class Phase:
    """A time of steady load: `load` times the capacity, inferences `slow` times as long, requests `larger` times."""

    seconds: float
    load: float
    slow: float = 1.0
    host: Host = QUIET
    neighbours: float = 0.0
    larger: float = 1.0


@dataclass(frozen=True)
class Glance:
    """What one look saw."""

    at: float
    seen: Seen

    @property
    def state(self) -> SaturationState:
        """Return the state."""
        return self.seen.saturation.state


def watch(
    arm: Arm, kind: Arrivals, phases: Sequence[Phase], seed: int, *, planned: bool = True, burst_capacity: bool = True
) -> Iterator[Glance]:
    """Yield what is seen each LOOK_S while the phases go by; without `planned` nothing was measured before."""
    capacity_per_s = arm.capacity_per_s(kind if burst_capacity else "poisson")
    fates = _fates(arm, kind, phases, seed, capacity_per_s)
    yardstick = Yardstick(capacity_per_s, "plan", arm.service_s) if planned else Yardstick()
    phase_at = Random(seed).random() * LOOK_S
    return _replayed(arm, phases, fates, yardstick, phase_at)


def _fates(arm: Arm, kind: Arrivals, phases: Sequence[Phase], seed: int, capacity_per_s: float) -> list[Fate]:
    clock = [0.0]
    times = arm.times(seed)

    def service_s(number: int, _rows: int, _others: int) -> float:
        return times[number % len(times)] * _phase(phases, clock[0]).slow

    def arrivals() -> Iterator[float]:
        for at in _arrivals(kind, phases, seed, capacity_per_s):
            clock[0] = at
            yield at

    queue = queue_bound(arm.slots, 1, arm.service_s, slo_latency_s=arm.slo_s)
    limits = Limits(arm.slots, 1, queue, slo_s=arm.slo_s)
    return simulate(arrivals(), service_s, limits, timeout_s=arm.slo_s, expected_s=arm.service_s)


def _arrivals(kind: Arrivals, phases: Sequence[Phase], seed: int, capacity_per_s: float) -> Iterator[float]:
    """Yield arrival times; each gap is drawn with mean 1 and stretched by the load in which it passes."""
    total = sum(phase.seconds for phase in phases)
    most = sum(phase.seconds * phase.load for phase in phases) * capacity_per_s
    units = iter(gaps(kind, int(most * 1.2 + 20 * most**0.5) + 100, seed))
    at = 0.0
    for phase, ends in zip(phases, _ends(phases), strict=True):
        while True:
            gap = next(units) / (phase.load * capacity_per_s)
            if at + gap >= ends:
                at = ends  # what is left of the gap is drawn anew: exact for Poisson, close for the others
                break
            at += gap
            yield at
    assert at <= total


def _ends(phases: Sequence[Phase]) -> list[float]:
    return list(accumulate(phase.seconds for phase in phases))


def _phase(phases: Sequence[Phase], at: float) -> Phase:
    for phase in phases:
        at -= phase.seconds
        if at < 0:
            return phase
    return phases[-1]


def _replayed(
    arm: Arm, phases: Sequence[Phase], fates: Sequence[Fate], yardstick: Yardstick, phase_at: float
) -> Iterator[Glance]:
    recorder, memory = Recorder(0.0), Memory()
    service_s = arm.service_s
    ends: list[tuple[float, int]] = []
    at, total = phase_at, sum(phase.seconds for phase in phases)
    number = 0
    while at < total:
        # Everything that happened until this look, in the order in which it happened.
        while True:
            arrives = fates[number].arrived if number < len(fates) else total + 1
            ended = ends[0][0] if ends else total + 1
            if min(arrives, ended) > at:
                break
            if ended <= arrives:
                service_s = _told_end(recorder, fates[heapq.heappop(ends)[1]], arm, service_s)
            else:
                _told_arrival(recorder, fates[number], _phase(phases, arrives))
                if fates[number].ended > arrives or fates[number].cause is None:
                    heapq.heappush(ends, (fates[number].ended, number))
                number += 1
        snapshot = _snapshot(arm, recorder, service_s, at)
        seen = look(memory, snapshot, at, yardstick=yardstick, around=_around(phases, at))
        memory = seen.memory
        yield Glance(at, seen)
        at += LOOK_S


def _told_arrival(recorder: Recorder, fate: Fate, phase: Phase) -> None:
    recorder.arrived(fate.arrived, round(150_000 * phase.larger))
    if fate.cause is not None and fate.ended <= fate.arrived:
        recorder.rejected(fate.arrived)


def _told_end(recorder: Recorder, fate: Fate, arm: Arm, service_s: float) -> float:
    if fate.started is None:
        recorder.expired(fate.ended)
        return service_s
    took = fate.ended - fate.started
    recorder.batch(fate.ended, 1, took)
    recorder.completed(fate.ended, fate.started - fate.arrived, took, fate.latency_s, fate.latency_s <= arm.slo_s)
    return service_s + SERVICE_MEMORY * (took - service_s)


def _snapshot(arm: Arm, recorder: Recorder, service_s: float, at: float) -> PoolSnapshot:
    return PoolSnapshot(
        model="made-up",
        version="1",
        requests=arm.slots,
        batch=1,
        in_flight=0,
        queued=0,
        receiving=0,
        queue_limit=queue_bound(arm.slots, 1, service_s, slo_latency_s=arm.slo_s),
        queued_bytes=0,
        slo_latency_s=arm.slo_s,
        slo_percentile=99.0,
        slo_rate_per_s=None,
        service_s=service_s,
        totals=recorder.totals(),
        window=recorder.window(at, 10.0),
        recent=recorder.window(at, 2.0),
    )


def _around(phases: Sequence[Phase], at: float) -> Around:
    """Return what the counters say: the mean of their span, so that what is new shows little by little."""
    span = [_phase(phases, max(0.0, at - HOST_SPAN_S * part / 6)) for part in range(6)]
    return Around(
        Host(
            foreign=sum(phase.host.foreign for phase in span) / 6,
            steal=sum(phase.host.steal for phase in span) / 6,
            throttled=sum(phase.host.throttled for phase in span) / 6,
        ),
        neighbours=sum(phase.neighbours for phase in span) / 6,
    )


def delay_s(glances: Iterator[Glance], since: float) -> tuple[float | None, Glance | None]:
    """Return how long after `since` the alarm was raised, and what was seen then; None, None when never."""
    for glance in glances:
        if glance.state in ALARMS and glance.at >= since:
            return glance.at - since, glance
    return None, None


def alarms(glances: Iterator[Glance]) -> list[Glance]:
    """Return the looks at which an alarm was raised."""
    found, before = [], "OK"
    for glance in glances:
        if glance.state in ALARMS and before not in ALARMS:
            found.append(glance)
        before = glance.state
    return found


def stepped(load: float, calm: float = 0.6, calm_s: float = CALM_S) -> list[Phase]:
    """Return a calm time, then `load` times the capacity."""
    return [Phase(calm_s, calm), Phase(AFTER_S, load)]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Slowed:
    """What makes inferences slow, as the truth has it."""

    origin: Origin
    phase: Phase


def slowed(load: float, slow: float, seconds: float) -> tuple[Slowed, ...]:
    """Return one case for each cause that can be seen, and one that cannot."""
    plain = Phase(seconds, load, slow)
    return (
        Slowed("host", replace(plain, host=Host(foreign=0.45, steal=0.002, pressure=0.5))),
        Slowed("steal", replace(plain, host=Host(foreign=0.04, steal=0.20))),
        Slowed("throttling", replace(plain, host=Host(foreign=0.03, throttled=0.25))),
        Slowed("neighbour", replace(plain, neighbours=0.40)),
        Slowed("input", replace(plain, larger=slow)),
        Slowed("model", plain),
    )


def say(text: str) -> None:
    """Write one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def affordable(arm: Arm, kind: Arrivals, load: float, hours: float) -> float:
    """Return so many hours, fewer where they hold more requests than are worth waiting for."""
    return min(hours, REQUESTS_MAX / (arm.capacity_per_s(kind) * load * 3600))


def report_false_alarms(arms: Sequence[Arm], hours: float, loads: Sequence[float], seed: int) -> None:
    """Say how many alarms an hour of load below the capacity raises, with a plan and without."""
    say("\nfalse alarms an hour (SATURATED or OVERLOADED), by arm, arrivals and load against their capacity; hours")
    for arm in arms:
        for kind in KINDS:
            parts = []
            for load in loads:
                asked = affordable(arm, kind, load, hours)
                for planned in (True, False):
                    phases = [Phase(asked * 3600, load)]
                    found = alarms(watch(arm, kind, phases, seed, planned=planned))
                    parts.append(
                        f"{load:.0%} {'planned' if planned else 'by rule'} {len(found) / asked:.2g} of {asked:.1f} h"
                    )
            say(f"  {arm.name:32} {kind:9} capacity {arm.capacity_per_s(kind):6.1f}/s: {', '.join(parts)}")


def report_delays(arms: Sequence[Arm], steps: int, loads: Sequence[float], seed: int) -> None:
    """Say how long after a step from 60 % the alarm is raised."""
    say(f"\ndelay after a step from 60 %, s: median / 95 % / worst (share within {DUE_S:g} s; never of {AFTER_S:g} s)")
    for arm in arms:
        for kind in KINDS:
            for planned in (True, False):
                parts = []
                for load in loads:
                    runs = [
                        delay_s(watch(arm, kind, stepped(load), seed + run, planned=planned), CALM_S)[0]
                        for run in range(steps)
                    ]
                    found = [delay for delay in runs if delay is not None]
                    within = sum(delay <= DUE_S for delay in found) / steps
                    told = f"{median(found):.1f}/{quantile(found, 0.95):.1f}/{max(found):.1f}" if found else "-"
                    parts.append(f"x{load:g} {told} ({within:.0%}; {steps - len(found)})")
                say(f"  {arm.name:32} {kind:9} {'planned' if planned else 'by rule'}: {', '.join(parts)}")


def report_causes(arms: Sequence[Arm], runs: int, seed: int) -> None:
    """Say which cause is named for demand and for every kind of interference."""
    say("\ncause that is named: at the alarm / five seconds later; for a drift at 30 % load; right of all")
    for arm in arms:
        first: Counter[str] = Counter()
        later: Counter[str] = Counter()
        drifted: Counter[str] = Counter()
        for run in range(runs):
            for truth, phases in _saturating():
                first[f"{truth}>{_named(arm, phases, seed + run, after_s=0.0)}"] += 1
                later[f"{truth}>{_named(arm, phases, seed + run, after_s=5.0)}"] += 1
            for case in slowed(0.3, 1.8, 30.0):
                drifted[f"{case.origin}>{_drifted(arm, case, seed + run)}"] += 1
        parts = [f"{_right(each)} {_wrong(each)}" for each in (first, later, drifted)]
        say(f"  {arm.name:32} {' | '.join(parts)}")


def _saturating() -> Iterator[tuple[str, list[Phase]]]:
    yield "demand", stepped(1.5)
    # Who makes the demand may sit on the same host, and take from its cores.
    yield "demand", [Phase(CALM_S, 0.6), Phase(AFTER_S, 1.6, 1.1, Host(foreign=0.25, steal=0.002))]
    for case in slowed(0.7, 2.4, AFTER_S):
        yield case.origin, [Phase(CALM_S, 0.6), case.phase]


def _named(arm: Arm, phases: Sequence[Phase], seed: int, after_s: float) -> str:
    raised: float | None = None
    for glance in watch(arm, "poisson", phases, seed):
        if raised is None and glance.state in ALARMS and glance.at >= CALM_S:
            raised = glance.at
        if raised is not None and glance.at >= raised + after_s:
            return glance.seen.saturation.origin
    return "no alarm"


def _drifted(arm: Arm, case: Slowed, seed: int) -> str:
    phases = [Phase(CALM_S, 0.3), case.phase]
    named = [glance.seen.drift.origin for glance in watch(arm, "poisson", phases, seed) if glance.seen.drift.drifted]
    return named[-1] if named else "not seen"


def _right(counts: Counter[str]) -> str:
    good = sum(count for key, count in counts.items() if key.partition(">")[0] == key.partition(">")[2])
    return f"{good} of {counts.total()}"


def _wrong(counts: Counter[str]) -> str:
    wrong = {key: count for key, count in sorted(counts.items()) if key.partition(">")[0] != key.partition(">")[2]}
    return f"({', '.join(f'{key} {count}' for key, count in wrong.items())})" if wrong else ""


REPORTS: Final[dict[str, Callable[[argparse.Namespace, Sequence[Arm]], None]]] = {
    "false-alarms": lambda asked, arms: report_false_alarms(arms, asked.hours, (0.6, 0.8), asked.seed),
    "delays": lambda asked, arms: report_delays(arms, asked.steps, (1.2, 1.5, 2.0, 4.0), asked.seed),
    "causes": lambda asked, arms: report_causes(arms, max(1, asked.steps // 5), asked.seed),
}


def main() -> None:
    """Print the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0, help="of steady load for each arm and kind of arrivals")
    parser.add_argument("--steps", type=int, default=50, help="runs for each step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(REPORTS))
    parser.add_argument("--arm", type=int, choices=range(len(ARMS)), help="only this one")
    asked = parser.parse_args()
    arms = ARMS if asked.arm is None else (ARMS[asked.arm],)
    for name, report in REPORTS.items():
        if asked.only in {None, name}:
            report(asked, arms)


if __name__ == "__main__":
    main()
