"""What every backend does, held against the simulated device and OpenVINO's CPU alike, so that neither drifts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import topologies
from orchestrator.backend.base import Backend, CompiledModel, CompileRequest, InferRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.backend.simulated import SimulatedBackend
from orchestrator.errors import Kind, OrchError

WAIT_S = 20.0
ROW = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(topologies.save("tiny_mlp", tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def openvino() -> OpenVinoBackend:
    return OpenVinoBackend(())


@pytest.fixture(params=["openvino", "simulated"])
def backend(request: pytest.FixtureRequest, openvino: OpenVinoBackend, path: str) -> Backend:
    if request.param == "openvino":
        return openvino
    return SimulatedBackend(openvino.inventory(), {path: openvino.inspect(path, {}, [])})


@pytest.fixture
def compiled(backend: Backend, path: str) -> Iterator[CompiledModel]:
    model = backend.compile(CompileRequest(path, "CPU", {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}))
    yield model
    model.close()


class Awaited:
    """A request with a callback that can be waited for."""

    def __init__(self, model: CompiledModel) -> None:
        self.ended = threading.Semaphore(0)
        self.calls = 0
        self.request: InferRequest = model.create_request(self._done)

    def _done(self) -> None:
        self.calls += 1
        self.ended.release()

    def infer(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        self.request.start(arrays)
        assert self.ended.acquire(timeout=WAIT_S)
        return self.request.outputs()


def test_an_inventory_lists_the_devices_with_what_they_accept(backend: Backend) -> None:
    device = backend.inventory().device("CPU")
    assert device is not None
    assert device.supports("NUM_STREAMS")
    assert not device.supports("FULL_DEVICE_NAME")
    assert device.range_for_streams is not None


def test_a_model_that_is_not_there_is_not_found(backend: Backend) -> None:
    for ask in (
        lambda: backend.inspect("/nowhere/model.xml", {}, []),
        lambda: backend.compile(CompileRequest("/nowhere/model.xml", "CPU")),
    ):
        with pytest.raises(OrchError) as caught:
            ask()
        assert caught.value.kind is Kind.NOT_FOUND
        assert caught.value.problems[0].where == "/nowhere/model.xml"


def test_inspect_tells_what_a_planner_asks(backend: Backend, path: str) -> None:
    info = backend.inspect(path, {}, ["CPU"])
    assert [(tensor.name, tensor.datatype, tensor.wire_shape) for tensor in info.inputs] == [
        ("features", "FP32", [1, 16])
    ]
    assert [(tensor.name, tensor.datatype, tensor.wire_shape) for tensor in info.outputs] == [
        ("scores", "FP32", [1, 8])
    ]
    assert info.batchable
    assert not info.dynamic
    assert len(info.sha256) == 64


def test_shapes_are_applied_with_their_bounds(backend: Backend, path: str) -> None:
    info = backend.inspect(path, {"features": ["1..8", 16]}, [])
    assert info.inputs[0].shape is not None
    assert str(info.inputs[0].shape[0]) == "1..8"
    assert info.inputs[0].wire_shape == [-1, 16]


def test_a_batch_that_the_shapes_fix_is_no_free_batch(backend: Backend, path: str) -> None:
    info = backend.inspect(path, {"features": [4, 16]}, [])
    assert (info.inputs[0].wire_shape, info.outputs[0].wire_shape) == ([4, 16], [4, 8])
    assert not info.batchable
    assert "fixed at 4" in str(info.unbatchable_reason)


def test_a_shape_for_an_input_that_is_not_there_names_those_that_are(backend: Backend, path: str) -> None:
    with pytest.raises(OrchError, match="has no input 'image'") as caught:
        backend.inspect(path, {"image": [1, 16]}, [])
    assert caught.value.kind is Kind.INVALID
    assert "features" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize("device", ["GPU.7", "cpu", "MULTI:GPU.7,CPU", "MULTI"])
def test_a_device_that_is_not_there_fails_to_compile(backend: Backend, path: str, device: str) -> None:
    with pytest.raises(OrchError) as caught:
        backend.compile(CompileRequest(path, device))
    assert caught.value.kind is Kind.FAILED


def test_a_batch_reshapes_inputs_and_outputs(backend: Backend, path: str) -> None:
    model = backend.compile(CompileRequest(path, "CPU", batch=4))
    assert model.inputs[0].wire_shape == [4, 16]
    assert model.outputs[0].wire_shape == [4, 8]
    assert Awaited(model).infer(np.repeat(ROW, 4, axis=0))[0].shape == (4, 8)
    model.close()


def test_what_was_compiled_is_read_back(compiled: CompiledModel) -> None:
    actual = compiled.actual()
    assert (actual.streams, actual.threads, actual.optimal_requests) == (2, 2, 2)
    assert actual.execution_devices == ("CPU",)
    assert actual.properties["NUM_STREAMS"] == "2"
    assert all(isinstance(value, str) for value in actual.properties.values())


def test_an_inference_ends_with_its_callback_and_no_failure(compiled: CompiledModel) -> None:
    awaited = Awaited(compiled)
    (scores,) = awaited.infer(ROW)
    assert (scores.shape, scores.dtype) == ((1, 8), np.float32)
    assert awaited.request.failure() is None


def test_outputs_are_copies_that_the_next_inference_leaves_alone(compiled: CompiledModel) -> None:
    awaited = Awaited(compiled)
    (first,) = awaited.infer(ROW)
    before = first.copy()
    awaited.infer(ROW * -3)
    assert np.array_equal(first, before)


def test_a_request_may_start_another_from_its_callback(compiled: CompiledModel) -> None:
    ended = threading.Event()
    second = compiled.create_request(ended.set)
    first = compiled.create_request(lambda: second.start([ROW]))
    first.start([ROW])
    assert ended.wait(WAIT_S)


def test_an_exception_in_a_callback_is_kept_and_the_request_goes_on(compiled: CompiledModel) -> None:
    entered = threading.Semaphore(0)

    def raises() -> None:
        entered.release()
        raise KeyError("in the callback")

    request = compiled.create_request(raises)
    for _ in range(2):
        request.start([ROW])
        assert entered.acquire(timeout=WAIT_S)
        # The callback of another request comes after this one's has returned: callbacks are one after the other.
        Awaited(compiled).infer(ROW)
        assert isinstance(request.failure(), KeyError)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ((), "takes 1 inputs, got 0"),
        ((ROW, ROW), "takes 1 inputs, got 2"),
        ((ROW.astype(np.float64),), "must be float32"),
        ((np.zeros((1, 32), np.float32)[:, ::2],), "not contiguous"),
        ((np.zeros((1, 17), np.float32),), "shape|tensor"),
        ((np.zeros((16,), np.float32),), "shape|tensor"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_the_request_stays_usable(
    compiled: CompiledModel, arrays: tuple[np.ndarray, ...], complaint: str
) -> None:
    awaited = Awaited(compiled)
    with pytest.raises(OrchError, match=complaint) as caught:
        awaited.request.start(arrays)
    assert caught.value.kind is Kind.INVALID
    awaited.infer(ROW)
    assert awaited.calls == 1


def test_rows_within_the_bounds_pass_and_others_are_refused(backend: Backend, path: str) -> None:
    model = backend.compile(CompileRequest(path, "CPU", shapes={"features": ["1..8", 16]}))
    awaited = Awaited(model)
    assert awaited.infer(np.repeat(ROW, 8, axis=0))[0].shape == (8, 8)
    with pytest.raises(OrchError) as caught:
        awaited.request.start([np.repeat(ROW, 9, axis=0)])
    assert caught.value.kind is Kind.INVALID
    model.close()


def test_memory_that_may_only_be_read_is_read_where_it_lies(compiled: CompiledModel) -> None:
    awaited = Awaited(compiled)
    received = np.frombuffer(ROW.tobytes(), np.float32).reshape(1, 16)
    assert not received.flags.writeable
    (from_wire,) = awaited.infer(received)
    (from_own,) = awaited.infer(ROW)
    assert np.array_equal(from_wire, from_own)
    assert np.array_equal(received, ROW)


def test_two_requests_take_turns_from_inside_callbacks(compiled: CompiledModel) -> None:
    """The pool starts a spare request inside the callback of the one that ended; three requests share two streams."""
    total, ended, lock = 2000, threading.Event(), threading.Lock()
    spare, state, inputs = [2], {"started": 0, "ended": 0}, [ROW * factor for factor in range(1, 8)]
    requests: list[InferRequest] = []

    def start(place: int) -> None:
        if state["started"] < total:
            array = inputs[state["started"] % len(inputs)]
            state["started"] += 1
            requests[place].start([array])

    def done(place: int) -> None:
        with lock:
            state["ended"] += 1
            start(spare.pop())
            spare.append(place)
            if state["ended"] == total:
                ended.set()

    requests += [compiled.create_request(lambda place=place: done(place)) for place in range(3)]  # type: ignore[misc]
    with lock:
        start(0)
        start(1)
    assert ended.wait(60)
    assert [request.failure() for request in requests] == [None] * 3


def test_a_closed_model_can_be_compiled_again(backend: Backend, path: str) -> None:
    for _ in range(3):
        model = backend.compile(CompileRequest(path, "CPU"))
        Awaited(model).infer(ROW)
        model.close()
