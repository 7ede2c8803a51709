"""One HTTP/1.1 connection: bytes from the socket straight into the input tensor's memory, refusals at the head.

`asyncio.BufferedProtocol` asks for the memory that the kernel writes into. While a head or JSON is expected that is
a scratch buffer that all connections share (each piece is consumed before the next callback); while a tensor is
expected it is the rest of that tensor.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.errors import Kind, OrchError
from orchestrator.runner.pool import Outcome
from orchestrator.serving.contract import NO_MEMORY, times
from orchestrator.serving.dataplane import Admission, DataPlane
from orchestrator.serving.error_count import ErrorCount
from orchestrator.serving.http_body import ChunkedBody
from orchestrator.serving.http_discard import Discard
from orchestrator.serving.http_gate import (
    PLAIN_BODY_BYTES,
    PLAIN_KEPT_BYTES,
    HttpLimits,
    json_bytes,
    model_of,
    refusal,
    unauthorized,
)
from orchestrator.serving.http_head import (
    HEAD_LIMIT_BYTES,
    Head,
    HeadParser,
    HttpError,
    answer_head,
    check_beginning,
    lines,
    with_id,
)
from orchestrator.serving.http_infer import Answers, InferBody
from orchestrator.serving.http_outflow import Outflow, TlsOutflow
from orchestrator.serving.http_routes import JSON, Answer, answer, error_answer, whole
from orchestrator.serving.oip import HeadCache
from orchestrator.serving.quota import Quotas, client
from orchestrator.serving.request_log import Caller, Ended, RequestLog
from orchestrator.serving.scrapes import Page, Scrapes
from orchestrator.serving.tensors import TensorPool
from orchestrator.serving.turns import Turns
from orchestrator.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

SCRATCH_BYTES = 16 * 1024  # what of a tensor lands here is copied, so small; a tiny model's whole request fits
DISCARDED_BYTES = 256 * 1024  # of a refused body at once: a third of the CPU time less than in pieces of the scratch
LARGE_BODY_BYTES = 64 * 1024  # whoever sends one is likely to send another:
LARGE_BEGINNING_BYTES = 1024  # its head with the names of its tensors, and little of them
USUAL_HEAD_BYTES = 1024
STASH_LIMIT_BYTES = 64 * 1024  # of pipelined requests, kept while one is answered; then reading pauses
END_OF_HEAD = b"\r\n\r\n"
LINGER_S = 2.0  # for the client to read the last answer before the connection is cut
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of a server use."""

    plane: DataPlane
    scrapes: Scrapes
    version: str
    limits: HttpLimits
    token: Callable[[], Sequence[str] | None]
    clock: Callable[[], float]
    heads: HeadParser
    bodies: HeadCache
    answers: Answers
    tensors: TensorPool
    scratch: bytearray
    discarded: bytearray
    connections: set[Connection]
    saturation: Callable[[str], float | None]
    quotas: Quotas | None
    requests: RequestLog
    errors: ErrorCount
    turns: Turns
    on_bug: Callable[[BaseException], None]


class Phase(enum.Enum):
    """What the next bytes are."""

    HEAD = enum.auto()
    BODY = enum.auto()  # of an inference
    CHUNKS = enum.auto()
    PLAIN = enum.auto()  # the body of a request that is no inference
    DISCARD = enum.auto()  # the body of a request that was answered at its head
    BUSY = enum.auto()  # an inference runs; what comes now is the next request


