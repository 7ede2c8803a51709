"""A worker changes its pools as planned: all or nothing, in place where it can, beside the old where it must."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from orchestrator.backend.simulated import Faults, SimulatedBackend, SimulatedCompiledModel
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.runner.pool import PROBE_EVERY_S, Outcome, Pool
from orchestrator.runner.trial import TrialLimits
from orchestrator.runner.worker import ServedModel, Worker, settings
from tests.builders import a_model, a_model_info, a_plan, a_tensor, an_inventory

WAIT_S = 30.0
INFO = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))


def plan_of(*names: str, **over: Mapping[str, Any]) -> DeploymentPlan:
    """Return the plan of models of these names; `over` overrides fields of one."""
    models = [a_model(name, **({"compile": {"streams": 1, "threads": 1}} | over.get(name, {}))) for name in names]
    return a_plan(*models, info=INFO, inventory=an_inventory(cpus=8))


class Tracked(SimulatedBackend):
    """Fails to compile, or to infer, the models that it is told to."""

    def __init__(self, **options: Any) -> None:
        models = {f"/models/{name}.onnx": INFO for name in "abc"}
        super().__init__(an_inventory(), models, service_s=0.001, **options)  # too slow to be inferred inline
        self.fails_to_compile: set[str] = set()
        self.fails_to_infer: set[str] = set()
        self.compiling = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def compile(self, request: Any) -> SimulatedCompiledModel:
        self.compiling.set()
        assert self.gate.wait(WAIT_S)
        name = request.path.removeprefix("/models/").removesuffix(".onnx")
        if name in self.fails_to_compile:
            raise OrchError(Kind.FAILED, "no such operation", where=request.path)
        self.faults = Faults(device_lost_at=0) if name in self.fails_to_infer else Faults()
        return super().compile(request)

    @property
    def open(self) -> int:
        return sum(not model.closed.is_set() for model in self.compiled)


class Heard:
    """Collects progress."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.messages: list[str] = []

    def __call__(self, model: str, phase: str, message: str) -> None:
        self.lines.append((model, phase))
        self.messages.append(message)


def quiet(_model: str, _phase: str, _message: str) -> None:
    pass


def pools(worker: Worker) -> dict[str, Pool]:
    return {name: served.pool for name, served in worker.served.items()}


def infer(pool: Pool) -> Outcome:
    outcomes, ended = [], threading.Event()

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        ended.set()

    pool.submit(pool.admit(), [np.ones((1, 4), np.float32)], done)
    assert ended.wait(WAIT_S)
    return outcomes[0]


@pytest.fixture
def engine() -> Tracked:
    return Tracked()


@pytest.fixture
def worker(engine: Tracked) -> Any:
    worker = Worker(engine, limits=TrialLimits(seconds=0))  # tests/runner/test_trying.py is about trials
    yield worker
    worker.close()
    assert engine.open == 0


def test_a_first_plan_is_compiled_checked_and_served(worker: Worker, engine: Tracked) -> None:
    heard, swaps = Heard(), []
    worker._on_change = swaps.append
    changes = worker.apply(plan_of("a"), heard)
    assert [(change.model, change.action) for change in changes] == [("a", "create")]
    assert heard.lines == [("a", "compiling"), ("a", "checking"), ("a", "created")]
    assert infer(worker.served["a"].pool).error is None
    assert worker.served["a"].checked.inferences >= 10
    assert swaps == [worker.served]


