"""Infer in a closed loop inside one process, by an AsyncInferQueue or by orch's pool, and print rate and CPU time."""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import numpy as np

from orchestrator.backend.base import Array, CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.runner.check import check
from orchestrator.runner.pool import Outcome, Pool, PoolSettings

WARM_UP_S = 0.5


def made_up(path: Path) -> tuple[Array, ...]:
    """Return seeded random inputs for the model, whose shapes must be static."""
    generator = np.random.default_rng(0)
    info = OpenVinoBackend(()).inspect(str(path), {}, ())
    return tuple(
        generator.standard_normal(tensor.wire_shape).astype(np.float32)
        if tensor.datatype == "FP32"
        else np.ones(tensor.wire_shape, np.int64)
        for tensor in info.inputs
    )


def queue_loop(path: Path, properties: dict[str, str], seconds: float) -> tuple[int, float, float]:
    """Drive openvino.AsyncInferQueue as its documentation shows; return inferences, seconds, CPU seconds."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU", properties)
    inputs = dict(enumerate(made_up(path)))
    ended = 0

    def count(_request: object, _data: object) -> None:
        nonlocal ended
        ended += 1

    queue = ov.AsyncInferQueue(compiled, 0)
    queue.set_callback(count)

    def run(for_s: float) -> tuple[int, float, float]:
        nonlocal ended
        ended, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < for_s:
            queue.start_async(inputs)
        queue.wait_all()
        return ended, time.perf_counter() - began, time.process_time() - cpu

    run(WARM_UP_S)
    return run(seconds)


def pool_loop(
    path: Path, properties: dict[str, str], seconds: float, callers: int, frames: int
) -> tuple[int, float, float]:
    """Drive orch's pool with `callers` requests always under way; return inferences, seconds, CPU seconds."""
    compiled = OpenVinoBackend(()).compile(CompileRequest(str(path), "CPU", properties))
    requests = compiled.actual().optimal_requests
    checked = check(compiled, path.stem)
    pool = Pool(path.stem, compiled, PoolSettings(30.0, 1000, 2**30), requests=requests, service_s=checked.service_s)
    pool.start()
    inputs = [tuple(array.copy() for array in made_up(path)) for _ in range(frames)]
    ended, open_requests, stopping = 0, callers, False
    idle = threading.Event()
    lock = threading.Lock()

    def done(_outcome: Outcome) -> None:
        nonlocal ended, open_requests
        with lock:
            ended += 1
            if stopping:
                open_requests -= 1
                if open_requests == 0:
                    idle.set()
                return
        pool.submit(pool.admit(), inputs[ended % frames], done)

    for caller in range(callers):
        pool.submit(pool.admit(), inputs[caller % frames], done)
    time.sleep(WARM_UP_S)
    before, began, cpu = ended, time.perf_counter(), time.process_time()
    time.sleep(seconds)
    result = ended - before, time.perf_counter() - began, time.process_time() - cpu
    stopping = True
    idle.wait(10)
    pool.close()
    return result


def main() -> None:
    """Run one loop and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=["queue", "pool"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--properties", type=json.loads, default={})
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1, help="different inputs that the pool's callers go through")
    options = parser.parse_args()
    if options.loop == "queue":
        count, seconds, cpu = queue_loop(options.model, options.properties, options.seconds)
    else:
        count, seconds, cpu = pool_loop(
            options.model, options.properties, options.seconds, options.callers, options.frames
        )
    print(json.dumps({"per_s": count / seconds, "cpu_ms": 1000 * cpu / count}))


if __name__ == "__main__":
    main()
