"""Calls from one process made into requests of many rows, for models that are inferred on their callers' threads.

Admitting, counting and answering a request costs more than a row of such a model's inference. So calls only line up
here, and whoever infers takes what stands in the line, up to a batch, as one request. Who that is:

- a thread that waits for its answer: it infers until it has it, then wakes the next one who waits;
- whoever makes the line as long as a batch;
- an event loop at the end of its turn;
- a thread of the gatherer's own, for what nobody waits for, a millisecond later.

There is no timer that a caller would wait for: alone, it infers at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.outcome import Outcome
from orchestrator.runner.pool import Pool

LINGER_S = 0.001  # for which a call that nobody waits for may stand in the line
QUIET_LOOKS = 50  # at an empty line, until the gatherer's own thread sleeps
LINES_MAX = 4  # batches that may stand in the line before a caller waits for room
ROOM_TIMEOUT_S = 5.0

Result = tuple[Array, ...] | OrchError
"""A call's outputs in the model's order, or why there are none."""


class Asker(Protocol):
    """Who made a call."""

    def wants(self) -> bool:
        """Tell, once, when the call is taken out of the line, whether its answer is still wanted."""

    def told(self, result: Result) -> None:
        """Take the result, on any thread; must not raise."""


class Call:
    """One call in the line."""

    __slots__ = ("arrays", "asker", "deadline", "priority", "rows")

    def __init__(self, arrays: Sequence[Array], rows: int, deadline: float, priority: str | None, asker: Asker) -> None:
        self.arrays = arrays
        self.rows = rows
        self.deadline = deadline
        self.priority = priority
        self.asker = asker


class _Waiter:
    """A thread that waits for its call's result; one that infers itself needs no lock."""

    __slots__ = ("_woken", "result")

    def __init__(self) -> None:
        self.result: Result | None = None
        self._woken: threading.Lock | None = None

    def wants(self) -> bool:
        return True

    def told(self, result: Result) -> None:
        self.result = result
        self.wake()

    def ended(self, outcome: Outcome) -> None:
        """Take the outcome of a request of this call alone."""
        self.result = outcome.outputs if outcome.error is None else outcome.error
        if self._woken is not None:
            self.wake()

    def answered(self) -> bool:
        return self.result is not None

    def prepare(self) -> None:
        """Make the lock to wait for, before the last look at what is waited for."""
        self._woken = threading.Lock()
        self._woken.acquire()

    def wake(self) -> None:
        """Let the thread look again: for its result, or whether it is to infer."""
        if self._woken is not None:
            with contextlib.suppress(RuntimeError):  # it was woken already and has not looked yet
                self._woken.release()

    def wait(self, timeout_s: float) -> bool:
        """Wait until woken; False when the time is over."""
        assert self._woken is not None, "prepare() first"
        return self._woken.acquire(timeout=timeout_s)


class Answer(Future[dict[str, Array]]):
    """The future of a call in the line: who waits for it infers."""

    def __init__(self, line: Gatherer, names: Sequence[str]) -> None:
        super().__init__()
        self._line = line
        self._names = names

    def wants(self) -> bool:
        """Tell whether it was not cancelled; from here on it cannot be."""
        return self.set_running_or_notify_cancel()

    def told(self, result: Result) -> None:
        """Take the result."""
        if isinstance(result, OrchError):
            self.set_exception(result)
        else:
            self.set_result(dict(zip(self._names, result, strict=True)))

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Return the outputs by name, inferring on this thread what stands in the line; raise as `infer` does."""
        if not self.done():
            self._line.run_until(self.done)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise, None where it would not."""
        if not self.done():
            self._line.run_until(self.done)
        return super().exception(timeout)