def test_the_same_plan_again_touches_nothing(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a", "b"), quiet)
    before, heard = dict(worker.served), Heard()
    changes = worker.apply(plan_of("a", "b"), heard)
    assert [change.action for change in changes] == ["unchanged"] * 2
    assert heard.lines == []
    assert all(worker.served[name] is served for name, served in before.items())
    assert len(engine.compiled) == 2


def test_a_new_queue_slo_and_version_are_taken_over_in_place(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a"), quiet)
    pool, heard = worker.served["a"].pool, Heard()
    waiting = pool.admit()
    changed = {"queue": {"limit": 7, "timeout": "9s"}, "slo": {"latency": "80ms", "percentile": 95}, "version": "2"}
    worker.apply(plan_of("a", a=changed), heard)
    assert heard.lines == [("a", "updated")]
    assert worker.served["a"].pool is pool
    assert len(engine.compiled) == 1
    snapshot = pool.snapshot()
    assert (snapshot.queue_limit, snapshot.slo_latency_s, snapshot.version) == (7, 0.08, "2")
    assert pool.settings == settings(worker.served["a"].plan)
    pool.cancel(waiting)


def test_a_replaced_model_is_swapped_first_and_its_old_pool_drained(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a", "b"), quiet)
    old, other, heard = worker.served["a"].pool, worker.served["b"].pool, Heard()
    receiving = old.admit()  # its body is still on the way
    swapped, outcomes = threading.Event(), []

    def on_change(_served: Mapping[str, ServedModel]) -> None:
        swapped.set()

    worker._on_change = on_change
    replace = {"compile": {"streams": 2, "threads": 2}}
    applying = threading.Thread(target=worker.apply, args=(plan_of("a", "b", a=replace), heard))
    applying.start()
    assert swapped.wait(WAIT_S)
    new = worker.served["a"].pool
    assert new is not old
    assert worker.served["b"].pool is other
    assert infer(new).error is None  # while the old one drains
    old.submit(receiving, [np.ones((1, 4), np.float32)], outcomes.append)
    applying.join(WAIT_S)
    assert [outcome.error for outcome in outcomes] == [None]
    assert engine.open == 2
    assert heard.lines == [("a", phase) for phase in ("compiling", "checking", "replaced", "draining")]
    with pytest.raises(OrchError) as caught:
        old.admit()
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_model_that_is_no_longer_named_is_drained_and_closed(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a", "b"), quiet)
    heard = Heard()
    worker.apply(plan_of("a"), heard)
    assert set(worker.served) == {"a"}
    assert heard.lines == [("b", "deleted"), ("b", "draining")]
    assert engine.open == 1


@pytest.mark.parametrize("how", ["compile", "infer"])
def test_one_failing_model_among_three_leaves_everything_as_it_was(worker: Worker, engine: Tracked, how: str) -> None:
    first = plan_of("a", "b")
    worker.apply(first, quiet)
    before, heard = dict(worker.served), Heard()
    (engine.fails_to_compile if how == "compile" else engine.fails_to_infer).add("b")
    other = {"compile": {"streams": 2, "threads": 2}}
    with pytest.raises(OrchError) as caught:
        worker.apply(plan_of("a", "b", "c", a=other, b=other), heard)
    assert caught.value.kind is Kind.FAILED
    assert ("no such operation" if how == "compile" else "is gone") in str(caught.value)
    assert ("b", "failed") in heard.lines
    assert worker.served == before
    assert worker.plan == first
    assert engine.open == 2  # what was built of a and c is closed again
    assert [infer(served.pool).error for served in before.values()] == [None, None]
    engine.fails_to_compile.clear(), engine.fails_to_infer.clear()
    worker.apply(plan_of("a", "b", "c", a=other, b=other), quiet)
    assert set(worker.served) == {"a", "b", "c"}


def test_every_failing_model_is_named_at_once(worker: Worker, engine: Tracked) -> None:
    engine.fails_to_compile |= {"a", "c"}
    with pytest.raises(OrchError) as caught:
        worker.apply(plan_of("a", "b", "c"), quiet)
    assert [problem.where for problem in caught.value.problems] == ["/models/a.onnx", "/models/c.onnx"]
    assert engine.open == 0


def test_a_bug_while_building_leaves_nothing_open(worker: Worker, engine: Tracked) -> None:
    class OurBugError(Exception):
        pass

    def broken() -> None:
        raise OurBugError

    real = Tracked.compile

    def compile_badly(request: Any) -> SimulatedCompiledModel:
        model = real(engine, request)
        if request.path.endswith("b.onnx"):
            model.actual = broken  # type: ignore[method-assign, assignment]
        return model

    engine.compile = compile_badly  # type: ignore[method-assign]
    with pytest.raises(OurBugError):
        worker.apply(plan_of("a", "b"), quiet)
    assert engine.open == 0
    assert worker.served == {}


def test_who_listens_to_the_progress_cannot_stop_a_change_half_way(worker: Worker, engine: Tracked) -> None:
    def gone(_model: str, _phase: str, _message: str) -> None:
        raise RuntimeError("the loop is closed")

    worker.apply(plan_of("a", "b"), gone)
    worker.apply(plan_of("b"), gone)
    assert set(worker.served) == {"b"}
    assert engine.open == 1


def test_two_applies_go_one_after_the_other(worker: Worker, engine: Tracked) -> None:
    engine.gate.clear()
    first = threading.Thread(target=worker.apply, args=(plan_of("a"), quiet))
    first.start()
    assert engine.compiling.wait(WAIT_S)
    second = threading.Thread(target=worker.apply, args=(plan_of("b"), quiet))
    second.start()
    assert worker.served == {}
    engine.gate.set()
    first.join(WAIT_S), second.join(WAIT_S)
    assert set(worker.served) == {"b"}
    assert engine.open == 1


def test_a_worker_that_closes_during_an_apply_leaves_nothing_open(engine: Tracked) -> None:
    worker, failures = Worker(engine), []
    engine.gate.clear()

    def apply() -> None:
        try:
            worker.apply(plan_of("a"), quiet)
        except OrchError as error:
            failures.append(error.kind)

    applying = threading.Thread(target=apply)
    applying.start()
    assert engine.compiling.wait(WAIT_S)
    worker.close()
    engine.gate.set()
    applying.join(WAIT_S)
    assert failures == [Kind.UNAVAILABLE]
    assert (worker.served, engine.open) == ({}, 0)


def test_draining_refuses_everywhere_at_once(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a", "b"), quiet)
    held = worker.served["a"].pool.admit()
    assert not worker.drain(0.0)
    for pool in pools(worker).values():
        with pytest.raises(OrchError):
            pool.admit()
    worker.served["a"].pool.cancel(held)
    assert worker.drain(WAIT_S)


def test_the_clockwork_goes_on_when_one_pool_has_a_bug(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.apply(plan_of("a", "b"), quiet)
    ticked = threading.Event()

    def bug() -> None:
        raise ZeroDivisionError("in a tick")

    worker.served["a"].pool.tick = bug  # type: ignore[method-assign]
    worker.served["b"].pool.tick = ticked.set  # type: ignore[method-assign]
    worker.start()
    assert ticked.wait(WAIT_S)
    ticked.clear()
    assert ticked.wait(WAIT_S)
    assert "in a tick" in caplog.text
    del worker.served["a"].pool.tick, worker.served["b"].pool.tick


def test_the_clockwork_probes_idle_pools_and_finds_a_lost_device(worker: Worker, engine: Tracked) -> None:
    worker.apply(plan_of("a"), quiet)
    pool, model = worker.served["a"].pool, engine.compiled[0]
    engine.fails_to_compile.add("a")  # nor can it be built anew
    model._faults = Faults(device_lost_at=0)
    clock, ahead = pool._clock, PROBE_EVERY_S + 1
    pool._clock = lambda: clock() + ahead
    assert pool.healthy
    worker.start()
    stop = threading.Event()
    for _ in range(600):
        if not pool.healthy:
            break
        stop.wait(0.05)
    assert not pool.healthy
    model._faults = Faults()
    ahead *= 2
    for _ in range(600):
        if pool.healthy:
            break
        stop.wait(0.05)
    assert pool.healthy
    assert pool.snapshot().totals.accepted == 0
