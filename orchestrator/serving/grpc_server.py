"""The gRPC front end: the Open Inference Protocol's service over the data plane."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.tls_files import Identity
from orchestrator.scheduling.ticket import Batch
from orchestrator.serving import contract, grpc_infer, grpc_regions, oip_messages
from orchestrator.serving.contract import NO_MEMORY, Priority, Said
from orchestrator.serving.error_count import ErrorCount
from orchestrator.serving.grpc_calls import CallServer, Refused, StatusCode
from orchestrator.serving.grpc_wire import open_envelope
from orchestrator.serving.oip import InferHead, Layout, Signature, error_text, model_metadata, server_metadata
from orchestrator.serving.quota import Quotas, grpc_client
from orchestrator.serving.repository import only_ready, refuse_change
from orchestrator.serving.request_log import Caller, Ended, RequestLog
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.shared_tensors import PIECE_BYTES, SharedTensors
from orchestrator.serving.tensors import TensorPool
from orchestrator.serving.tls import HANDSHAKE_S
from orchestrator.serving.token import carries

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 2**20
MAX_CONCURRENT_RPCS = 4096
"""Calls being handled; above all pools' queues together, so that it is the pools that refuse, with a reason."""
MAX_COMING = 256
"""Inferences whose messages are being read: memory that nobody has admitted yet."""
MAX_STREAMS_PER_CONNECTION = 1024
MAX_METADATA_BYTES = 16 * 1024
MAX_DETAILS_CHARACTERS = 1000
"""Details travel as a header, percent-encoded, and clients take 8 KiB of headers."""
CACHED_HEADS = 256

STATUS: Mapping[Kind, StatusCode] = {
    Kind.INVALID: StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: StatusCode.NOT_FOUND,
    Kind.CONFLICT: StatusCode.ABORTED,
    Kind.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
    Kind.UNAVAILABLE: StatusCode.UNAVAILABLE,
    Kind.OVERLOADED: StatusCode.RESOURCE_EXHAUSTED,
    Kind.QUOTA: StatusCode.RESOURCE_EXHAUSTED,
    Kind.DEADLINE: StatusCode.DEADLINE_EXCEEDED,
    Kind.CANCELLED: StatusCode.CANCELLED,
    Kind.TOO_LARGE: StatusCode.RESOURCE_EXHAUSTED,  # as grpc itself answers an oversized message
    Kind.FAILED: StatusCode.INTERNAL,
    Kind.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
    Kind.INTERNAL: StatusCode.INTERNAL,
}

Made = TypeVar("Made")
OPEN_METHODS = frozenset({"ServerLive", "ServerReady"})
"""Answered without the token, as the health routes of HTTP are."""

Method = Callable[[bytes, Any], Coroutine[Any, Any, bytes]]


class Answer(Protocol):
    """What the plane gives back for an inference."""

    @property
    def outputs(self) -> tuple[Array, ...]:
        """Return the outputs in the model's order."""

    @property
    def queue_s(self) -> float:
        """Return the seconds that it waited."""

    @property
    def service_s(self) -> float:
        """Return the seconds of the inference."""

    @property
    def batch(self) -> Batch | None:
        """Return with whom it was inferred, where that is known."""


