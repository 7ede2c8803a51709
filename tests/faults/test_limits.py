"""Descriptors, connections, memory and disk run out: who is served goes on being served, and all is well afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from tests.faults.at_fault import HERE, SimulatedWorker, descriptors, eventually, limited, memory_bytes, port
from tests.serving.http_serving import Wire, double_request, get

IDLE = 10_000
BYTES_EACH = 20_000  # of an idle connection, at most
MIB = 2**20


@contextmanager
def idle_clients(at: int, count: int) -> Iterator[int]:
    """Hold connections open from another process; give how many."""
    command = [sys.executable, str(HERE / "idle_clients.py"), str(at), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        try:
            assert clients.stdout is not None
            yield int(clients.stdout.readline())
        finally:
            clients.kill()


def test_ten_thousand_idle_connections_cost_little_memory_and_no_request(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state") as worker:
        pid, at = worker.process.pid, port(worker.until_state("Serving"))
        with Wire(at) as wire:
            assert wire.ask(double_request()).status == 200
            open_before, memory_before = descriptors(pid), memory_bytes(pid, "VmRSS")
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            wanted = IDLE if hard == resource.RLIM_INFINITY or hard > 2 * IDLE else min(IDLE, hard // 2)
            with idle_clients(at, wanted) as count:
                assert count == wanted
                eventually(lambda: descriptors(pid) >= open_before + count, "they are accepted")
                assert [wire.ask(double_request()).status for _ in range(20)] == [200] * 20
                with Wire(at) as late:
                    assert late.ask(get("/v2/health/ready")).status == 200
                assert memory_bytes(pid, "VmRSS") - memory_before < count * BYTES_EACH
            eventually(lambda: descriptors(pid) <= open_before + 2, "their descriptors are given back")
            assert wire.ask(double_request()).status == 200


def test_without_descriptors_those_connected_are_served_and_others_once_there_are_some(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state") as worker, ExitStack() as stack:
        pid, at = worker.process.pid, port(worker.until_state("Serving"))
        wires = [stack.enter_context(Wire(at)) for _ in range(5)]
        assert {wire.ask(double_request()).status for wire in wires} == {200}
        with limited(pid, resource.RLIMIT_NOFILE, descriptors(pid) + 2), ExitStack() as crowd:
            for _ in range(20):
                crowd.enter_context(Wire(at))
            for _ in range(10):
                assert {wire.ask(double_request()).status for wire in wires} == {200}
        with Wire(at) as late:
            assert late.ask(double_request()).status == 200
        assert worker.call("status")["ready"]


def test_a_request_for_which_there_is_no_memory_is_refused_alone(tmp_path: Path) -> None:
    with SimulatedWorker(tmp_path / "state") as worker:
        pid, at = worker.process.pid, port(worker.until_state("Serving"))
        huge = np.zeros((1, 12 * MIB), np.float32)
        with Wire(at) as wire:
            assert wire.ask(double_request()).status == 200
            with limited(pid, resource.RLIMIT_AS, memory_bytes(pid, "VmSize") + 16 * MIB), Wire(at) as greedy:
                refused = greedy.ask(double_request(x=huge))
                assert refused.status == 503, refused.body
                assert wire.ask(double_request()).status == 200
            assert wire.ask(double_request()).status == 200
        assert worker.call("status")["ready"]
