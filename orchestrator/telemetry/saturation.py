"""Say how full a pool is and why, and turn that into states that neither flap nor lag.

Follows the USE method (busy is not full; waiting and refusing are) with one figure per pool: the largest of the terms
below, 1.0 being full. What was measured to be the capacity is a term of its own; a plan by rule has none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, Saturation, SaturationState, Window

OFFERED = "offered load"
PLANNED = "arrivals against the planned capacity"
WAIT_SLO = "queue wait against the SLO"
SERVICE_SLO = "inference time against the SLO"
WAIT_QUEUE = "queue wait against the queue limit"
REFUSING = "refusing requests"
IDLE = "idle"

ACTIONS = {
    OFFERED: "send less, or give it more: raise resources.cpus or slo.rate in the manifest and apply again",
    PLANNED: "more arrives than was measured to hold the SLO: send less, or raise slo.rate and plan anew",
    WAIT_SLO: "bursts wait longer than the SLO allows: smooth or lower the rate, or raise slo.rate and apply again",
    SERVICE_SLO: "the inference alone takes longer than the SLO: relax slo.latency or use a faster device",
    WAIT_QUEUE: "requests wait long: declare an slo so that they are refused in time, or send less",
    REFUSING: "requests are refused although the load would fit: check client timeouts and the queue limit",
    IDLE: "nothing to do",
}

MOST = 10.0  # beyond ten times full more digits say nothing, and JSON has no infinity
SHORTEST_SPAN_S = 1.0  # the first request of a pool's life is not a rate of thousands a second
RATE_EVIDENCE = 100  # arrivals that give a Poisson rate within 10 % (one standard deviation)
# Answers that a quantile needs before it is believed: with fewer it is the luck of the largest (exact binomial, 95 %).
QUANTILE_EVIDENCE = {"p99": 299, "p95": 59, "p50": 0}

BUSY_AT = 0.7
FULL_AT = 1.0
REFUSED_AT = 0.001
LEAVE_AT = 0.8  # of the level at which a state is entered
LEAVE_HOLDS = 2.0  # times the hold with which it is entered


@dataclass(frozen=True, slots=True)
class Level:
    """A state worse than OK: the signal at which it is entered, and how long the signal must hold."""

    state: SaturationState
    threshold: float
    hold_s: float


# SATURATED holds as long as the recent window spans at most, so that one hiccup of the host alone cannot raise it.
LEVELS = (
    Level("BUSY", BUSY_AT, 5.0),
    Level("SATURATED", FULL_AT, 3.0),
    Level("OVERLOADED", REFUSED_AT, 5.0),
)


@dataclass(frozen=True, slots=True)
class Latch:
    """Whether a level is on, and since when (seconds) its signal has been asking for the opposite."""

    on: bool = False
    since: float | None = None


@dataclass(frozen=True, slots=True)
class StateMemory:
    """What the state machine remembers of one pool between two steps."""

    state: SaturationState = "OK"
    latches: tuple[Latch, ...] = field(default=tuple(Latch() for _ in LEVELS))


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, ready to be an event: numbers and what to do are in the message."""

    previous: SaturationState
    state: SaturationState
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def saturation(
    snapshot: PoolSnapshot, state: SaturationState = "OK", *, capacity_per_s: float | None = None
) -> Saturation:
    """Return how full the pool is: its terms, the largest as value, and that one's name as cause.

    `capacity_per_s` is the arrival rate up to which the SLO was measured to hold.
    """
    terms = {name: min(MOST, value) for name, value in _terms(snapshot, capacity_per_s).items()}
    cause = max(terms, key=lambda name: terms[name], default=IDLE)
    value = terms.get(cause, 0.0)
    return Saturation(value, state, cause if value > 0 else IDLE, terms)


def step(
    memory: StateMemory, snapshot: PoolSnapshot, now: float, *, capacity_per_s: float | None = None
) -> tuple[StateMemory, Saturation, Transition | None]:
    """Return the memory for the next step, the saturation with its state, and the change of state if there was one.

    `now` is in seconds of any monotonic clock. To be called about once a second: a hold is counted from the first call
    that saw the signal, and one call that does not see it starts the hold anew.
    """
    measured = saturation(snapshot, capacity_per_s=capacity_per_s)
    signals = (measured.value, measured.value, refused_share(snapshot.recent))
    latches = tuple(
        _latched(latch, level, signal, now)
        for latch, level, signal in zip(memory.latches, LEVELS, signals, strict=True)
    )
    on = [level.state for level, latch in zip(LEVELS, latches, strict=True) if latch.on]
    state: SaturationState = on[-1] if on else "OK"
    measured = replace(measured, state=state)
    transition = _transition(memory.state, snapshot, measured) if state != memory.state else None
    return StateMemory(state, latches), measured, transition


def refused_share(window: Window) -> float:
    """Return the share of arrivals that were refused or expired in the queue, 0 without arrivals."""
    return min(1.0, (window.rejected + window.expired) / window.arrivals) if window.arrivals else 0.0


def arrivals_per_s(snapshot: PoolSnapshot) -> float:
    """Return the arrival rate over the last second or two if they hold enough arrivals, else over ten seconds."""
    enough = snapshot.recent.arrivals >= RATE_EVIDENCE
    window = snapshot.recent if enough else snapshot.window
    return window.arrivals / max(SHORTEST_SPAN_S, window.seconds)


def service_per_s(snapshot: PoolSnapshot) -> float | None:
    """Return the requests per second that the pool could answer with full batches, None before the first inference.

    Full batches, because waiting requests fill them: exact where the pool is full, and low before that when a batch of
    several rows takes much longer than one of a single row.
    """
    service_s = snapshot.service_s or snapshot.window.service.p50
    if not service_s:
        return None
    rows = max(1.0, snapshot.batch, snapshot.window.rows_per_batch or 0.0)
    return snapshot.requests * rows / service_s


