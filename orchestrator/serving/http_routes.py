"""The HTTP routes that carry no tensors: health, metadata, configuration, statistics, repository."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from orchestrator.errors import Kind, OrchError
from orchestrator.serving import http_regions
from orchestrator.serving.dataplane import DataPlane
from orchestrator.serving.http_head import STATUS, Head, answer_head, retry_headers
from orchestrator.serving.oip import error_body, model_metadata, server_metadata
from orchestrator.serving.repository import only_ready, refuse_change
from orchestrator.serving.shared_regions import Regions

JSON = "application/json"
_CHALLENGE = "WWW-Authenticate: Bearer\r\n"
STATISTICS = "stats"
NOT_SERVED = {
    "logging": "clients do not change what a server logs; `orch logs --requests on NAME` does",
    "trace": "traces are the client's: its traceparent is echoed, and written to the request log",
}
"""Below v2: what Triton offers and orch does not, and what to use instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back; `extra` are whole header lines."""

    status: int
    body: bytes = b""
    content_type: str = ""
    extra: str = ""


def error_answer(error: OrchError, **extra: object) -> Answer:
    """Return the answer for an error, by the one table of HTTP statuses."""
    headers = _CHALLENGE if error.kind is Kind.UNAUTHORIZED else retry_headers(error)
    return Answer(STATUS[error.kind], error_body(error, **extra), JSON, headers)


def whole(reply: Answer, *, close: bool, head_only: bool = False) -> bytes:
    """Return the answer as it goes over the wire."""
    head = answer_head(reply.status, len(reply.body), reply.content_type, close=close, extra=reply.extra)
    return head if head_only else head + reply.body


def answer(head: Head, body: bytes | bytearray, plane: DataPlane, version: str) -> Answer:
    """Answer a request that is no inference; `body` is cut where it is longer than any that means something."""
    try:
        return _route(head, body, plane, version)
    except OrchError as error:
        return error_answer(error)


def _route(head: Head, body: bytes | bytearray, plane: DataPlane, version: str) -> Answer:
    match head.parts:
        case ("v2",):
            return _get(head) or _json(server_metadata(version, shared_memory=plane.regions.offered))
        case ("v2", "health", "live"):
            return _get(head) or _truth(plane.live())
        case ("v2", "health", "ready"):
            return _get(head) or _truth(plane.ready())
        case ("metrics",):
            return _get(head) or error_answer(OrchError(Kind.INTERNAL, "the metrics lost their way"))
        case ("v2", "repository", "index"):
            return _only(head, "POST") or _json(only_ready(plane.index(), ready=_asks_for_ready(body)))
        case ("v2", "repository", "models", name, "load" | "unload" as action):
            return _only(head, "POST") or refuse_change(name, action)
        case ("v2", ("systemsharedmemory" | "cudasharedmemory") as folder, *rest):
            return _regions(head, body, plane.regions, folder, rest)
        case ("v2", extension, *_) if extension in NOT_SERVED:
            raise OrchError(Kind.NOT_FOUND, f"not served: {NOT_SERVED[extension]}")
        case ("v2", "models", name, *rest) if name:
            return _model(head, plane, name, rest)
        case _:
            raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")


def _regions(head: Head, body: bytes | bytearray, regions: Regions, folder: str, rest: list[str]) -> Answer:
    asked = http_regions.asked_of(rest)
    if asked is None:
        raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")
    refused = _get(head) if asked.action == "status" else _only(head, "POST")
    if refused is not None:
        return refused
    listed = http_regions.perform(folder, asked, body, regions)
    return Answer(200) if listed is None else _json(listed)


def _model(head: Head, plane: DataPlane, name: str, rest: list[str]) -> Answer:
    version = None
    if rest[:1] == ["versions"] and len(rest) > 1:
        version, rest = rest[1], rest[2:]
    match rest:
        case [] if name == STATISTICS and version is None and name not in plane.served:
            return _get(head) or _json({"model_stats": plane.statistics(None, None)})
        case []:
            return _get(head) or _json(model_metadata(plane.signature(name, version)))
        case ["ready"]:
            return _get(head) or _truth(plane.model_ready(name, version))
        case ["config"]:
            return _get(head) or _json(plane.config(name, version))
        case ["stats"]:
            return _get(head) or _json({"model_stats": plane.statistics(name, version)})
        case ["infer"]:
            return _only(head, "POST") or error_answer(OrchError(Kind.INTERNAL, "an inference lost its way"))
        case _:
            raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")


def _asks_for_ready(body: bytes | bytearray) -> bool:
    """Tell whether only models that are ready are to be listed; a body that says nothing of it asks for all."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(asked, dict) and asked.get("ready") is True


def _get(head: Head) -> Answer | None:
    return None if head.method == "HEAD" else _only(head, "GET")


def _only(head: Head, method: str) -> Answer | None:
    if head.method == method:
        return None
    error = OrchError(Kind.INVALID, f"{head.method} is not allowed here, use {method}")
    return Answer(405, error_body(error), JSON, f"Allow: {method}\r\n")


def _truth(holds: bool) -> Answer:
    """The protocol wants 200 or a 4xx; load balancers and Triton's users know 503 for a server that is not ready."""
    return Answer(200 if holds else 503)


def _json(value: object) -> Answer:
    return Answer(200, orjson.dumps(value), JSON)
