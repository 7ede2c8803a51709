"""A place for one inference at a time: an infer request for each compiled batch, and the rows gathered for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.backend.base import DTYPES, Array, CompiledModel, InferRequest
from orchestrator.runner.outcome import split
from orchestrator.scheduling.scheduler import Batch


class Slot:
    """Infers with the smallest compiled batch that holds the rows; what is compiled for one row takes any shape."""

    __slots__ = ("_gather", "_requests", "_size", "batch", "detached")

    def __init__(self) -> None:
        self.batch: Batch | None = None
        """What it runs."""
        self.detached = False
        """Whether the inference was given up, and its callers told."""
        self._requests: dict[int, InferRequest] = {}
        self._gather: dict[int, list[Array]] = {}
        self._size = 1

    def add(self, rows: int, compiled: CompiledModel, done: Callable[[], None]) -> None:
        """Create the infer request for batches of up to `rows`; sizes ascend."""
        self._requests[rows] = compiled.create_request(done)
        if rows > 1:
            assert all(info.static for info in compiled.inputs), "the planner batches static shapes only (rule 6)"
            self._gather[rows] = [np.zeros(info.wire_shape, DTYPES[info.datatype]) for info in compiled.inputs]
        self._size = rows

    @property
    def request(self) -> InferRequest:
        """Return the infer request that was used last."""
        return self._requests[self._size]

    def start(self, batch: Batch) -> None:
        """Start the inference of a batch; raise whatever the engine raises."""
        if len(self._requests) > 1:
            self._size = next(size for size in self._requests if size >= batch.rows)
        self.request.start(self._inputs(batch))

    def _inputs(self, batch: Batch) -> Sequence[Array]:
        gather = self._gather.get(self._size)
        if gather is None or (batch.rows == self._size and len(batch.tickets) == 1):
            return batch.tickets[0].payload.arrays  # type: ignore[no-any-return]
        row = 0
        for ticket in batch.tickets:
            for target, array in zip(gather, ticket.payload.arrays, strict=True):
                target[row : row + ticket.rows] = array
            row += ticket.rows
        return gather

    def parts(self, batch: Batch) -> Sequence[tuple[Array, ...]]:
        """Return each request's part of the outputs."""
        outputs = self.request.outputs()
        return split(outputs, batch, self._size) if self._size > 1 else (outputs,)
