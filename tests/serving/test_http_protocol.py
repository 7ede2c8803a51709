"""The Open Inference Protocol over HTTP with OpenVINO models, called by unmodified tritonclient."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from benchmarks import topologies
from orchestrator.backend.base import Array
from orchestrator.serving.dataplane import Served
from tests.serving.http_serving import (
    DEADLINE_S,
    Doubler,
    Running,
    a_loop,
    double_request,
    get,
    infer_json,
    openvino_models,
    post,
    serving,
)
from tests.serving.wire_cases import WIRE_CASES, WireCase, same

NAMES = [f"identity_{name}" for name in topologies.IDENTITY_TYPES] + ["two_in_two_out", "dynamic_seq", "tiny_mlp"]
NARROWED = {"the range of UINT64", "the range of INT64"}  # computed in 32 bits on CPU, see topologies.identity
KEPT = [case for case in WIRE_CASES if case.name not in NARROWED]
each_kept_case = pytest.mark.parametrize("case", KEPT, ids=lambda case: case.name)
METADATA_KEYS = {"name", "versions", "platform", "inputs", "outputs"}


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


@pytest.fixture
def running(loop: asyncio.AbstractEventLoop, models: dict[str, Served]) -> Iterator[Running]:
    with serving(loop, models) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(running.address, network_timeout=DEADLINE_S) as client:
        yield client


def given(name: str, datatype: str, array: Array, *, binary: bool = True) -> tritonclient.http.InferInput:
    tensor = tritonclient.http.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array.view(ml_dtypes.bfloat16) if datatype == "BF16" else array, binary_data=binary)
    return tensor


def in_process(served: Served, *arrays: Array) -> tuple[Array, ...]:
    """Return what the model answers without a server."""
    import threading

    ended = threading.Event()
    request = served.pool.compiled.create_request(ended.set)
    request.start(arrays)
    assert ended.wait(DEADLINE_S)
    return request.outputs()


# Every datatype, both forms


@pytest.mark.parametrize(
    ("case", "binary_output"),
    [(case, binary) for case in KEPT for binary in (True, False) if binary or case.values is not None],
)
def test_a_tensor_comes_back_as_it_went(
    client: tritonclient.http.InferenceServerClient, case: WireCase, binary_output: bool
) -> None:
    wanted = [tritonclient.http.InferRequestedOutput("same", binary_data=binary_output)]
    result = client.infer(
        f"identity_{case.datatype.lower()}", [given("data", case.datatype, case.array)], outputs=wanted, request_id="7"
    )
    assert result.get_response()["id"] == "7"
    assert same(result.as_numpy("same"), clients_view(case, binary_output))


def clients_view(case: WireCase, binary: bool) -> Array:
    if case.datatype == "BYTES" and not binary:
        return np.array(case.values, np.object_).reshape(case.shape)  # tritonclient leaves JSON's texts as they are
    return case.array.view(ml_dtypes.bfloat16) if case.datatype == "BF16" else case.array


@each_kept_case
def test_json_data_is_answered_like_binary_data(running: Running, case: WireCase) -> None:
    name = f"identity_{case.datatype.lower()}"
    data = {
        "name": "data",
        "datatype": case.datatype,
        "shape": case.shape,
        "data": [0, 0] if case.values is None else case.values,
    }
    with running.connect() as wire:
        reply = wire.ask(post(name, infer_json(data, parameters={"binary_data_output": True})))
        if case.values is None:
            assert (reply.status, "no JSON form" in reply.error) == (400, True)
            return
        assert reply.status == 200
        assert reply.tail == case.wire
        again = wire.ask(post(name, infer_json(data)))
    assert again.headers["content-type"] == "application/json"
    assert again.json["outputs"] == [
        {"name": "same", "datatype": case.datatype, "shape": list(case.shape), "data": case.values}
    ]


def test_asyncio_client_gets_each_its_own_answer(running: Running) -> None:
    async def scenario() -> None:
        async with tritonclient.http.aio.InferenceServerClient(running.address) as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(*(one(client, number) for number in range(40)))
        assert answers == list(range(40))

    async def one(client: tritonclient.http.aio.InferenceServerClient, number: int) -> int:
        result = await client.infer("identity_int32", [given("data", "INT32", np.array([[number]], np.int32))])
        return int(result.as_numpy("same")[0, 0])

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


# Shapes, several inputs and outputs


@pytest.mark.parametrize("binary", [True, False])
def test_several_inputs_in_any_order_are_answered_as_in_process(
    client: tritonclient.http.InferenceServerClient, models: dict[str, Served], binary: bool
) -> None:
    features, group = np.linspace(-1, 1, 48, dtype=np.float32).reshape(3, 16), np.array([1, 0, 9])
    scores, best = in_process(models["two_in_two_out"], features, group)
    inputs = [given("features", "FP32", features, binary=binary), given("group", "INT64", group, binary=binary)]
    for order in (inputs, inputs[::-1]):
        result = client.infer("two_in_two_out", order)
        assert same(result.as_numpy("scores"), scores)
        assert same(result.as_numpy("best"), best)


def test_only_the_requested_outputs_come_back_in_the_requested_order(
    client: tritonclient.http.InferenceServerClient,
) -> None:
    inputs = [given("features", "FP32", np.ones((1, 16), np.float32)), given("group", "INT64", np.array([3]))]
    wanted = [
        tritonclient.http.InferRequestedOutput("best", binary_data=False),
        tritonclient.http.InferRequestedOutput("scores"),
    ]
    result = client.infer("two_in_two_out", inputs, outputs=wanted)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["best", "scores"]
    alone = client.infer("two_in_two_out", inputs, outputs=wanted[:1])
    assert alone.as_numpy("scores") is None
    assert alone.as_numpy("best").tolist() == result.as_numpy("best").tolist()


def test_classification_gives_classes(client: tritonclient.http.InferenceServerClient) -> None:
    wanted = [tritonclient.http.InferRequestedOutput("same", class_count=2)]
    tensor = given("data", "FP32", np.array([[1, 3, 2]], np.float32))
    result = client.infer("identity_fp32", [tensor], outputs=wanted)
    assert result.as_numpy("same").tolist() == [[b"3.000000:1", b"2.000000:2"]]


def test_free_dimensions_are_answered_bit_by_bit_as_in_process(
    client: tritonclient.http.InferenceServerClient, models: dict[str, Served]
) -> None:
    noise = np.random.default_rng(1)
    for queries, memory in ((1, 1), (5, 2), (3, 300)):
        arrays = [noise.standard_normal((1, size, 32), np.float32) for size in (queries, memory)]
        result = client.infer("dynamic_seq", [given("queries", "FP32", arrays[0]), given("memory", "FP32", arrays[1])])
        for info, output in zip(
            models["dynamic_seq"].signature.outputs, in_process(models["dynamic_seq"], *arrays), strict=True
        ):
            assert same(result.as_numpy(info.name), output)


def test_rows_of_several_callers_are_gathered_and_split(loop: asyncio.AbstractEventLoop) -> None:
    # Planted bug that this caught: splitting by one row for each request.
    doubler = Doubler.make(sizes=(4, 2), batch=4)
    with serving(loop, {"double": doubler.served}) as running, ExitStack() as stack:
        arrays = [np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + 10 * rows for rows in (1, 2, 1, 3)]
        wires = [stack.enter_context(running.connect()) for _ in arrays]
        for number, (wire, array) in enumerate(zip(wires, arrays, strict=True)):
            wire.send(double_request(x=array))
            running.until(lambda sent=number: running.pool("double").snapshot().queued == sent)  # type: ignore[misc]
        for _ in range(3):  # the first alone, the next two together, the last does not fit with them
            doubler.finish(running)
        assert [wire.reply().tail for wire in wires] == [(array * 2).tobytes() for array in arrays]
    doubler.pool.close()


# Health, metadata, index


def test_health_and_metadata_are_told(client: tritonclient.http.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny_mlp")
    assert client.is_model_ready("tiny_mlp", "1")
    assert not client.is_model_ready("tiny_mlp", "2")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "orch"
    metadata = client.get_model_metadata("two_in_two_out")
    assert metadata.keys() == METADATA_KEYS
    assert metadata["inputs"][1] == {"name": "group", "datatype": "INT64", "shape": [-1]}
    assert [entry["name"] for entry in client.get_model_repository_index()] == sorted(NAMES)
    with pytest.raises(InferenceServerException, match=r"unknown model 'nobody': this endpoint serves dynamic_seq"):
        client.get_model_metadata("nobody")


def test_percent_encoded_names_and_absolute_targets_find_their_model(running: Running) -> None:
    with running.connect() as wire:
        assert wire.ask(get("/v2/models/tiny%5Fmlp")).json["name"] == "tiny_mlp"
        assert wire.ask(get("http://elsewhere:80/v2/models/tiny_mlp?x=1")).json["name"] == "tiny_mlp"
        assert wire.ask(get("/v2/models/tiny_mlp/versions/1/ready")).status == 200
        assert wire.ask(get("/v2/models/%ff%00")).status == 404


@pytest.mark.parametrize(
    ("request_", "status", "allow"),
    [
        (get("/"), 404, None),
        (get("/v2/models/tiny_mlp/infer"), 405, "POST"),
        (get("/v2/repository/index"), 405, "POST"),
        (get("/v2/health/live", method="DELETE"), 405, "GET"),
        (post("tiny_mlp/versions/1/infer/more", b"{}"), 404, None),
        (post("nobody", b"{}"), 404, None),
        (post("tiny_mlp/versions/3", b"{}"), 404, None),
        (get("*", method="OPTIONS"), 404, None),
    ],
)
def test_what_is_not_there_is_told_and_the_connection_goes_on(
    running: Running, request_: bytes, status: int, allow: str | None
) -> None:
    with running.connect() as wire:
        reply = wire.ask(request_)
        assert (reply.status, reply.headers.get("allow")) == (status, allow)
        assert reply.error
        assert reply.json["code"] == ("NOT_FOUND" if status == 404 else "INVALID")
        assert wire.ask(get("/v2/health/live")).status == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/v2/logging"), 404),
        (post("x", b"{}").replace(b"models/x/infer", b"logging"), 404),
        (get("/v2/trace/setting"), 404),
        (post("x", b"{}").replace(b"models/x/infer", b"repository/models/tiny_mlp/load"), 400),
        (post("x", b"{}").replace(b"models/x/infer", b"repository/models/nobody/unload"), 400),
    ],
)
def test_what_clients_may_not_do_is_refused_with_what_to_do_instead(
    running: Running, request_: bytes, status: int
) -> None:
    with running.connect() as wire:
        reply = wire.ask(request_)
        assert reply.status == status
        assert "orch" in reply.error or "traceparent" in reply.error
        assert wire.ask(get("/v2/health/live")).status == 200


def test_head_is_answered_like_get_without_the_body(running: Running) -> None:
    with running.connect() as wire:
        head = wire.send(get("/v2/models/tiny_mlp", method="HEAD")).reply(head_only=True)
        assert (head.status, int(head.headers["content-length"]) > 0) == (200, True)
        assert wire.ask(get("/v2/models/tiny_mlp")).status == 200


# What is wrong with a request is told


DATA = {"name": "data", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the request is not JSON"),
        (b"[]", "the request must be a JSON object, got a list"),
        (b"{", "the request is not JSON"),
        (
            b'{"inputs":[{"parameters":{"binary_data_size":8}}]}' + bytes(8),
            "needs the header Inference-Header-Content-",
        ),
        (b'{"inputs": 3}', "inputs: must be a list, got 3"),
        (infer_json(), "input 'data': is missing (identity_fp32 takes 'data': FP32 [?, ?])"),
        (infer_json(DATA | {"name": "dat"}), "the model has no input 'dat' (did you mean 'data'?)"),
        (infer_json(DATA | {"datatype": "FP64"}), "is FP64, the model takes FP32"),
        (infer_json(DATA | {"datatype": "FLOAT"}), "'FLOAT' is none of BOOL"),
        (infer_json(DATA | {"shape": [2]}), "has shape [2], the model takes [?, ?]"),
        (infer_json(DATA | {"shape": [1, -2]}), "must be integers of at least 0, got -2"),
        (infer_json(DATA | {"shape": [1, 3]}), "shape [1, 3] holds 3 values, got 2"),
        (infer_json(DATA | {"data": [1, "2"]}), "FP32 takes numbers, got a string"),
        (infer_json(DATA | {"data": [1, 1e39]}), "out of range for FP32"),
        (infer_json(DATA, DATA), "'data' is named twice"),
        (infer_json(DATA, outputs=[{"name": "other"}]), "the model has no output 'other'"),
        (infer_json(DATA, parameters={"timeout": -1}), "parameters.timeout: must be an integer of at least 0"),
        (infer_json(DATA | {"parameters": {"binary_data_size": 8}}), "has both data and parameters.binary_data_size"),
        (
            infer_json({"name": "data", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}),
            "the body holds 0 bytes of binary tensors, its inputs say 8",
        ),
        (infer_json(DATA, id=3), "id: must be a string, got 3"),
        (b'{"inputs":' + b"[" * 5000, "not JSON"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_the_connection_goes_on(
    running: Running, body: bytes, told: str
) -> None:
    with running.connect() as wire:
        reply = wire.ask(post("identity_fp32", body))
        assert (reply.status, reply.closes) == (400, False)
        assert told in reply.error
        assert wire.ask(post("identity_fp32", infer_json(DATA))).json["outputs"][0]["data"] == [1.0, 2.0]
    running.until(lambda: running.pool("identity_fp32").snapshot().receiving == 0)


def test_bytes_that_are_no_text_cannot_be_answered_as_json(running: Running) -> None:
    data = {"name": "data", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 5}}
    body = infer_json(data)
    with running.connect() as wire:
        reply = wire.ask(post("identity_bytes", body + b"\1\0\0\0\xff", json_length=len(body)))
        assert (reply.status, "ask for it as binary data" in reply.error) == (400, True)
        bad = wire.ask(post("identity_bytes", body + b"\2\0\0\0\xff", json_length=len(body)))
        assert (bad.status, "BYTES element 0 reaches beyond the end" in bad.error) == (400, True)
        assert wire.ask(get("/v2/health/ready")).status == 200
