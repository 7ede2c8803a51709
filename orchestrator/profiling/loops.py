"""Keep a compiled model busy, and time each inference, as the pool would run it.

Like the pool, the loop drives the scheduler and starts the next inference in the callback of the last, on a spare
infer request, before it copies the outputs; and it puts the rows of a batch together before each inference. So what is
measured here is what the pool does, without its callers.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from orchestrator.backend.base import Array, CompiledModel, InferRequest
from orchestrator.backend.made_up import candidates, free
from orchestrator.errors import Kind, OrchError
from orchestrator.scheduling.scheduler import Batch, Limits, Refusal, Scheduler

FIRST_TIMEOUT_S = 120.0  # the first inference of a large model may allocate and generate code
LATEST_S = 30.0  # an inference that takes longer than this and than its block is taken for hung
LATEST_FACTOR = 20.0  # likewise, as multiple of what one took when it was warm
POLL_S = 0.1  # how often failures that come without a callback are looked for
WARM_UP_S = 1.0
STEADY = 0.05  # two medians of five that differ by less are steady
QUEUE_MAX = 1000  # requests that may wait in an open loop, as in a pool with an SLO


@dataclass(frozen=True, slots=True)
class Span:
    """One inference, on the clock."""

    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What a loop yielded: its steady part in seconds, the inferences that ended in it, and the open loop's fates."""

    seconds: float
    spans: tuple[Span, ...]
    latency_s: tuple[float, ...] = ()
    refused: int = 0


class _Slot:
    """One infer request, the batch it runs, and where the rows of that are put together."""

    __slots__ = ("batch", "gather", "request")

    def __init__(self) -> None:
        self.request: InferRequest
        self.batch: Batch | None = None
        self.gather: Sequence[Array] = ()


