"""orch's planner, replayed on the table: the goals of its score hold, without a machine's noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.planner import live, replay, score
from benchmarks.planner import table as tables
from benchmarks.planner.bench import Choice, Cost
from benchmarks.planner.made_up import made_up
from benchmarks.planner.oracle import Cell, cells_under, impossible_cells
from benchmarks.planner.table import Entry, Table
from benchmarks.planner.truth import Candidate


def the_cell(entry: Entry) -> Cell:
    """Return the one cell of a model that is replayed here; the whole score takes minutes."""
    (cell,) = cells_under(entry, 3.0, "poisson", [0.60])
    return cell


TABLE = tables.load() if tables.TABLE.exists() else made_up()


@pytest.fixture(scope="module")
def table() -> Table:
    return TABLE


# Every model takes minutes; these are served by a pool.
MODELS = [entry.name for entry in TABLE.entries if entry.name in {"mobilenet_v2", "detector"}]


@pytest.fixture(scope="module", params=MODELS or [entry.name for entry in TABLE.entries])
def result(request: pytest.FixtureRequest) -> score.Result:
    cell = the_cell(TABLE.entry(request.param))
    return score.judge(cell, replay.plan(cell, cell.entry, 0))


def test_the_choice_never_loses_to_the_better_hint(result: score.Result) -> None:
    assert not result.below_hints, (result.arm, result.oracle, result.eta, result.hint_eta, result.resolution)


def test_nothing_is_said_to_hold_that_does_not(result: score.Result) -> None:
    assert not result.false_feasible, (result.arm, result.eta)


def test_a_plan_compiles_and_verifies_few_arms_and_ends_in_time(result: score.Result) -> None:
    cost = result.choice.cost
    assert cost.compiles <= 5
    assert cost.seconds <= 61.5  # what begins within the budget may end just behind it


def test_an_slo_below_the_floor_is_known_to_be_infeasible_at_once(table: Table) -> None:
    cell = impossible_cells(Table(table.machine, table.entries[:1]))[0]
    choice = replay.plan(cell, cell.entry, 0)
    assert choice.feasible is False
    assert choice.cost.seconds <= 15


def test_the_same_seed_plans_the_same(table: Table) -> None:
    cell = the_cell(table.entries[0])
    plans = [replay.plan(cell, cell.entry, 3) for _ in range(2)]
    assert plans[0].candidate == plans[1].candidate
    assert plans[0].cost.seconds == plans[1].cost.seconds


# --- what the score itself computes ---


@pytest.fixture(scope="module")
def cell() -> Cell:
    return the_cell(made_up().entries[0])


def a_result(cell: Cell, name: str, feasible: bool | None) -> score.Result:
    row = cell.entry.named(name)
    return score.judge(cell, Choice(Candidate(row, row.streams), feasible, Cost(30, 3, 1, 1000)))


def test_a_wrong_yes_and_a_wrong_no_are_told_from_right_ones(cell: Cell) -> None:
    wanting = replace(cell, rate_per_s=1.05 * cell.oracle_per_s)
    assert a_result(wanting, "THROUGHPUT", True).false_feasible
    assert a_result(replace(cell, rate_per_s=2 * cell.oracle_per_s), "THROUGHPUT", True).surely_false_feasible
    barely = a_result(replace(cell, rate_per_s=1.001 * cell.oracle_per_s), "THROUGHPUT", True)
    assert barely.false_feasible
    assert not barely.surely_false_feasible, "the table cannot tell a thousandth"
    assert not a_result(wanting, "THROUGHPUT", False).false_infeasible
    assert not a_result(cell, "THROUGHPUT", True).false_feasible
    assert a_result(cell, "THROUGHPUT", False).false_infeasible
    assert not a_result(cell, "THROUGHPUT", None).false_infeasible


def test_the_worse_hint_is_below_the_better_one(cell: Cell) -> None:
    assert a_result(cell, "LATENCY", None).below_hints
    assert not a_result(cell, "THROUGHPUT", None).below_hints


def test_the_score_of_the_oracle_itself_meets_the_goals(cell: Cell) -> None:
    result = score.judge(cell, Choice(cell.oracle, True, Cost(30, 3, 1, 1000)))
    scored = score.Scored({score.ORCH: [result]}, {score.ORCH: []}, {}, [[result, result]], [])
    missed = [goal.name for goal in score.goals(scored) if not goal.met]
    assert missed == ["p99 predicted within -10/+20 % up to 80 % load"]  # nothing was predicted here
    assert "| orch | 1.000 | 1.000 | 1.000 | 0 of 1 | 0.0% | 0.0% | 30 | 30 | 3 | 1000 |" in score.markdown(scored)


def test_the_live_check_reads_a_capacity_between_two_steps() -> None:
    assert live.crossing([50, 100, 200], [0.0, 0.0, 0.5], 0.01) == pytest.approx(129, abs=1)
    assert live.crossing([50, 100], [0.0, 0.0], 0.01) == 100
    assert live.crossing([50, 100], [0.3, 0.5], 0.01) == 50
    assert live.bootstrap([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
