"""Both endpoints over TLS: as good as in clear text, refusing what they must, and rotated while they serve."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme

from orchestrator.planner.plan import EndpointPlan
from orchestrator.serving.credentials import Credentials
from orchestrator.serving.grpc_server import GrpcServer
from orchestrator.serving.http_connection import LINGER_S
from orchestrator.serving.http_gate import HttpLimits
from orchestrator.serving.http_outflow import TlsOutflow
from tests.certificates import Papers, issue
from tests.serving.doubling import DoublingPlane
from tests.serving.http_serving import (
    DEADLINE_S,
    Clock,
    Doubler,
    Running,
    Wire,
    X,
    a_loop,
    double_request,
    get,
    serving,
)

LIVE = get("/v2/health/live")
LIMITS = HttpLimits()
FLOATS = 2**20


class TlsWire(Wire):
    """The same over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(port, **options)
        self._stream.close()
        plain = self.socket
        try:
            self.socket = context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise
        self._stream = self.socket.makefile("rb")

    @property
    def certificate(self) -> bytes:
        """Return what the server showed."""
        assert isinstance(self.socket, ssl.SSLSocket)
        shown = self.socket.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def shown(papers: Papers) -> bytes:
    """Return the certificate as a handshake shows it."""
    return ssl.PEM_cert_to_DER_cert(papers.certificate.read_text())


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def papers(tmp_path: Path, ca: trustme.CA) -> Papers:
    return issue(tmp_path / "live", ca)


@pytest.fixture
def newer(tmp_path: Path, ca: trustme.CA) -> Papers:
    return issue(tmp_path / "newer", ca)


@pytest.fixture(scope="module")
def quick() -> Iterator[Doubler]:
    doubler = Doubler.make(manual=False)
    yield doubler
    doubler.pool.close()


def credentials_of(papers: Papers, client_ca: Path | None = None, **tls: Any) -> Credentials:
    plan = papers.plan(client_ca).model_copy(update=tls)
    return Credentials(EndpointPlan(http="127.0.0.1:0", grpc=None, tls=plan))


def rotate(credentials: Credentials) -> list[str]:
    """Look as often as a change needs."""
    return [note.reason for _ in range(2) for note in credentials.look()]


@contextlib.contextmanager
def encrypted(
    loop: asyncio.AbstractEventLoop, doubler: Doubler, credentials: Credentials, **options: Any
) -> Iterator[Running]:
    with serving(loop, {"double": doubler.served}, tls=credentials.context, **options) as running:
        yield running


# HTTP


def test_every_route_is_answered_as_in_clear_text(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers
) -> None:
    requests = [LIVE, get("/v2"), get("/metrics"), get("/v2/models/double"), double_request(), b"\0\0\r\n\r\n"]
    with serving(loop, {"double": quick.served}) as plain, plain.connect() as wire:
        expected = [wire.ask(request) for request in requests]
    context = papers.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with encrypted(loop, quick, credentials_of(papers)) as running:
        with TlsWire(running.port, context) as wire:
            assert isinstance(wire.socket, ssl.SSLSocket)
            assert wire.socket.selected_alpn_protocol() == "http/1.1"
            assert [wire.ask(request) for request in requests] == expected
            assert wire.is_closed(), "the last request was none"
        running.until(lambda: running.http.connections == 0)


@pytest.fixture(scope="module")
def large() -> Iterator[Doubler]:
    doubler = Doubler.make(manual=False, sizes=(1, FLOATS))
    yield doubler
    doubler.pool.close()


def test_large_bodies_arrive_whole_in_pieces_of_any_size(
    loop: asyncio.AbstractEventLoop, large: Doubler, papers: Papers
) -> None:
    x = np.arange(FLOATS, dtype=np.float32).reshape(1, FLOATS)
    request = double_request(x=x)
    with encrypted(loop, large, credentials_of(papers)) as running, TlsWire(running.port, papers.client()) as wire:
        for size in (len(request), 100_000, 16_385):
            wire.send_in_pieces(request, size)
            assert wire.reply().tail == (x * 2).tobytes()


