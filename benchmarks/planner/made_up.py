"""A table of made-up models with known answers, for tests and for trying a planner before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.planner.grid import compiled_arms
from benchmarks.planner.table import Entry, Row, Table
from orchestrator.profiling.measurement import Arm, Block, Host, ReadBack

CPUS: Final = 2
ROUNDS: Final = 6
BLOCK_S: Final = 0.25
SAMPLES: Final = 100


@dataclass(frozen=True)
class Nature:
    """How a made-up model behaves: what it takes on one thread, and what threads, neighbours and rows do to that."""

    name: str
    one_thread_s: float
    speed_up: float
    """Of two threads over one."""
    co_run: float
    """What an inference takes while the other stream works, over alone."""
    row: float
    """What each further row of a batch costs, over the first."""
    spread: float = 0.03
    batchable: bool = True


NATURES: Final = (
    Nature("thin wins", 0.010, 1.5, 1.05, 1.0),
    Nature("fat wins", 0.010, 1.98, 1.30, 1.0),
    Nature("batch pays", 0.004, 1.6, 1.05, 0.25),
    Nature("dynamic", 0.002, 1.7, 1.10, 1.0, batchable=False),
)


def made_up(natures: tuple[Nature, ...] = NATURES) -> Table:
    """Return the table of these models; the same natures give the same table."""
    return Table({"cpu": "made up", "cpus": CPUS}, tuple(_entry(nature) for nature in natures))


def _entry(nature: Nature) -> Entry:
    dice = Random(nature.name)
    rows = tuple(_rows(nature, dice))
    anchor = tuple((100.0, 100.0 * dice.gauss(1, 0.01)) for _ in range(ROUNDS))
    return Entry(nature.name, nature.batchable, nature.name.encode().hex().ljust(64, "0")[:64], rows, anchor)


def _rows(nature: Nature, dice: Random) -> Iterator[Row]:
    hints = {"no properties": (1, 2), "LATENCY": (1, 2), "THROUGHPUT": (2, 2)}
    for arm in compiled_arms(CPUS, batchable=nature.batchable):
        if arm.name == "LATENCY":
            continue  # reads back as no properties do
        streams, threads = hints.get(arm.name) or _layout(arm)
        names = {"no properties": ("no properties", "LATENCY"), "THROUGHPUT": ("THROUGHPUT",)}.get(arm.name, ())
        actual = ReadBack(
            properties={"ENABLE_CPU_PINNING": "YES" if names else "NO", "INFERENCE_PRECISION_HINT": "f32"},
            streams=streams,
            threads=threads,
            requests=streams,
            execution_devices=("CPU",),
        )
        levels = sorted({1, streams, streams + 1})
        blocks = tuple(_block(nature, arm, actual, n, k, dice) for n in range(ROUNDS) for k in levels)
        yield Row(arm, names, actual, 0.2, 50_000_000, blocks)


def _layout(arm: Arm) -> tuple[int, int]:
    return int(arm.properties["NUM_STREAMS"]), int(arm.properties["INFERENCE_NUM_THREADS"])


def _block(nature: Nature, arm: Arm, actual: ReadBack, number: int, concurrency: int, dice: Random) -> Block:
    streams, threads = actual.streams or 1, actual.threads or 1
    second = nature.one_thread_s / (nature.speed_up if threads > streams else 1.0)
    second *= 1 + nature.row * (arm.batch - 1)
    if min(concurrency, streams) > 1:
        second *= nature.co_run
    second *= max(1.0, concurrency / streams)  # OpenVINO's own queue
    mood = dice.gauss(1, 0.01)
    samples = tuple(second * mood * max(0.8, dice.gauss(1, nature.spread)) for _ in range(SAMPLES))
    return Block(
        arm=arm.key,
        round=number,
        concurrency=concurrency,
        seconds=BLOCK_S,
        completed=max(1, round(BLOCK_S * concurrency / (second * mood))),
        service_s=samples,
        host=Host(foreign=0.01),
    )
