"""A device that is not there: given service times, given faults, the same Protocols as OpenVINO."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.backend.arrays import check_arrays, slots
from orchestrator.backend.base import DTYPES, Actual, Array, CompileRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import Dim, ModelInfo, TensorInfo
from orchestrator.manifest.target import Mode, parse_target

STREAMS_MAX = 64  # each stream is a thread
STARTED_MAX = 4096  # inferences that may wait for a stream; a pool never has more than its requests
CLOSE_TIMEOUT_S = 10.0
INFER_TIMEOUT_S = 60.0  # for an inference on the caller's thread; a test that hangs one gives up itself

Compute = Callable[[tuple[Array, ...]], tuple[Array, ...]]
ServiceTimes = float | Sequence[float] | Callable[[int], float]
"""Seconds of an inference: always the same, drawn from measured samples, or given by its number (from 0)."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, by the number of the inference (from 0, counted over all starts of a compiled model)."""

    fail: frozenset[int] = frozenset()
    """Ends without its callback; `failure` says so."""
    hang: frozenset[int] = frozenset()
    """Never ends, unless it is cancelled or the model is closed."""
    refuse: frozenset[int] = frozenset()
    """Raises in `start`."""
    compile_error: str | None = None
    """Every compile raises this."""
    device_lost_at: int | None = None
    """From this inference on the device is gone: what runs fails, what starts is refused."""


class SimulatedBackend:
    """An engine over an inventory and models that are only described.

    `streams` inferences run at once unless NUM_STREAMS says otherwise. With `manual` nothing ends by itself: a test
    calls `complete` or `fail` of the requests in `SimulatedCompiledModel.running()`.
    """

    def __init__(
        self,
        inventory: Inventory,
        models: Mapping[str, ModelInfo],
        service_s: ServiceTimes = 0.001,
        *,
        streams: int = 1,
        seed: int = 0,
        compute: Compute | None = None,
        faults: Faults | None = None,
        manual: bool = False,
    ) -> None:
        self._inventory = inventory
        self._models = dict(models)
        self.service_s = service_s
        self.streams = streams
        self.seed = seed
        self.compute = compute
        self.faults = faults or Faults()
        self.manual = manual
        self.compiled: list[SimulatedCompiledModel] = []
        """Every model compiled so far, for tests to look into."""

    def inventory(self) -> Inventory:
        """Return the inventory it was made with."""
        return self._inventory

    def inspect(self, path: str, shapes: Mapping[str, Sequence[int | str]], devices: Sequence[str]) -> ModelInfo:  # noqa: ARG002 - the Protocol's
        """Return what was said of the model; raise OrchError(NOT_FOUND) for another."""
        if path not in self._models:
            raise OrchError(Kind.NOT_FOUND, "no such file", where=path, hint="check the path of the model")
        return _reshaped_model(self._models[path], shapes, path)

    def compile(self, request: CompileRequest) -> SimulatedCompiledModel:
        """Return a model ready to run; raise OrchError for unknown devices and scripted errors."""
        info = self.inspect(request.path, request.shapes, ())
        devices = self._devices(request)
        if self.faults.compile_error is not None:
            raise OrchError(Kind.FAILED, self.faults.compile_error, where=request.path)
        if request.batch > 1:
            info = _batched(info, request)
        model = SimulatedCompiledModel(self, info, request, devices)
        self.compiled.append(model)
        return model

    def _devices(self, request: CompileRequest) -> tuple[str, ...]:
        """Return the devices that execute: all that are named, but one under AUTO unless it is cumulative."""
        try:
            target = parse_target(request.device)
        except ValueError as error:
            raise OrchError(Kind.FAILED, str(error), where=request.path) from None
        every = (device.name for device in self._inventory.devices if device.name not in target.excluded)
        names = target.devices or tuple(every)
        for name in names:
            if self._inventory.device(name) is None:
                raise OrchError(Kind.FAILED, f"there is no device {name}", where=request.path, hint="see: orch devices")
        alone = target.mode is Mode.AUTO and request.properties.get("PERFORMANCE_HINT") != "CUMULATIVE_THROUGHPUT"
        return names[:1] if alone else names


def _reshaped(
    inputs: Sequence[TensorInfo], shapes: Mapping[str, Sequence[int | str]], path: str
) -> tuple[TensorInfo, ...]:
    names = [info.name for info in inputs]
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        what = f"has no input {', '.join(map(repr, unknown))}"
        raise OrchError(Kind.INVALID, what, where=path, hint=f"its inputs are {', '.join(names)}")
    given = {name: tuple(map(_dim, dims)) for name, dims in shapes.items()}
    return tuple(info.model_copy(update={"shape": given.get(info.name, info.shape)}) for info in inputs)