class Connection(asyncio.BufferedProtocol):
    """One connection; all calls on the loop's thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._scratch = memoryview(shared.scratch)
        self._beginning = self._scratch  # where heads are read to: less of it, where tensors follow that are large
        self._discard: Discard | None = None
        self._transport: asyncio.Transport
        self._phase = Phase.HEAD
        self._stash = bytearray()  # the beginning of a head, or what was pipelined: not yet looked at
        self._need = 0  # bytes of a body without tensors that are still to come
        self._plain = bytearray()  # what of it is kept
        self._head: Head
        self._body: InferBody | None = None
        self._chunks: ChunkedBody | None = None
        self._closing = False
        self._reading_paused = False
        self._writing_paused = False
        self._outflow: Outflow | TlsOutflow
        self.since = shared.clock()
        """When the connection last made progress in its phase; for a head, when it began."""

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]
        self._outflow = Outflow() if transport.get_extra_info("ssl_object") is None else TlsOutflow()
        connections = self._shared.connections
        if len(connections) < self._shared.limits.connections:
            connections.add(self)
            return
        self._closing = True
        self._transport.write(whole(Answer(503, b'{"error":"too many connections"}', JSON), close=True))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: work that nobody waits for any more is dropped."""
        del exc  # however it ended, it ended
        self._shared.connections.discard(self)
        self._closing = True
        if self._body is not None and self._shared.requests.on:
            self._note(Ended("499", "CANCELLED"), self._body)
        self._drop_body()

    def eof_received(self) -> bool:
        """Take the client's end for its going away, as nginx does: the transport closes."""
        return False

    def pause_writing(self) -> None:
        """Begin nothing new: the client takes its answers more slowly than they come."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Go on: the client has caught up."""
        self._writing_paused = False
        self._go_on()

    def get_buffer(self, sizehint: int) -> Buffer:
        """Return the memory that the next bytes go to."""
        del sizehint
        if self._discards:
            self._throw_away()
            if self._discards:
                return memoryview(self._shared.discarded)[: self._need]
        body = self._body
        if body is not None and body.sink is not None:
            return body.sink
        return self._scratch if self._phase is not Phase.HEAD else self._beginning

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` that the kernel has written."""
        if self._closing:
            return  # RFC 9112 9.6: read, so that the client can read the last answer
        if not self._stash:
            self.since = self._shared.clock()
        try:
            body = self._body
            if self._discards:
                self._need -= nbytes
                self._phase = Phase.DISCARD if self._need else Phase.HEAD
            elif body is None or body.sink is None:
                self._take(self._scratch[:nbytes])
                if self._discards:
                    self._throw_away()  # most of it is there already
            else:
                body.filled(nbytes)
                if body.sink is None:
                    self._submit(body)
        except Exception as error:  # noqa: BLE001 - the one boundary of this connection
            self._give_up(error)

    @property
    def _discards(self) -> bool:
        """Tell whether much of a refused body is left: it is read in large pieces, and nobody looks at them."""
        return self._phase is Phase.DISCARD and self._need > SCRATCH_BYTES

    def _throw_away(self) -> None:
        """Have the kernel throw away what has arrived of a refused body."""
        if self._discard is None:
            if not Discard.possible(self._transport):
                return
            self._discard = Discard(self._transport)
        gone = self._discard.discard(self._need)
        if gone:
            self.since = self._shared.clock()
            self._need -= gone
            self._phase = Phase.DISCARD if self._need else Phase.HEAD

    # Reading, phase by phase; each returns what it left of the bytes

    def _take(self, data: memoryview) -> None:
        while len(data) and not self._closing:
            match self._phase:
                case Phase.HEAD:
                    if self._writing_paused:
                        self._keep(data)
                        return
                    data = self._take_head(data)
                case Phase.BODY:
                    data = self._take_body(data)
                case Phase.CHUNKS:
                    data = self._take_chunks(data)
                case Phase.DISCARD | Phase.PLAIN:
                    data = self._take_plain(data)
                case Phase.BUSY:
                    self._keep(data)
                    return

    def _keep(self, data: memoryview) -> None:
        self._stash += data
        if len(self._stash) > STASH_LIMIT_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        """Take up what came while an inference ran, or while the client did not read."""
        if self._closing or self._writing_paused or self._phase is not Phase.HEAD:
            return
        self.since = self._shared.clock()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if self._stash:
            waiting = memoryview(bytes(self._stash))
            self._stash.clear()
            try:
                self._take(waiting)
            except Exception as error:  # noqa: BLE001 - the one boundary of this connection
                self._give_up(error)

    def _take_head(self, data: memoryview) -> memoryview:
        if self._stash:
            self._stash += data
            data = memoryview(bytes(self._stash))
            self._stash.clear()
        text = bytes(data[:USUAL_HEAD_BYTES])
        if END_OF_HEAD not in text and len(data) > USUAL_HEAD_BYTES:
            text = bytes(data[:HEAD_LIMIT_BYTES])
        begin = 0
        if text[0] in b"\r\n":  # RFC 9112 2.2: an empty line before a request is ignored
            begin = len(text) - len(text.lstrip(b"\r\n"))
        end = text.find(END_OF_HEAD, begin)
        if end < 0:
            check_beginning(text[begin:], len(data))
            self._stash += data
            return data[:0]
        end += len(END_OF_HEAD)
        self._head = self._shared.heads(text[begin:end])
        large = (self._head.content_length or 0) > LARGE_BODY_BYTES
        self._beginning = self._scratch[:LARGE_BEGINNING_BYTES] if large else self._scratch
        self._begin(self._head)
        return data[end:]

    def _begin(self, head: Head) -> None:
        """Decide at the head what becomes of the request."""
        if head.infers and self._shared.requests.writing:
            self._head = head = with_id(head, self._shared.requests.new_id)
        error = unauthorized(head, self._shared.token())
        if error is None and head.infers:
            try:
                self._begin_infer(head)
            except OrchError as refused:
                error = refused
        if error is not None:
            self._answer_at_head(error, head)
        elif not head.infers:
            self._begin_plain(head)

    def _begin_infer(self, head: Head) -> None:
        name, version = model_of(head)
        length = head.content_length
        nbytes = self._shared.limits.json_bytes if length is None else length
        if self._shared.quotas is not None:
            self._shared.quotas.take(self._client(), self._shared.clock())
        said = head.said
        admission = self._shared.plane.admit(
            name, version, nbytes=nbytes, timeout_s=said.timeout_s, priority=said.priority
        )
        if head.expect:
            self._transport.write(CONTINUE)
        if length is None:
            self._chunks = ChunkedBody(self._shared.limits.json_bytes)
        json = json_bytes(head) or 0
        self._body = self._new_body(admission, json, (length or 0) - json)
        self._phase = Phase.CHUNKS if length is None else Phase.BODY
        if length == 0:
            self._take_body(memoryview(b""))

    def _begin_plain(self, head: Head) -> None:
        if head.expect:
            self._transport.write(CONTINUE)
        if head.content_length is None:
            self._chunks = ChunkedBody(PLAIN_BODY_BYTES)
            self._phase = Phase.CHUNKS
        else:
            self._need = head.content_length
            self._phase = Phase.PLAIN
            self._take_plain(memoryview(b""))

    def _answer_at_head(self, error: OrchError, head: Head) -> None:
        """Answer now; the body is read into nothing, or not at all where the client waits for leave to send it."""
        close = not head.keep_alive or head.content_length is None or bool(head.expect)
        refused = refusal(error, head, self._shared.saturation)
        if head.infers:
            self._count(refused.status, error, None)
        self._send(refused, close=close, head_only=head.method == "HEAD")
        self._need = head.content_length or 0
        self._phase = Phase.DISCARD if self._need else Phase.HEAD

    def _take_body(self, data: memoryview) -> memoryview:
        body = self._body
        assert body is not None
        rest = body.take(data)
        if body.complete:
            self._submit(body)
        elif body.failure is not None:
            self._answer_bad(body, body.failure)
        elif body.long:
            self._phase = Phase.BUSY
            self._in_turns(body, body.read(), lambda: self._has_read(body))
        return rest

    def _in_turns(self, body: InferBody, steps: Iterator[None], then: Callable[[], None]) -> None:
        """Let the loop do long work for this request in steps, and then go on, if the client is still there."""

        def ended(error: Exception | None) -> None:
            try:
                if error is not None:
                    raise error
                then()
            except Exception as failure:  # noqa: BLE001 - the one boundary of this connection
                self._give_up(failure)
            self._go_on()

        self._shared.turns.start(steps, ended, lambda: self._body is body)

    def _has_read(self, body: InferBody) -> None:
        if body.failure is not None:
            self._answer_bad(body, body.failure)
        else:
            self._submit(body)

    def _submit(self, body: InferBody) -> None:
        if body.far:
            self._phase = Phase.BUSY
            self._in_turns(body, body.fetch(), lambda: self._has_read(body))
            return
        try:
            arrays = body.arrays()
        except OrchError as error:
            self._answer_bad(body, error)
            return
        self._phase = Phase.BUSY
        self._shared.plane.submit(body.admission, body.rows, arrays, lambda outcome: self._inferred(body, outcome))

    def _answer_bad(self, body: InferBody, error: OrchError) -> None:
        """Answer a request that will not be inferred and go on: the rest of its body is known in length."""
        self._drop_body()
        body.recycle()
        self._need = body.unread
        self._phase = Phase.DISCARD if self._need else Phase.HEAD
        # What follows a chunked body was read along with it, and is lost.
        close = not self._head.keep_alive or self._head.content_length is None
        self._send_refusal(error, body, close=close)

    def _take_chunks(self, data: memoryview) -> memoryview:
        chunks = self._chunks
        assert chunks is not None
        chunks.feed(bytes(data))
        if chunks.complete:
            self._chunks = None
            if self._body is None:
                self._send_plain(chunks.body[:PLAIN_KEPT_BYTES], close=True)
            else:
                self._take_whole(self._body, chunks.body)
        return data[:0]

    def _take_whole(self, empty: InferBody, collected: bytearray) -> None:
        """Take a chunked body, whose parts' lengths are known only now."""
        json = len(collected) if self._head.json_length is None else self._head.json_length
        if json > len(collected):
            raise HttpError(400, f"Inference-Header-Content-Length {json} is beyond the body of {len(collected)} bytes")
        self._body = self._new_body(empty.admission, json, len(collected) - json)
        self._phase = Phase.BODY
        self._take_body(memoryview(collected))

    def _new_body(self, admission: Admission, json: int, binary: int) -> InferBody:
        shared = self._shared
        return InferBody(
            admission,
            shared.bodies,
            shared.tensors,
            shared.plane.regions,
            shared.answers,
            json_bytes=json,
            binary_bytes=binary,
        )

    def _take_plain(self, data: memoryview) -> memoryview:
        count = min(self._need, len(data))
        self._need -= count
        if self._phase is Phase.PLAIN:
            self._plain += data[: min(count, PLAIN_KEPT_BYTES - len(self._plain))]
        if self._need == 0:
            phase, self._phase = self._phase, Phase.HEAD
            if phase is Phase.PLAIN:
                body, self._plain = self._plain, bytearray()
                self._send_plain(body, close=not self._head.keep_alive)
        return data[count:]

    # Answering

    def _inferred(self, body: InferBody, outcome: Outcome) -> None:
        """Answer an inference that has ended, and go on with what came meanwhile."""
        if self._body is not body:
            return  # the client went away
        try:
            long = body.long_outputs(outcome.outputs)
            if long:
                self._in_turns(body, body.write(long), lambda: self._finish(body, outcome))
                return
            self._finish(body, outcome)
        except Exception as error:  # noqa: BLE001 - the one boundary of this connection
            self._give_up(error)
        self._go_on()

    def _finish(self, body: InferBody, outcome: Outcome) -> None:
        self._body = None
        self._phase = Phase.HEAD
        self._send_outcome(body, outcome)

    def _send_outcome(self, body: InferBody, outcome: Outcome) -> None:
        head = self._head
        close = not head.keep_alive or head.content_length is None or self._shared.plane.draining
        if outcome.error is not None:  # an inference that was given up may still read its tensors: no recycling
            self._send_refusal(outcome.error, body, close=close)
            return
        body.recycle()
        try:
            chunks, length, content_type, extra = body.answer(outcome.outputs)
        except OrchError as error:
            self._send_refusal(error, body, close=close)
            return
        if self._shared.requests.on:
            self._note_answer(outcome, body)
        extra += head.echo
        if head.said.timing:
            extra += lines(times(outcome.queue_s, outcome.service_s))
        first = answer_head(200, length, content_type, close=close, extra=extra)
        if length < SCRATCH_BYTES:
            self._transport.write(b"".join([first, *chunks]))
        else:
            self._transport.writelines([first, *chunks])
        if close:
            self._close()

    def _send_refusal(self, error: OrchError, body: InferBody | None, *, close: bool) -> None:
        """Answer an admitted inference with an error."""
        reply = refusal(error, self._head, self._shared.saturation)
        self._count(reply.status, error, body)
        self._send(reply, close=close)

    def _count(self, status: int, error: OrchError, body: InferBody | None) -> None:
        """Count an inference that is answered with an error, and note it where requests are followed."""
        self._shared.errors.note("http", error.kind)
        if self._shared.requests.on:
            self._note(Ended(str(status), error.code), body)

    def _note_answer(self, outcome: Outcome, body: InferBody) -> None:
        ticket = body.admission.ticket
        receive_s = ticket.ready - ticket.arrived
        ended = Ended("200", None, outcome.queue_s, outcome.service_s, receive_s, outcome.batch)
        self._note(ended, body)

    def _note(self, ended: Ended, body: InferBody | None) -> None:
        """Put an inference that ended into the log of requests."""
        head, shared = self._head, self._shared
        total_s = 0.0 if body is None else shared.clock() - body.admission.ticket.arrived
        model = head.parts[2] if len(head.parts) > 2 else ""
        id_ = None if body is None else body.id
        said = head.said
        who = Caller("http", model[:128], said.request_id or "", id_, said.trace_id, self._client(), said.traceparent)
        shared.requests.note(who, head.content_length or 0, ended, total_s)

    def _client(self) -> str:
        """Return the address under which the client is counted."""
        peer = self._transport.get_extra_info("peername")
        return client(peer[0]) if peer else ""

    def _send(self, reply: Answer, *, close: bool, head_only: bool = False) -> None:
        close = close or self._shared.plane.draining
        self._transport.write(whole(reply, close=close, head_only=head_only))
        if close:
            self._close()

    def _send_plain(self, body: bytearray, *, close: bool) -> None:
        head = self._head
        if head.parts == ("metrics",) and head.method in ("GET", "HEAD"):
            self._phase = Phase.BUSY
            self._shared.scrapes.ask(head.accept, lambda page: self._scraped(page, close=close))
            return
        self._send_route(answer(head, body, self._shared.plane, self._shared.version), close=close)

    def _send_route(self, reply: Answer, *, close: bool) -> None:
        head = self._head
        reply = replace(reply, extra=reply.extra + head.echo) if head.echo else reply
        self._send(reply, close=close, head_only=head.method == "HEAD")

    def _scraped(self, page: Page | BaseException, *, close: bool) -> None:
        if self._closing:
            return  # the client went away
        self._phase = Phase.HEAD
        try:
            if isinstance(page, BaseException):
                raise page
            self._send_route(Answer(200, *page), close=close)
        except Exception as error:  # noqa: BLE001 - the one boundary of this connection
            self._give_up(error)
        self._go_on()

    def _give_up(self, error: Exception) -> None:
        """Answer what cannot be gone on from, and close."""
        match error:
            case HttpError():
                kind = Kind.TOO_LARGE if error.status in {413, 431} else Kind.INVALID
                self._refuse(OrchError(kind, error.text), error.status)
            case OrchError():
                self._refuse(error)
            case MemoryError():
                self._refuse(NO_MEMORY)
            case _:
                if self._body is not None:
                    logs.mark(error, self._head.said.marks())
                    error.add_note(f"while serving {self._head.path} {self._head.said.marks()}")
                self._shared.on_bug(error)
                self._refuse(OrchError(Kind.INTERNAL, "internal error; the server's log has it"))

    def _refuse(self, error: OrchError, status: int | None = None) -> None:
        body = self._body
        self._drop_body()
        if self._closing:
            return
        # Without an admitted request the head may be that of the one before.
        reply = error_answer(error) if body is None else refusal(error, self._head, self._shared.saturation)
        if body is not None:
            self._count(status or reply.status, error, body)
        self._send(Answer(status or reply.status, reply.body, reply.content_type, reply.extra), close=True)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        self._chunks = None
        if body is not None:
            self._shared.plane.release(body.admission)

    def _close(self) -> None:
        """Close once what was written is sent. What the client still sends is read until it closes (RFC 9112 9.6)."""
        if self._closing:
            return
        self._closing = True
        self.since = self._shared.clock()
        self._stash.clear()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        if not self._transport.can_write_eof():
            self._transport.close()  # TLS has no halves to close: it sends its end, and reads up to the client's
            return
        try:
            self._transport.write_eof()
        except (OSError, RuntimeError):
            self._transport.abort()

    # Time

    def overdue(self, now: float) -> None:
        """Close what makes no progress; called about once a second."""
        if self._is_taking_answers(now):
            return
        limits = self._shared.limits
        if self._discards:
            self._throw_away()  # the loop is not woken for a little of it
        waited = now - self.since
        if self._closing:
            if waited > LINGER_S:
                self._transport.abort()
        elif self._phase is Phase.HEAD:
            self._overdue_head(waited)
        elif self._phase is Phase.DISCARD:
            if waited > limits.stall_s:
                self._transport.abort()  # it has its answer
        elif self._phase is not Phase.BUSY:
            self._overdue_body(waited)

    def _is_taking_answers(self, now: float) -> bool:
        """Tell whether answers are on their way; cut a client that takes nothing of them."""
        stalled_s = self._outflow.stalled_s(self._transport, now)
        if stalled_s is None:
            return False
        if stalled_s > self._shared.limits.stall_s:
            self._transport.abort()
        self.since = now  # other waits begin when the answer has gone out
        return True

    def _overdue_head(self, waited: float) -> None:
        limits = self._shared.limits
        if not self._stash:
            if waited > limits.idle_s:
                self._leave()
        elif waited > limits.head_s:
            if self._stash.strip(b"\r\n"):
                self._refuse(OrchError(Kind.DEADLINE, f"the head did not come within {limits.head_s:g} s"), 408)
            else:
                self._leave()  # empty lines ask for nothing

    def _overdue_body(self, waited: float) -> None:
        limits, body = self._shared.limits, self._body
        if waited > limits.stall_s:
            self._refuse(OrchError(Kind.DEADLINE, f"no byte of the body came for {limits.stall_s:g} s"), 408)
        elif body is not None and self._shared.plane.dropped(body.admission):
            # Nobody counts its bytes any more: a body that trickles in must not hold its memory.
            late = OrchError(Kind.DEADLINE, "the deadline passed before the body was there")
            if self._phase is Phase.CHUNKS:
                self._refuse(late)
            else:
                self._answer_bad(body, late)

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def stop(self) -> None:
        """Close if nothing is under way; what is under way is answered with `Connection: close`."""
        if self._phase is Phase.HEAD and not self._stash and not self._closing:
            self._leave()

    def _leave(self) -> None:
        """Close a connection on which nothing is under way; with TLS the client's own end is waited for, a moment."""
        self._closing = True
        self.since = self._shared.clock()
        self._transport.close()
