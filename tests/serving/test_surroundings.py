"""What goes on around a worker's pools: read from the kernel at most once a second, and shared out among its models."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from orchestrator.backend.simulated import SimulatedBackend
from orchestrator.planner.resolve import resolve
from orchestrator.profiling.measurement import Host
from orchestrator.runner.worker import Worker
from orchestrator.serving.surroundings import Surroundings, around
from tests.builders import a_deployment, a_model, a_model_info, a_tensor, an_inventory, model_infos

INFO = a_model_info(inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
DEPLOYMENT = a_deployment(a_model("a"), a_model("b", source="models/b.onnx"))


@pytest.fixture
def worker() -> Iterator[Worker]:
    infos = model_infos(DEPLOYMENT, INFO)
    made = Worker(SimulatedBackend(an_inventory(), {info.path: INFO for info in infos.values()}, service_s=0.0))
    made.apply(resolve(DEPLOYMENT, an_inventory(), infos), lambda *_: None)
    yield made
    made.close()


def test_the_host_is_read_with_shares_between_nothing_and_all() -> None:
    surroundings = Surroundings()
    assert surroundings.host == Host()
    surroundings.read()
    surroundings.read()  # within the same second: not again
    shares = surroundings.host
    assert all(0 <= share <= 1 for share in (shares.foreign, shares.steal, shares.throttled))
    assert surroundings.cores == len(os.sched_getaffinity(0))


def test_a_model_is_beside_what_the_others_take_and_not_beside_itself(worker: Worker) -> None:
    worker.served["b"].pool.observe(lambda recorder: recorder.batch(time.monotonic(), 1, 0.5))
    snapshots = {name: served.pool.snapshot() for name, served in worker.served.items()}
    host = Host(foreign=0.1)
    assert around("a", worker.served, snapshots, host, 2).neighbours > 0
    assert around("b", worker.served, snapshots, host, 2).neighbours == 0
    assert around("a", worker.served, snapshots, host, 2).host == host
