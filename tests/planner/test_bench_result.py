"""What a bench says: sentences, the picture in letters, the page, the data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.planner.bench import Ask, BenchQuestion, GeneratorUse, Tried
from orchestrator.planner.bench_report import bench_html, outcome
from orchestrator.planner.bench_result import Bench, Planned, holds, sentences, to_json
from orchestrator.planner.bench_tally import Around, Tally
from orchestrator.planner.bench_text import chart, try_line
from orchestrator.planner.decision import Capacity
from orchestrator.profiling.measurement import GIVEN_UP, Host


def a_try(load: float, share: float = 0.0, *, held: bool | None = True, **over: Any) -> Tried:
    sent = 400
    fields: dict[str, Any] = {
        "purpose": "search",
        "load": load,
        "closed": False,
        "seconds": 5.0,
        "sent": sent,
        "answered": sent,
        "refused": 0,
        "expired": 0,
        "failed": 0,
        "misses": round(share * sent),
        "p50_s": 0.01,
        "p95_s": 0.02,
        "p99_s": 0.03 if held else 0.09,
        "at_percentile_s": 0.03 if held else 0.09,
        "verdict": {True: "verified", False: "rejected", None: "unverified"}[held],
        "held": held,
        "host": Host(foreign=0.01),
        "others_per_s": 0.0,
    }
    return Tried(**(fields | over))


FLOOR = a_try(1, purpose="floor", closed=True, verdict=None, seconds=1.0)
TRIED = (
    FLOOR,
    a_try(60),
    a_try(120, 0.5, held=False),
    a_try(85),
    a_try(88, 0.03, held=False),
    a_try(128, 0.36, held=False, purpose="beyond", refused=144, answered=256),
    a_try(170, 0.52, held=False, purpose="beyond", refused=208, answered=192),
)
PLANNED = Planned(Capacity(per_s=95, low_per_s=92, high_per_s=97), "verified", 0.009, 2, ("embedder",))


def a_bench(**over: Any) -> Bench:
    fields: dict[str, Any] = {
        "deployment": "shop-vision",
        "model": "detector",
        "url": "http://127.0.0.1:8000",
        "question": BenchQuestion(latency_s=0.04, percentile=99.0, declared=60.0, planned_per_s=95.0),
        "tried": TRIED,
        "planned": PLANNED,
        "service_s": 0.012,
        "seconds": 58.0,
        "date": "2026-11-22 12:00 UTC",
    }
    return Bench(**(fields | over))


def test_capacity_promise_what_is_left_beyond_and_the_plan_are_said_in_sentences() -> None:
    assert sentences(a_bench()) == (
        "Capacity 85/s: the largest load that held p99 within 40 ms, and 88/s missed it.",
        "The declared 60/s holds.",
        "Beyond it, answers in time: at 1.51 times 81.9/s (96 %), at 2 times 81.6/s (96 %).",
        "Planned 95/s (92 to 97): measured is 0.89 times that. It may come from: an inference took 12 ms, planned were"
        " 9 ms; it shares its cores with embedder.",
    )


NOISY = (
    FLOOR,
    a_try(190),
    a_try(199, 0.1, held=False),
    a_try(199),
    a_try(199, 0.1, held=False),
    a_try(285, purpose="beyond"),
    a_try(297, purpose="beyond"),
)


def test_loads_that_held_above_the_first_that_missed_are_told_with_the_capacity() -> None:
    """Seen to say `Capacity 190/s: the largest load that held` above a table in which 297/s held."""
    bench = a_bench(tried=NOISY)
    assert sentences(bench)[:2] == (
        "Capacity 190/s: the largest load that held p99 within 40 ms below the first that missed it, 199/s"
        " (in 2 of 3 tries).",
        "Above that, 285/s and 297/s held it nonetheless: the machine was not the same from second to second, and the"
        " capacity is from 190/s to 297/s.",
    )
    capacity = to_json(bench)["capacity"]
    assert (capacity["per_s"], capacity["held_above_per_s"]) == (190.0, 297.0)
    page = bench_html(replace(bench, question=replace(bench.question, declared=None)), ())
    assert "199/s missed, 297/s held nonetheless" in page
    assert "between 190/s and 297/s" in page, "the interval on the SLO line"
    assert "holds up to" not in page


def test_what_is_not_sure_is_told_with_its_counts() -> None:
    """Seen to say `so few requests decide nothing` of 9478 misses of 35771."""
    question = BenchQuestion(latency_s=0.04, percentile=99.0, declared=60.0)
    tried = (FLOOR, a_try(60, verdict="unverified"), a_try(62, 0.03, held=False, verdict="unverified", sent=40_000))
    told = sentences(a_bench(question=question, tried=tried))
    assert told[1:3] == (
        "Not sure at 60/s (0 of 400 missed) and 62/s (12 of 40000 missed): too few requests, too near to the 1 % that"
        " may miss, or missed in clumps; their share decides.",
        "The declared 60/s holds, as far as the share that missed tells.",
    )
    fixed = a_try(60, purpose="fixed", verdict="unverified")
    told = sentences(a_bench(question=replace(question, fixed=60.0), tried=(FLOOR, fixed)))
    assert told[0] == "At 60/s p99 within 40 ms held, not proven: 0 of 400 requests missed it."


def test_where_no_load_held_there_is_no_ratio_to_the_plan() -> None:
    """Seen to say `measured is 0.00 times that` of a search that tried nothing as low as the plan's figure."""
    bench = a_bench(tried=(FLOOR, *(a_try(6000, 0.9, held=False) for _ in range(3))))
    assert sentences(bench)[0] == (
        "No load held p99 within 40 ms: the least that was tried is 6000/s; a larger --budget would try less."
    )
    assert sentences(bench)[-1] == "Planned 95/s (92 to 97): no load as low was tried, so it is not compared."
    assert to_json(bench)["ratio"] is None
    assert "0.00 times" not in bench_html(bench, ())
    lower = replace(bench, tried=(*bench.tried, a_try(50, 0.2, held=False)))
    assert any(
        each.startswith("Planned 95/s (92 to 97), and 50/s already missed the SLO. It may come from: an inference took")
        for each in sentences(lower)
    )


