"""The baselines choose as the tools that they are named after would, and account for the time it would take."""

from __future__ import annotations

import pytest

from benchmarks.planner import baselines
from benchmarks.planner.bench import Bench, OutOfTimeError
from benchmarks.planner.made_up import made_up
from benchmarks.planner.oracle import Cell, cells_under
from benchmarks.planner.table import Table


@pytest.fixture(scope="module")
def table() -> Table:
    return made_up()


@pytest.fixture(scope="module")
def cells(table: Table) -> dict[str, Cell]:
    entry = table.entries[2]
    found = [*cells_under(entry, 1.5, "poisson", [0.30]), *cells_under(entry, 10.0, "poisson", [0.60])]
    return {cell.name: cell for cell in found}


@pytest.fixture
def cell(cells: dict[str, Cell]) -> Cell:
    return cells["batch pays 10x 60% poisson"]


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_chooses_something_of_the_table(name: str, cell: Cell) -> None:
    choice = baselines.choose(name, cell, cell.entry, seed=1)
    assert choice.candidate.row in cell.entry.rows
    assert baselines.choose(name, cell, cell.entry, seed=1) == choice


@pytest.mark.parametrize(
    ("name", "seconds", "compiles"),
    [
        ("B0 no properties", 0, 0),
        ("B3 best of both hints, 2 x 20 s", 40, 2),
        ("B4 greedy fps (DL Streamer)", 120, 4),
        ("B5 grid (Workbench)", 160, 8),
        ("B7 Optuna TPE, 20 trials", 200, 4),
        ("B8 random 10", 100, 4),
        ("B9 Packrat's split", 40, 8),
    ],
)
def test_a_baseline_costs_what_its_tool_would_take(name: str, seconds: float, compiles: int, cell: Cell) -> None:
    cost = baselines.choose(name, cell, cell.entry).cost
    assert cost.compiles >= compiles
    assert cost.seconds == pytest.approx(seconds + 1.4 * cost.compiles)


def test_greedy_takes_the_fastest_whatever_its_latency(cells: dict[str, Cell]) -> None:
    tight = cells["batch pays 1.5x 30% poisson"]
    choice = baselines.choose("B4 greedy fps (DL Streamer)", tight, tight.entry)
    assert choice.candidate.row.arm.batch == 8
    assert tight.truth.capacity(choice.candidate) == 0


def test_the_grid_keeps_the_median_under_the_slider(cells: dict[str, Cell]) -> None:
    tight = cells["batch pays 1.5x 30% poisson"]
    row = baselines.choose("B5 grid (Workbench)", tight, tight.entry).candidate.row
    assert row.alone_s <= tight.slo.latency_s


@pytest.mark.parametrize("name", baselines.equal_time_names())
def test_a_budget_is_kept(name: str, cell: Cell) -> None:
    assert baselines.choose(name, cell, cell.entry, budget_s=45.0).cost.seconds <= 45.0


def test_a_bench_charges_compiling_once_and_refuses_what_does_not_fit(table: Table) -> None:
    bench = Bench(table.entries[0], budget_s=15.0)
    row = table.entries[0].named("LATENCY")
    bench.run(row, 1, 5.0)
    bench.run(row, 1, 5.0)
    assert bench.cost.seconds == pytest.approx(10 + 1.4)
    with pytest.raises(OutOfTimeError):
        bench.run(row, 1, 5.0)


def test_packrat_splits_cores_and_items_by_the_slowest_part() -> None:
    # Two threads hardly help: two instances of one thread and half the items each are done sooner.
    latency = {(1, 1): 1.0, (1, 2): 2.0, (2, 1): 0.9, (2, 2): 1.8, (2, 4): 3.6}
    assert baselines.split(latency, 2, 2) == [(1, 1), (1, 1)]
    assert baselines.split(latency, 2, 1) == [(2, 1)]
    assert baselines.split({(1, 1): 1.0}, 1, 3) == []
