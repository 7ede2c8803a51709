"""Tensors through shared memory, by unmodified tritonclient over HTTP and gRPC, with OpenVINO models."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as triton_shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from benchmarks import topologies
from benchmarks.reload_under_load import WorkerProcess, a_plan
from orchestrator.backend.base import Array, CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.serving.dataplane import Served
from orchestrator.serving.grpc_server import GrpcServer
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.shared_tensors import PIECE_BYTES
from tests.serving.http_serving import DEADLINE_S, Doubler, Running, X, a_loop, a_served, get, openvino_models, serving
from tests.serving.test_http_protocol import KEPT, in_process
from tests.serving.wire_cases import WireCase

ROOT = Path(__file__).parents[2]
NAMES = [f"identity_{name}" for name in topologies.IDENTITY_TYPES] + ["two_in_two_out", "tiny_mlp"]


@dataclass
class Caller:
    """tritonclient of one transport."""

    module: Any
    client: Any

    def infer(self, model: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        return self.client.infer(model, inputs, outputs=outputs)

    def given(self, name: str, datatype: str, shape: Sequence[int], region: str, size: int, offset: int = 0) -> Any:
        tensor = self.module.InferInput(name, list(shape), datatype)
        tensor.set_shared_memory(region, size, offset)
        return tensor

    def sent(self, name: str, datatype: str, array: Array) -> Any:
        tensor = self.module.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        return tensor

    def wanted(self, name: str, region: str, size: int, offset: int = 0) -> Any:
        output = self.module.InferRequestedOutput(name)
        output.set_shared_memory(region, size, offset)
        return output

    def listed(self) -> dict[str, int]:
        """Return the registered regions and their sizes."""
        status = self.client.get_system_shared_memory_status()
        if isinstance(status, list):
            return {region["name"]: region["byte_size"] for region in status}
        return {name: region.byte_size for name, region in status.regions.items()}

    def refused(self, model: str, inputs: Sequence[Any], outputs: Sequence[Any] = ()) -> str:
        with pytest.raises(InferenceServerException) as caught:
            self.infer(model, inputs, outputs)
        return f"{caught.value.status()} {caught.value.message()}"


@contextmanager
def an_object(size: int) -> Iterator[tuple[Any, str]]:
    """Create shared memory as clients do; yield tritonclient's handle and the key."""
    key = f"orch-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    handle = triton_shm.create_shared_memory_region(key, key, size, create_only=True)
    try:
        yield handle, key
    finally:
        triton_shm.destroy_shared_memory_region(handle)


def put(handle: Any, data: bytes, offset: int = 0) -> None:
    handle._mpsm_handle.buf[offset : offset + len(data)] = data


def taken(handle: Any, size: int, offset: int = 0) -> bytes:
    return bytes(handle._mpsm_handle.buf[offset : offset + size])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    models = openvino_models(NAMES, tmp_path_factory.mktemp("models"))
    yield models
    for served in models.values():
        served.pool.close()


@contextmanager
def both(loop: asyncio.AbstractEventLoop, models: dict[str, Served]) -> Iterator[tuple[Running, str]]:
    """Serve over HTTP and gRPC with one table of regions."""
    with serving(loop, models) as running:
        running.plane.regions = Regions(None)
        server = GrpcServer(running.plane, "127.0.0.1:0")
        port = asyncio.run_coroutine_threadsafe(server.start(), loop).result(DEADLINE_S)
        try:
            yield running, f"127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(DEADLINE_S)


@contextmanager
def calling(transport: str, http: str, grpc: str) -> Iterator[Caller]:
    module: Any = tritonclient.http if transport == "http" else tritonclient.grpc
    with module.InferenceServerClient(http if transport == "http" else grpc) as client:
        yield Caller(module, client)


