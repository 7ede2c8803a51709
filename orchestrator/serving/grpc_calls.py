"""gRPC calls, taken from grpcio's core in batches by one thread and handled on the event loop.

grpcio's own servers spend more on a call than a small model's inference: grpc.aio several futures and wake-ups of the
loop, the threaded one two hand-overs. This one drives the same core through grpcio's Cython layer (docs/adr/0014): a
thread waits for what the core has, takes all that is there, and wakes the loop once. A handler that never waits costs
no task.

    polling thread: new call -> receive its message        -> inbox, one wake-up of the loop
    loop:           handler starts, and is a task only if it waits -> answer, sent from here
    polling thread: the answer has gone out; or the client went away -> the handler is cancelled
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from typing import Any

# Read by the core when it is loaded, so nothing in a worker may import grpc before this module. With its event engine
# each message wakes threads of the core's own before ours; without, the thread that waits for calls reads the sockets.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

from grpc import StatusCode, ssl_server_certificate_configuration
from grpc._cython import cygrpc

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.tls_files import Identity

__all__ = ["Call", "CallServer", "Handler", "Refused", "StatusCode"]

log = logging.getLogger(__name__)

ARMED = 64
"""New calls that the core may hand over before it is asked for more."""
WAIT_S = 1.0
ALREADY = 0.0
"""A deadline that has passed: take what is there."""
FOREVER_S = 1e8
"""A call with more time than this has no deadline."""
COMING_S = 1.0
"""For which a call whose message does not come counts as one on its way in."""
CANCEL_TIMEOUT_S = 5.0
"""For cancelled handlers to end when the server stops."""

_NO_FLAGS = 0
_CODE = {status: getattr(cygrpc.StatusCode, status.name.lower()) for status in StatusCode}

Trailing = tuple[tuple[str, str], ...]
Handler = Callable[[bytes, "Call"], Coroutine[Any, Any, bytes]]
Gate = Callable[["Call", int], None]
"""Raises Refused for a call that shall not send its message, told how many others are on their way in; runs on the
polling thread."""


class Refused(Exception):  # noqa: N818  a call's end, no fault
    """Ends a call with a status instead of an answer."""

    def __init__(self, status: StatusCode, details: str, trailing: Trailing = ()) -> None:
        self.status = status
        self.details = details
        self.trailing = trailing
        super().__init__(details)


class Call:
    """One call as its handler sees it."""

    __slots__ = ("_call", "_details", "_metadata", "_trailing", "_watched", "handler", "message", "task")

    def __init__(self, event: Any, handler: Handler) -> None:
        self.handler = handler
        self.message: bytes | None = None
        self.task: asyncio.Task[None] | None = None
        self._call = event.call
        self._details = event.call_details
        self._metadata = event.invocation_metadata
        self._trailing: Trailing | None = None
        self._watched = False

    def time_remaining(self) -> float | None:
        """Return the seconds left until the client's deadline; None where it set none."""
        left: float = self._details.deadline - time.time()
        return max(0.0, left) if left < FOREVER_S else None

    def invocation_metadata(self) -> Sequence[tuple[str, Any]]:
        """Return what the client sent beside the message; values of keys that end in `-bin` are bytes."""
        metadata: Sequence[tuple[str, Any]] = self._metadata
        return metadata

    def peer(self) -> str:
        """Return the client's address as gRPC names it."""
        peer: bytes = self._call.peer()
        return peer.decode()

    def set_trailing_metadata(self, trailing: Trailing) -> None:
        """Send this behind the answer."""
        self._trailing = trailing

    # For the server.

    def receive(self) -> None:
        self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self)

    def watch(self) -> None:
        """Hear of the client's going away while the handler waits."""
        self._watched = True
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), _Closed(self))

    def answer(self, message: bytes) -> None:
        self._end(cygrpc.SendMessageOperation(message, _NO_FLAGS), self._trailing, StatusCode.OK, "")

    def refuse(self, refused: Refused) -> None:
        self._end(None, refused.trailing, refused.status, refused.details)

    def _end(self, message: Any, trailing: Trailing | None, status: StatusCode, details: str) -> None:
        operations = [
            cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),
            cygrpc.SendStatusFromServerOperation(trailing, _CODE[status], details.encode(), _NO_FLAGS),
        ]
        if message is not None:
            operations.append(message)
        if not self._watched:  # each call must hear of its close once
            operations.append(cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS))
        self._call.start_server_batch(operations, _ENDED)


