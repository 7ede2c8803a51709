"""The head of an HTTP request, parsed by httptools (llhttp) and checked; and the head of an answer, written. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import unquote

import httptools

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.contract import Said, retry_ms, said

HEAD_LIMIT_BYTES = 16 * 1024  # node and nginx allow 8 to 16 KiB
HEADERS_MAX = 100  # as in Apache
CACHED_HEADS_MAX = 512  # one client sends the same head again and again
CACHED_HEAD_BYTES = 2048

# Two of these would be read differently by different readers (RFC 9112 11.2: request smuggling).
SINGLE = frozenset(
    {"authorization", "content-encoding", "content-length", "expect", "host", "inference-header-content-length"}
    | {"transfer-encoding"}
)

STATUS: dict[Kind, int] = {
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.UNSUPPORTED: 400,
    Kind.UNAVAILABLE: 503,
    Kind.OVERLOADED: 503,
    Kind.QUOTA: 429,
    Kind.DEADLINE: 504,
    Kind.CANCELLED: 499,
    Kind.TOO_LARGE: 413,
    Kind.FAILED: 500,
    Kind.UNAUTHORIZED: 401,
    Kind.INTERNAL: 500,
}


class HttpError(Exception):
    """A request that HTTP itself forbids; the connection is closed after the answer."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Head:
    """What of a request's head orch acts on. `content_length` is None for chunked bodies, 0 where there is none."""

    method: str
    path: str
    parts: tuple[str, ...]
    """The path's segments, percent-decoded."""
    query: str
    keep_alive: bool
    content_length: int | None
    json_length: int | None
    """Inference-Header-Content-Length: bytes of JSON before the binary tensors."""
    expect: str
    """In lower case; empty where nothing is expected."""
    content_encoding: str
    authorization: str
    accept: str
    said: Said
    """What the client says beside the request."""
    echo: str
    """Header lines that every answer to it carries."""
    # Worked out once: heads are remembered, and these are asked for several times in each request.
    infers: bool = field(init=False)
    """Whether the request is an inference."""
    model: tuple[str, str | None] | None = field(init=False)
    """Model and version of `/v2/models/NAME[/versions/V]/infer`; None at another path."""

    def __post_init__(self) -> None:
        infers = self.method == "POST" and self.parts[:2] == ("v2", "models") and self.parts[-1] == "infer"
        object.__setattr__(self, "infers", infers)
        object.__setattr__(self, "model", _model(self.parts))


def _model(parts: tuple[str, ...]) -> tuple[str, str | None] | None:
    match parts:
        case ("v2", "models", name, "infer"):
            return name, None
        case ("v2", "models", name, "versions", version, "infer"):
            return name, version
        case _:
            return None


class _Collector:
    """Takes llhttp's callbacks for one head."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.count = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        if self.count > HEADERS_MAX:
            raise HttpError(431, f"more than {HEADERS_MAX} headers")
        key = name.decode("latin-1").lower()
        if key in SINGLE and key in self.headers:
            raise HttpError(400, f"the header {key} is there twice")
        self.headers[key] = value.decode("latin-1").strip()


def check_beginning(text: bytes, received: int) -> None:
    """Raise HttpError for a beginning that can never become a head, so that its sender need not wait for the answer."""
    if received >= HEAD_LIMIT_BYTES:
        raise HttpError(431, f"the head is larger than {HEAD_LIMIT_BYTES} bytes")
    if text and not text[:1].isalpha():
        raise HttpError(400, "not an HTTP request")
    line = text.find(b"\n")
    if line == 0 or (line > 0 and text[line - 1] != 0x0D):
        raise HttpError(400, "the lines of a head end in CR LF")


def parse_head(raw: bytes) -> Head:
    """Return the head in `raw`, which ends in its empty line; raise HttpError for what HTTP forbids."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110 7.8: an offer to upgrade may be ignored
    except httptools.HttpParserCallbackError as error:
        if isinstance(error.__context__, HttpError):
            raise error.__context__ from None
        raise HttpError(400, "bad request head") from None
    except httptools.HttpParserError as error:
        raise HttpError(400, f"not an HTTP request: {error}") from None
    headers = collector.headers
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise HttpError(505, f"HTTP version {version} is not spoken here")
    if version == "1.1" and "host" not in headers:
        raise HttpError(400, "the Host header is missing")
    if version == "1.0" and "transfer-encoding" in headers:
        raise HttpError(400, "HTTP 1.0 has no transfer coding")  # RFC 9112 6.1
    url = _url(collector.url)
    given = _said(headers)
    return Head(
        method=parser.get_method().decode("latin-1"),
        path=url[0],
        parts=tuple(unquote(part) for part in url[0].strip("/").split("/")),
        query=url[1],
        # Clients of 1.0 that know keep-alive would have to be told so in each answer; nobody needs it.
        # Not parser.should_keep_alive(): llhttp forgets `close` where no body follows, once the message is over.
        keep_alive=version == "1.1" and "close" not in re.split(r"[\s,]+", headers.get("connection", "").lower()),
        content_length=_content_length(headers),
        json_length=_length(headers, "inference-header-content-length"),
        expect=headers.get("expect", "").lower() if version == "1.1" else "",  # RFC 9110 10.1.1
        content_encoding=headers.get("content-encoding", "").lower(),
        authorization=headers.get("authorization", ""),
        accept=headers.get("accept", ""),
        said=given,
        echo=lines(given.echo()),
    )


