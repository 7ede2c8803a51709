"""Compare requests through shared memory with the in-process pool and with tensors in the body, interleaved in rounds.

    python -m benchmarks.shared_memory --model mobilenet_v2 --rounds 5

Needs `wrk` and `h2load`, as benchmarks.serving does. Eight callers go through eight frames in shared memory, as a few
cameras would; the outputs are written there too. The pool's callers go through as many frames of their own. CPU is the
server's; what a client saves comes on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks import serving, topologies
from benchmarks.inprocess import made_up
from benchmarks.serving import HTTP, Result, Setup, Worker
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.serving.oip_messages import ModelInferRequest

FRAMES = 8
OUTPUT_BYTES = 64 * 1024
REGION = "frames"
POOL = "orch pool, in process"


class Frames:
    """An object in shared memory: FRAMES times the inputs of a request and room for each output."""

    def __init__(self, path: Path) -> None:
        """Create and fill it."""
        info = OpenVinoBackend(()).inspect(str(path), {}, ())
        self.inputs, self.outputs = info.inputs, info.outputs
        self.arrays = made_up(path)
        self.stride = sum(array.nbytes for array in self.arrays) + OUTPUT_BYTES * len(self.outputs)
        self.memory = SharedMemory(create=True, size=self.stride * FRAMES)
        for frame in range(FRAMES):
            for _, array, offset in self.placed(frame):
                self.memory.buf[offset : offset + array.nbytes] = array.tobytes()

    def placed(self, frame: int) -> Iterator[tuple[Any, Any, int]]:
        """Yield each input's description, array and offset in one frame."""
        offset = frame * self.stride
        for tensor, array in zip(self.inputs, self.arrays, strict=True):
            yield tensor, array, offset
            offset += array.nbytes

    def outputs_placed(self, frame: int) -> Iterator[tuple[Any, int]]:
        """Yield each output's description and offset in one frame."""
        offset = frame * self.stride + sum(array.nbytes for array in self.arrays)
        for tensor in self.outputs:
            yield tensor, offset
            offset += OUTPUT_BYTES

    def close(self) -> None:
        """Remove it."""
        self.memory.close()
        self.memory.unlink()


