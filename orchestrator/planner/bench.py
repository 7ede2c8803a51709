"""Searches for the capacity of what serves: which load to try next, from all that was tried before.

A load is a rate of arrivals, or the number of callers that each wait for their answer. One caller alone comes first: it
shows the floor of any latency. Then loads are doubled or halved until one holds the SLO and another misses it, and the
gap between them is halved on a logarithmic scale. Each try is a sequential test on misses (see `verdict`), which ends
it as soon as it is sure. What misses while others disturb it is tried again at once, and in the end both the load that
holds and the one that misses: neither one burst of somebody else's work nor one lucky run is a capacity. Loads beyond
the capacity then show what is left of it there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.planner.verdict import BLOCKS, Test, the_test
from orchestrator.profiling.measurement import Host, Verdict
from orchestrator.scheduling.arrivals import Arrivals

RESOLUTION = 1.05  # between a load that holds and one that misses: finer is beyond what some hundred requests tell
FLOOR_S, FLOOR_REQUESTS = 1.0, 200
# A queue that grows must have the time to, and misses come in clumps: few seconds without one prove little.
BLOCK_LEAST_S = 1.0
BLOCK_SHARE, BLOCK_MOST_S = 1 / 24, 5.0  # of the budget, once a load that holds and one that misses are known
BLOCK_LATENCIES = 20  # and so many times the SLO: a load 5 % too much then waits as long as the SLO by the end
PATIENCE = 3.0  # times what a clean try takes, for one that is near the limit
TRY_SHARE, FIRST_SHARE = 1 / 8, 1 / 3  # of the budget at most; the first try is at the rate that was promised
TRY_LEAST_S = 1.0
TRIES_MAX = 24
ANSWER_LEAST_S, ANSWER_SLOS = 2.0, 4.0  # until an unanswered request is given up
ANSWER_S = 10.0  # the same without an SLO
BEYOND = (1.5, 2.0)  # times the capacity
BEYOND_S = 3.0
BELOW = (0.75, 0.5)  # of the capacity: what the curve looks like there
BELOW_S = 2.0
OVERHEAD_S = 1.0  # of a try at most: connections, gaps, settling, counters
CLIMB = 2.0
CLIMB_NEAR = 1.2  # where the plan's figure is near
SAFE = 0.7  # of what can be answered at all, or of the plan's figure: likely to hold
FALL_MOST = 10.0  # times at once, by what was answered: a server that breaks down answers less than it could
DOUBT_SHARE = 0.5  # of the budget must be left to repeat a try before any load has held
LOAD_LEAST = 0.02  # of what one caller gets answered; below it nothing will hold
AGAIN_MAX = 2  # tries that are repeated because others used the machine
CURVE_STEP = 1.5  # without an SLO
CURVE_ENDS = 0.9  # answered of what arrives; below it the server is full
EPISODE_LEAST_S = 0.005

Purpose = Literal["floor", "search", "beyond", "below", "curve", "fixed"]
JUDGED = frozenset({"search", "beyond", "below"})  # tries of a search that hold the SLO or miss it


@dataclass(frozen=True, slots=True)
class BenchQuestion:
    """What is asked of a model that serves."""

    latency_s: float | None
    """Of the SLO; None asks for the curve alone."""
    percentile: float
    arrivals: Arrivals = "poisson"
    budget_s: float = 60.0
    seed: int = 1
    declared: float | None = None
    """The load that was promised: requests a second, or callers; tried first."""
    planned_per_s: float | None = None
    fixed: float | None = None
    """The only load to try, for the whole of the budget."""

    @property
    def closed(self) -> bool:
        """Tell whether loads are numbers of callers."""
        return self.arrivals == "closed"

    @property
    def answer_s(self) -> float:
        """Return the seconds after which an unanswered request is given up."""
        return ANSWER_S if self.latency_s is None else max(ANSWER_LEAST_S, ANSWER_SLOS * self.latency_s)

    @property
    def allowed(self) -> float:
        """Return the share of the requests that may miss."""
        return round(1 - self.percentile / 100, 12)


@dataclass(frozen=True, slots=True)
class Ask:
    """One load to try."""

    purpose: Purpose
    load: float
    closed: bool
    seconds: float
    """Of load at most, gaps not counted."""
    block_s: float
    """Length of a block; an idle gap separates blocks. All of `seconds` is a run without gaps."""
    test: Test | None
    """Ends the try when it decides; None runs it to its end."""
    seed: int
    requests_max: int | None = None


@dataclass(frozen=True, slots=True)
class GeneratorUse:
    """What the load generator says of itself during a try."""

    cpu: float = 0.0
    """Cores that it used at most."""
    late_sends: int = 0
    """More than 2 ms after they were due."""
    late_wakes: int = 0
    """Of these the ones that it was itself late for."""
    latest_send_s: float = 0.0
    bottleneck: str | None = None
    """Why a miss would be its own."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One load that was tried, and what became of its requests."""

    purpose: Purpose
    load: float
    closed: bool
    seconds: float
    """Of load."""
    sent: int
    answered: int
    refused: int
    """With status 503."""
    expired: int
    """With status 504."""
    failed: int
    """With another status, or a broken connection."""
    misses: int
    """Refused, expired, failed, given up, or answered later than the SLO."""
    given_up: int = 0
    """By the bench itself: not answered within `answer_s`."""
    answer_s: float = ANSWER_S
    excused: int = 0
    """Of the misses those that the generator was late for."""
    lasted_s: float = 0.0
    """From the first arrival to the last answer."""
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    at_percentile_s: float | None = None
    """The SLO's percentile; this and the three before are of the answered, from the scheduled arrival."""
    verdict: Verdict | None = None
    held: bool | None = None
    """Whether the SLO held, as far as was seen; None where the generator, or nothing, decides."""
    generator: GeneratorUse = field(default_factory=GeneratorUse)
    host: Host | None = None
    worker_cpu: float | None = None
    """Cores that the server's process used."""
    others_per_s: float | None = None
    """Requests of other clients."""

    @property
    def per_s(self) -> float:
        """Return the requests a second that arrived."""
        return self.sent / self.seconds if self.closed and self.seconds > 0 else self.load

    @property
    def answered_per_s(self) -> float:
        """Return answers a second until the last one came."""
        return self.answered / max(self.seconds, self.lasted_s) if self.seconds > 0 else 0.0

    @property
    def goodput_per_s(self) -> float:
        """Return answers in time a second, as their share of what arrived, which the clock does not change."""
        return self.per_s * (self.sent - self.misses) / self.sent if self.sent else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The capacity as far as it was found."""

    per_s: float
    """Largest rate that held; 0 where none did."""
    low_per_s: float | None
    """Largest rate that held for sure."""
    high_per_s: float | None
    """Smallest rate that missed for sure."""
    callers: int | None
    """Of closed callers: how many of them held."""
    limit: Literal["slo", "budget", "generator", "floor"]
    """What ended the search: the SLO was missed above, time, the generator, or not even one caller is in time."""
    held_above_per_s: float | None = None
    """Largest rate above one that missed that held nonetheless: no capacity, but the machine was not the same."""


def next_ask(question: BenchQuestion, tried: Sequence[Tried], elapsed_s: float) -> Ask | None:
    """Return what to try next, None when all is known that the budget affords."""
    seed = 1000 * question.seed + len(tried)
    if not tried:
        return Ask("floor", 1, True, FLOOR_S, FLOOR_S, None, seed, FLOOR_REQUESTS)
    if question.fixed is not None:
        return _fixed(question, question.fixed, seed) if len(tried) == 1 else None
    left_s = question.budget_s - elapsed_s - _overhead_s(question)
    if question.latency_s is None:
        return _curve(question, tried, left_s, seed)
    if out_of_reach(question, tried[0]):
        return None
    return _search(question, tried, left_s, seed) or _around(question, tried, left_s, seed)


def out_of_reach(question: BenchQuestion, floor: Tried) -> bool:
    """Tell whether not even half of one caller's requests are in time."""
    return question.latency_s is not None and (floor.p50_s is None or floor.p50_s > question.latency_s)


