"""The bytes of the one request that is sent again and again, prepared for the wire."""

from __future__ import annotations

import os

from benchmarks.overload.order import Request

SMALL_BYTES = 16 * 1024  # in one write with its head; larger bodies are sent from a file in memory


class Payload:
    """A request as HTTP/1.1 and as HTTP/2 need it."""

    def __init__(self, request: Request, authority: str, body: bytes) -> None:
        self.body = body
        self.http_head = _http_head(request, authority, len(body))
        self.small = self.http_head + body if len(body) <= SMALL_BYTES else None
        """Head and body together, when that is cheaper than a second call."""
        self.grpc_head = _hpack(_grpc_headers(request, authority))
        self.file = os.memfd_create("body")
        """The body, for sendfile."""
        written = 0
        while written < len(body):
            written += os.write(self.file, memoryview(body)[written:])


def _http_head(request: Request, authority: str, length: int) -> bytes:
    lines = {"Host": authority, "Content-Length": str(length), **request.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {request.path} HTTP/1.1\r\n{head}\r\n".encode()


def _grpc_headers(request: Request, authority: str) -> dict[str, str]:
    return {
        ":method": "POST",
        ":scheme": "http",
        ":path": request.path,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
        **request.headers,
    }


def _hpack(headers: dict[str, str]) -> bytes:
    """Return the header block, every line a literal that is not indexed (RFC 7541 6.2.2), so the same every time."""
    block = b""
    for name, value in headers.items():
        for text in (name.encode(), value.encode()):
            assert len(text) < 127, text  # a longer string's length takes more than one byte
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return block
