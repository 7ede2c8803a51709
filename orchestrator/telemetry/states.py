"""Turn how full a pool is into states that neither flap nor lag.

Two kinds of signals raise a state. The slow ones follow the figure and must hold for seconds. The fast ones see a step
to overload within two seconds and are still quiet in ten minutes of bursts: the evidence that more arrives than can be
answered (`gathered`), and refusals in most tenths of the last two seconds. docs/adr/0016 has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.telemetry.saturation import (
    FULL_AT,
    OF_ARRIVALS,
    REFUSED_AT,
    arrivals_window,
    refusing_share,
    service_per_s,
)
from orchestrator.telemetry.snapshot import PoolSnapshot, Saturation, SaturationState, Yardstick

BUSY_AT = 0.7
SIGMAS = 3.0  # by which a full pool's arrivals must be above those of one that is hardly busy
CHANCE_MAX = 0.99
LEAVE_AT = 0.8  # of the level at which a state is entered

# Page's cumulative sum of the likelihood of arrivals at HIGH over that at LOW times the capacity. Its drift changes
# its sign at 1.008 times the capacity.
LOW, HIGH = 0.8, 1.25
SURE = 7.0  # nats: at 60 % of Poisson load it is passed by chance about once in e^15 times that it leaves 0
SUM_MAX = 10.0  # so that it falls soon when the load does
LAG = 4  # looks that must be over before they tell how uneven the arrivals are: a step must not excuse itself
SPREAD_MEMORY = 1 / 60  # of the spread for each look: half a minute
SPREAD_FIRST = 2.0  # variance over mean of the counts (1 is Poisson), until some looks have told it
SPREAD_MIN, SPREAD_MAX = 0.5, 25.0
OLD_S = 0.9  # for which evidence must have grown: what one look alone saw is a burst
PAUSE_MAX_S = 5.0  # two looks further apart say nothing of the seconds between them
REFUSED_TENTHS = 10  # of the last twenty

Signal = Literal["value", "evidence", "refused share", "refused tenths"]


@dataclass(frozen=True, slots=True)
class Level:
    """A state worse than OK: the signal at which it is entered, and how long that must hold to enter and to leave."""

    state: SaturationState
    signal: Signal
    threshold: float
    hold_s: float
    leave_s: float


# In ascending order. The figure holds for SATURATED as long as the recent window spans at most, so that one hiccup of
# the host alone cannot raise it; the evidence is at least two looks old by itself.
LEVELS = (
    Level("BUSY", "value", BUSY_AT, 5.0, 10.0),
    Level("SATURATED", "value", FULL_AT, 3.0, 6.0),
    Level("SATURATED", "evidence", SURE, 0.0, 6.0),
    Level("OVERLOADED", "refused share", REFUSED_AT, 5.0, 10.0),
    Level("OVERLOADED", "refused tenths", REFUSED_TENTHS, 0.0, 10.0),
)


@dataclass(frozen=True, slots=True)
class Latch:
    """Whether a level is on, and since when (seconds) its signal has been asking for the opposite."""

    on: bool = False
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """What arrived between two looks."""

    arrivals: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """How likely it is that more arrives than can be answered, in nats, and how uneven arrivals are."""

    nats: float = 0.0
    since: float = 0.0
    """When there was none at last."""
    spread: float = SPREAD_FIRST
    """Variance over mean of the counts of arrivals."""
    arrivals: int | None = None
    """Until the last look."""
    at: float = 0.0
    looks: tuple[Look, ...] = ()

    @property
    def sure(self) -> bool:
        """Tell whether more arrives than can be answered."""
        return self.believed >= SURE

    @property
    def believed(self) -> float:
        """Return the nats, none while all of them are from one look."""
        return self.nats if self.at - self.since >= OLD_S else 0.0

    @property
    def newest_per_s(self) -> float:
        """Return the arrival rate of the last two looks, however few they saw."""
        newest = self.looks[-2:]
        return sum(look.arrivals for look in newest) / max(sum(look.seconds for look in newest), 1e-9)


@dataclass(frozen=True, slots=True)
class StateMemory:
    """What the state machine remembers of one pool between two steps."""

    state: SaturationState = "OK"
    latches: tuple[Latch, ...] = field(default=tuple(Latch() for _ in LEVELS))
    evidence: Evidence = Evidence()


def step(
    memory: StateMemory, snapshot: PoolSnapshot, measured: Saturation, yardstick: Yardstick, now: float
) -> StateMemory:
    """Return the memory for the next step, which holds the state.

    `now` is in seconds of any monotonic clock. To be called about twice a second: a hold is counted from the first
    call that saw the signal, and one call that does not see it starts the hold anew.
    """
    evidence = gathered(memory.evidence, _arrivals(snapshot), capacity_now(snapshot, yardstick), now)
    signals: dict[Signal, float] = {
        "value": _believed(measured, snapshot, evidence.spread),
        "evidence": evidence.believed,
        "refused share": refusing_share(snapshot),
        "refused tenths": float(snapshot.recent.refused_tenths),
    }
    latches = tuple(
        latched(latch, signals[level.signal], level, now) for latch, level in zip(memory.latches, LEVELS, strict=True)
    )
    on = [level.state for level, latch in zip(LEVELS, latches, strict=True) if latch.on]
    return StateMemory(on[-1] if on else "OK", latches, evidence)


def _believed(measured: Saturation, snapshot: PoolSnapshot, spread: float) -> float:
    """Return the figure, kept below full where it rests on arrivals so few, or so uneven, that it may be chance."""
    arrivals = max((value for name, value in measured.terms.items() if name in OF_ARRIVALS), default=0.0)
    others = max((value for name, value in measured.terms.items() if name not in OF_ARRIVALS), default=0.0)
    error = SIGMAS * math.sqrt(max(SPREAD_MIN, spread) / max(1, arrivals_window(snapshot).arrivals))
    chance = arrivals * (1 - error) < BUSY_AT
    return max(others, min(arrivals, CHANCE_MAX) if chance else arrivals)


def capacity_now(snapshot: PoolSnapshot, yardstick: Yardstick) -> float | None:
    """Return the arrivals a second that can be answered at present: the measured ones, fewer where it is slower now."""
    known = [value for value in (yardstick.capacity_per_s, service_per_s(snapshot)) if value]
    return min(known, default=None)


def _arrivals(snapshot: PoolSnapshot) -> int:
    totals = snapshot.totals
    return totals.accepted + totals.rejected - totals.impossible


def gathered(evidence: Evidence, arrivals: int, capacity_per_s: float | None, now: float) -> Evidence:
    """Return the evidence with what arrived since the last look; `arrivals` counts from the start.

    The sum is that of a Poisson process, divided by the spread of the counts: uneven arrivals count for less.
    """
    seconds = now - evidence.at
    if evidence.arrivals is None or not 0 < seconds <= PAUSE_MAX_S or arrivals < evidence.arrivals:
        return Evidence(spread=evidence.spread, since=now, arrivals=arrivals, at=now)
    look = Look(arrivals - evidence.arrivals, seconds)
    nats = 0.0
    if capacity_per_s:
        likelihood = look.arrivals * math.log(HIGH / LOW) - (HIGH - LOW) * capacity_per_s * seconds
        nats = min(SUM_MAX, max(0.0, evidence.nats + likelihood / max(SPREAD_MIN, evidence.spread)))
    looks = (*evidence.looks, look)
    spread = evidence.spread
    if len(looks) > LAG + 1:
        spread += SPREAD_MEMORY * (_unevenness(looks[0], looks[1], spread) - spread)
        looks = looks[1:]
    since = evidence.since if nats > 0 else now
    return replace(evidence, nats=nats, since=since, spread=spread, arrivals=arrivals, at=now, looks=looks)


def _unevenness(first: Look, second: Look, otherwise: float) -> float:
    """Return variance over mean as two looks in a row tell it: a step between regimes shows in one pair only."""
    arrivals = first.arrivals + second.arrivals
    if not arrivals:
        return otherwise
    rate = arrivals / (first.seconds + second.seconds)
    apart = first.arrivals / first.seconds - second.arrivals / second.seconds
    return min(SPREAD_MAX, apart**2 / (rate * (1 / first.seconds + 1 / second.seconds)))


def latched(latch: Latch, signal: float, level: Level, now: float) -> Latch:
    """Return the latch after one look: it flips when the opposite has been asked for without a break long enough."""
    opposite = signal < level.threshold * LEAVE_AT if latch.on else signal >= level.threshold
    if not opposite:
        return Latch(latch.on)
    since = now if latch.since is None else latch.since
    hold_s = level.leave_s if latch.on else level.hold_s
    return Latch(not latch.on) if now - since >= hold_s else Latch(latch.on, since)
