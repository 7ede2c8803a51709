"""What only a real engine shows: its failures, datatypes, bad files, and two devices under AUTO."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from benchmarks import topologies
from orchestrator.backend.base import DTYPES, CompiledModel, CompileRequest, InferRequest
from orchestrator.backend.openvino_backend import CLOSE_TIMEOUT_MS, OpenVinoBackend, OpenVinoCompiledModel
from orchestrator.backend.plugins import PluginAlias, read_aliases
from orchestrator.errors import Kind, OrchError

WAIT_S = 20.0
CUMULATIVE = {"PERFORMANCE_HINT": "CUMULATIVE_THROUGHPUT"}
# A second CPU plugin that flushes denormal numbers to zero: its answers can be told from the first one's.
TWO_DEVICES = (
    PluginAlias(
        name="CPU2",
        library="intel_cpu",
        device_properties={"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1", "CPU_DENORMALS_OPTIMIZATION": "YES"},
    ),
    PluginAlias(name="XPU", library="hetero", properties={"MULTI_DEVICE_PRIORITIES": "CPU2"}),
)


@pytest.fixture(scope="module")
def backend() -> OpenVinoBackend:
    return OpenVinoBackend(())


def save(model: ov.Model, path: Path) -> str:
    ov.save_model(model, path, compress_to_fp16=False)
    return str(path)


def parameter(name: str, shape: list[int]) -> ov.Node:
    node = ops.parameter(shape, ov.Type.f32, name=name)
    node.output(0).set_names({name})
    return node


@pytest.fixture(scope="module")
def bender(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve numbers, and the shape that they are to have: only its values tell that an inference must fail."""
    data, shape = parameter("data", [12]), ops.parameter([2], ov.Type.i64, name="shape")
    model = ov.Model([ops.result(ops.reshape(data, shape, False))], [data, shape], "bender")
    return save(model, tmp_path_factory.mktemp("bender") / "bender.xml")


def bent(rows: int, columns: int, value: float = 1.0) -> list[np.ndarray]:
    return [np.full(12, value, np.float32), np.array([rows, columns])]