def test_a_least_load_that_missed_below_one_that_held_is_no_capacity() -> None:
    bench = a_bench(tried=(FLOOR, a_try(60, 0.2, held=False), a_try(120)))
    assert sentences(bench)[:2] == (
        "No capacity was found: 60/s, the least that was tried, missed p99 within 40 ms.",
        "Above that, 120/s held it nonetheless: the machine was not the same from second to second.",
    )


def test_a_capacity_below_the_declared_rate_is_a_no() -> None:
    assert holds(a_bench())
    bench = a_bench(tried=(FLOOR, a_try(60, 0.2, held=False), a_try(40)))
    assert not holds(bench)
    assert "The declared 60/s does not hold." in sentences(bench)
    assert not holds(a_bench(tried=(FLOOR, a_try(60, 0.2, held=None)))), "what is not known is not promised"


@pytest.mark.parametrize(("per_s", "words"), [(88.0, "as planned."), (60.0, "A plan keeps a tenth")])
def test_what_agrees_with_the_plan_or_is_above_it_needs_no_causes(per_s: float, words: str) -> None:
    planned = replace(PLANNED, capacity=Capacity(per_s=per_s, low_per_s=per_s, high_per_s=per_s))
    (said,) = [each for each in sentences(a_bench(planned=planned)) if each.startswith("Planned")]
    assert words in said


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"others_per_s": 12.0}, "other clients sent up to 12/s"),
        ({"host": Host(foreign=0.4)}, "other processes took up to 40 % of the cores"),
        ({"host": Host(steal=0.1)}, "the hypervisor took up to 10 %"),
        ({"worker_cpu": 1.95}, "the worker used 1.95 of its 2 cores"),
        ({"generator": GeneratorUse(cpu=0.3)}, "the load generator took 0.30 cores"),
    ],
)
def test_a_capacity_below_the_plan_is_explained_by_what_was_seen(over: dict[str, Any], words: str) -> None:
    tried = (*TRIED[:3], replace(TRIED[3], **over), *TRIED[4:])
    (said,) = [each for each in sentences(a_bench(tried=tried)) if each.startswith("Planned")]
    assert words in said


