"""What gRPC's own library makes of GRPC_SERVICE_CONFIG: unmodified tritonclient against a server that is full."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from orchestrator.client import GRPC_SERVICE_CONFIG
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.grpc_server import GrpcServer
from tests.serving.doubling import DoublingPlane

END_S = 20.0
CONFIG = [("grpc.service_config", GRPC_SERVICE_CONFIG)]


class Full(DoublingPlane):
    """Refuses the first calls, as many as it is told to."""

    refusals = 0

    def admit(self, *arguments: object, **options: object) -> object:
        """Refuse, or take a place."""
        self.refusals -= 1
        self.refusal = OrchError(Kind.OVERLOADED, "queue full", retry_after_s=0.003) if self.refusals >= 0 else None
        return super().admit(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def plane() -> Full:
    return Full()


@pytest.fixture
def client(plane: Full) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[GrpcServer, int]:
        server = GrpcServer(plane, "127.0.0.1:0")
        return server, await server.start()

    server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(END_S)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}", channel_args=CONFIG) as client:
        yield client
    asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(END_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(END_S)
    loop.close()


def infer(client: tritonclient.grpc.InferenceServerClient) -> list[float]:
    given = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.ones((1, 2), np.float32))
    return client.infer("double-FP32", [given], client_timeout=END_S).as_numpy("y").ravel().tolist()


def test_a_refused_call_is_sent_again(plane: Full, client: tritonclient.grpc.InferenceServerClient) -> None:
    plane.refusals = 1
    assert infer(client) == [2.0, 2.0]
    assert len(plane.timeouts) == 2


def test_many_refused_calls_make_few_retries(plane: Full, client: tritonclient.grpc.InferenceServerClient) -> None:
    plane.refusals = 10_000
    for _ in range(100):
        with pytest.raises(InferenceServerException, match="queue full"):
            infer(client)
    assert len(plane.timeouts) <= 100 + 2
