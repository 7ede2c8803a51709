"""Answer a search from a table of what was measured, without a machine: same table, same seed, same decision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from orchestrator.planner.arms import Candidate
from orchestrator.planner.capacity import Need, Service, capacity, simulated
from orchestrator.planner.decision import Capacity, Decision
from orchestrator.planner.search import Search
from orchestrator.planner.steps import Failed, Finish, Measure, Measured, Question, Result, Verify
from orchestrator.planner.verdict import Outcome, State, close, reaching, step, verdict
from orchestrator.profiling.measurement import SAMPLES_MAX, Arm, ArmProfile, Block, Host, Proof, ReadBack

ASKING_S = 0.2  # of a block, beside its seconds: warming up again
SERVING_S = 2.5  # until a worker serves, beside compiling


@dataclass(frozen=True, slots=True)
class Entry:
    """One arm of a table. `samples_s`: seconds of inferences in order, by how many were under way."""

    actual: ReadBack
    samples_s: Mapping[int, Sequence[float]]
    compile_s: float = 1.0
    memory_bytes: int | None = None
    failure: str | None = None
    """Why it cannot be compiled."""

    def at(self, concurrency: int) -> tuple[float, ...]:
        """Return the samples with so many under way, of the nearest there are."""
        nearest = min(self.samples_s, key=lambda number: (abs(number - concurrency), number))
        return tuple(self.samples_s[nearest])


@dataclass(frozen=True, slots=True)
class Noise:
    """What a noisy neighbour does: blocks slowed by up to `slow`, each with chance `share`, seen as foreign CPU."""

    share: float = 0.0
    slow: float = 0.4
    jitter: float = 0.0
    """Spread of a slow drift that no counter shows, as a share of the service time."""
    hidden: bool = False
    """The counters do not show the neighbour either."""
    start_s: float = 0.0
    """That a new process takes on a busy machine, beside compiling."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of a model on a machine, by the keys of its arms."""

    arms: Mapping[str, Entry]
    cpus: int = 2
    front_end_s: float = 0.0
    """That the served path really takes; a search does not see it but in proofs."""

    def service(self, arm: Arm) -> Service:
        """Return the arm's true service times."""
        entry = self.arms[arm.key]
        slots = max(1, arm.requests or entry.actual.requests)
        share = 0.0
        if arm.threads is not None:
            share = (entry.actual.threads or arm.threads) / (entry.actual.streams or slots) / self.cpus
        return Service(
            entry.at(1), (entry.at(slots),), slots, arm.batch, cores_share=min(1.0, share), front_end_s=self.front_end_s
        )


def truth(table: Table, arm: Arm, need: Need, *, seed: int = 4711) -> Capacity:
    """Return the arm's true capacity: of all the samples that the table has, with other chance than a search's."""
    return capacity(table.service(arm), need, seed=seed)


def replay(
    table: Table,
    question: Question,
    found: Sequence[Candidate],
    *,
    seed: int = 1,
    noise: Noise | None = None,
    stored: Sequence[ArmProfile] = (),
) -> Decision:
    """Return what the search decides on the table; `seed` is the machine's chance, the question has its own."""
    return replayed(table, question, found, seed=seed, noise=noise, stored=stored)[0]


def replayed(
    table: Table,
    question: Question,
    found: Sequence[Candidate],
    *,
    seed: int = 1,
    noise: Noise | None = None,
    stored: Sequence[ArmProfile] = (),
) -> tuple[Decision, tuple[tuple[Measure | Verify, Result], ...]]:
    """Return the decision, and every step with what it was told."""
    machine = _Machine(table, Random(seed), noise or Noise())
    search = Search(question, found, stored)
    told: list[tuple[Measure | Verify, Result]] = []
    while not isinstance(ask := search.next(), Finish):
        result = machine.do(ask)
        told.append((ask, result))
        search.feed(result, seconds=machine.seconds)
    return ask.decision, tuple(told)


