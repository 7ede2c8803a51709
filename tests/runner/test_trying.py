"""A worker tries changes under load: what holds its SLO stays, all else gives the old pool its place back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from orchestrator.backend.base import Array
from orchestrator.backend.simulated import SimulatedBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.runner.pool import Outcome
from orchestrator.runner.trial import TrialLimits
from orchestrator.runner.worker import Worker, settings
from tests.builders import a_model, a_model_info, a_plan, a_tensor, an_inventory

WAIT_S = 30.0
PAUSE_S = 0.005  # of a caller between two requests
INFO = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
LIMITS = TrialLimits(seconds=0.2, longest_s=1.0, answers=10, settle_s=0.2)
SLO = {"latency": "50ms", "percentile": 95}
EASY = {"latency": "900ms", "percentile": 95}  # whatever else the machine does
QUICK_S, LATE_S = 0.001, 0.08
CHECKED = 60  # no check infers more often


def plan_of(*names: str, streams: int = 1, slo: dict[str, Any] | None = SLO) -> DeploymentPlan:
    """Return the plan of models of these names; other `streams` need other pools."""
    compiled = {"streams": streams, "threads": streams}
    models = [a_model(name, compile=compiled, **({"slo": slo} if slo else {})) for name in names]
    return a_plan(*models, info=INFO, inventory=an_inventory(cpus=8))


def slow_once_it_serves(number: int) -> float:
    """Take longer than the SLO after the check."""
    return QUICK_S if number < CHECKED else LATE_S


class Callers:
    """Ask a worker's model again and again, as the data plane does, and keep what was not answered."""

    def __init__(self, worker: Worker, name: str = "a", count: int = 4) -> None:
        self.worker, self.name = worker, name
        self.failures: list[OrchError] = []
        self.answered = threading.Semaphore(0)
        self.stop = threading.Event()
        self.value = 1.0
        self.threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self.threads:
            thread.start()
        for _ in range(20):
            assert self.answered.acquire(timeout=WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(WAIT_S)

    def _call(self) -> None:
        while not self.stop.wait(PAUSE_S):
            outcome = self._once()
            if outcome.error is not None:
                self.failures.append(outcome.error)
            else:
                self.answered.release()

    def _once(self) -> Outcome:
        outcomes: list[Outcome] = []
        ended = threading.Event()

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            ended.set()

        while True:
            pool = self.worker.served[self.name].pool
            try:
                ticket = pool.admit()
                break
            except OrchError as error:
                if pool is self.worker.served[self.name].pool:
                    return Outcome(error=error)
        pool.submit(ticket, [np.full((1, 4), self.value, np.float32)], done)
        assert ended.wait(WAIT_S)
        return outcomes[0]

    @property
    def failed(self) -> list[OrchError]:
        """What went wrong; to be refused by a pool that cannot keep up is no failure."""
        return [error for error in self.failures if error.kind is not Kind.OVERLOADED]


class Heard:
    """Collects progress, and calls back at one phase."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.at: dict[str, Any] = {}

    def __call__(self, model: str, phase: str, message: str) -> None:
        self.lines.append((model, phase, message))
        self.at.get(phase, lambda: None)()

    @property
    def phases(self) -> list[str]:
        return [phase for _, phase, _ in self.lines]


@pytest.fixture
def engine() -> SimulatedBackend:
    return SimulatedBackend(an_inventory(), {f"/models/{name}.onnx": INFO for name in "ab"}, service_s=QUICK_S)


@pytest.fixture
def worker(engine: SimulatedBackend) -> Iterator[Worker]:
    worker = Worker(engine, limits=LIMITS)
    worker.start()
    yield worker
    worker.close()
    assert [model for model in engine.compiled if not model.closed.is_set()] == []


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_a_change_that_holds_its_slo_under_load_stays(worker: Worker, heard: Heard) -> None:
    worker.apply(plan_of("a", slo=EASY), heard)
    old = worker.served["a"].pool
    with Callers(worker) as callers:
        worker.apply(plan_of("a", slo=EASY, streams=2), heard)
    assert heard.phases[-5:] == ["checking", "trying", "tried", "replaced", "draining"]
    assert "p95" in heard.lines[-3][2]
    assert worker.served["a"].pool is not old
    assert callers.failures == []


def test_a_change_that_misses_its_slo_under_load_goes_back_without_a_failed_request(
    worker: Worker, engine: SimulatedBackend, heard: Heard
) -> None:
    first = plan_of("a")
    worker.apply(first, heard)
    old = worker.served["a"]
    with Callers(worker) as callers:
        engine.service_s = slow_once_it_serves
        with pytest.raises(OrchError, match=r"^a: .*SLO.*; the revision before ") as caught:
            worker.apply(plan_of("a", streams=2), heard)
        assert worker.served["a"] is old
        for _ in range(10):
            assert callers.answered.acquire(timeout=WAIT_S)
    assert caught.value.kind is Kind.FAILED
    assert "--no-trial" in (caught.value.problems[0].hint or "")
    assert heard.phases[-3:] == ["trying", "failed", "draining"]
    assert callers.failed == []
    assert worker.plan == first


def test_a_change_is_tried_once_more_where_the_machine_became_slower_meanwhile(
    worker: Worker, engine: SimulatedBackend, heard: Heard
) -> None:
    slow = threading.Event()
    engine.service_s = lambda _number: LATE_S if slow.is_set() else QUICK_S
    worker.apply(plan_of("a"), heard)
    old = worker.served["a"].pool
    heard.at["trying"] = slow.set  # for the old pool, too
    with Callers(worker) as callers:
        worker.apply(plan_of("a", streams=2), heard)
    told = [message for _, phase, message in heard.lines if phase in ("trying", "tried")]
    assert told[1] == "once more: what served before misses its SLO now, too"
    assert len(told) == 3
    assert worker.served["a"].pool is not old
    assert callers.failed == []


def test_without_a_trial_the_same_change_is_made(worker: Worker, engine: SimulatedBackend, heard: Heard) -> None:
    worker.apply(plan_of("a"), heard)
    with Callers(worker):
        engine.service_s = slow_once_it_serves
        worker.apply(plan_of("a", streams=2), heard, trial=False)
    assert worker.plan == plan_of("a", streams=2)
    assert "trying" not in heard.phases


def test_what_nobody_asks_is_swapped_at_once(worker: Worker, heard: Heard) -> None:
    worker.apply(plan_of("a"), heard)
    worker.apply(plan_of("a", streams=2), heard)
    (tried,) = [message for _, phase, message in heard.lines if phase == "tried"]
    assert tried.startswith("nobody asks it: one inference alone takes ")


def test_a_model_whose_inference_alone_is_longer_than_its_slo_never_gets_a_request(
    worker: Worker, engine: SimulatedBackend, heard: Heard
) -> None:
    worker.apply(plan_of("a"), heard)
    engine.service_s = LATE_S
    with pytest.raises(OrchError, match=r"a: one inference alone takes .*, longer than the SLO of 50 ms"):
        worker.apply(plan_of("a", streams=2), heard)
    assert "trying" not in heard.phases
    assert engine.compiled[1].closed.is_set()


def test_an_slo_that_cannot_hold_is_refused_and_the_pool_keeps_the_one_before(worker: Worker, heard: Heard) -> None:
    first = plan_of("a")
    worker.apply(first, heard)
    with Callers(worker), pytest.raises(OrchError, match=r"a: .*SLO of 500 us"):
        worker.apply(plan_of("a", slo={"latency": "500us", "percentile": 95}), heard)
    served = worker.served["a"]
    assert (worker.plan, served.plan) == (first, first.models[0])
    assert served.pool.settings == settings(first.models[0])


def test_what_is_deleted_serves_until_the_rest_has_held(worker: Worker, heard: Heard) -> None:
    worker.apply(plan_of("a", "b"), heard)
    during: list[set[str]] = []
    heard.at["trying"] = lambda: during.append(set(worker.served))
    worker.apply(plan_of("a", streams=2), heard)
    assert during == [{"a", "b"}]
    assert set(worker.served) == {"a"}


def test_a_model_without_an_slo_goes_back_when_real_requests_fail(
    worker: Worker, engine: SimulatedBackend, heard: Heard
) -> None:
    worker.apply(plan_of("a", slo=None), heard)
    old = worker.served["a"]

    def fails(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        if inputs[0].flat[0] == 7:  # no check makes that up
            raise ValueError("seven")
        return inputs

    with Callers(worker) as callers:
        callers.value = 7.0
        engine.compute = fails
        with pytest.raises(OrchError, match=r"a: .* requests failed in |a: its inferences fail"):
            worker.apply(plan_of("a", slo=None, streams=2), heard)
        assert worker.served["a"] is old
        for _ in range(10):
            assert callers.answered.acquire(timeout=WAIT_S)


def test_a_worker_that_is_closed_while_it_tries_leaves_nothing_open(engine: SimulatedBackend, heard: Heard) -> None:
    worker, errors = Worker(engine, limits=TrialLimits(seconds=WAIT_S)), []
    worker.apply(plan_of("a", slo=None), heard)
    trying = threading.Event()
    heard.at["trying"] = trying.set

    def change() -> None:
        try:
            worker.apply(plan_of("a", streams=2), heard)
        except OrchError as error:
            errors.append(error.kind)

    with Callers(worker) as callers:
        applying = threading.Thread(target=change)
        applying.start()
        assert trying.wait(WAIT_S)
        callers.stop.set()
    worker.close()
    applying.join(WAIT_S)
    assert errors == [Kind.UNAVAILABLE]
    assert [model for model in engine.compiled if not model.closed.is_set()] == []


def test_what_takes_over_from_another_worker_is_judged_by_what_that_one_saw(worker: Worker, heard: Heard) -> None:
    worker.apply(plan_of("a", slo=EASY), heard)
    with Callers(worker):
        seen = worker.seen()
        (judged,) = worker.try_all(seen, heard)
    assert judged.good
    assert seen["a"].arrivals >= 20


def test_the_first_models_are_named_when_their_slo_cannot_hold(
    worker: Worker, engine: SimulatedBackend, heard: Heard
) -> None:
    engine.service_s = LATE_S
    worker.apply(plan_of("a"), heard)
    (unfit,) = worker.unfit()
    assert (unfit.model, unfit.good) == ("a", False)
