"""The cells that planners are scored on, and what the oracle, which knows the whole table, would do in each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.planner import table as tables
from benchmarks.planner.table import Entry, Table
from benchmarks.planner.truth import Candidate, Slo, Truth, floor_s
from orchestrator.scheduling.arrivals import Arrivals

SLOS: Final = (1.5, 3.0, 10.0)  # times the floor latency
RATES: Final = (0.30, 0.60, 0.85)  # of the oracle's capacity
# What no arm carries: the answer must be no.
TOO_TIGHT: Final = 0.5
TOO_FAST: Final = 1.3
OTHER_ARRIVALS: Final[tuple[Arrivals, ...]] = ("constant", "bursty")
OTHER_SLO, OTHER_RATE = 3.0, 0.60  # the one cell of each model that other arrivals are tried on


@dataclass(frozen=True)
class Cell:
    """A model, an SLO and a rate."""

    entry: Entry
    truth: Truth
    slo_factor: float
    rate_share: float
    rate_per_s: float
    oracle: Candidate
    oracle_per_s: float

    @property
    def slo(self) -> Slo:
        """Return what the callers need."""
        return self.truth.slo

    @property
    def name(self) -> str:
        """Return `model 3x 60% poisson`."""
        return f"{self.entry.name} {self.slo_factor:g}x {self.rate_share:.0%} {self.slo.arrivals}"

    @property
    def possible(self) -> bool:
        """Tell whether any arm of the table carries the rate."""
        return self.oracle_per_s >= self.rate_per_s


def cells_under(entry: Entry, slo_factor: float, arrivals: Arrivals, rates: Sequence[float]) -> Iterator[Cell]:
    """Yield a model's cells under one SLO: one for each rate, as a share of what the oracle carries."""
    truth = Truth(entry, Slo(slo_factor * floor_s(entry), arrivals=arrivals))
    oracle, per_s = truth.best()
    for share in rates:
        yield Cell(entry, truth, slo_factor, share, share * per_s, oracle, per_s)


def quality_cells(table: Table) -> list[Cell]:
    """Return the cells of the protocol: models x SLOs x rates, and one of each model under other arrivals."""
    cells: list[Cell] = []
    for entry in table.entries:
        for factor in SLOS:
            cells += cells_under(entry, factor, "poisson", RATES)
        for arrivals in OTHER_ARRIVALS:
            cells += cells_under(entry, OTHER_SLO, arrivals, [OTHER_RATE])
    return cells


def impossible_cells(table: Table) -> list[Cell]:
    """Return cells that nothing on the machine can hold: an SLO below the floor, a rate beyond the oracle."""
    cells: list[Cell] = []
    for entry in table.entries:
        tight = Truth(entry, Slo(TOO_TIGHT * floor_s(entry)))
        oracle, per_s = tight.best()
        rate = RATES[0] * oracle.most_per_s
        cells.append(Cell(entry, tight, TOO_TIGHT, RATES[0], rate, oracle, per_s))
        cells += cells_under(entry, OTHER_SLO, "poisson", [TOO_FAST])
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the oracle's arm for each SLO as a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.oracle", description=__doc__)
    parser.add_argument("--table", type=Path, default=tables.TABLE)
    options = parser.parse_args(arguments)
    print("| model | SLO | oracle | capacity/s | LATENCY | THROUGHPUT |\n|---|---|---|---|---|---|")
    for cell in quality_cells(tables.load(options.table)):
        if cell.rate_share != OTHER_RATE:
            continue
        hints = []
        for hint in ("LATENCY", "THROUGHPUT"):
            row = cell.entry.named(hint)
            hints.append(f"{cell.truth.capacity(Candidate(row, row.streams)) / (cell.oracle_per_s or 1):.0%}")
        slo = f"{cell.slo.latency_s * 1000:.3g} ms ({cell.slo_factor:g}x), {cell.slo.arrivals}"
        print(f"| {cell.entry.name} | {slo} | {cell.oracle.name} | {cell.oracle_per_s:.1f} | {' | '.join(hints)} |")


if __name__ == "__main__":
    main()
