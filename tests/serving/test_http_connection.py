"""HTTP connections as hostile and as clumsy clients use them: each gets an answer or an end, the server stays well."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import OrchError
from orchestrator.serving.http_connection import LINGER_S
from orchestrator.serving.http_gate import HttpLimits
from orchestrator.serving.http_head import HEAD_LIMIT_BYTES, STATUS
from orchestrator.serving.http_server import listen
from orchestrator.serving.token import load
from orchestrator.serving.watched import Watched
from tests.serving.http_serving import (
    MIB,
    Clock,
    Doubler,
    Running,
    Wire,
    X,
    a_loop,
    double_request,
    get,
    infer_json,
    post,
    serving,
)

LIVE = get("/v2/health/live")
READY = get("/v2/health/ready")
LIMITS = HttpLimits(body_bytes=MIB, json_bytes=64 * 1024, idle_s=75, head_s=10, stall_s=10)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def doubler() -> Iterator[Doubler]:
    """A model whose inferences end when the test says so."""
    doubler = Doubler.make()
    yield doubler
    doubler.pool.close()


@pytest.fixture
def held(loop: asyncio.AbstractEventLoop, doubler: Doubler, clock: Clock) -> Iterator[Running]:
    with serving(loop, {"double": doubler.served}, limits=LIMITS, clock=clock) as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[Doubler]:
    doubler = Doubler.make(manual=False)
    yield doubler
    doubler.pool.close()


@pytest.fixture
def running(loop: asyncio.AbstractEventLoop, quick: Doubler, clock: Clock) -> Iterator[Running]:
    with serving(loop, {"double": quick.served}, limits=LIMITS, clock=clock) as running:
        yield running


def later(running: Running, clock: Clock, seconds: float) -> None:
    """Let time pass, and the server look at its connections."""
    clock.now += seconds
    running.on_loop(running.http.sweep)


def is_well(running: Running) -> bool:
    with running.connect() as wire:
        return wire.ask(double_request()).tail == (X * 2).tobytes()


# However the bytes come


def test_a_request_is_answered_wherever_it_is_cut_in_two(running: Running) -> None:
    whole = double_request(id="a")
    with running.connect() as wire:
        for cut in range(1, len(whole)):
            wire.send(whole[:cut])
            running.on_loop(lambda: None)
            reply = wire.ask(whole[cut:])
            assert (reply.status, reply.json["id"], reply.tail) == (200, "a", (X * 2).tobytes()), cut


def test_a_request_that_comes_byte_by_byte_is_answered(running: Running) -> None:
    with running.connect() as wire:
        for request in (double_request(), LIVE, double_request()):
            assert wire.send_in_pieces(request).reply().status == 200


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(["infer", "get", "bad", "missing", "body"]), min_size=1, max_size=30),
    size=st.integers(1, 4000),
)
def test_pipelined_requests_are_answered_in_their_order_however_they_are_cut(
    running: Running, kinds: list[str], size: int
) -> None:
    requests = {
        "get": (LIVE, 200),
        "bad": (post("double", b'{"inputs": 3}'), 400),
        "missing": (post("nobody", b"x" * 300), 404),
        "body": (post("double", b"").replace(b"/v2/models/double/infer", b"/v2/repository/index"), 200),
    }
    data, expected = b"", []
    for number, kind in enumerate(kinds):
        if kind == "infer":
            data += double_request(id=str(number))
            expected.append((200, str(number)))
        else:
            data += requests[kind][0]
            expected.append((requests[kind][1], None))
    with running.connect() as wire:
        wire.send_in_pieces(data, size)
        replies = [wire.reply() for _ in kinds]
    seen = [(r.status, r.json["id"] if "inference-header-content-length" in r.headers else None) for r in replies]
    assert seen == expected


def test_requests_that_come_while_one_runs_wait_for_their_turn(held: Running, doubler: Doubler) -> None:
    with held.connect() as wire:
        wire.send(double_request(id="1") + double_request(id="2"))
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        wire.send(LIVE + double_request(id="3"))
        assert held.pool("double").snapshot().queued == 0
        for expected in ("1", "2", None, "3"):
            if expected is None:
                assert wire.reply().status == 200
                continue
            doubler.finish(held)
            assert wire.reply().json["id"] == expected


def test_a_long_pipeline_is_not_read_on_while_one_runs(held: Running, doubler: Doubler) -> None:
    with held.connect() as wire:
        wire.send(double_request())
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        wire.socket.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += wire.socket.send(LIVE * 1000)
        assert sent < 16 * MIB  # what socket buffers hold, not what memory holds
        wire.socket.settimeout(20)
        doubler.finish(held)
        assert wire.reply().status == 200
        assert wire.reply().status == 200


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_chunked_bodies_are_answered_and_the_connection_closed(running: Running, size: int) -> None:
    head = infer_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}})
    body = head + X.tobytes()
    lines = f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(head)}\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(body, size)) + b"0\r\n\r\n"
    request = lines.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    with running.connect() as wire:
        reply = wire.send_in_pieces(request, 50).reply()
        assert (reply.status, reply.closes) == (200, True)
        assert reply.json["outputs"][0]["data"] == (X * 2)[0].tolist()
        assert wire.is_closed()
    with running.connect() as wire:  # what follows is not taken for a part of the body
        assert wire.ask(request + request).status == 200


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}zz\r\n", 400),
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}fffffffffffffffff\r\n", 400),
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}20000\r\n" + "x" * 0x20000, 413),
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}" + "1\r\nx\r\n" * 40_000, 413),
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}0\r\n" + "a: b\r\n" * 60_000, 413),
        (f"POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}2\r\n[]\r\n0\r\n\r\n", 400),
        (f"POST /v2/models/double/infer HTTP/1.0\r\nHost: x\r\n{CHUNKED}2\r\n[]\r\n0\r\n\r\n", 400),
        (f"POST /v2/models/no/infer HTTP/1.1\r\nHost: x\r\n{CHUNKED}2\r\n[]\r\n0\r\n\r\n", 404),
        (f"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\n{CHUNKED}2\r\n[]\r\n0\r\n\r\n", 200),
        (
            "POST /v2/models/double/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 9\r\n"
            f"{CHUNKED}2\r\n[]\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
            f"{CHUNKED}2\r\n[]\r\n0\r\n\r\n",
            200,
        ),
    ],
)
def test_broken_and_unwelcome_chunks_are_answered(running: Running, request_: str, status: int) -> None:
    with running.connect() as wire:
        reply = wire.ask(request_.encode())
        assert (reply.status, reply.closes) == (status, True)
        assert wire.is_closed()
    running.until(lambda: running.pool("double").snapshot().receiving == 0)


# Heads


def a_head(*lines: str, first: str = "POST /v2/models/double/infer HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v2/health/live HTTP/1.1\nHost: x\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00" * 40, 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", 400),
        (b"GET /" + b"a" * HEAD_LIMIT_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (a_head("Host: x", "Content-Length: 2", "Transfer-Encoding: chunked"), 400),
        (a_head("Host: x", "Transfer-Encoding: chunked", "Content-Length: 2"), 400),
        (a_head("Host: x", "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"), 400),
        (a_head("Host: x", "Transfer-Encoding: gzip, chunked"), 501),
        (a_head("Host: x", "Transfer-Encoding: gzip"), 400),
        (a_head("Host: x", "Content-Length: 2", "Content-Length: 3"), 400),
        (a_head("Host: x", "Content-Length: -2"), 400),
        (a_head("Host: x", "Content-Length: +2"), 400),
        (a_head("Host: x", "Content-Length: 0x2"), 400),
        (a_head("Host: x", "Content-Length: 99999999999999999999999"), 400),
        (a_head("Host: x", "Content-Length: 999999999999999"), 413),
        (a_head("Host: x", f"Content-Length: {MIB + 1}"), 413),
        (a_head("Host: x", f"Content-Length: {64 * 1024 + 1}"), 413),
        (a_head("Host: x", f"Content-Length: {2 * MIB}", first="POST /v2/repository/index HTTP/1.1"), 413),
        (a_head("Host: x", "Content-Length: 2", "Inference-Header-Content-Length: 3"), 400),
        (a_head("Host: x", "Content-Length: 2", "Inference-Header-Content-Length: \xb2"), 400),
        (a_head("Host: x", "Content-Length: 2", *["Inference-Header-Content-Length: 2"] * 2), 400),
        (a_head("Host: x", "Content-Length: 2", "Content-Encoding: gzip"), 415),
        (a_head("Host: x", "Content-Length: 2", "Expect: a miracle"), 417),
    ],
)
def test_heads_that_http_forbids_are_answered_and_the_connection_closed(
    running: Running, head: bytes, status: int
) -> None:
    with running.connect() as wire:
        reply = wire.ask(head)
        assert (reply.status, reply.closes) == (status, True)
        assert reply.error
        assert reply.json["code"] == ("TOO_LARGE" if status in {413, 431} else "INVALID")
        assert wire.is_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_clients_that_do_not_keep_the_connection_see_its_end(running: Running, head: bytes) -> None:
    with running.connect() as wire:
        reply = wire.ask(head)
        assert (reply.status, reply.closes) == (200, True)
        assert wire.is_closed()


def test_empty_lines_before_a_request_are_ignored(running: Running) -> None:
    with running.connect() as wire:
        for _ in range(3):
            assert wire.ask(b"\r\n\r\n" + LIVE).status == 200


def test_an_offer_to_upgrade_is_ignored(running: Running) -> None:
    with running.connect() as wire:
        upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x")
        assert wire.ask(double_request(*upgrade)).status == 200
        assert wire.ask(get("/v2/health/live", *upgrade)).status == 200


def test_a_client_that_expects_leave_gets_it_and_then_its_answer(running: Running) -> None:
    request = double_request("Expect: 100-continue")
    end = request.index(b"\r\n\r\n") + 4
    with running.connect() as wire:
        for _ in range(2):
            assert wire.ask(request[:end]).status == 100
            assert wire.ask(request[end:]).status == 200
        plain = a_head(
            "Host: x", "Content-Length: 2", "Expect: 100-Continue", first="POST /v2/repository/index HTTP/1.1"
        )
        assert wire.ask(plain).status == 100
        assert wire.ask(b"{}").status == 200
        refused = wire.ask(a_head("Host: x", "Content-Length: 2", "Expect: 100-continue").replace(b"double", b"nobody"))
        assert (refused.status, refused.closes) == (404, True)


# Refusals at the head


def test_a_full_pool_refuses_at_the_head_and_the_connection_goes_on(
    loop: asyncio.AbstractEventLoop, clock: Clock
) -> None:
    doubler = Doubler.make(queue_limit=0)
    with (
        serving(loop, {"double": doubler.served}, limits=LIMITS, clock=clock, saturation=lambda _: 1.25) as running,
        running.connect() as first,
        running.connect() as second,
    ):
        first.send(double_request())
        running.until(lambda: running.pool("double").snapshot().in_flight == 1)
        for _ in range(3):
            body = infer_json() + b"\0" * 900_000
            second.send(post("double", body[:10], json_length=5, length=len(body)))
            reply = second.reply()  # before the body has come
            second.send(body[10:])
            assert (reply.status, reply.closes) == (503, False)
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json.keys() == {"error", "code", "model", "retry_after_ms", "saturation"}
            assert reply.json["code"] == "QUEUE_FULL"
            assert (reply.json["model"], reply.json["saturation"]) == ("double", 1.25)
            assert reply.json["retry_after_ms"] == int(reply.headers["x-orch-retry-after-ms"])
            assert second.ask(READY).status == 200  # a full pool is still ready
        doubler.finish(running)
        assert first.reply().status == 200
        second.send(double_request())
        doubler.finish(running)
        assert second.reply().status == 200
    doubler.pool.close()


@pytest.mark.parametrize("size", [16 * 1024, 256 * 1024, 600_000, 1_040_000])
def test_what_comes_right_behind_a_large_refused_body_is_the_next_request(running: Running, size: int) -> None:
    # Planted bug that this caught: the piece that a refused body is read into was longer than the rest of the body.
    with running.connect() as wire:
        wire.send(post("nobody", b"x" * size, json_length=5) + READY)
        assert wire.reply().status == 404
        assert wire.reply().status == 200


def test_a_refused_body_that_comes_in_pieces_ends_where_it_says(running: Running, clock: Clock) -> None:
    with running.connect() as wire:
        for size, piece in ((1_040_000, 300_000), (600_000, 99_999), (100_000, 20_000)):
            body = b"x" * size
            assert wire.ask(post("nobody", body[:piece], json_length=5, length=size)).status == 404
            for begin in range(piece, size, piece):
                wire.send(body[begin : begin + piece])
                later(running, clock, 6)  # each piece keeps the connection for another ten seconds
            assert wire.ask(READY).status == 200


def test_a_client_that_leaves_in_the_middle_of_a_refused_body_is_forgotten(running: Running) -> None:
    with running.connect() as wire:
        assert wire.ask(post("nobody", b"x" * 300_000, json_length=5, length=1_000_000)).status == 404
    running.until(lambda: running.http.connections == 0)


def test_a_body_that_the_queues_memory_can_never_hold_is_too_large(
    loop: asyncio.AbstractEventLoop, clock: Clock
) -> None:
    doubler = Doubler.make(memory_bytes=100_000)
    with serving(loop, {"double": doubler.served}, limits=LIMITS, clock=clock) as running, running.connect() as wire:
        reply = wire.ask(post("double", b"x" * 200_000, json_length=10))
        assert (reply.status, reply.closes) == (413, False)
        assert wire.ask(LIVE).status == 200
    doubler.pool.close()


def test_a_deadline_that_passes_in_the_queue_is_told(held: Running, doubler: Doubler) -> None:
    with held.connect() as first, held.connect() as second:
        first.send(double_request())
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        second.send(double_request(timeout_us=1))
        held.until(lambda: held.pool("double").snapshot().queued == 1)
        held.pool("double").tick()
        reply = second.reply()
        assert (reply.status, reply.closes, reply.json["model"]) == (504, False, "double")
        doubler.finish(held)
        assert first.reply().status == 200
    assert held.pool("double").snapshot().totals.expired == 1


def test_a_failed_inference_is_answered_and_the_connection_goes_on(held: Running, doubler: Doubler) -> None:
    with held.connect() as wire:
        wire.send(double_request())
        held.until(lambda: len(doubler.backend.compiled[0].running()) == 1)
        doubler.backend.compiled[0].running()[0].fail(RuntimeError("device lost"))
        held.pool("double").tick()
        reply = wire.reply()
        assert (reply.status, reply.closes, "device lost" in reply.error) == (500, False, True)
        assert wire.ask(LIVE).status == 200


def test_every_kind_of_error_has_a_status() -> None:
    from orchestrator.errors import Kind

    assert set(STATUS) == set(Kind)


# Slow clients and clients that go away


@pytest.mark.parametrize("beginning", [b"G", LIVE[:-2], double_request()[:40]])
def test_a_head_that_trickles_in_is_ended(running: Running, clock: Clock, beginning: bytes) -> None:
    # Planted bug that this caught: each byte began the wait anew.
    with running.connect() as wire:
        wire.send(beginning)
        running.until(lambda: running.http.connections == 1)
        for _ in range(2):
            later(running, clock, 4)
            wire.send(b"")
        later(running, clock, 4)
        assert wire.reply().status == 408
        assert wire.is_closed()


def test_a_head_that_comes_a_byte_now_and_then_is_ended(running: Running, clock: Clock) -> None:
    with running.connect() as wire:
        for byte in LIVE[:5]:
            wire.send(bytes([byte]))
            assert is_well(running)  # by then the byte has been read
            later(running, clock, 3)
        assert wire.reply().status == 408


def test_a_body_that_stops_is_ended_and_its_place_given_back(running: Running, clock: Clock) -> None:
    whole = double_request()
    for cut_at in (whole.index(b"{") + 3, len(whole) - 3):
        with running.connect() as wire:
            wire.send(whole[:cut_at])
            running.until(lambda: running.pool("double").snapshot().receiving == 1)
            later(running, clock, 9)
            assert running.pool("double").snapshot().receiving == 1
            later(running, clock, 2)
            reply = wire.reply()
            assert (reply.status, reply.closes) == (408, True)
            assert running.pool("double").snapshot().receiving == 0


def test_a_body_whose_deadline_passes_while_it_trickles_in_gives_its_memory_back(
    loop: asyncio.AbstractEventLoop, clock: Clock
) -> None:
    doubler = Doubler.make(timeout_s=1e-9)
    whole = double_request()
    with serving(loop, {"double": doubler.served}, limits=LIMITS, clock=clock) as running, running.connect() as wire:
        doubler.pool.reconfigure(replace(doubler.pool.settings, timeout_s=0.001))
        wire.send(whole[:-3])
        running.until(lambda: running.pool("double").snapshot().receiving == 1)
        running.until(lambda: (doubler.pool.tick(), running.pool("double").snapshot().receiving == 0)[1])
        later(running, clock, 1)
        reply = wire.reply()
        assert reply.status == 504
        assert None not in reply.json.values()  # only what is known is told
        wire.send(whole[-3:])
        assert wire.ask(LIVE).status == 200
    doubler.pool.close()


def test_the_rest_of_a_refused_body_may_not_stall_for_ever(running: Running, clock: Clock) -> None:
    # Planted bug that this caught: a second answer, 408, to one request.
    with running.connect() as wire:
        assert wire.ask(post("nobody", b"x" * 10, length=1000)).status == 404
        later(running, clock, 11)
        assert wire.is_closed()


def test_an_idle_connection_is_closed_without_a_word(running: Running, clock: Clock) -> None:
    with running.connect() as wire:
        assert wire.ask(LIVE).status == 200
        later(running, clock, 70)
        assert wire.ask(LIVE).status == 200
        later(running, clock, 76)
        assert wire.is_closed()
    with running.connect() as wire:
        wire.send(b"\r\n")
        assert is_well(running)
        later(running, clock, 76)
        assert wire.is_closed()


def test_work_of_a_client_that_went_away_is_dropped(held: Running, doubler: Doubler) -> None:
    with held.connect() as first:
        first.send(double_request())
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        for gone in (double_request(), double_request()[:-3]):
            with held.connect() as second:
                second.send(gone)
                held.until(
                    lambda: held.pool("double").snapshot().queued + held.pool("double").snapshot().receiving == 1
                )
            held.until(lambda: held.pool("double").snapshot().queued + held.pool("double").snapshot().receiving == 0)
        doubler.finish(held)
        assert first.reply().status == 200
    totals = held.pool("double").snapshot().totals
    assert (totals.completed, totals.cancelled) == (1, 2)


def test_a_client_that_went_away_while_its_inference_ran_costs_nothing_more(held: Running, doubler: Doubler) -> None:
    with held.connect() as wire:
        wire.send(double_request())
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # end with a reset
    held.until(lambda: held.http.connections == 0)
    doubler.finish(held)
    held.until(lambda: held.pool("double").snapshot().in_flight == 0)
    assert held.pool("double").snapshot().totals.cancelled == 1


def test_a_client_that_closed_its_half_gets_what_was_answered_at_once(running: Running) -> None:
    with running.connect() as wire:
        wire.send(LIVE + LIVE)
        assert [reply.status for reply in wire.replies_until_closed()] == [200, 200]


def test_a_client_that_never_reads_costs_bounded_memory_and_is_cut(
    loop: asyncio.AbstractEventLoop, quick: Doubler, clock: Clock
) -> None:
    # Planted bug that this caught: requests were answered on and on into memory.
    page = b"x" * 100_000
    pages: list[int] = []

    def metrics(_accept: str) -> tuple[bytes, str]:
        pages.append(1)
        return page, "text/plain"

    with serving(loop, {"double": quick.served}, limits=LIMITS, clock=clock, metrics=metrics) as running:
        with running.connect(receive_bytes=4096) as wire:
            wire.send(get("/metrics") * 1000)
            running.until(lambda: any(each._writing_paused for each in running.http._shared.connections))
            assert is_well(running)
            assert len(pages) < 100
            later(running, clock, 1)
            later(running, clock, 11)
            running.until(lambda: running.http.connections == 0)
        with running.connect() as wire:  # one that reads gets all
            wire.send(get("/metrics") * 300)
            assert all(wire.reply().body == page for _ in range(300))


def test_a_client_that_reads_slowly_is_not_cut(loop: asyncio.AbstractEventLoop, quick: Doubler, clock: Clock) -> None:
    # Planted bug that this caught: ten seconds for all of an answer, instead of for its next byte.
    page = b"x" * 20_000_000
    with (
        serving(loop, {"double": quick.served}, limits=LIMITS, clock=clock, metrics=lambda _: (page, "x")) as running,
        running.connect(receive_bytes=65536) as wire,
    ):
        wire.send(get("/metrics", "Connection: close"))
        running.until(lambda: running.http.connections == 1)
        received = 0
        while received < len(page):
            piece = wire.socket.recv(1_000_000)
            assert piece, f"cut after {received} bytes"
            received += len(piece)
            later(running, clock, 9)


def test_the_last_answer_is_lingered_for_and_then_the_connection_cut(running: Running, clock: Clock) -> None:
    with running.connect() as wire:
        assert wire.ask(b"\0\0").status == 400
        wire.send(b"x" * 100_000)
        later(running, clock, LINGER_S - 0.5)
        assert running.on_loop(lambda: running.http.connections) == 1
        later(running, clock, 1)
        running.until(lambda: running.http.connections == 0)


# Many


def test_a_thousand_idle_connections_leave_the_server_well(running: Running) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(running.connect()) for _ in range(1000)]
        running.until(lambda: running.http.connections == 1000)
        assert is_well(running)
        assert wires[0].ask(LIVE).status == wires[-1].ask(LIVE).status == 200
    running.until(lambda: running.http.connections == 0)


def test_connections_over_the_limit_are_told_and_closed(
    loop: asyncio.AbstractEventLoop, quick: Doubler, clock: Clock
) -> None:
    limits = replace(LIMITS, connections=2)
    with serving(loop, {"double": quick.served}, limits=limits, clock=clock) as running:
        with running.connect() as first, running.connect() as second:
            assert first.ask(LIVE).status == second.ask(LIVE).status == 200
            with running.connect() as third:
                reply = third.reply()
                assert (reply.status, reply.closes, reply.error) == (503, True, "too many connections")
                assert third.is_closed()
            assert first.ask(LIVE).status == 200
        running.until(lambda: running.http.connections == 0)
        assert is_well(running)


# Tokens


def test_only_requests_with_the_token_are_answered_and_a_new_one_is_taken_up(
    loop: asyncio.AbstractEventLoop, quick: Doubler, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    tokens = Watched([path], lambda: load(path))
    with (
        serving(loop, {"double": quick.served}, limits=LIMITS, clock=clock, token=lambda: tokens.held) as running,
        running.connect() as wire,
    ):
        right = "Authorization: Bearer s3cret"
        assert wire.ask(LIVE).status == wire.ask(READY).status == 200
        for wrong in ((), ("Authorization: Bearer s3cre",), ("Authorization: Basic s3cret",), ("Authorization: \xff",)):
            for request in (double_request(*wrong), get("/metrics", *wrong), get("/v2/models/double", *wrong)):
                reply = wire.ask(request)
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert wire.ask(double_request(right)).status == 200
        path.write_text("n3w\ns3cret\n")  # both for a while, so that no client is refused
        looked_at(tokens)
        assert wire.ask(double_request(right)).status == 200
        assert wire.ask(double_request("authorization: bearer n3w")).status == 200
        path.write_text("n3w")
        looked_at(tokens)
        assert wire.ask(double_request(right)).status == 401
        assert wire.ask(double_request("authorization: bearer n3w")).status == 200
        path.unlink()
        looked_at(tokens)
        assert wire.ask(double_request()).status == 401
        assert wire.ask(double_request("Authorization: Bearer n3w")).status == 200


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(OrchError, match="holds no token"):
        load(tmp_path / "token")


def looked_at(tokens: Watched[tuple[str, ...]]) -> None:
    """Look as often as a change needs."""
    tokens.look()
    tokens.look()


# The end


def test_draining_answers_what_runs_closes_what_idles_and_is_not_ready(held: Running, doubler: Doubler) -> None:
    with held.connect() as idle, held.connect() as busy, held.connect() as asking:
        assert idle.ask(LIVE).status == asking.ask(READY).status == 200
        busy.send(double_request())
        held.until(lambda: held.pool("double").snapshot().in_flight == 1)
        asking.send(READY[:-1])
        running_head = held.http.connections
        assert running_head == 3
        assert is_read(held, READY[:-1])
        held.plane.draining = True
        stopping = asyncio.run_coroutine_threadsafe(held.http.stop(20.0), held.loop)
        assert idle.is_closed()
        reply = asking.ask(READY[-1:])
        assert (reply.status, reply.closes) == (503, True)
        doubler.finish(held)
        reply = busy.reply()
        assert (reply.status, reply.closes) == (200, True)
        assert busy.is_closed()
    stopping.result(20)
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", held.port)) != 0


def is_read(running: Running, beginning: bytes) -> bool:
    """Wait until a connection holds this beginning of a head."""
    connections = running.http._shared.connections
    running.until(lambda: any(bytes(connection._stash) == beginning for connection in connections))
    return True


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1:0") as first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(OrchError, match=rf"{address}: cannot listen: Address already in use") as caught:
            listen(address)
    assert caught.value.problems[0].hint is not None


# Anything at all

PIECES = st.sampled_from(
    [
        *(LIVE, double_request(), double_request()[:60], post("double", b"{}"), a_head("Host: x", CHUNKED.strip())),
        *(b"POST ", b"GET ", b"/v2/models/double/infer", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n", b"Host: x\r\n"),
        *(b"Content-Length: 5\r\n", b"Content-Length: 70000\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde\r\n"),
        *(
            b"0\r\n\r\n",
            b"Inference-Header-Content-Length: 4\r\n",
            b"Expect: 100-continue\r\n",
            b"Connection: close\r\n",
        ),
        *(
            b"Connection: Upgrade\r\nUpgrade: x\r\n",
            b'{"inputs":[]}',
            b"\x00" * 16,
            b"A" * 17_000,
            b"HEAD ",
            b"HTTP/1.0",
        ),
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.lists(PIECES | st.binary(max_size=20), max_size=12).map(b"".join), size=st.integers(1, 20_000))
def test_any_bytes_get_answers_or_the_end(running: Running, data: bytes, size: int) -> None:
    # Planted bug that this caught: bytes kept while an inference ran were taken up outside of the error boundary.
    with Wire(running.port) as wire:
        try:
            wire.send_in_pieces(data, max(size, len(data) // 50))
            replies = wire.replies_until_closed()
        except (BrokenPipeError, ConnectionResetError, OSError):
            replies = []
        assert all(reply.status in range(100, 600) and reply.status != 500 for reply in replies)
    assert is_well(running)
    assert running.bugs == []


def test_doubling_is_exact_in_the_simulation(running: Running) -> None:
    with running.connect() as wire:
        x = np.array([[0.1, 1e30, -0.0, np.inf]], np.float32)
        assert wire.ask(double_request(x=x)).tail == (x * 2).tobytes()
