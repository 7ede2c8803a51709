"""Mixed load on a deployment that is changed every few seconds, for minutes: no failed request, and nothing leaks."""

from __future__ import annotations

import argparse
import contextlib
import gc
import http.client
import os
import socket
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("CI", "true")

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as triton_shm

from benchmarks.home import Home
from benchmarks.kills import BODY, DIGIT, SAMPLE, GrpcCaller, HttpCaller

PAUSE_S = 0.003  # between the requests of one client: two cores serve, compile and make the load
APPLY_EVERY_S = 4.0
SAMPLE_EVERY_S = 1.0
WARM_UP_SHARE, WARM_UP_MIN_S = 0.25, 20.0
QUIET_S = 3.0  # after the load has ended, for what closes and drains
CALL_TIMEOUT_S = 20.0
GROWTH_MAX_BYTES, GROWTH_MAX_SHARE = 16 * 2**20, 0.05  # of memory, from the end of the warm-up to the end
MORE_MAX = 2  # descriptors, threads, sockets: a change or a scrape may be under way when they are counted
INPUT_BYTES, OUTPUT_BYTES = SAMPLE.nbytes, 40
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Figures:
    """What a process holds."""

    memory: int
    descriptors: int
    threads: int
    sockets: int
    shared: int
    """Mappings of shared memory objects."""


