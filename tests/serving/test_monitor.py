"""What a worker says of its models: what was measured of the plan, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.backend.simulated import SimulatedBackend
from orchestrator.errors import Kind, OrchError
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.runner.worker import Worker
from orchestrator.serving.monitor import Monitor
from orchestrator.telemetry.saturation import PLANNED, saturation
from tests.builders import a_deployment, a_model, a_model_info, a_tensor, an_inventory, model_infos
from tests.builders_decision import a_capacity, a_decision

INFO = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
DEPLOYMENT = a_deployment(a_model("a", slo={"latency": "200ms", "rate": "25/s"}))


def plan(*, measured: bool) -> DeploymentPlan:
    decision = a_decision(model="a", capacity=a_capacity(40.0), service_s=0.04)
    infos = model_infos(DEPLOYMENT, INFO)
    return resolve(DEPLOYMENT, an_inventory(), infos, decisions={"a": decision} if measured else {})


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(SimulatedBackend(an_inventory(), {"/models/a.onnx": INFO}, service_s=0.0))
    yield made
    made.close()


def test_a_measured_plan_has_capacity_headroom_and_verdict(worker: Worker) -> None:
    worker.apply(plan(measured=True), lambda *_: None)
    monitor = Monitor("shop", lambda: worker.served)
    monitor.step()
    status = monitor.model_status(worker.served["a"])
    assert (status["capacity_per_s"], status["headroom_per_s"]) == (40.0, 40.0)
    assert (status["plan"]["verified"], status["plan"]["verdict"]) == (True, "verified")
    assert status["plan"]["capacity_interval_per_s"] == pytest.approx([38.0, 42.0])
    assert status["plan"]["planned_service_ms"] == 40.0
    assert status["saturation"]["terms"][PLANNED] == 0.0
    (pool,) = monitor.report(worker.plan, ("0", "2026")).pools
    assert pool.headroom_per_s == 40.0


def test_arrivals_take_from_the_headroom_and_fill_the_pool(worker: Worker) -> None:
    worker.apply(plan(measured=True), lambda *_: None)
    pool = worker.served["a"].pool
    for _ in range(10):
        pool.cancel(pool.admit())
    monitor = Monitor("shop", lambda: worker.served)
    monitor.step()
    status = monitor.model_status(worker.served["a"])
    assert status["saturation"]["terms"][PLANNED] > 0
    assert status["headroom_per_s"] < 40.0


def test_a_plan_by_rule_claims_nothing(worker: Worker) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    monitor = Monitor("shop", lambda: worker.served)
    status = monitor.model_status(worker.served["a"])
    assert (status["capacity_per_s"], status["headroom_per_s"]) == (None, None)
    assert (status["plan"]["verified"], status["plan"]["verdict"]) == (False, None)
    assert PLANNED not in status["saturation"]["terms"]


def test_a_status_says_where_and_how_many_rows_together_a_model_is_inferred(worker: Worker) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    served = worker.served["a"]
    told = Monitor("shop", lambda: worker.served).model_status(served)["plan"]
    assert (told["inline"], told["rows_together"]) == (served.pool.inline, served.pool.batch)


def test_a_capacity_that_nobody_measured_is_unknown_and_stays_so(worker: Worker) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    monitor = Monitor("shop", lambda: worker.served)
    monitor.step()
    status = monitor.model_status(worker.served["a"])
    assert (status["capacity_per_s"], status["capacity_from"], status["headroom_per_s"]) == (None, None, None)
    assert status["drift"] == {
        "drifted": False,
        "ratio": None,
        "observed_ms": None,
        "expected_ms": None,
        "expected_from": None,
        "origin": "none",
        "advice": None,
    }


def test_a_bench_tells_its_capacity_and_headroom_counts_from_it_until_the_pool_is_replaced(worker: Worker) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    monitor = Monitor("shop", lambda: worker.served)
    monitor.benched("a", 72.0)
    status = monitor.model_status(worker.served["a"])
    assert (status["capacity_per_s"], status["capacity_from"], status["headroom_per_s"]) == (72.0, "bench", 72.0)
    (pool,) = monitor.report(worker.plan, ("0", "2026")).pools
    assert (pool.capacity_per_s, pool.headroom_per_s) == (72.0, 72.0)
    assert [event.reason for event in monitor.events()] == ["CapacityBenched"]
    worker.apply(plan(measured=True), lambda *_: None)
    assert monitor.model_status(worker.served["a"])["capacity_from"] == "plan"


@pytest.mark.parametrize(("name", "capacity", "kind"), [("b", 72.0, Kind.NOT_FOUND), ("a", 0.0, Kind.INVALID)])
def test_what_a_bench_cannot_have_found_is_refused(worker: Worker, name: str, capacity: float, kind: Kind) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    with pytest.raises(OrchError) as raised:
        Monitor("shop", lambda: worker.served).benched(name, capacity)
    assert raised.value.kind is kind


def test_a_measured_plan_says_what_an_inference_should_take(worker: Worker) -> None:
    worker.apply(plan(measured=True), lambda *_: None)
    monitor = Monitor("shop", lambda: worker.served)
    monitor.read_host()
    monitor.step()
    drift = monitor.model_status(worker.served["a"])["drift"]
    assert (drift["expected_ms"], drift["expected_from"], drift["observed_ms"]) == (40.0, "plan", None)


def test_refusals_that_no_pool_could_avoid_are_no_demand(worker: Worker) -> None:
    worker.apply(plan(measured=False), lambda *_: None)
    pool = worker.served["a"].pool
    for _ in range(200):
        with pytest.raises(OrchError):
            pool.admit(timeout_s=0.0)
    snapshot = pool.snapshot()
    assert (snapshot.totals.rejected, snapshot.totals.impossible) == (200, 200)
    assert (snapshot.recent.arrivals, snapshot.recent.rejected, snapshot.recent.refused_tenths) == (0, 0, 0)
    assert saturation(snapshot).value == 0.0
