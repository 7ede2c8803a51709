"""A server that answers by a script, and a time that passes only while a client waits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any

import numpy as np

from orchestrator.client import Client

END_S = 20.0
Reply = bytes | None
"""What is sent for a request; None closes the connection without a word."""


def said(status: int, body: bytes = b'{"error":"queue full"}', *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


FULL = said(503, b'{"error":"queue full"}', "Retry-After: 1", "X-Orch-Retry-After-Ms: 20")
GOOD = said(200, b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[2.0]}]}')
X = {"x": np.ones(1, np.float32)}


class Scripted:
    """Answers the n-th request with the n-th reply, and from the last on with that one."""

    def __init__(self, *replies: Reply, idle_closes_after: int | None = None) -> None:
        self._replies = replies
        self._idle_closes_after = idle_closes_after  # requests on one connection, which is then closed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.closed = threading.Semaphore(0)
        self.heads: list[bytes] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Scripted:
        self._run(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(END_S)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        served = 0
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while served != self._idle_closes_after and (reply := self._next(stream)) is not None:
                connection.sendall(reply)
                served += 1
        self.closed.release()

    def _next(self, stream: Any) -> Reply:
        """Read a request and return its reply; None too where the client is gone."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return None
            head += line
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        stream.read(length)
        with self._lock:
            self.heads.append(head)
            return self._replies[min(len(self.heads), len(self._replies)) - 1]


class Time:
    """Stands still but for the sleeps, which it keeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def a_client(url: str, time: Time, *, seed: int = 7, **options: Any) -> Client:
    return Client(url, clock=time, sleep=time.sleep, chance=Random(seed), **options)


def told(heads: Sequence[bytes], name: str) -> list[str]:
    """Return a header's value in each request."""
    lines = [dict(line.lower().split(": ", 1) for line in head.decode().splitlines() if ": " in line) for head in heads]
    return [each.get(name, "") for each in lines]
