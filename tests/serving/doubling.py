"""A small model that really computes, behind the data plane's calls: each output is twice its input."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import Dim, TensorInfo
from orchestrator.serving.contract import Priority
from orchestrator.serving.oip import Signature
from orchestrator.serving.repository import model_config
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.statistics import counted, model_statistics
from orchestrator.telemetry.recorder import Recorder


def tensor(name: str, datatype: str, *sizes: int | None) -> TensorInfo:
    """Return an input or output; None is a size that may vary."""
    dims = tuple(Dim(low=0 if size is None else size, high=size) for size in sizes)
    return TensorInfo(name=name, datatype=datatype, shape=dims)


def doubler(datatype: str, *sizes: int | None, name: str = "double", max_rows: int = 1) -> Signature:
    """Return a model with input x and output y of this datatype and shape."""
    return Signature(name, "1", (tensor("x", datatype, *sizes),), (tensor("y", datatype, *sizes),), max_rows)


# One model of each datatype, two dynamic dimensions, and one with two inputs.
MODELS = {f"double-{datatype}": doubler(datatype, None, None, name=f"double-{datatype}") for datatype in DTYPES}
PAIR = Signature(
    "pair",
    "1",
    (tensor("left", "FP32", None, 3), tensor("right", "INT64", None)),
    (tensor("left_doubled", "FP32", None, 3), tensor("right_doubled", "INT64", None)),
    1,
)


def double(datatype: str, array: Array) -> Array:
    """Return twice the tensor; BYTES elements are repeated, booleans negated, BF16 doubled as its numbers."""
    if datatype == "BOOL":
        return ~array
    if datatype == "BF16":
        numbers = (array.astype(np.uint32) << 16).view(np.float32) * np.float32(2)
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return array + array


@dataclass(frozen=True)
class Answer:
    """What an inference gave."""

    outputs: tuple[Array, ...]
    queue_s: float = 0.001
    service_s: float = 0.002


@dataclass
class DoublingPlane:
    """Fulfils the front ends' Plane; `refusal` is raised by admit, and models named in `hanging` wait for `go`."""

    models: dict[str, Signature] = field(default_factory=lambda: {**MODELS, "pair": PAIR})
    refusal: OrchError | None = None
    no_room: OrchError | None = None
    """What is told before a request's message is read."""
    coming: list[int] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    held: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    timeouts: list[float | None] = field(default_factory=list)
    priorities: list[Priority | None] = field(default_factory=list)
    regions: Regions = field(default_factory=Regions)

    def live(self) -> bool:
        """Tell that it lives."""
        return True

    def ready(self) -> bool:
        """Tell that all models answer."""
        return True

    def model_ready(self, name: str, version: str | None) -> bool:
        """Tell that the model answers."""
        return self.signature(name, version) is not None

    def signature(self, name: str, version: str | None) -> Signature:
        """Return the model's signature."""
        if name not in self.models or version not in {None, "1"}:
            raise OrchError(Kind.NOT_FOUND, f"unknown model {name!r} version {version!r}")
        return self.models[name]

    def index(self) -> list[dict[str, str]]:
        """Return all models."""
        return [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in sorted(self.models)]

    def config(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the configuration of a model with one infer request."""
        return model_config(self.signature(name, version), 1)

    def statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]:
        """Return the statistics of models that have served nothing."""
        names = sorted(self.models) if name is None else [self.signature(name, version).name]
        return [model_statistics(each, "1", counted(Recorder(0.0)), 0) for each in names]

    def admit(
        self,
        name: str,
        version: str | None,
        *,
        nbytes: int,
        timeout_s: float | None = None,
        priority: Priority | None = None,
    ) -> Signature:
        """Take a place."""
        self.timeouts.append(timeout_s)
        self.priorities.append(priority)
        if self.refusal is not None:
            raise self.refusal
        signature = self.signature(name, version)
        self.held += 1
        return signature

    def full(self, coming: int, timeout_s: float | None = None) -> OrchError | None:
        """Tell whether there is room."""
        self.coming.append(coming)
        return self.no_room

    def release(self, admission: Signature) -> None:
        """Give the place back."""
        self.held -= 1

    def enlarge(self, admission: Signature, nbytes: int) -> None:
        """Count tensors from shared memory, of which any number is taken."""

    async def infer(self, admission: Signature, rows: int, arrays: Sequence[Array]) -> Answer:
        """Double the inputs."""
        self.started.set()
        try:
            if admission.name in self.hanging:
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.held -= 1
        pairs = zip(admission.inputs, arrays, strict=True)
        return Answer(tuple(double(info.datatype, array) for info, array in pairs))