class Gatherer:
    """The line in front of an inline pool. Thread-safe."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._calls: deque[Call] = deque()
        self._waiters: deque[_Waiter] = deque()
        self._turn = threading.Lock()  # who holds it takes calls out of the line
        self._own = _OwnThread(self.run, self._calls, f"orch-gather-{pool.name}")

    def add(
        self, arrays: Sequence[Array], rows: int, asker: Asker, *, timeout_s: float | None, priority: str | None
    ) -> None:
        """Put a call into the line; somebody has to `run`."""
        allowed_s = self._pool.settings.timeout_s
        if timeout_s is not None:
            allowed_s = min(allowed_s, timeout_s)  # in this order a NaN gives the pool's own
        self._calls.append(Call(arrays, rows, time.monotonic() + allowed_s, priority, asker))

    def infer(self, arrays: Sequence[Array], rows: int, *, timeout_s: float | None, priority: str | None) -> Result:
        """Return the result of a call, inferred on this thread or by one that is at it."""
        waiter = _Waiter()
        if not self._calls and self._turn.acquire(blocking=False):
            try:
                self._enter(arrays, rows, timeout_s, priority, waiter.ended)
            except OrchError as error:
                return error
            finally:
                self._turn.release()
                if self._calls:
                    self._pass_on()
        else:
            self.add(arrays, rows, waiter, timeout_s=timeout_s, priority=priority)
            self.run_until(waiter.answered)
        if waiter.result is None and not self._await(waiter):
            return OrchError(Kind.INTERNAL, "the pool did not answer; please report it", where=self._pool.name)
        assert waiter.result is not None
        return waiter.result

    def _await(self, waiter: _Waiter) -> bool:
        """Wait for what another thread infers, and infer when that one leaves; False when the time is over."""
        while waiter.result is None:
            waiter.prepare()
            self._waiters.append(waiter)
            # Looks again: who had the turn may have left between the last look and the line above.
            self.run_until(waiter.answered)
            if waiter.result is None and not waiter.wait(self._pool.longest_s):
                break
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        return waiter.result is not None

    def submit(
        self,
        arrays: Sequence[Array],
        rows: int,
        names: Sequence[str],
        *,
        timeout_s: float | None,
        priority: str | None,
    ) -> Answer:
        """Return the future of a call; infers what stands in the line once that makes a batch."""
        answer = Answer(self, names)
        self.add(arrays, rows, answer, timeout_s=timeout_s, priority=priority)
        standing = len(self._calls)
        if standing >= self._pool.batch:
            self._make_room(standing)
        else:
            self._own.wake()
        return answer

    def _make_room(self, standing: int) -> None:
        """Infer a batch, or wait for whoever is at it where the line has grown too long."""
        wait = standing >= LINES_MAX * self._pool.batch
        if self._turn.acquire(blocking=wait, timeout=ROOM_TIMEOUT_S if wait else -1):
            try:
                self._infer(self._take())
            finally:
                self._turn.release()
        self._pass_on()

    def run(self) -> bool:
        """Infer what stands in the line, unless another thread does; tell whether this one had to leave some."""
        left = False
        if self._calls and self._turn.acquire(blocking=False):
            try:
                for _ in range(LINES_MAX):
                    self._infer(self._take())
                left = bool(self._calls)
            finally:
                self._turn.release()
        if not left:
            self._pass_on()
        return left

    def run_until(self, answered: Callable[[], bool]) -> None:
        """Infer batch after batch until `answered`, unless another thread does."""
        while self._calls and not answered() and self._turn.acquire(blocking=False):
            try:
                while self._calls and not answered():
                    self._infer(self._take())
            finally:
                self._turn.release()
        self._pass_on()

    def _pass_on(self) -> None:
        """Let somebody infer what this thread leaves in the line."""
        while self._calls and not self._turn.locked():
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                self._own.wake()
                return
            if waiter.result is None:
                waiter.wake()
                return

    def _take(self) -> list[Call]:
        """Take what goes together out of the line: up to a batch of rows of one priority, or one that is late.

        Turn held.
        """
        taken: list[Call] = []
        rows, most, now = 0, self._pool.batch, time.monotonic()
        calls = self._calls
        while calls and rows + calls[0].rows <= most:
            late = calls[0].deadline <= now
            if taken and (late or calls[0].priority != taken[0].priority):
                break
            call = calls.popleft()
            if call.asker.wants():
                taken.append(call)
                rows += call.rows
                if late:
                    break  # the pool refuses it, and counts it
        return taken

    def _infer(self, calls: list[Call]) -> None:
        """Make one request of the calls and submit it; inline pools infer it on this thread."""
        if not calls:
            return
        arrays, rows = calls[0].arrays, calls[0].rows
        if len(calls) > 1:
            arrays = [np.concatenate(parts) for parts in zip(*[call.arrays for call in calls], strict=True)]
            rows = len(arrays[0])
        left_s = min([call.deadline for call in calls]) - time.monotonic()
        try:
            self._enter(arrays, rows, left_s, calls[0].priority, lambda outcome: _divide(calls, rows, outcome))
        except OrchError as error:
            _tell_all(calls, error)

    def _enter(
        self,
        arrays: Sequence[Array],
        rows: int,
        timeout_s: float | None,
        priority: str | None,
        done: Callable[[Outcome], None],
    ) -> None:
        nbytes = arrays[0].nbytes if len(arrays) == 1 else sum([array.nbytes for array in arrays])
        ticket = self._pool.admit(nbytes=nbytes, timeout_s=timeout_s, priority=priority)
        self._pool.submit(ticket, arrays, done, rows=rows)

    def close(self) -> None:
        """End the gatherer's own thread, and answer what stands in the line as the pool answers."""
        self._own.stop()
        while self.run():
            pass


def _divide(calls: Sequence[Call], rows: int, outcome: Outcome) -> None:
    """Tell each call its part of the outputs."""
    outputs = outcome.outputs
    if outcome.error is not None:
        _tell_all(calls, outcome.error)
    elif len(calls) == 1:
        calls[0].asker.told(outputs)
    elif any(output.ndim == 0 or len(output) != rows for output in outputs):
        _tell_all(calls, OrchError(Kind.FAILED, f"the outputs do not carry the {rows} rows of the inputs"))
    else:
        row = 0
        for call in calls:
            end = row + call.rows
            call.asker.told(tuple([output[row:end] for output in outputs]))
            row = end


def _tell_all(calls: Sequence[Call], error: OrchError) -> None:
    """Tell each call of the error, by one of its own: many threads will raise them."""
    for call in calls:
        call.asker.told(OrchError(error.kind, error.problems, retry_after_s=error.retry_after_s, code=error.code))


class _OwnThread:
    """Looks at the line every millisecond while there is something going on, and sleeps otherwise."""

    def __init__(self, look: Callable[[], bool], standing: deque[Call], name: str) -> None:
        self._look = look
        self._standing = standing
        self._name = name
        self._awake = False
        self._stopped = False
        self._wanted = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Have the line looked at; costs nothing while the thread is awake."""
        if self._awake or self._stopped:
            return
        self._awake = True
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        pause = threading.Event()
        while not self._stopped:
            self._wanted.wait()
            self._wanted.clear()
            quiet = 0
            while quiet < QUIET_LOOKS and not self._stopped:
                pause.wait(LINGER_S)
                quiet = 0 if self._standing else quiet + 1
                self._look()
            self._awake = False
            self._look()  # what came before the line above woke nobody

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