def _reshaped_model(info: ModelInfo, shapes: Mapping[str, Sequence[int | str]], path: str) -> ModelInfo:
    """Return the model with the shapes given; where axis 0 is the batch, the outputs follow it."""
    inputs = _reshaped(info.inputs, shapes, path)
    if not (info.batchable and shapes and inputs[0].shape):
        return info.model_copy(update={"inputs": inputs})
    rows = inputs[0].shape[0]
    reason = f"axis 0 of input {inputs[0].name!r} is fixed at {rows}" if rows.static and rows.low != 1 else None
    update = {"inputs": inputs, "outputs": tuple(_with_rows(output, rows) for output in info.outputs)}
    return info.model_copy(update=update | {"batchable": reason is None, "unbatchable_reason": reason})


def _with_rows(tensor: TensorInfo, rows: Dim) -> TensorInfo:
    return tensor.model_copy(update={"shape": (rows, *(tensor.shape or ())[1:])})


def _dim(dim: int | str) -> Dim:
    if dim in {-1, "?"}:
        return Dim(low=0, high=None)
    if isinstance(dim, int):
        return Dim(low=dim, high=dim)
    low, _, high = dim.partition("..")
    return Dim(low=int(low or 1), high=int(high) if high else None)


def _batched(info: ModelInfo, request: CompileRequest) -> ModelInfo:
    if not info.batchable:
        reason = info.unbatchable_reason or "axis 0 is no batch"
        raise OrchError(Kind.INVALID, f"cannot be batched: {reason}", where=request.path, hint="use batch 1")
    rows = Dim(low=request.batch, high=request.batch)
    roles = (("inputs", info.inputs), ("outputs", info.outputs))
    return info.model_copy(update={role: tuple(_with_rows(it, rows) for it in tensors) for role, tensors in roles})


