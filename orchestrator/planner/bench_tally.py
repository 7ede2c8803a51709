"""Counts what becomes of the requests of one try, and judges it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.planner import verdict as verdicts
from orchestrator.planner.bench import Ask, BenchQuestion, GeneratorUse, Tried
from orchestrator.planner.capacity import quantile
from orchestrator.planner.verdict import State, Test, the_test
from orchestrator.profiling.measurement import GIVEN_UP, Host, Verdict

LATE_S = 0.002  # of the generator, for which a refusal is excused: it sent several at once
REFUSED, EXPIRED = 503, 504
PARTS = verdicts.BLOCKS  # a run without gaps counts as so many blocks


@dataclass(frozen=True, slots=True)
class Around:
    """What was seen beside the requests during a try."""

    generator: GeneratorUse = field(default_factory=GeneratorUse)
    host: Host | None = None
    worker_cpu: float | None = None
    others_per_s: float | None = None


@dataclass(slots=True)
class Tally:
    """What is known of a try so far; it lives as long as the try."""

    question: BenchQuestion
    ask: Ask
    _states: list[State] = field(default_factory=lambda: [State(), State()])
    """With every miss, and with those alone that the generator was not late for."""
    latencies_s: list[float] = field(default_factory=list)
    sent: int = 0
    refused: int = 0
    expired: int = 0
    failed: int = 0
    given_up: int = 0
    misses: int = 0
    excused: int = 0
    lasted_s: float = 0.0
    _bunch_s: float = 0.0
    """Largest lateness among the late ones in a row: they were sent as one, and waited for each other as long."""

    @property
    def test(self) -> Test:
        """Return the test that ends the try, else one that judges it at its end."""
        return self.ask.test or the_test(self.question.percentile, 0.001)

    def note(self, outcomes: Sequence[tuple[float, float, int, float]], block: int, since_s: float) -> None:
        """Note requests in the order of their schedule: due and latency in s, status, lateness of the generator in s.

        `since_s` is when the block began, in seconds of the try.
        """
        good = 0
        for due_s, latency_s, status, late_s in outcomes:
            self.sent += 1
            self._bunch_s = max(self._bunch_s, late_s) if late_s > LATE_S else 0.0
            if status == 200:
                self.latencies_s.append(latency_s)
                self.lasted_s = max(self.lasted_s, since_s + due_s + latency_s)
            if self._in_time(latency_s, status):
                good += 1
                continue
            self._hits(block, good)
            good = 0
            self._miss(verdicts.Outcome(since_s + due_s, block, missed=True), latency_s, status, late_s)
        self._hits(block, good)

    def _in_time(self, latency_s: float, status: int) -> bool:
        limit_s = self.question.latency_s
        return status == 200 and (limit_s is None or latency_s <= limit_s)

    def _hits(self, block: int, count: int) -> None:
        if count:
            self._states = [verdicts.hits(self.test, state, block, count) for state in self._states]

    def _miss(self, outcome: verdicts.Outcome, latency_s: float, status: int, late_s: float) -> None:
        self.misses += 1
        self.refused += status == REFUSED
        self.expired += status == EXPIRED
        self.given_up += status == GIVEN_UP
        self.failed += status not in (200, REFUSED, EXPIRED, GIVEN_UP)
        every, servers = self._states
        self._states[0] = verdicts.step(self.test, every, outcome)
        limit_s = self.question.latency_s
        own_s = latency_s - late_s - self._bunch_s
        excused = late_s > LATE_S and (status == REFUSED or (limit_s is not None and own_s <= limit_s))
        self.excused += excused
        # One that the generator spoilt says nothing of the server, for it as little as against it.
        self._states[1] = servers if excused else verdicts.step(self.test, servers, outcome)

    def verdict(self, *, ended: bool = False) -> Verdict | None:
        """Return verified when the SLO held in spite of the generator, rejected when the server missed it.

        A try that has `ended` is rejected also for missing too much in most of its blocks.
        """
        if self.question.latency_s is None:
            return None
        judge = verdicts.final if ended else verdicts.verdict
        every, servers = self._states
        if judge(self.test, every) == "verified":
            return "verified"
        return "rejected" if judge(self.test, servers) == "rejected" else None

    def tried(self, seconds: float, around: Around) -> Tried:
        """Return the try as it ended after so many seconds of load."""
        unasked = self.question.latency_s is None or self.ask.purpose == "floor"
        found = None if unasked else self.verdict(ended=True)
        full = around.generator.bottleneck is not None
        if found == "rejected" and full:
            found = None
        latencies = self.latencies_s
        return Tried(
            purpose=self.ask.purpose,
            load=self.ask.load,
            closed=self.ask.closed,
            seconds=round(seconds, 4),
            sent=self.sent,
            answered=len(latencies),
            refused=self.refused,
            expired=self.expired,
            failed=self.failed,
            misses=self.misses,
            given_up=self.given_up,
            answer_s=self.question.answer_s,
            excused=self.excused,
            lasted_s=round(self.lasted_s, 4),
            p50_s=_at(latencies, 50),
            p95_s=_at(latencies, 95),
            p99_s=_at(latencies, 99),
            at_percentile_s=_at(latencies, self.question.percentile),
            verdict=found or (None if unasked else "unverified"),
            held=self._held(found, full=full),
            generator=around.generator,
            host=around.host,
            worker_cpu=around.worker_cpu,
            others_per_s=around.others_per_s,
        )

    def _held(self, found: Verdict | None, *, full: bool) -> bool | None:
        """Tell whether the SLO held, by the test or else by the count."""
        if self.question.latency_s is None or not self.sent:
            return None
        if found is not None:
            return found == "verified"
        allowed = self.question.allowed + 1e-9
        if self.misses <= allowed * self.sent:
            return True
        if full or self.misses - self.excused <= allowed * (self.sent - self.excused):
            return None
        return False


def part(ask: Ask, number: int, due_s: float) -> int:
    """Return the block of an instant of the block `number`; a run without gaps counts as several, one after another."""
    if ask.block_s < ask.seconds:
        return number
    return min(PARTS - 1, int(PARTS * due_s / ask.seconds))


def _at(latencies: Sequence[float], percentile: float) -> float | None:
    return round(quantile(latencies, percentile / 100), 7) if latencies else None
