"""Benchmark an arm by looking it up in the table, and keep account of what it would have cost live."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

from benchmarks.planner.table import Entry, Row
from benchmarks.planner.truth import Candidate, quantile

START_S: Final = 1.2  # a process that imports OpenVINO, reads the model and warms up; compiling comes on top
BLOCK_S: Final = 2.0  # a live run of so many seconds sees as much of the machine's moods as one block of the table


class OutOfTimeError(Exception):
    """The next measurement does not fit into the budget."""


@dataclass(frozen=True)
class Cost:
    """What planning took, or would have taken live."""

    seconds: float = 0.0
    compiles: int = 0
    verified: int = 0
    inferences: int = 0
    thinking_s: float = 0.0
    """CPU time of deciding itself, on the machine that replays: the one figure that is not the same each time."""


@dataclass(frozen=True)
class Run:
    """A closed loop: rows a second, and the latency of its requests in seconds."""

    per_s: float
    median_s: float
    p99_s: float


@dataclass(frozen=True)
class Choice:
    """What a planner chose. `feasible`: whether it says that the SLO holds at the rate; None says nothing."""

    candidate: Candidate
    feasible: bool | None
    cost: Cost


class Bench:
    """One planning session on one model; a seed decides which blocks it happens to see."""

    def __init__(self, entry: Entry, seed: int = 0, budget_s: float | None = None) -> None:
        self.entry = entry
        self._dice = random.Random(seed)
        self._budget_s = budget_s
        self._compiled: set[str] = set()
        self.cost = Cost()

    @property
    def cpus(self) -> int:
        """Return the cores of the machine the table was measured on."""
        return max(row.actual.threads or 1 for row in self.entry.rows)

    def run(self, row: Row, in_flight: int, seconds: float) -> Run:
        """Keep `in_flight` inferences under way for `seconds`; raise OutOfTimeError where that is too long.

        More than the table has measured only wait in OpenVINO's queue: the throughput stays, the latency grows.
        """
        self._spend(row, seconds)
        measured = sorted({block.concurrency for block in row.blocks if not block.paced})
        level = max((n for n in measured if n <= in_flight), default=measured[0])
        blocks = row.at(level)
        seen = self._dice.sample(blocks, max(1, min(len(blocks), round(seconds / BLOCK_S))))
        per_s = mean(block.per_s for block in seen)
        services = [second * in_flight / level for block in seen for second in block.service_s]
        done = round(per_s * seconds)
        self.cost = Cost(self.cost.seconds, self.cost.compiles, self.cost.verified, self.cost.inferences + done)
        return Run(per_s * row.arm.batch, median(services), quantile(services, 0.99))

    def _spend(self, row: Row, seconds: float) -> None:
        new = row.arm.key not in self._compiled
        total = self.cost.seconds + seconds + (START_S + row.compile_s) * new
        if self._budget_s is not None and total > self._budget_s:
            raise OutOfTimeError
        self._compiled.add(row.arm.key)
        self.cost = Cost(total, len(self._compiled), self.cost.verified, self.cost.inferences)
