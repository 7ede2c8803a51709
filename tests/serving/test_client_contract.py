"""What clients are told, over HTTP and gRPC alike: docs/client-contract.md, held by a pool that a test holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.grpc import service_pb2

from orchestrator.serving.grpc_server import GrpcServer
from orchestrator.serving.quota import Quotas
from orchestrator.serving.request_log import RequestLog
from tests.serving.http_serving import DEADLINE_S, Doubler, Running, X, a_loop, double_request, get, post, serving

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
READ = ["/v2/health/live", "/v2/health/ready", "/metrics", "/v2", "/v2/models/double", "/v2/models/double/ready"]
READ += ["/v2/models/stats", "/v2/models/double/stats", "/v2/models/double/config"]


@dataclass
class Served:
    """One pool behind both front ends."""

    http: Running
    grpc: str
    doubler: Doubler
    log: RequestLog
    channels: list[grpc.Channel] = field(default_factory=list)

    def call(self, **options: Any) -> Any:
        """Begin a gRPC call and return its future."""
        channel = grpc.insecure_channel(self.grpc)
        self.channels.append(channel)
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        request = service_pb2.ModelInferRequest(model_name="double", raw_input_contents=[X.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        for name, value in options.pop("parameters", {}).items():
            setattr(request.parameters[name], "int64_param" if isinstance(value, int) else "string_param", value)
        return method.future(request, timeout=DEADLINE_S, **options)

    def refused(self, **options: Any) -> tuple[grpc.StatusCode, dict[str, str]]:
        """Return the status and the trailing metadata of a call that is refused."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(**options).result()
        return caught.value.code(), dict(caught.value.trailing_metadata())

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


def served(
    loop: asyncio.AbstractEventLoop, doubler: Doubler, folder: Path, quotas: Quotas | None = None
) -> Iterator[Served]:
    log = RequestLog(folder / "requests.log")
    shared = {"quotas": quotas, "requests": log}

    async def begin(plane: Any) -> tuple[GrpcServer, int]:
        server = GrpcServer(plane, "127.0.0.1:0", **shared)
        return server, await server.start()

    with serving(loop, {"double": doubler.served}, saturation=lambda _: 1.5, **shared) as http:
        server, port = asyncio.run_coroutine_threadsafe(begin(http.plane), loop).result(DEADLINE_S)
        both = Served(http, f"127.0.0.1:{port}", doubler, log)
        yield both
        both.close()
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(DEADLINE_S)
    log.switch(False)
    doubler.pool.close()


@pytest.fixture
def quick(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Served]:
    yield from served(loop, Doubler.make(manual=False), tmp_path)


@pytest.fixture
def full(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Served]:
    """Give a pool that runs one request, and has no queue."""
    both = served(loop, Doubler.make(queue_limit=0), tmp_path)
    one = next(both)
    with one.http.connect() as first:
        first.send(double_request())
        one.http.until(lambda: one.http.pool("double").snapshot().in_flight == 1)
        yield one
        one.doubler.finish(one.http)
        assert first.reply().status == 200
    next(both, None)


