"""One HTTP/1.1 connection: bytes from the socket straight into the input tensor's memory, refusals at the head.

`asyncio.BufferedProtocol` asks for the memory that the kernel writes into. While a head or JSON is expected that is
a scratch buffer that all connections share (each piece is consumed before the next callback); while a tensor is
expected it is the rest of that tensor.
"""

from __future__ import annotations

import asyncio
import enum
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Kind, OrchError
from orchestrator.runner.pool import Outcome
from orchestrator.serving.dataplane import DataPlane
from orchestrator.serving.http_head import HEAD_LIMIT_BYTES, ChunkedBody, Head, HeadParser, HttpError, answer_head
from orchestrator.serving.http_infer import JSON, InferBody
from orchestrator.serving.http_routes import Answer, Metrics, answer, error_answer
from orchestrator.serving.oip import HeadCache
from orchestrator.serving.tensors import TensorPool

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

SCRATCH_BYTES = 16 * 1024  # what of a tensor lands here is copied, so small; a tiny model's whole request fits
PLAIN_BODY_BYTES = 2**20  # no route without tensors reads its body
STASH_LIMIT_BYTES = 64 * 1024  # of pipelined requests, kept while one is answered; then reading pauses
END_OF_HEAD = b"\r\n\r\n"
LINGER_S = 2.0  # for the client to read the last answer before the connection is cut


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost."""

    body_bytes: int = 256 * 2**20
    json_bytes: int = 32 * 2**20
    connections: int = 20_000
    idle_s: float = 75.0
    """Between requests, as in nginx."""
    head_s: float = 10.0
    """From the first byte of a request to the end of its head."""
    stall_s: float = 10.0
    """Without a byte of the body, or without the client taking a byte of the answer."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of a server use."""

    plane: DataPlane
    metrics: Metrics
    version: str
    limits: HttpLimits
    token: Callable[[], str | None]
    clock: Callable[[], float]
    heads: HeadParser
    bodies: HeadCache
    tensors: TensorPool
    scratch: bytearray
    connections: set[Connection]
    saturation: Callable[[str], float | None]
    on_bug: Callable[[BaseException], None]


class Phase(enum.Enum):
    """What the next bytes are."""

    HEAD = enum.auto()
    JSON = enum.auto()
    TENSORS = enum.auto()
    CHUNKS = enum.auto()
    PLAIN = enum.auto()  # the body of a request that is no inference: read and ignored
    DISCARD = enum.auto()  # the body of a request that was answered at its head
    BUSY = enum.auto()  # an inference runs; what comes now is the next request


