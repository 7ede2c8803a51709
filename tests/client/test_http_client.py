"""The HTTP client against servers that answer by a script, and against orch's own front end while a pool is full."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from orchestrator.client import (
    Client,
    ClientError,
    DeadlineExceeded,
    Failed,
    Invalid,
    NotFound,
    Overloaded,
    Unreachable,
)
from orchestrator.errors import Kind
from tests.client.scripted import FULL, GOOD, Scripted, Time, X, a_client, said, told
from tests.serving.http_serving import Doubler, Running, a_loop, openvino_models, serving

FULL_AT = "full"


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


# Against a script


def test_a_refused_call_is_sent_again_after_the_hint(time: Time) -> None:
    with Scripted(FULL, GOOD) as server, a_client(server.url, time) as client:
        assert client.infer("m", X)["y"].tolist() == [2.0]
        (waited,) = time.sleeps
        assert 0.020 <= waited <= 0.040
        assert (len(server.heads), server.connections) == (2, 1)


@pytest.mark.parametrize(
    ("reply", "least_s"),
    [
        (said(503, b"", "Retry-After: 2"), 2.0),
        (said(429, b"", "Retry-After: 1", "X-Orch-Retry-After-Ms: 150"), 0.15),
        (said(503, b"", "Retry-After: 3", "X-Orch-Retry-After-Ms: soon"), 3.0),
    ],
)
def test_the_hint_is_the_milliseconds_else_the_seconds(reply: bytes, least_s: float, time: Time) -> None:
    with Scripted(reply, GOOD) as server, a_client(server.url, time) as client:
        client.infer("m", X)
    assert least_s <= time.sleeps[0] <= 2 * least_s


@pytest.mark.parametrize("hint", ["Retry-After: Fri, 31 Dec 2100 23:59:59 GMT", "Retry-After: -1", "Retry-After: inf"])
def test_a_refusal_without_a_usable_hint_is_final(hint: str, time: Time) -> None:
    with Scripted(said(503, b"busy", hint)) as server, a_client(server.url, time) as client:
        with pytest.raises(Overloaded, match="503: busy") as caught:
            client.infer("m", X)
        assert (caught.value.retry_after_s, len(server.heads), time.sleeps) == (None, 1, [])


def test_no_call_is_tried_more_than_three_times(time: Time) -> None:
    tries = []
    for seed in range(10):  # now and then the third try is held back: two refusals in a row are a sign
        with Scripted(FULL) as server, a_client(server.url, time, seed=seed) as client:
            with pytest.raises(Overloaded) as caught:
                client.infer("m", X)
            tries.append(len(server.heads))
            where = server.url
        assert caught.value.retry_after_s == 0.02
        assert str(caught.value).startswith(f"{where} model 'm': the server answered 503: queue full (")
    assert (max(tries), tries.count(3) > 4) == (3, True)


def test_a_call_is_not_sent_again_beyond_its_deadline(time: Time) -> None:
    with Scripted(FULL) as server, a_client(server.url, time) as client:
        with pytest.raises(Overloaded):
            client.infer("m", X, timeout_s=0.019)
        assert (len(server.heads), time.sleeps) == (1, [])


def test_the_server_is_told_what_time_is_left_and_how_urgent_it_is(time: Time) -> None:
    with Scripted(FULL, GOOD) as server, a_client(server.url, time, token="secret") as client:
        client.infer("m", X, timeout_s=1.5, priority="critical", request_id="camera-7")
    first, second = map(float, told(server.heads, "x-orch-timeout-ms"))
    assert first == 1500.0
    assert second == pytest.approx(1500.0 - 1000 * time.sleeps[0], abs=0.01)
    for name, value in {
        "x-orch-priority": "critical",
        "x-request-id": "camera-7",
        "authorization": "bearer secret",
    }.items():
        assert told(server.heads, name) == [value] * 2


def test_many_refused_calls_reach_the_server_hardly_more_often_than_they_were_made(time: Time) -> None:
    with Scripted(FULL) as server, a_client(server.url, time) as client:
        held_back = 0
        for _ in range(500):
            with pytest.raises(Overloaded) as caught:
                client.infer("m", X)
            held_back += "not sent" in str(caught.value)
        assert len(server.heads) <= 500 * 1.1 + 2 - held_back
        assert held_back > 300  # nothing was accepted for longer than the window
        assert len(server.heads) < 200


@pytest.mark.parametrize(
    ("status", "kind", "failure"),
    [
        (400, Kind.INVALID, Invalid),
        (401, Kind.UNAUTHORIZED, Failed),
        (404, Kind.NOT_FOUND, NotFound),
        (413, Kind.TOO_LARGE, Failed),
        (500, Kind.FAILED, Failed),
        (504, Kind.DEADLINE, DeadlineExceeded),
    ],
)
def test_every_other_answer_is_told_once_in_the_servers_words(
    status: int, kind: Kind, failure: type[ClientError], time: Time
) -> None:
    with Scripted(said(status, b'{"error":"so it is"}')) as server, a_client(server.url, time) as client:
        with pytest.raises(failure, match=f"model 'm': the server answered {status}: so it is") as caught:
            client.infer("m", X)
        assert (caught.value.kind, len(server.heads), time.sleeps) == (kind, 1, [])


def test_a_kept_connection_that_was_closed_while_idle_costs_no_call(time: Time) -> None:
    with Scripted(GOOD, idle_closes_after=1) as server, a_client(server.url, time) as client:
        for number in range(1, 4):
            client.infer("m", X)
            assert server.closed.acquire(timeout=10)  # the server has closed: the next call finds that out
            assert server.connections == number
    assert time.sleeps == []


def test_a_kept_connection_that_breaks_under_a_request_is_replaced_at_once(time: Time) -> None:
    with Scripted(GOOD, None, GOOD) as server, a_client(server.url, time) as client:
        client.infer("m", X)
        client.infer("m", X)
        assert (len(server.heads), server.connections, time.sleeps) == (3, 2, [])


def test_a_new_connection_that_breaks_is_not_tried_again(time: Time) -> None:
    with Scripted(None) as server, a_client(server.url, time) as client:
        with pytest.raises(Unreachable, match="closed without an answer"):
            client.infer("m", X)
        assert (len(server.heads), server.connections) == (1, 1)


def test_nobody_at_the_address_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}: cannot be reached: Connection refused .is it running"):
        Client(f"127.0.0.1:{port}").infer("m", X)


@pytest.mark.parametrize("url", ["", "ftp://here", "http://", "http://host:99999999", "http://host:0", "http://[::1"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(Invalid, match="is no HTTP address"):
        Client(url)


def test_a_server_that_says_nothing_is_left_when_the_time_is_over() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05) as client,
        pytest.raises(DeadlineExceeded, match="no answer within the time"),
    ):
        client.infer("m", X)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_call_without_time_is_not_sent(timeout_s: float, time: Time) -> None:
    with Scripted(GOOD) as server, a_client(server.url, time) as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("m", X, timeout_s=timeout_s)
        assert server.heads == []


@pytest.mark.parametrize(
    ("reply", "failure", "complaint"),
    [
        (b"\x00\x00\x00\x04 settings of HTTP/2\r\n\r\n", Failed, "gRPC port"),
        (said(200, b"<html>"), Failed, "Open Inference Protocol"),
        (said(200, b"{}", "Inference-Header-Content-Length: 9"), Failed, "Inference-Header-Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", Failed, "more than"),
    ],
)
def test_what_is_no_answer_is_told_apart(reply: bytes, failure: type[ClientError], complaint: str) -> None:
    with (
        Scripted(reply) as server,
        Client(server.url) as client,
        pytest.raises(failure, match=complaint),
    ):
        client.infer("m", X)


def test_an_answer_that_does_not_go_on_is_left_when_the_time_is_over() -> None:
    with (
        Scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort") as server,
        Client(server.url, timeout_s=0.2) as client,
        pytest.raises(DeadlineExceeded, match="no answer within the time"),
    ):
        client.infer("m", X)


def test_the_client_loads_no_engine_and_no_framework() -> None:
    heavy = "{'openvino', 'pydantic', 'grpc', 'typer', 'psutil', 'asyncio'}"
    code = f"import sys, orchestrator.client; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"


# Against orch


@pytest.fixture(scope="module")
def identities(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    with serving(loop, openvino_models(["identity_fp32", "identity_bytes", "identity_bf16"], folder)) as running:
        yield running


@pytest.mark.parametrize(
    ("model", "value"),
    [
        ("identity_fp32", np.array([[1.5, -2.0]], np.float32)),
        ("identity_bytes", np.array([[b"one", "zwölf".encode()]], np.object_)),
    ],
)
def test_every_kind_of_value_comes_back_as_it_went(identities: Running, model: str, value: np.ndarray) -> None:
    with Client(identities.address) as client:
        (output,) = client.infer(model, {"data": value}).values()
        assert output.tolist() == value.tolist()


@pytest.mark.parametrize("request_id", ["camera-7", "söme id\r\nX: y", ""])
def test_what_the_client_says_beside_a_request_is_what_the_server_takes(identities: Running, request_id: str) -> None:
    value = np.array([[1.5, -2.0]], np.float32)
    with Client(identities.address) as client:
        for priority in ("critical", "default", "sheddable"):
            said = {"priority": priority, "timeout_s": 5.0, "request_id": request_id}
            (output,) = client.infer("identity_fp32", {"data": value}, **said).values()  # type: ignore[arg-type]
            assert output.tolist() == value.tolist()
        with pytest.raises(Invalid, match="priority"):
            client.infer("identity_fp32", {"data": value}, priority="urgent")  # type: ignore[arg-type]


def test_the_servers_words_reach_the_caller(identities: Running) -> None:
    with Client(identities.address) as client:
        with pytest.raises(NotFound, match="unknown model 'letters': this endpoint serves identity_bf16"):
            client.infer("letters", X)
        with pytest.raises(Invalid, match="is FP64, the model takes FP32"):
            client.infer("identity_fp32", {"data": np.zeros((1, 2))})


def test_eight_threads_get_each_their_own_answers(identities: Running) -> None:
    def calls(place: int) -> None:
        for number in range(50):
            value = np.array([[place, number]], np.float32)
            (output,) = client.infer("identity_fp32", {"data": value}).values()
            assert output.tolist() == value.tolist()

    with Client(identities.address) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))


@pytest.fixture
def full(loop: asyncio.AbstractEventLoop) -> Iterator[Running]:
    """Serve a model whose only request is running and whose queue holds nothing."""
    double = Doubler.make(queue_limit=0, sizes=(1, 200_000))
    with serving(loop, {FULL_AT: double.served}) as running:
        ticket = double.pool.admit()
        double.pool.submit(ticket, [np.zeros((1, 200_000), np.float32)], lambda _outcome: None)
        yield running
        double.finish(running)


def test_a_storm_of_callers_does_not_become_a_storm_of_retries(full: Running, time: Time) -> None:
    """Count at the pool: 4 impatient threads, 50 calls each, against a model that takes none."""

    def calls(_: int) -> int:
        refused = 0
        for _ in range(50):
            with pytest.raises(Overloaded):
                client.infer(FULL_AT, {"x": np.zeros((1, 200_000), np.float32)})
            refused += 1
        return refused

    with a_client(full.address, time) as client, ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(calls, range(4))) == 200
    assert full.pool(FULL_AT).snapshot().totals.rejected <= 200 * 1.1 + 2
    assert len(time.sleeps) <= 22
    assert min(time.sleeps) >= 0.001


def test_a_body_that_is_refused_at_its_head_is_told_as_full(full: Running, time: Time) -> None:
    with a_client(full.address, time) as client, pytest.raises(Overloaded, match="queue full") as caught:
        client.infer(FULL_AT, {"x": np.zeros((1, 200_000), np.float32)})
    assert caught.value.retry_after_s is not None


def test_a_model_that_becomes_free_answers_the_call_that_it_refused(loop: asyncio.AbstractEventLoop) -> None:
    double, time = Doubler.make(queue_limit=0), Time()

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        double.finish(running)
        running.until(lambda: double.pool.snapshot().in_flight == 0)

    with serving(loop, {"double": double.served}) as running:
        double.pool.submit(double.pool.admit(), [np.zeros((1, 4), np.float32)], lambda _outcome: None)
        with Client(running.address, clock=time, sleep=sleep) as client, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.infer, "double", {"x": np.ones((1, 4), np.float32)})
            running.until(lambda: double.pool.snapshot().totals.accepted == 2)
            double.finish(running)
            assert answer.result(10)["y"].tolist() == [[2.0] * 4]
    assert len(time.sleeps) == 1
