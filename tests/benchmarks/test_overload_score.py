"""The figures of an overload run, from outcomes with known answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.overload import chart, tables
from benchmarks.overload.order import FAILED, GAVE_UP, Order, Outcome, Phase, Request, Told
from benchmarks.overload.score import quantile, recovery_s, score

SLO_S = 0.06


def outcomes(begin_s: float, end_s: float, latency_s: float, status: int = 200) -> list[Outcome]:
    """Return one outcome each 10 ms."""
    count = round((end_s - begin_s) * 100)
    return [Outcome(begin_s + number / 100, latency_s, status) for number in range(count)]


def test_only_answers_of_200_within_the_slo_count_as_goodput() -> None:
    told = [
        Outcome(0.1, 0.01, 200),
        Outcome(0.2, 0.061, 200),
        Outcome(0.3, 0.001, 503),
        Outcome(0.4, 1.0, GAVE_UP),
        Outcome(0.5, 0.1, FAILED),
        Outcome(1.0, 0.01, 200),
    ]
    got = score(told, 0.0, 1.0, SLO_S)
    assert (got.arrivals, got.in_time_per_s, got.in_time_share) == (5, 1.0, 0.2)
    assert (got.answered_ms_p99, got.refused_ms_p99) == (61.0, 1.0)
    assert got.statuses == {"-1": 1, "0": 1, "200": 2, "503": 1}


def test_a_step_without_answers_has_no_quantiles() -> None:
    got = score(outcomes(0, 1, 1.0, GAVE_UP), 0.0, 1.0, SLO_S)
    assert got.in_time_per_s == 0
    assert got.answered_ms_p99 is None


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (100, 99), (101, 100)])
def test_a_quantile_is_a_value_that_was_seen(count: int, expected: int) -> None:
    assert quantile(range(1, count + 1), 0.99) == expected


def test_a_server_that_never_was_unwell_is_well_again_at_once() -> None:
    assert recovery_s(outcomes(5, 8, 0.01), 5, 8, SLO_S) == 0


def test_recovery_counts_from_the_fall_until_later_arrivals_are_in_time() -> None:
    told = outcomes(5, 6.2, 0.2) + outcomes(6.2, 9, 0.01)
    got = recovery_s(told, 5, 9, SLO_S)
    assert got is not None
    assert 1.15 <= got <= 1.2  # the half second from then on holds at least 95 % in time


def test_a_relapse_starts_the_recovery_anew() -> None:
    told = outcomes(5, 6, 0.01) + outcomes(6, 7, 0.2) + outcomes(7, 9, 0.01)
    got = recovery_s(told, 5, 9, SLO_S)
    assert got is not None
    assert got > 1.9


def test_a_server_that_stays_unwell_has_no_recovery() -> None:
    assert recovery_s(outcomes(5, 9, 1.0, GAVE_UP), 5, 9, SLO_S) is None


def test_order_and_answer_survive_their_way_between_processes() -> None:
    order = Order("127.0.0.1", 80, Request("http", "/infer", {"A": "b"}, "body"), [Phase(10.0, 1.0)], seed=3)
    assert Order.from_json(order.to_json()) == order
    told = Told(outcomes(0, 0.1, 0.01), 1.0, 0.1, 0, 0.0, 8, None)
    assert Told.from_json(told.to_json()) == told


def record(capacity_per_s: float, in_time: dict[float, float], **others: Any) -> dict[str, Any]:
    """Return a contender's record of one round."""
    steps = [
        {
            "multiple": multiple,
            "score": {
                "in_time_per_s": share * capacity_per_s,
                "answered_ms_p99": others.get("p99", 40.0),
                "refused_ms_p99": others.get("refused", 3.0),
                "statuses": others.get("statuses", {"200": 9, "503": 1}),
            },
            "memory_mb": 200,
            "recovery_s": others.get("recovery_s", 0.1),
            "fall_seen_s": 5.0,
            "tainted": False,
            "bottleneck": None,
        }
        for multiple, share in in_time.items()
    ]
    return {"capacity": {"per_s": capacity_per_s, "cpu_ms": 2.0}, "steps": steps}


GOOD = {0.5: 0.5, 1.0: 0.97, 1.5: 0.96, 2.0: 0.93, 5.0: 0.81}


def test_a_run_that_meets_every_goal_misses_none() -> None:
    assert tables.missed([record(700, GOOD)], 60) == []


def test_each_goal_is_checked() -> None:
    bad = record(700, {**GOOD, 5.0: 0.5}, p99=64, refused=11, statuses={"-1": 3}, recovery_s=None)
    expected = ["5x 0.50 < 0.80", "p99 64 ms", "refusals 11 ms", "well again > 5 s", "statuses"]
    assert tables.missed([bad], 60) == expected


def results() -> dict[str, Any]:
    """Return the results of a run with one peer."""
    records = {
        "bars": [{"AsyncInferQueue, in process": {"per_s": 750.0}}],
        "orch": [record(700, GOOD), record(650, GOOD)],
        "FastAPI": [record(500, dict.fromkeys(GOOD, 0.1)), {"error": "did not start"}],
        "FastAPI, by hand": [record(500, dict.fromkeys(GOOD, 0.4))],
    }
    kept = {"records": records, "anything": {"resnet50, 150 ms": record(220, {1.0: 1, 1.5: 1, 2.0: 1, 5.0: 1})}}
    return {**kept, "slo_ms": 60.0, "machine": {"cores": 2}, "peers": {"fastapi": "1"}, "when": "2026"}


def test_tables_name_every_contender_with_its_share_of_its_own_capacity() -> None:
    text = tables.markdown(results())
    assert "| orch | 675 | 338 (0.50)" in text
    assert "| FastAPI, by hand | 500 |" in text
    assert "| resnet50, 150 ms | 220 | 1.00 | 1.00 | 1.00 | 1.00 |" in text


def test_the_chart_is_well_formed_and_names_every_line() -> None:
    picture = ET.fromstring(chart.svg(results()))
    texts = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("orch") == 2
    assert texts.count("FastAPI") == 2


def test_labels_of_lines_that_end_together_stand_apart() -> None:
    panel = chart.Panel(0, (0.5, 5.0), 100)
    ends = chart._ends(panel, [chart.Curve(name, [(5.0, per_s)]) for name, per_s in (("a", 0), ("b", 1), ("c", 90))])
    heights = [y for y, _ in ends]
    assert all(low - high >= chart.LINE_HEIGHT for low, high in pairwise(heights))
