"""Tells a client that reads its answers slowly from one that does not read them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios

_BYTES_ACKED, _INFO_BYTES = 120, 128  # tcpi_bytes_acked in the kernel's struct tcp_info, and all up to its end


class Outflow:
    """Follows what a connection has not sent yet; looked at about once a second."""

    __slots__ = ("_changed", "_unsent")

    def __init__(self) -> None:
        self._unsent = 0
        self._changed = 0.0

    def stalled_s(self, transport: asyncio.Transport, now: float) -> float | None:
        """Return for how long the client has taken nothing of what waits for it; None when nothing waits."""
        unsent = transport.get_write_buffer_size()
        if unsent:
            unsent += _in_kernel(transport)
        if unsent != self._unsent:
            self._unsent, self._changed = unsent, now
        return now - self._changed if unsent else None


class TlsOutflow:
    """The same for an encrypted connection, of which what is encrypted already hides in transports below."""

    __slots__ = ("_changed", "_seen")

    def __init__(self) -> None:
        self._seen: tuple[int, int] = (0, 0)
        self._changed = 0.0

    def stalled_s(self, transport: asyncio.Transport, now: float) -> float | None:
        """Return for how long the client has acknowledged nothing of what waits for it; None when nothing waits."""
        if transport.get_extra_info("socket") is None:
            return None  # it is gone, and our protocol is about to hear of it
        unsent = transport.get_write_buffer_size()
        seen = (unsent, _acknowledged(transport))
        if seen != self._seen:
            self._seen, self._changed = seen, now
        # As long as anything hides below, the kernel's buffer is full.
        return now - self._changed if unsent or _in_kernel(transport) else None


def _acknowledged(transport: asyncio.Transport) -> int:
    """Return the bytes that the client has acknowledged since the connection began (Linux 4.1 and later)."""
    with contextlib.suppress(OSError, struct.error):
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        (count,) = struct.unpack_from("=Q", info, _BYTES_ACKED)
        return int(count)
    return 0


def _in_kernel(transport: asyncio.Transport) -> int:
    """Return the bytes that the client has not acknowledged; the kernel takes megabytes at a time from us."""
    with contextlib.suppress(OSError):
        count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return int.from_bytes(count, sys.byteorder)
    return 0
