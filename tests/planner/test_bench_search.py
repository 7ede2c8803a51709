"""The search for a capacity, against servers whose capacity is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any

import pytest

from orchestrator.planner.bench import (
    BenchQuestion,
    GeneratorUse,
    Measured,
    Tried,
    bounds,
    declared_held,
    measured,
    next_ask,
)
from orchestrator.planner.bench_tally import Around
from orchestrator.profiling.measurement import Host
from orchestrator.scheduling.arrivals import arrivals
from tests.planner.virtual_server import Server, benched


def a_question(**over: Any) -> BenchQuestion:
    return BenchQuestion(**({"latency_s": 0.06, "percentile": 99.0} | over))


def found(question: BenchQuestion, server: Server) -> Measured:
    result = measured(question, benched(question, lambda _: server))
    assert result is not None
    return result


@cache
def true_capacity(server: Server, latency_s: float = 0.06, allowed: float = 0.01) -> float:
    """Return the largest rate at which so few of many Poisson arrivals miss."""
    most = server.slots / server.service_s
    low, high = 0.3 * most, 1.2 * most
    while high > 1.01 * low:
        outcomes = server.open(arrivals("poisson", (low + high) / 2, 40_000, 5))
        missed = sum(status != 200 or latency > latency_s for _, latency, status, _ in outcomes)
        low, high = ((low + high) / 2, high) if missed <= allowed * len(outcomes) else (low, (low + high) / 2)
    return low


@pytest.mark.parametrize(
    ("server", "off"),
    [(Server(0.01, patience_s=0.06), 0.3), (Server(0.02, slots=4), 0.25), (Server(0.004, slots=2), 0.15)],
    ids=["one slot that refuses", "four slots", "fast"],
)
def test_the_capacity_of_a_known_queue_is_found(server: Server, off: float) -> None:
    # Misses come in clumps, so that a minute at 70/s leaves the capacity open by some 15 %: docs/adr/0017.
    ratios = [found(a_question(seed=seed), server).per_s / true_capacity(server) for seed in range(1, 4)]
    assert abs(median(ratios) - 1) < off / 2, ratios
    assert all(abs(ratio - 1) < off for ratio in ratios), ratios


@pytest.mark.parametrize("planned", [20.0, 60.0, 200.0])
def test_a_wrong_plan_does_not_mislead_the_search(planned: float) -> None:
    truth = true_capacity(Server(0.01))
    held, missed = bounds(benched(a_question(planned_per_s=planned), lambda _: Server(0.01)))
    assert held is not None
    assert missed is not None
    assert 0.5 * truth < held < 1.25 * truth
    assert 0.8 * truth < missed


def test_a_good_plan_costs_fewer_tries() -> None:
    blind = benched(a_question(), lambda _: Server(0.002))
    planned = benched(a_question(planned_per_s=460.0), lambda _: Server(0.002))
    assert len([each for each in planned if each.purpose == "search"]) < len(
        [each for each in blind if each.purpose == "search"]
    )


def test_the_declared_rate_is_tried_first_and_judged() -> None:
    for declared, holds in ((40.0, True), (95.0, False)):
        question = a_question(declared=declared)
        tried = benched(question, lambda _: Server(0.01))
        assert (tried[1].purpose, tried[1].load) == ("search", declared)
        assert declared_held(question, tried) is holds


def test_what_is_answered_beyond_the_capacity_is_shown() -> None:
    question = a_question()
    for server, least, most in ((Server(0.01, patience_s=0.06), 0.9, 1.7), (Server(0.01), 0.0, 0.7)):
        tried = benched(question, lambda _, server=server: server)  # type: ignore[misc]
        capacity = measured(question, tried)
        beyond = [each for each in tried if each.purpose == "beyond"]
        assert capacity is not None
        assert [each.load / capacity.per_s for each in beyond] == pytest.approx([1.5, 2.0], rel=0.01)
        assert all(least <= each.goodput_per_s / capacity.per_s <= most for each in beyond)


def test_an_slo_below_one_callers_latency_is_out_of_reach_after_one_try() -> None:
    question = a_question(latency_s=0.005, declared=10.0)
    tried = benched(question, lambda _: Server(0.01))
    assert [each.purpose for each in tried] == ["floor"]
    result = measured(question, tried)
    assert result is not None
    assert (result.per_s, result.limit) == (0.0, "floor")
    assert declared_held(question, tried) is False


def test_one_burst_of_others_does_not_lower_the_capacity() -> None:
    truth = true_capacity(Server(0.001))
    question = a_question(planned_per_s=truth)

    def disturbed(number: int) -> Server:
        return Server(0.01) if number == 1 else Server(0.001)  # ten times as slow, once

    def beside(number: int, _ask: object) -> Around:
        return Around(host=Host(foreign=0.6 if number == 1 else 0.01))

    tried = benched(question, disturbed, beside)
    assert [each.held for each in tried[1:4]] == [False, True, True]
    assert {each.load for each in tried[1:4]} == {tried[1].load}, "the same load is asked again until most agree"
    result = measured(question, tried)
    assert result is not None
    assert result.per_s > 0.9 * truth


@pytest.mark.parametrize("budget_s", [5.0, 10.0, 20.0])
def test_a_rate_far_beyond_what_is_possible_on_a_busy_machine_leaves_time_to_go_down(budget_s: float) -> None:
    """Seen to try 6000/s three times and nothing else, and to keep time for loads beyond a capacity never found."""
    server, busy = Server(0.0033, patience_s=0.06), Around(host=Host(foreign=0.6))
    tried = benched(a_question(declared=6000.0, budget_s=budget_s), lambda _: server, lambda _number, _ask: busy)
    held, _ = bounds(tried)
    assert held is not None
    assert 0.5 * true_capacity(server) < held < 1.2 * true_capacity(server)


def test_before_anything_has_held_half_of_the_budget_is_kept_for_lower_loads() -> None:
    busy = Host(foreign=0.6)
    floor = Tried("floor", 1, True, 1.0, 100, 100, 0, 0, 0, 0, p50_s=0.01)
    tried = [floor, replace(a_try(6000, held=False, verdict="rejected"), host=busy)]
    again, lower = (next_ask(a_question(declared=6000.0), tried, elapsed_s) for elapsed_s in (20.0, 35.0))
    assert again is not None
    assert lower is not None
    assert (again.load, lower.load) == (6000.0, 600.0)


def test_misses_for_which_the_generator_was_late_reject_nothing() -> None:
    server = Server(0.001, most_per_s=300)
    result = found(a_question(latency_s=0.03), server)
    assert result.limit == "generator"
    assert result.high_per_s is None, "no rate is said to miss"
    assert 150 < result.per_s < 330


def test_a_generator_without_a_free_core_decides_nothing() -> None:
    full = Around(generator=GeneratorUse(cpu=0.97, bottleneck="the generator used 0.97 of one core"))
    question = a_question()
    tried = benched(question, lambda _: Server(0.01), lambda _number, ask: full if ask.load > 40 else Around())
    missed = [each for each in tried if each.purpose == "search" and each.load > 80]
    assert missed
    assert all(each.held is None and each.verdict == "unverified" for each in missed)


def test_closed_callers_are_searched_in_whole_numbers() -> None:
    question = a_question(latency_s=0.065, arrivals="closed", declared=4.0)
    tried = benched(question, lambda _: Server(0.01))
    result = measured(question, tried)
    assert result is not None
    assert result.callers == 6, "the seventh waits for six others, 70 ms"
    assert result.per_s == pytest.approx(100, rel=0.1)
    assert declared_held(question, tried) is True
    assert bounds(tried) == (6.0, 7.0)


def test_without_an_slo_there_is_a_curve_until_the_server_is_full() -> None:
    question = a_question(latency_s=None)
    tried = benched(question, lambda _: Server(0.01, patience_s=1.0))
    assert {each.purpose for each in tried} == {"floor", "curve"}
    assert measured(question, tried) is None
    loads = [each.load for each in tried if each.purpose == "curve"]
    assert loads == sorted(loads)
    assert max(each.answered_per_s for each in tried[1:]) == pytest.approx(100, rel=0.2)


def test_a_fixed_load_is_tried_once_and_to_its_end() -> None:
    question = a_question(fixed=40.0, budget_s=20.0)
    tried = benched(question, lambda _: Server(0.01))
    assert [(each.purpose, each.load, each.seconds) for each in tried[1:]] == [("fixed", 40.0, 20.0)]
    assert tried[1].verdict == "verified"
    assert measured(question, tried) is None


def test_a_budget_too_small_to_be_sure_says_so() -> None:
    question = a_question(budget_s=12.0, declared=8.0)
    tried = benched(question, lambda _: Server(0.02))
    assert declared_held(question, tried) is True
    assert {each.verdict for each in tried if each.purpose == "search"} == {"unverified"}


def test_the_same_tries_ask_the_same_next() -> None:
    question = a_question()
    tried = benched(question, lambda _: Server(0.01))
    assert benched(question, lambda _: Server(0.01)) == tried
    for number in range(len(tried)):
        assert next_ask(question, tried[:number], 1.0) == next_ask(question, list(tried[:number]), 1.0)


def a_try(load: float, *, held: bool | None, verdict: Any = "verified") -> Tried:
    return Tried("search", load, False, 3.0, 200, 200, 0, 0, 0, 0, held=held, verdict=verdict)


def test_what_held_above_a_load_that_missed_does_not_count() -> None:
    tried = [a_try(40, held=True), a_try(60, held=False), a_try(80, held=True)]
    assert bounds(tried) == (40, 60)
    assert bounds([*tried, a_try(60, held=True), a_try(60, held=True)]) == (80, None)
