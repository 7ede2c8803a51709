"""Hears of pushes: POST /hooks/NAME, signed with the source's secret, from GitHub, Gitea, Forgejo and GitLab.

What it says is not believed: a push that is heard of makes the agent look at the remote, no more. So an old one that is
sent again does no harm, and neither does one that never comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import secrets as chance
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

from orchestrator.errors import Kind, OrchError

BODY_BYTES_MAX = 5 * 2**20  # GitHub cuts at 25 MiB; a push of hundreds of commits has 1 MiB
WIRE_BYTES_MAX = BODY_BYTES_MAX + 2**20  # with the head, and what chunks cost
HEAD_BYTES_MAX = 16 * 1024
HEADERS_MAX = 100
DEADLINE_S = 10.0  # from the connection to the answer; GitHub waits as long
CONNECTIONS_MAX = 32
RATE_PER_S = 20.0  # requests looked at, all senders together
BURST = 40.0
AGAIN_S = 1.0  # between two looks at one remote
PIECE_BYTES = 64 * 1024
PREFIX = "/hooks/"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

Secrets = Callable[[str], bytes | None]
Pushed = Callable[[str], None]


async def serve(
    address: str,
    secrets: Secrets,
    pushed: Pushed,
    *,
    deadline_s: float = DEADLINE_S,
    again_s: float = AGAIN_S,
) -> asyncio.Server:
    """Listen on HOST:PORT; call `pushed(name)` on the loop for each push that carries the name's secret.

    Calls for one name are `again_s` apart at least; of those that come sooner the last one is made late. Raise CONFLICT
    where the address cannot be had. Close with `Server.close()`.
    """
    host, _, port = address.rpartition(":")
    hooks = _Hooks(secrets, pushed, deadline_s, again_s)
    try:
        return await asyncio.start_server(
            hooks.connected, host.strip("[]"), int(port), backlog=CONNECTIONS_MAX, limit=PIECE_BYTES
        )
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None)  # its own text has the address once more
        what = f"cannot listen for webhooks: {os.strerror(number) if number and number > 0 else error}"
        raise OrchError(Kind.CONFLICT, what, where=address, hint="stop what listens there, or name another") from None


class _Refusal(Exception):  # noqa: N818 - an answer
    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(text)


@dataclass(slots=True)
class _Request:
    """One request, filled by llhttp; raises _Refusal for what is not read on."""

    method: str = ""
    url: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    head_bytes: int = 0
    complete: bool = False

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        key = name.lower()
        if len(self.headers) >= HEADERS_MAX or key in self.headers:
            raise _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers, or one twice")
        self.headers[key] = value.strip()

    def _count(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > HEAD_BYTES_MAX:
            raise _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head has more than {HEAD_BYTES_MAX} bytes")

    def on_headers_complete(self) -> None:
        length = self.headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:15]) > BODY_BYTES_MAX:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {BODY_BYTES_MAX} bytes")

    def on_body(self, body: bytes) -> None:
        self.body += body
        if len(self.body) > BODY_BYTES_MAX:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {BODY_BYTES_MAX} bytes")

    def on_message_complete(self) -> None:
        self.complete = True


class _Hooks:
    """Answers the requests of one server."""

    def __init__(self, secrets: Secrets, pushed: Pushed, deadline_s: float, again_s: float) -> None:
        self._secrets = secrets
        self._pushed = pushed
        self._deadline_s = deadline_s
        self._again_s = again_s
        self._nobodys = chance.token_bytes(32)
        self._connections = 0
        self._tokens = BURST
        self._counted = 0.0
        self._next: dict[str, float] = {}  # of names that have a secret, so bounded by the operator
        self._waiting: set[str] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        self._connections += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                status, text = await self._answer(reader)
                writer.write(_answer(status, text))
                await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
                await _discard(reader)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # the sender is too slow, or gone
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[HTTPStatus, str]:
        try:
            self._let_in()
            request = await _read(reader)
            return self._hear(request)
        except _Refusal as refusal:
            return refusal.status, refusal.text

    def _let_in(self) -> None:
        """Raise for one connection, or one request, too many."""
        now = asyncio.get_running_loop().time()
        self._tokens = min(BURST, self._tokens + (now - self._counted) * RATE_PER_S)
        self._counted = now
        if self._connections > CONNECTIONS_MAX or self._tokens < 1:
            raise _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many requests at a time")
        self._tokens -= 1

    def _hear(self, request: _Request) -> tuple[HTTPStatus, str]:
        path = request.url.partition(b"?")[0].decode("latin-1")
        if not path.startswith(PREFIX):
            return HTTPStatus.NOT_FOUND, "hooks are at /hooks/NAME"
        if request.method != "POST":
            return HTTPStatus.METHOD_NOT_ALLOWED, "a push is a POST"
        name = path.removeprefix(PREFIX)
        secret = self._secrets(name) if _NAME.fullmatch(name) else None
        # An unknown name costs as much as a known one, and is answered alike.
        if not (_signed(request, secret or self._nobodys) and secret):
            return HTTPStatus.UNAUTHORIZED, "the name or the secret is wrong"
        self._tell(name)
        return HTTPStatus.ACCEPTED, "the remote will be looked at"

    def _tell(self, name: str) -> None:
        """Pass a push on, at once or when the last one is long enough ago: one that waits stands for all others."""
        loop = asyncio.get_running_loop()
        wait = self._next.get(name, 0.0) - loop.time()
        if wait <= 0:
            self._next[name] = loop.time() + self._again_s
            self._pushed(name)
        elif name not in self._waiting:
            self._waiting.add(name)
            loop.call_later(wait, self._tell_late, name)

    def _tell_late(self, name: str) -> None:
        self._waiting.discard(name)
        self._tell(name)


async def _read(reader: asyncio.StreamReader) -> _Request:
    """Return the whole request; raise _Refusal for one that breaks a limit or is no HTTP."""
    request = _Request()
    parser = httptools.HttpRequestParser(request)
    received = 0
    while not request.complete:
        data = await reader.read(PIECE_BYTES)
        received += len(data)
        if not data:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "the request ends too early")
        if received > WIRE_BYTES_MAX:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too long")
        try:
            parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Refusal):
                raise error.__context__ from None
            raise _Refusal(HTTPStatus.BAD_REQUEST, "not an HTTP request") from None
        except httptools.HttpParserUpgrade:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "nothing is upgraded here") from None
        except httptools.HttpParserError:
            if not request.complete:
                raise _Refusal(HTTPStatus.BAD_REQUEST, "not an HTTP request") from None
    request.method = parser.get_method().decode("latin-1")
    return request


async def _discard(reader: asyncio.StreamReader) -> None:
    """Read what is still on its way, so that closing does not cut the answer off before it is read."""
    left = WIRE_BYTES_MAX
    while left > 0 and (data := await reader.read(PIECE_BYTES)):
        left -= len(data)


def _signed(request: _Request, secret: bytes) -> bool:
    """Return whether the request carries the secret: as the body's HMAC, or as GitLab sends it, itself."""
    digest = hmac.new(secret, bytes(request.body), hashlib.sha256).hexdigest().encode()
    given = request.headers.get(b"x-hub-signature-256", b"")
    token = request.headers.get(b"x-gitlab-token", b"")
    by_digest = hmac.compare_digest(given, b"sha256=" + digest)
    by_token = hmac.compare_digest(token, secret)
    return by_digest or by_token


def _answer(status: HTTPStatus, text: str) -> bytes:
    body = (text + "\n").encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body