def infer(model: CompiledModel, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    ended = threading.Event()
    request = model.create_request(ended.set)
    request.start(arrays)
    assert ended.wait(WAIT_S)
    return request.outputs()


def wait_for_failure(request: object) -> BaseException:
    """Ask until the failure shows, as the pool does: nobody is called when an inference fails."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        error: BaseException | None = request.failure()  # type: ignore[attr-defined]
        if error is not None:
            return error
        pause.wait(0.01)
    raise AssertionError("no failure was reported")


def test_an_inference_that_fails_has_no_callback_and_says_why(backend: OpenVinoBackend, bender: str) -> None:
    calls: list[int] = []
    ended = threading.Event()

    def done() -> None:
        calls.append(1)
        ended.set()

    model = backend.compile(CompileRequest(bender, "CPU"))
    request = model.create_request(done)
    request.start(bent(5, 5))
    error = wait_for_failure(request)
    assert isinstance(error, OrchError)
    assert error.kind is Kind.FAILED
    assert "conflicts with the reshape pattern" in str(error)
    assert "Exception from" not in str(error)
    assert calls == []
    request.start(bent(3, 4))
    assert ended.wait(WAIT_S)
    assert request.failure() is None
    assert request.outputs()[0].tolist() == [[1.0] * 4] * 3
    model.close()


def test_a_cancelled_inference_has_no_callback_and_says_so(backend: OpenVinoBackend, tmp_path: Path) -> None:
    # A thousand-step product takes long enough to be cancelled in the middle.
    data = parameter("data", [512, 512])
    node = data
    for _ in range(200):
        node = ops.tanh(ops.matmul(node, ops.constant(np.eye(512, dtype=np.float32)), False, False))
    path = save(ov.Model([ops.result(node)], [data], "long"), tmp_path / "long.xml")
    model = backend.compile(CompileRequest(path, "CPU", {"INFERENCE_NUM_THREADS": "1"}))
    calls: list[int] = []
    request = model.create_request(lambda: calls.append(1))
    request.start([np.ones((512, 512), np.float32)])
    with pytest.raises(OrchError, match="busy") as caught:
        request.start([np.ones((512, 512), np.float32)])
    assert caught.value.kind is Kind.CONFLICT
    request.cancel()
    error = wait_for_failure(request)
    assert isinstance(error, OrchError)
    assert error.kind is Kind.CANCELLED
    assert calls == []
    model.close()


@pytest.mark.parametrize("datatype", sorted(set(topologies.IDENTITY_TYPES) - {"bytes", "bool"}))
def test_numbers_of_every_datatype_come_back(backend: OpenVinoBackend, datatype: str, tmp_path: Path) -> None:
    model = backend.compile(CompileRequest(str(topologies.save(f"identity_{datatype}", tmp_path)), "CPU"))
    dtype = DTYPES[model.inputs[0].datatype]
    data = (np.arange(6).reshape(2, 3) * 16256).astype(np.uint16) if datatype == "bf16" else np.arange(6).reshape(2, 3)
    (same,) = infer(model, data.astype(dtype))
    assert same.dtype == dtype
    assert same.tolist() == data.astype(dtype).tolist()
    model.close()


def test_truth_values_come_back(backend: OpenVinoBackend, tmp_path: Path) -> None:
    model = backend.compile(CompileRequest(str(topologies.save("identity_bool", tmp_path)), "CPU"))
    (same,) = infer(model, np.array([[True, False, True]]))
    assert same.dtype == np.bool_
    assert same.tolist() == [[True, False, True]]
    model.close()


def test_bytes_come_back_whatever_they_hold(backend: OpenVinoBackend, tmp_path: Path) -> None:
    model = backend.compile(CompileRequest(str(topologies.save("identity_bytes", tmp_path)), "CPU"))
    texts = [b"", b"a", "größer".encode(), b"\xff\0\xfe", b"x" * 1000]
    (same,) = infer(model, np.array([texts], dtype=np.object_))
    assert same.dtype == np.object_
    assert same[0].tolist() == texts
    model.close()


@pytest.mark.parametrize(("element", "complaint"), [("text", "must be bytes, got str"), (b"a\0", "end in a zero byte")])
def test_elements_that_would_change_on_the_way_are_refused(
    backend: OpenVinoBackend, element: object, complaint: str, tmp_path: Path
) -> None:
    model = backend.compile(CompileRequest(str(topologies.save("identity_bytes", tmp_path)), "CPU"))
    with pytest.raises(OrchError, match=complaint):
        model.create_request(lambda: None).start([np.array([[element]], dtype=np.object_)])
    model.close()


def test_tensors_without_elements_pass(backend: OpenVinoBackend, tmp_path: Path) -> None:
    model = backend.compile(CompileRequest(str(topologies.save("identity_fp32", tmp_path)), "CPU"))
    read_only = np.frombuffer(b"", np.float32).reshape(0, 4)
    for empty in (np.zeros((0, 4), np.float32), read_only):
        assert infer(model, empty)[0].shape == (0, 4)
    model.close()


@pytest.mark.parametrize("count", ["1", "2"])
def test_an_inference_that_fails_where_it_was_asked_for_never_shows_the_answer_before(
    backend: OpenVinoBackend, count: str, bender: str
) -> None:
    """With one stream of one thread OpenVINO's `infer` returns as if it had succeeded."""
    streams = {"NUM_STREAMS": count, "INFERENCE_NUM_THREADS": count}
    model = backend.compile(CompileRequest(bender, "CPU", properties=streams))
    request = model.create_request(lambda: None)
    request.infer(bent(3, 4))
    with pytest.raises(OrchError, match="conflicts with the reshape pattern"):
        request.infer(bent(5, 5))
    request.infer(bent(2, 6, 2.0))
    assert request.outputs()[0].tolist() == [[2.0] * 6] * 2
    model.close()


def test_texts_without_elements_pass(backend: OpenVinoBackend, tmp_path: Path) -> None:
    """The binding ends the process when it is asked for the strings of an empty tensor."""
    model = backend.compile(CompileRequest(str(topologies.save("identity_bytes", tmp_path)), "CPU"))
    for shape in ((0, 1), (2, 0), (0, 0)):
        (same,) = infer(model, np.zeros(shape, np.object_))
        assert same.dtype == np.object_
        assert same.shape == shape
    (same,) = infer(model, np.array([[b"a"]], np.object_))
    assert same.tolist() == [[b"a"]]
    model.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topologies.save("tiny_mlp", tmp_path_factory.mktemp("tiny"))


def bad_files(tiny: Path) -> dict[str, tuple[bytes, bytes | None]]:
    xml, weights = tiny.read_bytes(), tiny.with_suffix(".bin").read_bytes()
    onnx = (Path(__file__).parents[2] / "deployments/models/digits.onnx").read_bytes()
    return {
        "empty.onnx": (b"", None),
        "garbage.onnx": (bytes(range(256)) * 4, None),
        "truncated.onnx": (onnx[: len(onnx) // 2], None),
        "garbage.xml": (bytes(range(256)) * 4, None),
        "page.xml": (b"<html></html>", None),
        "truncated.xml": (xml[: len(xml) // 2], weights),
        "without_weights.xml": (xml, None),
        "truncated_weights.xml": (xml, weights[: len(weights) // 2]),
        "empty_weights.xml": (xml, b""),
        "notes.txt": (b"no model at all", None),
        "garbage.tflite": (bytes(range(256)), None),
        "garbage.pb": (bytes(range(256)), None),
    }


BAD_FILES = (
    "empty.onnx",
    "garbage.onnx",
    "truncated.onnx",
    "garbage.xml",
    "page.xml",
    "truncated.xml",
    "without_weights.xml",
    "truncated_weights.xml",
    "empty_weights.xml",
    "notes.txt",
    "garbage.tflite",
    "garbage.pb",
)


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_models_are_errors_with_place_and_hint(
    backend: OpenVinoBackend, name: str, tiny: Path, tmp_path: Path
) -> None:
    content, weights = bad_files(tiny)[name]
    path = tmp_path / name
    path.write_bytes(content)
    if weights is not None:
        path.with_suffix(".bin").write_bytes(weights)
    for ask in (
        lambda: backend.inspect(str(path), {}, ["CPU"]),
        lambda: backend.compile(CompileRequest(str(path), "CPU")),
    ):
        with pytest.raises(OrchError) as caught:
            ask()
        problem = caught.value.problems[0]
        assert caught.value.kind is Kind.FAILED
        assert problem.where == str(path)
        assert problem.what
        assert "Exception from" not in problem.what
        assert problem.hint


def test_a_folder_that_is_no_model_is_an_error(backend: OpenVinoBackend, tmp_path: Path) -> None:
    with pytest.raises(OrchError) as caught:
        backend.inspect(str(tmp_path), {}, [])
    assert caught.value.kind is Kind.FAILED


@pytest.mark.parametrize(
    ("name", "batchable", "dynamic", "int8"),
    [
        ("tiny_mlp", True, False, False),
        ("dynamic_mlp", True, False, False),
        ("two_in_two_out", True, False, False),
        ("dynamic_seq", True, True, False),
        ("int8_cnn", True, False, True),
        ("bert_small", True, False, False),
        ("passthrough", True, True, False),
    ],
)
def test_what_may_be_batched_is_found_by_trying(
    backend: OpenVinoBackend, name: str, batchable: bool, dynamic: bool, int8: bool, tmp_path: Path
) -> None:
    info = backend.inspect(str(topologies.save(name, tmp_path)), {}, ["CPU"])
    assert (info.batchable, info.dynamic, info.int8) == (batchable, dynamic, int8)
    assert (info.unbatchable_reason is None) is batchable
    assert info.weights_bytes == (tmp_path / f"{name}.bin").stat().st_size


def test_a_model_that_flattens_its_batch_is_refused_with_the_reason(backend: OpenVinoBackend, tmp_path: Path) -> None:
    data = parameter("data", [1, 4])
    flat = ops.reshape(data, ops.constant(np.array([1, -1])), special_zero=False)
    path = save(ov.Model([ops.result(flat)], [data], "flat"), tmp_path / "flat.xml")
    info = backend.inspect(path, {}, [])
    assert not info.batchable
    assert "does not follow the batch" in str(info.unbatchable_reason)
    with pytest.raises(OrchError, match="cannot be batched: axis 0 of output"):
        backend.compile(CompileRequest(path, "CPU", batch=2))


def test_a_fixed_batch_of_four_is_no_free_batch(backend: OpenVinoBackend, tmp_path: Path) -> None:
    data = parameter("data", [4, 4])
    path = save(ov.Model([ops.result(ops.relu(data))], [data], "four"), tmp_path / "four.xml")
    assert "fixed at 4" in str(backend.inspect(path, {}, []).unbatchable_reason)


def test_a_model_that_keeps_state_is_never_batched(backend: OpenVinoBackend, tmp_path: Path) -> None:
    data = parameter("data", [1, 4])
    value = ops.read_value(data, "memory", ov.Type.f32, ov.PartialShape([1, 4]))
    total = ops.add(value, data)
    model = ov.Model([ops.result(total)], [ops.assign(total, "memory")], [data], "stateful")
    info = backend.inspect(save(model, tmp_path / "stateful.xml"), {}, [])
    assert info.stateful
    assert not info.batchable
    assert "state" in str(info.unbatchable_reason)


@pytest.mark.parametrize(
    ("device", "properties", "complaint"),
    [
        ("CPU", {"NO_SUCH": "1"}, "Unsupported property NO_SUCH"),
        ("CPU", {"NUM_STREAMS": "many"}, "Could not read number of streams from str: many"),
        ("AUTO:CPU", {"NUM_STREAMS": "many"}, "Could not read number of streams from str: many"),
        ("MULTI:NPU,CPU", {}, "MULTI left out NPU and would run on CPU alone"),
        ("AUTO:FOO,CPU", CUMULATIVE, "FOO"),
        ("cpu", {}, 'Device with "cpu" name is not registered'),
        ("MULTI", {}, "KEY_MULTI_DEVICE_PRIORITIES key is not set"),
    ],
)
def test_what_does_not_compile_says_why_and_what_was_asked(
    backend: OpenVinoBackend, device: str, properties: dict[str, str], complaint: str, tiny: Path
) -> None:
    with pytest.raises(OrchError) as caught:
        backend.compile(CompileRequest(str(tiny), device, properties))
    assert caught.value.kind is Kind.FAILED
    assert complaint in str(caught.value)
    assert "Exception from" not in str(caught.value)
    asked = ", ".join(f"{key}={value}" for key, value in sorted(properties.items())) or "no properties"
    assert caught.value.problems[0].hint in {f"asked for {device} with {asked}", "see: orch devices"}


def test_values_are_read_back_in_one_spelling_whatever_the_plugin_returns(backend: OpenVinoBackend, tiny: Path) -> None:
    asked = {"PERFORMANCE_HINT": "THROUGHPUT", "ENABLE_CPU_PINNING": "False", "INFERENCE_PRECISION_HINT": "f32"}
    for device in ("CPU", "AUTO:CPU"):
        model = backend.compile(CompileRequest(str(tiny), device, asked))
        properties = model.actual().properties
        prefix = "" if device == "CPU" else "CPU:"
        assert properties[f"{prefix}ENABLE_CPU_PINNING"] == "NO"
        assert properties[f"{prefix}INFERENCE_PRECISION_HINT"] == "f32"
        assert properties["PERFORMANCE_HINT"] == "THROUGHPUT"
        assert properties["PERF_COUNT"] == "NO"
        assert model.actual().streams is not None
        model.close()


class StartingUp:
    """What AUTO's compiled model says while its helper stands in for the NPU, and what it says afterwards."""

    inputs = ()
    outputs = ()

    def __init__(self) -> None:
        self.asked = 0

    def get_property(self, key: str) -> object:
        if key == "EXECUTION_DEVICES":
            self.asked += 1
        settled = self.asked > 3
        return {
            "SUPPORTED_PROPERTIES": {"OPTIMAL_NUMBER_OF_INFER_REQUESTS": "RO", "EXECUTION_DEVICES": "RO"},
            "EXECUTION_DEVICES": ["NPU"] if settled else ["(CPU)"],
            "OPTIMAL_NUMBER_OF_INFER_REQUESTS": 2 if settled else 8,
        }[key]


def test_the_start_up_helper_of_auto_is_waited_out() -> None:
    actual = OpenVinoCompiledModel(StartingUp(), "m.xml").actual()
    assert actual.execution_devices == ("NPU",)
    assert actual.optimal_requests == 2
    assert (actual.streams, actual.threads) == (None, None)


def test_a_plugin_that_does_not_load_is_a_problem_and_no_error(backend: OpenVinoBackend) -> None:
    inventory = backend.inventory()
    absent = {"GPU", "NPU"} - {device.family for device in inventory.devices}
    assert [problem for problem in inventory.problems if problem.partition(":")[0] not in absent] == []
    assert inventory.openvino == ov.__version__


def test_a_closed_model_lets_go_of_the_callbacks(backend: OpenVinoBackend, tiny: Path) -> None:
    class Pool:
        def done(self) -> None:
            pass

    pool = Pool()
    gone = weakref.ref(pool)
    model = backend.compile(CompileRequest(str(tiny), "CPU"))
    request = model.create_request(pool.done)
    model.close()
    del pool, request
    gc.collect()
    assert gone() is None


def test_a_closed_model_leaves_nothing_to_the_garbage_collector(backend: OpenVinoBackend, tiny: Path) -> None:
    class Slot:
        def __init__(self) -> None:
            self.request: InferRequest | None = None

        def done(self) -> None:
            pass

    slot = Slot()
    gone = weakref.ref(slot)
    model = backend.compile(CompileRequest(str(tiny), "CPU"))
    slot.request = model.create_request(slot.done)  # as the pool's: each holds the other
    gc.disable()
    try:
        model.close()
        del slot
        assert gone() is None
    finally:
        gc.enable()


def test_a_callback_thread_is_the_same_one_to_python_from_inference_to_inference(
    backend: OpenVinoBackend, tiny: Path
) -> None:
    local, ended = threading.local(), threading.Semaphore(0)
    seen: list[int] = []

    def count() -> None:
        local.calls = getattr(local, "calls", 0) + 1
        seen.append(local.calls)
        ended.release()

    model = backend.compile(CompileRequest(str(tiny), "CPU"))
    request = model.create_request(count)
    for _ in range(20):
        request.start([np.ones((1, 16), np.float32)])
        assert ended.acquire(timeout=WAIT_S)
    model.close()
    assert max(seen) > 1, "what belongs to a thread was given back with each callback"


def test_a_callback_that_raised_does_not_hold_up_the_close(backend: OpenVinoBackend, tiny: Path) -> None:
    entered = threading.Event()

    def raises() -> None:
        entered.set()
        raise KeyError("in the callback")

    model = backend.compile(CompileRequest(str(tiny), "CPU"))
    request = model.create_request(raises)
    request.start([np.ones((1, 16), np.float32)])
    assert entered.wait(WAIT_S)
    before = time.monotonic()
    model.close()
    assert time.monotonic() - before < CLOSE_TIMEOUT_MS / 1000 / 2
    assert isinstance(request.failure(), KeyError)


@pytest.fixture(scope="module")
def halver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model large enough that two devices are busy at the same time."""
    data = parameter("data", [1, 1_000_000])
    model = ov.Model([ops.result(ops.multiply(data, ops.constant(np.float32(0.5))))], [data], "halver")
    return save(model, tmp_path_factory.mktemp("halver") / "halver.xml")


# Runs in a process of its own: OpenVINO recycles idle threads inside a process, and how they treat denormal numbers
# stays with the thread, unless the device says that it keeps them.
WHO_ANSWERS = """
import json, sys, threading
import numpy as np
from orchestrator.backend.base import CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend

path, device, properties = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
kept = {"CPU_DENORMALS_OPTIMIZATION": "NO"}
own = {"CPU": {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1", **kept}, "XPU": {"NUM_STREAMS": "1"}}
model = OpenVinoBackend().compile(CompileRequest(path, device, properties, own))
actual = model.actual()
ended = threading.Semaphore(0)
requests = [model.create_request(ended.release) for _ in range(4)]
data = np.full((1, 1_000_000), 1e-39, np.float32)
flushed = set()
for _ in range(200):
    for request in requests:
        request.start([data])
    assert all([ended.acquire(timeout=20) for _ in requests])
    flushed |= {bool(request.outputs()[0][0, -1] == 0) for request in requests}
    if len(flushed) == 2:
        break
model.close()
print(json.dumps([actual.execution_devices, actual.optimal_requests, actual.streams, actual.threads, sorted(flushed)]))
"""


@pytest.mark.parametrize(("device", "properties"), [("AUTO:XPU,CPU", CUMULATIVE), ("MULTI:XPU,CPU", {})])
def test_two_devices_both_get_work(halver: str, device: str, properties: dict[str, str]) -> None:
    plugins = json.dumps([plugin.model_dump() for plugin in TWO_DEVICES])
    environment = {**os.environ, "ORCH_OPENVINO_PLUGINS": plugins, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WHO_ANSWERS, halver, device, json.dumps(properties)]
    output = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True).stdout
    devices, optimal, streams, threads, flushed = json.loads(output)
    assert devices == ["XPU", "CPU"]
    assert (optimal, streams, threads) == (2, 2, 2)
    # XPU flushes a denormal number to zero, CPU keeps it. A free device takes the next request, so where each start
    # takes longer than an inference, as on a machine that is busy elsewhere, a few rounds may all go to one.
    assert flushed == [False, True]


def test_an_alias_is_listed_with_what_its_device_says() -> None:
    inventory = OpenVinoBackend(TWO_DEVICES).inventory()
    assert {"CPU", "XPU"} <= {device.name for device in inventory.devices}
    assert "CPU2" not in {device.name for device in inventory.devices}
    alias, processor = inventory.device("XPU"), inventory.device("CPU")
    assert alias is not None
    assert processor is not None
    assert alias.properties == processor.properties
    assert alias.capabilities == processor.capabilities


def test_plugins_come_from_the_environment_or_not_at_all() -> None:
    assert read_aliases({}) == ()
    text = '[{"name": "CPU2", "library": "intel_cpu", "device_properties": {"NUM_STREAMS": "1"}}]'
    expected = (PluginAlias(name="CPU2", library="intel_cpu", device_properties={"NUM_STREAMS": "1"}),)
    assert read_aliases({"ORCH_OPENVINO_PLUGINS": text}) == expected
    with pytest.raises(OrchError) as caught:
        read_aliases({"ORCH_OPENVINO_PLUGINS": "[{]"})
    assert caught.value.kind is Kind.INVALID
