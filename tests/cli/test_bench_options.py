"""From options, manifest and plan to the question of a bench."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.bench_options import Wishes, planned, question
from orchestrator.cli.bench_subject import Subject
from orchestrator.cli.endpoint import Target

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
