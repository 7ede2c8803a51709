"""The server of gRPC calls by itself: many at a time, their ends in every order, and its own end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from orchestrator.serving.grpc_calls import COMING_S, Call, CallServer, Handler, Refused

DEADLINE_S = 20.0
METHOD = "/test.Service/Call"

Client = Callable[..., grpc.aio.UnaryUnaryCall]


async def echo(message: bytes, _call: Call) -> bytes:
    return message


async def echo_later(message: bytes, _call: Call) -> bytes:
    await asyncio.sleep(0)
    return message


@asynccontextmanager
async def serving(handler: Handler, *, most: int = 4096) -> AsyncIterator[tuple[CallServer, Client]]:
    server = CallServer({METHOD: handler}, [("grpc.so_reuseport", 0)], most=most)
    port = server.listen("127.0.0.1:0")
    server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, channel.unary_unary(METHOD)
    await server.stop(0)


def run(scenario: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, DEADLINE_S))


async def code_of(call: Awaitable[bytes]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.parametrize("handler", [echo, echo_later])
def test_each_of_many_calls_at_once_gets_its_own_answer(handler: Handler) -> None:
    async def scenario() -> None:
        messages = [number.to_bytes(2, "big") * (number % 7 * 5000) for number in range(300)]
        async with serving(handler) as (_, client):
            assert await asyncio.gather(*(client(message) for message in messages)) == messages

    run(scenario())


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_read(compression: grpc.Compression) -> None:
    async def scenario() -> None:
        async with serving(echo) as (_, client):
            assert await client(b"again " * 1000, compression=compression) == b"again " * 1000

    run(scenario())


def test_metadata_goes_both_ways() -> None:
    async def told(_message: bytes, call: Call) -> bytes:
        given = dict(call.invocation_metadata())
        call.set_trailing_metadata((("mine", given["yours"] + call.peer()[:4]),))
        return given["raw-bin"]

    async def scenario() -> None:
        async with serving(told) as (_, client):
            call = client(b"", metadata=(("yours", "seen by "), ("raw-bin", b"\0\xff")))
            assert await call == b"\0\xff"
            assert dict(await call.trailing_metadata())["mine"] == "seen by ipv4"

    run(scenario())


@pytest.mark.parametrize("waits", [False, True])
def test_a_refusal_ends_the_call_with_its_status_details_and_metadata(waits: bool) -> None:
    async def refuse(_message: bytes, _call: Call) -> bytes:
        if waits:
            await asyncio.sleep(0)
        raise Refused(grpc.StatusCode.DATA_LOSS, "naïve: 100 %", (("why", "because"),))

    async def scenario() -> None:
        async with serving(refuse) as (_, client):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client(b"")
        error = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "naïve: 100 %")
        assert dict(error.trailing_metadata())["why"] == "because"

    run(scenario())


@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_that_raises_ends_its_call_and_no_other(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def fragile(message: bytes, _call: Call) -> bytes:
        if waits:
            await asyncio.sleep(0)
        if message == b"bad":
            raise KeyError(message)
        return message

    async def scenario() -> None:
        async with serving(fragile) as (_, client):
            assert await code_of(client(b"bad")) is grpc.StatusCode.INTERNAL
            assert await client(b"good") == b"good"

    run(scenario())
    assert "KeyError" in caplog.text


def test_calls_beyond_the_most_at_a_time_are_refused_and_leave_room_when_they_end() -> None:
    async def scenario() -> None:
        go, both = asyncio.Event(), asyncio.Semaphore(0)

        async def wait(message: bytes, _call: Call) -> bytes:
            both.release()
            await go.wait()
            return message

        async with serving(wait, most=2) as (_, client):
            waiting = [asyncio.ensure_future(client(b"x")) for _ in range(2)]
            for _ in waiting:
                await both.acquire()
            assert await code_of(client(b"one too many")) is grpc.StatusCode.RESOURCE_EXHAUSTED
            go.set()
            assert await asyncio.gather(*waiting) == [b"x", b"x"]
            assert await client(b"y") == b"y"

    run(scenario())


def test_a_gate_ends_calls_before_their_message_and_knows_how_many_are_on_their_way_in() -> None:
    async def scenario() -> None:
        told: list[int] = []
        loop, two = asyncio.get_running_loop(), asyncio.Event()

        def gate(_call: Call, coming: int) -> None:
            told.append(coming)
            if len(told) == 2:
                loop.call_soon_threadsafe(two.set)
            if coming == 2:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (("x-why", "gate"),))

        now = [0.0]
        gates, clock = {METHOD: gate}, lambda: now[0]
        server = CallServer({METHOD: echo}, [("grpc.so_reuseport", 0)], most=64, gates=gates, clock=clock)
        port = server.listen("127.0.0.1:0")
        server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            silent = channel.stream_unary(METHOD)  # calls whose messages do not come
            waiting = [silent() for _ in range(2)]
            await two.wait()
            third = silent()
            assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(await third.trailing_metadata())["x-why"] == "gate"
            now[0] = 2 * COMING_S  # who sends nothing for so long is no more counted, and may go on all the same
            assert await channel.unary_unary(METHOD)(b"z") == b"z"
            for call in waiting:
                await call.write(b"x")
                await call.done_writing()
                assert await call == b"x"
            assert await channel.unary_unary(METHOD)(b"y") == b"y"
        await server.stop(0)
        assert told == [0, 1, 2, 0, 0]

    run(scenario())


def test_what_a_handler_waits_for_may_raise_into_it() -> None:
    async def scenario() -> None:
        broken: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def patient(_message: bytes, _call: Call) -> bytes:
            asyncio.get_running_loop().call_soon(broken.set_exception, OSError("gone"))
            try:
                return await broken
            except OSError as error:
                return str(error).encode()

        async with serving(patient) as (_, client):
            assert await client(b"") == b"gone"

    run(scenario())


def test_a_server_that_stops_cancels_what_outlives_its_grace() -> None:
    async def scenario() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def hang(_message: bytes, _call: Call) -> bytes:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        async with serving(hang) as (server, client):
            call = asyncio.ensure_future(code_of(client(b"")))
            await begun.wait()
            await server.stop(0.01)
            assert cancelled.is_set()
            assert await call in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}

    run(scenario())


def test_servers_come_and_go_under_calls() -> None:
    async def scenario() -> None:
        for _ in range(20):
            async with serving(echo_later) as (server, client):
                assert await client(b"first") == b"first"
                calls = [asyncio.ensure_future(client(b"x")) for _ in range(10)]
                await asyncio.sleep(0)
                await server.stop(0)
                for ended in await asyncio.gather(*calls, return_exceptions=True):
                    assert ended == b"x" or isinstance(ended, grpc.aio.AioRpcError)

    run(scenario())


def test_the_core_knows_what_it_is_told_about_its_event_engine() -> None:
    program = "import tests.serving.test_grpc_calls as t; t.test_metadata_goes_both_ways()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "experiment" not in done.stderr  # `Unknown experiment`: of a grpcio that has it no longer


def test_a_worker_tells_the_core_before_it_is_loaded() -> None:
    program = """
import os, sys
def look(event, given):
    if event == "import" and given[0] == "grpc":
        print(os.environ["GRPC_EXPERIMENTS"])
sys.addaudithook(look)
import orchestrator.serving.process
"""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"} | {"CI": "true"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert done.stdout.split()[0] == "-event_engine_listener"