class Plane(Protocol):
    """What this front end calls; `serving.dataplane.DataPlane` is one. All of it may raise OrchError."""

    def live(self) -> bool:
        """Tell whether the process answers."""

    def ready(self) -> bool:
        """Tell whether every model answers inferences."""

    def model_ready(self, name: str, version: str | None) -> bool:
        """Tell whether this model answers inferences; raise NOT_FOUND."""

    def signature(self, name: str, version: str | None) -> Signature:
        """Return the model's inputs and outputs, the same object while the model stays; raise NOT_FOUND."""

    def index(self) -> list[dict[str, str]]:
        """Return name, version, state and reason of every model."""

    def config(self, name: str, version: str | None) -> dict[str, Any]:
        """Return the model's configuration as Triton writes it; raise NOT_FOUND."""

    def statistics(self, name: str | None, version: str | None) -> list[dict[str, Any]]:
        """Return what was counted of one model, or of all; raise NOT_FOUND."""

    def admit(
        self,
        name: str,
        version: str | None,
        *,
        nbytes: int,
        timeout_s: float | None = None,
        priority: Priority | None = None,
    ) -> Any:
        """Take a place for a request; raise OVERLOADED, DEADLINE, NOT_FOUND, UNAVAILABLE."""

    def full(self, coming: int, timeout_s: float | None = None) -> OrchError | None:
        """Return why a request would be refused behind `coming` others, where that is known before its message."""

    def release(self, admission: Any, /) -> None:
        """Give the place back."""

    @property
    def regions(self) -> Regions:
        """Return the shared memory that clients have registered."""

    def enlarge(self, admission: Any, nbytes: int, /) -> None:
        """Count tensors that come from shared memory; raise OVERLOADED, TOO_LARGE."""

    async def infer(self, admission: Any, rows: int, arrays: Sequence[Array], /) -> Any:
        """Return an Answer; cancelling the coroutine cancels the work."""


