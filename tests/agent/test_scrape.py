"""The agent's page over HTTP: on loopback only, and whoever asks badly is answered or let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.agent import scrape
from orchestrator.errors import Kind, OrchError

DEADLINE_S = 20.0


async def page(accept: str) -> tuple[bytes, str]:
    return f"# {accept}\n".encode(), "text/plain; version=0.0.4"


async def broken(accept: str) -> tuple[bytes, str]:
    raise OrchError(Kind.FAILED, "the disk is full")


def asked(*requests: bytes, told: scrape.Page = page) -> list[bytes]:
    """Return the whole answers to the requests, each on a connection of its own."""

    async def run() -> list[bytes]:
        server = await scrape.serve("127.0.0.1:0", told)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return [await _ask(port, request) for request in requests]

    return asyncio.run(run())


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def statuses(*requests: bytes, told: scrape.Page = page) -> list[bytes]:
    return [answer.partition(b"\r\n")[0] for answer in asked(*requests, told=told)]


def test_the_page_is_told_in_the_form_that_is_asked_for() -> None:
    (answer,) = asked(b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"# application/openmetrics-text\n"
    assert b"Content-Type: text/plain; version=0.0.4\r\nContent-Length: 31\r\n" in head


def test_what_is_no_question_for_the_metrics_is_told_so() -> None:
    assert statuses(
        b"GET / HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n", b"HEAD /metrics HTTP/1.1\r\n\r\n"
    ) == [b"HTTP/1.1 404 Not Found", b"HTTP/1.1 405 Method Not Allowed", b"HTTP/1.1 200 OK"]


def test_a_state_that_cannot_be_read_is_no_empty_page() -> None:
    (answer,) = asked(b"GET /metrics HTTP/1.1\r\n\r\n", told=broken)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable")
    assert b"the disk is full" in answer


@pytest.mark.parametrize("said", [b"\0\1\2\r\n\r\n", b"x" * 3 * scrape.HEAD_BYTES + b"\r\n\r\n"])
def test_what_is_no_http_ends_the_connection_and_nothing_else(said: bytes) -> None:
    first, second = statuses(said, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert not first.startswith(b"HTTP/1.1 200")
    assert second == b"HTTP/1.1 200 OK"


def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT_S", 0.05)
    assert asked(b"GET /metrics HTT") == [b""]


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "10.0.0.7:9464", "9464", "127.0.0.1", "127.0.0.1:99999", "shop:1"])
def test_only_an_address_of_this_machine_alone_is_listened_on(address: str) -> None:
    with pytest.raises(OrchError, match="must be a loopback address with its port") as caught:
        scrape.split(address)
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))],
)
def test_loopback_has_several_names(address: str, parts: tuple[str, int]) -> None:
    assert scrape.split(address) == parts


def test_an_address_that_is_taken_is_told_with_what_to_do() -> None:
    async def run(told: Callable[[str], Awaitable[tuple[bytes, str]]]) -> None:
        server = await scrape.serve("127.0.0.1:0", told)
        async with server:
            await scrape.serve(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", told)

    with pytest.raises(OrchError, match="cannot listen") as caught:
        asyncio.run(run(page))
    assert caught.value.kind is Kind.CONFLICT
    assert "--metrics" in str(caught.value.problems[0].hint)
