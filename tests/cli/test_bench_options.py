"""From options, manifest and plan to the question of a bench."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.bench_options import Wishes, capacity_to_tell, planned, question
from orchestrator.cli.bench_subject import Subject, arriving_per_s
from orchestrator.cli.endpoint import Target
from orchestrator.planner.bench import BenchQuestion, Tried
from orchestrator.planner.bench_result import Bench
from orchestrator.profiling.measurement import Host

PLAN = {
    "cpus": 2,
    "models": [
        {
            "name": "a",
            "capacity_per_s": 95.0,
            "capacity_low_per_s": 90.0,
            "capacity_high_per_s": 99.0,
            "service_s": 0.01,
        },
        {"name": "b"},
    ],
}
SUBJECT = Subject(
    Target("http://127.0.0.1:8000", "a", Path("token")),
    "shop",
    model={"slo": {"latency_ms": 40.0, "percentile": 95.0, "rate_per_s": 60.0}},
    plan=PLAN,
    traffic={"arrivals": "constant"},
)


def test_the_manifest_is_asked_about_where_no_option_says_otherwise() -> None:
    asked = question(SUBJECT, Wishes())
    assert (asked.latency_s, asked.percentile, asked.arrivals, asked.declared) == (0.04, 95.0, "constant", 60.0)
    assert (asked.planned_per_s, asked.budget_s, asked.fixed) == (95.0, 60.0, None)
    assert planned(SUBJECT, Wishes()).neighbours == ("b",)


def test_another_slo_is_not_compared_with_the_plan() -> None:
    for wishes in (Wishes(latency="50ms"), Wishes(percentile=99), Wishes(arrivals="poisson"), Wishes(callers=4)):
        told = planned(SUBJECT, wishes)
        assert told.capacity is None
        assert told.not_compared is not None
    assert planned(SUBJECT, Wishes(latency="40ms")).capacity is not None


def test_one_rate_takes_twenty_seconds_unless_it_is_told_how_long() -> None:
    assert (question(SUBJECT, Wishes(rate="30/s")).fixed, question(SUBJECT, Wishes(rate="30/s")).budget_s) == (30, 20)
    assert question(SUBJECT, Wishes(rate="30/s", duration="5s")).budget_s == 5


def test_callers_are_a_closed_loop_that_begins_with_so_many() -> None:
    asked = question(SUBJECT, Wishes(callers=8))
    assert (asked.arrivals, asked.declared, asked.fixed) == ("closed", 8.0, None)
    assert question(SUBJECT, Wishes(callers=8, duration="3s")).fixed == 8.0


def test_a_server_known_by_its_address_has_no_promise() -> None:
    asked = question(Subject(Target("http://127.0.0.1:1", "m", None)), Wishes())
    assert (asked.latency_s, asked.percentile, asked.arrivals, asked.declared) == (None, 99.0, "poisson", None)


@pytest.mark.parametrize(
    ("counts", "per_s"), [((61_700, 61_700), 0.0), ((61_700, 61_712), 6.0), ((61_700, None), None), ((9, 0), None)]
)
def test_what_an_earlier_bench_sent_is_not_what_others_send_now(
    counts: tuple[int | None, ...], per_s: float | None
) -> None:
    """Seen to say `others send it 5.61e+03 requests/s now` of a bench that had just ended."""
    looks = iter(counts)
    assert arriving_per_s(lambda: next(looks), lambda: 2.0) == per_s


def tried(purpose: str, load: float, *, held: bool | None) -> Tried:
    return Tried(
        purpose=purpose,
        load=load,
        closed=purpose == "floor",
        seconds=5.0,
        sent=400,
        answered=400,
        refused=0,
        expired=0,
        failed=0,
        misses=0 if held else 200,
        p50_s=0.01,
        p95_s=0.02,
        p99_s=0.03,
        at_percentile_s=0.03 if held else 0.09,
        verdict="verified" if held else "rejected",
        held=held,
        host=Host(),
        others_per_s=0.0,
    )


FOUND = Bench(
    deployment="shop",
    model="a",
    url="http://127.0.0.1:8000",
    question=BenchQuestion(latency_s=0.04, percentile=99.0, declared=60.0),
    tried=(
        tried("floor", 1, held=True),
        tried("search", 60, held=True),
        tried("search", 120, held=False),
        tried("search", 85, held=True),
        tried("search", 88, held=False),
    ),
)


def test_the_worker_is_told_the_capacity_for_what_its_manifest_asks() -> None:
    assert capacity_to_tell(FOUND, Wishes()) == 85.0
    assert capacity_to_tell(FOUND, Wishes(budget="90s", seed=3)) == 85.0


@pytest.mark.parametrize(
    "found",
    [
        replace(FOUND, interrupted=True),
        replace(FOUND, remarks=("the worker was replaced meanwhile",)),
        replace(FOUND, tried=()),
    ],
)
def test_a_capacity_that_is_doubtful_or_was_not_found_is_not_told(found: Bench) -> None:
    assert capacity_to_tell(found, Wishes()) is None


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(rate="60/s"),
        Wishes(callers=4),
        Wishes(latency="90ms"),
        Wishes(percentile=90.0),
        Wishes(arrivals="bursty"),
    ],
)
def test_a_capacity_for_something_else_is_not_told(wishes: Wishes) -> None:
    assert capacity_to_tell(FOUND, wishes) is None