@pytest.fixture(params=["http", "grpc"])
def caller(request: Any, loop: asyncio.AbstractEventLoop, models: dict[str, Served]) -> Iterator[Caller]:
    with both(loop, models) as (running, grpc), calling(request.param, running.address, grpc) as caller:
        yield caller


# Tensors


@pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
def test_a_tensor_of_every_datatype_goes_and_comes_through_shared_memory(caller: Caller, case: WireCase) -> None:
    model, size = f"identity_{case.datatype.lower()}", len(case.wire)
    with an_object(4096) as (handle, key):
        caller.client.register_system_shared_memory("frames", key, 4096)
        put(handle, case.wire, 64)
        result = caller.infer(
            model,
            [caller.given("data", case.datatype, case.shape, "frames", size, 64)],
            [caller.wanted("same", "frames", 1024, 2048)],
        )
        assert taken(handle, size, 2048) == case.wire
        output = result.get_output("same")
        shape = output["shape"] if isinstance(output, dict) else output.shape
        assert list(shape) == list(case.shape)


def test_bytes_are_written_as_tritonclient_serialises_them(caller: Caller) -> None:
    texts = np.array([[b"ab", b"", "é".encode()]], np.object_)
    wire = serialize_byte_tensor(texts).item()
    with an_object(256) as (handle, key):
        caller.client.register_system_shared_memory("texts", key, 256)
        triton_shm.set_shared_memory_region(handle, [serialize_byte_tensor(texts)])
        given = caller.given("data", "BYTES", (1, 3), "texts", len(wire))
        caller.infer("identity_bytes", [given], [caller.wanted("same", "texts", 100, 128)])
        assert triton_shm.get_contents_as_numpy(handle, np.object_, [1, 3], 128).tolist() == texts.tolist()
        put(handle, b"\xff\xff\xff\x7f")  # a length that reaches beyond the data
        assert "beyond the end" in caller.refused("identity_bytes", [given])


def test_answers_are_those_of_the_model_in_process_wherever_each_tensor_lies(
    caller: Caller, models: dict[str, Served]
) -> None:
    features = np.random.default_rng(7).standard_normal((3, 16)).astype(np.float32)
    group = np.array([1, 9, 4])
    scores, best = in_process(models["two_in_two_out"], features, group)
    with an_object(4096) as (handle, key):
        caller.client.register_system_shared_memory("frames", key, 4096)
        put(handle, features.tobytes())
        result = caller.infer(
            "two_in_two_out",
            [caller.sent("group", "INT64", group), caller.given("features", "FP32", (3, 16), "frames", 192)],
            [caller.wanted("scores", "frames", scores.nbytes, 1024), caller.module.InferRequestedOutput("best")],
        )
        assert taken(handle, scores.nbytes, 1024) == scores.tobytes()
        assert result.as_numpy("best").tobytes() == best.tobytes()
        put(handle, group.tobytes(), 512)
        result = caller.infer(
            "two_in_two_out",
            [
                caller.given("group", "INT64", (3,), "frames", 24, 512),
                caller.given("features", "FP32", (3, 16), "frames", 192),
            ],
            [caller.module.InferRequestedOutput("best"), caller.module.InferRequestedOutput("scores")],
        )
        assert result.as_numpy("scores").tobytes() == scores.tobytes()
        assert result.as_numpy("best").tobytes() == best.tobytes()


def test_each_request_sees_what_lies_there_now(caller: Caller) -> None:
    with an_object(64) as (handle, key):
        caller.client.register_system_shared_memory("frames", key, 64)
        given = caller.given("data", "INT32", (1, 2), "frames", 8)
        for number in range(5):
            put(handle, np.array([number, -number], np.int32).tobytes())
            result = caller.infer("identity_int32", [given], [caller.wanted("same", "frames", 8, 32)])
            assert np.frombuffer(taken(handle, 8, 32), np.int32).tolist() == [number, -number]
        assert result is not None


