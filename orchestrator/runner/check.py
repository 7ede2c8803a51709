"""Check a compiled model with real inferences before it serves: does it answer, in the right shapes, and how fast."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

from orchestrator.backend.base import Array, CompiledModel, InferRequest
from orchestrator.backend.made_up import candidates, free
from orchestrator.errors import Kind, OrchError

FIRST_TIMEOUT_S = 120.0  # the first inference of a large model may allocate and generate code
WARM_UP_S = 1.0
WARM_UP_MAX = 50
STEADY = 0.05  # two medians of five that differ by less are steady


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check found: seconds of one inference when it runs alone, and how many were run."""

    service_s: float
    inferences: int
    quickest_s: float = 0.0
    """Of them the shortest: whatever else the machine does only adds to it."""
    inputs: tuple[Array, ...] = field(default=(), repr=False, compare=False)
    """The made-up inputs that worked: good for a probe later on."""


def check(compiled: CompiledModel, name: str, *, batch: int = 1) -> Checked:
    """Infer on made-up inputs until times are steady.

    Raise FAILED when no inference works or outputs do not carry the `batch`, DEADLINE when one hangs.
    """
    ended = threading.Event()
    request = compiled.create_request(ended.set)
    inputs = _first_that_works(compiled, request, ended, name)
    _carries(request.outputs(), compiled, batch, name)
    times: list[float] = []
    stop = time.monotonic() + WARM_UP_S
    while len(times) < WARM_UP_MAX and time.monotonic() < stop and not _steady(times):
        times.append(_infer(request, inputs, ended, name))
    return Checked(statistics.median(times[-5:]), len(times), min(times), inputs)


def _carries(outputs: tuple[Array, ...], compiled: CompiledModel, batch: int, name: str) -> None:
    """Raise FAILED where an output cannot be divided among the requests of a batch."""
    for info, output in zip(compiled.outputs, outputs, strict=True):
        if batch > 1 and output.shape[:1] != (batch,):
            made = list(output.shape)
            what = f"output {info.name!r} does not carry the batch: of {batch} rows it makes the shape {made}"
            raise OrchError(Kind.FAILED, what, where=name, hint="use `compile: {batch: 1}`")


def _first_that_works(
    compiled: CompiledModel, request: InferRequest, ended: threading.Event, name: str
) -> tuple[Array, ...]:
    refused: OrchError | None = None
    for inputs in candidates(compiled.inputs):
        try:
            _infer(request, inputs, ended, name)
            return inputs
        except OrchError as error:
            if error.kind is Kind.DEADLINE:
                raise
            refused = refused or error
    hint = "give the shapes that callers send under `shapes:`" if free(compiled.inputs) else None
    raise OrchError(Kind.FAILED, f"the first inference failed: {refused}", where=name, hint=hint)


def _infer(request: InferRequest, inputs: tuple[Array, ...], ended: threading.Event, name: str) -> float:
    ended.clear()
    began = time.monotonic()
    request.start(inputs)
    wait_s = 0.001
    while not ended.wait(wait_s):
        failure = request.failure()
        if failure is not None:
            raise OrchError(Kind.FAILED, str(failure), where=name)
        if time.monotonic() - began > FIRST_TIMEOUT_S:
            request.cancel()
            raise OrchError(Kind.DEADLINE, f"an inference did not end within {FIRST_TIMEOUT_S:g} s", where=name)
        wait_s = min(0.05, wait_s * 2)
    taken = time.monotonic() - began
    request.outputs()
    return taken


def _steady(times: list[float]) -> bool:
    if len(times) < 10:
        return False
    last, before = statistics.median(times[-5:]), statistics.median(times[-10:-5])
    return abs(last - before) <= STEADY * before
