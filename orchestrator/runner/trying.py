"""Watches pools while a change is tried under its load, and asks the judge after each slice of time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner.plan import SloPlan
from orchestrator.runner.pool import Pool
from orchestrator.runner.trial import Judgement, Load, Subject, TrialLimits, excused, judge, unfit
from orchestrator.telemetry.recorder import Recorder, quantile
from orchestrator.telemetry.snapshot import Quantiles, Totals

REFUSED_HINT = "what ran before goes on; orch apply --no-trial makes the change without this check"
LOOK_S = 0.05  # how soon inferences that fail or hang are seen


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model under trial, and the pool that answers."""

    subject: Subject
    pool: Pool


class Tally(NamedTuple):
    """What a pool has counted since its start."""

    totals: Totals
    in_slo: int
    latencies: tuple[int, ...]


def tally(pool: Pool) -> Tally:
    """Return what the pool has counted so far."""

    def read(recorder: Recorder) -> Tally:
        return Tally(recorder.totals(), recorder.in_slo_total, recorder.latencies())

    return pool.observe(read)


def between(begin: Tally, end: Tally, seconds: float, slo: SloPlan | None) -> Load:
    """Return what became of requests between two tallies that lie so many seconds apart."""
    then, now = begin.totals, end.totals
    refused = (now.rejected - now.impossible) - (then.rejected - then.impossible)
    ended = now.completed + now.expired + now.cancelled + now.failed
    # What was there at the begin and still is unanswered has waited for all these seconds.
    overdue = max(0, then.accepted - ended) if slo is not None and seconds >= slo.latency_s else 0
    return Load(
        seconds=seconds,
        arrivals=now.accepted - then.accepted + refused,
        answered=now.completed - then.completed,
        in_slo=end.in_slo - begin.in_slo,
        lost=now.expired - then.expired + refused + overdue,
        failed=now.failed - then.failed,
    )


def quantile_between(begin: Tally, end: Tally, slo: SloPlan | None) -> float | None:
    """Return the latency at the SLO's percentile of what was answered between two tallies."""
    if slo is None:
        return None
    counts = [now - then for then, now in zip(begin.latencies, end.latencies, strict=True)]
    return quantile(counts, slo.percentile / 100)


def load_of(pool: Pool, slo: SloPlan | None, service_s: float) -> Load:
    """Return what became of a pool's requests in the last ten seconds; one inference alone takes `service_s`."""
    window = pool.snapshot().window
    return Load(
        seconds=window.seconds,
        arrivals=window.arrivals,
        answered=window.completed,
        in_slo=window.in_slo,
        lost=window.rejected + window.expired,
        failed=window.failed,
        quantile_s=None if slo is None else _at(window.latency, slo.percentile),
        # Where even half of its real inferences take longer now, one alone would have been late too.
        fitted=slo is None or max(service_s, window.service.p50 or 0.0) <= slo.latency_s,
    )


def _at(latency: Quantiles, percentile: float) -> float | None:
    return {50.0: latency.p50, 95.0: latency.p95, 99.0: latency.p99}.get(percentile)


def loads_to_json(loads: Mapping[str, Load]) -> dict[str, Any]:
    """Return the loads as they cross a control socket."""
    return {model: asdict(load) for model, load in loads.items()}


def loads_from_json(data: Mapping[str, Any]) -> dict[str, Load]:
    """Return the loads that crossed a control socket; what another version knows besides is left out."""
    known = {field.name for field in fields(Load)}
    return {model: Load(**{key: value for key, value in load.items() if key in known}) for model, load in data.items()}


def unfitting(candidates: Iterable[Candidate]) -> list[Judgement]:
    """Return what is said of those that cannot hold their SLO whatever the load."""
    return [said for each in candidates if (said := unfit(each.subject)) is not None]


