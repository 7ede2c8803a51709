"""Pushes that are heard of: signed ones are passed on, and nothing that a sender does keeps the agent busy."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops import webhook

SECRETS = {"shop": b"0123456789abcdef", "depot": b"another-secret"}
BODY = b'{"ref": "refs/heads/main"}'
DEADLINE_S = 10.0


@dataclass
class Hook:
    """A running server, and what it passed on."""

    port: int
    pushed: list[str] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, name: str) -> None:
        self.pushed.append(name)
        self._more.set()

    async def heard(self, number: int) -> None:
        """Wait until so many pushes were passed on."""
        while len(self.pushed) < number:
            self._more.clear()
            await self._more.wait()

    async def send(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes as they are; return the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if end:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def status(self, data: bytes, *, end: bool = False) -> int:
        return int((await self.send(data, end=end)).split(b" ")[1])


def request(name: str = "shop", *, body: bytes = BODY, method: str = "POST", **headers: str) -> bytes:
    lines = [f"{method} /hooks/{name} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def signature(secret: bytes = SECRETS["shop"], body: bytes = BODY) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def with_hook(test: Callable[[Hook], Awaitable[None]], *, deadline_s: float = DEADLINE_S, again_s: float = 0.0) -> None:
    async def run() -> None:
        hook = Hook(0)
        server = await webhook.serve("127.0.0.1:0", SECRETS.get, hook.note, deadline_s=deadline_s, again_s=again_s)
        hook.port = server.sockets[0].getsockname()[1]
        async with server:
            await asyncio.wait_for(test(hook), DEADLINE_S)

    asyncio.run(run())


def test_a_signed_push_is_passed_on() -> None:
    async def test(hook: Hook) -> None:
        assert await hook.status(request(X_Hub_Signature_256=signature())) == 202
        assert await hook.status(request("depot", x_hub_signature_256=signature(SECRETS["depot"]))) == 202
        assert await hook.status(request(X_Gitlab_Token=SECRETS["shop"].decode())) == 202
        assert hook.pushed == ["shop", "depot", "shop"]

    with_hook(test)


def test_a_body_in_chunks_is_read() -> None:
    async def test(hook: Hook) -> None:
        head = (
            f"POST /hooks/shop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Hub-Signature-256: {signature()}"
        )
        chunks = b"".join(b"%x\r\n%s\r\n" % (1, BODY[i : i + 1]) for i in range(len(BODY))) + b"0\r\n\r\n"
        assert await hook.status(head.encode() + b"\r\n\r\n" + chunks) == 202

    with_hook(test)


def test_an_unknown_name_and_a_wrong_secret_are_answered_alike() -> None:
    async def test(hook: Hook) -> None:
        answers = {
            await hook.send(each)
            for each in (
                request(),
                request(X_Hub_Signature_256=signature(b"wrong")),
                request(X_Hub_Signature_256=signature(body=b"other")),
                request(X_Hub_Signature_256="sha256="),
                request(X_Hub_Signature_256="\xff"),
                request(X_Hub_Signature="sha1=" + "0" * 40),
                request(X_Gitlab_Token=""),
                request(X_Gitlab_Token="wrong"),
                request("unknown", X_Hub_Signature_256=signature()),
                request("depot", X_Hub_Signature_256=signature()),
                request("..%2f", X_Hub_Signature_256=signature(b"")),
                request("", X_Hub_Signature_256=signature(b"")),
            )
        }
        assert len(answers) == 1
        assert answers.pop().startswith(b"HTTP/1.1 401 ")
        assert hook.pushed == []

    with_hook(test)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(method="GET"), 405),
        (b"POST /v2/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        (b"\x16\x03\x01 what is this\r\n\r\n", 400),
        (b"POST /hooks/shop HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /hooks/shop HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /hooks/shop HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /hooks/shop HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n", 431),
        (b"POST /hooks/shop HTTP/1.1\r\nX-Gitlab-Token: a\r\nX-Gitlab-Token: b\r\n\r\n", 431),
        (b"POST /hooks/shop HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 400),
        (b"POST /hooks/shop HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", 400),
    ],
)
def test_what_is_no_push_is_refused(data: bytes, status: int) -> None:
    async def test(hook: Hook) -> None:
        assert await hook.status(data, end=True) == status
        assert hook.pushed == []

    with_hook(test)


def test_a_body_over_the_limit_is_cut_off_also_in_chunks() -> None:
    async def test(hook: Hook) -> None:
        head = b"POST /hooks/shop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
        assert await hook.status(head + chunk * 6, end=True) == 413

    with_hook(test)


def test_a_sender_that_stops_is_hung_up_on() -> None:
    async def test(hook: Hook) -> None:
        assert await hook.send(b"POST /hooks/shop HT") == b""

    with_hook(test, deadline_s=0.2)


def test_too_many_requests_at_a_time_are_refused_and_it_goes_on() -> None:
    async def test(hook: Hook) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", hook.port) for _ in range(webhook.CONNECTIONS_MAX)]
        assert await hook.status(request(X_Hub_Signature_256=signature())) == 429
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        statuses = [await hook.status(request(X_Gitlab_Token="wrong")) for _ in range(100)]
        assert set(statuses) == {401, 429}

    with_hook(test)


def test_pushes_in_quick_succession_become_one_look_now_and_one_after() -> None:
    async def test(hook: Hook) -> None:
        for _ in range(4):
            assert await hook.status(request(X_Hub_Signature_256=signature())) == 202
        assert hook.pushed == ["shop"]
        await hook.heard(2)
        assert hook.pushed == ["shop", "shop"]

    with_hook(test, again_s=1.0)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OrchError) as error:
            asyncio.run(webhook.serve(address, SECRETS.get, print))
    assert (error.value.kind, error.value.problems[0].where) == (Kind.CONFLICT, address)
