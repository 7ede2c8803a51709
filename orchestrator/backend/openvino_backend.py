"""OpenVINO behind the backend's Protocols; nothing else in orch imports it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orchestrator.backend.arrays import Slot, check_arrays, slots
from orchestrator.backend.base import Actual, Array, CompileRequest
from orchestrator.backend.engine_text import clean, engine_errors, spell, unspell, written
from orchestrator.backend.model_file import (
    check_file,
    digest,
    other_content,
    reshape,
    tensors,
    unbatchable,
    weights,
    weights_digest,
)
from orchestrator.backend.plugins import PluginAlias, read_aliases
from orchestrator.backend.read_back import execution_devices, read_back, total
from orchestrator.backend.shape_check import ShapeCheck, may_misfit, shape_check
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Device, Inventory
from orchestrator.inventory.host import read_host
from orchestrator.inventory.model import ModelInfo, TensorInfo

# Importing openvino starts a telemetry thread that forks, unless it believes to be in continuous integration (trap 31).
os.environ.setdefault("CI", "true")

import openvino as ov

OPTIONAL_FAMILIES = ("GPU", "NPU")  # plugins that ship with OpenVINO and load only where a driver is
HELPER_MARK = "("  # AUTO writes (CPU) while its start-up helper stands in for the real device (trap 1)
SETTLE_TIMEOUT_S = 60.0  # large models take tens of seconds to compile for a GPU
SETTLE_POLL_S = 0.02
CLOSE_TIMEOUT_MS = 10_000  # longest wait for an inference that should not be running any more
CUMULATIVE = "CUMULATIVE_THROUGHPUT"
READ_HINT = "check that the file is complete, and of a format that OpenVINO reads"
log = logging.getLogger("orch.backend")


class OpenVinoBackend:
    """One OpenVINO Core; make one in each process (plugins are not shared between Cores)."""

    def __init__(self, plugins: Sequence[PluginAlias] | None = None) -> None:
        self._plugins = tuple(read_aliases(os.environ) if plugins is None else plugins)
        self._making = threading.Lock()
        self._made: Any = None

    @property
    def _core(self) -> Any:
        """Return the one Core, made at the first question."""
        with self._making:
            if self._made is None:
                self._made = self._make_core()
            return self._made

    def _make_core(self) -> Any:
        core = ov.Core()
        # Weights that are mapped change with their file, and a truncated file ends the process by SIGBUS. Reading them
        # takes as long and as much memory (docs/faults.md). `properties: {ENABLE_MMAP: YES}` maps them all the same.
        core.set_property({"ENABLE_MMAP": False})
        libraries = Path(ov.__file__).parent / "libs"
        for plugin in self._plugins:
            library = libraries / f"libopenvino_{plugin.library}_plugin.so"
            core.register_plugin(str(library), plugin.name, dict(plugin.properties))
            if plugin.device_properties:
                core.set_property(plugin.name, dict(plugin.device_properties))
        return core

    @property
    def _aliases(self) -> dict[str, str]:
        """Return the device behind each alias, by the alias."""
        return {plugin.name: plugin.stands_for for plugin in self._plugins if plugin.stands_for}

    def inventory(self) -> Inventory:
        """Return host, devices and what could not be asked; a plugin that does not load never raises."""
        devices, problems = [], []
        aliases = self._aliases
        shown = {name: name for name in self._core.available_devices if name not in aliases.values()} | aliases
        for name, source in shown.items():
            try:
                with engine_errors(f"questions about {name}"):
                    devices.append(self._device(name, source))
            except OrchError as error:
                problems.append(f"{name}: {error}")
        families = {device.family for device in devices}
        problems += [text for name in OPTIONAL_FAMILIES if name not in families for text in self._unloadable(name)]
        return Inventory(openvino=ov.__version__, host=read_host(), devices=tuple(devices), problems=tuple(problems))

    def _unloadable(self, name: str) -> Iterator[str]:
        try:
            with engine_errors(f"to load the {name} plugin"):
                self._core.get_property(name, "SUPPORTED_PROPERTIES")
        except OrchError as error:
            yield f"{name}: {error}"

    def _device(self, name: str, source: str) -> Device:
        supported = dict(self._core.get_property(source, "SUPPORTED_PROPERTIES"))
        kind = spell(self._ask(source, "DEVICE_TYPE", supported)).lower()
        streams = self._ask(source, "RANGE_FOR_STREAMS", supported)
        memory = self._ask(source, f"{source.partition('.')[0]}_DEVICE_TOTAL_MEM_SIZE", supported)
        return Device(
            name=name,
            full_name=str(self._ask(source, "FULL_DEVICE_NAME", supported) or name),
            type=_device_type(kind),
            architecture=str(self._ask(source, "DEVICE_ARCHITECTURE", supported) or ""),
            capabilities=tuple(self._ask(source, "OPTIMIZATION_CAPABILITIES", supported) or ()),
            range_for_streams=(int(streams[0]), int(streams[1])) if streams else None,
            # What may only be written (WEIGHTS_PATH) is accepted at compile time all the same.
            properties={str(key): "RO" if str(mode) == "RO" else "RW" for key, mode in sorted(supported.items())},
            memory_bytes=int(memory) if memory else None,
        )

    def _ask(self, device: str, key: str, supported: Mapping[str, Any], **options: Any) -> Any:
        """Return a property, None where the device has none or fails to say."""
        if key not in supported:
            return None
        try:
            with engine_errors(key):
                return self._core.get_property(device, key, options)
        except OrchError:
            return None

    def inspect(self, path: str, shapes: Mapping[str, Sequence[int | str]], devices: Sequence[str]) -> ModelInfo:
        """Read a model file without compiling it; raise OrchError(NOT_FOUND, FAILED, INVALID)."""
        model = self._read(path)
        reshape(model, shapes, 1, path)
        kinds = {op.get_type_name() for op in model.get_ops()}
        stateful = bool(kinds & {"ReadValue", "Assign"})
        reason = "it keeps state between inferences" if stateful else unbatchable(model)
        return ModelInfo(
            path=path,
            sha256=digest(Path(path)),
            weights_sha256=weights_digest(Path(path)),
            weights_bytes=weights(Path(path), model),
            inputs=tensors(model.inputs, "input", path),
            outputs=tensors(model.outputs, "output", path),
            stateful=stateful,
            int8="FakeQuantize" in kinds,
            batchable=reason is None,
            unbatchable_reason=reason,
            optimal_batch=self._batch_sizes(model, devices, "OPTIMAL_BATCH_SIZE"),
            max_batch=self._batch_sizes(model, devices, "MAX_BATCH_SIZE"),
        )

    def _batch_sizes(self, model: Any, devices: Sequence[str], key: str) -> dict[str, int]:
        sizes = {}
        for device in devices:
            supported = self._ask(device, "SUPPORTED_PROPERTIES", {"SUPPORTED_PROPERTIES": "RO"}) or {}
            size = self._ask(device, key, supported, MODEL_PTR=model)
            if size is not None:
                sizes[device] = int(size)
        return sizes

    def _read(self, path: str) -> Any:
        check_file(Path(path))
        with engine_errors(f"to read {path}", path, READ_HINT):
            return self._core.read_model(path)

    def compile(self, request: CompileRequest) -> OpenVinoCompiledModel:
        """Compile; raise OrchError(FAILED) with the engine's reason, also when AUTO left out a device (trap 9)."""
        changed = bool(request.shapes) or request.batch > 1
        # A path lets OpenVINO cache the compiled model under it and never batches behind our back (trap 4).
        model: Any = request.path
        check_file(Path(request.path))
        other = other_content(Path(request.path), request.sha256, request.weights_sha256)
        if other is not None:
            raise OrchError(Kind.FAILED, [other])
        if changed:
            model = self._read(request.path)
            reshape(model, request.shapes, request.batch, request.path)
        asked = f"{request.device} with {written(request.properties) or 'no properties'}"
        with engine_errors(f"to compile for {asked}", request.path, f"asked for {asked}"):
            compiled = self._core.compile_model(model, request.device, self._config(request))
            _check_devices(request, compiled)
        return OpenVinoCompiledModel(compiled, request.path, self._shape_check(request, compiled))

    def _shape_check(self, request: CompileRequest, compiled: Any) -> ShapeCheck | None:
        """Return what tells of shapes that do not go together; None where they always do, or nothing can tell."""
        inputs = tensors(compiled.inputs, "input", request.path)
        if not may_misfit(inputs):
            return None
        try:
            model = self._read(request.path)  # once more: the engine may still need the one it compiled
            reshape(model, request.shapes, request.batch, request.path)
            with engine_errors("a copy without weights", request.path):
                return shape_check(model, inputs)
        except OrchError as error:
            log.warning("shapes that do not go together will fail, and may cost the requests after them: %s", error)
            return None

    def _config(self, request: CompileRequest) -> dict[str, Any]:
        config: dict[str, Any] = {key: unspell(value) for key, value in request.properties.items()}
        nested = {}
        for device, properties in request.device_properties.items():
            values = {key: unspell(value) for key, value in properties.items()}
            if device in self._aliases:  # nested properties for a HETERO alias crash the process
                self._core.set_property(self._aliases[device], values)
            elif values:
                nested[device] = values
        return config | ({"DEVICE_PROPERTIES": nested} if nested else {})


