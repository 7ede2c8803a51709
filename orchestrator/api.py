"""The planned pools inside the caller's own process, without sockets: `orchestrator.open("deployment.yaml")`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
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
from orchestrator.planner.resolve import resolve
from orchestrator.runner.pool import Outcome
from orchestrator.runner.worker import Worker
from orchestrator.serving.dataplane import DataPlane, Served
from orchestrator.serving.monitor import STEP_S, Monitor
from orchestrator.serving.oip import InferHead, InputHead, Signature, plan_inputs
from orchestrator.serving.process import signature

DRAIN_TIMEOUT_S = 30.0


def open(path: str | Path, *, name: str | None = None, backend: Backend | None = None) -> Deployment:  # noqa: A001
    """Plan the manifest's deployment on this machine, compile its models and return them ready.

    `name` picks one where the file holds several. Raise OrchError for whatever is wrong with manifest, machine or
    model. Close the deployment, or use it as a context manager.
    """
    engine = backend or OpenVinoBackend()
    document = _pick(load([str(path)]).documents, name, str(path))
    worker = Worker(engine)
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
    return resolve(document.deployment, inventory, infos, fingerprint=fingerprint(inventory))


class Model:
    """One model of an open deployment. Safe to call from any number of threads and coroutines."""

    def __init__(self, signature: Signature, plane: _Lookup) -> None:
        self.signature = signature
        self._plane = plane

    def infer(self, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float | None = None) -> dict[str, Array]:
        """Return the outputs by name for the inputs by name; waits for its turn in the pool.

        Arrays of the model's dtype are read where they lie. Raise OrchError: INVALID for inputs that do not fit,
        OVERLOADED when the pool is full, DEADLINE when `timeout_s` (or the manifest's) passes first.
        """
        ended = threading.Event()
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        arrays, rows = self._arrays(inputs)
        served = self._plane(self.signature.name)
        pool = served.pool
        ticket = pool.admit(nbytes=sum(array.nbytes for array in arrays), timeout_s=timeout_s)
        pool.submit(ticket, arrays, done, rows=rows if pool.batch > 1 else 1)
        ended.wait()  # bounded: the pool answers every request by its deadline
        return self._named(outcomes[0])

    async def ainfer(self, inputs: Mapping[str, npt.ArrayLike], *, timeout_s: float | None = None) -> dict[str, Array]:
        """Do what `infer` does, from a coroutine; cancelling it cancels the work."""
        arrays, rows = self._arrays(inputs)
        plane = DataPlane(asyncio.get_running_loop())
        plane.served = {self.signature.name: self._plane(self.signature.name)}
        nbytes = sum(array.nbytes for array in arrays)
        admission = plane.admit(self.signature.name, None, nbytes=nbytes, timeout_s=timeout_s)
        return self._named(await plane.infer(admission, rows, arrays))

    def _arrays(self, inputs: Mapping[str, npt.ArrayLike]) -> tuple[list[Array], int]:
        wanted = {tensor.name: DTYPES[tensor.datatype] for tensor in self.signature.inputs}
        given = {name: _array(name, value, wanted.get(name)) for name, value in inputs.items()}
        datatypes = {tensor.name: tensor.datatype for tensor in self.signature.inputs}
        heads = tuple(
            InputHead(name, datatypes.get(name, "FP32"), array.shape, None, None) for name, array in given.items()
        )
        layout = plan_inputs(InferHead(None, {}, heads, None, False, None, None), self.signature)
        return [given[tensor.name] for tensor in self.signature.inputs], layout.rows

    def _named(self, outcome: Outcome) -> dict[str, Array]:
        if outcome.error is not None:
            raise outcome.error
        names = (tensor.name for tensor in self.signature.outputs)
        return dict(zip(names, outcome.outputs, strict=True))


def _array(name: str, value: npt.ArrayLike, dtype: np.dtype[Any] | None) -> Array:
    array = np.asarray(value)
    if dtype is not None and array.dtype != dtype:
        if not isinstance(value, np.ndarray) and np.can_cast(array.dtype, dtype, "same_kind"):
            array = array.astype(dtype)  # a list has no dtype of its own to respect
        else:
            raise OrchError(Kind.INVALID, f"is {array.dtype}, the model takes {dtype}", where=f"input {name!r}")
    return np.ascontiguousarray(array) if array.ndim else array


class _Lookup:
    """Finds a model's present pool."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self._served = served

    def __call__(self, name: str) -> Served:
        return self._served[name]


class Deployment:
    """An open deployment: `deployment["model"].infer(...)`, `deployment.models`, `deployment.status()`."""

    def __init__(self, plan: DeploymentPlan, worker: Worker) -> None:
        self.plan = plan
        self._worker = worker
        self._monitor = Monitor(plan.name, lambda: worker.served)
        self._stopped = threading.Event()
        served = {name: Served(signature(model), model.pool) for name, model in worker.served.items()}
        lookup = _Lookup(served)
        self.models = {name: Model(model.signature, lookup) for name, model in served.items()}
        worker.start()
        self._watcher = threading.Thread(target=self._watch, name="orch-monitor", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._stopped.wait(STEP_S):
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
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._watcher.join(timeout=5.0)
        self._worker.drain(DRAIN_TIMEOUT_S)
        self._worker.close()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
