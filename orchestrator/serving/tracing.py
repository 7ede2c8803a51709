"""Spans of requests for OpenTelemetry, made after a request has ended by a thread of their own; off by default.

A span says when it began and ended, so nobody needs to make it meanwhile: the event loop notes one tuple for a request
that has ended, which is also what the log of requests is told, and only where traces are on. The thread turns it into
a server span with its parts. Sampling, batching and export are the SDK's, by its standard OTEL_* variables.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.request_log import Entry

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Link, Span, SpanContext, Tracer

    from orchestrator.scheduling.ticket import Batch

WAITING_MAX = 8192  # requests that wait for the thread; beyond them spans are dropped, and counted
FLUSH_S = 0.1
STOP_TIMEOUT_S = 1.0  # for the last spans; whoever waits for the worker to end does not wait for a collector
BATCHES_KEPT = 1024  # of which it is known which span stands for the inference that its requests shared
RECORDED_PER_S = 1000  # requests; each costs 0.2 ms of the interpreter, which the event loop needs too
HTTP_ERROR = 500
# gRPC's semantic conventions: of a server only these are errors, the others are the caller's.
GRPC_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
ROUTE = "/v2/models/{model}/infer"
SERVICE, METHOD = "inference.GRPCInferenceService", "ModelInfer"
SETTINGS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
INSTALL = "pip install 'orch-openvino[otel]'"

log = logging.getLogger("orch.traces")


class Maker(Protocol):
    """Makes the spans of a request."""

    def emit(self, entry: Entry) -> bool:
        """Make them, and tell whether any was to be kept, by the sampler's choice."""

    def shutdown(self) -> None:
        """Send what waits; may take long."""


