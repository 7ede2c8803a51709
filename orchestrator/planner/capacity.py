"""How much an arm can take: the largest arrival rate at which the SLO holds, by simulating the pool that will serve.

The pool's own scheduler is driven on a virtual clock with measured service times, each drawn by how many others run
when it starts, or of those after a pause where it finds the pool idle: who has waited always starts beside others.
What the loops of a profile cannot show is put in by corrections, each learned where it can be seen:

- `front_end_s`: CPU time of the server for each request, for which each waits itself. And while all cores compute, it
  takes its time from one of them; an inference spread over all cores then waits at every layer for the slower one, an
  inference on one core of two only when the front end happens to fall on its own core, and not at all while another
  core idles. So the service time grows by 1 / (1 - rate x front_end_s x share of the cores x chance that none idles).
- `inflation`: observed over predicted service time, from a proof that went otherwise than predicted.
- `stretch`: observed over predicted latency, from a proof that held. Beside a server and its callers threads wait for a
  processor again and again, which takes time and no capacity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from orchestrator.planner import quick
from orchestrator.planner.decision import Capacity
from orchestrator.planner.quick import Pool, Times
from orchestrator.scheduling.arrivals import Arrivals, gaps, scaled
from orchestrator.scheduling.bound import queue_bound
from orchestrator.scheduling.scheduler import Limits
from orchestrator.scheduling.simulate import Fate, ServiceTimes, missed, simulate, simulate_closed

LOAD_MAX = 0.9  # of the throughput: above, a queue is at the mercy of what no short profile shows
REQUESTS = 12_000  # simulated for one rate
REQUESTS_FEW = 6000  # where many rates or factors are tried, or the scheduler itself is asked
# The late come in clumps: 12 000 requests leave a capacity open by some 4 %. The quick simulation affords so many more.
REQUESTS_MANY = 48_000
LATE_FEW = 10  # late requests that say little
STEP_ROUGH = 1.06
STEP = 1.01  # the factor between rates that are told apart
HALVINGS = 30
RESAMPLES = 40  # for the interval: its ends are the second-lowest and second-highest five percent
SIMULATION_ERROR = 0.025  # of a capacity: the spread over seeds of the arrivals (tests/planner/test_capacity.py)
STALL_MAX = 0.5  # the front end cannot take more of an inference's cores than a fair scheduler would give it
INFLATION_MIN, INFLATION_MAX = 0.8, 4.0  # what a proof may teach: beyond, something else is wrong
STRETCH_MAX = 4.0  # likewise; less than 1 is chance
STRETCH_SEEN_AT = (0.9, 0.95, 0.99)  # of the answers: nearer to the middle most did not wait


@dataclass(frozen=True, slots=True)
class Service:
    """What is known of an arm's service times, in seconds.

    `alone_s`: of inferences that find the pool idle; `busy_s`: with all `slots` taken, one tuple for each block.
    `cores_share`: part of the cores that one inference computes on, 0 where it is not on the CPU.
    """

    alone_s: tuple[float, ...]
    busy_s: tuple[tuple[float, ...], ...]
    slots: int
    rows: int = 1
    cores_share: float = 0.0
    front_end_s: float = 0.0
    inflation: float = 1.0
    stretch: float = 1.0
    streams_s: tuple[float, ...] = ()
    """With one slot less than all taken, where the last one only waits for a stream."""

    @property
    def pooled_s(self) -> tuple[float, ...]:
        """Return the service times with all slots taken, of all blocks."""
        return tuple(sample for block in self.busy_s for sample in block)

    @property
    def mean_s(self) -> float:
        """Return the mean service time with all slots taken."""
        return _mean(self.pooled_s) * self.inflation

    @property
    def most_per_s(self) -> float:
        """Return the requests a second that it serves when all slots are taken and every batch is full."""
        return self.slots * self.rows / self.mean_s

    def latency_s(self, fate: Fate) -> float:
        """Return the latency of a request as its caller sees it, infinite where it was refused or dropped."""
        return self.stretch * (self.front_end_s + fate.latency_s) if fate.cause is None else math.inf


@dataclass(frozen=True, slots=True)
class Need:
    """What the callers need, and the queue in front of the arm, as the pool will have it."""

    latency_s: float
    percentile: float
    arrivals: Arrivals = "poisson"
    callers: int | None = None
    """How many wait for their answers, where `arrivals` is closed."""
    timeout_s: float = math.inf
    queue_limit: int | None = None

    @property
    def share(self) -> float:
        """Return the share of the requests that must be in time."""
        return self.percentile / 100

    def allowed(self, count: int) -> int:
        """Return how many of so many requests may be late."""
        return int((1 - self.share) * count + 1e-6)


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least this share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered) - 1e-9))) - 1]


def capacity(service: Service, need: Need, *, seed: int = 1) -> Capacity:
    """Return the largest rate at which the SLO holds, with the interval that the samples leave open.

    Rates share their arrivals' and service times' chance, so the figure is as steady as its samples; same input, same
    result. Above 0.9 of the throughput nothing is planned. Closed callers: the throughput with as many of them as hold
    the SLO. Nor is more planned than the front end can take in.
    """
    need = _in_the_pool(service, need)
    find = _closed_capacity if need.arrivals == "closed" else _open_capacity
    per_s = find(service, need, seed)
    low, high = _interval(service, need, seed)
    formula = formula_capacity(service, need) if service.rows == 1 and need.arrivals == "poisson" else None
    # One event loop takes all requests in, however fast the model is.
    most = 1 / service.front_end_s if service.front_end_s > 0 else math.inf
    return Capacity(
        per_s=min(per_s, most),
        low_per_s=min(per_s * low, most),
        high_per_s=min(per_s * high, most),
        formula_per_s=formula,
    )


def _in_the_pool(service: Service, need: Need) -> Need:
    """Return what is left of the SLO for the pool, when the server has received the request and will answer it.

    The queue is as long as the whole SLO has it: so will the pool's be.
    """
    left_s = max(0.0, need.latency_s / service.stretch - service.front_end_s)
    queue = queue_bound(
        service.slots * service.rows,
        service.rows,
        service.mean_s,
        slo_latency_s=need.latency_s,
        limit=need.queue_limit,
    )
    return replace(need, latency_s=left_s, queue_limit=queue)


def _open_capacity(service: Service, need: Need, seed: int) -> float:
    """Return what many requests say by the quick simulation, as strict as the scheduler itself is with fewer."""
    if quantile(service.alone_s, need.share) * service.inflation > need.latency_s:
        return 0.0
    few, many = (_drawn(service, need.arrivals, count, seed) for count in (REQUESTS_FEW, REQUESTS_MANY))
    ceiling = LOAD_MAX * few.served_per_s
    rough = boundary(lambda rate: _quickly_holds(few, need, rate), ceiling / 2, ceiling, STEP_ROUGH)
    if not rough:
        return 0.0
    late = _late(few, need, boundary(lambda rate: _quickly_holds(few, need, rate), rough, ceiling))
    return boundary(lambda rate: _quickly_holds(many, need, rate, late), rough, ceiling)


def _late(drawn: _Drawn, need: Need, rate_per_s: float) -> float:
    """Return how many are late by the scheduler itself for each that the quick simulation makes late.

    Where both say how many of the same requests at the same rate; the fewer they are, the nearer to one.
    """
    by_scheduler = missed(
        drawn.arrivals(rate_per_s),
        drawn.seconds(rate_per_s),
        drawn.limits(need),
        latency_s=need.latency_s,
        most=len(drawn.at),
        timeout_s=need.timeout_s,
        expected_s=drawn.mean_s,
    )
    return (by_scheduler + LATE_FEW) / (_quickly_missed(drawn, need, rate_per_s, len(drawn.at)) + LATE_FEW)


def _quickly_holds(drawn: _Drawn, need: Need, rate_per_s: float, late: float = 1.0) -> bool:
    """Tell whether about enough requests are in time; `late` are for each that the quick simulation makes late."""
    allowed = int(need.allowed(len(drawn.at)) / late)
    return _quickly_missed(drawn, need, rate_per_s, allowed) <= allowed


def _quickly_missed(drawn: _Drawn, need: Need, rate_per_s: float, most: int) -> int:
    """Return how many requests are late or refused, up to one more than `most`, without the scheduler."""
    slow, limits = drawn.slow(rate_per_s), drawn.limits(need)
    longest_wait_s = need.timeout_s - slow * drawn.busy_s
    pool = Pool(limits.slots, limits.rows, limits.queue, need.latency_s, longest_wait_s, slow)
    return quick.missed(pool, drawn.arrivals(rate_per_s), drawn.times, most)


def boundary(holds: Callable[[float], bool], start: float, ceiling: float, step: float = STEP) -> float:
    """Return the largest rate up to `ceiling` that holds, to a factor of `step`, 0 where none above 1/1000 of it does.

    Begins at `start`, doubles its stride until it has the boundary between two rates, and halves what is between.
    """
    low, high = _bracket(holds, min(start, ceiling), ceiling, step)
    while low and high / low > step * (1 + 1e-9):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _bracket(holds: Callable[[float], bool], start: float, ceiling: float, stride: float) -> tuple[float, float]:
    """Return a rate that holds and one that does not, or the ceiling twice, or 0 where none was found that holds."""
    low = high = start
    if holds(start):
        while low < ceiling:
            high = min(ceiling, low * stride)
            if not holds(high):
                return low, high
            low, stride = high, stride * stride
        return ceiling, ceiling
    while high > ceiling / 1000:
        low = high / stride
        if holds(low):
            return low, high
        high, stride = low, stride * stride
    return 0.0, high


@dataclass(frozen=True, slots=True)
class _Chance:
    """What is drawn once for all rates and arms; nobody changes it."""

    at: list[float]
    """When requests arrive, at one a second."""
    places: list[float]
    """Where among its kin each service time stands."""
    meets: list[float]
    """Whether an inference beside some of the others takes as long as beside none, or as beside all."""


@lru_cache(maxsize=8)
def _chance(kind: Arrivals, count: int, seed: int) -> _Chance:
    dice = Random(seed + 1)
    at = [] if kind == "closed" else scaled(gaps(kind, count, seed), 1.0)
    return _Chance(at, [dice.random() for _ in range(count)], [dice.random() for _ in range(count)])


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An arm with requests and service times drawn for it, to be looked at under several rates."""

    service: Service
    at: Sequence[float]
    """When requests arrive, at one a second."""
    times: Times
    mean_s: float
    """Of an inference with all slots taken, by all samples."""
    busy_s: float
    """The same of those drawn, before a proof taught more."""

    @property
    def most_per_s(self) -> float:
        """Return the requests a second that it serves when all slots are taken and every batch is full."""
        return self.service.slots * self.service.rows / self.mean_s

    @property
    def served_per_s(self) -> float:
        """Return the rate at which, with what the front end takes of the cores, no slot is ever free."""
        low, high, places = 0.0, self.most_per_s, self.service.slots * self.service.rows
        if self.service.front_end_s == 0:
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if middle * self.busy_s * self.slow(middle) <= places else (low, middle)
        return low

    def arrivals(self, rate_per_s: float) -> list[float]:
        """Return when the requests arrive at a rate."""
        return [at / rate_per_s for at in self.at]

    def seconds(self, rate_per_s: float) -> ServiceTimes:
        """Return what gives the service times at a rate."""
        slow, times = self.slow(rate_per_s), self.times
        return lambda number, rows, beside: slow * times(number, rows, beside)

    def slow(self, rate_per_s: float) -> float:
        """Return by what service times grow at a rate, for what a proof taught and for the front end."""
        # A batch is computed whole, however few of its rows are used: as few as one where requests seldom meet.
        load = min(1.0, rate_per_s * self.mean_s / self.service.slots)
        return self.service.inflation / (1 - _stall(self.service, rate_per_s, load))

    def limits(self, need: Need) -> Limits:
        """Return the limits of the pool that will serve it."""
        slots, rows = self.service.slots, self.service.rows
        queue = queue_bound(slots * rows, rows, self.mean_s, slo_latency_s=need.latency_s, limit=need.queue_limit)
        return Limits(slots, rows, queue, share=need.share)