class GrpcServer:
    """Serves one address. `token` returns the tokens of which calls must carry one, `tls` what the server shows."""

    def __init__(
        self,
        plane: Plane,
        address: str,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_concurrent_rpcs: int = MAX_CONCURRENT_RPCS,
        reuse_port: bool = True,
        token: Callable[[], Sequence[str] | None] | None = None,
        tls: Callable[[], Identity] | None = None,
        version: str = "",
        quotas: Quotas | None = None,
        requests: RequestLog | None = None,
        errors: ErrorCount | None = None,
    ) -> None:
        self._plane = plane
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._reuse_port = reuse_port
        self._token = token
        self._tls = tls
        self._version = version
        self._quotas = quotas
        self._requests = requests or RequestLog(None)
        self._errors = errors or ErrorCount()
        self._heads = grpc_infer.raw_heads(CACHED_HEADS)
        self._responses = grpc_infer.Responses(CACHED_HEADS)
        self._arrays = TensorPool()
        self._server: CallServer | None = None

    async def start(self) -> int:
        """Listen and serve; return the port, which differs from the address's when that is 0.

        Raise OrchError CONFLICT when the address cannot be had.
        """
        handlers = {
            f"/{oip_messages.SERVICE}/{name}": self._guarded(
                method, is_open=name in OPEN_METHODS, infers=name == "ModelInfer"
            )
            for name, method in self._methods().items()
        }
        gates = {f"/{oip_messages.SERVICE}/ModelInfer": self._gate}
        server = CallServer(handlers, self._options(), most=self._max_concurrent_rpcs, gates=gates)
        port = server.listen(self._address, self._tls)
        server.start()
        self._server = server
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, give those under way `grace_s` seconds, then cancel them."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", -1),  # outputs are as large as the model makes them
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
            ("grpc.so_reuseport", int(self._reuse_port)),
            # Find dead clients behind silent networks, and let clients look for us as often as every ten seconds.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_S * 1000)),
        ]

    def _methods(self) -> dict[str, Method]:
        return {
            "ServerLive": _plain(self._server_live),
            "ServerReady": _plain(self._server_ready),
            "ModelReady": _plain(self._model_ready),
            "ServerMetadata": _plain(self._server_metadata),
            "ModelMetadata": _plain(self._model_metadata),
            "ModelInfer": self._model_infer,
            "RepositoryIndex": _plain(self._repository_index),
            "RepositoryModelLoad": _plain(lambda _data: refuse_change("", "load")),
            "RepositoryModelUnload": _plain(lambda _data: refuse_change("", "unload")),
            "ModelConfig": _plain(self._model_config),
            "ModelStatistics": _plain(self._model_statistics),
            **{name: _plain(answer) for name, answer in grpc_regions.answers(self._plane.regions).items()},
        }

    def _guarded(self, method: Method, *, is_open: bool, infers: bool) -> Method:
        """Wrap a method in what holds for all of them: the token, and errors as status codes."""

        async def serve(data: bytes, context: Any) -> bytes:
            try:
                if self._token is not None and not is_open:
                    _authorise(context, self._token())
                return await method(data, context)
            except OrchError as error:
                failure = error
            except MemoryError:
                failure = NO_MEMORY
            except Exception:  # the boundary: a bug of ours is told, logged, and the server lives on
                marks = contract.ids(_metadata(context)).marks()
                log.exception("gRPC: an unexpected error %s", marks or "", extra=marks)
                failure = OrchError(Kind.INTERNAL, "internal error; the server's log has it")
            if infers:
                self._errors.note("grpc", failure.kind)
            raise _refused(failure, context)

        return serve

    def _gate(self, call: Any, coming: int) -> None:
        """Refuse an inference before its message is read, where it is known already that it would be."""
        try:
            if self._token is not None:
                _authorise(call, self._token())
            if self._requests.on:
                return  # whose log tells the model, which the message names
            given = contract.said(_metadata(call))
            if given.priority is not None:
                return  # one of a higher class may make room
            error = self._plane.full(coming, _shortest(call.time_remaining(), given.timeout_s))
            if error is None and coming >= MAX_COMING:
                error = OrchError(Kind.OVERLOADED, f"{coming} requests are on their way in, which is the most")
        except OrchError as failure:
            error = failure
        if error is not None:
            self._errors.note("grpc", error.kind)
            raise _refused(error, call)

    async def _model_infer(self, data: bytes, context: Any) -> bytes:
        metadata = _metadata(context)
        if self._requests.on:
            return await self._infer_and_note(data, context, metadata)
        return (await self._infer(data, context, metadata))[0]

    async def _infer_and_note(self, data: bytes, context: Any, metadata: dict[str, str]) -> bytes:
        began = time.monotonic()
        known = contract.ids(metadata)
        request_id = known.request_id
        if request_id is None and self._requests.writing:
            request_id = metadata[contract.REQUEST_ID] = self._requests.new_id()
        ended = Ended("CANCELLED", "CANCELLED")
        try:
            reply, answer = await self._infer(data, context, metadata)
            ended = Ended("OK", None, answer.queue_s, answer.service_s, None, answer.batch)
        except OrchError as error:
            ended = Ended(STATUS[error.kind].name, error.code)
            raise
        except Exception:
            ended = Ended("INTERNAL", "INTERNAL")
            raise
        finally:
            model, id_ = _names(data)
            client = grpc_client(context.peer())
            who = Caller("grpc", model, request_id or "", id_, known.trace_id, client, known.traceparent)
            self._requests.note(who, len(data), ended, time.monotonic() - began)
        return reply

    async def _infer(self, data: bytes, context: Any, metadata: dict[str, str]) -> tuple[bytes, Answer]:
        given = contract.said(metadata)
        if self._quotas is not None:
            self._quotas.take(grpc_client(context.peer()), time.monotonic())
        envelope = open_envelope(data)
        name, version = envelope.model_name, envelope.model_version or None
        timeout_s, priority = grpc_infer.schedule(envelope)
        allowed_s = _shortest(context.time_remaining(), timeout_s, given.timeout_s)
        priority = priority or given.priority
        admission = self._plane.admit(name, version, nbytes=len(data), timeout_s=allowed_s, priority=priority)
        try:
            signature = self._plane.signature(name, version)
            head, layout = grpc_infer.plan(envelope, signature, self._heads)
            shared = await self._shared(admission, head, layout) if layout.shares else None
            arrays: list[Array] = await _stepped(grpc_infer.tensors(envelope, layout, shared))
        except BaseException:
            self._plane.release(admission)
            raise
        answer: Answer = await self._plane.infer(admission, layout.rows, arrays)
        if metadata:
            _tell(context, given, answer)
        if shared is None:
            return self._responses.write(signature, envelope.id, answer.outputs, head.outputs), answer
        shared.recycle()
        return self._responses.write(signature, envelope.id, answer.outputs, head.outputs, shared.store), answer

    async def _shared(self, admission: Any, head: InferHead, layout: Layout) -> SharedTensors:
        """Find the regions of the outputs, and room for the inputs; fetch those that are large in pieces."""
        shared = SharedTensors(head, self._plane.regions, self._arrays)
        self._plane.enlarge(admission, layout.shared_bytes)
        if layout.shared_bytes > PIECE_BYTES:
            for _ in shared.fetch(layout):
                await asyncio.sleep(0)
        return shared

    def _server_live(self, _data: bytes) -> Any:
        return oip_messages.ServerLiveResponse(live=self._plane.live())

    def _server_ready(self, _data: bytes) -> Any:
        return oip_messages.ServerReadyResponse(ready=self._plane.ready())

    def _model_ready(self, data: bytes) -> Any:
        """Answer for unknown models too: clients ask while a model is still being loaded (so does Triton)."""
        request = grpc_infer.parse(oip_messages.ModelReadyRequest.FromString, data)
        try:
            ready = self._plane.model_ready(request.name, request.version or None)
        except OrchError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            ready = False
        return oip_messages.ModelReadyResponse(ready=ready)

    def _server_metadata(self, _data: bytes) -> Any:
        offered = self._plane.regions.offered
        return oip_messages.ServerMetadataResponse(**server_metadata(self._version, shared_memory=offered))

    def _model_metadata(self, data: bytes) -> Any:
        request = grpc_infer.parse(oip_messages.ModelMetadataRequest.FromString, data)
        signature = self._plane.signature(request.name, request.version or None)
        return oip_messages.ModelMetadataResponse(**model_metadata(signature))

    def _repository_index(self, data: bytes) -> Any:
        request = grpc_infer.parse(oip_messages.RepositoryIndexRequest.FromString, data)
        return oip_messages.RepositoryIndexResponse(models=only_ready(self._plane.index(), ready=request.ready))

    def _model_config(self, data: bytes) -> Any:
        request = grpc_infer.parse(oip_messages.ModelConfigRequest.FromString, data)
        return oip_messages.ModelConfigResponse(config=self._plane.config(request.name, request.version or None))

    def _model_statistics(self, data: bytes) -> Any:
        request = grpc_infer.parse(oip_messages.ModelStatisticsRequest.FromString, data)
        found = self._plane.statistics(request.name or None, request.version or None)
        return oip_messages.ModelStatisticsResponse(model_stats=found)