class Traces:
    """Takes ended requests on the event loop's thread and has their spans made on another."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._waiting: deque[Entry] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orch-traces", daemon=True)
        self._crowded = 0  # written on the loop only
        self._too_many = 0  # written by the thread only, as are the next
        self._second = 0
        self._recorded = 0

    @property
    def dropped(self) -> int:
        """Return the requests whose spans were not made because too many waited, or too many were recorded."""
        return self._crowded + self._too_many

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def note(self, entry: Entry) -> None:
        """Keep the request for the thread, or count it where too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            self._crowded += 1
        else:
            self._waiting.append(entry)

    def stop(self) -> None:
        """End; waits, bounded, for the last spans to be sent."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            self.flush()
        self.flush()
        self._maker.shutdown()

    def flush(self) -> None:
        """Make the spans of what waits; called by the thread."""
        with contextlib.suppress(IndexError):
            for _ in range(WAITING_MAX):
                self._emit(self._waiting.popleft())

    def _emit(self, entry: Entry) -> None:
        if int(entry.time) != self._second:
            self._second, self._recorded = int(entry.time), 0
        if self._recorded >= RECORDED_PER_S:
            self._too_many += 1
            return
        try:
            self._recorded += self._maker.emit(entry)
        except Exception:  # what watches must not end what it watches
            log.exception("our bug, please report it: the spans of a request")


def wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the standard variables ask for traces: off unless they name a collector or an exporter."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in SETTINGS)


def begin(environ: Mapping[str, str], deployment: str, version: str, *, scheme: str = "http") -> Traces | None:
    """Return the traces that the variables ask for, started; None where they ask for none.

    `scheme` is that of the HTTP endpoint.

    Raise UNSUPPORTED without the packages, INVALID for an exporter or a protocol that orch does not have.
    """
    if not wanted(environ):
        return None
    exporter = _exporter(environ)
    try:
        provider = _provider(exporter, deployment, version)
    except (ValueError, TypeError) as error:  # a setting of the SDK that makes no sense
        raise OrchError(Kind.INVALID, f"traces cannot start: {error}", where="OTEL_*") from None
    # From here on a collector that is gone is told of once for each batch that is lost, not for each try.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    traces = Traces(Spans(provider, version, scheme=scheme))
    traces.start()
    return traces


def _exporter(environ: Mapping[str, str]) -> Any:
    name = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        match name:
            case "console":
                return importlib.import_module("opentelemetry.sdk.trace.export").ConsoleSpanExporter()
            case "otlp" if protocol in (None, "", "http/protobuf"):
                return importlib.import_module(
                    "opentelemetry.exporter.otlp.proto.http.trace_exporter"
                ).OTLPSpanExporter()
            case "otlp":
                # A second gRPC in the process would read its sockets in another way than ours (docs/adr/0014).
                what, hint = f"{protocol!r} is not sent", "collectors take http/protobuf too, on port 4318"
                raise OrchError(Kind.INVALID, what, where="OTEL_EXPORTER_OTLP_PROTOCOL", hint=hint)
            case _:
                what = f"must be otlp, console or none, got {name[:40]!r}"
                raise OrchError(Kind.INVALID, what, where="OTEL_TRACES_EXPORTER")
    except ImportError as error:
        what = f"traces are asked for, but {error.name} is not installed"
        raise OrchError(Kind.UNSUPPORTED, what, where="OTEL_*", hint=INSTALL) from None


def _provider(exporter: Any, deployment: str, version: str) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource  # installed only with the extra
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME") or deployment,
        "service.namespace": "orch",
        "service.version": version,
        "service.instance.id": f"{socket.gethostname()}/{os.getpid()}",
    }
    # Sampler and limits are read from the environment. Not at exit: that would wait for a collector without bound.
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Spans:
    """Makes the spans of a request: the server's, in it the wait and the inference; on one thread."""

    def __init__(self, provider: TracerProvider, version: str = "", *, scheme: str = "http") -> None:
        from opentelemetry import trace  # as above

        self._trace = trace
        self._provider = provider
        self._scheme = scheme
        self._tracer: Tracer = provider.get_tracer("orch", version)
        self._batches: OrderedDict[int, tuple[Batch, SpanContext]] = OrderedDict()

    def shutdown(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def emit(self, entry: Entry) -> bool:
        """Make the spans of a request that ended at `entry.time`; tell whether they are recorded."""
        trace, ended = self._trace, entry.ended
        end = round(entry.time * 1e9)
        start = end - round(entry.total_s * 1e9)
        span = self._tracer.start_span(
            NAMES[entry.caller.protocol],
            context=self._parent(entry.caller.traceparent),
            kind=trace.SpanKind.SERVER,
            start_time=start,
        )
        recording: bool = span.is_recording()
        if recording:  # the samplers of the environment ask for no attributes
            span.set_attributes(attributes(entry, self._scheme))
            if ended.queue_s is not None and ended.service_s is not None:
                self._parts(span, entry, start)
            if ended.code is not None:
                span.set_attribute("error.type", ended.code)
            if is_error(entry):
                span.set_status(trace.Status(trace.StatusCode.ERROR, ended.code))
        span.end(end_time=end)
        return recording

    def _parent(self, traceparent: str | None) -> Context:
        from opentelemetry.context import Context  # as above

        if traceparent is None:
            return Context()
        _, trace_id, span_id, flags = traceparent.split("-")[:4]
        trace = self._trace
        context = trace.SpanContext(
            int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
        )
        parent: Context = trace.set_span_in_context(trace.NonRecordingSpan(context), Context())
        return parent

    def _parts(self, span: Span, entry: Entry, start: int) -> None:
        """Make the spans of the wait and of the inference."""
        ended, context = entry.ended, self._trace.set_span_in_context(span)
        assert ended.queue_s is not None, "told by whoever calls"
        assert ended.service_s is not None, "as well"
        began = start + round(ended.queue_s * 1e9)
        received = start if ended.receive_s is None else start + round(ended.receive_s * 1e9)
        if ended.receive_s is not None:
            span.add_event("request received", timestamp=received)
        queue = self._tracer.start_span("queue", context, start_time=received)
        queue.end(end_time=began)
        batch = ended.batch
        shared = self._leader(batch)
        links = [] if shared is None else [self._link(shared)]
        inference = self._tracer.start_span("inference", context, start_time=began, links=links)
        if batch is not None:
            inference.set_attributes({"orch.batch.rows": batch.rows, "orch.batch.requests": len(batch.tickets)})
            if len(batch.tickets) > 1:
                leader = shared or self._keep(batch, inference)
                inference.set_attribute("orch.batch.id", f"{leader.span_id:016x}")
        inference.end(end_time=began + round(ended.service_s * 1e9))

    def _leader(self, batch: Batch | None) -> SpanContext | None:
        """Return the span of the same inference that another request of its batch has."""
        known = None if batch is None else self._batches.get(id(batch))
        return None if known is None else known[1]

    def _keep(self, batch: Batch, inference: Span) -> SpanContext:
        """Remember the span for the batch's other requests; the batch is kept, so that no other has its identity."""
        context = inference.get_span_context()
        self._batches[id(batch)] = (batch, context)
        if len(self._batches) > BATCHES_KEPT:
            self._batches.popitem(last=False)
        return context

    def _link(self, context: SpanContext) -> Link:
        return self._trace.Link(context, {"orch.link": "same inference"})


NAMES: Mapping[str, str] = {"http": f"POST {ROUTE}", "grpc": f"{SERVICE}/{METHOD}"}


def _http(entry: Entry, scheme: str) -> dict[str, str | int]:
    return {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "url.scheme": scheme,
        "url.path": ROUTE.format(model=entry.caller.model),
        "http.response.status_code": int(entry.ended.status),
        "http.request.body.size": entry.nbytes,
    }


def _grpc(entry: Entry, _scheme: str) -> dict[str, str | int]:
    # A status by its number, as the conventions want it.
    code = GRPC_NUMBERS.get(entry.ended.status, GRPC_NUMBERS["UNKNOWN"])
    return {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": METHOD, "rpc.grpc.status_code": code}


GRPC_NUMBERS: Mapping[str, int] = {
    name: number
    for number, name in enumerate(
        (
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}
_BY_PROTOCOL: Mapping[str, Callable[[Entry, str], dict[str, str | int]]] = {"http": _http, "grpc": _grpc}


def attributes(entry: Entry, scheme: str) -> dict[str, str | int]:
    """Return what the server span says, by OpenTelemetry's semantic conventions and our own `orch.` names."""
    caller = entry.caller
    own = {"orch.model": caller.model, "orch.request.id": caller.request_id, "client.address": caller.client}
    return _BY_PROTOCOL[caller.protocol](entry, scheme) | {name: value for name, value in own.items() if value}


def is_error(entry: Entry) -> bool:
    """Tell whether the server, rather than the caller, is to blame, as the conventions have it."""
    status = entry.ended.status
    return int(status) >= HTTP_ERROR if entry.caller.protocol == "http" else status in GRPC_ERRORS
