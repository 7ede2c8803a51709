"""JSON bodies and answers that are read and written in steps, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import orjson
import pytest

from tests.serving.http_serving import Doubler, Running, Wire, a_loop, get, infer_json, post, serving

VALUES = 40_000
LONG = np.random.default_rng(3).random((1, VALUES)).astype(np.float32)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


@pytest.fixture
def doubler() -> Iterator[Doubler]:
    doubler = Doubler.make(manual=False, sizes=(1, VALUES), requests=2)
    yield doubler
    doubler.pool.close()


@pytest.fixture
def running(loop: asyncio.AbstractEventLoop, doubler: Doubler) -> Iterator[Running]:
    with serving(loop, {"double": doubler.served}) as running:
        yield running


def a_body(data: object = LONG.tolist(), **rest: object) -> bytes:
    return infer_json({"name": "x", "datatype": "FP32", "shape": [1, VALUES], "data": data}, **rest)


def is_well(running: Running) -> None:
    snapshot = running.pool("double").snapshot()
    assert (snapshot.receiving, snapshot.queued, snapshot.in_flight) == (0, 0, 0)


def test_a_long_request_gets_a_long_answer_and_the_connection_goes_on(running: Running) -> None:
    with running.connect() as wire:
        for _ in range(2):
            reply = wire.ask(post("double", a_body(id="7")))
            assert (reply.status, reply.json["id"], reply.closes) == (200, "7", False)
            assert np.array_equal(np.array(reply.json["outputs"][0]["data"], np.float32), (LONG * 2)[0])
            assert wire.ask(get("/v2/health/live")).status == 200
    is_well(running)


def test_requests_behind_a_long_one_are_answered_in_their_order(running: Running) -> None:
    with running.connect() as wire:
        wire.send(post("double", a_body()) + get("/v2") + post("double", a_body()) + get("/v2/models/double"))
        replies = [wire.reply() for _ in range(4)]
        assert ["outputs" in reply.json for reply in replies] == [True, False, True, True]
        assert [reply.json.get("name") for reply in replies] == [None, "orch", None, "double"]


def test_a_long_request_in_chunks_is_answered(running: Running) -> None:
    body = a_body()
    head = "POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running.connect() as wire:
        reply = wire.ask(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert (reply.status, reply.closes) == (200, True)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([*LONG[0].tolist()[:-1], "x"], "not JSON|FP32 takes numbers"),
        ([*LONG[0].tolist()[:-1], None], "FP32 takes numbers, got null"),
        (LONG[0].tolist()[:-1], "nested as the shape|holds 40000 values"),
        ([[LONG[0].tolist()]], "nested as the shape"),
    ],
)
def test_a_long_request_with_wrong_data_is_told_and_the_connection_goes_on(
    running: Running, data: object, told: str
) -> None:
    with running.connect() as wire:
        reply = wire.ask(post("double", a_body(data)))
        assert reply.status == 400
        assert any(words in reply.error for words in told.split("|")), reply.error
        assert wire.ask(post("double", a_body())).status == 200
    is_well(running)


def test_an_output_is_binary_where_it_is_asked_for_after_a_long_request(running: Running) -> None:
    with running.connect() as wire:
        reply = wire.ask(post("double", a_body(parameters={"binary_data_output": True})))
        assert np.array_equal(np.frombuffer(reply.tail, np.float32), (LONG * 2)[0])


def test_the_answer_read_in_steps_is_the_answer_of_a_binary_request(running: Running) -> None:
    parameters = {"binary_data_size": LONG.nbytes}
    head = infer_json({"name": "x", "datatype": "FP32", "shape": [1, VALUES], "parameters": parameters})
    with running.connect() as wire:
        binary = wire.ask(post("double", head + LONG.tobytes(), json_length=len(head)))
        assert binary.body == wire.ask(post("double", a_body())).body
        assert binary.body == orjson.dumps(binary.json)


def test_work_of_a_client_that_went_away_while_its_body_was_read_is_dropped(running: Running) -> None:
    for _ in range(5):
        wire = Wire(running.port)
        wire.send(post("double", a_body()))
        wire.socket.close()
        wire._stream.close()
    running.until(lambda: running.http.connections == 0)
    running.until(lambda: running.pool("double").snapshot().in_flight == 0)
    is_well(running)
