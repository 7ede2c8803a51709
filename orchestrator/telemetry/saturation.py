"""Say how full a pool is: one figure, the largest of a few terms, 1.0 being full.

Follows the USE method (busy is not full; waiting and refusing are). What was measured to be the capacity is a term of
its own; a plan by rule has none.
"""

from __future__ import annotations

from orchestrator.telemetry.snapshot import PoolSnapshot, Quantiles, Saturation, SaturationState, Window

OFFERED = "offered load"
PLANNED = "arrivals against the measured capacity"
WAIT_SLO = "queue wait against the SLO"
SERVICE_SLO = "inference time against the SLO"
WAIT_QUEUE = "queue wait against the queue limit"
REFUSING = "refusing requests"
IDLE = "idle"
OF_ARRIVALS = frozenset({OFFERED, PLANNED})
TERMS = (OFFERED, PLANNED, WAIT_SLO, SERVICE_SLO, WAIT_QUEUE, REFUSING)

MOST = 10.0  # beyond ten times full more digits say nothing, and JSON has no infinity
FULL_AT = 1.0
FULL: frozenset[SaturationState] = frozenset({"SATURATED", "OVERLOADED"})
REFUSED_AT = 0.001
REFUSING_TENTHS = 3  # of twenty: refusals in fewer are one burst
SHORTEST_SPAN_S = 1.0  # the first request of a pool's life is not a rate of thousands a second
FULL_QUEUE_SHORTEST_S = 0.005  # shorter waits are hand-overs and time slices: a tiny model's first request meets some
RATE_EVIDENCE = 100  # arrivals that give a Poisson rate within 10 % (one standard deviation)
# Answers that a quantile needs before it is believed: with fewer it is the luck of the largest (exact binomial, 95 %).
QUANTILE_EVIDENCE = {"p99": 299, "p95": 59, "p50": 0}


def saturation(
    snapshot: PoolSnapshot,
    state: SaturationState = "OK",
    *,
    capacity_per_s: float | None = None,
    rate_per_s: float | None = None,
) -> Saturation:
    """Return how full the pool is: its terms, the largest as value, and that one's name as cause.

    `capacity_per_s` is the arrival rate up to which the SLO was measured to hold; `rate_per_s` is the arrival rate,
    where the caller knows better than `arrivals_per_s`.
    """
    rate = arrivals_per_s(snapshot) if rate_per_s is None else rate_per_s
    terms = {name: min(MOST, value) for name, value in _terms(snapshot, capacity_per_s, rate).items()}
    cause = max(terms, key=lambda name: terms[name], default=IDLE)
    value = terms.get(cause, 0.0)
    return Saturation(value, state, cause if value > 0 else IDLE, terms)


def refused_share(window: Window) -> float:
    """Return the share of arrivals that were refused or expired in the queue, 0 without arrivals."""
    return min(1.0, (window.rejected + window.expired) / window.arrivals) if window.arrivals else 0.0


def refusing_share(snapshot: PoolSnapshot) -> float:
    """Return the share that is refused again and again in the last second or two, 0 where that was one burst."""
    again = snapshot.recent.refused_tenths >= REFUSING_TENTHS
    return refused_share(snapshot.recent) if again else 0.0


def refused_allowed(snapshot: PoolSnapshot) -> float:
    """Return the share of requests that may be refused with the SLO still held, next to nothing without one."""
    return REFUSED_AT if snapshot.slo_percentile is None else max(REFUSED_AT, 1 - snapshot.slo_percentile / 100)


def arrivals_per_s(snapshot: PoolSnapshot) -> float:
    """Return the arrival rate over the last second or two if they hold enough arrivals, else over ten seconds."""
    window = arrivals_window(snapshot)
    return window.arrivals / max(SHORTEST_SPAN_S, window.seconds)


def arrivals_window(snapshot: PoolSnapshot) -> Window:
    """Return the window over which the arrival rate is taken."""
    return snapshot.recent if snapshot.recent.arrivals >= RATE_EVIDENCE else snapshot.window


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


def headroom_per_s(snapshot: PoolSnapshot, capacity_per_s: float | None, state: SaturationState = "OK") -> float | None:
    """Return the arrivals a second to spare before the SLO breaks; negative by how many are too many.

    A pool that is full has none, whatever was measured of it before: what it refuses is too many at least.
    """
    if capacity_per_s is None:
        return None
    spare_per_s = capacity_per_s - arrivals_per_s(snapshot)
    if state not in FULL:
        return spare_per_s
    window = arrivals_window(snapshot)
    refused_per_s = (window.rejected + window.expired) / max(SHORTEST_SPAN_S, window.seconds)
    return min(spare_per_s, 0.0 - refused_per_s)


def _terms(snapshot: PoolSnapshot, capacity_per_s: float | None, rate_per_s: float) -> dict[str, float]:
    terms = {}
    possible_per_s = service_per_s(snapshot)
    if possible_per_s:
        terms[OFFERED] = rate_per_s / possible_per_s
    if capacity_per_s:  # none at all is an SLO that cannot be held: the terms of the SLO say that better
        terms[PLANNED] = rate_per_s / capacity_per_s
    terms |= _slo_terms(snapshot) if snapshot.slo_latency_s else _queue_terms(snapshot, possible_per_s)
    refused = refusing_share(snapshot)
    if refused > refused_allowed(snapshot):
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
    return {WAIT_QUEUE: wait_s / max(FULL_QUEUE_SHORTEST_S, snapshot.queue_limit / possible_per_s)}


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
