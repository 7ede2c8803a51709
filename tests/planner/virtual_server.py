"""A server that is a few lines of arithmetic, benched on a virtual clock: what a bench finds of it is known."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.planner.bench import OVERHEAD_S, Ask, BenchQuestion, Tried, next_ask
from orchestrator.planner.bench_tally import Around, Tally, part
from orchestrator.scheduling.arrivals import arrivals

Outcome = tuple[float, float, int, float]
GAP_S = 0.15
TOLD = 10  # outcomes that the generator tells at once


@dataclass(frozen=True)
class Server:
    """`slots` inferences at a time of `service_s` each; refuses what could not be answered within `patience_s`."""

    service_s: float = 0.01
    slots: int = 1
    patience_s: float | None = None
    most_per_s: float = float("inf")
    """What the generator can send; more wakes late."""

    def open(self, due: Sequence[float]) -> list[Outcome]:
        """Answer requests that come when they are due."""
        free = [0.0] * self.slots
        outcomes, awake = [], 0.0
        for at in due:
            awake = max(awake, at)
            late = awake - at
            awake += 1 / self.most_per_s
            begin = max(at + late, free[0])
            latency = begin + self.service_s - at
            if self.patience_s is not None and latency - late > self.patience_s:
                outcomes.append((at, 0.0005 + late, 503, late))
                continue
            heapq.heapreplace(free, begin + self.service_s)
            outcomes.append((at, latency, 200, late))
        return outcomes

    def closed(self, callers: int, seconds: float, most: int | None) -> list[Outcome]:
        """Answer callers that send again when they are answered."""
        ready, free = [0.0] * callers, [0.0] * self.slots
        outcomes: list[Outcome] = []
        while ready[0] < seconds and (most is None or len(outcomes) < most):
            at = ready[0]
            end = max(at, free[0]) + self.service_s
            heapq.heapreplace(free, end)
            heapq.heapreplace(ready, end)
            outcomes.append((at, end - at, 200, 0.0))
        return outcomes


Beside = Callable[[int, Ask], Around]
"""What was seen beside a try, by its number."""


def nothing(_number: int, _ask: Ask) -> Around:
    return Around()


def benched(question: BenchQuestion, server: Callable[[int], Server], beside: Beside = nothing) -> list[Tried]:
    """Return all tries of a bench; `server` is the one that answers a try, by its number."""
    tried: list[Tried] = []
    clock_s = 0.0
    while (ask := next_ask(question, tried, clock_s)) is not None:
        seconds, done = run(question, ask, server(len(tried)), beside(len(tried), ask))
        clock_s += seconds
        tried.append(done)
    assert clock_s <= question.budget_s + 3, "a bench keeps its budget"
    return tried


def run(question: BenchQuestion, ask: Ask, server: Server, around: Around) -> tuple[float, Tried]:
    """Run one try and return how long it took, and what came of it."""
    tally, spent_s, number = Tally(question, ask), 0.0, 0
    while ask.seconds - spent_s > 0.05 and (not number or (ask.test is not None and tally.verdict() is None)):
        seconds = min(ask.block_s, ask.seconds - spent_s)
        loaded = _block(question, ask, server, tally, number, spent_s, seconds)
        spent_s, number = spent_s + loaded, number + 1
    return spent_s + number * GAP_S + OVERHEAD_S / 2, tally.tried(spent_s, around)


def _block(
    question: BenchQuestion, ask: Ask, server: Server, tally: Tally, number: int, since_s: float, seconds: float
) -> float:
    if ask.closed:
        outcomes = server.closed(int(ask.load), seconds, ask.requests_max)
    else:
        count = int(2 * ask.load * seconds) + 64
        due = arrivals(question.arrivals, ask.load, count, ask.seed + 101 * number)
        outcomes = server.open([at for at in due if at < seconds])
    for at in range(0, len(outcomes), TOLD):
        told = outcomes[at : at + TOLD]
        tally.note(told, part(ask, number, told[0][0]), since_s)
        if ask.test is not None and tally.verdict() == "rejected":
            return told[-1][0]
    return outcomes[-1][0] if ask.requests_max is not None and outcomes else seconds