def refusal(said: Iterable[Judgement], tell: Callable[[str, str, str], None]) -> OrchError | None:
    """Return the error of a change of which this was said, having told it; None where nothing speaks against it."""
    bad = [each for each in said if not each.good]
    for each in bad:
        tell(each.model, "failed", each.text)
    return OrchError(Kind.FAILED, [Problem(each.text, each.model, REFUSED_HINT) for each in bad]) if bad else None


def settle(pools: Iterable[Pool], limits: TrialLimits, stopped: threading.Event) -> None:
    """Wait until the pools have finished what they had, for `settle_s` at most."""
    deadline = time.monotonic() + limits.settle_s
    pools = tuple(pools)
    while any(map(_busy, pools)) and time.monotonic() < deadline and not stopped.wait(LOOK_S):
        pass


def _busy(pool: Pool) -> bool:
    snapshot = pool.snapshot()
    return bool(snapshot.in_flight or snapshot.queued or snapshot.receiving)


def watch(
    pools: Mapping[str, tuple[Pool, SloPlan | None]], limits: TrialLimits, stopped: threading.Event
) -> dict[str, Load]:
    """Return what becomes of requests in the next `limits.seconds`, by model."""
    began, begun = time.monotonic(), {name: tally(pool) for name, (pool, _) in pools.items()}
    stopped.wait(limits.seconds)
    seconds = time.monotonic() - began
    return {name: between(begun[name], tally(pool), seconds, slo) for name, (pool, slo) in pools.items()}


def with_excuse(
    candidates: Sequence[Candidate], said: Iterable[Judgement], now: Mapping[str, Load]
) -> list[Candidate] | None:
    """Return the candidates as compared with what served before does `now`; None where one is bad without excuse."""
    subjects = {each.subject.model: each.subject for each in candidates}
    if any(not each.good and not excused(subjects[each.model], now.get(each.model)) for each in said):
        return None
    return [
        replace(each, subject=replace(each.subject, before=now.get(each.subject.model, each.subject.before)))
        for each in candidates
    ]


class Trial:
    """Follows the candidates' pools, all at once."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        limits: TrialLimits,
        stopped: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the parts; `stopped` ends it without a word."""
        self._candidates = candidates
        self._limits = limits
        self._stopped = stopped
        self._clock = clock
        self._begun = {each.subject.model: tally(each.pool) for each in candidates}
        self._slices: dict[str, list[Load]] = {model: [] for model in self._begun}

    def run(self) -> tuple[Judgement, ...]:
        """Return what is said of each candidate, of the bad ones alone as soon as there are any; () when stopped.

        Takes `limits.longest_s` and one slice at most.
        """
        # Without an SLO only failures count, which need no slices.
        slice_s = self._limits.slice_s if any(each.subject.slo for each in self._candidates) else LOOK_S
        since = dict(self._begun)
        while True:
            judged = [self._judge(each) for each in self._candidates]
            said = tuple(each for each in judged if each is not None)
            bad = tuple(each for each in said if not each.good)
            if bad or len(said) == len(judged):
                return bad or said
            if not self._slice(slice_s, since):
                return ()

    def _judge(self, candidate: Candidate) -> Judgement | None:
        subject, pool = candidate.subject, candidate.pool
        latency_s = quantile_between(self._begun[subject.model], tally(pool), subject.slo)
        slices = self._slices[subject.model]
        return judge(subject, slices, self._limits, healthy=pool.healthy, quantile_s=latency_s)

    def _slice(self, seconds: float, since: dict[str, Tally]) -> bool:
        """Let a slice of time pass and note what became of requests in it; False when stopped."""
        began = self._clock()
        while (passed := self._clock() - began) < seconds and all(each.pool.healthy for each in self._candidates):
            if self._stopped.wait(min(LOOK_S, seconds - passed)):
                return False
        passed = max(self._clock() - began, 1e-6)
        for candidate in self._candidates:
            subject, now = candidate.subject, tally(candidate.pool)
            self._slices[subject.model].append(between(since[subject.model], now, passed, subject.slo))
            since[subject.model] = now
        return True
