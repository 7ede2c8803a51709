"""One HTTP/2 connection of the open-loop client, with at most one unary gRPC call under way.

It speaks what a call needs and no more: headers that are never indexed or compressed, flow control, pings, and the
status out of the trailers. A client library would spend more on a call than the servers do.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, Protocol

from benchmarks.overload.order import FAILED
from benchmarks.overload.payload import Payload

READ_BYTES: Final = 256 * 1024
GONE: Final = select.EPOLLERR | select.EPOLLHUP
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS: Final = 4
HEADER_TABLE_SIZE, INITIAL_WINDOW, MAX_FRAME = 1, 4, 5
WINDOW: Final = 65_535  # RFC 9113 6.9.2
OUR_WINDOW: Final = 2**30  # answers are never held back
FRAME: Final = struct.Struct(">HBBBL")  # length in 16 + 8 bits, type, flags, stream
GRPC_STATUS: Final = re.compile(rb"grpc-status[\x01\x02]([0-9]{1,2})")  # nothing is indexed: our table has no room
# What a gRPC status means in HTTP (google/rpc/code.proto); RESOURCE_EXHAUSTED is 429 there, and our 503.
STATUSES: Final = {0: 200, 3: 400, 4: 504, 5: 404, 8: 503, 13: 500, 14: 503}


class Free(Protocol):
    """Takes back a connection that has nothing under way, or is closed."""

    def __call__(self, connection: GrpcConnection, /) -> None:
        """Take it."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame."""
    return frame_head(kind, flags, stream, len(payload)) + payload


def frame_head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """Return the nine bytes before a frame's payload."""
    return FRAME.pack(length >> 8, length & 255, kind, flags, stream)


class GrpcConnection:
    """Sends what it is told to, and says how it ended and when it is free."""

    def __init__(self, opened: socket.socket, payload: Payload, ended: Callable[[int, int], None], free: Free) -> None:
        self.socket = opened
        self._payload = payload
        self._ended = ended
        self._free = free
        settings = struct.pack(">HLHL", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW, OUR_WINDOW)
        self._out = [
            PREFACE,
            frame(SETTINGS, 0, 0, settings),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", OUR_WINDOW)),
        ]
        self._in = bytearray()
        self._stream = -1  # the last one used
        self._left = 0  # of the message
        self._window = WINDOW  # of the connection
        self._stream_window = WINDOW
        self._first_window = WINDOW  # of a new stream
        self._frame_max = 16_384
        self._trailers = b""
        self._answered = False
        self._leaving = False  # the server takes no more calls here
        self.number: int | None = None
        """Of the arrival that is under way."""
        self.closed = False

    def send(self, number: int) -> None:
        """Begin the call of an arrival."""
        self.number = number
        self._answered = False
        self._stream += 2
        self._stream_window = self._first_window
        self._trailers = b""
        self._left = len(self._payload.body)
        self._out.append(frame(HEADERS, END_HEADERS, self._stream, self._payload.grpc_head))
        self._write()

    def on_events(self, events: int) -> None:
        """Go on with what the kernel says is possible."""
        if events & select.EPOLLIN:
            self._read()
        if events & select.EPOLLOUT and not self.closed:
            self._write()
        if events & GONE and not self.closed:
            self._fail()

    def close(self) -> None:
        """Go away; nothing is told."""
        self.closed = True
        self.number = None

    def _write(self) -> None:
        try:
            while True:
                self._frame_data()
                if not self._out:
                    break
                sent = self.socket.sendmsg(self._out[:512])
                self._sent(sent)
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        self._finish()

    def _frame_data(self) -> None:
        """Put as much of the message into frames as the windows allow."""
        body = memoryview(self._payload.body)
        while self._left and not self._answered and len(self._out) < 512:
            size = min(self._left, self._frame_max, self._window, self._stream_window)
            if size <= 0:
                return
            begin = len(body) - self._left
            self._left -= size
            self._window -= size
            self._stream_window -= size
            self._out.append(frame_head(DATA, 0 if self._left else END_STREAM, self._stream, size))
            self._out.append(body[begin : begin + size])

    def _sent(self, count: int) -> None:
        done = 0
        for part in self._out:
            if count < len(part):
                break
            count -= len(part)
            done += 1
        del self._out[:done]
        if count:
            self._out[0] = memoryview(self._out[0])[count:]

    def _read(self) -> None:
        try:
            data = self.socket.recv(READ_BYTES)
            while data:
                self._in += data
                if len(data) < READ_BYTES:  # the rest raises a new event
                    break
                data = self.socket.recv(READ_BYTES)
            else:
                self._fail()
                return
        except BlockingIOError:
            pass
        except OSError:
            self._fail()
            return
        self._take_frames()
        if not self.closed:
            self._write()

    def _take_frames(self) -> None:
        at, data = 0, self._in
        while len(data) >= at + 9:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8) + low
            if len(data) < end:
                break
            self._take(kind, flags, stream & 0x7FFFFFFF, bytes(data[at + 9 : end]))
            at = end
        del data[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 1 | 9:  # HEADERS, CONTINUATION
                if stream == self._stream:
                    self._trailers += payload
            case 4 if not flags & ACK:
                self._settle(payload)
            case 6 if not flags & ACK:
                self._out.append(frame(PING, ACK, 0, payload))
            case 8:
                self._widen(stream, struct.unpack(">L", payload)[0])
            case 7:
                self._leaving = True
            case 3 if stream == self._stream and not self._answered:
                self._end(FAILED)
            case _:
                pass
        if kind in (DATA, HEADERS) and flags & END_STREAM and stream == self._stream and not self._answered:
            self._end(self._status())

    def _settle(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HL", payload):
            if key == INITIAL_WINDOW:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif key == MAX_FRAME:
                self._frame_max = min(value, 2**20)
        self._out.append(frame(SETTINGS, ACK, 0, b""))

    def _widen(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream == self._stream:
            self._stream_window += more

    def _status(self) -> int:
        found = GRPC_STATUS.search(self._trailers)
        return STATUSES.get(int(found[1]), 500) if found else FAILED

    def _end(self, status: int) -> None:
        self._answered = True
        if self._left:  # the server answered before it had the message: the rest is not sent (RFC 9113 8.1)
            self._out.append(frame(RST_STREAM, 0, self._stream, struct.pack(">L", 0)))
            self._left = 0
        if self.number is not None:
            self._ended(self.number, status)

    def _finish(self) -> None:
        """Give the connection back when its call is answered and sent."""
        if not self._answered or self._out or self.closed or self.number is None:
            return
        self.number = None
        self._answered = False
        self.closed = self._leaving
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
