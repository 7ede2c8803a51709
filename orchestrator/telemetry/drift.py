"""Say whether inferences take longer than they should, and what makes them slow: others on the host, or the input.

What they should take is what the plan measured. A plan by rule has nothing measured: then it is the first minute in
which they took the same time throughout, and only loads up to that minute's are compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.profiling.measurement import Host
from orchestrator.telemetry.saturation import arrivals_per_s
from orchestrator.telemetry.snapshot import Origin, PoolSnapshot, Yardstick
from orchestrator.telemetry.states import Latch

SLOW_AT = 1.25  # times what it should be
WELL_AT = 1.15
CALM_AT = 1.1  # up to here nothing is wrong, and what goes on around is what usually goes on
ENTER_S = 5.0  # on top of the window of ten seconds
LEAVE_S = 20.0
LOAD_MAX = 0.7  # of what the requests can answer when nothing is slow: above, waiting for each other is no drift
ANSWERS_MIN = 8  # for a median of ten seconds
ANSWERS_RECENT = 20  # for one of the last second or two
STABLE_S = 60.0
STABLE_WITHIN = 0.1  # of the first median of that minute
LOAD_LIKE = 1.25  # times the load of that minute
ROWS_LIKE = 1.05  # times the rows that one inference carried when it was measured
CALM_MEMORY = 0.05  # for each look: ten seconds

# From which on each thing is believed to slow inferences down, as a share of the cores or of the usual.
HOST_AT = 0.10
STEAL_AT = 0.05
THROTTLED_AT = 0.02
NEIGHBOUR_AT = 0.10
INPUT_AT = 0.20
LARGE_AT = 0.30  # of the cores: so much slows inferences down although it was there while a lighter load went well


@dataclass(frozen=True, slots=True)
class Around:
    """What goes on around a pool over about the same seconds as its window."""

    host: Host = field(default_factory=Host)
    neighbours: float = 0.0
    """Share of the worker's cores that inferences of its other models took."""


@dataclass(frozen=True, slots=True)
class Calm:
    """What usually goes on while inferences take as long as they should."""

    foreign: float
    neighbours: float
    bytes_each: float


@dataclass(frozen=True, slots=True)
class Minute:
    """A minute that is being watched, or that was steady to its end."""

    since: float
    service_s: float
    rate_per_s: float
    over: bool = False


@dataclass(frozen=True, slots=True)
class DriftMemory:
    """What is remembered of one pool between two looks."""

    latch: Latch = field(default_factory=Latch)
    calm: Calm | None = None
    minute: Minute | None = None
    origin: Origin = "none"
    """What was blamed while inferences were slow at last."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How long inferences take against how long they should; None where one of both is not known."""

    expected_s: float | None = None
    source: Literal["plan", "first minute"] | None = None
    """Where `expected_s` is from."""
    observed_s: float | None = None
    """Median of the last seconds: two where they hold enough answers, else ten."""
    ratio: float | None = None
    drifted: bool = False
    """For some time now, at a load at which they should not be slow."""
    origin: Origin = "none"
    """Of being slow now, or before while `drifted` outlasts that."""
    bytes_ratio: float | None = None
    """Bytes of a request over those of a usual one."""
    slow: bool = False
    """At this moment, be it only the newest inferences."""
    newest_s: float | None = None
    """The scheduler's estimate, which follows within a few inferences."""


def follow(
    memory: DriftMemory, snapshot: PoolSnapshot, yardstick: Yardstick, around: Around, now: float
) -> tuple[DriftMemory, Drift]:
    """Return the memory for the next look, and how slow inferences are; `now` as for the states."""
    observed = _observed(snapshot, yardstick)
    minute = None if yardstick.service_s else _minute(memory.minute, observed, snapshot, now)
    expected, source = _expected(yardstick, minute)
    if observed is None or expected is None:
        latch = Latch(memory.latch.on)
        origin = memory.origin if latch.on else "none"
        drift = Drift(expected, source, observed, drifted=latch.on, origin=origin)
        return replace(memory, minute=minute, latch=latch, origin=origin), drift
    ratio = observed / expected
    bytes_ratio = _bytes_each(snapshot) / memory.calm.bytes_each if memory.calm and memory.calm.bytes_each else None
    latch = _latched(memory.latch, ratio, now, light=_light(snapshot, expected, minute))
    # The scheduler's own estimate follows within a few inferences, before the median does.
    newest = snapshot.service_s or 0.0
    slow = (latch.on and ratio >= WELL_AT) or max(observed, newest) >= SLOW_AT * expected
    origin = _origin(around, memory.calm, bytes_ratio) if slow else memory.origin if latch.on else "none"
    calm = _calm(memory.calm, snapshot, around) if ratio <= CALM_AT else memory.calm
    drift = Drift(expected, source, observed, ratio, latch.on, origin, bytes_ratio, slow, newest)
    return DriftMemory(latch, calm, minute, origin), drift