def held_at(tried: Sequence[Tried], load: float) -> bool:
    """Tell whether a load held in most of its tries that say anything."""
    votes = _votes(tried, load)
    return sum(votes) * 2 > len(votes)


def _votes(tried: Sequence[Tried], load: float) -> list[bool]:
    return [each.held for each in _searched(tried) if each.load == load and each.held is not None]


def bounds(tried: Sequence[Tried]) -> tuple[float | None, float | None]:
    """Return the largest load that held below all that missed, and the smallest that missed."""
    loads = sorted({each.load for each in _searched(tried)})
    missed = next((load for load in loads if not held_at(tried, load)), None)
    held = [load for load in loads if missed is None or load < missed]
    return (held[-1] if held else None), missed


def held_above(tried: Sequence[Tried]) -> list[Tried]:
    """Return the tries above the smallest load that missed that held nonetheless, whatever they were for, by load."""
    _, missed = bounds(tried)
    if missed is None:
        return []
    above = [each for each in tried if each.purpose in JUDGED and each.held is True and each.load > missed]
    return sorted(above, key=lambda each: each.load)


def measured(question: BenchQuestion, tried: Sequence[Tried]) -> Measured | None:
    """Return the capacity that all tries show; None without an SLO, or before anything was searched."""
    if question.latency_s is None or question.fixed is not None or not tried:
        return None
    if out_of_reach(question, tried[0]):
        return Measured(0.0, None, tried[0].per_s if question.closed else None, 0 if question.closed else None, "floor")
    searched = _searched(tried)
    if not searched:
        return None
    held, missed = bounds(tried)
    sure = [each for each in searched if each.verdict == "verified" and held is not None and each.load <= held]
    no = [each for each in searched if each.verdict == "rejected" and missed is not None and each.load >= missed]
    return Measured(
        per_s=0.0 if held is None else max(each.per_s for each in searched if each.load == held),
        low_per_s=max((each.per_s for each in sure), default=None),
        high_per_s=min((each.per_s for each in no), default=None),
        callers=int(held or 0) if question.closed else None,
        limit=_limit(question, searched, held, missed),
        held_above_per_s=max((each.per_s for each in held_above(tried)), default=None),
    )