def figures(pid: int) -> Figures:
    """Read what a process holds from /proc."""
    folder = Path(f"/proc/{pid}")
    lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    links = []
    for entry in (folder / "fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    shared = sum("/dev/shm/orch-soak" in line for line in (folder / "maps").read_text().splitlines())
    return Figures(
        memory=int(lines["VmRSS"].split()[0]) * 1024,
        descriptors=len(links),
        threads=int(lines["Threads"]),
        sockets=sum(link.startswith("socket:") for link in links),
        shared=shared + sum("/dev/shm/orch-soak" in link for link in links),
    )


@dataclass
class Count:
    """What one kind of client did: requests that ended as they should, and those that did not."""

    good: int = 0
    failures: list[str] = field(default_factory=list)


class Client:
    """One kind of load: `ask` raises when the request does not end as it should."""

    def __init__(self, name: str, ask: Callable[[], None]) -> None:
        self.name = name
        self.ask = ask


def binary_http(address: str) -> Callable[[], None]:
    """Infer over HTTP with binary tensors."""
    client = tritonclient.http.InferenceServerClient(address, network_timeout=CALL_TIMEOUT_S)
    given = tritonclient.http.InferInput("image", list(SAMPLE.shape), "FP32")
    given.set_data_from_numpy(SAMPLE)

    def ask() -> None:
        answer = client.infer("digits", [given]).as_numpy("probabilities")
        check(answer)

    return ask


def check(answer: np.ndarray[Any, Any] | None) -> None:
    """Raise unless the digit was recognised."""
    if answer is None or int(answer.argmax()) != DIGIT:
        raise RuntimeError("a wrong answer")


def through_shared_memory(address: str) -> Callable[[], None]:
    """Register an object, infer through it, forget it, and remove it: anew for each request."""
    client = tritonclient.http.InferenceServerClient(address, network_timeout=CALL_TIMEOUT_S)

    def ask() -> None:
        key = f"orch-soak-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        handle = triton_shm.create_shared_memory_region(key, key, INPUT_BYTES + OUTPUT_BYTES, create_only=True)
        try:
            triton_shm.set_shared_memory_region(handle, [SAMPLE])
            client.register_system_shared_memory(key, key, INPUT_BYTES + OUTPUT_BYTES)
            given = tritonclient.http.InferInput("image", list(SAMPLE.shape), "FP32")
            given.set_shared_memory(key, INPUT_BYTES)
            wanted = tritonclient.http.InferRequestedOutput("probabilities")
            wanted.set_shared_memory(key, OUTPUT_BYTES, INPUT_BYTES)
            client.infer("digits", [given], outputs=[wanted])
            check(triton_shm.get_contents_as_numpy(handle, np.float32, [1, 10], INPUT_BYTES))
            client.unregister_system_shared_memory(key)
        finally:
            triton_shm.destroy_shared_memory_region(handle)

    return ask


BAD: tuple[tuple[str, bytes, int], ...] = (
    ("/v2/models/digits/infer", b"{", 400),
    ("/v2/models/digits/infer", b'{"inputs": []}', 400),
    ("/v2/models/digits/infer", BODY.replace(b"[1, 1, 8, 8]", b"[1, 1, 9, 9]"), 400),
    ("/v2/models/nobody/infer", BODY, 404),
    ("/nowhere", b"{}", 404),
)


def bad_requests(address: str) -> Callable[[], None]:
    """Send what is refused, in turn, and hold that it is refused as it should be."""
    numbers = iter(range(sys.maxsize))

    def ask() -> None:
        path, body, expected = BAD[next(numbers) % len(BAD)]
        connection = http.client.HTTPConnection(address, timeout=CALL_TIMEOUT_S)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != expected:
            raise RuntimeError(f"{path}: {status}, not {expected}")

    return ask


def gone_clients(address: str) -> Callable[[], None]:
    """Send a request, or half of one, and go away without reading."""
    host, _, port = address.rpartition(":")
    head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    numbers = iter(range(sys.maxsize))

    def ask() -> None:
        data = head + BODY
        with socket.create_connection((host, int(port)), CALL_TIMEOUT_S) as connection:
            connection.sendall(data if next(numbers) % 2 else data[: len(data) // 2])

    return ask


def cancelled_calls(address: str) -> Callable[[], None]:
    """Begin calls over gRPC and cancel them at once; that one ends before it is cancelled is as good."""
    client = tritonclient.grpc.InferenceServerClient(address)
    given = tritonclient.grpc.InferInput("image", list(SAMPLE.shape), "FP32")
    given.set_data_from_numpy(SAMPLE)

    def ask() -> None:
        ended, told = threading.Event(), []

        def done(result: Any, error: InferenceServerException | None) -> None:  # tritonclient names them
            del result
            told.append(error)
            ended.set()

        client.async_infer("digits", [given], done).cancel()
        ended.wait(PAUSE_S)  # tritonclient does not tell of a call that was cancelled in time
        if told and told[0] is not None and "CANCELLED" not in f"{told[0].status()} {told[0]}".upper():
            raise told[0]

    return ask


def clients(endpoint: dict[str, str]) -> list[Client]:
    """Return one client of each kind."""
    address, grpc = endpoint["http"].removeprefix("http://"), endpoint["grpc"]
    return [
        Client("HTTP, binary", binary_http(address)),
        Client("HTTP, JSON", HttpCaller(address)),
        Client("gRPC", GrpcCaller(grpc)),
        Client("shared memory", through_shared_memory(address)),
        Client("bad requests", bad_requests(address)),
        Client("clients that go away", gone_clients(address)),
        Client("cancelled calls", cancelled_calls(grpc)),
    ]


class Load:
    """All kinds of clients at once; each `run` makes them anew and closes them."""

    def __init__(self, endpoint: dict[str, str]) -> None:
        self._endpoint = endpoint
        self.counts: dict[str, Count] = {}

    def run(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """Ask for so long, and call `meanwhile` every SAMPLE_EVERY_S."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(each, stop)) for each in clients(self._endpoint)]
        for thread in threads:
            thread.start()
        try:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                meanwhile()
                time.sleep(SAMPLE_EVERY_S)
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * CALL_TIMEOUT_S)

    def _ask(self, client: Client, stop: threading.Event) -> None:
        count = self.counts.setdefault(client.name, Count())
        while not stop.wait(PAUSE_S):
            try:
                client.ask()
                count.good += 1
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                count.failures.append(f"{client.name}: {type(error).__name__}: {error}"[:300])


class Changes:
    """Applies another number of streams every few seconds, from a thread; a context manager."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.made = 0
        self.failures: list[str] = []

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(APPLY_EVERY_S):
            try:
                self._home.apply(2 - (self.made + 1) % 2)
                self.made += 1
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                self.failures.append(f"apply: {error}"[:500])


@dataclass
class Watched:
    """A process, and what it held: at rest after the warm-up and at the end, and while it worked."""

    name: str
    pid: int
    rest: list[Figures] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def leaks(self) -> list[str]:
        """Return what it holds more of at the end than after the warm-up."""
        first, last = self.rest
        found = [
            f"{self.name}: {name} {before} -> {after}"
            for name in ("descriptors", "threads", "sockets", "shared")
            if (after := getattr(last, name)) > (before := getattr(first, name)) + MORE_MAX
        ]
        before, after = self.busy
        if after - before > max(GROWTH_MAX_BYTES, GROWTH_MAX_SHARE * before):
            found.append(f"{self.name}: memory under load {before / MIB:.1f} -> {after / MIB:.1f} MiB")
        return found

    @property
    def busy(self) -> tuple[float, float]:
        """Return the median of the memory in the first and in the last quarter of the time after the warm-up."""
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[:quarter]), statistics.median(self.memory[-quarter:])


def rest(watched: list[Watched]) -> None:
    """Wait until what closes has closed, and note what each process holds."""
    gc.collect()  # the clients of the load, with their connections
    time.sleep(QUIET_S)
    for each in watched:
        each.rest.append(figures(each.pid))


def soak(home: Home, seconds: float) -> tuple[list[Watched], Load, Changes]:
    """Load, change, and look."""
    status = home.serving()
    watched = [Watched("worker", int(status["worker"]["pid"])), Watched("agent", home.agent_pid())]
    load = Load(status["endpoint"])
    warm_up_s = max(WARM_UP_MIN_S, WARM_UP_SHARE * seconds)
    changes = Changes(home)
    with changes:
        load.run(warm_up_s, lambda: None)
    home.apply(1)  # each rest with the same plan: streams have threads
    rest(watched)

    def look() -> None:
        for each in watched:
            each.memory.append(figures(each.pid).memory)

    more = Changes(home)
    with more:
        load.run(max(WARM_UP_MIN_S, seconds - warm_up_s), look)
    home.apply(1)
    rest(watched)
    more.made += changes.made
    more.failures += changes.failures
    return watched, load, more


def rows(watched: list[Watched]) -> Iterator[str]:
    """Yield the table of what the processes hold."""
    yield f"{'at rest':<10}{'memory MiB':>18}{'descriptors':>16}{'threads':>12}{'sockets':>12}{'shared':>10}"
    for each in watched:
        first, last = each.rest
        memory = f"{first.memory / MIB:.1f} -> {last.memory / MIB:.1f}"
        counts = [f"{getattr(first, name)} -> {getattr(last, name)}" for name in ("descriptors", "threads", "sockets")]
        shared = f"{first.shared} -> {last.shared}"
        yield f"{each.name:<10}{memory:>18}{counts[0]:>16}{counts[1]:>12}{counts[2]:>12}{shared:>10}"
    for each in watched:
        before, after = each.busy
        yield f"{each.name} under load: {before / MIB:.1f} -> {after / MIB:.1f} MiB (medians of first and last quarter)"


def main(arguments: list[str] | None = None) -> int:
    """Print what was asked and what was held; return 1 on a failed request or a leak."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options: Any = parser.parse_args(arguments)
    left_before = set(Path("/dev/shm").glob("orch-soak-*"))
    with Home() as home:
        home.apply()
        watched, load, changes = soak(home, options.minutes * 60)
        restarts = home.status()["worker"]["restarts"]
        bugs = home.worker_log().count("Traceback")
    failures = [text for count in load.counts.values() for text in count.failures] + changes.failures
    leaks = [leak for each in watched for leak in each.leaks()]
    left = set(Path("/dev/shm").glob("orch-soak-*")) - left_before
    leaks += [f"left in shared memory: {path.name}" for path in sorted(left)]
    for name, count in load.counts.items():
        print(f"{name:<22}{count.good:>9} as they should, {len(count.failures)} not")
    print(f"{'changes':<22}{changes.made:>9} made, {len(changes.failures)} not; restarts {restarts}, tracebacks {bugs}")
    print("\n".join(rows(watched)))
    print("\n".join([*failures[:10], *leaks]) or "nothing failed, nothing leaks")
    return 1 if failures or leaks or bugs or restarts else 0


if __name__ == "__main__":
    sys.exit(main())