class OpenVinoCompiledModel:
    """A compiled model and the requests made of it."""

    def __init__(self, compiled: Any, path: str, check: ShapeCheck | None = None) -> None:
        self._compiled = compiled
        self._check = check
        self._inputs = tensors(compiled.inputs, "input", path)
        self._outputs = tensors(compiled.outputs, "output", path)
        self._path = path
        self._requests: list[Any] = []
        self._hooks: list[weakref.ref[_Hook]] = []
        self._guards: list[_Guard] = []

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Return the inputs as compiled."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Return the outputs as compiled."""
        return self._outputs

    def create_request(self, done: Callable[[], None]) -> OpenVinoRequest:
        """Return a new infer request; `done` runs on OpenVINO's callback thread, never for a failed inference."""
        with engine_errors("a new infer request", self._path):
            engine = self._compiled.create_infer_request()
        # The engine keeps the callback, where Python's garbage collector cannot see it: it must not hold the request.
        guard = _Guard(done)
        hook = _Hook(guard)
        engine.set_callback(hook, None)
        self._hooks.append(weakref.ref(hook))
        self._requests.append(engine)
        self._guards.append(guard)
        return OpenVinoRequest(engine, self._inputs, self._outputs, guard, self._check)

    def actual(self) -> Actual:
        """Read the properties back; raise OrchError(DEADLINE) when AUTO's helper is still there after a minute."""
        devices = self._settled_devices()
        properties = dict(sorted(read_back(self._compiled)))
        return Actual(
            properties=properties,
            execution_devices=devices,
            optimal_requests=int(properties.get("OPTIMAL_NUMBER_OF_INFER_REQUESTS", "1")),
            streams=total(properties, "NUM_STREAMS"),
            threads=total(properties, "INFERENCE_NUM_THREADS"),
        )

    def _settled_devices(self) -> tuple[str, ...]:
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        pause = threading.Event()
        while True:
            devices = execution_devices(self._compiled)
            if not any(name.startswith(HELPER_MARK) for name in devices):
                return devices
            if time.monotonic() > deadline:
                what = f"still runs on the start-up helper {', '.join(devices)} after {SETTLE_TIMEOUT_S:g} s"
                raise OrchError(Kind.DEADLINE, what, where=self._path, hint="name the device instead of AUTO")
            pause.wait(SETTLE_POLL_S)

    def close(self) -> None:
        """Give back memory and cores; waits (bounded) for what should not be running any more."""
        requests, self._requests = self._requests, []
        for engine in requests:
            with contextlib.suppress(OrchError), engine_errors("to wait"):
                # Freeing a request whose callback still waits for Python's lock would hang for good.
                engine.wait_for(CLOSE_TIMEOUT_MS)
            with contextlib.suppress(OrchError), engine_errors("to forget the callback"):
                engine.set_callback(_nothing, None)  # also of a failed inference, for which the wait raises
        self._compiled = None
        self._await_callbacks()
        guards, self._guards = self._guards, []
        for guard in guards:
            guard.forget()

    def _await_callbacks(self) -> None:
        """Wait (bounded) until the callback threads have let go of our callbacks.

        They do so after the callback has returned and after `wait_for` has; to let go they need Python's lock, and a
        thread that asks for it while the interpreter ends aborts the process.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT_MS / 1000
        pause = threading.Event()
        while any(hook() is not None for hook in self._hooks) and time.monotonic() < deadline:
            pause.wait(0.001)
        self._hooks = []


def _nothing(_: Any) -> None:
    """Stand in for the callback of a closed model."""


_known = threading.local()


def _stay_known() -> None:
    """Keep the engine's thread known to Python after its callback.

    Else Python makes what it needs for a thread before each callback and gives it back after it, with a mapping of
    memory whose end interrupts every core that runs the process.
    """
    _known.since = ctypes.pythonapi.PyGILState_Ensure()  # never released: the callback's own release is not the last


class _Hook:
    """What the engine alone holds, so that it can be seen when the engine lets go."""

    __slots__ = ("__weakref__", "_guard")

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def __call__(self, data: Any) -> None:
        if not hasattr(_known, "since"):
            _stay_known()
        self._guard(data)


def _ended() -> None:
    """Stand in for whom a closed model's request called."""


