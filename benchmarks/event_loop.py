"""How long others wait while a worker is busy with long JSON, or flooded: health asked back to back from outside.

    python -m benchmarks.event_loop

Three runs each of: nothing else; one caller with 2 MB of JSON there and back, read and written at once; the same in
pieces; and 64 callers of a model that carries a tenth of what they ask for, in a worker of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

import numpy as np
import orjson

from benchmarks.reload_under_load import a_plan
from orchestrator.serving import admin

VALUES = 170_000  # about 2 MB of JSON
FLOODERS = 64
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
HEALTH = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
START = """
import sys
from orchestrator.serving import http_infer
from orchestrator.serving.__main__ import main
if {at_once}:
    http_infer.LONG_BYTES = http_infer.LONG_VALUES = 10**12
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def worker(model: str, folder: Path, *, at_once: bool = False, **spec: object) -> Iterator[int]:
    """Run a worker; yield its HTTP port."""
    plan = a_plan(model, folder, {"streams": 1, "threads": 1}, **spec)
    state = Path(tempfile.mkdtemp(dir=folder))
    (state / "plan.json").write_text(plan.model_dump_json())
    command = [sys.executable, "-c", START.format(at_once=at_once), "--state", str(state), "--generation", "1"]
    command += ["--plan", str(state / "plan.json")]
    with (state / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _port(state / "control.sock")
    finally:
        process.terminate()
        process.wait(CALL_TIMEOUT_S)


def _port(control: Path) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            status = admin.call(control, "status", timeout_s=CALL_TIMEOUT_S)
            if status["state"] == "Serving":
                return int(status["endpoint"]["http"].rpartition(":")[2])
        time.sleep(0.1)
    raise TimeoutError("the worker does not serve")


class Wire:
    """A connection that sends bytes and reads whole answers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), CALL_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", 2**20)

    def ask(self, request: bytes) -> int:
        """Return the status of the answer."""
        self._socket.sendall(request)
        status = int(self._stream.readline()[9:12])
        length = 0
        while (line := self._stream.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        self._stream.read(length)
        return status

    def close(self) -> None:
        """Close."""
        self._stream.close()
        self._socket.close()


def a_request(**given: object) -> bytes:
    """Return a JSON inference request."""
    body = orjson.dumps({"inputs": [given]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def probe(port: int, seconds: float, load: Callable[[threading.Event], None] | None) -> list[float]:
    """Return the milliseconds that health took, asked back to back while the load runs."""
    ended = threading.Event()
    thread = None if load is None else threading.Thread(target=load, args=(ended,))
    if thread is not None:
        thread.start()
    wire, took = Wire(port), []
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        began = time.perf_counter()
        assert wire.ask(HEALTH) == 200
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(0.0005)
    wire.close()
    ended.set()
    if thread is not None:
        thread.join()
    return took


def one_caller(port: int, request: bytes, counts: dict[int, int]) -> Callable[[threading.Event], None]:
    """Return a load of one caller that waits for each answer."""

    def load(ended: threading.Event) -> None:
        wire = Wire(port)
        while not ended.is_set():
            status = wire.ask(request)
            counts[status] = counts.get(status, 0) + 1
        wire.close()

    return load


FLOOD = """
import sys, threading
from benchmarks.event_loop import flood
flood(int(sys.argv[1]), float(sys.argv[2]))
"""


def flood(port: int, seconds: float) -> None:
    """Let many callers ask a slow model, and print how it answered; in a process of its own."""
    ids = {"name": "input_ids", "datatype": "INT64", "shape": [1, 128], "data": [1] * 128}
    mask = {"name": "attention_mask", "datatype": "INT64", "shape": [1, 128], "data": [1] * 128}
    body = orjson.dumps({"inputs": [ids, mask]})
    head = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    ended = threading.Event()
    counts: dict[int, int] = {}
    threads = [threading.Thread(target=one_caller(port, head + body, counts), args=(ended,)) for _ in range(FLOODERS)]
    for thread in threads:
        thread.start()
    ended.wait(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    print(", ".join(f"{count / seconds:,.0f}/s answered {status}" for status, count in sorted(counts.items())))


def a_flood(port: int, seconds: float) -> Callable[[threading.Event], None]:
    """Return the load of another process."""

    def load(ended: threading.Event) -> None:
        del ended
        subprocess.run([sys.executable, "-c", FLOOD, str(port), str(seconds)], check=True)

    return load


def told(name: str, took: list[float]) -> None:
    """Print one line of the table."""
    ordered = sorted(took)
    p99 = ordered[int(0.99 * len(ordered))]
    print(f"| {name} | {statistics.median(took):.2f} | {p99:.2f} | {ordered[-1]:.1f} | {len(took)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    numbers = np.random.default_rng(1).random(VALUES).astype(np.float32)
    request = a_request(name="data", datatype="FP32", shape=[1, VALUES], data=numbers)
    print(f"a request of {len(request) / 1e6:.1f} MB; milliseconds of health: median, p99, longest, asked")
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.rounds):
            for at_once, words in ((True, "JSON at once"), (False, "JSON in pieces")):
                with worker("identity_fp32", Path(name), at_once=at_once) as port:
                    if at_once:
                        told("nothing else", probe(port, options.seconds, None))
                    counts: dict[int, int] = {}
                    took = probe(port, options.seconds, one_caller(port, request, counts))
                    told(f"{words}, {counts.get(200, 0) / options.seconds:.0f}/s", took)
                    assert counts.keys() == {200}, counts
            slo = {"latency": "100ms"}
            with worker("bert_small", Path(name), slo=slo) as port:
                told("flood", probe(port, options.seconds, a_flood(port, options.seconds)))


if __name__ == "__main__":
    main()
