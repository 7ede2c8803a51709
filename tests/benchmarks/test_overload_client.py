"""The open-loop client, in its own process, against small servers whose manners are known."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks.overload.measure import load
from benchmarks.overload.order import GAVE_UP, Order, Phase, Request, Told

BIG, SMALL = 600_000, 100
ANSWER = b"HTTP/1.1 %d -\r\nContent-Length: 2\r\n\r\nok"


class Caller(socketserver.StreamRequestHandler):
    """Reads each request as `manner` of its server says, and answers."""

    def handle(self) -> None:
        """Serve until the client goes."""
        manner = self.server.manner  # type: ignore[attr-defined]
        while (length := self.head()) is not None:
            manner(self, length)

    def head(self) -> int | None:
        """Read a head; return the length of the body."""
        length = None
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return length

    def say(self, status: int) -> None:
        """Answer."""
        self.wfile.write(ANSWER % status)


def answering(caller: Caller, length: int) -> None:
    """Read it all and answer."""
    assert len(caller.rfile.read(length)) == length
    caller.say(200)


def refusing(caller: Caller, length: int) -> None:
    """Answer at the head and read the rest into nothing."""
    caller.say(503)
    caller.rfile.read(length)


def silent(caller: Caller, length: int) -> None:
    """Read it all and say nothing."""
    caller.rfile.read(length)


@contextmanager
def serving(manner: Callable[[Caller, int], None]) -> Iterator[int]:
    """Serve on a free port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Caller) as server:
        server.daemon_threads = True
        server.manner = manner  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def told_by(
    tmp_path: Path, port: int, size: int, protocol: str = "http", path: str = "/infer", patience_s: float = 10.0
) -> Told:
    """Load the server with bodies of this size: 100 a second for 0.3 s, then 20 a second."""
    body = tmp_path / "body"
    body.write_bytes(b"\0" + (size - 5).to_bytes(4, "big") + bytes(size - 5))
    request = Request(protocol, path, {}, str(body))
    return load(Order("127.0.0.1", port, request, [Phase(100, 0.3), Phase(20, 0.2)], give_up_s=patience_s))


@pytest.mark.parametrize("size", [SMALL, BIG])
@pytest.mark.parametrize(("manner", "status"), [(answering, 200), (refusing, 503)])
def test_answers_and_refusals_are_told_apart(
    tmp_path: Path, manner: Callable[[Caller, int], None], status: int, size: int
) -> None:
    with serving(manner) as port:
        told = told_by(tmp_path, port, size)
    assert len(told.outcomes) > 15
    assert {outcome.status for outcome in told.outcomes} == {status}
    assert told.connections <= 16  # used again and again, also after a refusal that came before the body was sent


def test_a_caller_without_an_answer_gives_up_when_its_patience_is_over(tmp_path: Path) -> None:
    with serving(silent) as port:
        told = told_by(tmp_path, port, SMALL, patience_s=0.3)
    assert {outcome.status for outcome in told.outcomes} == {GAVE_UP}
    assert all(outcome.latency_s >= 0.3 for outcome in told.outcomes)


def test_arrivals_keep_their_schedule_whatever_becomes_of_them(tmp_path: Path) -> None:
    with serving(silent) as port:
        ignored = told_by(tmp_path, port, SMALL, patience_s=0.3)
    with serving(answering) as port:
        answered = told_by(tmp_path, port, SMALL)
    assert [one.due_s for one in ignored.outcomes] == [one.due_s for one in answered.outcomes]


@pytest.mark.parametrize(("code", "status"), [(None, 200), (grpc.StatusCode.RESOURCE_EXHAUSTED, 503)])
@pytest.mark.parametrize("size", [SMALL, BIG])
def test_grpc_calls_of_any_size_end_with_their_status(
    tmp_path: Path, size: int, code: grpc.StatusCode | None, status: int
) -> None:
    def call(message: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not None:
            context.abort(code, "full")
        assert len(message) == size - 5
        return b"ok"

    handler = grpc.method_handlers_generic_handler("test.Service", {"Call": grpc.unary_unary_rpc_method_handler(call)})
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        told = told_by(tmp_path, port, size, "grpc", "/test.Service/Call")
    finally:
        server.stop(None).wait()
    assert {outcome.status for outcome in told.outcomes} == {status}
    assert len(told.outcomes) > 15