def headroom_per_s(snapshot: PoolSnapshot, capacity_per_s: float | None) -> float | None:
    """Return the arrivals a second to spare before the SLO breaks; negative by how many are too many."""
    return None if capacity_per_s is None else capacity_per_s - arrivals_per_s(snapshot)


def _terms(snapshot: PoolSnapshot, capacity_per_s: float | None) -> dict[str, float]:
    terms = {}
    possible_per_s = service_per_s(snapshot)
    if possible_per_s:
        terms[OFFERED] = arrivals_per_s(snapshot) / possible_per_s
    if capacity_per_s:  # none at all is an SLO that cannot be held: the terms of the SLO say that better
        terms[PLANNED] = arrivals_per_s(snapshot) / capacity_per_s
    terms |= _slo_terms(snapshot) if snapshot.slo_latency_s else _queue_terms(snapshot, possible_per_s)
    refused = refused_share(snapshot.recent if snapshot.recent.arrivals >= RATE_EVIDENCE else snapshot.window)
    if refused > REFUSED_AT:
        terms[REFUSING] = FULL_AT + refused
    return terms


def _slo_terms(snapshot: PoolSnapshot) -> dict[str, float]:
    """Return how much of what the SLO leaves for waiting is used, at its percentile or the highest that is believed."""
    assert snapshot.slo_latency_s is not None
    name = _quantile_name(snapshot.slo_percentile)
    window = snapshot.recent if snapshot.recent.completed >= QUANTILE_EVIDENCE[name] else snapshot.window
    name = _believed(name, window.completed)
    wait_s, service_s = _quantile(window.wait, name), _quantile(window.service, name)
    if wait_s is None or service_s is None:
        return {}
    budget_s = snapshot.slo_latency_s - service_s
    if budget_s <= 0:
        return {SERVICE_SLO: service_s / snapshot.slo_latency_s}
    return {WAIT_SLO: wait_s / budget_s}


def _queue_terms(snapshot: PoolSnapshot, possible_per_s: float | None) -> dict[str, float]:
    """Return, where no SLO gives a budget, the wait as a share of the wait that a full queue means (Little).

    Over time, not the fill at this moment: the fill of one moment is mostly chance.
    """
    wait_s = _quantile(snapshot.window.wait, _believed("p99", snapshot.window.completed))
    if wait_s is None or not possible_per_s or snapshot.queue_limit <= 0:
        return {}
    return {WAIT_QUEUE: wait_s * possible_per_s / snapshot.queue_limit}


def _quantile_name(percentile: float | None) -> str:
    """Return the quantile at or above the SLO's percentile; p99 stands in for anything beyond it."""
    if percentile is None or percentile > 95:
        return "p99"
    return "p95" if percentile > 50 else "p50"


def _believed(wanted: str, completed: int) -> str:
    """Return the wanted quantile, or the highest below it for which so many answers are evidence."""
    lower = list(QUANTILE_EVIDENCE)[list(QUANTILE_EVIDENCE).index(wanted) :]
    return next(name for name in lower if completed >= QUANTILE_EVIDENCE[name])


def _quantile(quantiles: Quantiles, name: str) -> float | None:
    return {"p50": quantiles.p50, "p95": quantiles.p95, "p99": quantiles.p99}[name]


def _latched(latch: Latch, level: Level, signal: float, now: float) -> Latch:
    """Return the latch after one look: it flips when the opposite has been asked for without a break long enough."""
    opposite = signal < level.threshold * LEAVE_AT if latch.on else signal >= level.threshold
    if not opposite:
        return Latch(latch.on)
    since = now if latch.since is None else latch.since
    hold_s = level.hold_s * LEAVE_HOLDS if latch.on else level.hold_s
    return Latch(not latch.on) if now - since >= hold_s else Latch(latch.on, since)


_RANK: dict[SaturationState, int] = {"OK": 0, "BUSY": 1, "SATURATED": 2, "OVERLOADED": 3}
_REASONS: dict[SaturationState, str] = {
    "OK": "PoolOk",
    "BUSY": "PoolBusy",
    "SATURATED": "PoolSaturated",
    "OVERLOADED": "PoolOverloaded",
}


def _transition(previous: SaturationState, snapshot: PoolSnapshot, measured: Saturation) -> Transition:
    worse = _RANK[measured.state] > _RANK[previous]
    advice = f"; {ACTIONS[measured.cause]}" if measured.state != "OK" else ""
    return Transition(
        previous=previous,
        state=measured.state,
        type="Warning" if worse else "Normal",
        reason=_REASONS[measured.state],
        message=f"{snapshot.model} went from {previous} to {measured.state}: {_numbers(snapshot, measured)}{advice}",
    )


def _numbers(snapshot: PoolSnapshot, measured: Saturation) -> str:
    parts = [f"{measured.value:.0%} full by {measured.cause}", f"{_figure(arrivals_per_s(snapshot))} requests/s arrive"]
    possible_per_s = service_per_s(snapshot)
    if possible_per_s:
        parts.append(f"about {_figure(possible_per_s)}/s can be answered")
    if snapshot.slo_latency_s and snapshot.window.latency.p99 is not None:
        slo_ms, p99_ms = snapshot.slo_latency_s * 1e3, snapshot.window.latency.p99 * 1e3
        parts.append(f"p99 {_figure(p99_ms)} ms, SLO {_figure(slo_ms)} ms at p{snapshot.slo_percentile or 99:g}")
    refused = refused_share(snapshot.recent)
    if refused:
        parts.append(f"{refused:.1%} refused or expired")
    return ", ".join(parts)


def _figure(value: float) -> str:
    """Return three figures, and all of those before the point."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"