def _drawn(service: Service, kind: Arrivals, count: int, seed: int) -> _Drawn:
    chance = _chance(kind, count, seed)
    pooled_s = service.pooled_s
    alone, busy = (_at(samples, chance.places) for samples in (service.alone_s, pooled_s))
    streams = _at(service.streams_s, chance.places) if service.streams_s else ()
    times = Times(alone, busy, chance.meets, service.slots - 1, streams)
    return _Drawn(service, chance.at, times, _mean(pooled_s) * service.inflation, _mean(busy))


def _at(samples: Sequence[float], places: Sequence[float]) -> list[float]:
    ordered = sorted(samples)
    count = len(ordered)
    return [ordered[int(place * count)] for place in places]


def _stall(service: Service, rate_per_s: float, load: float) -> float:
    """Return the share of its time for which an inference waits for a core that the front end has."""
    if service.cores_share * service.slots < 1 - 1e-9:
        return 0.0  # a core is always left to the front end
    none_idle = load ** (service.slots - 1)
    return min(STALL_MAX, rate_per_s * service.front_end_s * service.cores_share * none_idle)


def _missed(fates: Sequence[Fate], need: Need) -> int:
    return sum(fate.cause is not None or fate.latency_s > need.latency_s for fate in fates)


def _closed_capacity(service: Service, need: Need, seed: int) -> float:
    """Return the throughput of the most callers, up to those there are, whose requests are all in time often enough."""
    callers = need.callers or 1
    drawn = _drawn(service, "closed", REQUESTS_FEW, seed)
    usual = replace(service, stretch=1.0)  # which is of the tail, and a throughput is of the mean
    low, high, best = 0, callers + 1, 0.0
    trial = callers
    while high - low > 1:
        fates = _closed_fates(drawn, need, trial)
        if _missed(fates, need) <= need.allowed(len(fates)):
            per_s = len(fates) / max(fate.ended for fate in fates)
            answered = [usual.latency_s(fate) for fate in fates if fate.cause is None]
            low, best = trial, min(per_s, trial / _mean(answered))
        else:
            high = trial
        trial = (low + high) // 2
    return best


