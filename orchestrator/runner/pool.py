"""A pool: a compiled model, its infer requests, and the queue in front of them, driven by the pure scheduler.

Any thread may call; one lock makes the scheduler's steps one after the other, so there is one dispatcher. When an
inference ends, the engine's callback thread starts the next one at once, on a spare infer request, before it copies
the outputs: the device never waits for a thread hand-over, and nothing waits inside the engine, where it could be
neither seen nor dropped (docs/adr/0005).

What runs on the engine's thread: one step of the scheduler, the start of the next inference (with the gathering of its
batch), the copy of the outputs, and the callers' `done`, which must do no more than hand the outcome on: OpenVINO
calls back on one thread for all requests of a model, so whatever lingers there holds up all of them (trap 19).
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from orchestrator.backend.base import DTYPES, Array, CompiledModel
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.health import FAILED_MAX, PROBE_EVERY_S, Health
from orchestrator.runner.outcome import Done, Outcome, failed, fresh, outcomes_of, tell
from orchestrator.runner.pool_settings import PoolSettings, limits_of
from orchestrator.runner.slot import Slot
from orchestrator.runner.waker import Waker
from orchestrator.scheduling.scheduler import Batch, Cause, Priority, Refusal, Scheduler, Ticket
from orchestrator.scheduling.ticket import PRIORITIES
from orchestrator.telemetry.recorder import Recorder
from orchestrator.telemetry.snapshot import PoolSnapshot

__all__ = ["FAILED_MAX", "PROBE_EVERY_S", "Done", "Outcome", "Pool", "PoolSettings"]

OVERDUE_FACTOR = 20  # an inference that takes this many times its usual time,
OVERDUE_MIN_S = 5.0  # and at least this long, is given up: its callers are answered, its slot stays taken
CLOSE_TIMEOUT_S = 5.0  # for the inferences that run when a pool is closed
WINDOW_S = 10.0
RECENT_S = 2.0

FORK_HINT = "open the deployment in the child, or start processes by `spawn`"

log = logging.getLogger("orch.pool")


REFUSED = {
    Cause.DRAINING: Kind.UNAVAILABLE,
    Cause.DEADLINE_PAST: Kind.DEADLINE,
    Cause.TOO_LARGE: Kind.TOO_LARGE,
}
NO_DEMAND = frozenset({Cause.DRAINING, Cause.DEADLINE_PAST, Cause.TOO_LARGE})  # no pool, however empty, would serve it
LAG_UP, LAG_DOWN = 0.2, 0.02  # of a step towards a longer and a shorter lag: near the slowest, not at the worst hiccup
LAG_SHARE_MAX = 0.5  # of the SLO: whatever passes outside, the pool goes on serving
Observed = TypeVar("Observed")


class _Work:
    """What the pool hangs on a ticket: the arrays and whom to tell."""

    __slots__ = ("arrays", "done")

    def __init__(self, arrays: Sequence[Array], done: Done) -> None:
        self.arrays = arrays
        self.done = done


class Pool:
    """Serve one model. `requests` inferences run at a time, each of up to `batch` rows gathered in order.

    `smaller` are the same model compiled for fewer rows than `batch`: what waits goes in the smallest that holds it.
    """

    inline = False
    """Whether inferences run on the caller's thread (see runner/inline_pool.py)."""

    def __init__(
        self,
        name: str,
        compiled: CompiledModel,
        settings: PoolSettings,
        *,
        version: str = "1",
        requests: int = 1,
        batch: int = 1,
        smaller: Mapping[int, CompiledModel] = MappingProxyType({}),
        service_s: float | None = None,
        small_service_s: Mapping[int, float] = MappingProxyType({}),
        probe: Sequence[Array] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the parts. `probe` are inputs (of `batch` rows) on which an inference is known to work.

        `service_s` is what an inference of `batch` rows takes, `small_service_s` those of `smaller`.
        """
        self.name = name
        self.version = version
        self.compiled = compiled
        self.settings = settings
        self.batch = batch
        self._clock = clock
        self._lock = threading.Lock()
        self._models = dict(sorted(smaller.items())) | {batch: compiled}
        limits = limits_of(settings, requests, tuple(self._models), service_s)
        self._scheduler = Scheduler(limits, service_s=service_s, service_rows=1 if self.inline else batch)
        if smaller and service_s is not None:
            for rows, seconds in (*small_service_s.items(), (batch, service_s)):
                self._scheduler.pace.seed(rows, seconds)
        self._waker = Waker(self._wake, clock, f"orch-wake-{name}") if settings.gather_s > 0 else None
        self.causes = dict.fromkeys(Cause, 0)
        """Requests refused or dropped since the start, by cause."""
        self._recorder = Recorder(clock())
        self._parts = [(info.name, DTYPES[info.datatype], tuple(info.wire_shape[1:])) for info in compiled.inputs]
        self._idle: deque[Slot] = deque()
        self._running: set[Slot] = set()
        self._answering: deque[Slot] = deque()  # ended, with outputs to copy or callers to tell
        self._drained = threading.Event()
        self._closed = False
        self._pid = 0
        self._health = Health(clock())
        self._probe_inputs = probe
        self._probe: Ticket | None = None

    def start(self) -> None:
        """Create the infer requests (one more than run at a time) and set the queue's bound."""
        self._begin()
        for _ in range(self._scheduler.limits.slots + 1):
            slot = Slot()
            for rows, compiled in self._models.items():
                slot.add(rows, compiled, lambda slot=slot: self._ended(slot))  # type: ignore[misc]
            self._idle.append(slot)
        self.reconfigure(self.settings)
        if self._waker is not None:
            self._waker.start()

    def _begin(self) -> None:
        self._pid = os.getpid()

    def reconfigure(self, settings: PoolSettings) -> None:
        """Change queue and SLO in place; requests that wait go on waiting."""
        with self._lock:
            self.settings = settings
            self._bound()

    def _bound(self) -> None:
        scheduler = self._scheduler
        sizes = tuple(self._models)
        scheduler.reconfigure(limits_of(self.settings, scheduler.limits.slots, sizes, scheduler.full_s))

    def admit(self, *, nbytes: int = 0, timeout_s: float | None = None, priority: str | None = None) -> Ticket:
        """Take a place in the pool before the data is there; raise OVERLOADED, DEADLINE, UNAVAILABLE or INVALID.

        The deadline is the earlier of the caller's own and the pool's. `priority` is critical, default or sheddable;
        None, or one above the model's own, gives the model's.
        """
        wanted = None if priority is None else self._priority(priority)
        if self.forked:
            raise OrchError(
                Kind.UNAVAILABLE, "an inference engine does not survive fork", where=self.name, hint=FORK_HINT
            )
        # In this order a NaN gives the pool's own.
        allowed = self.settings.timeout_s if timeout_s is None else min(self.settings.timeout_s, timeout_s)
        with self._lock:
            now = self._clock()
            self._recorder.arrived(now, nbytes)
            admitted = self._scheduler.admit(now, deadline=now + allowed, nbytes=nbytes, priority=wanted)
            if isinstance(admitted, Refusal):
                self._note_refusal(admitted, now, allowed)
            displaced = self._take_dropped(now) if self._scheduler.dropped else []
        self._deliver(displaced)
        if isinstance(admitted, Refusal):
            raise self._refused(admitted)
        return admitted

    def full(self, coming: int, timeout_s: float | None = None) -> OrchError | None:
        """Return why a request would be refused behind `coming` others that are not admitted yet; None: ask `admit`.

        One that is refused has been counted as such.
        """
        allowed = self.settings.timeout_s if timeout_s is None else min(self.settings.timeout_s, timeout_s)
        with self._lock:
            now = self._clock()
            refusal = self._scheduler.full(now, coming, deadline=now + allowed)
            if refusal is None:
                return None
            self._recorder.arrived(now, 0)
            self._note_refusal(refusal, now, allowed)
        return self._refused(refusal)

    def _priority(self, word: str) -> Priority:
        priority = PRIORITIES.get(word)
        if priority is None:
            what = f"priority must be one of {', '.join(PRIORITIES)}, got {word[:40]!r}"
            raise OrchError(Kind.INVALID, what, where=self.name)
        return priority

    def _note_refusal(self, refusal: Refusal, now: float, allowed_s: float) -> None:
        self.causes[refusal.cause] += 1
        # Who gives an inference less time than it takes is refused by every pool; the pool's own time is no excuse.
        possible = allowed_s >= self.settings.timeout_s or allowed_s > (self._scheduler.service_s or 0.0)
        self._recorder.rejected(now, demand=possible and refusal.cause not in NO_DEMAND)

    def _take_dropped(self, now: float) -> list[tuple[Ticket, Outcome]]:
        """Return what was dropped to make room, as it is to be answered. Lock held."""
        return [self._dropped(ticket, now) for ticket in self._scheduler.expire(now)]

    def _refused(self, refusal: Refusal) -> OrchError:
        if self._closed and refusal.cause is Cause.DRAINING:
            return self._gone()
        kind = REFUSED.get(refusal.cause, Kind.OVERLOADED)
        cause, code = refusal.cause, None if kind is not Kind.OVERLOADED else refusal.cause.name
        return OrchError(kind, cause.value, where=self.name, retry_after_s=refusal.retry_after_s, code=code)

    def submit(
        self, ticket: Ticket, arrays: Sequence[Array], done: Done, *, rows: int = 1, later: bool = False
    ) -> None:
        """Queue the admitted request; `done` is called once, on any thread, unless it is cancelled first.

        `later`: the caller calls `run` when it has submitted all that it has; matters to inline pools only.

        Nobody may write the arrays until then. After an inference that was given up (`Outcome.abandoned`) the engine
        may go on reading them for good.
        """
        del later
        misfit = self._misfit(arrays, rows) if self.batch > 1 else None
        ended: list[tuple[Ticket, Outcome]] = []
        error: OrchError | None = None
        with self._lock:
            if ticket.abandoned:
                return
            if misfit is not None and self._scheduler.cancel(ticket):
                error = misfit
                self._recorder.failed(self._clock())
                self._check_drained()
            elif self._scheduler.queue(ticket, self._clock(), rows):
                ticket.payload = _Work(arrays, done)
                ended = self._dispatch()
            else:  # dropped while the data came, when there was nobody to tell yet
                error = self._gone() if self._closed else self._why_dropped(ticket)
        if error is not None:
            tell(done, Outcome(error=error))
        self._deliver(ended)

    def run(self) -> None:
        """Infer what waits on this thread; nothing to do where the engine's threads do."""

    def _misfit(self, arrays: Sequence[Array], rows: int) -> OrchError | None:
        """Return why arrays must not share a batch: they would spoil their neighbours' inference."""
        if len(arrays) != len(self._parts) or not 1 <= rows <= self.batch:
            what = f"takes {len(self._parts)} inputs of up to {self.batch} rows, got {len(arrays)} of {rows}"
            return OrchError(Kind.INVALID, what, where=self.name)
        for (name, dtype, shape), array in zip(self._parts, arrays, strict=True):
            if array.dtype != dtype or array.shape != (rows, *shape):
                what = f"input {name!r}: must be {dtype} {[rows, *shape]}, got {array.dtype} {list(array.shape)}"
                return OrchError(Kind.INVALID, what, where=self.name)
        return None

    def tighten(self, ticket: Ticket, timeout_s: float) -> None:
        """Bring the deadline forward to `timeout_s` after the arrival, if that is earlier."""
        with self._lock:
            self._scheduler.tighten(ticket, ticket.arrived + timeout_s)

    def enlarge(self, ticket: Ticket, nbytes: int) -> None:
        """Count tensors that come from elsewhere than the request; raise TOO_LARGE or OVERLOADED, and drop it."""
        with self._lock:
            refusal = self._scheduler.enlarge(ticket, nbytes)
            if refusal is None:
                return
            self._note_refusal(refusal, self._clock(), self.settings.timeout_s)
            self._check_drained()
        raise self._refused(refusal)

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
            batch, dropped = self._scheduler.next_batch(now)
            if dropped:
                ended += [self._dropped(ticket, now) for ticket in dropped]
            if batch is None:
                break
            slot = self._idle.popleft()
            error = self._start(slot, batch, now)
            if error is not None:
                ended += failed(batch, error)
        if self._waker is not None:
            self._waker.at(self._scheduler.wake_at)
        return ended

    def _wake(self) -> None:
        """Start what was held back long enough, on the waker's thread."""
        with self._lock:
            ended = self._dispatch()
        self._deliver(ended)

    def _start(self, slot: Slot, batch: Batch, now: float) -> OrchError | None:
        slot.batch = batch
        slot.detached = False
        try:
            slot.start(batch)
        except OrchError as error:
            return self._start_failed(slot, batch, now, fresh(error))
        except Exception as error:  # noqa: BLE001 - whatever the engine throws must not cost the slot
            return self._start_failed(
                slot, batch, now, OrchError(Kind.FAILED, f"cannot start: {error}", where=self.name)
            )
        self._running.add(slot)
        return None

    def _start_failed(self, slot: Slot, batch: Batch, now: float, error: OrchError) -> OrchError:
        slot.batch = None
        self._idle.append(slot)
        self._scheduler.finish(batch, now, good=False)
        self._settle(batch, now, error)
        return error

    def _ended(self, slot: Slot) -> None:
        """Take a good end, on the engine's thread: start the next inference, then copy the outputs and answer."""
        with self._lock:
            batch = slot.batch
            if batch is None:
                return
            now = self._clock()
            slot.batch = None
            self._running.discard(slot)
            self._answering.append(slot)
            self._scheduler.finish(batch, now, good=not slot.detached)
            outcomes = self._dispatch()
        parts = () if slot.detached else self._read(slot, batch)
        if not isinstance(parts, OrchError):
            outcomes += outcomes_of(batch, parts, now)
        else:
            outcomes += failed(batch, parts)
        with self._lock:
            if slot.detached:  # its callers were told long ago; but it did end
                self._health.ended_well(now)
            else:
                self._settle(batch, now, parts if isinstance(parts, OrchError) else None)
            self._idle.append(slot)
            outcomes += self._dispatch()
        try:
            self._deliver(outcomes)
        finally:
            self._answering.pop()  # any: they are counted
            if self._scheduler.draining:
                with self._lock:
                    self._check_drained()

    def _read(self, slot: Slot, batch: Batch) -> Sequence[tuple[Array, ...]] | OrchError:
        """Return each request's part of the outputs; an error in place of whatever the engine or a model may raise."""
        try:
            return slot.parts(batch)
        except OrchError as error:
            return fresh(error)
        except MemoryError:
            return OrchError(Kind.OVERLOADED, "there is no memory for the answer", where=self.name)
        except Exception as error:  # noqa: BLE001 - the callers must be answered, the callback must not raise
            return OrchError(Kind.FAILED, f"cannot read the outputs: {error}", where=self.name)

    def _settle(self, batch: Batch, now: float, error: OrchError | None) -> None:
        """Count how each of the batch's requests ended, and what it says of the pool's health. Lock held."""
        probe = batch.tickets[0] is self._probe
        if error is None:
            self._health.ended_well(now)
        else:
            self._health.failed(error, probe=probe)
        if probe and error is not None:
            log.warning("%s: the made-up inference failed: %s", self.name, error)
        if probe:
            self._probe = None  # nobody asked for it, so nobody counts it
        else:
            self._record(batch, now, error)

    def _record(self, batch: Batch, now: float, error: OrchError | None) -> None:
        recorder = self._recorder
        slo = self.settings.slo_latency_s
        service = now - batch.started
        if error is None:
            recorder.batch(now, batch.rows, service)
        for ticket in batch.tickets:
            if ticket.abandoned:
                recorder.cancelled(now)
            elif error is not None:
                recorder.failed(now)
            else:
                total = now - ticket.arrived
                recorder.completed(now, ticket.started - ticket.arrived, service, total, slo is None or total <= slo)

    def _deliver(self, ended: list[tuple[Ticket, Outcome]]) -> None:
        """Tell the callers, without the lock: they may call the pool again."""
        for ticket, outcome in ended:
            work, ticket.payload = ticket.payload, None
            if work is not None and not ticket.abandoned:
                tell(work.done, outcome)

    def _why_dropped(self, ticket: Ticket) -> OrchError:
        """Return what to tell the caller of a request that was admitted and is not inferred."""
        cause = ticket.cause or Cause.EXPIRED
        asked = ticket.deadline < ticket.arrived + self.settings.timeout_s
        if cause is Cause.EXPIRED and asked:  # the caller's own deadline: nothing to come back for
            return OrchError(Kind.DEADLINE, cause.value, where=self.name)
        return self._refused(Refusal(cause, self._scheduler.retry_after_s()))

    def _gone(self) -> OrchError:
        return OrchError(Kind.UNAVAILABLE, "the pool was closed", where=self.name)

    def _dropped(self, ticket: Ticket, now: float) -> tuple[Ticket, Outcome]:
        self.causes[ticket.cause or Cause.EXPIRED] += 1
        self._recorder.expired(now, waited=ticket.payload is not None)
        return ticket, Outcome(error=self._why_dropped(ticket))

    def tick(self) -> None:
        """Drop what is late, find inferences that failed or hang, follow the service time; call every 50 ms or so."""
        with self._lock:
            now = self._clock()
            ended = self._take_dropped(now)
            for slot in tuple(self._running):
                ended += self._examine(slot, now)
            ended += self._dispatch()
            self._bound()
            self._check_drained()
        self._deliver(ended)

    def _examine(self, slot: Slot, now: float) -> list[tuple[Ticket, Outcome]]:
        batch = slot.batch
        if batch is None:
            return []
        failure = slot.request.failure()
        if failure is not None:
            slot.batch = None
            self._running.discard(slot)
            self._idle.append(slot)
            self._scheduler.finish(batch, now, good=False)
            if slot.detached:
                return []
            error = OrchError(Kind.FAILED, f"inference failed: {failure}", where=self.name)
            self._settle(batch, now, error)
            return failed(batch, error)
        if not slot.detached and now - batch.started > self._overdue_s:
            return self._give_up(slot, batch, now, OrchError(Kind.DEADLINE, "inference does not end", where=self.name))
        return []

    @property
    def _overdue_s(self) -> float:
        """Seconds after which an inference is given up."""
        return max(OVERDUE_MIN_S, OVERDUE_FACTOR * (self._scheduler.service_s or 0.0), self.settings.timeout_s)

    @property
    def longest_s(self) -> float:
        """Return the longest time in seconds until a request is answered, whatever happens, while somebody ticks."""
        return self.settings.timeout_s + self._overdue_s + CLOSE_TIMEOUT_S

    def _give_up(self, slot: Slot, batch: Batch, now: float, error: OrchError) -> list[tuple[Ticket, Outcome]]:
        """Answer the callers of an inference that still runs; the slot stays taken until it ends. Lock held."""
        self._settle(batch, now, error)
        slot.detached = True
        slot.request.cancel()
        return failed(batch, error, abandoned=True)

    def probe(self) -> None:
        """Start a made-up inference if the pool is idle and none ended well of late; call as often as `tick`."""
        with self._lock:
            now = self._clock()
            if self._probe_inputs is None or not self._probe_due(now):
                return
            self._health.probing(now)
            admitted = self._scheduler.admit(now, deadline=math.inf)
            assert isinstance(admitted, Ticket), admitted
            admitted.payload = _Work(self._probe_inputs, _nobody)
            self._probe = admitted
            self._scheduler.queue(admitted, now, self.batch)
            ended = self._dispatch()
        self._deliver(ended)

    def _probe_due(self, now: float) -> bool:
        scheduler = self._scheduler
        idle = not (scheduler.queued or scheduler.receiving) and all(slot.detached for slot in self._running)
        free = bool(self._idle) and scheduler.in_flight < scheduler.limits.slots
        due = self._health.probe_due(now, scheduler.service_s or 0.0)
        return due and idle and free and not scheduler.draining

    def note_lag(self, seconds: float) -> None:
        """Tell how long a request of late waited outside the pool: to be seen, and to have its answer sent.

        What passes there is not left for the inference: admission counts with the slow ones, and forgets them slowly.
        """
        scheduler = self._scheduler
        more = seconds - scheduler.lag_s
        lag_s = scheduler.lag_s + (LAG_UP if more > 0 else LAG_DOWN) * more
        scheduler.lag_s = min(lag_s, LAG_SHARE_MAX * scheduler.limits.slo_s)

    @property
    def last_good_s_ago(self) -> float:
        """Return how long ago the last good inference ended, in seconds."""
        return self._clock() - self._health.last_good

    @property
    def wedged(self) -> bool:
        """Tell whether every slot holds an inference that was given up."""
        with self._lock:
            stuck = sum(slot.detached for slot in self._running)
            return stuck >= self._scheduler.limits.slots

    @property
    def healthy(self) -> bool:
        """Tell whether inferences end well: none hangs everywhere, neither the last few nor the last probe failed."""
        return not self.wedged and self._health.good

    @property
    def forked(self) -> bool:
        """Tell whether this process is a fork of the one that started the pool, without the engine's threads."""
        return os.getpid() != self._pid

    @property
    def draining(self) -> bool:
        """Tell whether new requests are refused."""
        return self._scheduler.draining

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        with self._lock:
            self._scheduler.draining = True
            self._check_drained()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests, and tell whether all admitted ones were answered within `timeout_s`."""
        self.refuse()
        stop = time.monotonic() + timeout_s
        while not self._drained.wait(max(0.0, min(0.05, stop - time.monotonic()))):
            self.tick()
            if time.monotonic() >= stop:
                return self._drained.is_set()
        return True

    def _check_drained(self) -> None:
        waiting = self._scheduler.queued or self._scheduler.receiving or self._answering
        if self._scheduler.draining and not waiting and all(slot.detached for slot in self._running):
            self._drained.set()

    def close(self) -> None:
        """Give the model back; what waits is answered UNAVAILABLE, what runs has 5 s to end.

        A hung inference keeps the model's memory. Not to be called from a callback. In a fork it does nothing: the
        model is the parent's.
        """
        if self.forked:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = self._scheduler.draining = True
            now = self._clock()
            dropped = self._scheduler.expire(math.inf)
            for _ in dropped:
                self._recorder.failed(now)
            self._check_drained()
        self._deliver([(ticket, Outcome(error=self._gone())) for ticket in dropped])
        self.drain(CLOSE_TIMEOUT_S)
        with self._lock:
            left = [ended for slot in tuple(self._running) for ended in self._abandon(slot)]
            stuck = bool(self._running or self._answering)
            self._idle.clear()
        self._deliver(left)
        if self._waker is not None:
            self._waker.stop()
        if not stuck:
            for compiled in self._models.values():
                compiled.close()

    def _abandon(self, slot: Slot) -> list[tuple[Ticket, Outcome]]:
        if slot.batch is None or slot.detached:
            return []
        return self._give_up(slot, slot.batch, self._clock(), self._gone())

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


def _nobody(_outcome: Outcome) -> None:
    """Take the outcome of a probe; the pool has noted it."""
