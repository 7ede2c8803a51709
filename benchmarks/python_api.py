"""Compare the ways into orch inside one process with OpenVINO's own loops: one row a call, contenders in turns.

Each contender runs in a process of its own, in a new random order each round; ratios are to the AsyncInferQueue loop of
the same round. `python -m benchmarks.python_api --model tiny_mlp`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("CI", "true")  # before openvino, whose telemetry would fork


import orchestrator
from benchmarks import topologies
from benchmarks.inprocess import made_up
from orchestrator.api import Model, _Bridges
from orchestrator.backend.base import Array
from orchestrator.profiling.host_counters import between, snapshot
from orchestrator.runner.inline_pool import Inline, InlinePool
from orchestrator.runner.pool import PoolSettings

WARM_UP_S = 0.5
WINDOW = 64  # futures that one thread has open, coroutines that wait


@dataclass(frozen=True)
class Ran:
    """What a contender did in a round."""

    per_s: float
    cpu_us: float
    worst_ms: float
    """The longest step: a call, or WINDOW of them from one thread."""
    foreign: float
    """Share of the cores that other processes took meanwhile."""


class Meter:
    """Counts from its making to `ran`."""

    def __init__(self) -> None:
        self._cores, self._own = os.sched_getaffinity(0), (os.getpid(),)
        self._before = snapshot(self._cores, self._own)
        self._cpu = time.process_time()
        self.began = time.perf_counter()

    def ran(self, calls: int, worst_s: float) -> Ran:
        """Return the figures of so many calls."""
        took, cpu = time.perf_counter() - self.began, time.process_time() - self._cpu
        foreign = between(self._before, snapshot(self._cores, self._own)).foreign
        return Ran(calls / took, 1e6 * cpu / max(1, calls), 1e3 * worst_s, foreign)


class Clocked:
    """Runs `step` again and again, first to warm up; `step` returns how many calls it made."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, step: Callable[[], int]) -> Ran:
        self._run(step, WARM_UP_S)
        return self._run(step, self._seconds)

    def _run(self, step: Callable[[], int], seconds: float) -> Ran:
        calls, worst_s, meter = 0, 0.0, Meter()
        now = meter.began
        while now - meter.began < seconds:
            calls += step()
            before, now = now, time.perf_counter()
            worst_s = max(worst_s, now - before)
        return meter.ran(calls, worst_s)


# OpenVINO's own


def queue_loop(path: Path, seconds: float) -> Ran:
    """Drive openvino.AsyncInferQueue as its documentation shows, with the THROUGHPUT hint."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    inputs = dict(enumerate(made_up(path)))
    queue = ov.AsyncInferQueue(compiled, 0)
    queue.set_callback(lambda request, _data: request.results)

    def step() -> int:
        for _ in range(WINDOW):
            queue.start_async(inputs)
        return WINDOW

    ran = Clocked(seconds)(step)
    queue.wait_all()
    return ran


def synchronous_loop(path: Path, seconds: float) -> Ran:
    """Infer on this thread by one request, with orch's own properties, sharing memory both ways."""
    import openvino as ov

    with opened(path) as deployment:
        properties = dict(deployment.plan.models[0].properties)
    compiled = ov.Core().compile_model(str(path), "CPU", properties)
    request, inputs = compiled.create_infer_request(), dict(enumerate(made_up(path)))

    def step() -> int:
        request.infer(inputs, share_inputs=True, share_outputs=True)
        return 1

    return Clocked(seconds)(step)


# Ours


@contextmanager
def opened(path: Path) -> Iterator[orchestrator.Deployment]:
    """Open the model as a user does, without an SLO."""
    manifest = path.with_suffix(".yaml")
    manifest.write_text(
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: bench}\nspec:\n"
        "  endpoint: {http: 127.0.0.1:8000}\n"
        f"  models:\n    - {{name: model, source: {path.name}, device: CPU, queue: {{limit: 1000, timeout: 30s}}}}\n"
    )
    with orchestrator.open(manifest) as deployment:
        yield deployment


def named(model: Model, path: Path) -> dict[str, Array]:
    """Return one row's inputs by name."""
    return {tensor.name: array for tensor, array in zip(model.signature.inputs, made_up(path), strict=True)}


def one_thread(path: Path, seconds: float) -> Ran:
    """Call `infer` from one thread."""
    with opened(path) as deployment:
        model = deployment["model"]
        return _infer_loop(model, named(model, path), seconds)


def one_thread_unbatched(path: Path, seconds: float) -> Ran:
    """Call `infer` from one thread on a pool that infers each request alone, of the same compiled model."""
    with opened(path) as deployment:
        batched = deployment["model"]
        compiled = batched._pool.compiled  # noqa: SLF001 - the very model that the other contender has
        pool = InlinePool("model", compiled, PoolSettings(30.0, 1000, 2**30), Inline(1, None))
        pool.start()
        return _infer_loop(Model(batched.signature, pool, _Bridges()), named(batched, path), seconds)