def test_large_tensors_come_whole_too_and_an_object_cut_amid_them_is_an_error(caller: Caller) -> None:
    size = 2 * PIECE_BYTES + 4096
    data = np.random.default_rng(3).integers(0, 256, size, np.uint8).tobytes()
    with an_object(2 * size) as (handle, key):
        caller.client.register_system_shared_memory("frames", key, 2 * size)
        put(handle, data)
        given = caller.given("data", "UINT8", (1, size), "frames", size)
        caller.infer("identity_uint8", [given], [caller.wanted("same", "frames", size, size)])
        assert taken(handle, size, size) == data
        os.truncate(Path("/dev/shm", key), PIECE_BYTES)
        assert "has become smaller" in caller.refused("identity_uint8", [given])
        os.truncate(Path("/dev/shm", key), 2 * size)


def test_a_region_begins_where_it_was_registered(caller: Caller) -> None:
    with an_object(128) as (handle, key):
        caller.client.register_system_shared_memory("second", "/" + key, 64, 64)
        put(handle, np.array([[7]], np.int32).tobytes(), 68)
        given = caller.given("data", "INT32", (1, 1), "second", 4, 4)
        caller.infer("identity_int32", [given], [caller.wanted("same", "second", 4, 60)])
        assert np.frombuffer(taken(handle, 4, 124), np.int32).tolist() == [7]


# Registering


def test_regions_are_listed_and_forgotten(caller: Caller) -> None:
    with an_object(64) as (_, key):
        for number in range(2):
            caller.client.register_system_shared_memory(f"r{number}", key, 32, 32 * number)
        assert caller.listed() == {"r0": 32, "r1": 32}
        assert "r1" in str(caller.client.get_system_shared_memory_status("r1"))
        caller.client.unregister_system_shared_memory("r1")
        assert caller.listed() == {"r0": 32}
        with pytest.raises(InferenceServerException, match="'r1': is not registered"):
            caller.client.get_system_shared_memory_status("r1")
        with pytest.raises(InferenceServerException, match="is registered already"):
            caller.client.register_system_shared_memory("r0", key, 32, 32)
        caller.client.unregister_system_shared_memory()
        assert caller.listed() == {}


def test_the_first_calls_of_tritons_examples_work(caller: Caller) -> None:
    caller.client.unregister_system_shared_memory()
    caller.client.unregister_cuda_shared_memory()
    assert caller.client.get_cuda_shared_memory_status() is not None
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not offered: OpenVINO does not read it"):
        caller.client.register_cuda_shared_memory("c", b"aGFuZGxl", 0, 64)
    metadata = caller.client.get_server_metadata()
    names = metadata["extensions"] if isinstance(metadata, dict) else metadata.extensions
    assert "system_shared_memory" in names


@pytest.mark.parametrize("key", ["/etc/passwd", "../etc/passwd", "no-such-object", ""])
def test_only_shared_memory_objects_can_be_registered(caller: Caller, key: str) -> None:
    with pytest.raises(InferenceServerException, match=r"shared memory (key|object)"):
        caller.client.register_system_shared_memory("r", key, 1)
    assert caller.listed() == {}


# What goes wrong


def test_a_wrong_place_is_refused_and_says_what_is_wrong(caller: Caller) -> None:
    with an_object(64) as (_, key):
        caller.client.register_system_shared_memory("frames", key, 64)
        cases = [
            (caller.given("data", "INT32", (1, 2), "nowhere", 8), "'nowhere' is not registered"),
            (caller.given("data", "INT32", (1, 2), "frames", 8, 60), "ends at byte 68"),
            (caller.given("data", "INT32", (1, 2), "frames", 12), "needs 8 bytes, shared_memory_byte_size says 12"),
        ]
        for given, text in cases:
            assert text in caller.refused("identity_int32", [given])
        good = caller.given("data", "INT32", (1, 2), "frames", 8)
        for name, size, offset, text in (
            ("nowhere", 8, 0, "'nowhere' is not registered"),
            ("frames", 8, 57, "ends at byte 65"),
            ("frames", 4, 0, "has 8 bytes, shared_memory_byte_size says 4"),
        ):
            assert text in caller.refused("identity_int32", [good], [caller.wanted("same", name, size, offset)])


