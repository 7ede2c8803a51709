"""The gRPC front end over a model that really computes, called by unmodified tritonclient."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import TensorInfo
from orchestrator.serving import oip
from orchestrator.serving.grpc_infer import CONTENTS
from orchestrator.serving.grpc_server import STATUS, GrpcServer
from tests.serving.doubling import MODELS, DoublingPlane, double
from tests.serving.wire_cases import WireCase, each_case, same

DEADLINE_S = 20.0


@dataclass
class Running:
    """A server on a loop in a thread of its own."""

    plane: DoublingPlane
    address: str
    loop: asyncio.AbstractEventLoop

    def run(self, work: Awaitable[Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, DEADLINE_S), self.loop).result(DEADLINE_S)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE_S)
    loop.close()


@pytest.fixture
def running(loop: asyncio.AbstractEventLoop) -> Iterator[Running]:
    yield from serve(loop, DoublingPlane())


def serve(loop: asyncio.AbstractEventLoop, plane: DoublingPlane, **options: Any) -> Iterator[Running]:
    async def begin() -> tuple[GrpcServer, int]:
        server = GrpcServer(plane, "127.0.0.1:0", **options)
        return server, await server.start()

    server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(DEADLINE_S)
    yield Running(plane, f"127.0.0.1:{port}", loop)
    asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(DEADLINE_S)


@pytest.fixture
def client(running: Running) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with tritonclient.grpc.InferenceServerClient(running.address) as client:
        yield client


@pytest.fixture
def channel(running: Running) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.address) as channel:
        yield channel


Call = Callable[..., service_pb2.ModelInferResponse]


@pytest.fixture
def infer(channel: grpc.Channel) -> Call:
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelInferResponse.FromString,
    )
    return lambda request, **options: method(request, timeout=DEADLINE_S, **options)


def a_request(datatype: str = "FP32", shape: tuple[int, ...] = (1, 2), *raws: bytes) -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=f"double-{datatype}", raw_input_contents=raws)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return message


def refused(infer: Call, request: service_pb2.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        infer(request)
    return caught.value.code(), caught.value.details()


def clients_view(datatype: str, array: Array) -> Array:
    return array.view(ml_dtypes.bfloat16) if datatype == "BF16" else array


# Every datatype, both forms.


@each_case
def test_tritonclient_gets_twice_what_it_sent(client: tritonclient.grpc.InferenceServerClient, case: WireCase) -> None:
    given = tritonclient.grpc.InferInput("x", case.shape, case.datatype)
    given.set_data_from_numpy(clients_view(case.datatype, case.array))
    result = client.infer(f"double-{case.datatype}", [given], request_id="r-7", client_timeout=DEADLINE_S)
    assert result.get_response().id == "r-7"
    assert same(result.as_numpy("y"), clients_view(case.datatype, double(case.datatype, case.array)))


@each_case
def test_raw_bytes_are_answered_with_raw_bytes(infer: Call, case: WireCase) -> None:
    response = infer(a_request(case.datatype, case.shape, case.wire))
    (raw,) = response.raw_output_contents
    output = response.outputs[0]
    assert (output.name, output.datatype, tuple(output.shape)) == ("y", case.datatype, case.shape)
    doubled = double(case.datatype, case.array)
    assert raw == (oip.encode_bytes(doubled) if case.datatype == "BYTES" else doubled.tobytes())


@each_case
def test_typed_contents_are_answered_like_raw_bytes(infer: Call, case: WireCase) -> None:
    request = a_request(case.datatype, case.shape)
    if case.values is None:
        assert "send it in raw_input_contents" in refused(infer, request)[1]
        return
    values = [str(value).encode() for value in case.values] if case.datatype == "BYTES" else case.values
    getattr(request.inputs[0].contents, CONTENTS[case.datatype]).extend(values)
    raw = infer(a_request(case.datatype, case.shape, case.wire))
    assert infer(request) == raw


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8", "BOOL"])
def test_long_typed_contents_are_answered_like_raw_bytes(infer: Call, datatype: str) -> None:
    array = (np.arange(10_001) % 120).astype(DTYPES[datatype]).reshape(1, -1)
    request = a_request(datatype, array.shape)
    getattr(request.inputs[0].contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    assert list(infer(request).raw_output_contents) == [double(datatype, array).tobytes()]


def test_contents_with_fields_of_a_later_protocol_are_read(infer: Call) -> None:
    request = a_request("FP32", (1, 3))
    request.inputs[0].contents.MergeFromString(
        b"\x32\x0c" + np.array([1, 2, 3], np.float32).tobytes() + b"\xfa\x07\x01x"
    )
    assert np.frombuffer(infer(request).raw_output_contents[0], np.float32).tolist() == [2, 4, 6]


def test_a_value_out_of_range_behind_many_is_refused(infer: Call) -> None:
    request = a_request("UINT8", (1, 9000))
    request.inputs[0].contents.uint_contents.extend([1] * 8999 + [256])
    assert refused(infer, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'x': a value is out of range for UINT8",
    )


def test_every_datatype_of_the_protocol_is_in_the_table_of_contents_or_has_none() -> None:
    assert set(DTYPES) - set(CONTENTS) == {"FP16", "BF16"}


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_asyncio_client_gets_twice_what_it_sent(run: Callable[[Awaitable[None]], None]) -> None:
    async def scenario() -> None:
        plane = DoublingPlane()
        server = GrpcServer(plane, "127.0.0.1:0")
        port = await server.start()
        async with tritonclient.grpc.aio.InferenceServerClient(f"127.0.0.1:{port}") as client:
            answers = await asyncio.gather(*(one(client, number) for number in range(20)))
        await server.stop(1)
        assert answers == [2 * number for number in range(20)]
        assert plane.held == 0

    async def one(client: Any, number: int) -> int:
        given = tritonclient.grpc.InferInput("x", [1, 1], "INT64")
        given.set_data_from_numpy(np.array([[number]]))
        result = await client.infer("double-INT64", [given])
        return int(result.as_numpy("y")[0, 0])

    run(asyncio.wait_for(scenario(), DEADLINE_S))


def test_several_inputs_in_any_order_reach_their_places(client: tritonclient.grpc.InferenceServerClient) -> None:
    left = tritonclient.grpc.InferInput("left", [2, 3], "FP32")
    left.set_data_from_numpy(np.full((2, 3), 1.5, np.float32))
    right = tritonclient.grpc.InferInput("right", [2], "INT64")
    right.set_data_from_numpy(np.array([3, 4]))
    wanted = [tritonclient.grpc.InferRequestedOutput("right_doubled")]
    for inputs in ([left, right], [right, left]):
        result = client.infer("pair", inputs, outputs=wanted, model_version="1")
        assert result.as_numpy("right_doubled").tolist() == [6, 8]
        assert result.as_numpy("left_doubled") is None
        assert client.infer("pair", inputs).as_numpy("left_doubled").tolist() == [[3.0] * 3] * 2


def test_classification_gives_classes(client: tritonclient.grpc.InferenceServerClient) -> None:
    given = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
    given.set_data_from_numpy(np.array([[1, 3, 2]], np.float32))
    wanted = [tritonclient.grpc.InferRequestedOutput("y", class_count=2)]
    result = client.infer("double-FP32", [given], outputs=wanted)
    assert result.as_numpy("y").tolist() == [[b"6.000000:1", b"4.000000:2"]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(data=st.data())
def test_unaligned_tensors_are_read_rightly(infer: Call, data: st.DataObject) -> None:
    request = a_request("FP64", (1, 2), np.array([1.5, -2.0]).tobytes())
    request.parameters["padding"].string_param = "x" * data.draw(st.integers(0, 16))
    assert infer(request).raw_output_contents == [np.array([3.0, -4.0]).tobytes()]


# Health and metadata.


def test_health_and_metadata_are_told(client: tritonclient.grpc.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pair")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata(as_json=True)["name"] == "orch"
    metadata = client.get_model_metadata("pair", as_json=True)
    assert metadata["inputs"][0] == {"name": "left", "datatype": "FP32", "shape": ["-1", "3"]}
    index = client.get_model_repository_index(as_json=True)["models"]
    assert [entry["name"] for entry in index] == sorted([*MODELS, "pair"])
    with pytest.raises(InferenceServerException, match="unknown model 'nobody'"):
        client.get_model_metadata("nobody")


# Refusals.


def test_every_kind_of_error_has_a_status() -> None:
    assert set(STATUS) == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_refusal_arrives_with_its_status_and_text(running: Running, infer: Call, kind: Kind) -> None:
    running.plane.refusal = OrchError(kind, "not now", hint="wait")
    assert refused(infer, a_request("FP32", (1, 1), b"\0" * 4)) == (STATUS[kind], "not now (wait)")


def test_overload_says_when_to_come_back(running: Running, infer: Call) -> None:
    running.plane.refusal = OrchError(Kind.OVERLOADED, "full", retry_after_s=0.12)
    with pytest.raises(grpc.RpcError) as caught:
        infer(a_request("FP32", (1, 1), b"\0" * 4))
    assert ("grpc-retry-pushback-ms", "120") in caught.value.trailing_metadata()


def test_a_full_pool_refuses_before_the_tensors_are_read(running: Running, infer: Call) -> None:
    running.plane.refusal = OrchError(Kind.OVERLOADED, "full")
    assert refused(infer, a_request("FP32", (7, 7), b"bad"))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


def broken(change: Callable[[service_pb2.ModelInferRequest], object]) -> service_pb2.ModelInferRequest:
    request = a_request("FP32", (1, 2), b"\0" * 8)
    change(request)
    return request


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (a_request("FP32", (1, 2), b"\0" * 7), "needs 8 bytes, raw_input_contents has 7"),
        (a_request("FP32", (1, 2), b"\0" * 8, b""), "1 inputs come with 2 raw_input_contents"),
        (a_request("FP32", (1, -2), b""), "inputs[0].shape: must be integers of at least 0, got -2"),
        (a_request("FP32", (2**62, 2**62), b""), "inputs[0].shape: holds more than"),
        (a_request("FP32", (1, 2)), "shape [1, 2] holds 2 values, fp32_contents has 0"),
        (a_request("BYTES", (1, 2), b"\1\0\0\0a"), "BYTES"),
        (broken(lambda r: r.inputs[0].contents.fp32_contents.append(1)), "contents beside raw_input_contents"),
        (broken(lambda r: r.inputs.add(name="x", datatype="FP32")), "'x' is named twice"),
        (broken(lambda r: setattr(r.inputs[0], "name", "z")), "the model has no input 'z'"),
        (broken(lambda r: setattr(r.inputs[0], "datatype", "FP31")), "'FP31' is none of"),
        (broken(lambda r: r.outputs.add(name="q")), "the model has no output 'q'"),
        (broken(lambda r: r.parameters["timeout"].MergeFrom(service_pb2.InferParameter(string_param="1s"))), "timeout"),
    ],
)
def test_a_bad_request_is_refused_and_its_place_given_back(
    running: Running, infer: Call, request_: service_pb2.ModelInferRequest, told: str
) -> None:
    code, text = refused(infer, request_)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert told in text
    assert running.plane.held == 0


def test_typed_values_out_of_range_or_of_another_type_are_refused(infer: Call) -> None:
    request = a_request("UINT8", (1, 1))
    request.inputs[0].contents.uint_contents.append(300)
    assert "a value is out of range for UINT8" in refused(infer, request)[1]
    request = a_request("INT32", (1, 1))
    request.inputs[0].contents.fp32_contents.append(1.0)
    assert "INT32 comes in int_contents or raw_input_contents, got fp32_contents" in refused(infer, request)[1]


METHODS = [
    "ModelInfer",
    "ModelReady",
    "ModelMetadata",
    "RepositoryIndex",
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(method=st.sampled_from(METHODS), data=st.binary(max_size=60))
def test_any_bytes_get_an_answer_or_a_refusal_of_the_callers_mistake(
    channel: grpc.Channel, method: str, data: bytes
) -> None:
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    try:
        call(data, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        if error.code() not in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}:
            raise


def test_methods_that_are_not_offered_are_told_so(client: tritonclient.grpc.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"UNIMPLEMENTED.*cannot load models: manifests"):
        client.load_model("pair")


def test_a_bug_of_ours_is_internal_and_the_server_lives_on(
    running: Running, infer: Call, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = oip.Signature("double-FP32", "1", MODELS["double-FP32"].inputs, (), 1)
    running.plane.models["double-FP32"] = wrong
    assert refused(infer, a_request("FP32", (1, 1), b"\0" * 4)) == (
        grpc.StatusCode.INTERNAL,
        "internal error; the server's log has it",
    )
    assert "an unexpected error" in caplog.text
    running.plane.models["double-FP32"] = MODELS["double-FP32"]
    assert infer(a_request("FP32", (1, 1), b"\0" * 4)).raw_output_contents == [b"\0" * 4]


def test_a_model_that_changed_is_planned_anew(running: Running, infer: Call) -> None:
    request = a_request("FP32", (1, 1), b"\0" * 4)
    infer(request)
    info = TensorInfo(name="x", datatype="INT32", shape=MODELS["double-FP32"].inputs[0].shape)
    running.plane.models["double-FP32"] = oip.Signature("double-FP32", "1", (info,), (), 1)
    assert "is FP32, the model takes INT32" in refused(infer, request)[1]


# Limits, deadlines, cancellation, tokens.


def test_a_message_over_the_limit_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    for running in serve(loop, DoublingPlane(), max_message_bytes=1000):
        with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\0" * 1001, timeout=DEADLINE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_shorter_of_deadline_and_timeout_parameter_is_the_requests(running: Running, infer: Call) -> None:
    request = a_request("FP32", (1, 1), b"\0" * 4)
    infer(request)
    request.parameters["timeout"].int64_param = 2_500_000
    infer(request)
    deadline, parameter = running.plane.timeouts
    assert deadline is not None
    assert 2.5 < deadline < DEADLINE_S + 1  # the wire rounds it up
    assert parameter == 2.5


def test_no_deadline_is_none(running: Running, channel: grpc.Channel) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    call(a_request("FP32", (1, 1), b"\0" * 4).SerializeToString())
    assert running.plane.timeouts == [None]


def test_a_client_that_goes_away_cancels_its_work(running: Running, channel: grpc.Channel) -> None:
    running.plane.hanging.add("double-FP32")
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    future = call.future(a_request("FP32", (1, 1), b"\0" * 4).SerializeToString())
    running.run(running.plane.started.wait())
    future.cancel()
    running.run(running.plane.cancelled.wait())
    assert running.plane.held == 0


def test_a_deadline_that_passes_cancels_the_work(running: Running, channel: grpc.Channel) -> None:
    running.plane.hanging.add("double-FP32")
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(a_request("FP32", (1, 1), b"\0" * 4).SerializeToString(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    running.run(running.plane.cancelled.wait())


def test_only_calls_with_the_token_are_answered_but_for_health(loop: asyncio.AbstractEventLoop) -> None:
    for running in serve(loop, DoublingPlane(), token=lambda: ("s3cret", "n3w")):
        with tritonclient.grpc.InferenceServerClient(running.address) as client:
            assert client.is_model_ready("pair", headers={"authorization": "Bearer s3cret"})
            assert client.is_model_ready("pair", headers={"authorization": "bearer n3w"})
            assert client.is_server_live()
            assert client.is_server_ready()
            for headers in (None, {"authorization": "Bearer other"}, {"authorization": "s3cret"}):
                with pytest.raises(InferenceServerException, match="no or a wrong token"):
                    client.is_model_ready("pair", headers=headers)


def test_an_address_that_cannot_be_had_is_told() -> None:
    async def scenario() -> None:
        first = GrpcServer(DoublingPlane(), "127.0.0.1:0", reuse_port=False)
        port = await first.start()
        with pytest.raises(OrchError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            await GrpcServer(DoublingPlane(), f"127.0.0.1:{port}", reuse_port=False).start()
        assert caught.value.kind is Kind.CONFLICT
        await first.stop(0)

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


def test_calls_under_way_are_answered_when_the_server_stops() -> None:
    async def scenario() -> None:
        plane = DoublingPlane(hanging={"double-FP32"})
        server = GrpcServer(plane, "127.0.0.1:0")
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answer = asyncio.ensure_future(call(a_request("FP32", (1, 1), b"\0" * 4).SerializeToString()))
            await plane.started.wait()
            stopping = asyncio.ensure_future(server.stop(5))
            plane.go.set()
            await stopping
            assert service_pb2.ModelInferResponse.FromString(await answer).outputs[0].name == "y"

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


def test_a_full_pool_refuses_before_the_message_comes_and_says_when_to_come_back(
    running: Running, channel: grpc.Channel
) -> None:
    running.plane.no_room = OrchError(Kind.OVERLOADED, "full", retry_after_s=0.05, code="QUEUE_FULL")
    never = threading.Event()
    silent = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        silent(iter(lambda: never.wait(DEADLINE_S), None), timeout=DEADLINE_S)  # its message never comes
    never.set()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert running.plane.timeouts == []  # nobody was asked for a place


def test_a_caller_without_the_token_is_told_so_and_not_that_the_pool_is_full(loop: asyncio.AbstractEventLoop) -> None:
    plane = DoublingPlane(no_room=OrchError(Kind.OVERLOADED, "full"))
    for running in serve(loop, plane, token=lambda: ["secret"]):
        with grpc.insecure_channel(running.address) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                method(b"", timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert plane.coming == []
