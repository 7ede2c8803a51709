"""A pool: a compiled model, its infer requests, and the queue in front of them, driven by the pure scheduler.

Any thread may call; one lock makes the scheduler's steps one after the other, so there is one dispatcher. When an
inference ends, the engine's callback thread starts the next one at once, on a spare infer request, before it copies
the outputs: the device never waits for a thread hand-over, and nothing waits inside the engine, where it could be
neither seen nor dropped (docs/adr/0005).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from orchestrator.backend.base import DTYPES, Array, CompiledModel, InferRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.scheduling.scheduler import Batch, Cause, Limits, Refusal, Scheduler, Ticket
from orchestrator.telemetry.recorder import Recorder
from orchestrator.telemetry.snapshot import PoolSnapshot

QUEUE_LIMIT_DEFAULT = 128  # without an SLO: enough for the callers of one machine, small enough to be refused in time
QUEUE_LIMIT_MAX = 1000  # with an SLO and a very fast model; more only hides that the pool is full
OVERDUE_FACTOR = 20  # an inference that takes this many times its usual time,
OVERDUE_MIN_S = 5.0  # and at least this long, is given up: its callers are answered, its slot stays taken
WINDOW_S = 10.0
RECENT_S = 2.0


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What may change while the pool runs."""

    timeout_s: float
    queue_limit: int | None
    memory_bytes: int
    slo_latency_s: float | None = None
    slo_percentile: float | None = None
    slo_rate_per_s: float | None = None


class Outcome:
    """How one request ended: outputs (in the model's order) or an error, and where the time went, in seconds."""

    __slots__ = ("error", "outputs", "queue_s", "service_s")

    def __init__(
        self,
        outputs: tuple[Array, ...] = (),
        error: OrchError | None = None,
        queue_s: float = 0.0,
        service_s: float = 0.0,
    ) -> None:
        self.outputs = outputs
        self.error = error
        self.queue_s = queue_s
        self.service_s = service_s


Done = Callable[[Outcome], None]
Observed = TypeVar("Observed")


class _Work:
    """What the pool hangs on a ticket: the arrays and whom to tell."""

    __slots__ = ("arrays", "done")

    def __init__(self, arrays: Sequence[Array], done: Done) -> None:
        self.arrays = arrays
        self.done = done


class _Slot:
    """One infer request and the batch it runs."""

    __slots__ = ("batch", "detached", "gather", "request")

    def __init__(self) -> None:
        self.request: InferRequest
        self.batch: Batch | None = None
        self.detached = False
        self.gather: list[Array] | None = None