def test_an_object_that_was_cut_gives_an_error_and_the_server_lives(caller: Caller) -> None:
    with an_object(1 << 20) as (handle, key):
        caller.client.register_system_shared_memory("frames", key, 1 << 20)
        given = caller.given("data", "UINT8", (1, 1 << 19), "frames", 1 << 19)
        wanted = caller.wanted("same", "frames", 1 << 19, 1 << 19)
        put(handle, b"\x05" * 16)
        caller.infer("identity_uint8", [given], [wanted])
        assert taken(handle, 16, 1 << 19) == b"\x05" * 16
        os.truncate(Path("/dev/shm", key), 4096)
        assert "has become smaller" in caller.refused("identity_uint8", [given])
        data = np.array([[3]], np.uint8)
        result = caller.infer(
            "identity_uint8", [caller.sent("data", "UINT8", data)], [caller.module.InferRequestedOutput("same")]
        )
        assert result.as_numpy("same").tolist() == [[3]]
        os.truncate(Path("/dev/shm", key), 1 << 20)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_region_that_is_unregistered_while_the_inference_runs_is_still_written(
    loop: asyncio.AbstractEventLoop, transport: str
) -> None:
    doubler = Doubler.make()
    with (
        both(loop, {"double": doubler.served}) as (running, grpc),
        calling(transport, running.address, grpc) as caller,
        an_object(64) as (handle, key),
        ExitStack() as stack,
    ):
        stack.callback(doubler.pool.close)
        caller.client.register_system_shared_memory("frames", key, 64)
        put(handle, X.tobytes())
        inputs, outputs = [caller.given("x", "FP32", X.shape, "frames", 16)], [caller.wanted("y", "frames", 16, 32)]
        if transport == "http":
            pending = caller.client.async_infer("double", inputs, outputs=outputs)
        else:
            ended: list[Any] = []
            caller.client.async_infer("double", inputs, lambda result, error: ended.append(error), outputs=outputs)
        running.until(lambda: len(doubler.backend.compiled[0].running()) > 0)
        running.on_loop(lambda: running.plane.regions.unregister(""))
        put(handle, b"\0" * 16)  # read when it arrived: what is written now is the next frame
        doubler.finish(running)
        if transport == "http":
            pending.get_result()
        else:
            running.until(lambda: bool(ended))
            assert ended == [None]
        assert taken(handle, 16, 32) == (X * 2).tobytes()


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_tensors_from_shared_memory_count_as_memory_of_the_queue(
    loop: asyncio.AbstractEventLoop, transport: str
) -> None:
    doubler = Doubler.make(sizes=(1, 4096), memory_bytes=10_000)
    with (
        both(loop, {"double": doubler.served}) as (running, grpc),
        calling(transport, running.address, grpc) as caller,
        an_object(1 << 14) as (_, key),
        ExitStack() as stack,
    ):
        stack.callback(doubler.pool.close)
        caller.client.register_system_shared_memory("frames", key, 1 << 14)
        text = caller.refused("double", [caller.given("x", "FP32", (1, 4096), "frames", 1 << 14)])
        assert "larger than the memory of the whole queue" in text
        assert running.on_loop(lambda: running.pool("double").snapshot().queued_bytes) == 0