def lines(headers: Mapping[str, str]) -> str:
    """Return header lines, each with its line end."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def with_id(head: Head, new_id: Callable[[], str]) -> Head:
    """Return the head with a request id, a new one where the client gave none."""
    if head.said.request_id is not None:
        return head
    given = head.said._replace(request_id=new_id())
    return replace(head, said=given, echo=lines(given.echo()))


def _said(headers: dict[str, str]) -> Said:
    try:
        return said(headers)
    except OrchError as error:
        raise HttpError(400, str(error)) from None


def _url(raw: bytes) -> tuple[str, str]:
    try:
        url = httptools.parse_url(raw)
    except httptools.HttpParserInvalidURLError:
        raise HttpError(400, "the request target is not a URL") from None
    return (url.path or b"/").decode("latin-1"), (url.query or b"").decode("latin-1")


def _content_length(headers: dict[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    if coding is None:
        return _length(headers, "content-length") or 0
    if coding.lower() != "chunked":
        raise HttpError(501, f"transfer coding {coding[:40]!r} is not spoken here")
    return None


def _length(headers: dict[str, str], name: str) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise HttpError(400, f"{name} must be a number of bytes, got {text[:40]!r}")
    return int(text)


class HeadParser:
    """Parses heads and remembers the last few hundred; a head with a body to come never differs for one client.

    `check` raises HttpError for a head that HTTP allows and this server does not; no such head is remembered.
    """

    def __init__(self, check: Callable[[Head], None]) -> None:
        self._check = check
        self._cache: dict[bytes, Head] = {}

    def __call__(self, raw: bytes) -> Head:
        head = self._cache.get(raw)
        if head is None:
            head = parse_head(raw)
            self._check(head)
            if len(raw) <= CACHED_HEAD_BYTES and not head.echo:  # an id of its own never comes again
                if len(self._cache) >= CACHED_HEADS_MAX:
                    self._cache.clear()
                self._cache[raw] = head
        return head


def answer_head(status: int, length: int, content_type: str, *, close: bool, extra: str = "") -> bytes:
    """Return the head of an answer; `extra` are whole header lines, each with its line end."""
    reason = _REASONS.get(status, "Unknown")
    connection = "Connection: close\r\n" if close else ""
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} {reason}\r\n{kind}Content-Length: {length}\r\n{connection}{extra}\r\n".encode("latin-1")


_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


def retry_headers(error: OrchError) -> str:
    """Return `Retry-After` (whole seconds, as HTTP wants them) and its milliseconds, where the error knows them."""
    if error.retry_after_s is None:
        return ""
    seconds = max(1, -int(-error.retry_after_s // 1))
    return f"Retry-After: {seconds}\r\nX-Orch-Retry-After-Ms: {retry_ms(error)}\r\n"