def parameters(offset: int, size: int) -> dict[str, Any]:
    """Return what names a place in the region."""
    return {"shared_memory_region": REGION, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def http_body(frames: Frames, frame: int) -> str:
    """Return one request's JSON."""
    inputs = [
        {"name": t.name, "shape": a.shape, "datatype": t.datatype, "parameters": parameters(offset, a.nbytes)}
        for t, a, offset in frames.placed(frame)
    ]
    outputs = [
        {"name": t.name, "parameters": parameters(offset, OUTPUT_BYTES)} for t, offset in frames.outputs_placed(frame)
    ]
    return json.dumps({"inputs": inputs, "outputs": outputs})


def grpc_body(frames: Frames) -> bytes:
    """Return one request as h2load's data: a gRPC message with its prefix."""
    request = ModelInferRequest(model_name="model")
    for tensor, array, offset in frames.placed(0):
        given = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        _place(given, offset, array.nbytes)
    for tensor, offset in frames.outputs_placed(0):
        _place(request.outputs.add(name=tensor.name), offset, OUTPUT_BYTES)
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _place(message: Any, offset: int, size: int) -> None:
    for name, value in parameters(offset, size).items():
        parameter = message.parameters[name]
        if isinstance(value, str):
            parameter.string_param = value
        else:
            parameter.int64_param = value


def write_bodies(setup: Setup, frames: Frames) -> None:
    """Write requests as wrk's script and as h2load's data."""
    setup.folder.mkdir()
    bodies = [http_body(frames, frame) for frame in range(FRAMES)]
    (setup.folder / "bodies.json").write_text(json.dumps(bodies))
    lines = [f"bodies[{number}] = {json.dumps(body)}" for number, body in enumerate(bodies)]
    (setup.folder / "infer.lua").write_text(
        "local bodies, requests, next = {}, {}, 0\n"
        + "\n".join(lines)
        + "\ninit = function()\n"
        + f"  for i = 0, {FRAMES - 1} do requests[i] = wrk.format('POST', nil, nil, bodies[i]) end\nend\n"
        + f"request = function() next = (next + 1) % {FRAMES}; return requests[next] end\n"
    )
    (setup.folder / "grpc").write_bytes(grpc_body(frames))


def post(path: str, body: str) -> None:
    """Ask the worker for what belongs to its regions."""
    request = Request(f"http://{HTTP}/v2/systemsharedmemory/{path}", body.encode(), method="POST")
    with urlopen(request, timeout=10):
        pass


@contextmanager
def registered(setup: Setup, frames: Frames | None) -> Iterator[Worker]:
    """Run a worker that knows the frames."""
    worker = Worker(setup)
    try:
        if frames is not None:
            body = json.dumps({"key": frames.memory.name, "offset": 0, "byte_size": frames.stride * FRAMES})
            post("unregister", "")  # the worker before has left it to this one
            post(f"region/{REGION}/register", body)
        yield worker
    finally:
        worker.stop()


def measure(setup: Setup, load: Callable[[Setup], float], frames: Frames | None, state: Path) -> Result:
    """Return rate and the worker's CPU time a request; `setup.folder` holds the requests."""
    with registered(replace(setup, folder=state), frames) as worker:
        load(replace(setup, seconds=1.0))  # warm up
        return serving.served(worker, lambda: load(setup), setup.seconds)


def compare(setup: Setup, frames: Frames, rounds: int, seed: int) -> dict[str, list[Result]]:
    """Return every contender's results, round by round."""
    shared = replace(setup, folder=setup.folder / "shared")
    write_bodies(shared, frames)
    state = setup.folder / "state"
    state.mkdir()
    contenders: list[tuple[str, Callable[[], Result]]] = [
        (POOL, lambda: serving.in_process(setup, "pool", setup.properties, "--frames", str(FRAMES))),
        ("HTTP, tensors in the body", lambda: measure(setup, serving.wrk, None, state)),
        ("HTTP, shared memory", lambda: measure(shared, serving.wrk, frames, state)),
        ("gRPC, tensors in the message", lambda: measure(setup, serving.h2load, None, state)),
        ("gRPC, shared memory", lambda: measure(shared, serving.h2load, frames, state)),
    ]
    results: dict[str, list[Result]] = {name: [] for name, _ in contenders}
    order = random.Random(seed)
    for number in range(rounds):
        order.shuffle(contenders)
        for name, run in contenders:
            results[name].append(result := run())
            text = f"{result['per_s']:.0f}/s, {result['cpu_ms']:.3f} ms CPU"
            print(f"round {number + 1}: {name}: {text}", file=sys.stderr)
    return results


def table(results: dict[str, list[Result]]) -> str:
    """Return Markdown: medians, and medians over rounds of each round's ratios to the pool, smallest and largest."""
    lines = ["| | per second | rate to the pool's | CPU ms a request | CPU to the pool's |", "|---|---|---|---|---|"]
    for name, runs in results.items():
        cells = []
        for key in ("per_s", "cpu_ms"):
            ratios = [run[key] / base[key] for run, base in zip(runs, results[POOL], strict=True)]
            cells.append(f"{statistics.median(run[key] for run in runs):.{0 if key == 'per_s' else 2}f}")
            cells.append(f"{statistics.median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=topologies.NAMES, default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for program in ("wrk", "h2load"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install wrk nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as name:
        folder = Path(name)
        cpus = len(os.sched_getaffinity(0))
        properties = {"NUM_STREAMS": str(cpus), "INFERENCE_NUM_THREADS": str(cpus), "ENABLE_CPU_PINNING": "NO"}
        path = topologies.save(options.model, folder)
        setup = Setup(options.model, path, folder, properties, options.seconds, options.connections)
        serving.write_bodies(setup)
        frames = Frames(path)
        try:
            results = compare(setup, frames, options.rounds, options.seed)
        finally:
            frames.close()
    when = datetime.now(UTC).date().isoformat()
    print(
        f"{options.model}, {options.connections} callers, {options.rounds} rounds of {options.seconds:g} s, {when}, ",
        end="",
    )
    print(f"{cpus} cores, {platform.processor() or platform.machine()}\n\n{table(results)}")


if __name__ == "__main__":
    main()
