"""Measure one arm in a process of its own: compile, warm up, then run closed-loop blocks on request.

The one place to change when the planner's own bench is to take the samples.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.profiling.host_counters import Snapshot, between, snapshot
from orchestrator.profiling.measurement import Arm, Host, ReadBack

STALL_S: Final = 60.0  # an inference that takes longer hangs
COMPILE_S: Final = 120.0
BLOCK_INFERENCES: Final = 8  # a block is at least so many inferences long
BLOCK_MAX_S: Final = 0.8


@dataclass(frozen=True)
class Opened:
    """A compiled arm that is warm."""

    actual: ReadBack
    compile_s: float
    memory_bytes: int
    alone_s: float


@dataclass(frozen=True)
class Measured:
    """One closed-loop block."""

    seconds: float
    completed: int
    service_s: list[float]
    host: Host


class Sampler:
    """The parent's end of a measuring process; close it, or use it in a `with`."""

    def __init__(self, model: Path, arm: Arm) -> None:
        environment = {**os.environ, "CI": "true"}  # keeps OpenVINO's telemetry off
        command = [sys.executable, "-m", "benchmarks.planner.sampler"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        try:
            answer = self._ask({"model": str(model), "arm": arm.model_dump()})
        except BaseException:
            self.close()
            raise
        self.opened = Opened(
            ReadBack.model_validate(answer["actual"]), answer["compile_s"], answer["memory_bytes"], answer["alone_s"]
        )

    def block(self, concurrency: int, seconds: float) -> Measured:
        """Run `concurrency` inferences at all times for about `seconds`."""
        answer = self._ask({"concurrency": concurrency, "seconds": seconds})
        return Measured(
            answer["seconds"], answer["completed"], answer["service_s"], Host.model_validate(answer["host"])
        )

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the measuring process ended with {self._process.wait(COMPILE_S)}; see its stderr")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- the child ---


class _Loop:
    """A closed loop over infer requests; callbacks only stamp and hand over, the loop starts what ended again."""

    def __init__(self, compiled: Any, inputs: Sequence[Any], requests: int, batch: int) -> None:
        self._ended: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._requests = []
        for number in range(requests):
            self._requests.append(compiled.create_request(self._done(number)))
        self._inputs = [[array.copy() for array in inputs] for _ in range(requests)]
        self._rows = [[array[row : row + 1].copy() for array in inputs] for row in range(batch)] if batch > 1 else []

    def _start(self, number: int) -> None:
        """Start an inference, the rows of its batch copied together first, as the pool does."""
        inputs = self._inputs[number]
        for row, arrays in enumerate(self._rows):
            for target, array in zip(inputs, arrays, strict=True):
                target[row : row + 1] = array
        self._requests[number].start(inputs)

    def _done(self, number: int) -> Callable[[], None]:
        def done() -> None:
            self._requests[number].outputs()  # the pool copies them here too
            self._ended.put((number, time.perf_counter()))

        return done

    def run(self, concurrency: int, seconds: float) -> Measured:
        before = self._snapshot()
        started = [0.0] * concurrency
        services: list[float] = []
        began = time.perf_counter()
        for number in range(concurrency):
            started[number] = time.perf_counter()
            self._start(number)
        running, last = concurrency, began
        while running:
            number, ended = self._ended.get(timeout=STALL_S)
            services.append(ended - started[number])
            last = max(last, ended)
            if ended - began < seconds:
                started[number] = time.perf_counter()
                self._start(number)
            else:
                running -= 1
        return Measured(last - began, len(services), services, between(before, self._snapshot()))

    @staticmethod
    def _snapshot() -> Snapshot:
        return snapshot(os.sched_getaffinity(0), [os.getpid()])


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _child() -> None:
    # Heavy, and only the child needs it: the parent's modules are used where OpenVINO is not.
    from orchestrator.backend.base import CompileRequest
    from orchestrator.backend.openvino_backend import OpenVinoBackend
    from orchestrator.runner.check import check

    first = json.loads(sys.stdin.readline())
    arm = Arm.model_validate(first["arm"])
    backend = OpenVinoBackend(())
    before, began = _rss_bytes(), time.perf_counter()
    compiled = backend.compile(CompileRequest(first["model"], arm.device, arm.properties, batch=arm.batch))
    compile_s = time.perf_counter() - began
    checked = check(compiled, arm.name, batch=arm.batch)
    actual = compiled.actual()
    read_back = ReadBack(
        properties=dict(actual.properties),
        streams=actual.streams,
        threads=actual.threads,
        requests=actual.optimal_requests,
        execution_devices=actual.execution_devices,
    )
    loop = _Loop(compiled, checked.inputs, actual.optimal_requests + 1, arm.batch)
    memory = max(0, _rss_bytes() - before)
    opened = {
        "actual": read_back.model_dump(),
        "compile_s": compile_s,
        "memory_bytes": memory,
        "alone_s": checked.service_s,
    }
    print(json.dumps(opened), flush=True)
    loop.run(actual.optimal_requests, 0.3)
    for line in sys.stdin:
        asked = json.loads(line)
        least = BLOCK_INFERENCES * checked.service_s
        measured = loop.run(asked["concurrency"], min(BLOCK_MAX_S, max(asked["seconds"], least)))
        print(json.dumps({**vars(measured), "host": measured.host.model_dump()}), flush=True)


if __name__ == "__main__":
    _child()
