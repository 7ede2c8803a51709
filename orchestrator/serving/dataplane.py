"""The data plane: what HTTP and gRPC call, in terms of models and arrays, on the event loop; it knows no transport."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.pool import Outcome, Pool
from orchestrator.scheduling.scheduler import State, Ticket
from orchestrator.serving.contract import Priority, spread
from orchestrator.serving.oip import Signature
from orchestrator.serving.repository import READY, model_config
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.statistics import counted, model_statistics


@dataclass(frozen=True, slots=True)
class Served:
    """A model that is served: what its callers may send, and the pool that answers."""

    signature: Signature
    pool: Pool


class Admission(NamedTuple):
    """An admitted request: its place in a pool, held until it is submitted, released or past its deadline."""

    served: Served
    ticket: Ticket


class Runs(Protocol):
    """An inline pool, or what lines calls up in front of one."""

    def run(self) -> bool | None:
        """Infer what waits; True: there is more, for the loop's next turn."""


class Bridge:
    """Carries outcomes from engine threads to the event loop, one wake-up for all that are ready.

    `note_lag` is told after each how many seconds the loop took to wake up.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        note_lag: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._note_lag = note_lag
        self._clock = clock
        self._posted = 0.0
        self._ended: deque[tuple[Callable[[Outcome], None], Outcome]] = deque()
        self._woken = False
        self._thread = threading.get_ident()
        self._waiting: set[Runs] = set()
        self._running_here = False

    def run_soon(self, pool: Runs) -> None:
        """Let an inline pool infer once everything that this turn of the loop brings has been submitted."""
        if not self._waiting:
            self._loop.call_soon(self._run_waiting)
        self._waiting.add(pool)

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, set()
        self._running_here = True  # outcomes need not come by way of a wake-up
        try:
            for pool in waiting:
                if pool.run():
                    self.run_soon(pool)
        finally:
            self._running_here = False

    def to_loop(self, done: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        """Return a callback for any thread that calls `done` on the loop."""

        def post(outcome: Outcome) -> None:
            if self._running_here and threading.get_ident() == self._thread:
                done(outcome)
                return
            self._ended.append((done, outcome))
            if not self._woken:
                self._woken = True
                self._posted = self._clock()
                self._loop.call_soon_threadsafe(self._run)

        return post

    def _run(self) -> None:
        if self._note_lag is not None:
            self._note_lag(self._clock() - self._posted)
        self._woken = False  # from here on: what is posted wakes the loop again
        while self._ended:
            done, outcome = self._ended.popleft()
            try:
                done(outcome)
            except Exception as error:  # noqa: BLE001 - the others wait for their outcomes too
                self._loop.call_exception_handler({"message": "an outcome was not taken", "exception": error})


class DataPlane:
    """All calls on the loop's thread. `served` is replaced as a whole when models change.

    `regions` is the shared memory that clients may register; by default none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: Callable[[], float] = random.random) -> None:
        self._bridge = Bridge(loop, self._note_lag)
        self._chance = chance
        self.served: Mapping[str, Served] = {}
        self.regions = Regions()
        self.draining = False

    def _note_lag(self, seconds: float) -> None:
        """Tell the pools what a request waits for the loop: once for its answer, and about as long to be read."""
        for served in self.served.values():
            served.pool.note_lag(2 * seconds)

    def live(self) -> bool:
        """Tell whether the process answers."""
        return True

    def ready(self) -> bool:
        """Tell whether every model answers inferences; a full pool is still ready."""
        return not self.draining and bool(self.served) and all(served.pool.healthy for served in self.served.values())

    def model_ready(self, name: str, version: str | None) -> bool:
        """Tell whether this model answers inferences; raise NOT_FOUND for an unknown one."""
        return self._served(name, version).pool.healthy

    def signature(self, name: str, version: str | None) -> Signature:
        """Return the model's inputs and outputs; raise NOT_FOUND."""
        return self._served(name, version).signature

    def index(self) -> list[dict[str, str]]:
        """Return the models as the repository index lists them."""
        return [
            {
                "name": name,
                "version": served.signature.version,
                "state": READY if served.pool.healthy else "UNAVAILABLE",
                "reason": "" if served.pool.healthy else "inferences fail or hang",
            }
            for name, served in sorted(self.served.items())
        ]

    def config(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the model's configuration as Triton writes it; raise NOT_FOUND."""
        served = self._served(name, version)
        return model_config(served.signature, served.pool.snapshot().requests)

    def statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]:
        """Return what was counted of one model, or of all; raise NOT_FOUND."""
        chosen = sorted(self.served.items()) if name is None else [(name, self._served(name, version))]
        return [_statistics(name, served) for name, served in chosen]

    def _served(self, name: str, version: str | None) -> Served:
        served = self.served.get(name)
        if served is None:
            known = ", ".join(sorted(self.served)) or "none yet"
            raise OrchError(Kind.NOT_FOUND, f"unknown model {name!r}: this endpoint serves {known}")
        if version and version != served.signature.version:
            what = f"unknown version {version!r} of model {name!r}: it has version {served.signature.version}"
            raise OrchError(Kind.NOT_FOUND, what)
        return served

    def admit(
        self,
        name: str,
        version: str | None,
        *,
        nbytes: int,
        timeout_s: float | None = None,
        priority: Priority | None = None,
    ) -> Admission:
        """Take a place for a request whose body is to come; raise NOT_FOUND, OVERLOADED, DEADLINE, UNAVAILABLE."""
        while True:
            served = self._served(name, version)
            try:
                return Admission(served, served.pool.admit(nbytes=nbytes, timeout_s=timeout_s, priority=priority))
            except OrchError as error:
                if served is self.served.get(name):
                    if error.retry_after_s is not None:
                        error.retry_after_s = spread(error.retry_after_s, self._chance())
                    raise  # else the pool was swapped between the look and the step: ask its successor

    def full(self, coming: int, timeout_s: float | None = None) -> OrchError | None:
        """Return why a request of any model would be refused behind `coming` others, before it is known which it is.

        None where it might be admitted, and always where there are several models.
        """
        served = list(self.served.values())
        error = served[0].pool.full(coming, timeout_s) if len(served) == 1 else None
        if error is not None and error.retry_after_s is not None:
            error.retry_after_s = spread(error.retry_after_s, self._chance())
        return error

    def submit(self, admission: Admission, rows: int, arrays: Sequence[Array], done: Callable[[Outcome], None]) -> None:
        """Infer on `arrays` (in the model's order); `done` is called once, on the loop."""
        pool = admission.served.pool
        done = self._bridge.to_loop(done)
        pool.submit(admission.ticket, arrays, done, rows=rows if pool.batch > 1 else 1, later=True)
        if pool.inline:
            self._bridge.run_soon(pool)

    def enlarge(self, admission: Admission, nbytes: int) -> None:
        """Count tensors that come from shared memory; raise OVERLOADED or TOO_LARGE, the place is then lost."""
        admission.served.pool.enlarge(admission.ticket, nbytes)

    def dropped(self, admission: Admission) -> bool:
        """Tell whether the place is lost: its deadline passed while the request was still coming in."""
        return admission.ticket.state is State.DONE

    def release(self, admission: Admission) -> None:
        """Give the place back: the request turned out bad, or its caller went away."""
        admission.served.pool.cancel(admission.ticket)

    async def infer(self, admission: Admission, rows: int, arrays: Sequence[Array]) -> Outcome:
        """Infer and return the outcome; raise its error. Cancelling the coroutine cancels the work."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not future.done():
                future.set_result(outcome)

        self.submit(admission, rows, arrays, done)
        try:
            outcome = await future
        except asyncio.CancelledError:
            self.release(admission)
            raise
        if outcome.error is not None:
            raise outcome.error
        return outcome


def _statistics(name: str, served: Served) -> dict[str, Any]:
    seen = served.pool.observe(counted)
    # The pool's clock is monotonic; the protocol wants milliseconds since 1970.
    last = 0.0 if seen.last is None else time.time() - (time.monotonic() - seen.last)
    return model_statistics(name, served.signature.version, seen, round(last * 1000))