class _Machine:
    """The machine of a table, with a clock of its own."""

    def __init__(self, table: Table, chance: Random, noise: Noise) -> None:
        self._table = table
        self._chance = chance
        self._noise = noise
        self._compiled: set[str] = set()
        self.seconds = 0.0

    def do(self, ask: Measure | Verify) -> Result:
        """Return what comes of the step, and let its time pass."""
        entry = self._table.arms.get(ask.arm.key)
        if entry is None or entry.failure is not None:
            self.seconds += 0.5
            return Failed(entry.failure if entry and entry.failure else "the table does not have it")
        return self._measure(ask, entry) if isinstance(ask, Measure) else self._verify(ask, entry)

    def _measure(self, ask: Measure, entry: Entry) -> Measured:
        if ask.arm.key not in self._compiled:
            self._compiled.add(ask.arm.key)
            self.seconds += entry.compile_s + self._noise.start_s
        slow, host = self._disturbed()
        samples = entry.at(ask.concurrency)
        service: list[float] = []
        place = self._chance.randrange(len(samples))
        until = ask.seconds * ask.concurrency
        while until > 0 and len(service) < SAMPLES_MAX:
            service.append(samples[(place + len(service)) % len(samples)] * slow)
            until -= service[-1]
        self.seconds += ask.seconds + ASKING_S
        block = Block(
            arm=ask.arm.key,
            round=ask.round,
            concurrency=ask.concurrency,
            seconds=math.fsum(service) / ask.concurrency,
            completed=len(service),
            service_s=tuple(service),
            host=host,
            paced=ask.paced,
        )
        return Measured(block, entry.actual, entry.compile_s, entry.memory_bytes)

    def _disturbed(self) -> tuple[float, Host]:
        slow = math.exp(self._chance.gauss(0, self._noise.jitter)) if self._noise.jitter else 1.0
        if self._chance.random() >= self._noise.share:
            return slow, Host(foreign=0.01)
        part = self._chance.random()
        return slow * (1 + part * self._noise.slow), Host(foreign=0.01 if self._noise.hidden else 0.06 + part / 4)

    def _verify(self, ask: Verify, entry: Entry) -> Proof:
        """Send requests in blocks, as a load generator would, until the test decides or the time is over."""
        self.seconds += entry.compile_s + SERVING_S
        state, latencies, refused, sent_s, blocks = State(), [], 0, 0.0, 0
        closed, rate_per_s = ask.need.arrivals == "closed", ask.rate_per_s
        while verdict(ask.test, state) is None and sent_s < ask.seconds:
            slow, _ = self._disturbed()
            service = replace(self._table.service(ask.arm), inflation=slow)
            fates = simulated(service, ask.need, ask.rate_per_s, ask.test.block, seed=self._chance.randrange(2**31))
            for fate in fates:
                latency_s = service.latency_s(fate)
                missed = latency_s > ask.need.latency_s
                state = step(ask.test, state, Outcome(sent_s + fate.arrived, blocks, missed))
                refused += fate.cause is not None
                latencies += [latency_s] if fate.cause is None else []
                if verdict(ask.test, state) is not None or sent_s + fate.arrived > ask.seconds:
                    sent_s += fate.arrived
                    break
            else:
                sent_s += max(fate.ended for fate in fates)
            sent_s += ask.gap_s
            blocks += 1
        self.seconds += min(sent_s, ask.seconds)
        found, reason = close(ask.test, state, "the budget is spent")
        if closed:
            rate_per_s = len(latencies) / max(ASKING_S, sent_s - blocks * ask.gap_s)
            found, reason = reaching((found, reason), rate_per_s, ask.least_per_s)
        return Proof(
            arm=ask.arm.key,
            rate_per_s=rate_per_s,
            arrivals=ask.need.arrivals,
            seed=ask.seed,
            sent=state.answered,
            answered=len(latencies),
            refused=refused,
            misses=state.misses,
            latency_s=tuple(latencies[:SAMPLES_MAX]),
            blocks=max(1, blocks),
            verdict=found,
            reason=reason,
        )
