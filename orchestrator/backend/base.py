"""What the rest of orch needs of an inference engine: Protocols that OpenVINO and the simulated device both fulfil."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.backend import datatypes
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo, TensorInfo

Array = datatypes.Array
DTYPES = datatypes.DTYPES


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """Everything that decides a compiled model.

    `shapes` are new input shapes by input name (ints, -1, or `1..512`); `batch` > 1 reshapes axis 0 of every input to
    that many rows. `properties` are OpenVINO's keys with string values; `device_properties` by device under AUTO.
    Files of another SHA-256 than `sha256` and `weights_sha256` (the .bin of IR) are refused; None: whatever is there.
    """

    path: str
    device: str
    properties: Mapping[str, str] = field(default_factory=dict)
    device_properties: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    batch: int = 1
    sha256: str | None = None
    weights_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Actual:
    """What was read back from a compiled model, normalised to strings and ints (rule 33)."""

    properties: Mapping[str, str]
    execution_devices: tuple[str, ...]
    optimal_requests: int
    streams: int | None
    threads: int | None


class InferRequest(Protocol):
    """One infer request. Its owner starts it again only after its callback has returned."""

    def start(self, inputs: Sequence[Array]) -> None:
        """Start the inference on these arrays (one for each input, in order); their memory is read where it is.

        The request keeps them alive until the next start. Raise OrchError when the engine refuses them.
        """

    def infer(self, inputs: Sequence[Array]) -> None:
        """Infer on these arrays on the caller's thread, without a callback; raise OrchError when it fails."""

    def outputs(self) -> tuple[Array, ...]:
        """Return copies of the outputs; call in the callback, before the request is started again."""

    def failure(self) -> BaseException | None:
        """Return the error of an inference that ended without its callback, None while it runs or when it ended well.

        OpenVINO's Python binding does not call the callback of an inference that failed; the pool asks for it.
        """

    def cancel(self) -> None:
        """Ask the engine to give up the inference; it may go on to its end."""


class CompiledModel(Protocol):
    """A model compiled for a device."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Return the inputs as compiled (after reshape and batch)."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Return the outputs as compiled."""

    def create_request(self, done: Callable[[], None]) -> InferRequest:
        """Return a new infer request that calls `done` on an engine thread at the end of each good inference.

        `done` must not raise; the backend guards against it all the same (trap 18).
        """

    def actual(self) -> Actual:
        """Read the properties back; under AUTO wait (bounded) until the start-up helper is gone (trap 1)."""

    def close(self) -> None:
        """Give back memory and cores; no request may be in flight."""


class Backend(Protocol):
    """An inference engine."""

    def inventory(self) -> Inventory:
        """Return what this machine has, as the engine and the host say."""

    def inspect(self, path: str, shapes: Mapping[str, Sequence[int | str]], devices: Sequence[str]) -> ModelInfo:
        """Read a model file without compiling it; ask `devices` for their batch sizes. Raise OrchError."""

    def compile(self, request: CompileRequest) -> CompiledModel:
        """Compile; raise OrchError with the engine's reason."""
