"""The truth of the score: it is the pool's own simulation, and its oracle finds what is best in a known table."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.planner.made_up import made_up
from benchmarks.planner.oracle import impossible_cells, quality_cells
from benchmarks.planner.table import Table, load, save
from benchmarks.planner.truth import Candidate, Slo, Truth, candidates, floor_s, latencies
from orchestrator.scheduling.arrivals import arrivals
from orchestrator.scheduling.scheduler import Limits
from orchestrator.scheduling.simulate import simulate


@pytest.fixture(scope="module")
def table() -> Table:
    return made_up()


@pytest.mark.parametrize("kind", ["poisson", "bursty", "constant"])
@pytest.mark.parametrize(("slots", "rows"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 8)])
def test_the_truth_is_the_simulation_of_the_pool(kind: str, slots: int, rows: int) -> None:
    dice = Random(slots * 10 + rows)
    # Another set of times for each number of others that run.
    service = [sorted(dice.uniform(0.9, 1.3) * (1 + beside / 10) for _ in range(500)) for beside in range(slots)]
    places = [dice.random() for _ in range(2000)]
    times = arrivals(kind, 0.7 * slots * rows, 2000, 3)  # type: ignore[arg-type]
    pool = Limits(slots, rows, queue=10**6, memory_bytes=2**60)
    fates = simulate(times, lambda number, _rows, beside: service[beside][int(places[number] * 500)], pool)
    taken = latencies(times, service, places, rows)
    assert taken == pytest.approx([fate.latency_s for fate in fates])


def test_an_inference_beside_another_takes_what_was_measured_beside_another() -> None:
    assert latencies([0.0, 0.1, 5.0], [[1.0], [3.0]], [0.5] * 3, 1) == pytest.approx([1.0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("model", "factor", "expected"),
    [
        ("thin wins", 3.0, "2 streams x 1 thread"),
        ("fat wins", 1.5, "1 stream x 2 threads"),
        ("batch pays", 10.0, "2 streams x 1 thread, batch 8"),
    ],
)
def test_the_oracle_finds_what_is_best(table: Table, model: str, factor: float, expected: str) -> None:
    entry = table.entry(model)
    best, _ = Truth(entry, Slo(factor * floor_s(entry))).best()
    assert best.row.arm.name in {expected, "no properties", "THROUGHPUT"}
    if "batch" in expected:
        assert best.row.arm.name == expected


def test_nothing_in_the_table_carries_more_than_the_oracle(table: Table) -> None:
    entry = table.entry("thin wins")
    truth = Truth(entry, Slo(3 * floor_s(entry)), 20_000)
    _, most = truth.best()
    assert most == pytest.approx(max(truth.capacity(candidate) for candidate in candidates(entry)))


def test_a_capacity_holds_and_a_little_more_does_not(table: Table) -> None:
    entry = table.entry("thin wins")
    row = entry.named("LATENCY")
    truth, candidate = Truth(entry, Slo(3 * floor_s(entry))), Candidate(row, 1)
    per_s = truth.capacity(candidate)
    assert truth.holds(candidate, per_s)
    assert not truth.holds(candidate, 1.01 * per_s)


def test_cells_are_models_times_slos_times_rates_and_other_arrivals(table: Table) -> None:
    one = Table(table.machine, table.entries[:1])
    cells = quality_cells(one)
    assert len(cells) == 3 * 3 + 2
    assert all(cell.possible for cell in cells)
    assert not any(cell.possible for cell in impossible_cells(one))


def test_a_table_is_read_as_it_was_written(table: Table, tmp_path) -> None:
    save(table, tmp_path / "one.gz")
    again = load(tmp_path / "one.gz")
    save(again, tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert [entry.name for entry in again.entries] == [entry.name for entry in table.entries]


def test_a_neighbour_slows_down_and_shows_as_foreign_load(table: Table) -> None:
    entry = table.entry("thin wins")
    disturbed = entry.disturbed(1)
    before, after = entry.named("LATENCY"), disturbed.named("LATENCY")
    assert sum(after.blocks[0].service_s) >= sum(before.blocks[0].service_s)
    tainted = [block.host.tainted() for row in disturbed.rows for block in row.blocks]
    assert 0.1 < sum(tainted) / len(tainted) < 0.4
    assert not any(block.host.tainted() for row in entry.rows for block in row.blocks)


def test_a_table_measured_without_gathering_counts_the_copies_of_a_batch() -> None:
    entry = made_up().entries[0]
    gathered = entry.gathered(30_000_000)
    for row, longer in zip(entry.rows, gathered.rows, strict=True):
        copies = 0.0 if row.arm.batch == 1 else row.arm.batch * 0.01
        grown = [after - before for before, after in zip(row.services(1), longer.services(1), strict=True)]
        assert grown == pytest.approx([copies] * len(grown))
        per_s = [sum(block.per_s for block in each.at(1)) for each in (row, longer)]
        assert (per_s[1] < per_s[0]) == (row.arm.batch > 1)
