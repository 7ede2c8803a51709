"""The truth of the score: it is the pool's own simulation, and its oracle finds what is best in a known table."""

from __future__ import annotations

from dataclasses import replace
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
    # Another set of times for each number of others that run, and for who finds the pool idle.
    idle, *service = [
        sorted(dice.uniform(0.9, 1.3) * (1 + level / 10) for _ in range(500)) for level in range(slots + 1)
    ]
    places = [dice.random() for _ in range(2000)]
    times = arrivals(kind, 0.7 * slots * rows, 2000, 3)  # type: ignore[arg-type]
    pool = Limits(slots, rows, queue=10**6, memory_bytes=2**60)

    def taking(number: int, _rows: int, beside: int | None) -> float:
        return (idle if beside is None else service[beside])[int(places[number] * 500)]

    fates = simulate(times, taking, pool)
    taken = latencies(times, service, places, rows, idle=idle)
    assert taken == pytest.approx([fate.latency_s for fate in fates])


def test_who_finds_the_pool_idle_takes_what_was_measured_after_a_pause() -> None:
    """Seen to fail with the times of a closed loop for all: the second waits for the first, the third for nobody."""
    assert latencies([0.0, 0.1, 5.0], [[1.0]], [0.5] * 3, 1, idle=[2.0]) == pytest.approx([2.0, 2.9, 2.0])


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
    hints = replace(table.entries[0], rows=table.entries[0].rows[:2])
    one = Table(table.machine, (hints,))
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


def test_a_layout_is_found_pinned_or_not_and_as_it_is_where_there_is_one_alone(table: Table) -> None:
    entry = table.entry("thin wins")
    pinned, free = (entry.find(2, 2, 1, pinned=pinned) for pinned in (True, False))
    assert pinned is not None
    assert free is not None
    assert (pinned.names, free.names) == (("THROUGHPUT",), ())
    batched = [entry.find(2, 2, 8, pinned=pinned) for pinned in (True, False)]
    assert batched[0] is batched[1] is not None
    assert entry.find(7, 7, 1) is None


def test_single_inferences_with_and_without_pauses_are_told_apart(table: Table, tmp_path) -> None:
    entry = table.entry("thin wins")
    row = entry.named("LATENCY")
    paced = [block.model_copy(update={"paced": True, "service_s": (9.0,)}) for block in row.at(1)]
    assert row.rested == row.services(1), "where nothing was measured with pauses"
    both = replace(entry, rows=(replace(row, blocks=(*row.blocks, *paced)),))
    save(Table(table.machine, (both,)), tmp_path / "table.gz")
    (read,) = load(tmp_path / "table.gz").entries[0].rows
    assert set(read.rested) == {9.0}
    assert 9.0 not in read.services(1)
    assert len(load(tmp_path / "table.gz").entries[0].resampled(1).rows[0].blocks) == len(read.blocks)
