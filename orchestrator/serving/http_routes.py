"""The HTTP routes that carry no tensors: health, metadata, repository index, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.dataplane import DataPlane
from orchestrator.serving.http_head import STATUS, Head, answer_head, retry_headers
from orchestrator.serving.oip import error_body, model_metadata, server_metadata

JSON = "application/json"
STATISTICS = "stats"
NOT_SERVED = {
    STATISTICS: "the statistics extension; see /metrics and orch status",
    "config": "the model configuration extension; what a model takes and gives is at /v2/models/NAME",
}
"""What other servers of the protocol answer below a model, and where to look instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; `extra` are whole header lines."""

    status: int
    body: bytes = b""
    content_type: str = ""
    extra: str = ""


Metrics = Callable[[str], tuple[bytes, str]]
"""Takes the Accept header, returns page and content type."""


def error_answer(error: OrchError, **extra: object) -> Answer:
    """Return the answer for an error, by the one table of HTTP statuses."""
    return Answer(STATUS[error.kind], error_body(error, **extra), JSON, retry_headers(error))


def whole(reply: Answer, *, close: bool, head_only: bool = False) -> bytes:
    """Return the answer as it goes over the wire."""
    head = answer_head(reply.status, len(reply.body), reply.content_type, close=close, extra=reply.extra)
    return head if head_only else head + reply.body


def answer(head: Head, plane: DataPlane, metrics: Metrics, version: str) -> Answer:
    """Answer a request that is no inference."""
    try:
        return _route(head, plane, metrics, version)
    except OrchError as error:
        return error_answer(error)


def _route(head: Head, plane: DataPlane, metrics: Metrics, version: str) -> Answer:
    match head.parts:
        case ("v2",):
            return _get(head) or _json(server_metadata(version))
        case ("v2", "health", "live"):
            return _get(head) or _truth(plane.live())
        case ("v2", "health", "ready"):
            return _get(head) or _truth(plane.ready())
        case ("metrics",):
            return _get(head) or Answer(200, *metrics(head.accept))
        case ("v2", "repository", "index"):
            return _only(head, "POST") or _json(plane.index())
        case ("v2", "models", name, *rest) if name:
            return _model(head, plane, name, rest)
        case _:
            raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")


def _model(head: Head, plane: DataPlane, name: str, rest: list[str]) -> Answer:
    version = None
    if rest[:1] == ["versions"] and len(rest) > 1:
        version, rest = rest[1], rest[2:]
    match rest:
        case [extension] if extension in NOT_SERVED:
            raise _not_served(extension)
        case [] if name == STATISTICS and version is None and name not in plane.served:
            raise _not_served(name)
        case []:
            return _get(head) or _json(model_metadata(plane.signature(name, version)))
        case ["ready"]:
            return _get(head) or _truth(plane.model_ready(name, version))
        case ["infer"]:
            return _only(head, "POST") or error_answer(OrchError(Kind.INTERNAL, "an inference lost its way"))
        case _:
            raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")


def _not_served(extension: str) -> OrchError:
    return OrchError(Kind.NOT_FOUND, f"not served: {NOT_SERVED[extension]}")


def _get(head: Head) -> Answer | None:
    return None if head.method == "HEAD" else _only(head, "GET")


def _only(head: Head, method: str) -> Answer | None:
    if head.method == method:
        return None
    text = f"{head.method} is not allowed here, use {method}"
    return Answer(405, orjson.dumps({"error": text}), JSON, f"Allow: {method}\r\n")


def _truth(holds: bool) -> Answer:
    """The protocol wants 200 or a 4xx; load balancers and Triton's users know 503 for a server that is not ready."""
    return Answer(200 if holds else 503)


def _json(value: object) -> Answer:
    return Answer(200, orjson.dumps(value), JSON)