def _closed_fates(drawn: _Drawn, need: Need, callers: int) -> list[Fate]:
    full = min(1.0, callers / (drawn.service.slots * drawn.service.rows))
    return simulate_closed(
        callers,
        len(drawn.times.meets),
        drawn.seconds(full * drawn.most_per_s),
        drawn.limits(need),
        timeout_s=need.timeout_s,
        expected_s=drawn.mean_s,
    )


def latency_at(
    service: Service, need: Need, rate_per_s: float, percentile: float | None = None, *, seed: int = 1
) -> float:
    """Return the predicted latency at a rate in seconds, infinite where so many are refused or dropped."""
    fates = simulated(service, need, rate_per_s, REQUESTS, seed=seed)
    return quantile([service.latency_s(fate) for fate in fates], need.share if percentile is None else percentile / 100)


def simulated(service: Service, need: Need, rate_per_s: float, count: int, *, seed: int = 1) -> list[Fate]:
    """Return the fates of `count` requests at a rate (closed callers: of as many as there are)."""
    drawn = _drawn(service, need.arrivals, count, seed)
    if need.arrivals == "closed":
        return _closed_fates(drawn, need, need.callers or 1)
    return simulate(
        drawn.arrivals(rate_per_s),
        drawn.seconds(rate_per_s),
        drawn.limits(need),
        timeout_s=need.timeout_s,
        expected_s=drawn.mean_s,
    )