class _Closed:
    """The tag of a watched call's end."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


_NEW, _ENDED, _SHUTDOWN = object(), object(), object()


class CallServer:
    """Serves unary calls of the given methods (`/package.Service/Method`) on the running event loop."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        options: Sequence[tuple[str, int]],
        *,
        most: int,
        gates: Mapping[str, Gate] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the parts; calls beyond `most` at a time are refused RESOURCE_EXHAUSTED.

        `gates` of methods decide before a call's message is read.
        """
        self._handlers = {name.encode(): handler for name, handler in handlers.items()}
        self._clock = clock
        self._gates = {name.encode(): gate for name, gate in (gates or {}).items()}
        self._most = most
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[Call | _Closed] = deque()
        self._woken = False
        self._armed = 0
        self._under_way = 0  # written by the polling thread only, as is the next
        self._closed = 0
        self._coming: dict[Call, float] = {}  # let in through a gate, and when: the message is not here yet
        self._watched = 0  # written on the loop only
        self._stopping = False
        self._destroyed = False
        self._ending = threading.Lock()  # the core must not be destroyed under a call into it
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._poll, name="orch-grpc", daemon=True)

    def listen(self, address: str, tls: Callable[[], Identity] | None = None) -> int:
        """Take the address and return the port; raise OrchError CONFLICT when it cannot be had.

        `tls` returns the certificate and key of the moment; each new connection gets them as they then are.
        """
        credentials = () if tls is None else (_credentials(tls),)
        try:
            port: int = self._server.add_http2_port(address.encode(), *credentials)
        except RuntimeError as error:
            raise _taken(address, str(error)) from None
        if port == 0:
            raise _taken(address, "it is in use, or not this machine's")
        return port

    def start(self) -> None:
        """Serve."""
        self._server.start()
        self._arm()
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, give those under way `grace_s` seconds, then cancel them."""
        self._stopping = True
        with self._ending:
            self._server.shutdown(self._queue, _SHUTDOWN)
        try:
            await asyncio.wait_for(self._stopped.wait(), grace_s)
        except TimeoutError:
            self._cancel_all()
            try:
                await asyncio.wait_for(self._stopped.wait(), CANCEL_TIMEOUT_S)
            except TimeoutError:
                log.warning("gRPC: calls did not end when they were cancelled")

    def _cancel_all(self) -> None:
        with self._ending:
            if not self._destroyed:
                self._server.cancel_all_calls()

    # On the polling thread.

    def _poll(self) -> None:
        over = False
        while not (over and self._armed == self._under_way == 0 and self._watched == self._closed):
            event = self._queue.poll(time.time() + WAIT_S)
            while event.completion_type != cygrpc.CompletionType.queue_timeout:
                if event.tag is _SHUTDOWN:
                    over = True
                else:
                    self._sort(event)
                event = self._queue.poll(ALREADY)
            event = None  # a call that is over must not be held while we wait
            self._arm()
            if self._inbox and not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._take)
        with self._ending:
            self._server.destroy()
            self._destroyed = True
        self._loop.call_soon_threadsafe(self._stopped.set)

    def _sort(self, event: Any) -> None:
        tag = event.tag
        if tag is _ENDED:
            self._under_way -= 1
        elif tag is _NEW:
            self._armed -= 1
            if event.success:
                self._under_way += 1
                self._begin(event)
        elif isinstance(tag, _Closed):
            self._closed += 1
            if event.batch_operations[0].cancelled():
                self._inbox.append(tag)
        else:
            self._coming.pop(tag, None)
            tag.message = event.batch_operations[0].message()
            self._inbox.append(tag)

    def _begin(self, event: Any) -> None:
        handler = self._handlers.get(event.call_details.method)
        call = Call(event, handler or _unknown)
        if handler is None:
            call.refuse(Refused(StatusCode.UNIMPLEMENTED, "Method not found!"))
        elif self._under_way > self._most:
            call.refuse(Refused(StatusCode.RESOURCE_EXHAUSTED, f"more than {self._most} calls at a time"))
        else:
            gate = self._gates.get(event.call_details.method)
            if gate is not None:
                try:
                    gate(call, self._on_their_way())
                except Refused as refused:
                    call.refuse(refused)
                    return
                except Exception:  # noqa: BLE001  the boundary of this call
                    self._bug(call)
                    return
                self._coming[call] = self._clock()
            call.receive()

    def _on_their_way(self) -> int:
        """Return how many gated calls are not handled yet; one that has not sent its message for long is none of them.

        Else clients that begin calls and send nothing would fill a pool that is empty.
        """
        oldest = self._clock() - COMING_S
        while self._coming and next(iter(self._coming.values())) < oldest:
            del self._coming[next(iter(self._coming))]
        return len(self._coming) + len(self._inbox)

    def _arm(self) -> None:
        try:
            while self._armed < ARMED and not self._stopping:
                self._server.request_call(self._queue, self._queue, _NEW)
                self._armed += 1
        except ValueError:  # it began to stop just now
            assert self._stopping

    # On the loop.

    def _take(self) -> None:
        self._woken = False  # first: what comes from here on wakes the loop again
        inbox = self._inbox
        while inbox:
            came = inbox.popleft()
            if isinstance(came, _Closed):
                if came.call.task is not None:
                    # Behind the task's own first step: what is cancelled before it never ends its call.
                    self._loop.call_soon(came.call.task.cancel)
            elif came.message is None:
                came.refuse(Refused(StatusCode.UNIMPLEMENTED, "the call takes one message"))
            else:
                self._handle(came, came.message)

    def _handle(self, call: Call, message: bytes) -> None:
        call.message = None
        coroutine = call.handler(message, call)
        try:
            waits_for = coroutine.send(None)
        except StopIteration as end:
            call.answer(end.value)
        except Refused as refused:
            call.refuse(refused)
        except Exception:  # noqa: BLE001  the boundary of this call
            self._bug(call)
        else:
            self._watched += 1
            call.watch()
            call.task = self._loop.create_task(self._finish(call, coroutine, waits_for))

    async def _finish(self, call: Call, coroutine: Coroutine[Any, Any, bytes], waits_for: Any) -> None:
        """See the rest of a handler through that waits for something."""
        try:
            call.answer(await _rest(coroutine, waits_for))
        except Refused as refused:
            call.refuse(refused)
        except asyncio.CancelledError:
            call.refuse(Refused(StatusCode.CANCELLED, "cancelled"))
        except Exception:  # noqa: BLE001  the boundary of this call
            self._bug(call)

    def _bug(self, call: Call) -> None:
        log.exception("gRPC: a handler raised")
        call.refuse(Refused(StatusCode.INTERNAL, "internal error; the server's log has it"))


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, bytes], waits_for: Any) -> Generator[Any, Any, bytes]:
    """Wait for what the handler waits for, and go on with it, until it returns."""
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001  the handler's to take
            step: Callable[[], Any] = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, value)
        try:
            waits_for = step()
        except StopIteration as end:
            answer: bytes = end.value
            return answer


async def _unknown(_message: bytes, _call: Call) -> bytes:
    raise AssertionError("refused before its message")


def _credentials(tls: Callable[[], Identity]) -> Any:
    """Return the core's credentials; it asks for newer ones, on threads of its own, before each handshake."""
    told = tls()

    def newer() -> Any:
        nonlocal told
        now = tls()
        if now is told:
            return None
        told = now
        return _certificate(now)

    return cygrpc.server_credentials_ssl_dynamic_cert_config(_certificate(told), newer, told.client_ca is not None)


def _certificate(identity: Identity) -> Any:
    return ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)


def _taken(address: str, why: str) -> OrchError:
    what = f"cannot listen on {address} for gRPC: {why}"
    return OrchError(Kind.CONFLICT, what, hint="choose another port, or stop what holds it")
