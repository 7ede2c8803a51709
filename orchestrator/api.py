"""The planned pools inside the caller's own process, without sockets: `orchestrator.open("deployment.yaml")`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.backend.base import DTYPES, Array, Backend
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.manifest.load import Document, load
from orchestrator.manifest.model_file import check_sources, resolve_source
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import grant_cpus, resolve
from orchestrator.runner.decide import Policy, find
from orchestrator.runner.gathering import Gatherer, Result
from orchestrator.runner.locks import read_beside
from orchestrator.runner.pool import Outcome, Pool
from orchestrator.runner.worker import Worker
from orchestrator.scheduling.scheduler import Ticket
from orchestrator.serving.contract import Priority
from orchestrator.serving.dataplane import Bridge
from orchestrator.serving.monitor import STEP_S, Monitor
from orchestrator.serving.oip import InferHead, InputHead, Signature, plan_inputs
from orchestrator.serving.process import signature

DRAIN_TIMEOUT_S = 30.0
LAYOUTS_MAX = 256  # shapes of inputs that are remembered as fitting; more comes of free dimensions only


def open(path: str | Path, *, name: str | None = None, backend: Backend | None = None) -> Deployment:  # noqa: A001
    """Plan the manifest's deployment on this machine, compile its models and return them ready.

    `name` picks one where the file holds several. Raise OrchError for whatever is wrong with manifest, machine or
    model. Close the deployment, or use it as a context manager.
    """
    engine = backend or OpenVinoBackend()
    document = _pick(load([str(path)]).documents, name, str(path))
    worker = Worker(engine, repairs=False)  # callers hold on to the pools
    plan = _plan(document, engine)
    worker.apply(plan, lambda _model, _phase, _message: None)
    return Deployment(plan, worker)


def _pick(documents: tuple[Document, ...], name: str | None, where: str) -> Document:
    names = [document.deployment.metadata.name for document in documents]
    if name is None and len(documents) == 1:
        return documents[0]
    if name in names:
        return documents[names.index(name)]
    wanted = "holds several deployments" if name is None else f"holds no deployment {name!r}"
    raise OrchError(Kind.INVALID, f"{wanted}: pass name= with one of {', '.join(names)}", where=where)


def _plan(document: Document, engine: Backend) -> DeploymentPlan:
    problems = check_sources(document)
    if problems:
        raise OrchError(Kind.INVALID, problems)
    inventory = engine.inventory()
    devices = [device.name for device in inventory.devices]
    infos = {
        model.name: engine.inspect(str(resolve_source(document, model)), model.shapes, devices)
        for model in document.deployment.spec.models
    }
    cpus, _ = grant_cpus(document.deployment, inventory, None, 0)
    # A lock that fits is used, as by `orch apply`; nothing is measured in the caller's own process.
    found = find(document.deployment, infos, inventory, cpus, None, Policy(locks=read_beside([document])))
    return resolve(
        document.deployment,
        inventory,
        infos,
        fingerprint=fingerprint(inventory),
        decisions=found.decisions,
        notes=found.notes,
    )


class _Bridges:
    """The ways from engine threads into event loops: one for each loop in use, forgotten once it is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, Bridge] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> Bridge:
        """Return the loop's bridge."""
        bridge = self._by_loop.get(loop)
        if bridge is None:
            with self._lock:
                kept = {known: way for known, way in self._by_loop.items() if not known.is_closed()}
                bridge = kept.setdefault(loop, Bridge(loop))
                self._by_loop = kept
        return bridge


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the shapes of a call's inputs mean: its rows, and whether they may share an inference with others'."""

    rows: int
    gathers: bool


class _Coroutine:
    """A coroutine that waits for the result of its call in the line."""

    __slots__ = ("_tell", "answer")

    def __init__(self, answer: asyncio.Future[Result], bridge: Bridge) -> None:
        self.answer = answer
        self._tell = bridge.to_loop(self._told)  # type: ignore[arg-type]

    def wants(self) -> bool:
        """Tell whether it was not cancelled."""
        return not self.answer.cancelled()

    def told(self, result: Result) -> None:
        """Take the result, on any thread."""
        self._tell(result)  # type: ignore[arg-type]

    def ended(self, outcome: Outcome) -> None:
        """Take the outcome of a request of this call alone, on any thread."""
        self._tell(_result(outcome))  # type: ignore[arg-type]

    def _told(self, result: Result) -> None:
        if not self.answer.done():
            self.answer.set_result(result)


class Model:
    """One model of an open deployment. Safe to call from any number of threads and coroutines.

    Calls that are under way together share inferences where the plan or the model's speed has that; alone, a call is
    inferred at once.
    """

    def __init__(self, signature: Signature, pool: Pool, bridges: _Bridges) -> None:
        self.signature = signature
        self._pool = pool
        self._bridges = bridges
        self._line = Gatherer(pool) if pool.inline and pool.batch > 1 else None
        self._inputs = tuple((tensor.name, DTYPES[tensor.datatype]) for tensor in signature.inputs)
        self._datatypes = {tensor.name: tensor.datatype for tensor in signature.inputs}
        self._outputs = tuple(tensor.name for tensor in signature.outputs)
        self._layouts: dict[tuple[tuple[int, ...], ...], _Layout] = {}

    def infer(
        self, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float | None = None, priority: Priority | None = None
    ) -> dict[str, Array]:
        """Return the outputs by name for the inputs by name; waits for its turn in the pool.

        Arrays of the model's dtype are read where they lie: leave them alone until the answer is there. BF16 is taken
        as its bits in uint16, BYTES as bytes. `priority` is critical, default or sheddable, none above the model's own.

        Raise OrchError: INVALID for inputs that do not fit, OVERLOADED when the pool is full, DEADLINE when `timeout_s`
        (or the manifest's) passes before the inference starts or when the inference hangs, UNAVAILABLE once the
        deployment is closed.
        """
        arrays, layout = self._arrays(inputs)
        if self._line is not None and layout.gathers:
            return self._named(self._line.infer(arrays, layout.rows, timeout_s=timeout_s, priority=priority))
        outcomes: list[Outcome] = []
        ended = threading.Lock()  # the cheapest thing that a thread can wait for
        ended.acquire()

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.release()

        ticket = self._enter(arrays, layout, done, timeout_s, priority)
        if not ended.acquire(timeout=self._pool.longest_s):
            self._pool.cancel(ticket)
            raise OrchError(Kind.INTERNAL, "the pool did not answer; please report it", where=self.signature.name)
        return self._named(_result(outcomes[0]))

    def submit(
        self, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float | None = None, priority: Priority | None = None
    ) -> Future[dict[str, Array]]:
        """Return at once with the future of what `infer` returns or raises; for many calls from one thread.

        Of a fast model the calls line up, and are inferred together once they make a batch, or by the first `result`
        that is waited for; with nobody waiting, a millisecond later. What does not fit is raised here.
        """
        arrays, layout = self._arrays(inputs)
        if self._line is not None and layout.gathers:
            return self._line.submit(arrays, layout.rows, self._outputs, timeout_s=timeout_s, priority=priority)
        answer: Future[dict[str, Array]] = Future()
        answer.set_running_or_notify_cancel()  # what is in the pool can be cancelled no more

        def done(outcome: Outcome) -> None:
            try:
                answer.set_result(self._named(_result(outcome)))
            except OrchError as error:
                answer.set_exception(error)

        try:
            self._enter(arrays, layout, done, timeout_s, priority)
        except OrchError as error:
            answer.set_exception(error)
        return answer

    async def ainfer(
        self, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float | None = None, priority: Priority | None = None
    ) -> dict[str, Array]:
        """Do what `infer` does, from a coroutine; cancelling it cancels the work.

        Of a fast model, the calls of one turn of the loop are inferred together, on the loop's thread.
        """
        arrays, layout = self._arrays(inputs)
        loop = asyncio.get_running_loop()
        bridge = self._bridges.of(loop)
        answer: asyncio.Future[Result] = loop.create_future()
        asker = _Coroutine(answer, bridge)
        if self._line is not None and layout.gathers:
            self._line.add(arrays, layout.rows, asker, timeout_s=timeout_s, priority=priority)
            bridge.run_soon(self._line)
            return self._named(await answer)
        ticket = self._enter(arrays, layout, asker.ended, timeout_s, priority, later=True)
        if self._pool.inline:
            bridge.run_soon(self._pool)
        try:
            return self._named(await answer)
        except asyncio.CancelledError:
            self._pool.cancel(ticket)
            raise

    def close(self) -> None:
        """Infer what still stands in the line."""
        if self._line is not None:
            self._line.close()

    def _enter(
        self,
        arrays: Sequence[Array],
        layout: _Layout,
        done: Callable[[Outcome], None],
        timeout_s: float | None,
        priority: Priority | None,
        *,
        later: bool = False,
    ) -> Ticket:
        pool = self._pool
        ticket = pool.admit(nbytes=sum(array.nbytes for array in arrays), timeout_s=timeout_s, priority=priority)
        pool.submit(ticket, arrays, done, rows=layout.rows if pool.batch > 1 else 1, later=later)
        return ticket

    def _arrays(self, inputs: Mapping[str, npt.ArrayLike]) -> tuple[list[Array], _Layout]:
        """Return the inputs in the model's order, and how they lie; raise INVALID with everything that is wrong."""
        arrays: list[Array] = []
        for name, dtype in self._inputs:
            value = inputs.get(name)
            # Most are as they have to be; what this takes is on every call's way.
            if type(value) is not np.ndarray or value.dtype is not dtype or not value.flags.c_contiguous:
                break
            arrays.append(value)
        if len(arrays) != len(inputs) or len(arrays) != len(self._inputs):
            return self._converted(inputs)
        key = tuple([array.shape for array in arrays])
        layout = self._layouts.get(key)
        return arrays, self._remember(
            key, dict(zip(self._datatypes, arrays, strict=True))
        ) if layout is None else layout

    def _converted(self, inputs: Mapping[str, npt.ArrayLike]) -> tuple[list[Array], _Layout]:
        given = {name: _array(name, value, self._datatypes.get(name)) for name, value in inputs.items()}
        if given.keys() != self._datatypes.keys():
            self._plan(given)
        arrays = [given[name] for name in self._datatypes]
        key = tuple([array.shape for array in arrays])
        return arrays, self._layouts.get(key) or self._remember(key, given)

    def _remember(self, key: tuple[tuple[int, ...], ...], given: Mapping[str, Array]) -> _Layout:
        rows = self._plan(given)
        first = {shape[0] if shape else 0 for shape in key}
        gathers = self._line is not None and len(first) == 1 and 1 <= max(first) <= self._pool.batch
        if len(self._layouts) >= LAYOUTS_MAX:
            self._layouts = {}
        layout = self._layouts[key] = _Layout(max(first) if gathers else rows, gathers)
        return layout

    def _plan(self, given: Mapping[str, Array]) -> int:
        heads = tuple(
            InputHead(name, self._datatypes.get(name, "FP32"), array.shape, None, None) for name, array in given.items()
        )
        head = InferHead(None, {}, heads, None, True, None, None)  # True: no output needs a form in JSON
        return plan_inputs(head, self.signature).rows

    def _named(self, result: Result) -> dict[str, Array]:
        if isinstance(result, OrchError):
            raise result
        return dict(zip(self._outputs, result, strict=True))


def _result(outcome: Outcome) -> Result:
    return outcome.outputs if outcome.error is None else outcome.error


def _array(name: str, value: npt.ArrayLike, datatype: str | None) -> Array:
    """Return the value as an array of the datatype (None: of an input that there is not); raise INVALID."""
    if datatype is None:
        return np.asarray(value)
    dtype = DTYPES[datatype]
    array = value if isinstance(value, np.ndarray) else _listed(value, dtype)
    if array.dtype != dtype:
        array = _converted(name, array, datatype)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _listed(value: npt.ArrayLike, dtype: np.dtype[Any]) -> Array:
    """Return an array of a list or number, which has no dtype of its own to respect; only what loses nothing much."""
    array = np.asarray(value)
    whole = array.dtype.kind in "iu" and dtype.kind in "iu"
    if whole and array.size and (array.min() < np.iinfo(dtype).min or array.max() > np.iinfo(dtype).max):
        return array
    return array.astype(dtype) if whole or np.can_cast(array.dtype, dtype, "same_kind") else array


def _converted(name: str, array: Array, datatype: str) -> Array:
    if datatype == "BF16" and array.dtype.name == "bfloat16":  # of the ml_dtypes package
        return array.view(np.uint16)
    if datatype == "BYTES" and array.dtype.kind == "S":
        return array.astype(np.object_)
    text = f"is {array.dtype}, the model takes {datatype} as {DTYPES[datatype]}"
    raise OrchError(Kind.INVALID, text, where=f"input {name!r}")


class Deployment:
    """An open deployment: `deployment["model"].infer(...)`, `deployment.models`, `deployment.status()`."""

    def __init__(self, plan: DeploymentPlan, worker: Worker) -> None:
        self.plan = plan
        self._worker = worker
        self._monitor = Monitor(plan.name, lambda: worker.served)
        self._stopped = threading.Event()
        self._closing = threading.Lock()
        bridges = _Bridges()
        self.models = {name: Model(signature(model), model.pool, bridges) for name, model in worker.served.items()}
        worker.start()
        self._watcher = threading.Thread(target=self._watch, name="orch-monitor", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopped.wait(STEP_S):
            self._monitor.read_host()
            self._monitor.step()

    def __getitem__(self, name: str) -> Model:
        """Return the model of that name; raise OrchError NOT_FOUND."""
        model = self.models.get(name)
        if model is None:
            what = f"no model {name!r}: the deployment has {', '.join(sorted(self.models))}"
            raise OrchError(Kind.NOT_FOUND, what, where=self.plan.name)
        return model

    def status(self) -> list[dict[str, Any]]:
        """Return each model's status as in the `models` of `orch status -o json`."""
        return [self._monitor.model_status(served) for _, served in sorted(self._worker.served.items())]

    def close(self) -> None:
        """Finish what was admitted (30 s at most) and give the models back."""
        with self._closing:
            if self._stopped.is_set():
                return
            self._stopped.set()
        self._watcher.join(timeout=5.0)
        for model in self.models.values():
            model.close()
        self._worker.drain(DRAIN_TIMEOUT_S)
        self._worker.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
