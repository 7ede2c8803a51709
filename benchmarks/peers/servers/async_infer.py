"""Infer with openvino.AsyncInferQueue from an asyncio loop, as its documentation shows, with a limit where one is set.

Runs in the peers' own environments: nothing of orch is imported.
"""

from __future__ import annotations

import asyncio
import os

import numpy as np
import openvino as ov


class Inferences:
    """As many inferences at the same time as the THROUGHPUT hint finds good; the others wait in line."""

    def __init__(self, model: str, limit: int | None) -> None:
        compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        self.shape = tuple(compiled.input(0).shape)
        self.limit = limit
        self.in_flight = 0
        self._queue = ov.AsyncInferQueue(compiled, 0)
        self._queue.set_callback(self._inferred)
        self._free = asyncio.Semaphore(len(self._queue))

    @property
    def full(self) -> bool:
        """Tell whether the limit found by hand is reached."""
        return self.limit is not None and self.in_flight >= self.limit

    async def infer(self, body: bytes) -> bytes:
        """Return the first output for the first input, both as raw bytes."""
        array = np.frombuffer(body, np.float32).reshape(self.shape)
        async with self._free:
            answer = asyncio.get_running_loop().create_future()
            self._queue.start_async({0: array}, answer, share_inputs=True)
            return await answer

    @staticmethod
    def _inferred(request: ov.InferRequest, answer: asyncio.Future[bytes]) -> None:
        output = request.get_output_tensor(0).data.tobytes()
        answer.get_loop().call_soon_threadsafe(lambda: answer.cancelled() or answer.set_result(output))


def from_environment() -> Inferences:
    """Return what BENCH_MODEL and BENCH_LIMIT say; to be called on the loop that asks."""
    limit = os.environ.get("BENCH_LIMIT")
    return Inferences(os.environ["BENCH_MODEL"], int(limit) if limit else None)