class SimulatedCompiledModel:
    """Streams that each run one inference at a time, in the order of the starts."""

    def __init__(
        self, backend: SimulatedBackend, info: ModelInfo, request: CompileRequest, devices: tuple[str, ...]
    ) -> None:
        self._info = info
        self._request = request
        self._devices = devices
        self._faults = backend.faults
        self._service_s = backend.service_s
        self._compute = backend.compute or self._zeros
        self._random = random.Random(backend.seed)
        self.streams = min(STREAMS_MAX, int(request.properties.get("NUM_STREAMS", backend.streams)))
        self.closed = threading.Event()
        self.callback_lock = threading.Lock()  # one callback at a time, as on OpenVINO's CPU
        self._lock = threading.Lock()
        self._number = 0
        self._running: list[SimulatedRequest] = []
        self._waiting: queue.Queue[tuple[SimulatedRequest, _Inference] | None] = queue.Queue(STARTED_MAX)
        self._threads = [] if backend.manual else [self._stream(place) for place in range(self.streams)]
        for thread in self._threads:
            thread.start()

    def _stream(self, place: int) -> threading.Thread:
        return threading.Thread(target=self._work, name=f"simulated-stream-{place}", daemon=True)

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            request, inference = entry
            request.run(inference)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Return the inputs as compiled."""
        return self._info.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Return the outputs as compiled."""
        return self._info.outputs

    def create_request(self, done: Callable[[], None]) -> SimulatedRequest:
        """Return a new infer request."""
        return SimulatedRequest(self, done)

    def actual(self) -> Actual:
        """Return the properties that were asked for, and what the streams make of them."""
        properties = dict(self._request.properties) | {"OPTIMAL_NUMBER_OF_INFER_REQUESTS": str(self.streams)}
        threads = self._request.properties.get("INFERENCE_NUM_THREADS")
        return Actual(
            properties=dict(sorted(properties.items())),
            execution_devices=self._devices,
            optimal_requests=self.streams,
            streams=self.streams,
            threads=int(threads) if threads else None,
        )

    def close(self) -> None:
        """End the streams; what hangs is let go."""
        self.closed.set()
        for request in self.running():
            request.cancel()
        for _ in self._threads:
            self._waiting.put(None, timeout=CLOSE_TIMEOUT_S)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSE_TIMEOUT_S)

    def running(self) -> tuple[SimulatedRequest, ...]:
        """Return the requests that were started and have not ended, in the order of their starts."""
        with self._lock:
            return tuple(self._running)

    def begin(self, request: SimulatedRequest, inputs: tuple[Array, ...]) -> None:
        """Give the start its number; raise OrchError when it is refused."""
        with self._lock:
            if request in self._running:
                raise OrchError(Kind.CONFLICT, "Infer Request is busy")
            inference = _Inference(self._number, inputs, threading.Event())
            self._number += 1
            if self.closed.is_set() or inference.number in self._faults.refuse or self._lost(inference.number):
                raise OrchError(Kind.FAILED, self._complaint(inference.number))
            request.accept(inference)
            self._running.append(request)
        if self._threads:
            self._waiting.put((request, inference), timeout=CLOSE_TIMEOUT_S)

    def end(self, request: SimulatedRequest) -> bool:
        """Note an end; False when the inference had ended before."""
        with self._lock:
            if request not in self._running:
                return False
            self._running.remove(request)
            return True

    def fault(self, number: int) -> OrchError | None:
        """Return what goes wrong with the inference once it has run."""
        with self._lock:
            failed = number in self._faults.fail or self._lost(self._number - 1)
        return OrchError(Kind.FAILED, self._complaint(number)) if failed else None

    def hangs(self, number: int) -> bool:
        """Tell whether the inference never ends."""
        return number in self._faults.hang

    def seconds(self, number: int) -> float:
        """Return how long the inference takes."""
        if callable(self._service_s):
            return self._service_s(number)
        if isinstance(self._service_s, Sequence):
            with self._lock:
                return self._random.choice(self._service_s)
        return self._service_s

    def compute(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Return the outputs of these inputs."""
        return self._compute(inputs)

    def _lost(self, number: int) -> bool:
        return self._faults.device_lost_at is not None and number >= self._faults.device_lost_at

    def _complaint(self, number: int) -> str:
        if self.closed.is_set():
            return "the model is closed"
        if self._lost(self._number - 1):
            return f"the device {self._devices[0]} is gone"
        return f"inference {number} fails as scripted"

    def _zeros(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(_zeros(info, inputs) for info in self.outputs)


def _zeros(info: TensorInfo, inputs: tuple[Array, ...]) -> Array:
    """Return an empty answer of the right shape: what may vary follows the inputs' rows, or is as small as it may."""
    rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    dims = info.shape or ()
    free = [rows if axis == 0 else max(1, dim.low) for axis, dim in enumerate(dims)]
    shape = [dim.low if dim.static else size for dim, size in zip(dims, free, strict=True)]
    return np.full(shape, b"", np.object_) if info.datatype == "BYTES" else np.zeros(shape, DTYPES[info.datatype])


@dataclass(frozen=True, slots=True)
class _Inference:
    """One start of a request."""

    number: int
    inputs: tuple[Array, ...]
    cancelled: threading.Event


class SimulatedRequest:
    """One infer request of a simulated model."""

    def __init__(self, model: SimulatedCompiledModel, done: Callable[[], None]) -> None:
        self._model = model
        self._done = done
        self._slots = slots(model.inputs)
        self._inference = _Inference(0, (), threading.Event())
        self._outputs: tuple[Array, ...] = ()
        self._failure: BaseException | None = None
        self._ended = threading.Event()

    def start(self, inputs: Sequence[Array]) -> None:
        """Start on these arrays; raise OrchError(INVALID, CONFLICT, FAILED)."""
        check_arrays(self._slots, inputs)
        for info, array in zip(self._model.inputs, inputs, strict=True):
            _check_shape(info, array)
        self._model.begin(self, tuple(inputs))

    def infer(self, inputs: Sequence[Array]) -> None:
        """Infer and wait; raise OrchError(FAILED, DEADLINE) when it fails or hangs."""
        self._ended.clear()
        self.start(inputs)
        if not self._ended.wait(INFER_TIMEOUT_S):
            raise OrchError(Kind.DEADLINE, "the inference does not end")
        if self._failure is not None:
            raise OrchError(Kind.FAILED, str(self._failure))

    def accept(self, inference: _Inference) -> None:
        """Take the inference on; the model calls it once the start is granted."""
        self._inference, self._failure = inference, None

    def run(self, inference: _Inference) -> None:
        """Take the service time, then end; called by a stream."""
        if self._model.hangs(inference.number):
            inference.cancelled.wait()
        if inference.cancelled.wait(self._model.seconds(inference.number)):
            return
        fault = self._model.fault(inference.number)
        if fault is not None:
            self.fail(fault)
        else:
            self.complete()

    def complete(self) -> None:
        """End the inference well: compute, then call back on this thread."""
        try:
            self._outputs = self._model.compute(self._inference.inputs)
        except Exception as error:  # noqa: BLE001 - a test's function may raise anything
            self.fail(error)
            return
        if self._model.end(self):
            with self._model.callback_lock:
                try:
                    self._done()
                except BaseException as error:  # noqa: BLE001 - as in OpenVINO nothing may escape a callback
                    self._failure = error
            self._ended.set()

    def fail(self, error: BaseException) -> None:
        """End the inference without its callback."""
        if self._model.end(self):
            self._failure = error
            self._ended.set()

    def outputs(self) -> tuple[Array, ...]:
        """Return copies of the outputs."""
        return tuple(output.copy() for output in self._outputs)

    def failure(self) -> BaseException | None:
        """Return why the inference ended without its callback."""
        return self._failure

    def cancel(self) -> None:
        """Give the inference up."""
        self._inference.cancelled.set()
        self.fail(OrchError(Kind.CANCELLED, "Infer Request was canceled"))


def _check_shape(info: TensorInfo, array: Array) -> None:
    dims = info.shape
    if dims is None or (len(dims) == array.ndim and all(map(Dim.admits, dims, array.shape))):
        return
    wanted = ",".join(map(str, dims))
    raise OrchError(Kind.INVALID, f"input {info.name!r}: must have the shape [{wanted}], got {list(array.shape)}")