def _limit(
    question: BenchQuestion, searched: Sequence[Tried], held: float | None, missed: float | None
) -> Literal["slo", "budget", "generator"]:
    if missed is None or held is None:
        return "budget"
    if all(each.held is None for each in searched if each.load == missed):
        return "generator"
    return "slo" if _narrow(question, held, missed) else "budget"


def declared_held(question: BenchQuestion, tried: Sequence[Tried]) -> bool | None:
    """Tell whether the load that was promised held; None where none was, or it was not tried to an end."""
    if question.declared is None or question.latency_s is None or not tried:
        return None
    if question.fixed is None and out_of_reach(question, tried[0]):
        return False
    at = [each for each in _searched(tried) if each.load == question.declared]
    if not at or all(each.held is None for each in at):
        return None
    return held_at(tried, question.declared)


def _clean_s(question: BenchQuestion, searched: Sequence[Tried], test: Test, load_per_s: float) -> float:
    """Return how long a try without a miss takes."""
    share = BLOCK_SHARE if None not in bounds(searched) else 0.0
    block = max(BLOCK_LEAST_S, min(BLOCK_MOST_S, share * question.budget_s))
    return max(BLOCKS * block, 1.05 * test.fewest / load_per_s)


def _searched(tried: Sequence[Tried]) -> list[Tried]:
    return [each for each in tried if each.purpose == "search"]


def _test(question: BenchQuestion, floor: Tried) -> Test:
    return the_test(question.percentile, max(EPISODE_LEAST_S, floor.p50_s or 0.0))


