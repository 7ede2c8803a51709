"""Writes a bench as one HTML page that needs nothing else: capacity, charts, every try, what else was there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from orchestrator.planner.bench import Measured, Tried
from orchestrator.planner.bench_chart import Goodput, goodput_chart
from orchestrator.planner.bench_result import Bench, holds, load_text, sentences, slo_text
from orchestrator.planner.bench_text import ceiling_s, drawn
from orchestrator.planner.chart import Drawing, Series, chart
from orchestrator.planner.curve import Point
from orchestrator.planner.decision import Capacity
from orchestrator.planner.explain import duration, figure, interval, rate
from orchestrator.planner.page import cell, facts, figures, listed, page, table

_FOOT = (
    "Latency counts from the scheduled arrival, also of what could not be sent in time. A request that was refused,"
    " expired, failed or was given up by the bench missed the SLO; percentiles are of the answered."
)
WORDS = {
    "floor": "one caller alone",
    "search": "search",
    "beyond": "beyond the capacity",
    "below": "below the capacity",
    "curve": "curve",
    "fixed": "fixed rate",
}


def bench_html(bench: Bench, host: Sequence[tuple[str, str]]) -> str:
    """Return the page; `host` tells of the machine that sent the load. Same input, same bytes."""
    called = f"{bench.deployment}/{bench.model}" if bench.deployment else bench.model
    section = [
        '<section aria-labelledby="found">',
        f'<div class="head"><h2 id="found">{escape(called)}</h2>{_badge(bench)}</div>',
        figures(_figures(bench)),
        f"<h3>What was found</h3>\n{listed(sentences(bench))}",
        *_charts(bench),
        f"<h3>Every load that was tried</h3>\n{_table(bench)}",
        f"<h3>How</h3>\n{facts(_how(bench), 'wide')}",
        "</section>",
    ]
    machine = f'<section aria-labelledby="machine"><h2 id="machine">The machine</h2>\n{facts(host, "wide")}</section>'
    parts = ["\n".join(part for part in section if part), machine if host else ""]
    return page(f"Bench of {called}", f"Made by orch bench, {bench.date}", parts, _FOOT)


def _badge(bench: Bench) -> str:
    question = bench.question
    if question.latency_s is None:
        return '<span class="badge unverified"><span aria-hidden="true">?</span> no SLO</span>'
    subject = "the declared load" if question.declared is not None and question.fixed is None else "the SLO"
    found = bench.measured
    if found is not None and subject == "the SLO" and found.per_s > 0:
        word = "holds up to" if found.held_above_per_s is None else "capacity"
        return f'<span class="badge verified">{word} {escape(rate(found.per_s))}</span>'
    if holds(bench):
        return f'<span class="badge verified"><span aria-hidden="true">\N{CHECK MARK}</span> {subject} holds</span>'
    sign, kind, word = "\N{MULTIPLICATION X}", "rejected", "does not hold"
    if bench.measured is None and question.fixed is None:
        sign, kind, word = "?", "unverified", "is not known to hold"
    return f'<span class="badge {kind}"><span aria-hidden="true">{sign}</span> {subject} {word}</span>'


def _figures(bench: Bench) -> list[tuple[str, str, str]]:
    question, found, planned = bench.question, bench.measured, bench.planned.capacity
    told = [("Measured capacity", _measured(found), _spread(found))] if question.latency_s is not None else []
    if bench.deployment is not None:
        note = f"measured is {bench.ratio:.2f} times that" if bench.ratio is not None else ""
        told.append(("Planned capacity", rate(planned.per_s) if planned else "not planned", note))
    declared = load_text(question.declared, closed=question.closed) if question.declared is not None else "no rate"
    told.append(("Asked for", declared, slo_text(question)))
    floor = next((each for each in bench.tried if each.purpose == "floor" and each.p50_s is not None), None)
    if floor is not None and floor.p50_s is not None:
        told.append(("Floor", duration(floor.p50_s), "median of one caller alone"))
    return told


def _measured(found: Measured | None) -> str:
    if found is None:
        return "not searched"
    return rate(found.per_s) if found.per_s > 0 else "none"


def _spread(found: Measured | None) -> str:
    if found is None or found.per_s <= 0:
        return ""
    low = f"{rate(found.low_per_s)} held by test" if found.low_per_s is not None else "nothing held by test"
    high = f"{rate(found.high_per_s)} missed" if found.high_per_s is not None else "nothing missed by test"
    above = f", {rate(found.held_above_per_s)} held nonetheless" if found.held_above_per_s is not None else ""
    return f"{low}, {high}{above}"


# The charts.


def _charts(bench: Bench) -> list[str]:
    points = drawn(bench.tried)
    if not points:
        return ['<p class="note">Nothing was tried, so there is nothing to draw.</p>']
    drawing = _latency(bench, points)
    latency = (
        f"<h3>Latency against arrival rate</h3>\n<figure>\n{chart(drawing, 'latency')}\n"
        f"<figcaption>{escape(_legend(bench, drawing))}</figcaption>\n</figure>"
    )
    good = Goodput(
        title="Answers in time against the arrival rate",
        described="; ".join(f"at {rate(each.per_s)}: {rate(each.goodput_per_s)} in time" for each in points),
        good=_points(points, "goodput_per_s", max),
        marks=_marks(bench),
    )
    goodput = (
        f"<h3>Answers in time</h3>\n<figure>\n{goodput_chart(good, 'goodput')}\n"
        "<figcaption>Dotted: every request that arrives is answered in time.</figcaption>\n</figure>"
    )
    return [latency, goodput]


def _legend(bench: Bench, drawing: Drawing) -> str:
    letters = ", ".join(f"{each.letter} {each.name}" for each in drawing.series)
    if bench.question.latency_s is None:
        return f"{letters}: percentiles of the answered."
    planned = ", and as planned" if bench.planned.capacity is not None else ""
    return f"{letters}: percentiles of the answered. On the SLO line: the capacity with its interval{planned}."


def _latency(bench: Bench, points: Sequence[Tried]) -> Drawing:
    question = bench.question
    # The SLO's percentile comes first, as the one that is asked about.
    named = [(f"p{question.percentile:g}", "at_percentile_s")]
    named += [each for each in (("p50", "p50_s"), ("p95", "p95_s"), ("p99", "p99_s")) if each[0] != named[0][0]]
    series = [
        Series(number, name, "tries", _points(points, attribute), _interval(bench.measured) if not number else None)
        for number, (name, attribute) in enumerate(named)
    ]
    if bench.planned.capacity is not None and question.latency_s is not None:
        series.append(Series(len(series), "planned", "tries", (), bench.planned.capacity))
    return Drawing(
        title=f"Latency of {bench.model} against the arrival rate",
        described=f"{slo_text(question)}. {' '.join(sentences(bench))}",
        percentile=question.percentile,
        slo_s=question.latency_s,
        asked_per_s=None if question.closed else question.declared,
        seen=None,
        series=tuple(series),
        ceiling_s=ceiling_s(bench),
        axis="latency",
    )


def _points(
    points: Sequence[Tried], attribute: str, better: Callable[[float, float], float] = min
) -> tuple[Point, ...]:
    """Return one point for each load; of several tries at a load the best, as others disturbed the rest."""
    best: dict[float, float] = {}
    for each in points:
        seen = getattr(each, attribute)
        if seen is not None:
            best[each.per_s] = better(seen, best.get(each.per_s, seen))
    return tuple(Point(per_s, best[per_s]) for per_s in sorted(best))


def _interval(found: Measured | None) -> Capacity | None:
    if found is None or found.per_s <= 0:
        return None
    low = found.per_s if found.low_per_s is None else min(found.per_s, found.low_per_s)
    high = max(found.per_s, found.high_per_s or 0.0, found.held_above_per_s or 0.0)
    return Capacity(per_s=found.per_s, low_per_s=low, high_per_s=high)


def _marks(bench: Bench) -> tuple[tuple[float, str, str], ...]:
    found, planned = bench.measured, bench.planned.capacity
    marks = []
    if found is not None and found.per_s > 0:
        marks.append((found.per_s, f"capacity {rate(found.per_s)}", "halo"))
    if planned is not None and planned.per_s > 0:
        marks.append((planned.per_s, f"planned {rate(planned.per_s)}", "soft halo"))
    return tuple(marks)


# The table.


def _table(bench: Bench) -> str:
    percentiles = ("p50", "p95", "p99")
    heads = ("Load", "For", *percentiles, "In time", "Missed", "Outcome", "Generator")
    rows = "\n".join(_row(each, bench) for each in bench.tried)
    return f'<div id="tries">{table("In the order in which they were tried", heads, rows)}</div>'


def _row(tried: Tried, bench: Bench) -> str:
    load = load_text(tried.load, closed=tried.closed)
    cells = [
        cell("For", WORDS[tried.purpose]),
        *(
            cell(name, "none" if seen is None else duration(seen), "times")
            for name, seen in (("p50", tried.p50_s), ("p95", tried.p95_s), ("p99", tried.p99_s))
        ),
        cell("In time", f"{figure(tried.goodput_per_s)}/s"),
        cell("Missed", f"{tried.misses} of {tried.sent}" if bench.question.latency_s is not None else "no SLO"),
        cell("Outcome", escape(outcome(tried))),
        cell("Generator", escape(_generator(tried))),
    ]
    return f'<tr role="row"><th role="rowheader" scope="row">{escape(load)}</th>{"".join(cells)}</tr>'


def outcome(tried: Tried) -> str:
    """Return in a few words how a try ended."""
    ends = [f"{count} {word}" for count, word in ((tried.refused, "refused"), (tried.expired, "expired")) if count]
    ends += [f"{tried.failed} failed"] if tried.failed else []
    ends += [f"{tried.given_up} given up after {duration(tried.answer_s)}"] if tried.given_up else []
    if tried.verdict is None:
        return ", ".join(ends) or "all answered"
    word = {True: "held", False: "missed", None: "not decided"}[tried.held]
    unsure = ", not sure" if tried.verdict == "unverified" and tried.held is not None else ""
    return f"{word}{unsure}" + (f": {', '.join(ends)}" if ends else "")


def _generator(tried: Tried) -> str:
    use = tried.generator
    late = f", {use.late_sends} late" if use.late_sends else ""
    return use.bottleneck or f"{use.cpu:.2f} cores{late}"


def _how(bench: Bench) -> list[tuple[str, str]]:
    question, planned = bench.question, bench.planned
    told = [
        ("Endpoint", bench.url),
        ("Arrivals", f"{question.arrivals}, seed {question.seed}"),
        ("Inputs", bench.inputs),
        ("Took", duration(bench.seconds)),
        ("Planned", interval(planned.capacity) if planned.capacity else ""),
        ("Verdict of the plan", planned.verdict or ""),
    ]
    return [each for each in told if each[1]]
