"""Measure the table on this machine: every arm of every model, in interleaved rounds with an anchor in each.

Stops and goes on: a model that has been measured lies in the work folder and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.planner import table as tables
from benchmarks.planner.grid import SUBJECTS, Subject, compiled_arms, explicit, save
from benchmarks.planner.table import Entry, Row, Table
from orchestrator.profiling.children import BenchChild
from orchestrator.profiling.measurement import Arm, ArmProfile, Block
from orchestrator.profiling.wire import ToRun

OVERHEAD_S: Final = 1.6  # starting a process, compiling, warming up
TAINTED_AGAIN: Final = 3  # times a block beside other load is measured again
BACK_OFF_S: Final = 1.0
TIMEOUT_S: Final = 120.0  # of a compilation, or of a block: whatever takes longer hangs
BLOCK_INFERENCES: Final = 12  # a block is about so many inferences long at least, each of its streams
BLOCK_MAX_S: Final = 0.8


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    block_s: float
    models: tuple[Subject, ...]


FULL: Final = Effort(18, 0.25, SUBJECTS)
QUICK: Final = Effort(2, 0.1, tuple(subject for subject in SUBJECTS if subject.name in {"int8_cnn", "bert_small_32"}))


@dataclass(frozen=True, order=True)
class Level:
    """How many inferences are under way; `paced`: one, each after a pause."""

    concurrency: int
    paced: bool = False


class _Case:
    """One compiled arm while a model is measured."""

    def __init__(self, bench: BenchChild, profile: ArmProfile) -> None:
        self.bench = bench
        self.profile = profile
        self.names = [self.arm.name] if self.arm.expression == "hint" else []
        self.blocks: list[Block] = []

    @property
    def arm(self) -> Arm:
        """Return the arm."""
        return self.profile.arm

    @property
    def levels(self) -> list[Level]:
        """Return the levels to measure: alone with and without pauses, all streams busy, one more."""
        streams = self.profile.actual.streams or 1
        return [Level(1, paced=True), *(Level(count) for count in sorted({1, streams, streams + 1}))]

    def measure(self, number: int, level: Level, seconds: float) -> Block:
        """Measure one block, again while others disturb it."""
        took = [median(block.service_s) for block in self.blocks if block.service_s]
        seconds = min(BLOCK_MAX_S, max(seconds, BLOCK_INFERENCES * max(took, default=0.0)))
        order = ToRun(concurrency=level.concurrency, seconds=seconds, round=number, paced=level.paced)
        for attempt in range(TAINTED_AGAIN):
            time.sleep(BACK_OFF_S * attempt)
            block = self.bench.block(order, TIMEOUT_S)
            if not block.host.tainted():
                break
        return block

    def row(self) -> Row:
        """Return what was measured."""
        of = self.profile
        return Row(self.arm, tuple(self.names), of.actual, of.compile_s, of.memory_bytes or 0, tuple(self.blocks))


def _open(stack: ExitStack, path: Path, arms: Sequence[Arm]) -> list[_Case]:
    """Compile the arms; hints that read back alike are one arm with several names."""
    cases: dict[tuple[object, ...], _Case] = {}
    for arm in arms:
        bench = stack.enter_context(BenchChild())
        profile = bench.compile(arm, str(path), {}, arm.name, TIMEOUT_S)
        key = (profile.actual.key, arm.batch)
        if key in cases:
            bench.__exit__(None, None, None)
            cases[key].names += [arm.name] if arm.expression == "hint" else []
        else:
            cases[key] = _Case(bench, profile)
    return list(cases.values())


def measure_model(subject: Subject, folder: Path, effort: Effort, cpus: int) -> Entry:
    """Measure every arm of one model."""
    from orchestrator.backend.openvino_backend import OpenVinoBackend

    path = save(subject, folder)
    info = OpenVinoBackend(()).inspect(str(path), {}, ())
    dice = random.Random(subject.name)
    anchors: list[tuple[float, float]] = []
    with ExitStack() as stack:
        cases = _open(stack, path, compiled_arms(cpus, batchable=info.batchable))
        anchor_arm = explicit(cpus, cpus)
        anchor = next(case for case in cases if case.arm.key == anchor_arm.key)
        full = Level(cpus)
        for number in range(effort.rounds):
            first = anchor.measure(number, full, effort.block_s)
            jobs = [(case, level) for case in cases for level in case.levels if (case, level) != (anchor, full)]
            dice.shuffle(jobs)
            for case, level in jobs:
                case.blocks.append(case.measure(number, level, effort.block_s))
            anchor.blocks.append(first)
            anchors.append((first.per_s, anchor.measure(number, full, effort.block_s).per_s))
        rows = tuple(case.row() for case in cases)
    return Entry(subject.name, info.batchable, info.sha256, rows, tuple(anchors))


def machine_facts(cpus: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    import openvino as ov

    from orchestrator.inventory.host import read_host

    host = read_host()
    return {
        "cpu": host.cpu,
        "isa": list(host.isa),
        "cpus": cpus,
        "quota_cpus": host.quota_cpus,
        "memory_bytes": host.memory_bytes,
        "kernel": host.kernel,
        "openvino": ov.__version__.split("-")[0],
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def estimate_s(effort: Effort, cpus: int) -> float:
    """Return about how long measuring takes, if every model can be batched and nothing disturbs."""
    arms = compiled_arms(cpus, batchable=True)
    each = len(arms) * (OVERHEAD_S + effort.rounds * 3.4 * effort.block_s * 1.2)
    return len(effort.models) * each


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.measure", description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="table to write; default: beside this module")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and for what is measured so far")
    parser.add_argument("--quick", action="store_true", help="two models, two short rounds: to develop with")
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else FULL
    out = options.out or (tables.QUICK if options.quick else tables.TABLE)
    cpus = len(os.sched_getaffinity(0))
    options.work.mkdir(parents=True, exist_ok=True)
    left = [subject for subject in effort.models if not _part(options.work, subject, options.quick).exists()]
    seconds = estimate_s(effort, cpus) * len(left) / len(effort.models)
    print(f"{len(left)} of {len(effort.models)} models to measure, about {seconds / 60:.0f} min", flush=True)
    for subject in left:
        began = time.monotonic()
        entry = measure_model(subject, options.work / "models", effort, cpus)
        part = _part(options.work, subject, options.quick)
        part.with_suffix(".staged").write_text(json.dumps(tables.pack_entry(entry)), encoding="utf-8")
        part.with_suffix(".staged").replace(part)
        print(_told(entry, time.monotonic() - began), flush=True)
    parts = [_part(options.work, subject, options.quick).read_text(encoding="utf-8") for subject in effort.models]
    entries = tuple(tables.unpack_entry(json.loads(part)) for part in parts)
    tables.save(Table(machine_facts(cpus), entries), out)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def _part(folder: Path, subject: Subject, quick: bool) -> Path:
    return folder / f"{subject.name}{'.quick' if quick else ''}.json"


def _told(entry: Entry, seconds: float) -> str:
    blocks = [block for row in entry.rows for block in row.blocks]
    tainted = sum(block.host.tainted() for block in blocks)
    return (
        f"{entry.name}: {len(entry.rows)} arms, {len(blocks)} blocks ({tainted} tainted), "
        f"resolution {entry.resolution:.1%}, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
