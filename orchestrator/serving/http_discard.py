"""Has the kernel throw away what arrives for a connection, where reading it would be a copy for nobody."""

from __future__ import annotations

import asyncio
import socket
import sys

WAKE_BYTES = 2**19  # of a body that is thrown away, until the loop is woken for them; the kernel's buffer holds more
MOST_BYTES = 2**22  # thrown away by one call

# Linux throws away what TCP has received when asked to truncate (tcp(7)); elsewhere the flag means something else.
_FLAGS = socket.MSG_TRUNC | socket.MSG_DONTWAIT if sys.platform == "linux" else 0
_NOTHING = bytearray(MOST_BYTES)  # the kernel never writes to it, so it takes no memory


class Discard:
    """Throws away the body of a refused request without copying it anywhere."""

    __slots__ = ("_awaited", "_transport")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        """Begin; `transport` is a connection over TCP."""
        self._transport = transport
        self._awaited = 1

    @staticmethod
    def possible(transport: asyncio.BaseTransport) -> bool:
        """Tell whether what the kernel holds is what the client has sent: not so with TLS."""
        return bool(_FLAGS) and transport.get_extra_info("sslcontext") is None

    def discard(self, count: int) -> int:
        """Throw away up to `count` bytes of what has arrived, and return how many that were.

        The loop is woken when the rest has arrived, or a good part of it.
        """
        left = count
        file = self._transport.get_extra_info("socket").fileno()
        # Not a duplicate: that would take a second descriptor for each connection.
        kernel = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=file)
        try:
            while left and (gone := kernel.recv_into(_NOTHING, min(left, MOST_BYTES), _FLAGS)):
                left -= gone
        except OSError:
            pass  # nothing more is there; what broke the connection, the transport will find
        finally:
            kernel.detach()  # the descriptor is the transport's
        self._await(min(left, WAKE_BYTES) or 1)
        return count - left

    def _await(self, count: int) -> None:
        if count != self._awaited:
            self._awaited = count
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