def formula_capacity(service: Service, need: Need) -> float:
    """Return the largest Poisson rate at which D_p + W_p stays within the SLO, for a batch of one.

    W_p = max(0, ln(C / (1 - p)) D (1 + cv^2) / (2 c (1 - rho))) with Erlang's C: Allen and Cunneen's mean, an
    exponential tail. Conservative by up to 15 % of the wait below 0.8 of the load.
    """
    samples = service.pooled_s
    mean = _mean(samples) * service.inflation
    spread = math.sqrt(_mean([(sample * service.inflation - mean) ** 2 for sample in samples])) / mean
    budget = need.latency_s - quantile(samples, need.share) * service.inflation
    if budget < 0:
        return 0.0
    low, high = 0.0, LOAD_MAX
    for _ in range(30):
        load = (low + high) / 2
        wait = math.log(erlang_c(service.slots, load) / (1 - need.share))
        wait *= mean * (1 + spread**2) / (2 * service.slots * (1 - load))
        low, high = (load, high) if wait <= budget else (low, load)
    return low * service.slots / mean


def erlang_c(slots: int, load: float) -> float:
    """Return the share of Poisson arrivals that must wait for one of `slots` at a load of 0 to below 1."""
    offered = slots * load
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return max(1e-300, blocked / (1 - load * (1 - blocked)))


