"""What clients may say beside a request, and how they are told when to come back: names, forms and meanings, no I/O.

The names are those of HTTP headers; gRPC metadata has the same in lower case. docs/client-contract.md is the page for
people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from orchestrator.errors import Kind, OrchError

Priority = Literal["critical", "default", "sheddable"]

REQUEST_ID = "x-request-id"
TRACEPARENT = "traceparent"
TIMEOUT_MS = "x-orch-timeout-ms"
PRIORITY = "x-orch-priority"
TIMING = "x-orch-timing"
"""Asks for the request's times; who does not is not told, for telling costs a small model 2 % of its time."""
QUEUE_MS = "x-orch-queue-ms"
SERVICE_MS = "x-orch-service-ms"
NAMES = frozenset({REQUEST_ID, TRACEPARENT, TIMEOUT_MS, PRIORITY, TIMING})

JITTER = 0.2
"""Share by which the time to come back is spread either way, so that those refused together do not return together."""

NO_MEMORY = OrchError(Kind.OVERLOADED, "there is no memory for this request", retry_after_s=1.0)
"""What the caller of a request is told that the process has no memory for; others are served."""

_MAY_RETURN = (Kind.OVERLOADED, Kind.QUOTA, Kind.UNAVAILABLE)
_WORDS: Mapping[str, Priority] = {"critical": "critical", "default": "default", "sheddable": "sheddable"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@+/=~-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]{0,73})?")
_MILLISECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


class Said(NamedTuple):
    """What a client says of one request; what is absent, or no id at all, is None."""

    request_id: str | None = None
    traceparent: str | None = None
    timeout_s: float | None = None
    priority: Priority | None = None
    timing: bool = False
    """Whether the answer is to tell the request's times."""

    @property
    def trace_id(self) -> str | None:
        """Return the trace's 32 hexadecimal digits."""
        return None if self.traceparent is None else self.traceparent[3:35]

    def echo(self) -> dict[str, str]:
        """Return what is sent back as it came, by header name."""
        given = {REQUEST_ID: self.request_id, TRACEPARENT: self.traceparent}
        return {name: value for name, value in given.items() if value is not None}

    def marks(self) -> dict[str, str]:
        """Return what an error body and a log line say of it."""
        given = {"request_id": self.request_id, "trace_id": self.trace_id}
        return {name: value for name, value in given.items() if value is not None}


NOTHING = Said()


def said(headers: Mapping[str, str]) -> Said:
    """Return what the headers (lower-case names) say; raise INVALID for a timeout or a priority that is none."""
    if NAMES.isdisjoint(headers):
        return NOTHING
    timeout, priority = headers.get(TIMEOUT_MS), headers.get(PRIORITY)
    return ids(headers)._replace(
        timeout_s=None if timeout is None else _timeout_s(timeout),
        timing=TIMING in headers,
        priority=None
        if priority is None
        else priority_of(int(priority) if _is_natural(priority) else priority, PRIORITY),
    )


def ids(headers: Mapping[str, str]) -> Said:
    """Return only the ids; what is not safe to repeat is dropped, as W3C Trace Context wants it."""
    return Said(_matching(_REQUEST_ID, headers.get(REQUEST_ID)), traceparent_of(headers.get(TRACEPARENT)))


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and pattern.fullmatch(text) else None


def traceparent_of(text: str | None) -> str | None:
    """Return the W3C traceparent, or None where the text is none that its rules let pass."""
    match = None if text is None else _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, parent, more = match.groups()
    valid = version != "ff" and trace.strip("0") and parent.strip("0") and (more is None or version != "00")
    return text if valid else None


def _timeout_s(text: str) -> float:
    if not _MILLISECONDS.fullmatch(text):
        what = f"must be a number of milliseconds greater than zero, such as 40, got {text[:40]!r}"
        raise OrchError(Kind.INVALID, what, where=TIMEOUT_MS)
    return float(text) / 1000


def _is_natural(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def priority_of(value: object, where: str) -> Priority | None:
    """Return the class of a word, or of Triton's number: 0 none, 1 the highest, 2 the default, more sheddable."""
    if value is None or (type(value) is int and value == 0):
        return None
    if type(value) is int and value > 0:
        return "critical" if value == 1 else "default" if value == 2 else "sheddable"
    word = _WORDS.get(value) if isinstance(value, str) else None
    if word is None:
        words = ", ".join(_WORDS)
        seen = repr(value)[:60] if isinstance(value, (str, int, float)) else type(value).__name__
        raise OrchError(Kind.INVALID, f"must be an integer of at least 0 or one of {words}, got {seen}", where=where)
    return word


def times(queue_s: float, service_s: float) -> dict[str, str]:
    """Return the milliseconds that a request waited and was inferred, by header name."""
    return {QUEUE_MS: f"{queue_s * 1000:.3f}", SERVICE_MS: f"{service_s * 1000:.3f}"}


def spread(retry_after_s: float, chance: float) -> float:
    """Return the time to come back, moved by at most JITTER either way; `chance` is from 0 to 1."""
    return retry_after_s * (1 - JITTER + 2 * JITTER * chance)


def retry_ms(error: OrchError) -> int | None:
    """Return the whole milliseconds after which to come back, at least 1; None where the error does not know."""
    return None if error.retry_after_s is None else max(1, round(error.retry_after_s * 1000))


def trailing(error: OrchError, given: Said) -> tuple[tuple[str, str], ...]:
    """Return the metadata that ends a refused gRPC call: what the JSON body says over HTTP."""
    told: dict[str, Any] = {"x-orch-code": error.code, **given.echo()}
    ms = retry_ms(error)
    if ms is not None and error.kind in _MAY_RETURN:
        told |= {"grpc-retry-pushback-ms": ms, "x-orch-retry-after-ms": ms}
    return tuple((name, str(value)) for name, value in told.items())
