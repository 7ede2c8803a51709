"""Measure one arm in a process of its own: `python -m orchestrator.profiling.bench --parent PID [--cores 0,1]`.

One JSON object a line on standard input, one answer a line on standard output, until the input ends. In between the
process waits; it never spins, so that several with their models compiled may stand beside the one that runs.

    {"compile": {"arm": Arm, "path": ..., "shapes": {}, "name": ...}}   ->  {"compiled": Compiled}
    {"block": {"concurrency": 2, "seconds": 0.5, "round": 0}}           ->  {"block": Block}
    {"block": {..., "concurrency": 1, "paced": true}}                   ->  {"block": Block}, with a pause before each
    {"block": {..., "rate_per_s": 40.0, "seed": 7}}                     ->  {"block": Block}, of an open loop, whose
                                          arrivals come from a sleeping thread: some thousand a second at most
    anything that goes wrong                                            ->  {"error": {"kind": ..., "what": ...}}

Executors are recycled inside a process with the old pinning (openvino-facts 2.4): hence a process for each arm.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import BinaryIO

from pydantic import ValidationError

from orchestrator.backend.base import Actual, Backend, CompileRequest
from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.host_counters import between, snapshot
from orchestrator.profiling.loops import Loop, Span, Taken
from orchestrator.profiling.measurement import SAMPLES_MAX, Arm, Block, Host, ReadBack
from orchestrator.profiling.tied import die_with_parent
from orchestrator.profiling.wire import BenchAnswer, BenchOrder, Compiled, Failure, ToCompile, ToRun
from orchestrator.scheduling.arrivals import arrivals

SECONDS_MAX = 60.0  # of one block
# Pauses between paced inferences: exponential, as a pool at a third of its load idles. Measured, a model of 1 to 5 ms
# takes 5 to 15 % longer after them than back to back, and its p99 up to a third (docs/adr/0025).
PAUSE_FACTOR = 2.0
PAUSE_MIN_S, PAUSE_MAX_S = 0.0002, 0.05


class Bench:
    """Carries out orders, one after the other, on one compiled model."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._arm: Arm
        self._loop: Loop | None = None

    def obey(self, line: bytes) -> BenchAnswer:
        """Return the answer to one line; never raises what the orderer did wrong."""
        try:
            order = BenchOrder.model_validate_json(line)
            if order.compile is not None:
                return BenchAnswer(compiled=self._compile(order.compile))
            if order.block is not None:
                return BenchAnswer(block=self._block(order.block))
            raise OrchError(Kind.INVALID, "says neither compile nor block")
        except ValidationError as error:
            return BenchAnswer(error=Failure(kind=Kind.INVALID, what=str(error)))
        except OrchError as error:
            return BenchAnswer(error=Failure(kind=error.kind, what=str(error)))

    def _compile(self, order: ToCompile) -> Compiled:
        arm = order.arm
        request = CompileRequest(
            order.path, arm.device, arm.properties, arm.device_properties, order.shapes, batch=arm.batch
        )
        before = _resident_bytes()
        began = time.monotonic()
        compiled = self._backend.compile(request)
        compile_s = time.monotonic() - began
        actual = compiled.actual()
        requests = arm.requests or actual.optimal_requests
        self._arm, self._loop = arm, Loop(compiled, requests, rows=arm.batch)
        self._loop.start(order.name or order.path)
        grown = max(0, _resident_bytes() - before)
        return Compiled(actual=_read_back(actual, requests), compile_s=compile_s, memory_bytes=grown)

    def _block(self, order: ToRun) -> Block:
        if self._loop is None:
            raise OrchError(Kind.INVALID, "nothing is compiled yet")
        if not 0 < order.seconds <= SECONDS_MAX or order.concurrency < 1:
            raise OrchError(Kind.INVALID, f"a block takes up to {SECONDS_MAX:g} s at a concurrency from 1")
        if order.paced and order.concurrency != 1:
            raise OrchError(Kind.INVALID, "with pauses, one inference is under way at a time")
        cores, own = os.sched_getaffinity(0), (os.getpid(), os.getppid())
        before = snapshot(cores, own)
        if order.paced:
            taken = self._loop.paced(order.seconds, pauses(order.round))
        elif order.rate_per_s is None:
            taken = self._loop.closed(order.concurrency, order.seconds)
        else:
            due = arrivals("poisson", order.rate_per_s, int(2 * order.rate_per_s * order.seconds) + 64, order.seed)
            taken = self._loop.opened(order.concurrency, due, order.seconds)
        return as_block(self._arm, order, taken, between(before, snapshot(cores, own)))


def pauses(seed: int) -> Callable[[float], float]:
    """Return what gives the pause after an inference of so many seconds."""
    dice = Random(seed)
    return lambda took_s: min(PAUSE_MAX_S, dice.expovariate(1 / max(PAUSE_MIN_S, PAUSE_FACTOR * took_s)))


def as_block(arm: Arm, order: ToRun, taken: Taken, host: Host) -> Block:
    """Return what was taken as a block, its samples thinned out evenly."""
    return Block(
        arm=arm.key,
        round=order.round,
        concurrency=order.concurrency,
        seconds=taken.seconds,
        completed=len(taken.spans),
        service_s=tuple(thinned([_duration(span) for span in taken.spans])),
        host=host,
        paced=order.paced,
        rate_per_s=order.rate_per_s,
        latency_s=tuple(thinned([round(latency, 7) for latency in taken.latency_s])),
        refused=taken.refused,
    )


def thinned(samples: list[float], most: int = SAMPLES_MAX) -> list[float]:
    """Return at most `most` samples, evenly spaced, in their order."""
    if len(samples) <= most:
        return samples
    return [samples[place * len(samples) // most] for place in range(most)]


def _duration(span: Span) -> float:
    return round(span.ended - span.started, 7)


def _read_back(actual: Actual, requests: int) -> ReadBack:
    return ReadBack(
        properties=dict(actual.properties),
        streams=actual.streams,
        threads=actual.threads,
        requests=requests,
        execution_devices=actual.execution_devices,
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(backend: Backend, orders: Iterator[bytes], answers: BinaryIO) -> None:
    """BenchAnswer every order until they end."""
    bench = Bench(backend)
    for line in orders:
        answers.write(bench.obey(line).model_dump_json(exclude_none=True).encode() + b"\n")
        answers.flush()


def main(arguments: list[str]) -> None:
    """Take the cores, then import the engine, then serve."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.profiling.bench")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--cores")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    if options.cores:
        os.sched_setaffinity(0, [int(core) for core in options.cores.split(",")])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # drivers print to standard output as they please
    from orchestrator.backend.openvino_backend import OpenVinoBackend  # reads the mask of cores once, when imported

    serve(OpenVinoBackend(), iter(sys.stdin.buffer.readline, b""), answers)
    os._exit(0)  # some drivers crash while they are taken down; the answers are out


if __name__ == "__main__":
    main(sys.argv[1:])
