"""What is decided at the head of a request, before its body: may the caller, is the body wanted, for which model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.http_head import Head, HttpError
from orchestrator.serving.http_routes import Answer, error_answer
from orchestrator.serving.tls import HANDSHAKE_S
from orchestrator.serving.token import carries

PLAIN_BODY_BYTES = 2**20  # of a request without tensors; more is not read
PLAIN_KEPT_BYTES = 64 * 1024  # of those: every such body that means something is a small JSON object


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may cost."""

    body_bytes: int = 256 * 2**20
    json_bytes: int = 32 * 2**20
    connections: int = 20_000
    handshake_s: float = HANDSHAKE_S
    idle_s: float = 75.0
    """Between requests, as in nginx."""
    head_s: float = 10.0
    """From the first byte of a request to the end of its head."""
    stall_s: float = 10.0
    """Without a byte of the body, or without the client taking a byte of the answer."""


def check(head: Head, limits: HttpLimits) -> None:
    """Raise HttpError for a body that is not read whoever sends it."""
    limit = limits.body_bytes if head.infers else PLAIN_BODY_BYTES
    if head.content_length is not None and head.content_length > limit:
        raise HttpError(413, f"the body is larger than {limit} bytes")
    if head.expect not in ("", "100-continue"):
        raise HttpError(417, f"the expectation {head.expect[:40]!r} cannot be met, only 100-continue")
    if not head.infers:
        return
    if head.content_encoding not in ("", "identity"):
        raise HttpError(415, f"content encoding {head.content_encoding[:40]!r} is not spoken here")
    length, json_length = head.content_length, head.json_length
    if length is not None and json_length is not None and json_length > length:
        raise HttpError(400, f"Inference-Header-Content-Length {json_length} is beyond the body of {length} bytes")
    if (json_bytes(head) or 0) > limits.json_bytes:
        raise HttpError(413, f"the JSON is larger than {limits.json_bytes} bytes")


def json_bytes(head: Head) -> int | None:
    """Return how many bytes of JSON the body begins with; None for a chunked body that does not say."""
    return head.content_length if head.json_length is None else head.json_length


def unauthorized(head: Head, tokens: Sequence[str] | None) -> OrchError | None:
    """Return the refusal of a caller without any of the tokens; health is told to everybody."""
    if tokens is None or head.parts[:2] == ("v2", "health"):
        return None
    # Header values were read as latin-1, so this gives the bytes that came.
    if carries(head.authorization.encode("latin-1"), tokens):
        return None
    return OrchError(Kind.UNAUTHORIZED, "a bearer token is needed")


def model_of(head: Head) -> tuple[str, str | None]:
    """Return model and version of `/v2/models/NAME[/versions/V]/infer`; raise NOT_FOUND for another shape."""
    if head.model is None:
        raise OrchError(Kind.NOT_FOUND, f"nothing is served at {head.path[:200]}")
    return head.model


_NOT_NOW = (Kind.OVERLOADED, Kind.QUOTA, Kind.DEADLINE, Kind.UNAVAILABLE)


def refusal(error: OrchError, head: Head, saturation: Callable[[str], float | None]) -> Answer:
    """Return the answer to an inference that failed; one that may be tried again is told when, and how full it is."""
    marks = head.said.marks()
    if error.kind in _NOT_NOW:
        name, _ = model_of(head)
        full = saturation(name)
        known = {} if full is None else {"saturation": full}
        reply = error_answer(error, model=name, **known, **marks)
    else:
        reply = error_answer(error, **marks)
    return replace(reply, extra=reply.extra + head.echo) if head.echo else reply