class Loop:
    """Runs one compiled model: `requests` inferences at most under way, each of `rows` rows."""

    def __init__(
        self, compiled: CompiledModel, requests: int, *, rows: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._compiled = compiled
        self._requests = requests
        self._rows = rows
        self._clock = clock
        self._lock = threading.Lock()
        self._inputs: Sequence[Array] = ()
        self._apart: Sequence[Sequence[Array]] = ()
        """Where rows are gathered, the inputs of as many requests of one row as make a batch."""
        self._slots: list[_Slot] = []
        self._idle: deque[_Slot] = deque()
        self._usual_s = 0.0
        self._run = _Run(Scheduler(Limits(1)), stop_at=0.0, least=0)

    def start(self, name: str) -> None:
        """Create the infer requests, find inputs that work, and warm up; raise FAILED or DEADLINE."""
        for _ in range(self._requests + 2):  # one that may be tried beyond them, and one whose outputs are copied
            slot = _Slot()
            slot.request = self._compiled.create_request(lambda slot=slot: self._ended(slot))  # type: ignore[misc]
            self._slots.append(slot)
        self._idle.extend(self._slots)
        self._find_inputs(name)
        self._warm_up()

    def _find_inputs(self, name: str) -> None:
        refused: OrchError | None = None
        for inputs in candidates(self._compiled.inputs):
            self._take_inputs(inputs)
            try:
                self.closed(1, 0.0, least=1, limit_s=FIRST_TIMEOUT_S)
                return
            except OrchError as error:
                if error.kind is Kind.DEADLINE:
                    raise
                refused = refused or error
        hint = "give the shapes that callers send under `shapes:`" if free(self._compiled.inputs) else None
        raise OrchError(Kind.FAILED, f"the first inference failed: {refused}", where=name, hint=hint)

    def _take_inputs(self, inputs: Sequence[Array]) -> None:
        self._inputs = inputs
        if self._rows == 1 or any(array.ndim == 0 or len(array) != self._rows for array in inputs):
            return
        self._apart = [[array[row : row + 1].copy() for array in inputs] for row in range(self._rows)]
        for slot in self._slots:
            slot.gather = [array.copy() for array in inputs]

    def _gathered(self, slot: _Slot, rows: int) -> Sequence[Array]:
        """Return the inputs of an inference of so many rows; each is copied, as the pool copies what callers sent."""
        for row, arrays in enumerate(self._apart[:rows]):
            for target, array in zip(slot.gather, arrays, strict=True):
                target[row : row + 1] = array
        return slot.gather or self._inputs

    def _warm_up(self) -> None:
        """Run with all requests until two medians of five rounds are alike, about one second at most."""
        stop, before, rounds = self._clock() + WARM_UP_S, inf, 1
        while self._clock() < stop:
            taken = self.closed(self._requests, 0.0, least=rounds * self._requests, limit_s=FIRST_TIMEOUT_S)
            median = statistics.median(span.ended - span.started for span in taken.spans)
            rounds = max(1, min(5, int(WARM_UP_S / 2 / median)))
            if abs(median - before) <= STEADY * before:
                break
            before = median
        self._usual_s = median

    def closed(self, concurrency: int, seconds: float, *, least: int = 0, limit_s: float | None = None) -> Taken:
        """Keep `concurrency` inferences under way for `seconds`, and until `least` have ended (default: each twice).

        The first of each are left out where enough follow. Raise FAILED or DEADLINE, after which it cannot be used.
        """
        limits = Limits(concurrency, self._rows, queue=concurrency)
        run = _Run(Scheduler(limits), inf, least or 2 * concurrency, closed=True)
        with self._lock:
            self._run = run
            began = self._clock()  # what comes before is no part of the first inference
            run.stop_at = began + seconds
            for _ in range(concurrency):
                run.arrive(began, began, self._rows)
            self._dispatch(run, began)
        self._await(run, limit_s or self._limit_s(seconds))
        ramp = concurrency if len(run.spans) >= 3 * concurrency else 0
        since = run.spans[ramp - 1].ended if ramp else began
        spans = tuple(run.spans[ramp:])
        return Taken(max(1e-9, spans[-1].ended - since), spans)

    def paced(self, seconds: float, pause_s: Callable[[float], float]) -> Taken:
        """Run single inferences for `seconds` and at least one, a pause before each: `pause_s` of what the last took.

        So they come to a pool that is idle: caches hold other data, and threads must be woken. Raise as `closed` does.
        """
        began = self._clock()
        spans: list[Span] = []
        took = self._usual_s
        while not spans or self._clock() - began < seconds:
            time.sleep(pause_s(took))
            (span,) = self.closed(1, 0.0, least=1, limit_s=self._limit_s(0.0)).spans
            spans.append(span)
            took = span.ended - span.started
        return Taken(max(1e-9, self._clock() - began), tuple(spans))

    def opened(self, concurrency: int, arrivals: Iterable[float], seconds: float) -> Taken:
        """Let requests of one row arrive (seconds from now, ascending) for `seconds`, whatever is under way."""
        began = self._clock()
        run = _Run(Scheduler(Limits(concurrency, self._rows, queue=QUEUE_MAX)), inf, 0)
        with self._lock:
            self._run = run
        for offset in arrivals:
            if offset >= seconds:
                break
            time.sleep(max(0.0, began + offset - self._clock()))  # sleeping, not spinning: its core is measured
            with self._lock:
                now = self._clock()
                run.arrive(now, began + offset, 1)
                self._dispatch(run, now)
        with self._lock:
            run.stopping = True
            self._check_over(run)
        self._await(run, self._limit_s(seconds + QUEUE_MAX * self._usual_s))
        return Taken(seconds, tuple(run.spans), tuple(run.latency_s), run.refused)

    def _limit_s(self, seconds: float) -> float:
        return seconds + max(LATEST_S, LATEST_FACTOR * self._usual_s)

    def _await(self, run: _Run, limit_s: float) -> None:
        """Wait until all has ended; raise what an inference failed with, DEADLINE when one hangs."""
        deadline = self._clock() + limit_s
        while not run.over.wait(POLL_S):
            with self._lock:
                failures = [slot.request.failure() for slot in self._slots if slot.batch is not None]
            failure = run.failure or next((each for each in failures if each is not None), None)
            if failure is not None:
                self._reset()
                raise OrchError(Kind.FAILED, str(failure))
            if self._clock() > deadline:
                raise OrchError(Kind.DEADLINE, f"an inference did not end within {limit_s:.0f} s")
        if run.failure is not None:
            self._reset()
            raise OrchError(Kind.FAILED, str(run.failure))

    def _reset(self) -> None:
        """Take the requests back after a failure; nothing of this run goes on."""
        with self._lock:
            self._run.stopping = True
            for slot in self._slots:
                slot.batch = None
            self._idle = deque(self._slots)

    def _dispatch(self, run: _Run, now: float) -> None:
        """Start what can be started. Lock held."""
        while self._idle:
            batch, _ = run.scheduler.next_batch(now)
            if batch is None:
                return
            slot = self._idle.popleft()
            slot.batch = batch
            try:
                slot.request.start(self._gathered(slot, batch.rows))
            except OrchError as error:
                run.failure = error
                run.over.set()
                return

    def _ended(self, slot: _Slot) -> None:
        """Take an end on the engine's thread, in the order of the pool: account, start the next, copy, free."""
        with self._lock:
            run, batch = self._run, slot.batch
            if batch is None:
                return
            now = self._clock()
            slot.batch = None
            run.end(batch, now, self._rows)
            self._dispatch(run, now)
        slot.request.outputs()
        with self._lock:
            self._idle.append(slot)
            self._dispatch(self._run, now)
            self._check_over(run)

    def _check_over(self, run: _Run) -> None:
        """Tell who waits when nothing runs, waits or is copied any more. Lock held."""
        if run.stopping and run.scheduler.idle and len(self._idle) == len(self._slots):
            run.over.set()


class _Run:
    """The state of one loop while it runs; its owner holds the lock."""

    def __init__(self, scheduler: Scheduler, stop_at: float, least: int, *, closed: bool = False) -> None:
        self.scheduler = scheduler
        self.stop_at = stop_at
        self.least = least
        self.closed = closed
        self.stopping = False
        self.spans: list[Span] = []
        self.latency_s: list[float] = []
        self.refused = 0
        self.failure: BaseException | None = None
        self.over = threading.Event()

    def arrive(self, now: float, scheduled: float, rows: int) -> None:
        """Admit and queue one request."""
        ticket = self.scheduler.admit(now, deadline=inf)
        if isinstance(ticket, Refusal):
            self.refused += 1
            return
        ticket.payload = scheduled
        self.scheduler.queue(ticket, now, rows)

    def end(self, batch: Batch, now: float, rows: int) -> None:
        """Account for an inference; a closed loop lets the next request arrive. What ends after the stop is unsaid."""
        self.scheduler.finish(batch, now)
        if self.closed and self.stopping:
            return
        self.spans.append(Span(batch.started, now))
        if not self.closed:
            self.latency_s.extend(now - ticket.payload for ticket in batch.tickets)
        elif now >= self.stop_at and len(self.spans) >= self.least:
            self.stopping = True
        else:
            self.arrive(now, now, rows)