def _fixed(question: BenchQuestion, load: float, seed: int) -> Ask:
    return Ask("fixed", load, question.closed, question.budget_s, question.budget_s, None, seed)


# The search.


def _search(question: BenchQuestion, tried: Sequence[Tried], left_s: float, seed: int) -> Ask | None:
    searched = _searched(tried)
    load = _next_load(question, searched, tried[0], left_s)
    if load is None or len(searched) >= TRIES_MAX:
        return None
    first = not searched and question.declared is not None
    # Beyond a capacity there is only something to show once there is one.
    room_s = left_s - (_reserve_s(question) if bounds(searched)[0] is not None else 0.0)
    most_s = min(room_s, max(2 * TRY_LEAST_S, question.budget_s * (FIRST_SHARE if first else TRY_SHARE)))
    if most_s < TRY_LEAST_S:
        return None
    test = _test(question, tried[0])
    clean = _clean_s(question, searched, test, _per_s(question, tried, load))
    seconds = min(most_s, PATIENCE * clean)
    assert question.latency_s is not None, "without an SLO there is no search"
    block = max(clean / BLOCKS, BLOCK_LATENCIES * question.latency_s)
    # Where there is no time for blocks so long, a run without gaps lets a queue grow longest.
    return Ask("search", load, question.closed, seconds, block if BLOCKS * block <= seconds else seconds, test, seed)


def _per_s(question: BenchQuestion, tried: Sequence[Tried], load: float) -> float:
    """Return the requests a second that a load brings; of closed callers by what the last try showed."""
    if not question.closed:
        return load
    return max(1e-3, *(each.per_s for each in tried[-1:]))


def _next_load(question: BenchQuestion, searched: Sequence[Tried], floor: Tried, left_s: float) -> float | None:
    if not searched:
        return _start(question, floor)
    held, missed = bounds(searched)
    if missed is None:
        assert held is not None, "what was searched either held or missed"
        return _rounded(question, _above(question, held), held, math.inf)
    # Nothing below it is known to hold yet: that goes before a second look, once half of the budget is over.
    if _in_doubt(searched, missed) and (held is not None or left_s >= DOUBT_SHARE * question.budget_s):
        return missed
    if held is None:
        lower = _rounded(question, _below(question, searched, missed), 0, missed)
        return lower if _least(question, floor) <= lower < missed else None
    if not _narrow(question, held, missed):
        return _rounded(question, math.sqrt(held * missed), held, missed)
    often = [load for load in (held, missed) if len([each for each in searched if each.load == load]) > AGAIN_MAX]
    return next((load for load in (held, missed) if load not in often and _unconfirmed(searched, load)), None)


def _least(question: BenchQuestion, floor: Tried) -> float:
    """Return the load below which none will hold."""
    return 1 if question.closed else LOAD_LEAST * floor.per_s


def could_try_less(question: BenchQuestion, tried: Sequence[Tried]) -> bool:
    """Tell whether, where no load held, it was only the budget that left no lower one to try."""
    held, missed = bounds(tried)
    return held is None and missed is not None and missed / CLIMB >= _least(question, tried[0])


def _start(question: BenchQuestion, floor: Tried) -> float:
    if question.declared is not None:
        return question.declared
    if question.closed:
        return 2.0
    return _rounded(
        question, SAFE * question.planned_per_s if question.planned_per_s else 0.5 * floor.per_s, 0, math.inf
    )


def _above(question: BenchQuestion, held: float) -> float:
    """Return a load above one that held: near the plan's figure in small steps."""
    planned = None if question.closed else question.planned_per_s
    if planned is None or held > 1.05 * planned:
        return CLIMB * held
    return max(0.95 * planned, CLIMB_NEAR * held) if held < 0.9 * planned else CLIMB_NEAR * held


def _below(question: BenchQuestion, searched: Sequence[Tried], missed: float) -> float:
    """Return a load below one that missed: what the plan says, else what was answered there where that is far less."""
    if question.closed:
        return missed / CLIMB
    planned = question.planned_per_s
    if planned is not None and missed > 1.1 * planned:
        return 0.95 * planned
    answered = max(each.answered_per_s for each in searched if each.load == missed)
    return min(missed / CLIMB, max(SAFE * answered, missed / FALL_MOST))


