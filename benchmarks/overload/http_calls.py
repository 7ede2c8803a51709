"""One HTTP/1.1 connection of the open-loop client, with at most one request under way."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

import httptools

from benchmarks.overload.order import FAILED
from benchmarks.overload.payload import Payload

READ_BYTES: Final = 256 * 1024
GONE: Final = select.EPOLLERR | select.EPOLLHUP


class Free(Protocol):
    """Takes back a connection that has nothing under way, or is closed."""

    def __call__(self, connection: HttpConnection, /) -> None:
        """Take it."""


class HttpConnection:
    """Sends what it is told to, and says how it ended and when it is free.

    A refusal that comes before the whole body was sent ends the request; the rest of the body is still sent, so that
    the connection can be used again, unless the server says that it closes it.
    """

    def __init__(self, opened: socket.socket, payload: Payload, ended: Callable[[int, int], None], free: Free) -> None:
        self.socket = opened
        self._payload = payload
        self._ended = ended
        self._free = free
        self._parser = httptools.HttpResponseParser(self)
        self._head = b""  # what of it is not sent yet
        self._left = 0  # of the body
        self._answered = False
        self._keep = True
        self.number: int | None = None
        """Of the arrival that is under way."""
        self.closed = False

    def send(self, number: int) -> None:
        """Begin the request of an arrival."""
        self.number = number
        self._answered = False
        payload = self._payload
        if payload.small is not None:
            self._head, self._left = payload.small, 0
        else:
            self._head, self._left = payload.http_head, len(payload.body)
        self._write()

    def on_events(self, events: int) -> None:
        """Go on with what the kernel says is possible."""
        if events & select.EPOLLIN:
            self._read()
        if events & select.EPOLLOUT and not self.closed and (self._head or self._left):
            self._write()
        if events & GONE and not self.closed:
            self._fail()

    def close(self) -> None:
        """Go away; nothing is told."""
        self.closed = True
        self.number = None

    def _write(self) -> None:
        try:
            self._write_some()
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        self._finish()

    def _write_some(self) -> None:
        """Write until all is written; raise BlockingIOError when the kernel takes no more for now."""
        while self._head:
            more = socket.MSG_MORE if self._left else 0
            sent = self.socket.send(self._head, more)
            self._head = self._head[sent:]
        fd, size = self.socket.fileno(), len(self._payload.body)
        while self._left:
            self._left -= os.sendfile(fd, self._payload.file, size - self._left, self._left)

    def _read(self) -> None:
        try:
            while not self.closed:
                data = self.socket.recv(READ_BYTES)
                if not data:
                    self._fail()
                    return
                self._parser.feed_data(data)
                if len(data) < READ_BYTES:  # the rest raises a new event
                    return
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            self._fail()

    def on_message_complete(self) -> None:
        """Tell how the request ended (called by the parser)."""
        status, self._keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if self.number is not None:
            self._answered = True
            self._ended(self.number, status)
            self._finish()

    def _finish(self) -> None:
        """Give the connection back when its request is answered and sent."""
        if not self._answered or self.closed:
            return
        if not self._keep:
            self.closed = True
        elif self._head or self._left:
            return
        self.number = None
        self._answered = False
        self._free(self)

    def _fail(self) -> None:
        """Tell that the connection broke; what was under way has no answer."""
        if self.closed:
            return
        number, self.number = self.number, None
        self.closed = True
        if number is not None:
            self._ended(number, FAILED)
        self._free(self)
