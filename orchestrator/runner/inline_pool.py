"""A pool for models that take less than a thread hand-over: inferred where the request arrived, gathered as they come.

For them handing an inference to another thread and back costs more than the inference. So requests only queue up, and
`run`, on the caller's thread, infers what waits: everything that arrived in one turn of the event loop shares one
inference, and while that runs the next ones gather in the sockets. There is no timer, so a single caller never waits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.backend.base import DTYPES, Array, CompiledModel, InferRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.outcome import Done, Outcome, failed, fresh, outcomes_of, split
from orchestrator.runner.pool import Pool, PoolSettings
from orchestrator.runner.slot import Slot
from orchestrator.scheduling.scheduler import Batch, Ticket


@dataclass(frozen=True, slots=True)
class Inline:
    """How a fast model is inferred: up to `rows` rows at a time, by `gathered` where they are more than one request's.

    `gathered` None: each request is inferred alone.
    """

    rows: int
    gathered: CompiledModel | None


class InlinePool(Pool):
    """Serve a fast model on its callers' threads, one inference at a time."""

    inline = True

    def __init__(self, name: str, compiled: CompiledModel, settings: PoolSettings, how: Inline, **rest: Any) -> None:
        """Store the parts; `rest` are the pool's version, service_s, probe and clock."""
        super().__init__(name, compiled, settings, requests=1, batch=how.rows, **rest)
        self._how = how
        self._turn = threading.Lock()  # who holds it infers
        self._alone: InferRequest
        self._together: InferRequest
        self._rows: list[Array] = []

    def start(self) -> None:
        """Create the infer requests, one for single requests and one for gathered rows."""
        self._begin()
        self._idle.append(Slot())
        self._alone = self.compiled.create_request(_nothing)
        if self._how.gathered is not None:
            self._together = self._how.gathered.create_request(_nothing)
            self._rows = [np.zeros((self.batch, *shape), dtype) for _, dtype, shape in self._parts]
        self.reconfigure(self.settings)

    def submit(
        self, ticket: Ticket, arrays: Sequence[Array], done: Done, *, rows: int = 1, later: bool = False
    ) -> None:
        """Queue the admitted request and infer, unless the caller wants to `run` later."""
        del rows  # the arrays say it; more than the most goes alone
        count = 1 if self._how.gathered is None or not arrays or arrays[0].ndim == 0 else len(arrays[0])
        super().submit(ticket, arrays, done, rows=max(1, min(count, self.batch)))
        if not later:
            self.run()

    def _misfit(self, arrays: Sequence[Array], rows: int) -> OrchError | None:
        if len(arrays) != len(self._parts):
            return super()._misfit(arrays, rows)
        rows_of_all = arrays[0].shape[:1]
        for (_, dtype, shape), array in zip(self._parts, arrays, strict=True):
            if array.dtype != dtype or array.shape[1:] != shape or array.shape[:1] != rows_of_all:
                return super()._misfit(arrays, rows)
        return None

    def _dispatch(self) -> list[tuple[Ticket, Outcome]]:
        return []  # `run` does, without the lock

    def tick(self) -> None:
        """Do what every pool does now and then, and infer what nobody ran."""
        super().tick()
        self.run()

    def probe(self) -> None:
        """Try a made-up inference if none ended well of late."""
        super().probe()
        self.run()

    def run(self) -> None:
        """Infer what waits, here and now, unless another thread does; `done` is called on this thread."""
        while self._scheduler.queued and self._turn.acquire(blocking=False):
            try:
                while self._scheduler.queued and (batch := self._take()) is not None:
                    self._answer(batch)
            finally:
                self._turn.release()
            # Looks again: what was queued between the last look and the release found the turn taken.

    def _take(self) -> Batch | None:
        with self._lock:
            now = self._clock()
            batch, dropped = self._scheduler.next_batch(now)
            ended = [self._dropped(ticket, now) for ticket in dropped]
            if batch is not None:
                self._answering.append(self._idle[0])
            self._check_drained()
        self._deliver(ended)
        return batch

    def _answer(self, batch: Batch) -> None:
        parts = self._infer(batch)
        error = parts if isinstance(parts, OrchError) else None
        with self._lock:
            now = self._clock()
            self._scheduler.finish(batch, now, good=error is None)
            self._settle(batch, now, error)
            self._answering.pop()
            self._check_drained()
        self._deliver(failed(batch, parts) if isinstance(parts, OrchError) else outcomes_of(batch, parts, now))

    def _infer(self, batch: Batch) -> Sequence[tuple[Array, ...]] | OrchError:
        try:
            if len(batch.tickets) == 1:
                arrays = batch.tickets[0].payload.arrays
                request = self._together if self._rows and 1 < len(arrays[0]) <= self.batch else self._alone
                request.infer(arrays)
                return [request.outputs()]
            self._together.infer(self._gathered(batch))
            return split(self._together.outputs(), batch, batch.rows)
        except OrchError as error:
            return fresh(error)
        except Exception as error:  # noqa: BLE001 - whatever the engine throws, the callers are answered
            return OrchError(Kind.FAILED, f"inference failed: {error}", where=self.name)

    def _gathered(self, batch: Batch) -> list[Array]:
        row = 0
        for ticket in batch.tickets:
            for target, array in zip(self._rows, ticket.payload.arrays, strict=True):
                target[row : row + ticket.rows] = array
            row += ticket.rows
        return [target[:row] for target in self._rows]

    def close(self) -> None:
        """Give the models back."""
        super().close()
        if self._how.gathered is not None and not self.forked:
            self._how.gathered.close()


def _nothing() -> None:
    """An inference on the caller's thread has no callback."""


def parts_of(compiled: CompiledModel) -> list[tuple[str, Any, tuple[int, ...]]] | None:
    """Return name, dtype and shape of one row of each input; None where rows have no fixed shape or no numbers."""
    parts = []
    for info in compiled.inputs:
        if info.datatype == "BYTES" or not info.shape or not all(dim.static for dim in info.shape[1:]):
            return None
        parts.append((info.name, DTYPES[info.datatype], tuple(dim.low for dim in info.shape[1:])))
    return parts
