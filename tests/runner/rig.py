"""A pool over a simulated device that a test steers: a clock that it moves, inferences that it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.backend.base import Actual, Array, CompileRequest
from orchestrator.backend.simulated import Faults, SimulatedBackend, SimulatedCompiledModel, SimulatedRequest
from orchestrator.errors import Kind
from orchestrator.inventory.model import ModelInfo, TensorInfo
from orchestrator.runner.pool import Outcome, Pool, PoolSettings
from orchestrator.scheduling.scheduler import Ticket
from tests.builders import a_model_info, a_tensor, an_inventory

MODEL = a_model_info(path="m.xml", inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
TIMEOUT_S = 1.0


def double(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(array * 2 for array in inputs)


def row(value: float, rows: int = 1) -> Array:
    return np.full((rows, 4), value, np.float32)


def backend(faults: Faults | None = None, *, info: ModelInfo = MODEL, **options: Any) -> SimulatedBackend:
    options.setdefault("compute", double)
    return SimulatedBackend(an_inventory(), {info.path: info}, faults=faults, **options)


@dataclass
class Clock:
    """Stands still until it is moved."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stubborn:
    """A compiled model whose inferences cannot be given up, as on a device whose driver hangs."""

    inner: SimulatedCompiledModel
    closed: bool = False

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.inner.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self.inner.outputs

    def create_request(self, done: Callable[[], None]) -> StubbornRequest:
        return StubbornRequest(self.inner, done)

    def actual(self) -> Actual:
        return self.inner.actual()

    def close(self) -> None:
        self.closed = True


class StubbornRequest(SimulatedRequest):
    """Does not hear `cancel`."""

    def cancel(self) -> None:
        """Do nothing."""


@dataclass
class Caller:
    """One request: how often it was answered, and with what."""

    ticket: Ticket
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        assert len(self.outcomes) == 1, f"answered {len(self.outcomes)} times"
        return self.outcomes[0]

    @property
    def value(self) -> float:
        """The answer, where it is one number throughout."""
        assert self.outcome.error is None, self.outcome.error
        (output,) = self.outcome.outputs
        assert (output == output.flat[0]).all(), output
        return float(output.flat[0])

    @property
    def kind(self) -> Kind | None:
        return None if self.outcome.error is None else self.outcome.error.kind


class Rig:
    """A started pool with `slots` inferences at a time; nothing ends unless `complete` or `fail` says so."""

    def __init__(
        self,
        slots: int = 1,
        *,
        batch: int = 1,
        faults: Faults | None = None,
        stubborn: bool = False,
        probe: bool = False,
        service_s: float | None = None,
        info: ModelInfo = MODEL,
        compute: Callable[[tuple[Array, ...]], tuple[Array, ...]] = double,
        **settings: Any,
    ) -> None:
        self.clock = Clock()
        engine = backend(faults, info=info, manual=True, compute=compute)
        self.engine = engine.compile(CompileRequest(info.path, "CPU", batch=batch))
        self.model = Stubborn(self.engine) if stubborn else self.engine
        self.settings = PoolSettings(**({"timeout_s": TIMEOUT_S, "queue_limit": 16, "memory_bytes": 2**20} | settings))
        self.pool = Pool(
            "m",
            self.model,
            self.settings,
            requests=slots,
            batch=batch,
            service_s=service_s,
            probe=(row(0, batch),) if probe else None,
            clock=self.clock,
        )
        self.pool.start()

    def submit(self, value: float = 1.0, *, rows: int = 1, timeout_s: float | None = None) -> Caller:
        return self.send([row(value, rows)], rows=rows, timeout_s=timeout_s)

    def send(self, arrays: Sequence[Array], *, rows: int = 1, timeout_s: float | None = None) -> Caller:
        caller = Caller(self.pool.admit(nbytes=sum(array.nbytes for array in arrays), timeout_s=timeout_s))
        self.pool.submit(caller.ticket, arrays, caller.outcomes.append, rows=rows)
        return caller

    def complete(self, count: int = 1) -> None:
        """End the oldest inferences well."""
        for _ in range(count):
            self.engine.running()[0].complete()

    def fail(self, what: str = "device lost") -> None:
        """End the oldest inference without its callback, and let the pool find out."""
        self.engine.running()[0].fail(RuntimeError(what))
        self.pool.tick()

    def wait(self, seconds: float) -> None:
        """Let time pass, then tick."""
        self.clock.now += seconds
        self.pool.tick()

    @property
    def totals(self) -> dict[str, int]:
        """Return the counts that are not zero."""
        totals = self.pool.snapshot().totals
        names = ("accepted", "rejected", "completed", "expired", "cancelled", "failed")
        return {name: getattr(totals, name) for name in names if getattr(totals, name)}