def _refused(failure: OrchError, context: Any) -> Refused:
    told = contract.trailing(failure, contract.ids(_metadata(context)))
    return Refused(STATUS[failure.kind], error_text(failure)[:MAX_DETAILS_CHARACTERS], told)


def _plain(answer: Callable[[bytes], Any]) -> Method:
    """Return the method that serialises the message which `answer` gives at once."""

    async def method(data: bytes, _context: Any) -> bytes:
        reply: bytes = answer(data).SerializeToString()
        return reply

    return method


async def _stepped(steps: Generator[None, None, Made]) -> Made:
    """Return what the steps make; between two of them the loop serves others."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: Made = end.value
            return made
        await asyncio.sleep(0)


def _shortest(*seconds: float | None) -> float | None:
    known = [value for value in seconds if value is not None]
    return min(known) if known else None


def _authorise(context: Any, tokens: Sequence[str] | None) -> None:
    """Raise OrchError UNAUTHORIZED unless the call carries one of the tokens."""
    if tokens is None:
        return
    given = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
    if not carries(given.encode(), tokens):
        raise OrchError(
            Kind.UNAUTHORIZED, "no or a wrong token", hint="send the metadata `authorization: Bearer TOKEN`"
        )


def _metadata(context: Any) -> dict[str, str]:
    """Return what of the call's metadata orch acts on; all of it is text, by its names."""
    return {key: value for key, value in context.invocation_metadata() or () if key in contract.NAMES}


def _tell(context: Any, given: Said, answer: Answer) -> None:
    told = given.echo() | (contract.times(answer.queue_s, answer.service_s) if given.timing else {})
    if told:
        context.set_trailing_metadata(tuple(told.items()))


def _names(data: bytes) -> tuple[str, str | None]:
    """Return the model and the id that a request names, as far as it can be read."""
    try:
        envelope = open_envelope(data)
    except OrchError:
        return "", None
    return envelope.model_name[:128], envelope.id[:128] or None