def test_tritonclient_asks_over_tls_unmodified(loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers) -> None:
    with encrypted(loop, quick, credentials_of(papers)) as running:
        client = tritonclient.http.InferenceServerClient(
            f"localhost:{running.port}", ssl=True, ssl_context_factory=papers.client
        )
        with client:
            given = tritonclient.http.InferInput("x", X.shape, "FP32")
            given.set_data_from_numpy(X)
            assert (client.infer("double", [given]).as_numpy("y") == X * 2).all()
            assert client.is_server_live()


@pytest.mark.parametrize(
    ("oldest", "version", "answered"),
    [
        ("TLSv1.2", ssl.TLSVersion.TLSv1, False),
        ("TLSv1.2", ssl.TLSVersion.TLSv1_1, False),
        ("TLSv1.2", ssl.TLSVersion.TLSv1_2, True),
        ("TLSv1.3", ssl.TLSVersion.TLSv1_2, False),
        ("TLSv1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_versions_below_the_oldest_are_refused(
    loop: asyncio.AbstractEventLoop,
    quick: Doubler,
    papers: Papers,
    oldest: str,
    version: ssl.TLSVersion,
    answered: bool,
) -> None:
    context = papers.client()
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the server who refuses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with encrypted(loop, quick, credentials_of(papers, min_version=oldest)) as running:
        if answered:
            with TlsWire(running.port, context) as wire:
                assert wire.ask(LIVE).status == 200
        else:
            assert not connects(running, context)


def test_a_client_that_trusts_another_authority_goes_away(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers, tmp_path: Path
) -> None:
    stranger = issue(tmp_path / "stranger").client()
    with encrypted(loop, quick, credentials_of(papers)) as running:
        with pytest.raises(ssl.SSLCertVerificationError):
            TlsWire(running.port, stranger)
        with TlsWire(running.port, papers.client()) as wire:
            assert wire.ask(LIVE).status == 200


@pytest.mark.parametrize("said", [LIVE, b"", b"\x16\x03\x01\x40\x00", b"\0" * 70_000])
def test_what_does_not_speak_tls_is_closed_without_a_word(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers, said: bytes
) -> None:
    with encrypted(loop, quick, credentials_of(papers)) as running:
        with running.connect() as wire:
            with contextlib.suppress(ConnectionError):
                wire.send(said)
                wire.socket.shutdown(socket.SHUT_WR)
            wire.socket.settimeout(DEADLINE_S)
            with contextlib.suppress(ConnectionError):
                assert not wire.socket.recv(100).startswith(b"HTTP")
        with TlsWire(running.port, papers.client()) as wire:
            assert wire.ask(LIVE).status == 200


def test_a_handshake_that_is_never_finished_is_cut(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers
) -> None:
    limits = replace(LIMITS, handshake_s=0.2)
    with (
        encrypted(loop, quick, credentials_of(papers), limits=limits) as running,
        running.connect() as silent,
        running.connect() as slow,
    ):
        slow.send(b"\x16\x03\x01\x02\x00\x01")
        assert silent.is_closed()
        assert slow.is_closed()


def test_handshakes_count_as_connections(loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers) -> None:
    # Planted bug that this caught: connections were counted when their handshake was over, so any number could begin.
    limits = replace(LIMITS, connections=2)
    with (
        encrypted(loop, quick, credentials_of(papers), limits=limits) as running,
        TlsWire(running.port, papers.client()) as first,
    ):
        assert first.ask(LIVE).status == 200
        with running.connect() as silent:
            assert not connects(running, papers.client())
            assert first.ask(LIVE).status == 200
            silent.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with until_it_connects(running, papers) as second:
            assert second.ask(LIVE).status == 200


def connects(running: Running, context: ssl.SSLContext) -> bool:
    with contextlib.suppress(OSError), TlsWire(running.port, context):
        return True
    return False


def until_it_connects(running: Running, papers: Papers) -> TlsWire:
    found: list[TlsWire] = []

    def tried() -> bool:
        with contextlib.suppress(OSError):
            found.append(TlsWire(running.port, papers.client()))
        return bool(found)

    for _ in range(1000):
        if tried():
            return found[0]
        running.on_loop(lambda: None)
    raise AssertionError("it did not come about")


def test_a_client_that_never_reads_is_cut_and_one_that_reads_slowly_is_not(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers
) -> None:
    # Planted bug that this caught: what is encrypted already was not seen, as it waits in the transport below.
    page, clock = b"x" * 8_000_000, Clock()
    options: dict[str, Any] = {"clock": clock, "metrics": lambda _accept: (page, "x")}

    def later(running: Running) -> None:
        clock.now += 9
        running.on_loop(running.http.sweep)

    def slowly(wire: TlsWire, running: Running) -> int:
        received = 0
        while received < len(page) and (piece := wire._stream.read(min(300_000, len(page) - received))):
            received += len(piece)
            later(running)
        return received

    with encrypted(loop, quick, credentials_of(papers), **options) as running:
        for headers in ((), ("Connection: close",)):
            with TlsWire(running.port, papers.client(), receive_bytes=65536) as wire:
                wire.send(get("/metrics", *headers))
                assert slowly(wire, running) >= len(page), "whole, also where the connection is closed behind it"
        running.until(lambda: running.http.connections == 0)
        with TlsWire(running.port, papers.client(), receive_bytes=65536) as wire:
            wire.send(get("/metrics"))
            wire.socket.recv(1)
            for _ in range(4):
                later(running)
            running.until(lambda: running.http.connections == 0)


class GoneTransport(asyncio.Transport):
    """A connection that has ended, before its protocol hears of it."""

    def get_write_buffer_size(self) -> int:
        return 0


def test_a_connection_that_is_gone_takes_no_answers() -> None:
    # Seen under load: a sweep between the end of a connection and the call that tells of it.
    assert TlsOutflow().stalled_s(GoneTransport(), 1.0) is None


def test_an_idle_connection_is_closed_although_its_client_says_nothing_to_it(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers
) -> None:
    clock = Clock()

    def leaving() -> bool:
        clock.now += 76
        running.http.sweep()
        return any(each._transport.is_closing() for each in running.http._shared.connections)

    def gone() -> bool:
        clock.now += LINGER_S + 1
        running.http.sweep()
        return running.http.connections == 0

    with (
        encrypted(loop, quick, credentials_of(papers), clock=clock) as running,
        TlsWire(running.port, papers.client()) as wire,
    ):
        assert wire.ask(LIVE).status == 200
        running.until(leaving)
        running.until(gone)


# Rotation


def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers, newer: Papers
) -> None:
    credentials = credentials_of(papers)
    first, context = shown(papers), papers.client()
    with encrypted(loop, quick, credentials) as running, TlsWire(running.port, context) as old:
        assert (old.certificate, old.ask(LIVE).status) == (first, 200)
        papers.take(newer)
        assert rotate(credentials) == ["CertificateRotated"]
        with TlsWire(running.port, context) as new:
            assert (new.certificate, new.ask(double_request()).status) == (shown(newer), 200)
        assert old.ask(double_request()).status == 200
        papers.key.write_text("broken")
        assert rotate(credentials) == ["CertificateKept"]
        with TlsWire(running.port, context) as new:
            assert (new.certificate, new.ask(LIVE).status) == (shown(newer), 200)


def test_only_clients_with_a_certificate_of_the_present_authority_are_answered(
    loop: asyncio.AbstractEventLoop, quick: Doubler, papers: Papers, tmp_path: Path, ca: trustme.CA
) -> None:
    one, other = issue(tmp_path / "one"), issue(tmp_path / "other")
    trusted = tmp_path / "clients.crt"
    trusted.write_bytes(one.ca.read_bytes())
    credentials = credentials_of(papers, trusted)

    def answered(client: Papers | None) -> bool:
        # With TLS 1.3 a client learns of it when it reads.
        with contextlib.suppress(OSError), TlsWire(running.port, papers.client(client)) as wire:
            wire.send(LIVE)
            return wire._stream.readline().startswith(b"HTTP/1.1 200")
        return False

    with encrypted(loop, quick, credentials) as running:
        assert [answered(client) for client in (None, one, other)] == [False, True, False]
        trusted.write_bytes(other.ca.read_bytes())
        assert rotate(credentials) == ["CertificateRotated"]
        assert [answered(client) for client in (None, one, other)] == [False, False, True]


# gRPC


@contextlib.contextmanager
def over_grpc(loop: asyncio.AbstractEventLoop, credentials: Credentials) -> Iterator[str]:
    async def begin() -> tuple[GrpcServer, int]:
        server = GrpcServer(DoublingPlane(), "127.0.0.1:0", tls=credentials.identity)
        return server, await server.start()

    server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(DEADLINE_S)
    try:
        yield f"localhost:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(DEADLINE_S)


def is_live(address: str, papers: Papers, client: Papers | None = None) -> bool:
    """Ask on a connection of its own, as gRPC shares connections that are made alike."""
    key, chain = (None, None) if client is None else (client.key.read_bytes(), client.certificate.read_bytes())
    given = grpc.ssl_channel_credentials(papers.ca.read_bytes(), key, chain)
    with grpc.secure_channel(address, given, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        try:
            return bool(call(b"", timeout=DEADLINE_S) == b"\x08\x01")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - what else it may be is a failure
            return False


def test_grpc_is_answered_over_tls_to_who_trusts_the_certificate(
    loop: asyncio.AbstractEventLoop, papers: Papers, tmp_path: Path
) -> None:
    with over_grpc(loop, credentials_of(papers)) as address:
        client = tritonclient.grpc.InferenceServerClient(address, ssl=True, root_certificates=str(papers.ca))
        with client:
            given = tritonclient.grpc.InferInput("x", [1, 2], "FP32")
            given.set_data_from_numpy(np.ones((1, 2), np.float32))
            assert client.infer("double-FP32", [given]).as_numpy("y").tolist() == [[2, 2]]
        assert is_live(address, papers)
        assert not is_live(address, issue(tmp_path / "stranger"))


def test_grpc_takes_up_a_new_certificate_and_old_connections_go_on(
    loop: asyncio.AbstractEventLoop, papers: Papers, tmp_path: Path
) -> None:
    credentials, elsewhere = credentials_of(papers), issue(tmp_path / "elsewhere")
    first = Papers(tmp_path / "first")
    first.folder.mkdir()
    first.ca.write_bytes(papers.ca.read_bytes())
    with over_grpc(loop, credentials) as address:
        given = grpc.ssl_channel_credentials(first.ca.read_bytes())
        with grpc.secure_channel(address, given) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert call(b"", timeout=DEADLINE_S) == b"\x08\x01"
            papers.take(elsewhere)
            assert rotate(credentials) == ["CertificateRotated"]
            assert (is_live(address, first), is_live(address, elsewhere)) == (False, True)
            assert call(b"", timeout=DEADLINE_S) == b"\x08\x01"


def test_grpc_asks_clients_for_certificates_of_the_present_authority(
    loop: asyncio.AbstractEventLoop, papers: Papers, tmp_path: Path
) -> None:
    one, other = issue(tmp_path / "one"), issue(tmp_path / "other")
    trusted = tmp_path / "clients.crt"
    trusted.write_bytes(one.ca.read_bytes())
    credentials = credentials_of(papers, trusted)
    with over_grpc(loop, credentials) as address:
        assert [is_live(address, papers, client) for client in (None, one, other)] == [False, True, False]
        trusted.write_bytes(other.ca.read_bytes())
        assert rotate(credentials) == ["CertificateRotated"]
        assert [is_live(address, papers, client) for client in (None, one, other)] == [False, False, True]
