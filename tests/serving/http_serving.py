"""An HTTP server in a thread of the test's process, over real pools; and a client that sends bytes as they are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import uvloop

from benchmarks import topologies
from orchestrator.backend.base import Array, CompiledModel, CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.backend.simulated import SimulatedBackend
from orchestrator.runner.pool import Pool, PoolSettings
from orchestrator.serving.dataplane import DataPlane, Served
from orchestrator.serving.http_server import HttpServer, listen
from orchestrator.serving.oip import Signature
from tests.builders import a_model_info, a_tensor, an_inventory

DEADLINE_S = 20.0
MIB = 2**20


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Running:
    """A server that runs, and what it noted."""

    loop: asyncio.AbstractEventLoop
    plane: DataPlane
    http: HttpServer
    port: int
    bugs: list[BaseException] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self, **options: Any) -> Wire:
        return Wire(self.port, **options)

    def on_loop(self, work: Callable[[], Any]) -> Any:
        """Run `work` on the server's thread and return what it gives."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE_S)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait, bounded, for what another thread or the kernel does."""
        pause = threading.Event()
        for _ in range(int(DEADLINE_S / 0.005)):
            if self.on_loop(holds):
                return
            pause.wait(0.005)
        raise AssertionError("it did not come about")

    def pool(self, name: str) -> Pool:
        return self.plane.served[name].pool


@contextlib.contextmanager
def a_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run uvloop in a thread, as the worker process does."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


@contextlib.contextmanager
def serving(loop: asyncio.AbstractEventLoop, served: Mapping[str, Served], **options: Any) -> Iterator[Running]:
    """Serve over HTTP on a free port; at the end hold that nothing was our bug."""
    bugs: list[BaseException] = []
    loop.set_exception_handler(lambda _loop, context: bugs.append(context.get("exception") or Exception(str(context))))
    options = {"metrics": lambda _accept: (b"# metrics\n", "text/plain")} | options
    metrics = options.pop("metrics")

    async def begin() -> tuple[DataPlane, HttpServer, int]:
        plane = DataPlane(loop)
        plane.served = served
        listener = listen("127.0.0.1:0")
        port = listener.getsockname()[1]
        http = HttpServer(plane, metrics, version="0", on_bug=bugs.append, **options)
        await http.start(listener)
        return plane, http, port

    plane, http, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(DEADLINE_S)
    try:
        yield Running(loop, plane, http, port, bugs)
    finally:
        asyncio.run_coroutine_threadsafe(http.stop(0.0), loop).result(DEADLINE_S)
    assert bugs == []


# Models


def a_served(name: str, compiled: CompiledModel, *, requests: int = 1, batch: int = 1, **settings: Any) -> Served:
    """Return a model with a pool of its own."""
    wanted = {"timeout_s": DEADLINE_S, "queue_limit": 100, "memory_bytes": 64 * MIB} | settings
    pool = Pool(name, compiled, PoolSettings(**wanted), requests=requests, batch=batch)
    pool.start()
    return Served(Signature(name, "1", compiled.inputs, compiled.outputs, batch), pool)


def openvino_models(names: Sequence[str], folder: Path) -> dict[str, Served]:
    """Return generated models, compiled for the CPU."""
    backend = OpenVinoBackend(())
    properties = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    return {
        name: a_served(name, backend.compile(CompileRequest(str(topologies.save(name, folder)), "CPU", properties)))
        for name in names
    }


@dataclass
class Doubler:
    """A simulated model `double`: FP32 x [1,4] -> y, twice x; its inferences end when a test says so."""

    backend: SimulatedBackend
    served: Served

    @classmethod
    def make(cls, *, manual: bool = True, sizes: Sequence[int] = (1, 4), **options: Any) -> Self:
        info = a_model_info(path="/double", inputs=(a_tensor("x", *sizes),), outputs=(a_tensor("y", *sizes),))
        backend = SimulatedBackend(
            an_inventory(), {"/double": info}, 0.0, compute=lambda arrays: (arrays[0] * 2,), manual=manual, streams=4
        )
        compiled = backend.compile(CompileRequest("/double", "CPU", {}))
        return cls(backend, a_served("double", compiled, **options))

    @property
    def pool(self) -> Pool:
        return self.served.pool

    def finish(self, running: Running) -> None:
        """End the inference that runs, once there is one."""
        running.until(lambda: len(self.backend.compiled[0].running()) > 0)
        self.backend.compiled[0].running()[0].complete()


# Requests


def infer_json(*inputs: Mapping[str, Any], **rest: Any) -> bytes:
    """Return the JSON of an inference request."""
    return orjson.dumps({"inputs": list(inputs), **rest}, option=orjson.OPT_SERIALIZE_NUMPY)


def binary_input(name: str, datatype: str, array: Array) -> dict[str, Any]:
    """Return an input whose bytes follow the JSON."""
    parameters = {"binary_data_size": array.nbytes}
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": parameters}


def post(model: str, body: bytes, *headers: str, json_length: int | None = None, length: int | None = None) -> bytes:
    """Return a whole inference request."""
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", *headers]
    if json_length is not None:
        lines.append(f"Inference-Header-Content-Length: {json_length}")
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


X = np.array([[1, -2, 3.5, 4]], np.float32)


def double_request(*headers: str, id: str | None = None, timeout_us: int | None = None, x: Array = X) -> bytes:  # noqa: A002
    """Return a binary inference request for the model `double`, with a binary answer."""
    parameters: dict[str, Any] = {"binary_data_output": True} | ({"timeout": timeout_us} if timeout_us else {})
    rest = {"parameters": parameters} | ({"id": id} if id else {})
    head = infer_json(binary_input("x", "FP32", x), **rest)
    return post("double", head + x.tobytes(), *headers, json_length=len(head))


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = self.headers.get("inference-header-content-length")
        return orjson.loads(self.body if length is None else self.body[: int(length)])

    @property
    def error(self) -> str:
        return str(self.json["error"])

    @property
    def tail(self) -> bytes:
        """The binary part."""
        return self.body[int(self.headers["inference-header-content-length"]) :]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Wire:
    """A TCP connection that checks that what comes back is HTTP."""

    def __init__(self, port: int, *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_in_pieces(self, data: bytes, size: int = 1) -> Self:
        for start in range(0, len(data), size):
            self.socket.sendall(data[start : start + size])
        return self

    def reply(self, *, head_only: bool = False) -> Reply:
        """Read one answer; fail if it is none."""
        status = self._stream.readline()
        assert status.startswith(b"HTTP/1.1 "), status
        assert status.endswith(b"\r\n"), status
        headers: dict[str, str] = {}
        while (line := self._stream.readline()) != b"\r\n":
            assert line.endswith(b"\r\n"), line
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        code = int(status[9:12])
        length = 0 if head_only or code == 100 else int(headers["content-length"])
        body = self._stream.read(length)
        assert len(body) == length
        return Reply(code, headers, body)

    def ask(self, data: bytes) -> Reply:
        return self.send(data).reply()

    def is_closed(self) -> bool:
        """Wait for the server's end; False if bytes come instead."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True

    def replies_until_closed(self) -> list[Reply]:
        """Read answers until the server closes; fail on anything that is no answer."""
        self.socket.shutdown(socket.SHUT_WR)
        replies = []
        with contextlib.suppress(ConnectionResetError):
            while self._stream.peek(1):
                replies.append(self.reply())
        return replies