def _infer_loop(model: Model, inputs: dict[str, Array], seconds: float) -> Ran:
    def step() -> int:
        model.infer(inputs)
        return 1

    return Clocked(seconds)(step)


def threads(count: int) -> Callable[[Path, float], Ran]:
    """Return a contender that calls `infer` from so many threads."""

    def contend(path: Path, seconds: float) -> Ran:
        with opened(path) as deployment:
            model = deployment["model"]
            inputs = named(model, path)
            calls, worst, stop = [0] * count, [0.0] * count, threading.Event()

            def caller(place: int) -> None:
                while not stop.is_set():
                    before = time.perf_counter()
                    model.infer(inputs)
                    worst[place] = max(worst[place], time.perf_counter() - before)
                    calls[place] += 1

            callers = [threading.Thread(target=caller, args=(place,)) for place in range(count)]
            for each in callers:
                each.start()
            time.sleep(WARM_UP_S)
            before, meter = sum(calls), Meter()
            time.sleep(seconds)
            ran = meter.ran(sum(calls) - before, max(worst))
            stop.set()
            for each in callers:
                each.join()
            return ran

    return contend


def futures(path: Path, seconds: float) -> Ran:
    """Submit WINDOW calls from one thread, then take their results, again and again."""
    with opened(path) as deployment:
        model = deployment["model"]
        inputs = named(model, path)

        def step() -> int:
            for answer in [model.submit(inputs) for _ in range(WINDOW)]:
                answer.result()
            return WINDOW

        return Clocked(seconds)(step)


def coroutines(path: Path, seconds: float) -> Ran:
    """Let WINDOW coroutines of one loop each await call after call."""
    with opened(path) as deployment:
        model = deployment["model"]
        inputs = named(model, path)

        calls, worst = [0], [0.0]

        async def caller() -> None:
            while True:
                before = time.perf_counter()
                await model.ainfer(inputs)
                worst[0] = max(worst[0], time.perf_counter() - before)
                calls[0] += 1

        async def measured() -> Ran:
            async with asyncio.TaskGroup() as group:
                callers = [group.create_task(caller()) for _ in range(WINDOW)]
                await asyncio.sleep(WARM_UP_S)
                before, meter = calls[0], Meter()
                await asyncio.sleep(seconds)
                ran = meter.ran(calls[0] - before, worst[0])
                for each in callers:
                    each.cancel()
            return ran

        return asyncio.run(measured())


CONTENDERS: dict[str, Callable[[Path, float], Ran]] = {
    "AsyncInferQueue": queue_loop,
    "synchronous": synchronous_loop,
    "infer, 1 thread, unbatched": one_thread_unbatched,
    "infer, 1 thread": one_thread,
    "infer, 8 threads": threads(8),
    "infer, 64 threads": threads(64),
    "submit, 1 thread": futures,
    "ainfer, 64 coroutines": coroutines,
}


def in_child(contender: str, path: Path, seconds: float) -> Ran:
    """Run a contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.python_api", "--child", contender, "--path", str(path)]
    ran = subprocess.run(
        [*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, timeout=120 + seconds, check=True
    )
    return Ran(**json.loads(ran.stdout.splitlines()[-1]))


def table(rounds: list[dict[str, Ran]]) -> str:
    """Return the medians, the ratios to the first contender with the smallest and the largest, and the noise at worst.

    `others` is what other processes took of the cores; above a tenth or so, run it again.
    """
    base, *_ = CONTENDERS
    heads = ("way", "calls a second", "to AsyncInferQueue", "CPU µs a call", "longest step, ms", "others")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in rounds[0]:
        ran = [each[name] for each in rounds]
        ratios = sorted(each[name].per_s / each[base].per_s for each in rounds)
        median = statistics.median(ratios)
        lines.append(
            f"| {name} | {statistics.median(each.per_s for each in ran):,.0f} "
            f"| {median:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) | {statistics.median(each.cpu_us for each in ran):.1f} "
            f"| {statistics.median(each.worst_ms for each in ran):.1f} | {max(each.foreign for each in ran):.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the rounds and print a table, or one contender as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny_mlp", choices=topologies.NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--child", choices=CONTENDERS)
    parser.add_argument("--path", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CONTENDERS[options.child](options.path, options.seconds).__dict__))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = topologies.save(options.model, Path(folder))
        rounds = []
        for number in range(options.rounds):
            order = random.Random(number).sample(options.only, len(options.only))
            ran = {name: in_child(name, path, options.seconds) for name in order}
            rounds.append({name: ran[name] for name in options.only})
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    print(table(rounds))


if __name__ == "__main__":
    main()
