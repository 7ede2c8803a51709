"""The client that people use: NumPy arrays in and out over HTTP, refusals tried again as the server says."""

from __future__ import annotations

import http
import math
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt
import orjson

from orchestrator.backend.datatypes import Array
from orchestrator.client.connections import Answer, Connections, Request
from orchestrator.client.failures import ClientError, DeadlineExceeded, Failed, Invalid, NotFound, Overloaded
from orchestrator.client.retrying import Retrying
from orchestrator.client.trace import trace_context
from orchestrator.client.wire import JSON_LENGTH, Body, decode, encode
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.trust import Trust, context
from orchestrator.serving.contract import PRIORITY, REQUEST_ID, TIMEOUT_MS, Priority, said

TIMEOUT_S = 60.0
TIMEOUT_MAX_S = 86_400.0  # sockets know no longer one
SAID_MAX = 300  # characters of an answer that is not the protocol's
RETRY_AFTER_MS = "X-Orch-Retry-After-Ms"
STATUS: dict[int, type[ClientError]] = {
    400: Invalid,
    404: NotFound,
    408: DeadlineExceeded,
    422: Invalid,
    429: Overloaded,
    503: Overloaded,
    504: DeadlineExceeded,
}
KINDS = {401: Kind.UNAUTHORIZED, 403: Kind.UNAUTHORIZED, 413: Kind.TOO_LARGE}
HINTS = {
    401: "pass Client(..., token=...), which is in the file that spec.endpoint names",
    404: "orch status shows which models are served where",
    413: "send fewer rows at a time",
    429: "send less, or call again later",
    503: "send less, allow more by timeout_s, or see how full the model is: orch status",
    504: "allow more by timeout_s, or see how full the model is: orch status",
}


class Client:
    """Asks one endpoint: `Client("http://127.0.0.1:8000").infer("digits", {"image": array})["logits"]`.

    Safe to use from any number of threads; connections are kept and reused. One client for an endpoint and process is
    best: its calls share a budget of retries and what it knows of how full the server is. Close it, or use it as a
    context manager.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        token: str | None = None,
        ca_file: str | Path | None = None,
        client_certificate: tuple[str | Path, str | Path] | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Random | None = None,
    ) -> None:
        """Store the address and connect at the first call. `timeout_s` is for calls that state none.

        For https, `ca_file` holds the authorities to trust instead of the system's, `client_certificate` a certificate
        and its key for servers that ask for one, all PEM; `tls` stands for both. Raise Invalid for files that cannot
        be used. `clock`, `sleep` and `chance` are for tests.
        """
        if tls is None and (ca_file is not None or client_certificate is not None):
            tls = _context(ca_file, client_certificate)
        self._connections = Connections(url, tls=tls, clock=clock)
        self._retrying = Retrying(clock=clock, sleep=sleep, chance=chance)
        self._timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._clock = clock

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        priority: Priority | None = None,
        request_id: str | None = None,
    ) -> dict[str, Array]:
        """Return the outputs by name (`outputs`: only these) for the inputs by name.

        Arrays travel with the dtype that they have; BYTES as arrays of bytes or texts, BF16 as ml_dtypes.bfloat16 or,
        answered, as its bits in uint16. `timeout_s` bounds everything, retries included, and is told to the server.

        Raise Overloaded when the server is full and not to be asked again in time, DeadlineExceeded, NotFound,
        Invalid, Unreachable, or Failed; all are ClientError.
        """
        allowed_s = min(self._timeout_s if timeout_s is None else timeout_s, TIMEOUT_MAX_S)
        where = f"{self._connections.where} model {model!r}"
        if not allowed_s > 0:
            raise DeadlineExceeded(f"timeout_s is {allowed_s:g}, which leaves no time", where=where)
        body = encode(inputs, outputs=outputs, request_id=request_id)
        headers = self._said(body, priority, request_id)

        def ask(left_s: float) -> dict[str, Array]:
            # The first try states the caller's own round figure: the server remembers heads that it has seen before.
            told = {TIMEOUT_MS: f"{left_s * 1000:.3f}"}
            request = Request("POST", _path(model), headers | told, (body.text, *body.parts))
            answer = self._connections.exchange(request, self._clock() + left_s)
            if answer.status != http.HTTPStatus.OK:
                raise _refusal(answer, where)
            return decode(answer.body, _json_length(answer, where), where)

        return self._retrying.call(ask, timeout_s=allowed_s, key=(where, priority))

    def _said(self, body: Body, priority: Priority | None, request_id: str | None) -> dict[str, str]:
        """Return the headers that all tries of a call have in common."""
        kind = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(body.text))}
        headers = self._headers | kind | trace_context()
        if priority is not None:
            headers[PRIORITY] = priority
        if request_id is not None and said({REQUEST_ID: request_id}).request_id is not None:
            headers[REQUEST_ID] = request_id  # any other goes in the JSON alone, where everything is allowed
        return headers

    def close(self) -> None:
        """Close the connections that idle; calls that are under way end by themselves."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _context(ca_file: str | Path | None, client_certificate: tuple[str | Path, str | Path] | None) -> ssl.SSLContext:
    certificate, key = client_certificate or (None, None)
    paths = (None if path is None else str(path) for path in (ca_file, None, certificate, key))
    try:
        return context(Trust(*paths))
    except OrchError as error:
        (problem,) = error.problems
        raise Invalid(problem.what, where=problem.where, hint=problem.hint) from None


def _json_length(answer: Answer, where: str) -> int | None:
    text = answer.headers.get(JSON_LENGTH)
    if text is None:
        return None
    if not text.isdecimal() or int(text) > len(answer.body):
        raise Failed(f"the answer's {JSON_LENGTH} is {text[:40]!r}", where=where)
    return int(text)


def _refusal(answer: Answer, where: str) -> ClientError:
    what = f"the server answered {answer.status}: {_said(answer.body)}"
    kind = STATUS.get(answer.status, Failed)
    retry_after_s = retry_after(answer.headers) if kind is Overloaded else None
    return kind(
        what, where=where, hint=HINTS.get(answer.status), retry_after_s=retry_after_s, kind=KINDS.get(answer.status)
    )


def _said(body: bytearray) -> str:
    try:
        error: Any = orjson.loads(body)["error"]
    except (ValueError, TypeError, KeyError):
        error = bytes(body[:SAID_MAX]).decode("utf-8", "replace")
    return str(error) or "nothing more"


def retry_after(headers: Message) -> float | None:
    """Return the seconds after which the server wants to be asked again, by its milliseconds or else Retry-After."""
    for name, unit_s in ((RETRY_AFTER_MS, 1e-3), ("Retry-After", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue  # absent, or a date, which no server of ours sends
        if seconds >= 0 and math.isfinite(seconds):
            return seconds
    return None


def _path(model: str) -> str:
    return f"/v2/models/{urllib.parse.quote(model, safe='')}/infer"