def _observed(snapshot: PoolSnapshot, yardstick: Yardstick) -> float | None:
    """Return the median inference, None where there are too few, or where they carry more than was measured."""
    rows = snapshot.window.rows_per_batch or 1.0
    if snapshot.window.completed < ANSWERS_MIN or rows > yardstick.rows * ROWS_LIKE:
        return None
    recent = snapshot.recent
    return recent.service.p50 if recent.completed >= ANSWERS_RECENT else snapshot.window.service.p50


def _expected(
    yardstick: Yardstick, minute: Minute | None
) -> tuple[float | None, Literal["plan", "first minute"] | None]:
    if yardstick.service_s:
        return yardstick.service_s, "plan"
    return (minute.service_s, "first minute") if minute is not None and minute.over else (None, None)


def _minute(minute: Minute | None, observed: float | None, snapshot: PoolSnapshot, now: float) -> Minute | None:
    """Return the minute that is watched; once it was steady to its end it stays."""
    if minute is not None and minute.over:
        return minute
    if not observed:
        return None
    rate = arrivals_per_s(snapshot)
    if minute is None or abs(observed - minute.service_s) > STABLE_WITHIN * minute.service_s:
        return Minute(now, observed, rate)
    return replace(minute, rate_per_s=max(minute.rate_per_s, rate), over=now - minute.since >= STABLE_S)


def _light(snapshot: PoolSnapshot, expected_s: float, minute: Minute | None) -> bool:
    """Tell whether inferences have no reason in their own number to be slow."""
    rate = arrivals_per_s(snapshot)
    if minute is not None and rate > LOAD_LIKE * minute.rate_per_s:
        return False
    return rate * expected_s < LOAD_MAX * snapshot.requests * max(1.0, snapshot.window.rows_per_batch or 1.0)


def _latched(latch: Latch, ratio: float, now: float, *, light: bool) -> Latch:
    opposite = ratio < WELL_AT if latch.on else light and ratio >= SLOW_AT
    if not opposite:
        return Latch(latch.on)
    since = now if latch.since is None else latch.since
    hold_s = LEAVE_S if latch.on else ENTER_S
    return Latch(not latch.on) if now - since >= hold_s else Latch(latch.on, since)


def _origin(around: Around, calm: Calm | None, bytes_ratio: float | None) -> Origin:
    """Return what stands out most from what is usual, else what is large although it is usual, else `model`."""
    usual = calm or Calm(0.0, 0.0, 0.0)
    unusual: dict[Origin, float] = {
        "throttling": around.host.throttled / THROTTLED_AT,
        "steal": around.host.steal / STEAL_AT,
        "host": (around.host.foreign - usual.foreign) / HOST_AT,
        "neighbour": (around.neighbours - usual.neighbours) / NEIGHBOUR_AT,
        "input": ((bytes_ratio or 1.0) - 1.0) / INPUT_AT,
    }
    large: dict[Origin, float] = {"host": around.host.foreign / LARGE_AT, "neighbour": around.neighbours / LARGE_AT}
    return _strongest(unusual) or _strongest(large) or "model"


def _strongest(strength: Mapping[Origin, float]) -> Origin | None:
    strongest = max(strength, key=lambda name: strength[name])
    return strongest if strength[strongest] >= 1.0 else None


def _bytes_each(snapshot: PoolSnapshot) -> float:
    window = snapshot.recent if snapshot.recent.arrivals >= ANSWERS_RECENT else snapshot.window
    return window.nbytes / window.arrivals if window.arrivals else 0.0


def _calm(calm: Calm | None, snapshot: PoolSnapshot, around: Around) -> Calm:
    now = Calm(around.host.foreign, around.neighbours, _bytes_each(snapshot))
    if calm is None:
        return now
    return Calm(
        _nearer(calm.foreign, now.foreign),
        _nearer(calm.neighbours, now.neighbours),
        _nearer(calm.bytes_each, now.bytes_each),
    )


def _nearer(usual: float, now: float) -> float:
    return usual + CALM_MEMORY * (now - usual)