def test_a_generator_that_was_itself_the_limit_says_so() -> None:
    full = GeneratorUse(cpu=0.95, bottleneck="the generator used 0.95 of one core")
    tried = (FLOOR, a_try(60), a_try(120, 0.2, held=None, generator=full))
    told = " ".join(sentences(a_bench(tried=tried)))
    assert "Above it the load generator itself was the limit" in told
    assert "The load generator was itself the bottleneck at 120/s: the generator used 0.95 of one core." in told


def test_neighbours_during_a_load_that_missed_are_named() -> None:
    tried = (FLOOR, a_try(60), a_try(120, 0.2, held=False, host=Host(foreign=0.5)))
    assert any("others took up to 50 % of the cores" in each for each in sentences(a_bench(tried=tried)))


def test_what_was_found_before_an_interruption_is_said() -> None:
    assert sentences(a_bench(tried=(), interrupted=True))[:2] == (
        "Interrupted after 58 s: this is what was found until then.",
        "Nothing was found yet.",
    )


def test_the_picture_in_letters_fits_its_width_and_marks_what_matters() -> None:
    text = chart(a_bench(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(words in text for words in ("^ capacity 85/s", "planned 95/s", "declared 60/s", "--- SLO 40 ms"))
    assert text.count("x") >= 3
    assert chart(a_bench(tried=(FLOOR,)), 80) == ""


def test_a_try_is_one_line_in_a_pipe() -> None:
    assert try_line(TRIED[5], 99.0) == "128/s: missed, p99 90 ms, 144 of 400 missed, 144 refused, 81.9/s in time"


def test_the_page_needs_nothing_else_and_holds_no_markup_from_names() -> None:
    page = bench_html(a_bench(model="<b>detector"), (("Host", "<i>shop"),))
    assert page == bench_html(a_bench(model="<b>detector"), (("Host", "<i>shop"),))
    assert "<b>detector" not in page
    assert "<i>shop" not in page
    assert "http-equiv" in page
    assert "src=" not in page
    for words in ("the declared load holds", "capacity 85/s", "planned 95/s", "SLO 40 ms", "beyond the capacity"):
        assert words in page
    assert page.count("<svg") == 4, "two charts, each wide and narrow"
    bench_html(a_bench(tried=()), ())
    bench_html(a_bench(question=BenchQuestion(None, 99.0), planned=Planned()), ())


def test_the_data_hold_all_that_is_said() -> None:
    data = json.loads(json.dumps(to_json(a_bench())))
    assert data["kind"] == "BenchResult"
    assert data["capacity"] == {
        "per_s": 85.0,
        "low_per_s": 85.0,
        "high_per_s": 88.0,
        "callers": None,
        "limit": "slo",
        "held_above_per_s": None,
    }
    assert (data["ratio"], data["declared_holds"], data["holds"], data["complete"]) == (0.8947, True, True, True)
    assert data["planned"] == {"per_s": 95.0, "low_per_s": 92.0, "high_per_s": 97.0, "verdict": "verified"}
    assert [each["purpose"] for each in data["tries"]][-2:] == ["beyond", "beyond"]
    assert data["tries"][-1]["goodput_per_s"] == pytest.approx(81.6)


def test_what_the_bench_gave_up_is_not_called_failed() -> None:
    question = BenchQuestion(latency_s=1.0, percentile=99.0)
    tally = Tally(question, Ask("fixed", 60, False, 5.0, 5.0, None, 1))
    fates = [(0.5, 200), (4.0, GIVEN_UP), (4.0, GIVEN_UP), (0.1, 500)]
    tally.note([(0.1 * number, latency_s, status, 0.0) for number, (latency_s, status) in enumerate(fates)], 0, 0.0)
    tried = tally.tried(5.0, Around())
    assert (tried.misses, tried.failed, tried.given_up) == (3, 1, 2)
    assert outcome(tried).endswith(": 1 failed, 2 given up after 4 s")
    assert ", 1 failed, 2 given up, " in try_line(tried, 99.0)
    data = to_json(a_bench(tried=(FLOOR, tried)))["tries"][1]
    assert (data["failed"], data["given_up"], data["given_up_after_s"]) == (1, 2, 4.0)
    assert "2 given up after 4 s" in bench_html(a_bench(tried=(FLOOR, tried)), ())
