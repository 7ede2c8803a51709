"""A pool that fails or hangs is built anew, at once and then later and later, and what serves is never the worse."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.backend.base import CompileRequest
from orchestrator.backend.simulated import Faults, SimulatedBackend, SimulatedRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.runner.pool import FAILED_MAX, OVERDUE_MIN_S, Outcome, Pool
from orchestrator.runner.repair import DELAY_MAX_S, FORGET_S, LEFT_MAX, Course
from orchestrator.runner.worker import Worker
from tests.builders import a_model, a_model_info, a_plan, a_tensor, an_inventory
from tests.runner.rig import Stubborn

WAIT_S = 30.0
INFO = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
PLAN = a_plan(a_model("a", compile={"streams": 1, "threads": 1}), info=INFO, inventory=an_inventory())

# When


def test_the_first_try_comes_at_once_and_each_next_one_after_twice_the_time() -> None:
    course, now, delays = Course(), 1000.0, []
    for _ in range(9):
        assert course.due(now)
        course = course.tried(now, "no such device")
        delays.append(course.delay_s)
        assert not course.due(now + course.delay_s - 0.01)
        now += course.delay_s
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(delays) == DELAY_MAX_S


def test_a_pool_that_was_well_for_a_while_is_built_at_once_again() -> None:
    course = replace(Course(), tries=5, last=100.0, rebuilt=2)
    assert course.forgiven(100.0 + FORGET_S - 1) == course
    fresh = course.forgiven(100.0 + FORGET_S)
    assert (fresh.delay_s, fresh.rebuilt) == (0.0, 2)


def test_pools_whose_inferences_never_end_are_left_behind_a_few_times_only() -> None:
    course = Course()
    for _ in range(LEFT_MAX):
        assert course.due(1e6)
        course = course.tried(0.0, None, hung=True)
    assert not course.due(1e9)
    assert "end the worker" in course.said(0.0)


def test_what_is_said_names_the_error_and_the_wait() -> None:
    assert Course().said(0.0) == "it is built anew"
    said = Course(tries=1).tried(100.0, "no such device").said(100.5)
    assert said == "building it anew failed, the next try is in 2 s: no such device"


# In a worker


class Engine(SimulatedBackend):
    """Compiles as told: a model that hears no cancel, or the error that stands there."""

    def __init__(self) -> None:
        super().__init__(an_inventory(), {"/models/a.onnx": INFO}, service_s=0.001)
        self.error: str | None = None
        self.stubborn = False

    def compile(self, request: CompileRequest) -> Any:
        self.faults = Faults(compile_error=self.error)
        model = super().compile(request)
        return Stubborn(model) if self.stubborn else model


class Heard:
    """What a worker tells of its repairs."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.told = threading.Condition()

    def __call__(self, _model: str, phase: str, _message: str) -> None:
        with self.told:
            self.phases.append(phase)
            self.told.notify_all()

    def until(self, phase: str) -> None:
        with self.told:
            assert self.told.wait_for(lambda: phase in self.phases, WAIT_S), self.phases


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def worker(engine: Engine, heard: Heard) -> Iterator[Worker]:
    worker = Worker(engine, on_repair=heard)
    worker.apply(PLAN, lambda *_: None)
    worker.start()
    try:
        yield worker
    finally:
        worker.close()
        for model in engine.compiled:
            for request in model.running():  # what does not hear its pool
                SimulatedRequest.cancel(request)
            model.close()


def infer(pool: Pool) -> Outcome:
    outcomes: list[Outcome] = []
    ended = threading.Event()

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        ended.set()

    pool.submit(pool.admit(), [np.ones((1, 4), np.float32)], done)
    assert ended.wait(WAIT_S)
    return outcomes[0]


def fails(worker: Worker, engine: Engine) -> Pool:
    """Let the pool's device go, so that it fails, and return the pool."""
    pool = worker.served["a"].pool
    engine.compiled[-1]._faults = Faults(device_lost_at=0)
    for _ in range(FAILED_MAX):
        assert infer(pool).error is not None
    return pool


def test_a_pool_that_fails_again_and_again_is_replaced_by_one_that_was_checked(
    worker: Worker, engine: Engine, heard: Heard
) -> None:
    bad = fails(worker, engine)
    heard.until("rebuilt")
    assert heard.phases == ["rebuilding", "compiling", "checking", "draining", "rebuilt"]
    assert worker.served["a"].pool is not bad
    assert infer(worker.served["a"].pool).error is None
    assert [model.closed.is_set() for model in engine.compiled] == [True, False]
    assert worker.repairs.course("a").rebuilt == 1


def test_one_that_cannot_be_built_leaves_the_old_pool_which_may_recover(
    worker: Worker, engine: Engine, heard: Heard
) -> None:
    engine.error = "no such device"
    bad = fails(worker, engine)
    heard.until("rebuild-failed")
    assert worker.served["a"].pool is bad
    assert "no such device" in worker.repairs.said("a")
    engine.compiled[0]._faults = Faults()
    assert infer(bad).error is None
    assert bad.healthy


def moved(pool: Pool, seconds: float) -> None:
    clock: Callable[[], float] = pool._clock
    pool._clock = lambda: clock() + seconds


def test_a_pool_whose_inferences_hang_is_replaced_and_its_caller_is_told(
    worker: Worker, engine: Engine, heard: Heard
) -> None:
    engine.stubborn = True
    changed = PLAN.models[0].model_copy(update={"version": "2", "sha256": "other"})
    worker.apply(PLAN.model_copy(update={"models": (changed,)}), lambda *_: None)
    engine.stubborn = False
    pool = worker.served["a"].pool
    engine.compiled[-1]._faults = Faults(hang=frozenset(range(1000)))
    outcomes: list[Outcome] = []
    pool.submit(pool.admit(), [np.ones((1, 4), np.float32)], outcomes.append)
    moved(pool, OVERDUE_MIN_S + pool.settings.timeout_s + 1)
    heard.until("rebuilt")
    (outcome,) = outcomes
    assert outcome.error is not None
    assert outcome.error.kind is Kind.DEADLINE
    assert infer(worker.served["a"].pool).error is None
    assert worker.repairs.course("a").left == 1


def test_a_worker_that_was_told_not_to_leaves_bad_pools_to_its_owner(engine: Engine) -> None:
    worker = Worker(engine, repairs=False)
    worker.apply(PLAN, lambda *_: None)
    worker.start()
    try:
        bad = fails(worker, engine)
        tick, ticked = bad.tick, threading.Semaphore(0)
        bad.tick = lambda: (tick(), ticked.release())[0]  # type: ignore[method-assign, func-returns-value]
        assert all(ticked.acquire(timeout=WAIT_S) for _ in range(3))
        assert (worker.served["a"].pool is bad, worker.repairs.under_way) == (True, False)
    finally:
        worker.close()


def test_a_worker_that_closes_meanwhile_leaves_nothing_open(worker: Worker, engine: Engine, heard: Heard) -> None:
    fails(worker, engine)
    heard.until("checking")
    worker.close()
    assert not worker.repairs.under_way
    assert all(model.closed.is_set() for model in engine.compiled)
    with pytest.raises(OrchError):
        worker.apply(PLAN, lambda *_: None)