class Pool:
    """Serve one compiled model. `requests` inferences run at a time, each of up to `batch` rows gathered in order."""

    def __init__(
        self,
        name: str,
        compiled: CompiledModel,
        settings: PoolSettings,
        *,
        version: str = "1",
        requests: int = 1,
        batch: int = 1,
        service_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.version = version
        self.compiled = compiled
        self.settings = settings
        self.batch = batch
        self._clock = clock
        self._lock = threading.Lock()
        limits = Limits(requests, batch, QUEUE_LIMIT_DEFAULT, settings.memory_bytes)
        self._scheduler = Scheduler(limits, service_s=service_s)
        self._recorder = Recorder(clock())
        self._idle: deque[_Slot] = deque()
        self._running: set[_Slot] = set()
        self._drained = threading.Event()
        self._last_good: float | None = None
        self._failed_in_a_row = 0

    def start(self) -> None:
        """Create the infer requests (one more than run at a time) and set the queue's bound."""
        for _ in range(self._scheduler.limits.slots + 1):
            slot = _Slot()
            slot.request = self.compiled.create_request(lambda slot=slot: self._ended(slot))  # type: ignore[misc]
            if self.batch > 1:
                slot.gather = [self._gather_array(position) for position in range(len(self.compiled.inputs))]
            self._idle.append(slot)
        self.reconfigure(self.settings)

    def _gather_array(self, position: int) -> Array:
        info = self.compiled.inputs[position]
        assert info.static, "the planner batches static shapes only (rule 6)"
        return np.zeros(info.wire_shape, DTYPES[info.datatype])

    def reconfigure(self, settings: PoolSettings) -> None:
        """Change queue and SLO in place; requests that wait go on waiting."""
        with self._lock:
            self.settings = settings
            self._bound()

    def _bound(self) -> None:
        limits = self._scheduler.limits
        queue = derive_queue_limit(self.settings, limits.slots * limits.rows, limits.rows, self._scheduler.service_s)
        self._scheduler.reconfigure(Limits(limits.slots, limits.rows, queue, self.settings.memory_bytes))

    def admit(self, *, nbytes: int = 0, timeout_s: float | None = None) -> Ticket:
        """Take a place in the pool before the data is there; raise OVERLOADED, DEADLINE or UNAVAILABLE.

        The deadline is the earlier of the caller's own and the pool's.
        """
        allowed = self.settings.timeout_s if timeout_s is None else min(timeout_s, self.settings.timeout_s)
        with self._lock:
            now = self._clock()
            self._recorder.arrived(now)
            admitted = self._scheduler.admit(now, deadline=now + allowed, nbytes=nbytes)
            if isinstance(admitted, Ticket):
                return admitted
            self._recorder.rejected(now)
        raise self._refused(admitted)

    def _refused(self, refusal: Refusal) -> OrchError:
        kind = {Cause.DRAINING: Kind.UNAVAILABLE, Cause.DEADLINE_PAST: Kind.DEADLINE}.get(
            refusal.cause, Kind.OVERLOADED
        )
        return OrchError(kind, refusal.cause.value, where=self.name, retry_after_s=refusal.retry_after_s)

    def submit(self, ticket: Ticket, arrays: Sequence[Array], done: Done, *, rows: int = 1) -> None:
        """Queue the admitted request; `done` is called once, on any thread, unless it is cancelled first."""
        ticket.payload = _Work(arrays, done)
        with self._lock:
            if self._scheduler.queue(ticket, rows):
                ended = self._dispatch()
            else:  # dropped while the data came, when there was nobody to tell yet
                ended = [(ticket, Outcome(error=OrchError(Kind.DEADLINE, Cause.EXPIRED.value, where=self.name)))]
        self._deliver(ended)

    def tighten(self, ticket: Ticket, timeout_s: float) -> None:
        """Bring the deadline forward to `timeout_s` after the arrival, if that is earlier."""
        with self._lock:
            ticket.deadline = min(ticket.deadline, ticket.arrived + timeout_s)

    def cancel(self, ticket: Ticket) -> None:
        """Drop the request: its caller is gone. What runs already runs to its end, unanswered."""
        with self._lock:
            if self._scheduler.cancel(ticket):
                self._recorder.cancelled(self._clock())
                self._check_drained()

    def _dispatch(self) -> list[tuple[Ticket, Outcome]]:
        """Start what can be started; return what has ended on the way. Lock held."""
        ended: list[tuple[Ticket, Outcome]] = []
        while self._idle:
            now = self._clock()
            batch, expired = self._scheduler.next_batch(now)
            ended += [(ticket, self._expired(now)) for ticket in expired]
            if batch is None:
                break
            slot = self._idle.popleft()
            error = self._start(slot, batch, now)
            if error is not None:
                ended += [(ticket, Outcome(error=error)) for ticket in batch.tickets]
        return ended

    def _start(self, slot: _Slot, batch: Batch, now: float) -> OrchError | None:
        slot.batch = batch
        slot.detached = False
        try:
            slot.request.start(self._inputs(slot, batch))
        except OrchError as error:
            return self._start_failed(slot, batch, now, error)
        except Exception as error:  # noqa: BLE001 - whatever the engine throws must not cost the slot
            return self._start_failed(
                slot, batch, now, OrchError(Kind.FAILED, f"cannot start: {error}", where=self.name)
            )
        self._running.add(slot)
        return None

    def _start_failed(self, slot: _Slot, batch: Batch, now: float, error: OrchError) -> OrchError:
        slot.batch = None
        self._idle.append(slot)
        self._scheduler.finish(batch, now, good=False)
        for _ in batch.tickets:
            self._recorder.failed(now)
        return error

    def _inputs(self, slot: _Slot, batch: Batch) -> Sequence[Array]:
        if slot.gather is None or (batch.rows == self.batch and len(batch.tickets) == 1):
            return batch.tickets[0].payload.arrays  # type: ignore[no-any-return]
        row = 0
        for ticket in batch.tickets:
            for target, array in zip(slot.gather, ticket.payload.arrays, strict=True):
                target[row : row + ticket.rows] = array
            row += ticket.rows
        return slot.gather

    def _ended(self, slot: _Slot) -> None:
        """Take a good end, on the engine's thread: start the next inference, then copy the outputs and answer."""
        with self._lock:
            batch = slot.batch
            if batch is None:
                return
            now = self._clock()
            detached = slot.detached
            slot.batch = None
            self._running.discard(slot)
            self._scheduler.finish(batch, now, good=not detached)
            self._last_good = now
            self._failed_in_a_row = 0
            ended = self._dispatch()
            if not detached:
                self._record(batch, now)
        outcomes = ended if detached else ended + self._outcomes(slot, batch, now)
        with self._lock:
            self._idle.append(slot)
            outcomes += self._dispatch()
            self._check_drained()
        self._deliver(outcomes)

    def _record(self, batch: Batch, now: float) -> None:
        recorder = self._recorder
        slo = self.settings.slo_latency_s
        service = now - batch.started
        recorder.batch(now, batch.rows, service)
        for ticket in batch.tickets:
            if ticket.abandoned:
                recorder.cancelled(now)
                continue
            total = now - ticket.arrived
            recorder.completed(now, ticket.started - ticket.arrived, service, total, slo is None or total <= slo)

    def _outcomes(self, slot: _Slot, batch: Batch, now: float) -> list[tuple[Ticket, Outcome]]:
        try:
            outputs = slot.request.outputs()
        except Exception as error:  # noqa: BLE001 - the callers must be answered, the callback must not raise
            failure = OrchError(Kind.FAILED, f"cannot read the outputs: {error}", where=self.name)
            return [(ticket, Outcome(error=failure)) for ticket in batch.tickets]
        service = now - batch.started
        split = _split(outputs, batch) if self.batch > 1 else [outputs]
        return [
            (ticket, Outcome(part, None, ticket.started - ticket.arrived, service))
            for ticket, part in zip(batch.tickets, split, strict=True)
        ]

    def _deliver(self, ended: list[tuple[Ticket, Outcome]]) -> None:
        """Tell the callers, without the lock: they may call the pool again."""
        for ticket, outcome in ended:
            work = ticket.payload
            if work is not None and not ticket.abandoned:
                ticket.payload = None
                work.done(outcome)

    def _expired(self, now: float) -> Outcome:
        self._recorder.expired(now)
        return Outcome(error=OrchError(Kind.DEADLINE, Cause.EXPIRED.value, where=self.name))

    def tick(self) -> None:
        """Drop what is late, find inferences that failed or hang, follow the service time; call every 50 ms or so."""
        with self._lock:
            now = self._clock()
            ended = [(ticket, self._expired(now)) for ticket in self._scheduler.expire(now)]
            for slot in tuple(self._running):
                ended += self._examine(slot, now)
            ended += self._dispatch()
            self._bound()
            self._check_drained()
        self._deliver(ended)

    def _examine(self, slot: _Slot, now: float) -> list[tuple[Ticket, Outcome]]:
        batch = slot.batch
        if batch is None:
            return []
        failure = slot.request.failure()
        if failure is not None:
            slot.batch = None
            self._running.discard(slot)
            self._idle.append(slot)
            self._scheduler.finish(batch, now, good=False)
            return self._failed(
                slot, batch, now, OrchError(Kind.FAILED, f"inference failed: {failure}", where=self.name)
            )
        usual = self._scheduler.service_s or 0.0
        if not slot.detached and now - batch.started > max(
            OVERDUE_MIN_S, OVERDUE_FACTOR * usual, self.settings.timeout_s
        ):
            ended = self._failed(slot, batch, now, OrchError(Kind.DEADLINE, "inference does not end", where=self.name))
            slot.detached = True
            slot.request.cancel()
            return ended
        return []

    def _failed(self, slot: _Slot, batch: Batch, now: float, error: OrchError) -> list[tuple[Ticket, Outcome]]:
        if slot.detached:
            return []
        self._failed_in_a_row += 1
        for _ in batch.tickets:
            self._recorder.failed(now)
        return [(ticket, Outcome(error=error)) for ticket in batch.tickets]

    @property
    def wedged(self) -> bool:
        """Tell whether every slot holds an inference that was given up."""
        with self._lock:
            stuck = sum(slot.detached for slot in self._running)
            return stuck >= self._scheduler.limits.slots

    @property
    def healthy(self) -> bool:
        """Tell whether inferences end well: none hangs everywhere, and the last few did not all fail."""
        return not self.wedged and self._failed_in_a_row < 3

    @property
    def draining(self) -> bool:
        """Tell whether new requests are refused."""
        return self._scheduler.draining

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests, finish the admitted ones, and tell whether all ended within `timeout_s`."""
        with self._lock:
            self._scheduler.draining = True
            self._check_drained()
        deadline = self._clock() + timeout_s
        while not self._drained.wait(0.05):
            self.tick()
            if self._clock() >= deadline:
                return False
        return True

    def _check_drained(self) -> None:
        if self._scheduler.draining and self._scheduler.idle:
            self._drained.set()

    def close(self) -> None:
        """Give the model back; what still waits is answered UNAVAILABLE. A hung inference keeps its memory."""
        with self._lock:
            self._scheduler.draining = True
            gone = self._scheduler.expire(math.inf)
            stuck = bool(self._running)
            self._idle.clear()
        error = OrchError(Kind.UNAVAILABLE, "the pool was closed", where=self.name)
        self._deliver([(ticket, Outcome(error=error)) for ticket in gone])
        if not stuck:
            self.compiled.close()

    def observe(self, read: Callable[[Recorder], Observed]) -> Observed:
        """Return what `read` makes of the recorder, while nothing changes it."""
        with self._lock:
            return read(self._recorder)

    def snapshot(self) -> PoolSnapshot:
        """Return the pool as it is now, as plain data."""
        with self._lock:
            now = self._clock()
            scheduler, settings = self._scheduler, self.settings
            return PoolSnapshot(
                model=self.name,
                version=self.version,
                requests=scheduler.limits.slots,
                batch=self.batch,
                in_flight=scheduler.in_flight,
                queued=scheduler.queued,
                receiving=scheduler.receiving,
                queue_limit=scheduler.limits.queue,
                queued_bytes=scheduler.held_bytes,
                slo_latency_s=settings.slo_latency_s,
                slo_percentile=settings.slo_percentile,
                slo_rate_per_s=settings.slo_rate_per_s,
                service_s=scheduler.service_s,
                totals=self._recorder.totals(),
                window=self._recorder.window(now, WINDOW_S),
                recent=self._recorder.window(now, RECENT_S),
            )


def derive_queue_limit(settings: PoolSettings, concurrency: int, rows: int, service_s: float | None) -> int:
    """Return how many requests may wait: the manifest's number, else what can still be answered within the SLO.

    Little's law: while the last one waits its budget (SLO less one service time), `concurrency` requests are served
    each service time (planning-and-overload, admission step 3).
    """
    if settings.queue_limit is not None:
        return settings.queue_limit
    if settings.slo_latency_s is None or service_s is None:
        return QUEUE_LIMIT_DEFAULT
    budget = max(0.0, settings.slo_latency_s - service_s)
    return min(QUEUE_LIMIT_MAX, max(concurrency, rows, math.ceil(concurrency * budget / max(service_s, 1e-6))))


def _split(outputs: tuple[Array, ...], batch: Batch) -> list[tuple[Array, ...]]:
    parts, row = [], 0
    for ticket in batch.tickets:
        parts.append(tuple(output[row : row + ticket.rows] for output in outputs))
        row += ticket.rows
    return parts
