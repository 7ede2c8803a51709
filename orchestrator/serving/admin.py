"""The control protocol between CLI, agent and workers: one JSON object a line over a unix socket.

A call is one line `{"method": ..., "params": {...}}`; the answer is any number of `{"progress": {...}}` lines and then
one `{"result": ...}` or `{"error": {...}}` line, after which the server closes. Sockets are 0600: who may connect may
do everything.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Kind, OrchError, Problem

if TYPE_CHECKING:
    import asyncio

LINE_LIMIT_BYTES = 64 * 2**20  # a manifest may hold 256 models, a plan with its reasons is larger still
REQUEST_TIMEOUT_S = 10.0  # to read the one request line; callers are local
CONNECT_TIMEOUT_S = 1.0  # a caller's loop waits for it; only a process that accepts nothing makes it long
SOCKET_PATH_MAX = 100  # bytes; the kernel takes 108
Json = dict[str, Any]
Progress = Callable[[Json], Awaitable[None]]
Method = Callable[[Json, Progress], Awaitable[Any]]


def error_to_json(error: OrchError) -> Json:
    """Return the error as it crosses the socket."""
    problems = [{"what": p.what, "where": p.where, "hint": p.hint} for p in error.problems]
    return {"kind": error.kind.value, "problems": problems}


def error_from_json(data: Json) -> OrchError:
    """Return the error that crossed the socket."""
    return OrchError(Kind(data["kind"]), [Problem(**problem) for problem in data["problems"]])


def call(path: Path, method: str, params: Json | None = None, *, timeout_s: float) -> Any:
    """Call and return the result, ignoring progress; raise the server's OrchError, or UNAVAILABLE."""
    for kind, value in stream(path, method, params, timeout_s=timeout_s):
        if kind == "result":
            return value
    raise AssertionError("stream() ends in a result or raises")


def stream(path: Path, method: str, params: Json | None = None, *, timeout_s: float) -> Iterator[tuple[str, Any]]:
    """Yield `("progress", {...})` as they come and `("result", value)` last; `timeout_s` bounds each silence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            _connect(connection, path)
            connection.sendall(_line({"method": method, "params": params or {}}))
            with connection.makefile("rb") as lines:
                yield from _answers(lines.readline, path, method)
        except TimeoutError:
            raise OrchError(Kind.DEADLINE, f"no answer to {method} within {timeout_s:g} s", where=str(path)) from None
        except OSError as error:
            raise OrchError(
                Kind.UNAVAILABLE, f"cannot reach the process: {error.strerror or error}", where=str(path)
            ) from None


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect, by way of /proc/self/fd where the path is longer than a socket address may be (108 bytes)."""
    if len(os.fsencode(path)) < SOCKET_PATH_MAX:
        connection.connect(str(path))
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _answers(readline: Callable[[int], bytes], path: Path, method: str) -> Iterator[tuple[str, Any]]:
    while True:
        line = readline(LINE_LIMIT_BYTES)
        if not line.endswith(b"\n"):
            raise OrchError(Kind.UNAVAILABLE, f"the process ended during {method}", where=str(path))
        answer = json.loads(line)
        if "error" in answer:
            raise error_from_json(answer["error"])
        if "result" in answer:
            yield "result", answer["result"]
            return
        yield "progress", answer["progress"]


def _line(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


async def acall(path: Path, method: str, params: Json | None = None, *, timeout_s: float) -> Any:
    """Call from a coroutine, as `call` does; the whole call is bounded by `timeout_s`."""
    import asyncio  # costs 60 ms that the command line does not have

    result: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            async for kind, value in astream(path, method, params):
                if kind == "result":
                    result = value
    except TimeoutError:
        raise OrchError(Kind.DEADLINE, f"no answer to {method} within {timeout_s:g} s", where=str(path)) from None
    return result


async def astream(path: Path, method: str, params: Json | None = None) -> AsyncIterator[tuple[str, Any]]:
    """Yield progress and the result; the caller bounds the time."""
    import asyncio  # as above

    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_TIMEOUT_S)
            _connect(connection, path)  # at once: the kernel takes it into the backlog, or refuses
            connection.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT_BYTES)
        except OSError:
            connection.close()
            raise
    except OSError as error:
        raise OrchError(
            Kind.UNAVAILABLE, f"cannot reach the process: {error.strerror or error}", where=str(path)
        ) from None
    try:
        writer.write(_line({"method": method, "params": params or {}}))
        await writer.drain()
        while True:
            line = await reader.readline()
            for kind, value in _answers(lambda _limit, line=line: line, path, method):  # type: ignore[misc]
                yield kind, value
                if kind == "result":
                    return
                break
    except (ConnectionError, ValueError) as error:
        raise OrchError(Kind.UNAVAILABLE, f"the process ended during {method}: {error}", where=str(path)) from None
    finally:
        writer.close()


async def serve(
    path: Path, methods: Mapping[str, Method], *, on_bug: Callable[[BaseException], None]
) -> asyncio.Server:
    """Listen on `path` (0600, replacing a stale socket) and answer with `methods`; close the server to stop."""
    import asyncio  # as above

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(reader, writer, methods, on_bug)
        except (ConnectionError, TimeoutError, asyncio.CancelledError, ValueError):
            pass  # the caller went away, or sent no line: nobody is left to tell
        finally:
            writer.close()

    return await asyncio.start_unix_server(connected, sock=bind(path), limit=LINE_LIMIT_BYTES)


def bind(path: Path) -> socket.socket:
    """Return a unix socket bound to `path` (0600, replacing a stale one), however long the path is."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        os.fchmod(bound.fileno(), 0o600)  # Linux gives the file the mode that the socket has; umask is not ours alone
        bound.bind(f"/proc/self/fd/{folder}/{path.name}" if len(os.fsencode(path)) >= SOCKET_PATH_MAX else str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.close(folder)
    bound.setblocking(False)
    return bound


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    methods: Mapping[str, Method],
    on_bug: Callable[[BaseException], None],
) -> None:
    import asyncio  # as above

    async def progress(value: Json) -> None:
        writer.write(_line({"progress": value}))
        await writer.drain()

    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        line = await reader.readline()
    if not line:
        return
    try:
        answer = {"result": await _run(line, methods, progress)}
    except OrchError as error:
        answer = {"error": error_to_json(error)}
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 - the one boundary of this server
        on_bug(error)
        answer = {"error": error_to_json(OrchError(Kind.INTERNAL, f"{type(error).__name__}: {error}"))}
    writer.write(_line(answer))
    await writer.drain()


async def _run(line: bytes, methods: Mapping[str, Method], progress: Progress) -> Any:
    try:
        request = json.loads(line)
        method, params = methods[request["method"]], request["params"]
    except (ValueError, KeyError, TypeError):
        raise OrchError(Kind.INVALID, f"not a call this process knows: {line[:200]!r}") from None
    return await method(params, progress)