def test_paths_and_methods_that_are_not_of_the_extension_are_refused(
    loop: asyncio.AbstractEventLoop, models: dict[str, Served]
) -> None:
    with both(loop, models) as (running, _), running.connect() as wire:
        asks = [
            (get("/v2/systemsharedmemory/status"), 200),
            (get("/v2/systemsharedmemory/status", method="POST"), 405),
            (get("/v2/systemsharedmemory/unregister"), 405),
            (get("/v2/systemsharedmemory/region/r/register", method="POST"), 400),
            (get("/v2/systemsharedmemory/register", method="POST"), 404),
            (get("/v2/systemsharedmemory/region/r"), 404),
            (get("/v2/systemsharedmemory"), 404),
            (get("/v2/cudasharedmemory/status"), 200),
            (get("/v2/cudasharedmemory/region/r/status"), 404),
        ]
        assert [wire.ask(ask).status for ask, _ in asks] == [status for _, status in asks]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"{}", b'{"key": 1, "byte_size": 1}', b'{"key": "k", "byte_size": "1"}', b'{"key": "k"}']
)
def test_a_registration_that_is_no_registration_is_refused(
    loop: asyncio.AbstractEventLoop, models: dict[str, Served], body: bytes
) -> None:
    with both(loop, models) as (running, _), running.connect() as wire:
        head = (
            f"POST /v2/systemsharedmemory/region/r/register HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        assert wire.ask(head.encode() + body).status == 400


def test_without_leave_nothing_is_read(loop: asyncio.AbstractEventLoop, models: dict[str, Served]) -> None:
    with serving(loop, models) as running, running.connect() as wire:
        assert "system_shared_memory" not in wire.ask(get("/v2")).json["extensions"]
        reply = wire.ask(get("/v2/systemsharedmemory/status"))
        assert (reply.status, "not offered here" in reply.error) == (400, True)


# The page for users


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_the_documented_camera_runs(loop: asyncio.AbstractEventLoop, transport: str) -> None:
    page = (ROOT / "docs/shared-memory.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- camera -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    digits = OpenVinoBackend(()).compile(CompileRequest(str(ROOT / "deployments/models/digits.onnx"), "CPU", {}))
    with both(loop, {"digits": a_served("digits", digits)}) as (running, grpc), ExitStack() as stack:
        stack.callback(running.pool("digits").close)
        address = running.address if transport == "http" else grpc
        program = found[1].replace("127.0.0.1:8000", address).replace("tritonclient.http", f"tritonclient.{transport}")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"(frame \d: a \d, [01]\.\d\d\n){3}", done.stdout)
        assert running.on_loop(running.plane.regions.status) == []


# The next worker


def test_the_next_worker_serves_what_was_registered_with_the_last(tmp_path: Path) -> None:
    plan = a_plan("tiny_mlp", tmp_path / "models", {"streams": 1, "threads": 1})
    with an_object(4096) as (handle, key):
        with WorkerProcess(tmp_path / "state", plan) as worker:
            endpoint = worker.until_state("Serving")["endpoint"]
            with calling("http", endpoint["http"].removeprefix("http://"), "") as caller:
                caller.client.register_system_shared_memory("frames", key, 4096)
                first = infer_mlp(caller, handle)
            worker.process.terminate()
            assert worker.process.wait(DEADLINE_S) == 0
        with WorkerProcess(tmp_path / "state", plan) as worker:
            endpoint = worker.until_state("Serving")["endpoint"]
            with calling("grpc", "", endpoint["grpc"]) as caller:
                assert infer_mlp(caller, handle) == first


def infer_mlp(caller: Caller, handle: Any) -> bytes:
    model = caller.client.get_model_metadata(
        "model", **({"as_json": True} if caller.module is tritonclient.grpc else {})
    )
    (info,), (output,) = model["inputs"], model["outputs"]
    array = np.linspace(-1, 1, 16, dtype=np.float32)
    put(handle, array.tobytes())
    put(handle, b"\0" * 64, 2048)
    given = caller.given(info["name"], "FP32", (1, 16), "frames", array.nbytes)
    caller.infer("model", [given], [caller.wanted(output["name"], "frames", 1024, 2048)])
    answer = taken(handle, 64, 2048)
    assert answer != b"\0" * 64
    return answer