class _Guard:
    """Calls `done` and keeps what it raises: an exception out of a callback would end the process (trap 18)."""

    __slots__ = ("_done", "error")

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self.error: BaseException | None = None

    def forget(self) -> None:
        """Call nobody any more.

        Whom it calls holds the request, which holds this: the engine's threads and memory would wait for Python's
        collector, which looks at what is old very rarely.
        """
        self._done = _ended

    def __call__(self, _: Any) -> None:
        try:
            self._done()
        except BaseException as error:  # noqa: BLE001 - nothing at all may escape into the engine
            # Without its traceback, whose frames would keep the engine's hook alive and `close` waiting for it.
            self.error = error.with_traceback(None)


class OpenVinoRequest:
    """One infer request that reads its inputs where they lie."""

    __slots__ = ("_check", "_engine", "_guard", "_held", "_numeric", "_outputs", "_slots", "_tells")

    def __init__(
        self,
        engine: Any,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        guard: _Guard,
        check: ShapeCheck | None,
    ) -> None:
        self._engine = engine
        self._check = check
        self._guard = guard
        self._slots = slots(inputs)
        self._outputs = tuple(info.datatype for info in outputs)
        self._numeric = "BYTES" not in self._outputs
        self._held: object = None
        self._tells: bool | None = None

    def start(self, inputs: Sequence[Array]) -> None:
        """Start on these arrays; raise OrchError(INVALID) for wrong dtype, layout, shape or count."""
        self._must_fit(inputs)
        wrapped = [_tensor(slot, array) for slot, array in zip(self._slots, inputs, strict=True)]
        self._guard.error = None
        try:
            for index, tensor in enumerate(wrapped):
                self._engine.set_input_tensor(index, tensor)
        except RuntimeError as error:
            raise _refusal(error, Kind.INVALID) from error
        # Only now, and until the next start: before, another inference may still read the arrays held.
        self._held = (tuple(inputs), wrapped)
        try:
            self._engine.start_async()
        except RuntimeError as error:
            raise _refusal(error, Kind.FAILED) from error

    def infer(self, inputs: Sequence[Array]) -> None:
        """Infer on these arrays on this thread; raise OrchError(INVALID, FAILED)."""
        self._must_fit(inputs)
        try:
            for index, (slot, array) in enumerate(zip(self._slots, inputs, strict=True)):
                self._engine.set_input_tensor(index, _tensor(slot, array))
            self._infer()
        except RuntimeError as error:
            raise _refusal(error, Kind.FAILED) from error

    def _must_fit(self, inputs: Sequence[Array]) -> None:
        check_arrays(self._slots, inputs)
        if self._check is not None:
            self._check.check(inputs)

    def _infer(self) -> None:
        """Infer, and raise RuntimeError when that fails.

        With one stream of one thread the engine's `infer` says nothing of a failure, and the outputs stay those of the
        inference before: somebody else's answer. There `start_async` tells, and only there `wait_for` knows of no
        inference after `infer`.
        """
        if self._tells is not False:
            self._engine.infer(share_outputs=self._numeric)  # the binding cannot share strings
            self._tells = self._engine.wait_for(0)
        if not self._tells:
            self._engine.start_async()
            self._engine.wait()

    def outputs(self) -> tuple[Array, ...]:
        """Return copies of the outputs (what the engine shows is overwritten by the next start)."""
        return tuple(_copy(self._engine.get_output_tensor(place), name) for place, name in enumerate(self._outputs))

    def failure(self) -> BaseException | None:
        """Return why the inference ended without its callback, or what its callback raised."""
        if self._guard.error is not None:
            return self._guard.error
        try:
            self._engine.wait_for(0)  # raises what the inference raised; says only yes or no otherwise
        except RuntimeError as error:
            text = clean(str(error), "this inference")
            kind = Kind.CANCELLED if "was canceled" in text else Kind.FAILED
            return OrchError(kind, text)
        return None

    def cancel(self) -> None:
        """Ask the engine to give up; a cancelled inference has no callback and reports itself by `failure`."""
        with contextlib.suppress(RuntimeError):
            self._engine.cancel()