@pytest.fixture
def rationed(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[Served]:
    """Give each client one request, and the next after a quarter of an hour."""
    yield from served(loop, Doubler.make(manual=False), tmp_path, Quotas(0.001, 1))


# Ids


def test_ids_come_back_with_answers_and_refusals_of_every_kind(quick: Served) -> None:
    said = (f"traceparent: {TRACE}", "X-Request-Id: cam-7/41")
    with quick.http.connect() as wire:
        for request in (
            double_request(*said),
            post("nobody", b"{}", *said),
            post("double", b"{}", *said),
            get("/v2/health/live", *said),
            get("/v2/models/nobody", *said),
        ):
            reply = wire.ask(request)
            assert (reply.headers["traceparent"], reply.headers["x-request-id"]) == (TRACE, "cam-7/41")
        refused = wire.ask(post("nobody", b"{}", *said)).json
        assert refused["request_id"] == "cam-7/41"
        assert refused["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    call = quick.call(metadata=(("traceparent", TRACE), ("x-request-id", "cam-7/41")))
    assert dict(call.trailing_metadata()) == {"traceparent": TRACE, "x-request-id": "cam-7/41"}


def test_who_sends_no_id_gets_none_and_bad_ones_are_not_repeated(quick: Served) -> None:
    with quick.http.connect() as wire:
        for request in (double_request(), double_request("X-Request-Id: a b", "traceparent: 00-zz")):
            reply = wire.ask(request)
            assert reply.status == 200
            assert not {"x-request-id", "traceparent"} & reply.headers.keys()
    assert dict(quick.call(metadata=(("x-request-id", "a b"),)).trailing_metadata()) == {}


def test_times_are_told_where_they_are_asked_for(quick: Served) -> None:
    names = {"x-orch-queue-ms", "x-orch-service-ms"}
    told = dict(quick.call(metadata=(("x-orch-timing", "1"),)).trailing_metadata())
    assert told.keys() == names
    with quick.http.connect() as wire:
        headers = wire.ask(double_request("X-Orch-Timing: 1")).headers
        assert not names & wire.ask(double_request()).headers.keys()
    assert all(float(value) >= 0 for value in (*told.values(), *(headers[name] for name in names)))


# Refusals


def test_a_full_pool_says_the_same_over_both(full: Served) -> None:
    with full.http.connect() as wire:
        reply = wire.ask(double_request())
    assert reply.status == 503
    assert (reply.json["code"], reply.json["model"], reply.json["saturation"]) == ("QUEUE_FULL", "double", 1.5)
    code, told = full.refused()
    assert (code, told["x-orch-code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert int(told["grpc-retry-pushback-ms"]) == int(told["x-orch-retry-after-ms"]) >= 1


def test_the_times_to_come_back_differ_from_refusal_to_refusal(full: Served) -> None:
    chances = iter([0.0, 0.5, 1.0])
    full.http.plane._chance = lambda: next(chances)
    with full.http.connect() as wire:
        low, middle, high = (wire.ask(double_request()).json["retry_after_ms"] for _ in range(3))
    assert low < middle < high <= 1.6 * low


def test_a_deadline_said_beside_the_request_is_decided_before_its_body(full: Served) -> None:
    with full.http.connect() as wire:
        wire.send(post("double", b"", "X-Orch-Timeout-Ms: 0", length=900_000))
        reply = wire.reply()
        assert (reply.status, reply.json["model"]) == (504, "double")
    assert full.refused(metadata=(("x-orch-timeout-ms", "0"),))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("said", [("X-Orch-Timeout-Ms", "soon"), ("X-Orch-Priority", "urgent")])
def test_a_timeout_or_a_priority_that_is_none_is_refused(quick: Served, said: tuple[str, str]) -> None:
    with quick.http.connect() as wire:
        reply = wire.ask(double_request(": ".join(said)))
        assert reply.status == 400
        assert said[0].lower() in reply.error
    code, _ = quick.refused(metadata=((said[0].lower(), said[1]),))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("priority", ["critical", "default", "sheddable", "0", "1", "2", "3"])
def test_every_priority_is_served_while_there_is_room(quick: Served, priority: str) -> None:
    with quick.http.connect() as wire:
        assert wire.ask(double_request(f"X-Orch-Priority: {priority}")).status == 200
    quick.call(metadata=(("x-orch-priority", priority),)).result()
    value = int(priority) if priority.isdigit() else priority
    quick.call(parameters={"priority": value}).result()


def test_a_client_beyond_its_quota_is_refused_over_both_and_may_go_on_asking_for_health(rationed: Served) -> None:
    with rationed.http.connect() as wire:
        assert wire.ask(double_request()).status == 200
        reply = wire.ask(double_request())
        assert (reply.status, reply.json["code"], reply.closes) == (429, "QUOTA", False)
        assert int(reply.headers["retry-after"]) > 100
        assert wire.ask(get("/v2/health/ready")).status == 200
    code, told = rationed.refused()
    assert (code, told["x-orch-code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA")
    assert int(told["grpc-retry-pushback-ms"]) > 100_000


# While it is full


def test_everything_that_needs_no_inference_is_answered_while_the_pool_is_full_and_flooded(full: Served) -> None:
    with full.http.connect() as flood, full.http.connect() as wire:
        for _ in range(20):  # twenty times what the pool holds, before each question
            flood.send(double_request() * 20)
            assert [wire.ask(get(path)).status for path in READ] == [200] * len(READ)
        assert {flood.reply().status for _ in range(400)} == {503}
    with tritonclient.grpc.InferenceServerClient(full.grpc) as client:
        calls = [full.call() for _ in range(20)]
        assert client.is_server_ready()
        assert client.is_model_ready("double")
        assert client.get_inference_statistics("double").model_stats[0].inference_stats.fail.count >= 400
        assert {call.code() for call in calls} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


# Extensions of Triton


def test_unmodified_clients_read_statistics_and_configuration_over_both(quick: Served) -> None:
    with quick.http.connect() as wire:
        assert [wire.ask(double_request()).status for _ in range(3)] == [200] * 3
    with (
        tritonclient.http.InferenceServerClient(quick.http.address) as http,
        tritonclient.grpc.InferenceServerClient(quick.grpc) as remote,
    ):
        (told,) = http.get_inference_statistics("double", "1")["model_stats"]
        assert (told["inference_count"], told["execution_count"]) == (3, 3)
        assert told["last_inference"] > 1_600_000_000_000
        (same,) = remote.get_inference_statistics("double", "1", as_json=True)["model_stats"]
        assert (same["inference_count"], same["name"]) == ("3", "double")
        assert same["inference_stats"]["success"]["ns"] == str(told["inference_stats"]["success"]["ns"])
        assert len(http.get_inference_statistics()["model_stats"]) == 1
        config = http.get_model_config("double")
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [1, 4])
        assert remote.get_model_config("double").config.input[0].data_type == 11
        for client in (http, remote):
            with pytest.raises(Exception, match="manifests say what is served"):
                client.load_model("double")
        assert {"statistics", "model_configuration"} <= set(http.get_server_metadata()["extensions"])


# The log of requests


def lines(log: RequestLog) -> list[Mapping[str, Any]]:
    assert log.path is not None
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_the_log_switched_on_while_running_tells_each_request_once(quick: Served) -> None:
    with quick.http.connect() as wire:
        assert "x-request-id" not in wire.ask(double_request()).headers
        quick.log.switch(True)
        made = wire.ask(double_request(id="7")).headers["x-request-id"]
        wire.ask(double_request(f"traceparent: {TRACE}", "X-Request-Id: mine"))
        wire.ask(post("nobody", b"{}"))
        wire.ask(post("double", b"{}"))
        wire.ask(get("/v2/health/live"))
        quick.call(metadata=(("x-request-id", "theirs"),)).result()
        quick.refused(metadata=(("x-request-id", "bad"), ("x-orch-timeout-ms", "x")))
        quick.log.switch(False)
        wire.ask(double_request())
    told = lines(quick.log)
    assert [(line["protocol"], line["status"], line.get("code")) for line in told] == [
        ("http", "200", None),
        ("http", "200", None),
        ("http", "404", "NOT_FOUND"),
        ("http", "400", "INVALID"),
        ("grpc", "OK", None),
        ("grpc", "INVALID_ARGUMENT", "INVALID"),
    ]
    assert [line["request_id"] for line in told[:2]] == [made, "mine"]
    assert [line["request_id"] for line in told[4:]] == ["theirs", "bad"]
    assert (told[0]["id"], told[1]["trace_id"]) == ("7", "4bf92f3577b34da6a3ce929d0e0e4736")
    assert all(line["model"] in {"double", "nobody"} and line["client"] == "127.0.0.1" for line in told)
    assert told[0]["bytes"] > X.nbytes
    assert told[0]["total_ms"] >= told[0]["service_ms"] >= 0
    assert np.isfinite(told[4]["queue_ms"])


def test_a_client_that_goes_away_is_in_the_log_as_such(full: Served) -> None:
    full.doubler.pool.reconfigure(full.doubler.pool.settings.__class__(DEADLINE_S, 5, 2**20))
    full.log.switch(True)
    with full.http.connect() as gone:
        gone.send(double_request("X-Request-Id: gone"))
        full.http.until(lambda: full.http.pool("double").snapshot().queued == 1)
    full.http.until(lambda: full.http.pool("double").snapshot().queued == 0)
    call = full.call(metadata=(("x-request-id", "left"),))
    full.http.until(lambda: full.http.pool("double").snapshot().queued == 1)
    call.cancel()
    full.http.until(lambda: full.http.pool("double").snapshot().queued == 0)
    full.http.on_loop(lambda: None)
    full.log.switch(False)
    assert [(line["request_id"], line["code"]) for line in lines(full.log)] == [
        ("gone", "CANCELLED"),
        ("left", "CANCELLED"),
    ]


# Our bugs


def test_a_bug_is_told_and_logged_with_the_ids_of_the_request_that_met_it(quick: Served) -> None:
    bug = RuntimeError("planted")

    def broken(*_: object) -> None:
        raise bug

    quick.http.plane.submit = broken  # type: ignore[method-assign]
    with quick.http.connect() as wire:
        reply = wire.ask(double_request("X-Request-Id: cam-7"))
        assert (reply.status, reply.json["code"], reply.json["request_id"]) == (500, "INTERNAL", "cam-7")
        assert reply.headers["x-request-id"] == "cam-7"
    assert quick.http.bugs == [bug]
    assert any("cam-7" in note for note in bug.__notes__)
    quick.http.bugs.clear()
