"""Find out by a few inferences whether a compiled model is better inferred on the thread its requests arrive on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.backend.base import Array, Backend, CompiledModel, CompileRequest, InferRequest
from orchestrator.errors import OrchError
from orchestrator.planner.plan import ModelPlan
from orchestrator.runner.check import Checked
from orchestrator.runner.inline_pool import Inline, parts_of
from orchestrator.scheduling.inline import INLINE_MAX_S, ROWS_MAX, pays, rows_together

REPEATS = 20
HOPELESS_S = 6 * INLINE_MAX_S  # with the hand-over, on a busy machine; not worth a closer look
# Rows of a batch may be summed in another order than alone; bf16 keeps 8 bits. What mixes rows differs by far more.
TOLERANCE = 0.05

Seconds = Callable[[InferRequest, Sequence[Array]], float]
"""Returns how long an inference of that request on those inputs takes."""


def quickest_s(request: InferRequest, inputs: Sequence[Array]) -> float:
    """Return the time of the quickest of several inferences: whatever else the machine does only adds to it."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        request.infer(inputs)
        times.append(time.perf_counter() - began)
    return min(times)


def try_inline(
    backend: Backend,
    request: CompileRequest,
    plan: ModelPlan,
    compiled: CompiledModel,
    checked: Checked,
    seconds: Seconds = quickest_s,
) -> Inline | None:
    """Return how to infer inline; None where a hand-over is better, or the manifest says how many run at a time.

    `seconds` measures an inference.
    """
    if plan.device != "CPU" or plan.batch > 1 or plan.requests is not None or checked.service_s > HOPELESS_S:
        return None
    alone = compiled.create_request(_nothing)
    alone_s = seconds(alone, checked.inputs)
    if not pays(alone_s):
        return None
    return _gathering(backend, request, compiled, alone, alone_s, seconds) or Inline(1, None)


def _gathering(
    backend: Backend,
    request: CompileRequest,
    compiled: CompiledModel,
    alone: InferRequest,
    alone_s: float,
    seconds: Seconds,
) -> Inline | None:
    rows = _rows_of(compiled)
    if rows is None:
        return None
    try:
        gathered = backend.compile(_any_rows(request, compiled))
    except OrchError:
        return None  # it cannot be reshaped: each request goes alone
    together = gathered.create_request(_nothing)
    if _independent(alone, together, rows):
        most = rows_together(alone_s, lambda count: seconds(together, [row[:count] for row in rows]))
        if most > 1:
            return Inline(most, gathered)
    gathered.close()
    return None


def _any_rows(request: CompileRequest, compiled: CompiledModel) -> CompileRequest:
    shapes: dict[str, Sequence[int | str]] = {
        info.name: [f"1..{ROWS_MAX}", *info.wire_shape[1:]] for info in compiled.inputs
    }
    return CompileRequest(request.path, request.device, request.properties, request.device_properties, shapes)


def _rows_of(compiled: CompiledModel) -> list[Array] | None:
    """Return ROWS_MAX different rows for each input; None where different rows cannot be made up."""
    parts = parts_of(compiled)
    generator = np.random.default_rng(0)
    if parts is None or any(dtype.kind != "f" for _, dtype, _ in parts):
        return None  # an integer may be an index, and BF16 lies in memory as integers
    if any(info.shape is not None and not info.shape[0].admits(1) for info in compiled.inputs):
        return None
    return [generator.standard_normal((ROWS_MAX, *shape)).astype(dtype) for _, dtype, shape in parts]


def _independent(alone: InferRequest, together: InferRequest, rows: Sequence[Array]) -> bool:
    """Tell whether rows that are inferred together come out as they do alone."""
    count = 3
    try:
        together.infer([row[:count] for row in rows])
        gathered = together.outputs()
        for index in range(count):
            alone.infer([row[index : index + 1] for row in rows])
            if not all(map(_alike, alone.outputs(), (output[index : index + 1] for output in gathered))):
                return False
    except (OrchError, IndexError):
        return False
    return True


def _alike(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype.kind != "f":
        return one.shape == other.shape and one.dtype == other.dtype and bool(np.array_equal(one, other))
    scale = float(np.max(np.abs(one), initial=0.0)) or 1.0
    return bool(np.max(np.abs(one - other), initial=0.0) <= TOLERANCE * scale)


def _nothing() -> None:
    """An inference on this thread has no callback."""