def _refusal(error: RuntimeError, kind: Kind) -> OrchError:
    text = clean(str(error), "these inputs")
    return OrchError(Kind.CONFLICT if "is busy" in text else kind, text)


def _tensor(slot: Slot, array: Array) -> Any:
    """Wrap an array without copying it; only BYTES are copied, as the engine has strings of its own."""
    if slot.datatype == "BYTES":
        return ov.Tensor(array.astype(np.bytes_) if array.size else np.zeros(array.shape, "S1"))
    if not array.flags.writeable:
        array = _writeable(array)
    if slot.datatype == "BF16":
        return ov.Tensor(array, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)


def _writeable(array: Array) -> Array:
    """Return a second view of read-only memory: the binding wants to be able to write, the engine never does."""
    if array.size == 0:
        return array.copy()
    memory: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    view: Array = np.frombuffer(memory, array.dtype).reshape(array.shape)
    return view


def _copy(tensor: Any, datatype: str) -> Array:
    if datatype == "BYTES":
        if tensor.size == 0:
            return np.zeros(tuple(tensor.shape), np.object_)  # the binding reads a first string that is not there
        return np.asarray(tensor.bytes_data).astype(np.object_)
    data: Array = tensor.data
    # The binding shows bf16 as float16, whose bits they are not.
    return data.view(np.uint16).copy() if datatype == "BF16" else data.copy()


def _check_devices(request: CompileRequest, compiled: Any) -> None:
    """Raise when a device that was named is not among those that execute: AUTO drops them in silence."""
    mode, _, names = request.device.partition(":")
    cumulative = mode == "MULTI" or (mode == "AUTO" and request.properties.get("PERFORMANCE_HINT") == CUMULATIVE)
    if not cumulative or not names or names.startswith("-"):
        return
    executing = {name.removesuffix(".0") for name in execution_devices(compiled)}
    dropped = [name for name in names.split(",") if name.removesuffix(".0") not in executing]
    if dropped:
        what = f"{mode} left out {', '.join(dropped)} and would run on {', '.join(sorted(executing))} alone"
        raise OrchError(Kind.FAILED, what, where=request.path, hint="see: orch devices")


def _device_type(kind: str) -> Literal["integrated", "discrete"] | None:
    match kind:
        case "integrated" | "discrete":
            return kind
        case _:
            return None