class Connection(asyncio.BufferedProtocol):
    """One connection; all calls on the loop's thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._scratch = memoryview(shared.scratch)
        self._transport: asyncio.Transport
        self._phase = Phase.HEAD
        self._stash = bytearray()
        self._need = 0
        self._sink: memoryview | None = None
        self._head: Head
        self._body: InferBody | None = None
        self._chunks: ChunkedBody | None = None
        self._closing = False
        self._paused = False
        self.since = shared.clock()
        """When the connection last made progress in its phase."""
        self._writing_stalled_since: float | None = None

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]
        connections = self._shared.connections
        if len(connections) >= self._shared.limits.connections:
            self._closing = True
            self._send(Answer(503, b'{"error":"too many connections"}', JSON), close=True)
            return
        connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: work that nobody waits for any more is dropped."""
        del exc  # however it ended, it ended
        self._shared.connections.discard(self)
        self._closing = True
        body, self._body = self._body, None
        if body is not None:
            self._shared.plane.release(body.admission)

    def eof_received(self) -> bool:
        """Take the client's end for its going away, as nginx does: the transport closes."""
        return False

    def pause_writing(self) -> None:
        """The client takes its answer more slowly than it comes."""
        self._writing_stalled_since = self._shared.clock()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_stalled_since = None

    def get_buffer(self, sizehint: int) -> Buffer:
        """Return the memory that the next bytes go to."""
        del sizehint
        return self._scratch if self._sink is None else self._sink

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` that the kernel has written."""
        if not self._closing:
            self.since = self._shared.clock()
        try:
            if self._sink is not None:
                self._filled(nbytes)
            else:
                self._take(self._scratch[:nbytes])
        except HttpError as error:
            self._refuse(OrchError(Kind.INVALID, error.text), error.status)
        except OrchError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the one boundary of this connection
            self._shared.on_bug(error)
            self._refuse(OrchError(Kind.INTERNAL, f"{type(error).__name__}: {error}"))

    # Reading, phase by phase; each returns what it left of the bytes

    def _take(self, data: memoryview) -> None:
        while len(data) and not self._closing:
            match self._phase:
                case Phase.HEAD:
                    data = self._take_head(data)
                case Phase.JSON:
                    data = self._take_json(data)
                case Phase.TENSORS:
                    data = self._take_tensors(data)
                case Phase.CHUNKS:
                    data = self._take_chunks(data)
                case Phase.DISCARD | Phase.PLAIN:
                    data = self._take_ignored(data)
                case Phase.BUSY:
                    self._keep(data)
                    return

    def _keep(self, data: memoryview) -> None:
        self._stash += data
        if len(self._stash) > STASH_LIMIT_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _take_head(self, data: memoryview) -> memoryview:
        if self._stash:
            self._stash += data
            data = memoryview(bytes(self._stash))
            self._stash.clear()
        text = bytes(data[:HEAD_LIMIT_BYTES])
        while text[:2] == b"\r\n":  # RFC 9112 2.2: an empty line before a request is ignored
            text, data = text[2:], data[2:]
        end = text.find(END_OF_HEAD)
        if end < 0:
            if len(data) >= HEAD_LIMIT_BYTES:
                raise HttpError(431, f"the head is larger than {HEAD_LIMIT_BYTES} bytes")
            self._stash += data
            return data[:0]
        end += len(END_OF_HEAD)
        self._head = self._shared.heads(text[:end])
        self._begin(self._head)
        return data[end:]

    def _begin(self, head: Head) -> None:
        """Decide at the head what becomes of the request."""
        limit = self._shared.limits.body_bytes if head.infers else PLAIN_BODY_BYTES
        if head.content_length is not None and head.content_length > limit:
            raise HttpError(413, f"the body is larger than {limit} bytes")
        refusal = self._unauthorized(head)
        if refusal is None and head.infers:
            try:
                self._begin_infer(head)
            except OrchError as error:
                refusal = self._overload_answer(error, head)
            else:
                return
        if refusal is not None:
            self._answer_at_head(refusal, head)
        elif head.content_length is None:
            self._chunks = ChunkedBody(head, PLAIN_BODY_BYTES)
            self._phase = Phase.CHUNKS
        else:
            self._need = head.content_length
            self._phase = Phase.PLAIN
            self._take_ignored(memoryview(b""))

    def _unauthorized(self, head: Head) -> Answer | None:
        token = self._shared.token()
        if token is None or head.parts[:2] == ("v2", "health"):
            return None
        scheme, _, given = head.authorization.partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
            return None
        return Answer(401, b'{"error":"a bearer token is needed"}', JSON, "WWW-Authenticate: Bearer\r\n")

    def _begin_infer(self, head: Head) -> None:
        if head.content_encoding not in ("", "identity"):
            raise HttpError(415, f"content encoding {head.content_encoding!r} is not spoken here")
        length = head.content_length
        json_length = head.json_length if head.json_length is not None else length
        if length is not None and json_length is not None and json_length > length:
            raise HttpError(400, f"Inference-Header-Content-Length {json_length} is beyond the body of {length} bytes")
        if json_length is not None and json_length > self._shared.limits.json_bytes:
            raise HttpError(413, f"the JSON is larger than {self._shared.limits.json_bytes} bytes")
        name, version = _model_of(head)
        nbytes = self._shared.limits.json_bytes if length is None else length
        admission = self._shared.plane.admit(name, version, nbytes=nbytes)
        self._body = InferBody(admission, self._shared.bodies, self._shared.tensors)
        if head.expect_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if length is None:
            self._chunks = ChunkedBody(head, self._shared.limits.json_bytes)
            self._phase = Phase.CHUNKS
            return
        self._need = json_length or 0
        self._phase = Phase.JSON
        if self._need == 0:
            self._json_complete(b"")

    def _overload_answer(self, error: OrchError, head: Head) -> Answer:
        if error.kind not in (Kind.OVERLOADED, Kind.DEADLINE, Kind.UNAVAILABLE):
            return error_answer(error)
        name, _ = _model_of(head)
        retry_ms = None if error.retry_after_s is None else max(1, round(error.retry_after_s * 1000))
        return error_answer(error, model=name, retry_after_ms=retry_ms, saturation=self._shared.saturation(name))

    def _answer_at_head(self, refusal: Answer, head: Head) -> None:
        """Answer now; the body is read into nothing, or not at all where the client waits for leave to send it."""
        close = not head.keep_alive or head.content_length is None or head.expect_continue
        self._send(refusal, close=close, head_only=head.method == "HEAD")
        self._need = head.content_length or 0
        self._phase = Phase.DISCARD if self._need else Phase.HEAD

    def _take_json(self, data: memoryview) -> memoryview:
        if not self._stash and len(data) >= self._need:
            text, rest = bytes(data[: self._need]), data[self._need :]
        else:
            missing = self._need - len(self._stash)
            self._stash += data[:missing]
            rest = data[missing:]
            if len(self._stash) < self._need:
                return rest
            text = bytes(self._stash)
            self._stash.clear()
        self._json_complete(text)
        return rest

    def _json_complete(self, text: bytes) -> None:
        body, head = self._body, self._head
        assert body is not None
        assert head.content_length is not None
        binary = head.content_length - len(text)
        try:
            body.start(text, binary)
        except OrchError as error:
            self._bad_inference(error, binary)
            return
        self._phase = Phase.TENSORS
        self._next_target()

    def _bad_inference(self, error: OrchError, unread: int) -> None:
        """Answer a bad request and go on with the connection: the rest of its body is known in length."""
        body, self._body = self._body, None
        assert body is not None
        self._shared.plane.release(body.admission)
        body.recycle()
        self._sink = None
        self._need = unread
        self._send(error_answer(error), close=not self._head.keep_alive)
        self._phase = Phase.DISCARD if unread else Phase.HEAD

    def _take_tensors(self, data: memoryview) -> memoryview:
        body = self._body
        assert body is not None
        target = body.targets[0]
        count = min(len(target), len(data))
        target[:count] = data[:count]
        if count == len(target):
            body.targets.pop(0)
        else:
            body.targets[0] = target[count:]
        self._next_target()
        return data[count:]

    def _filled(self, nbytes: int) -> None:
        body = self._body
        assert body is not None
        target = body.targets[0]
        if nbytes == len(target):
            body.targets.pop(0)
        else:
            body.targets[0] = target[nbytes:]
        self._next_target()

    def _next_target(self) -> None:
        body = self._body
        assert body is not None
        if body.targets:
            self._sink = body.targets[0]
        else:
            self._sink = None
            self._submit(body)

    def _submit(self, body: InferBody) -> None:
        try:
            arrays = body.arrays()
        except OrchError as error:
            self._bad_inference(error, 0)
            return
        self._phase = Phase.BUSY
        self._shared.plane.submit(body.admission, body.rows, arrays, lambda outcome: self._inferred(body, outcome))

    def _take_chunks(self, data: memoryview) -> memoryview:
        chunks = self._chunks
        assert chunks is not None
        chunks.feed(bytes(data))
        if chunks.complete:
            self._chunks = None
            self._chunked_complete(bytes(chunks.body))
        return data[:0]

    def _chunked_complete(self, whole: bytes) -> None:
        if self._body is None:
            self._send_plain(close=True)
            return
        length = self._head.json_length if self._head.json_length is not None else len(whole)
        if length > len(whole):
            raise HttpError(400, "Inference-Header-Content-Length is beyond the body")
        try:
            self._body.start(whole[:length], len(whole) - length)
        except OrchError as error:
            self._bad_inference(error, 0)
            return
        rest = memoryview(whole)[length:]
        for target in self._body.targets:
            target[:] = rest[: len(target)]
            rest = rest[len(target) :]
        self._body.targets.clear()
        self._next_target()

    def _take_ignored(self, data: memoryview) -> memoryview:
        count = min(self._need, len(data))
        self._need -= count
        if self._need == 0:
            phase, self._phase = self._phase, Phase.HEAD
            if phase is Phase.PLAIN:
                self._send_plain(close=not self._head.keep_alive)
        return data[count:]

    # Answering

    def _inferred(self, body: InferBody, outcome: Outcome) -> None:
        """Answer an inference that has ended, and go on with what came meanwhile."""
        if self._body is not body:
            return  # the client went away
        self._body = None
        self._phase = Phase.HEAD
        try:
            self._send_outcome(body, outcome)
        except OrchError as error:
            self._send(error_answer(error), close=not self._head.keep_alive)
        body.recycle()
        self._resume()

    def _send_outcome(self, body: InferBody, outcome: Outcome) -> None:
        # What follows a chunked body was read along with it, and is lost.
        close = not self._head.keep_alive or self._head.content_length is None or self._shared.plane.draining
        if outcome.error is not None:
            self._send(self._overload_answer(outcome.error, self._head), close=close)
            return
        chunks, length, content_type, extra = body.answer(outcome.outputs)
        extra += (
            f"X-Orch-Queue-Ms: {outcome.queue_s * 1000:.3f}\r\nX-Orch-Service-Ms: {outcome.service_s * 1000:.3f}\r\n"
        )
        head = answer_head(200, length, content_type, close=close, extra=extra)
        if length < SCRATCH_BYTES:
            self._transport.write(b"".join([head, *chunks]))
        else:
            self._transport.writelines([head, *chunks])
        if close:
            self._close()

    def _resume(self) -> None:
        if self._closing:
            return
        self.since = self._shared.clock()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._stash:
            waiting = memoryview(bytes(self._stash))
            self._stash.clear()
            asyncio.get_running_loop().call_soon(self._take_later, waiting)

    def _take_later(self, waiting: memoryview) -> None:
        if self._closing:
            return
        if self._phase is not Phase.HEAD or self._stash:
            self._keep(waiting)
            return
        sink, self._sink = self._sink, None
        assert sink is None, "no tensor is expected between requests"
        try:
            self._take(waiting)
        except HttpError as error:
            self._refuse(OrchError(Kind.INVALID, error.text), error.status)
        except OrchError as error:
            self._refuse(error)

    def _send(self, reply: Answer, *, close: bool, head_only: bool = False) -> None:
        close = close or self._shared.plane.draining
        head = answer_head(reply.status, len(reply.body), reply.content_type, close=close, extra=reply.extra)
        self._transport.write(head if head_only else head + reply.body)
        if close:
            self._close()

    def _send_plain(self, *, close: bool) -> None:
        head = self._head
        reply = answer(head, self._shared.plane, self._shared.metrics, self._shared.version)
        self._send(reply, close=close, head_only=head.method == "HEAD")

    def _refuse(self, error: OrchError, status: int | None = None) -> None:
        """Answer what cannot be gone on from, and close."""
        self._drop_body()
        if self._closing:
            return
        reply = error_answer(error)
        self._send(Answer(status or reply.status, reply.body, reply.content_type, reply.extra), close=True)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        self._sink = None
        self._chunks = None
        if body is not None:
            self._shared.plane.release(body.admission)

    def _close(self) -> None:
        """Close once what was written is sent. What the client still sends is read until it closes (RFC 9112 9.6)."""
        if self._closing:
            return
        self._closing = True
        self._linger()

    def _linger(self) -> None:
        try:
            if self._transport.can_write_eof():
                self._transport.write_eof()
        except (OSError, RuntimeError):
            self._transport.abort()

    # Time

    def overdue(self, now: float) -> None:
        """Close what makes no progress; called about once a second."""
        limits = self._shared.limits
        if self._writing_stalled_since is not None and now - self._writing_stalled_since > limits.stall_s:
            self._transport.abort()
            return
        waited = now - self.since
        if self._closing:
            if waited > LINGER_S:
                self._transport.abort()
        elif self._phase is Phase.HEAD:
            self._overdue_head(waited)
        elif self._phase is not Phase.BUSY and waited > limits.stall_s:
            self._refuse(OrchError(Kind.DEADLINE, f"no byte of the body came for {limits.stall_s:g} s"), 408)

    def _overdue_head(self, waited: float) -> None:
        limits = self._shared.limits
        if self._stash:
            if waited > limits.head_s:
                self._refuse(OrchError(Kind.DEADLINE, f"the head did not come within {limits.head_s:g} s"), 408)
        elif waited > limits.idle_s:
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def stop(self) -> None:
        """Close if nothing is under way; what is under way is answered with `Connection: close`."""
        if self._phase is Phase.HEAD and not self._stash and not self._closing:
            self._transport.close()


def _model_of(head: Head) -> tuple[str, str | None]:
    """Return model and version of `/v2/models/NAME[/versions/V]/infer`; raise NOT_FOUND for another shape."""
    match head.parts:
        case ("v2", "models", name, "infer"):
            return name, None
        case ("v2", "models", name, "versions", version, "infer"):
            return name, version
        case _:
            raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")
