"""Loads a model that serves, try by try as the search asks, and says what was seen of each."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.bench import Ask, BenchQuestion, GeneratorUse, Tried, next_ask
from orchestrator.planner.bench_tally import Around, Tally, part
from orchestrator.profiling.children import LoadGenerator
from orchestrator.profiling.host_counters import Snapshot, between, snapshot
from orchestrator.profiling.trust import Trust
from orchestrator.profiling.wire import LoadOrder, LoadReport, Outcome

GAP_S = 0.15  # between blocks: what waits is answered meanwhile
SETTLE_S, SETTLE_REQUESTS, SETTLE_TRIES = 0.5, 3, 8  # after a load that was too much
SETTLED = 3.0  # times the latency without load
CONNECTIONS_MAX, CONNECTIONS_FIRST = 4096, 16
CALLERS_MAX = CONNECTIONS_MAX
COUNTERS_LEAST_S = 0.5  # the kernel counts hundredths of a second: shorter tries say nothing of the host


@dataclass(frozen=True, slots=True)
class Served:
    """Where the requests go, and how to look at the server meanwhile."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str]
    body: Path
    """File with the body of every request."""
    pid: int | None
    """Of the server's process, where it runs on this machine."""
    arrived: Callable[[], int | None]
    """Returns how many requests the server has counted, everybody's; None where it cannot be known."""
    trust: Trust | None = None
    """With TLS: which servers are trusted."""


Tell = Callable[[Ask, Tally], None]
"""Is told several times a second how far a try is."""


def tries(question: BenchQuestion, served: Served, tell: Tell) -> Iterator[Tried]:
    """Yield each try as it ends, until the search has found what the budget affords; raise OrchError FAILED."""
    done: list[Tried] = []
    with LoadGenerator() as generator:
        run = _Run(question, served, tell, generator)
        run.settle(math.inf)  # its process has started, and the server is warm
        began = time.monotonic()
        while (ask := next_ask(question, done, time.monotonic() - began)) is not None:
            if ask.closed and ask.load > CALLERS_MAX:
                return
            done.append(run.of(ask))
            yield done[-1]
            if done[-1].held is False:
                run.settle(done[0].p50_s or 0.0)


@dataclass(frozen=True, slots=True)
class _Block:
    """One load of the generator, and how long its schedule was."""

    report: LoadReport
    seconds: float


@dataclass(slots=True)
class _Run:
    """The generator, and what it is pointed at."""

    question: BenchQuestion
    served: Served
    tell: Tell
    generator: LoadGenerator

    def of(self, ask: Ask) -> Tried:
        """Try one load, block by block, until its test decides or its time is over."""
        tally = Tally(self.question, ask)
        blocks: list[_Block] = []
        arrived, before = self.served.arrived(), self._snapshot()
        while (left_s := ask.seconds - _loaded_s(blocks)) > 0.05 and not _over(ask, tally, blocks):
            if blocks:
                time.sleep(GAP_S)
            blocks.append(self._block(ask, tally, len(blocks), _loaded_s(blocks), min(ask.block_s, left_s)))
        return tally.tried(_loaded_s(blocks), self._around(tally, blocks, before, arrived))

    def _block(self, ask: Ask, tally: Tally, number: int, since_s: float, seconds: float) -> _Block:
        stopped, last_due_s = False, 0.0
        for said in self.generator.load(self._order(ask, ask.seed + 101 * number, seconds)):
            if isinstance(said, LoadReport):
                # One that its test, or a number of requests, ended was as long as its schedule until then.
                early = stopped or ask.requests_max is not None
                return _Block(said, min(seconds, last_due_s) if early else seconds)
            _note(tally, said, number, since_s)
            last_due_s = said[-1].due_s
            self.tell(ask, tally)
            # What holds must hold to the end of its block: a queue that grows shows there.
            if ask.test is not None and not stopped and tally.verdict() == "rejected":
                self.generator.stop()
                stopped = True
        raise OrchError(Kind.FAILED, "the load generator ended without a report")

    def settle(self, floor_s: float) -> None:
        """Wait, for some seconds at most, until one caller is answered about as soon as without load."""
        for _ in range(SETTLE_TRIES):
            order = self._order(Ask("floor", 1, True, SETTLE_S, SETTLE_S, None, 0, SETTLE_REQUESTS), 0, SETTLE_S)
            found = [each for said in self.generator.load(order) if isinstance(said, list) for each in said]
            if any(each.status == 200 and each.latency_s <= SETTLED * floor_s for each in found):
                return
            time.sleep(GAP_S)

    def _order(self, ask: Ask, seed: int, seconds: float) -> LoadOrder:
        served = self.served
        return LoadOrder(
            host=served.host,
            port=served.port,
            path=served.path,
            headers=dict(served.headers),
            body=str(served.body),
            arrivals="closed" if ask.closed else self.question.arrivals,
            rate_per_s=None if ask.closed else ask.load,
            callers=int(ask.load) if ask.closed else None,
            seed=seed,
            seconds=seconds,
            requests_max=ask.requests_max,
            connections_max=CONNECTIONS_MAX,
            connections_first=CONNECTIONS_FIRST,
            timeout_s=self.question.answer_s,
            trust=served.trust,
        )

    def _snapshot(self) -> Snapshot:
        own = [self.generator.pid, os.getpid()] + ([self.served.pid] if self.served.pid is not None else [])
        return snapshot(os.sched_getaffinity(0), own)

    def _around(self, tally: Tally, blocks: Sequence[_Block], before: Snapshot, arrived: int | None) -> Around:
        after, now = self._snapshot(), self.served.arrived()
        seconds, pid = after.at_s - before.at_s, self.served.pid
        known = pid is not None and seconds >= COUNTERS_LEAST_S
        others = None
        if arrived is not None and now is not None and now >= arrived:
            # What failed may or may not have arrived: it counts as arrived, so that others are rather too few.
            others = max(0, now - arrived - tally.sent) / seconds
        return Around(
            generator=_use([block.report for block in blocks]),
            host=between(before, after) if known else None,
            worker_cpu=_cpu(pid, before, after, seconds) if known and pid is not None else None,
            others_per_s=None if others is None else round(others, 3),
        )


def _loaded_s(blocks: Sequence[_Block]) -> float:
    return sum(block.seconds for block in blocks)


def _over(ask: Ask, tally: Tally, blocks: Sequence[_Block]) -> bool:
    """Tell whether no further block is wanted."""
    if ask.test is None:
        return bool(blocks)
    return tally.verdict() is not None


def _note(tally: Tally, outcomes: Sequence[Outcome], number: int, since_s: float) -> None:
    """Note what was told, those of one block together."""
    for block, told in itertools.groupby(outcomes, lambda outcome: part(tally.ask, number, outcome.due_s)):
        tally.note(list(told), block, since_s)


def _use(reports: Sequence[LoadReport]) -> GeneratorUse:
    return GeneratorUse(
        cpu=max((report.cpu for report in reports), default=0.0),
        late_sends=sum(report.late_sends for report in reports),
        late_wakes=sum(report.late_wakes for report in reports),
        latest_send_s=max((report.latest_send_s for report in reports), default=0.0),
        bottleneck=next((report.full for report in reports if report.full is not None), None),
    )


def _cpu(pid: int, before: Snapshot, after: Snapshot, seconds: float) -> float:
    return round(max(0.0, after.own_s.get(pid, 0.0) - before.own_s.get(pid, 0.0)) / seconds, 3)