def _rounded(question: BenchQuestion, load: float, above: float, below: float) -> float:
    """Return the load as people read it, strictly between two others: whole callers, rates of three figures."""
    if question.closed:
        return float(min(max(round(load), above + 1), below - 1))
    short = float(f"{load:.3g}")
    return short if above < short < below else load


def _narrow(question: BenchQuestion, held: float, missed: float) -> bool:
    return missed - held <= 1 if question.closed else missed <= RESOLUTION * held


def _in_doubt(searched: Sequence[Tried], missed: float) -> bool:
    """Tell whether the last try missed while others disturbed the machine, or tries at that load do not agree."""
    votes = _votes(searched, missed)
    if len(votes) == 2 and any(votes):
        return True
    last = searched[-1]
    if last.load != missed or last.held is True or last.host is None or not last.host.tainted():
        return False
    disturbed = [each for each in searched if each.held is not True and each.host is not None and each.host.tainted()]
    return len(votes) < 3 and len(disturbed) <= AGAIN_MAX


def _unconfirmed(searched: Sequence[Tried], load: float) -> bool:
    """Tell whether the load was tried once only, or with different ends: best of three."""
    votes = _votes(searched, load)
    return len(votes) == 1 or (len(votes) == 2 and len(set(votes)) == 2)


# Around the capacity.


def _beyond_s(question: BenchQuestion) -> float:
    wanted = max(BEYOND_S, BLOCK_LATENCIES * (question.latency_s or 0.0))
    return min(wanted, max(TRY_LEAST_S, TRY_SHARE * question.budget_s))


def _reserve_s(question: BenchQuestion) -> float:
    return len(BEYOND) * (_beyond_s(question) + _overhead_s(question))


def _overhead_s(question: BenchQuestion) -> float:
    return min(OVERHEAD_S, question.budget_s / 60)


def _around(question: BenchQuestion, tried: Sequence[Tried], left_s: float, seed: int) -> Ask | None:
    """Return a load beyond the capacity, then one below it, each to its end."""
    held, _ = bounds(tried)
    if held is None:
        return None
    wanted: list[tuple[Purpose, float, float]] = [("beyond", factor, _beyond_s(question)) for factor in BEYOND]
    wanted += [("below", factor, BELOW_S) for factor in BELOW]
    for purpose, factor, seconds in wanted:
        load = float(max(1, round(factor * held))) if question.closed else float(f"{factor * held:.3g}")
        there = any(each.load == load if each.closed else 0.9 < each.load / load < 1.1 for each in tried[1:])
        if any(each.purpose == purpose and each.load == load for each in tried) or (purpose == "below" and there):
            continue
        if left_s < seconds:
            return None
        return Ask(purpose, load, question.closed, seconds, seconds, None, seed)
    return None


def _curve(question: BenchQuestion, tried: Sequence[Tried], left_s: float, seed: int) -> Ask | None:
    """Return the next higher load while the server still answers nearly all that comes."""
    curve = [each for each in tried if each.purpose == "curve"]
    if left_s < TRY_LEAST_S or len(curve) >= TRIES_MAX or _full(curve):
        return None
    load = curve[-1].load * CURVE_STEP if curve else _start(question, tried[0])
    seconds = min(left_s, max(BELOW_S, TRY_SHARE / 2 * question.budget_s))
    above = curve[-1].load if curve else 0.0
    return Ask("curve", _rounded(question, load, above, math.inf), question.closed, seconds, seconds, None, seed)


def _full(curve: Sequence[Tried]) -> bool:
    """Tell whether more load brings no more answers."""
    if not curve:
        return False
    last = curve[-1]
    if not last.closed:
        return last.answered_per_s < CURVE_ENDS * last.per_s
    return len(curve) > 1 and last.answered_per_s < 1.05 * curve[-2].answered_per_s
