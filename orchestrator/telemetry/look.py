"""Look at one pool: how full it is, why, how slow its inferences are, and what changed since the last look."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.telemetry import drift, states
from orchestrator.telemetry.advice import Case, advice, drift_advice, numbers, origin_of, slowness
from orchestrator.telemetry.drift import Around, Drift, DriftMemory
from orchestrator.telemetry.saturation import arrivals_per_s, saturation
from orchestrator.telemetry.snapshot import PoolSnapshot, Saturation, SaturationState, Yardstick
from orchestrator.telemetry.states import StateMemory

UNMEASURED = Yardstick()
ALONE = Around()


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of one pool between two looks."""

    states: StateMemory = field(default_factory=StateMemory)
    drift: DriftMemory = field(default_factory=DriftMemory)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change, ready to be an event: numbers and what to do are in the message."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The outcome of one look."""

    memory: Memory
    saturation: Saturation
    drift: Drift
    rate_per_s: float
    """Requests that arrive a second."""
    drift_advice: str = ""
    """Why inferences are slow and what to do; empty unless they have drifted, and are slow still."""
    transitions: tuple[Transition, ...] = ()


def look(
    memory: Memory,
    snapshot: PoolSnapshot,
    now: float,
    *,
    yardstick: Yardstick = UNMEASURED,
    around: Around = ALONE,
) -> Seen:
    """Return what is seen of a pool, and the memory for the next look.

    `now` is in seconds of any monotonic clock. To be called about twice a second.
    """
    drifts, slow = drift.follow(memory.drift, snapshot, yardstick, around, now)
    measured = saturation(snapshot, capacity_per_s=yardstick.capacity_per_s)
    after = states.step(memory.states, snapshot, measured, yardstick, now)
    rate = arrivals_per_s(snapshot)
    if after.evidence.sure:  # the load is new: the mean of ten seconds does not know it yet
        rate = max(rate, after.evidence.newest_per_s)
        measured = saturation(snapshot, capacity_per_s=yardstick.capacity_per_s, rate_per_s=rate)
    case = Case(snapshot, replace(measured, state=after.state), slow, around, yardstick, rate, sure=after.evidence.sure)
    case = replace(case, measured=replace(case.measured, origin=origin_of(case)))
    measured = replace(case.measured, advice=advice(case))
    case = replace(case, measured=measured)
    changes = (*_state_change(memory.states.state, case), *_drift_change(memory.drift, case))
    told = drift_advice(case) if slow.drifted and slow.slow else ""
    return Seen(Memory(after, drifts), measured, slow, rate, told, changes)


_RANK: dict[SaturationState, int] = {"OK": 0, "BUSY": 1, "SATURATED": 2, "OVERLOADED": 3}
_REASONS: dict[SaturationState, str] = {
    "OK": "PoolOk",
    "BUSY": "PoolBusy",
    "SATURATED": "PoolSaturated",
    "OVERLOADED": "PoolOverloaded",
}


def _state_change(before: SaturationState, case: Case) -> tuple[Transition, ...]:
    measured = case.measured
    if measured.state == before:
        return ()
    # A busy pool holds its SLO: nobody is to be woken for it.
    worse = _RANK[measured.state] > max(_RANK[before], _RANK["BUSY"])
    full = f"{before} to {measured.state}, {measured.value:.0%} full by {measured.cause}"
    told = "; ".join(part for part in (measured.advice if measured.state != "OK" else "", numbers(case)) if part)
    message = f"{case.snapshot.model} went from {full}{': ' if told else ''}{told}"
    return (Transition("Warning" if worse else "Normal", _REASONS[measured.state], message),)


def _drift_change(before: DriftMemory, case: Case) -> tuple[Transition, ...]:
    if case.drift.drifted == before.latch.on:
        return ()
    name = case.snapshot.model
    if case.drift.drifted:
        return (Transition("Warning", "InferenceSlow", f"{name}: {drift_advice(case)}"),)
    return (Transition("Normal", "InferenceWell", f"{name}: {slowness(case.drift)} again"),)
