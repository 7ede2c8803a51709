"""A chunked body, read through llhttp."""

from __future__ import annotations

import httptools

from orchestrator.serving.http_head import HttpError

OVERHEAD_BYTES = 64 * 1024  # of chunk sizes, extensions and trailers, beyond as much again as the body may hold
# llhttp reads chunks only after a head. The request's own may offer an upgrade, which stops it there.
_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class ChunkedBody:
    """Collects what the chunks hold, up to `limit` bytes; what comes after the last chunk is not looked at."""

    def __init__(self, limit: int) -> None:
        self.body = bytearray()
        self.complete = False
        self._limit = limit
        self._wire_limit = 2 * limit + OVERHEAD_BYTES
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire; raise HttpError when they are no chunks or too many."""
        self._wire_limit -= len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if len(self.body) > self._limit:
                raise HttpError(413, f"the body is larger than {self._limit} bytes") from None
            if not self.complete:
                raise HttpError(400, f"bad chunked body: {error}") from None
        if self._wire_limit < 0 and not self.complete:
            raise HttpError(413, "the body's chunks are too small, or its trailers too large")

    def on_body(self, data: bytes) -> None:
        """Collect, called by llhttp; raise to make it stop."""
        if self.complete:
            return
        self.body += data
        if len(self.body) > self._limit:
            raise OverflowError

    def on_message_complete(self) -> None:
        """Note the end, called by llhttp."""
        self.complete = True
