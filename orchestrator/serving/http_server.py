"""The HTTP server: listens, keeps its connections, and closes the ones that make no progress."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.dataplane import DataPlane
from orchestrator.serving.error_count import ErrorCount
from orchestrator.serving.http_connection import DISCARDED_BYTES, SCRATCH_BYTES, Connection, Shared
from orchestrator.serving.http_gate import HttpLimits, check
from orchestrator.serving.http_head import HeadParser
from orchestrator.serving.http_infer import Answers
from orchestrator.serving.oip import HeadCache
from orchestrator.serving.quota import Quotas
from orchestrator.serving.request_log import RequestLog
from orchestrator.serving.scrapes import Metrics, Scrapes
from orchestrator.serving.tensors import TensorPool
from orchestrator.serving.tls import SHUTDOWN_S, door
from orchestrator.serving.turns import Turns

BACKLOG = 4096  # connections that wait while a worker restarts; the kernel caps it at net.core.somaxconn
SWEEP_S = 1.0


def listen(address: str) -> socket.socket:
    """Return a listening TCP socket on HOST:PORT; raise OrchError when it cannot be had."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, proto, _, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot use the address: {error.strerror or error}", where=address) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = "stop what listens there, or change spec.endpoint in the manifest"
        raise OrchError(Kind.CONFLICT, f"cannot listen: {error.strerror or error}", where=address, hint=hint) from None
    listener.setblocking(False)
    return listener


class HttpServer:
    """Serves a data plane over HTTP/1.1, encrypted where `tls` returns the context for new connections."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: Metrics,
        *,
        version: str,
        on_bug: Callable[[BaseException], None],
        limits: HttpLimits | None = None,
        token: Callable[[], Sequence[str] | None] = lambda: None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        saturation: Callable[[str], float | None] = lambda _model: None,
        quotas: Quotas | None = None,
        requests: RequestLog | None = None,
        errors: ErrorCount | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = Shared(
            plane=plane,
            scrapes=Scrapes(metrics),
            version=version,
            limits=limits or HttpLimits(),
            token=token,
            clock=clock,
            heads=HeadParser(partial(check, limits=limits or HttpLimits())),
            bodies=HeadCache(),
            answers=Answers(),
            tensors=TensorPool(),
            scratch=bytearray(SCRATCH_BYTES),
            discarded=bytearray(DISCARDED_BYTES),
            connections=set(),
            saturation=saturation,
            quotas=quotas,
            requests=requests or RequestLog(None),
            errors=errors or ErrorCount(),
            turns=Turns(),
            on_bug=on_bug,
        )
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return len(self._shared.connections)

    async def start(self, listener: socket.socket) -> None:
        """Serve what connects to `listener`, which becomes the server's."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"sock": listener, "backlog": BACKLOG}
        if self._tls is not None:
            options["ssl"] = door(self._tls, self._shared.limits.connections)
            options |= {"ssl_handshake_timeout": self._shared.limits.handshake_s, "ssl_shutdown_timeout": SHUTDOWN_S}
        self._server = await loop.create_server(lambda: Connection(self._shared), **options)
        self._sweeper = loop.create_task(self._sweep())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Close the connections that make no progress; called each SWEEP_S."""
        now = self._shared.clock()
        for connection in tuple(self._shared.connections):
            try:
                connection.overdue(now)
            except Exception as error:  # noqa: BLE001 - one connection must not keep the others from being looked at
                self._shared.on_bug(error)
                connection.abort()

    async def stop(self, timeout_s: float) -> None:
        """Accept no more, let what is under way be answered within `timeout_s`, then close everything."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._shared.connections):
            connection.stop()
        deadline = self._shared.clock() + timeout_s
        # An event instead would have to be set on every disconnect.
        while self._shared.connections and self._shared.clock() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for connection in tuple(self._shared.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
