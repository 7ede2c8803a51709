"""The simulated device: service times, order, and the faults that no real device gives on demand."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from orchestrator.backend.base import CompileRequest
from orchestrator.backend.simulated import Faults, SimulatedBackend, SimulatedCompiledModel
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import Dim, ModelInfo, TensorInfo
from orchestrator.inventory.text import inventory_from_yaml

WAIT_S = 20.0
FIXTURES = Path(__file__).parents[1] / "fixtures/inventories"
TWO_GPUS = inventory_from_yaml((FIXTURES / "two-gpus.yaml").read_text(), "two-gpus.yaml")
ONE, FOUR, FREE = Dim(low=1, high=1), Dim(low=4, high=4), Dim(low=0, high=None)
MODEL = ModelInfo(
    path="m.xml",
    sha256="0" * 64,
    weights_bytes=10,
    inputs=(TensorInfo(name="x", datatype="FP32", shape=(FREE, FOUR)),),
    outputs=(
        TensorInfo(name="y", datatype="INT64", shape=(FREE, ONE)),
        TensorInfo(name="label", datatype="BYTES", shape=(FREE,)),
    ),
    batchable=True,
)
ROW = np.ones((1, 4), np.float32)


def simulated(faults: Faults | None = None, **options: object) -> SimulatedBackend:
    return SimulatedBackend(TWO_GPUS, {"m.xml": MODEL}, faults=faults, **options)  # type: ignore[arg-type]


def manual(faults: Faults | None = None, **options: object) -> SimulatedCompiledModel:
    return simulated(faults, manual=True, **options).compile(CompileRequest("m.xml", "GPU.1"))


def test_outputs_follow_the_rows_of_the_input() -> None:
    model = manual()
    request = model.create_request(lambda: None)
    request.start([np.ones((3, 4), np.float32)])
    request.complete()
    number, label = request.outputs()
    assert (number.shape, number.dtype) == ((3, 1), np.int64)
    assert label.tolist() == [b"", b"", b""]


def test_a_function_may_compute_the_outputs() -> None:
    model = manual(compute=lambda inputs: (inputs[0] * 2,))
    request = model.create_request(lambda: None)
    request.start([ROW])
    request.complete()
    assert request.outputs()[0].tolist() == [[2, 2, 2, 2]]


def test_by_hand_nothing_ends_before_it_is_told_to() -> None:
    model = manual()
    calls: list[str] = []
    first, second = (
        model.create_request(lambda: calls.append("first")),
        model.create_request(lambda: calls.append("second")),
    )
    first.start([ROW])
    second.start([ROW])
    assert model.running() == (first, second)
    second.complete()
    assert (calls, model.running()) == (["second"], (first,))
    first.fail(RuntimeError("by hand"))
    assert (calls, str(first.failure())) == (["second"], "by hand")


def test_a_scripted_failure_has_no_callback_and_the_next_inference_is_good() -> None:
    model = simulated(Faults(fail=frozenset({0})), service_s=0.0).compile(CompileRequest("m.xml", "CPU"))
    ended = threading.Semaphore(0)
    request, other = model.create_request(ended.release), model.create_request(ended.release)
    request.start([ROW])
    other.start([ROW])
    assert ended.acquire(timeout=WAIT_S)
    # One stream takes them in order, so the first has ended too, and its callback was never called.
    assert "fails as scripted" in str(request.failure())
    assert other.failure() is None
    request.start([ROW])
    assert ended.acquire(timeout=WAIT_S)
    assert request.failure() is None
    model.close()


def test_what_hangs_holds_its_stream_until_it_is_cancelled() -> None:
    model = simulated(Faults(hang=frozenset({0})), service_s=0.0, streams=1).compile(CompileRequest("m.xml", "CPU"))
    ended = threading.Event()
    stuck, behind = model.create_request(lambda: None), model.create_request(ended.set)
    stuck.start([ROW])
    behind.start([ROW])
    assert set(model.running()) == {stuck, behind}
    stuck.cancel()
    assert ended.wait(WAIT_S)
    failure = stuck.failure()
    assert isinstance(failure, OrchError)
    assert failure.kind is Kind.CANCELLED
    model.close()


def test_a_refused_start_raises_and_the_request_is_free() -> None:
    model = manual(Faults(refuse=frozenset({0})))
    request = model.create_request(lambda: None)
    with pytest.raises(OrchError, match="inference 0 fails as scripted"):
        request.start([ROW])
    request.start([ROW])
    assert model.running() == (request,)


def test_a_lost_device_fails_what_runs_and_refuses_what_comes() -> None:
    backend = simulated(Faults(device_lost_at=1), service_s=0.0)
    model = backend.compile(CompileRequest("m.xml", "GPU.1"))
    ended = threading.Event()
    request = model.create_request(ended.set)
    request.start([ROW])
    assert ended.wait(WAIT_S)
    with pytest.raises(OrchError, match=r"the device GPU\.1 is gone"):
        request.start([ROW])
    model.close()


def test_a_scripted_compile_error_is_raised() -> None:
    with pytest.raises(OrchError, match="out of memory") as caught:
        simulated(Faults(compile_error="out of memory")).compile(CompileRequest("m.xml", "GPU.0"))
    assert caught.value.kind is Kind.FAILED


def test_a_model_that_is_no_batch_is_not_batched() -> None:
    info = MODEL.model_copy(update={"batchable": False, "unbatchable_reason": "axis 0 is time"})
    with pytest.raises(OrchError, match="cannot be batched: axis 0 is time"):
        SimulatedBackend(TWO_GPUS, {"m.xml": info}).compile(CompileRequest("m.xml", "CPU", batch=2))


def test_as_many_inferences_run_at_once_as_there_are_streams() -> None:
    together, release = threading.Barrier(3), threading.Event()

    def seconds(number: int) -> float:
        together.wait(WAIT_S)  # passes only when both streams and the test are here
        release.wait(WAIT_S)
        return 0.0

    model = simulated(service_s=seconds).compile(CompileRequest("m.xml", "CPU", {"NUM_STREAMS": "2"}))
    ended = threading.Semaphore(0)
    for request in [model.create_request(ended.release) for _ in range(2)]:
        request.start([ROW])
    together.wait(WAIT_S)
    release.set()
    for _ in range(2):
        assert ended.acquire(timeout=WAIT_S)
    assert model.actual().streams == 2
    model.close()


def test_measured_samples_are_drawn_alike_for_the_same_seed() -> None:
    samples = [0.001, 0.002, 0.003]
    draws = []
    for _ in range(2):
        model = manual(service_s=samples, seed=7)
        draws.append([model.seconds(number) for number in range(50)])
    assert draws[0] == draws[1]
    assert set(draws[0]) == set(samples)


@pytest.mark.parametrize(
    ("device", "hint", "executing"),
    [
        ("GPU.1", "LATENCY", ("GPU.1",)),
        ("AUTO:GPU.1,CPU", "LATENCY", ("GPU.1",)),
        ("AUTO:GPU.1,CPU", "CUMULATIVE_THROUGHPUT", ("GPU.1", "CPU")),
        ("AUTO:-CPU", "CUMULATIVE_THROUGHPUT", ("GPU.0", "GPU.1")),
        ("MULTI:GPU.1,CPU", "THROUGHPUT", ("GPU.1", "CPU")),
    ],
)
def test_the_target_says_which_devices_execute(device: str, hint: str, executing: tuple[str, ...]) -> None:
    model = simulated().compile(CompileRequest("m.xml", device, {"PERFORMANCE_HINT": hint}))
    assert model.actual().execution_devices == executing
    model.close()


def test_closing_ends_every_thread_even_while_something_hangs() -> None:
    model = simulated(Faults(hang=frozenset({0, 1})), streams=2).compile(CompileRequest("m.xml", "CPU"))
    requests = [model.create_request(lambda: None) for _ in range(2)]
    for request in requests:
        request.start([ROW])
    model.close()
    assert not any(thread.is_alive() for thread in model._threads)
    with pytest.raises(OrchError, match="closed"):
        requests[0].start([ROW])
