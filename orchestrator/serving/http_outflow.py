"""Tells a client that reads its answers slowly from one that does not read them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios


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


def _in_kernel(transport: asyncio.Transport) -> int:
    """Return the bytes that the client has not acknowledged; the kernel takes megabytes at a time from us."""
    with contextlib.suppress(OSError):
        count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return int.from_bytes(count, sys.byteorder)
    return 0
