"""Count what happens in one pool, by the second and since the start, cheaply enough to be on every request's way."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

from orchestrator.telemetry.snapshot import Quantiles, Totals, Window

HistogramKind = Literal["latency", "wait", "service"]

# Chosen for inference on one host: a tiny model answers within 0.25 ms, and nobody waits longer than 10 s.
EXPORTED_BOUNDS_S = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
FINEST_S = 1e-6
LONGEST_S = 1000.0
STEP = 1.05  # a bucket's width bounds the relative error of a quantile
RING_SECONDS = 16
LONGEST_WINDOW_S = RING_SECONDS - 2  # the partial second at either end takes a place
REFUSING_TENTHS = 20  # tenths of a second of which is told in how many something was refused


def _bounds() -> tuple[float, ...]:
    """Return upper bounds at most a factor of STEP apart, among them every exported bound exactly."""
    corners = (FINEST_S, *EXPORTED_BOUNDS_S, LONGEST_S)
    bounds = [corners[0]]
    for low, high in pairwise(corners):
        parts = math.ceil(math.log(high / low) / math.log(STEP))
        bounds += [low * (high / low) ** (part / parts) for part in range(1, parts)]
        bounds.append(high)
    return tuple(bounds)


BOUNDS_S = _bounds()
BUCKETS = len(BOUNDS_S) + 1  # the last one holds what took longer than LONGEST_S
_EXPORTED_AT = tuple(BOUNDS_S.index(bound) for bound in EXPORTED_BOUNDS_S)


class Histogram(NamedTuple):
    """What Prometheus calls a histogram: counts are cumulative, the last bound is infinity, seconds throughout."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


class Executions(NamedTuple):
    """Inferences that carried so many rows: how many since the start, and how long they held infer requests."""

    rows: int
    inferences: int
    busy_s: float


class _Second:
    """What happened within one second of the monotonic clock."""

    __slots__ = (
        *("arrivals", "batches", "busy_s", "completed", "expired", "failed", "in_slo", "latency", "nbytes"),
        *("refused_tenths", "rejected", "rows", "second", "service", "wait"),
    )

    def __init__(self, second: int) -> None:
        self.second = second
        self.arrivals = self.rejected = self.expired = self.failed = 0
        self.completed = self.in_slo = self.batches = self.rows = self.nbytes = 0
        self.refused_tenths = 0  # one bit for each tenth of the second
        self.busy_s = 0.0
        self.latency = [0] * BUCKETS
        self.wait = [0] * BUCKETS
        self.service = [0] * BUCKETS