def observed_inflation(
    service: Service, need: Need, rate_per_s: float, latency_s: Sequence[float], *, seed: int = 1
) -> float:
    """Return by what the service times must be multiplied so that the simulated latencies are those observed.

    Compared at the median and the 90th percentile of the answered, where even a short run has enough of them.
    """
    seen = [quantile(latency_s, share) for share in (0.5, 0.9)]

    def slower_than_seen(factor: float) -> bool:
        fates = simulated(
            replace(service, inflation=service.inflation * factor), need, rate_per_s, REQUESTS_FEW, seed=seed
        )
        answered = [service.latency_s(fate) for fate in fates if fate.cause is None] or [math.inf]
        return (
            sum(math.log(quantile(answered, share) / value) for share, value in zip((0.5, 0.9), seen, strict=True)) > 0
        )

    low, high = INFLATION_MIN, INFLATION_MAX
    while high / low > STEP:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slower_than_seen(middle) else (middle, high)
    return math.sqrt(low * high)


def observed_stretch(
    service: Service,
    need: Need,
    rate_per_s: float,
    latency_s: Sequence[float],
    *,
    block: int = REQUESTS,
    seed: int = 1,
) -> float:
    """Return by what the latencies of the answered are longer than simulated ones, at the tail; 1 where they are not.

    The mean of the logarithms at several quantiles, of which each alone is as noisy as its few samples. They came in
    blocks of so many requests, each of which began with an idle pool, and so are those simulated.
    """
    plain = replace(service, stretch=1.0)
    blocks = max(1, REQUESTS // block)
    fates = [fate for number in range(blocks) for fate in simulated(plain, need, rate_per_s, block, seed=seed + number)]
    expected = [plain.latency_s(fate) for fate in fates if fate.cause is None]
    if not expected:
        return 1.0
    ratios = [math.log(quantile(latency_s, share) / quantile(expected, share)) for share in STRETCH_SEEN_AT]
    return min(STRETCH_MAX, max(1.0, math.exp(_mean(ratios))))


def _interval(service: Service, need: Need, seed: int) -> tuple[float, float]:
    """Return the 90 % interval of a capacity as factors of it, by drawing blocks, then samples, again.

    The closed formula stands in for the simulation: it moves alike, and a hundred times faster.
    """
    chance = Random(seed + 2)
    point = _proxy(service, need)
    ratios = sorted(_proxy(_resampled(service, chance), need) / point for _ in range(RESAMPLES))
    edge = RESAMPLES // 20
    return max(0.0, min(1.0, ratios[edge]) - SIMULATION_ERROR), max(1.0, ratios[-1 - edge]) + SIMULATION_ERROR


def _proxy(service: Service, need: Need) -> float:
    by_formula = formula_capacity(service, need) if service.rows == 1 and need.arrivals != "closed" else 0.0
    return by_formula if by_formula > 0.05 * service.most_per_s else service.most_per_s


def _resampled(service: Service, chance: Random) -> Service:
    blocks = [chance.choice(service.busy_s) for _ in service.busy_s]
    most = max(1, 400 // len(blocks))
    return replace(service, busy_s=tuple(tuple(chance.choices(block, k=min(most, len(block)))) for block in blocks))


def _mean(samples: Sequence[float]) -> float:
    return math.fsum(samples) / len(samples)
