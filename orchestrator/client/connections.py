"""Kept-alive HTTP connections to one endpoint: one exchange at a time on each, any number of threads."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import ssl
import urllib.parse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message

from orchestrator.client.failures import DeadlineExceeded, Failed, Invalid, Unreachable
from orchestrator.profiling.trust import refusal

IDLE_MAX = 64  # connections kept for later; more callers than that open their own again
TOGETHER_BYTES = 64 * 1024  # of a body that is sent in one write; joining more costs more than a second write
PIECE_BYTES = 2**20  # of an answer, between two looks at the clock
ANSWER_MAX_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent; the parts of the body are not copied unless they are small."""

    method: str
    path: str
    headers: Mapping[str, str]
    parts: Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Message
    body: bytearray


class Connections:
    """Opens, keeps and reuses connections. Thread-safe; a fork begins with none."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None, clock: Callable[[], float]) -> None:
        self.url = _address(url)
        self.where = self.url.geturl()
        if tls is not None and self.url.scheme != "https":
            raise Invalid("certificates are for https only", where=self.where, hint="write https://, or leave them out")
        self._tls = tls
        self._clock = clock
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._pid = os.getpid()

    def exchange(self, request: Request, deadline: float) -> Answer:
        """Return the server's answer, whatever its status; raise Unreachable, DeadlineExceeded or Failed.

        A server closes connections that idle, and all of a worker that is replaced; a request that finds its kept
        connection closed is sent once more at once, on a new one.
        """
        kept = self._kept()
        try:
            if kept is not None:
                with contextlib.suppress(_ClosedUnansweredError):
                    return self._on(kept, request, deadline)
            return self._on(self._new(), request, deadline)
        except _ClosedUnansweredError as error:
            hint = "the worker was stopped or died; orch status and orch logs tell, and another call may succeed"
            if self.url.scheme == "https":
                hint = "does it ask for a client_certificate? Or the worker was stopped: orch status and orch logs tell"
            raise Unreachable("the connection was closed without an answer", where=self.where, hint=hint) from error
        except TimeoutError:
            hint = "allow more by timeout_s, or see how full the model is: orch status"
            raise DeadlineExceeded("no answer within the time allowed", where=self.where, hint=hint) from None
        except http.client.HTTPException as error:
            hint = "is it the gRPC port? The HTTP one is wanted"
            raise Failed("does not speak HTTP/1.1", where=self.where, hint=hint) from error
        except ssl.SSLError as error:
            what, hint = refusal(error)
            raise Failed(what, where=self.where, hint=hint) from error
        except OSError as error:
            hint = "is it running? orch status -o wide shows the endpoints"
            what = f"cannot be reached: {error.strerror or error}"
            raise Unreachable(what, where=self.where, hint=hint) from error

    def close(self) -> None:
        """Close the connections that idle."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> http.client.HTTPConnection | None:
        """Return a connection that idles and that the server has not closed meanwhile."""
        if os.getpid() != self._pid:  # what a fork inherits is its parent's to speak on
            self._idle, self._pid = deque(), os.getpid()
        while self._idle:
            try:
                connection = self._idle.pop()  # the warmest
            except IndexError:
                return None  # another thread was faster
            if not _readable(connection):
                return connection
            connection.close()
        return None

    def _new(self) -> http.client.HTTPConnection:
        host, port = self.url.hostname or "", self.url.port
        if self.url.scheme == "https":
            return http.client.HTTPSConnection(host, port, context=self._tls)
        return http.client.HTTPConnection(host, port)

    def _on(self, connection: http.client.HTTPConnection, request: Request, deadline: float) -> Answer:
        try:
            self._send(connection, request, deadline)
            response = self._answered(connection, deadline)
            answer = Answer(response.status, response.headers, self._body(connection, response, deadline))
            response.close()  # http.client takes an answer without a body for one that is still to be read
        except BaseException:
            connection.close()
            raise
        if response.will_close or len(self._idle) >= IDLE_MAX:
            connection.close()
        else:
            self._idle.append(connection)
        return answer

    def _send(self, connection: http.client.HTTPConnection, request: Request, deadline: float) -> None:
        if connection.sock is None:
            connection.timeout = self._left_s(deadline)
            connection.connect()
        connection.sock.settimeout(self._left_s(deadline))
        parts = request.parts
        size = sum(map(len, parts))
        if size <= TOGETHER_BYTES:
            parts = (b"".join(parts),)
        connection.putrequest(request.method, self.url.path.rstrip("/") + request.path, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(size))
        # A server that is full answers at the head and may close; its answer can be read all the same.
        with contextlib.suppress(*_CLOSED):
            connection.endheaders()
            for part in parts:
                connection.send(part)

    def _answered(self, connection: http.client.HTTPConnection, deadline: float) -> http.client.HTTPResponse:
        connection.sock.settimeout(self._left_s(deadline))
        try:
            return connection.getresponse()
        except _CLOSED as error:  # RemoteDisconnected is one
            raise _ClosedUnansweredError from error

    def _body(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float
    ) -> bytearray:
        length = response.length
        if length is None:  # chunked, or up to the end of the connection: no server of tensors does that
            return bytearray(response.read(ANSWER_MAX_BYTES))
        if length > ANSWER_MAX_BYTES:
            raise Failed(f"answers {length} bytes, more than {ANSWER_MAX_BYTES}", where=self.where)
        body = bytearray(length)
        memory, filled = memoryview(body), 0
        while filled < length:
            if connection.sock is not None:  # None: http.client has handed it to an answer that ends in a close
                connection.sock.settimeout(self._left_s(deadline))
            count = response.readinto(memory[filled : filled + PIECE_BYTES])
            if not count:
                raise Unreachable(f"the answer broke off after {filled} of {length} bytes", where=self.where)
            filled += count
        return body

    def _left_s(self, deadline: float) -> float:
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s


_CLOSED = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class _ClosedUnansweredError(Exception):
    """The server closed the connection and had said nothing: on a kept one the usual end of idling."""


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Tell whether an idle connection has anything to read: its end, or bytes that nobody asked for."""
    if connection.sock is None:
        return True
    poll = select.poll()  # select() knows no descriptor beyond 1023
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        valid = False
    if not valid:
        raise Invalid(f"is no HTTP address: {url!r}", hint="write http://127.0.0.1:8000")
    return parts