class Recorder:
    """Counters and histograms of one pool. Times are seconds of one monotonic clock, given by the caller.

    Every request is `arrived` once and ends as exactly one of `rejected`, `expired`, `cancelled`, `failed` or
    `completed`. Not thread-safe: its owner holds the lock. Seconds that went by without a call cost nothing.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._ring: list[_Second | None] = [None] * RING_SECONDS
        self._now = self._turn(int(started))
        self._arrivals = self._rejected = self._expired = self._cancelled = self._failed = 0
        self._completed = self._in_slo = self._impossible = 0
        self._ever: dict[HistogramKind, list[int]] = {
            "latency": [0] * BUCKETS,
            "wait": [0] * BUCKETS,
            "service": [0] * BUCKETS,
        }
        self._latency_ever, self._wait_ever, self._service_ever = self._ever.values()
        self._latency_sum = self._wait_sum = self._service_sum = 0.0
        self._by_rows: dict[int, list[float]] = {}  # rows: count, busy seconds
        self.last_inference: float | None = None
        """When the last inference ended."""

    def arrived(self, now: float, nbytes: int = 0) -> None:
        """Count a request whose head was read, whatever becomes of it, and the bytes of tensors that it carries."""
        self._arrivals += 1
        second = self._at(now)
        second.arrivals += 1
        second.nbytes += nbytes

    def rejected(self, now: float, *, demand: bool = True) -> None:
        """Count a request that was refused at once.

        One that no pool could have served (`demand` is False: its own deadline was too short, it was too large, the
        pool is being replaced) says nothing of how full this one is: no window shows it, nor that it arrived.
        """
        self._rejected += 1
        second = self._at(now)
        if demand:
            second.rejected += 1
            self._refused(second, now)
        else:
            self._impossible += 1
            second.arrivals = max(0, second.arrivals - 1)

    def expired(self, now: float, *, waited: bool = True) -> None:
        """Count an accepted request whose deadline passed before its inference.

        One that never `waited`, because its own body came too late, says nothing of how full the pool is: no window
        shows it.
        """
        self._expired += 1
        if waited:
            second = self._at(now)
            second.expired += 1
            self._refused(second, now)

    def cancelled(self, now: float) -> None:  # noqa: ARG002 - as its siblings; a window does not show cancellations
        """Count an accepted request whose caller went away."""
        self._cancelled += 1

    def failed(self, now: float) -> None:
        """Count an accepted request that ended in an error of ours or of the device."""
        self._failed += 1
        self._at(now).failed += 1

    def completed(self, now: float, wait_s: float, service_s: float, total_s: float, in_slo: bool) -> None:
        """Count an answer: its wait for the inference, the inference, and all from arrival to answer."""
        # One search per time, shared by both histograms; written out because this runs for every request.
        second = self._now if now < self._end else self._turn(int(now))
        latency = bisect_left(BOUNDS_S, total_s)
        wait = bisect_left(BOUNDS_S, wait_s)
        service = bisect_left(BOUNDS_S, service_s)
        second.completed += 1
        second.latency[latency] += 1
        second.wait[wait] += 1
        second.service[service] += 1
        self._completed += 1
        self._latency_ever[latency] += 1
        self._wait_ever[wait] += 1
        self._service_ever[service] += 1
        self._latency_sum += total_s
        self._wait_sum += wait_s
        self._service_sum += service_s
        if in_slo:
            second.in_slo += 1
            self._in_slo += 1

    def batch(self, now: float, rows: int, busy_s: float) -> None:
        """Count one finished inference: the rows that it carried and how long it held its infer request."""
        second = self._at(now)
        second.batches += 1
        second.rows += rows
        second.busy_s += busy_s
        ever = self._by_rows.get(rows)
        if ever is None:
            ever = self._by_rows[rows] = [0, 0.0]
        ever[0] += 1
        ever[1] += busy_s
        self.last_inference = now

    def executions(self) -> tuple[Executions, ...]:
        """Return the inferences since the start by the rows that they carried, the fewest first."""
        return tuple(Executions(rows, int(count), busy_s) for rows, (count, busy_s) in sorted(self._by_rows.items()))

    def totals(self) -> Totals:
        """Return the counts since the start."""
        return Totals(
            accepted=self._arrivals - self._rejected,
            rejected=self._rejected,
            completed=self._completed,
            expired=self._expired,
            cancelled=self._cancelled,
            failed=self._failed,
            impossible=self._impossible,
        )

    @property
    def in_slo_total(self) -> int:
        """Answers within the SLO since the start."""
        return self._in_slo

    def latencies(self) -> tuple[int, ...]:
        """Return how many answers took up to each of BOUNDS_S, and longer, since the start; for `quantile`."""
        return tuple(self._latency_ever)

    def window(self, now: float, seconds: float) -> Window:
        """Return what happened in at least the last `seconds` (at most a second more), or since the start.

        `Window.seconds` is the span really covered, so that counts divided by it are rates. Raises AssertionError
        above LONGEST_WINDOW_S.
        """
        assert 0 < seconds <= LONGEST_WINDOW_S, seconds
        oldest = int(now - seconds)
        kept = [slot for slot in self._ring if slot is not None and slot.second >= oldest]
        batches = sum(slot.batches for slot in kept)
        return Window(
            seconds=max(0.0, now - max(float(oldest), self._started)),
            arrivals=sum(slot.arrivals for slot in kept),
            completed=sum(slot.completed for slot in kept),
            in_slo=sum(slot.in_slo for slot in kept),
            rejected=sum(slot.rejected for slot in kept),
            expired=sum(slot.expired for slot in kept),
            failed=sum(slot.failed for slot in kept),
            busy_s=sum(slot.busy_s for slot in kept),
            latency=_quantiles(slot.latency for slot in kept if slot.completed),
            wait=_quantiles(slot.wait for slot in kept if slot.completed),
            service=_quantiles(slot.service for slot in kept if slot.completed),
            rows_per_batch=sum(slot.rows for slot in kept) / batches if batches else None,
            nbytes=sum(slot.nbytes for slot in kept),
            refused_tenths=self._refused_tenths(now),
        )

    def histogram(self, kind: HistogramKind) -> Histogram:
        """Return the times of every answer since the start: `latency` in all, `wait` before, `service` of inference."""
        running = list(accumulate(self._ever[kind]))
        sums = {"latency": self._latency_sum, "wait": self._wait_sum, "service": self._service_sum}
        counts = (*(running[index] for index in _EXPORTED_AT), running[-1])
        return Histogram((*EXPORTED_BOUNDS_S, math.inf), counts, sums[kind])

    def _refused(self, second: _Second, now: float) -> None:
        # A clock that was read early may be a little before the second, and one past its end is in the next.
        second.refused_tenths |= 1 << min(9, max(0, int((now - second.second) * 10)))

    def _refused_tenths(self, now: float) -> int:
        """Return in how many of the last twenty whole tenths of a second something was refused or expired."""
        present = int(now)
        bits = 0
        for slot in self._ring:
            if slot is not None and present - 2 <= slot.second <= present:
                bits |= slot.refused_tenths << 10 * (slot.second - present + 2)
        tenths = int((now - present) * 10)  # of the present second, those that are over
        return (bits >> tenths & (1 << REFUSING_TENTHS) - 1).bit_count()

    def _at(self, now: float) -> _Second:
        # A caller that read the clock before it got the lock may be a little behind: it counts in the present second.
        return self._now if now < self._end else self._turn(int(now))

    def _turn(self, second: int) -> _Second:
        self._now = self._ring[second % RING_SECONDS] = _Second(second)
        self._end = second + 1
        return self._now


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the seconds within which that share of the answers came, by their counts for each of BOUNDS_S."""
    running = list(accumulate(counts))
    return _quantile(counts, running, share * running[-1]) if running and running[-1] else None


def _quantiles(histograms: Iterable[list[int]]) -> Quantiles:
    counts = [sum(column) for column in zip(*histograms, strict=True)]
    total = sum(counts)
    if total == 0:
        return Quantiles()
    running = list(accumulate(counts))
    return Quantiles(*(_quantile(counts, running, share * total) for share in (0.5, 0.95, 0.99)))


def _quantile(counts: Sequence[int], running: list[int], rank: float) -> float:
    """Return the value at a rank, interpolated within its bucket, so wrong by less than the bucket's width."""
    index = bisect_left(running, rank)
    if index >= len(BOUNDS_S):
        return BOUNDS_S[-1]
    low = BOUNDS_S[index - 1] if index else 0.0
    within = (rank - (running[index] - counts[index])) / counts[index]
    return low + (BOUNDS_S[index] - low) * within
