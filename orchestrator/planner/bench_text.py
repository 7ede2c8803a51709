"""Draws a bench with letters: latency against load, the SLO, and where capacity, plan and promise are."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planner.bench import Tried
from orchestrator.planner.bench_result import Bench, load_text
from orchestrator.planner.chart import ticks
from orchestrator.planner.explain import duration, figure, rate

HEIGHT = 11  # rows of the plot
MARGIN = 8  # columns for the figures of the latency
WIDTH_MIN = 40
HELD, MISSED, OPEN, LINE = "o", "x", "?", "-"


def drawn(tried: Sequence[Tried]) -> list[Tried]:
    """Return the tries that a picture shows, by rising load; one caller alone is no load."""
    return sorted((each for each in tried if each.purpose != "floor" and each.sent), key=lambda each: each.per_s)


def ceiling_s(bench: Bench) -> float:
    """Return the highest latency that is drawn."""
    seen = [each.at_percentile_s for each in drawn(bench.tried) if each.at_percentile_s is not None]
    most = max(seen, default=0.001)
    limit = bench.question.latency_s
    if limit is None:
        return 1.1 * most
    return min(max(1.3 * limit, 1.1 * most), 2 * limit)


def chart(bench: Bench, width: int) -> str:
    """Return the picture in at most `width` columns, empty where there is nothing to draw."""
    points = drawn(bench.tried)
    if not points:
        return ""
    columns = max(WIDTH_MIN, width) - MARGIN - 2
    top_s = ceiling_s(bench)
    marks = _marks(bench)
    most = 1.05 * max([*(each.per_s for each in points), *(at for at, _ in marks)])
    rows = [[" "] * columns for _ in range(HEIGHT)]
    limit = bench.question.latency_s
    if limit is not None:
        rows[_row(limit, top_s)] = list((LINE + " ") * columns)[:columns]
    for each in points:
        at_s = top_s if each.at_percentile_s is None else each.at_percentile_s
        rows[_row(at_s, top_s)][_column(each.per_s, most, columns)] = _sign(each)
    unit, factor = ("s", 1.0) if top_s >= 2 else ("ms", 1e3) if top_s >= 0.002 else ("us", 1e6)
    labels = {_row(value / factor, top_s): f"{value:g}" for value in ticks(top_s * factor, 4)}
    lines = [f"p{bench.question.percentile:g}, {unit}"]
    lines += [f"{labels.get(at, ''):>{MARGIN - 1}} |{''.join(row)}" for at, row in enumerate(rows)]
    lines.append(" " * MARGIN + "+" + "-" * columns)
    lines += _axis(most, columns) + _mark_lines(marks, most, columns)
    return "\n".join(line.rstrip() for line in [*lines, _legend(bench)]) + "\n"


def _row(latency_s: float, top_s: float) -> int:
    return HEIGHT - 1 - min(HEIGHT - 1, round((HEIGHT - 1) * latency_s / top_s))


def _column(per_s: float, most: float, columns: int) -> int:
    return min(columns - 1, round((columns - 1) * per_s / most))


def _sign(tried: Tried) -> str:
    if tried.verdict is None:
        return HELD
    return {True: HELD, False: MISSED, None: OPEN}[tried.held]


def _axis(most: float, columns: int) -> list[str]:
    line = [" "] * (columns + MARGIN + 1)
    name = "requests/s"
    for value in ticks(most, max(2, columns // 14)):
        text = f"{value:g}"
        at = max(0, MARGIN + 1 + _column(value, most, columns) - len(text) // 2)
        if at + len(text) <= len(line):
            line[at : at + len(text)] = list(text)
    return ["".join(line), " " * (MARGIN + 1 + columns - len(name)) + name]


def _marks(bench: Bench) -> list[tuple[float, str]]:
    """Return what is marked below the axis, with its words."""
    found, planned, declared = bench.measured, bench.planned.capacity, bench.question.declared
    marks = []
    if found is not None and found.per_s > 0:
        marks.append((found.per_s, f"capacity {rate(found.per_s)}"))
    if planned is not None and planned.per_s > 0:
        marks.append((planned.per_s, f"planned {rate(planned.per_s)}"))
    if declared is not None and not bench.question.closed:
        marks.append((declared, f"declared {rate(declared)}"))
    return marks


def _mark_lines(marks: Sequence[tuple[float, str]], most: float, columns: int) -> list[str]:
    """Return a line for each mark, its words to the right of it where there is room, else to the left."""
    lines = []
    for per_s, says in marks:
        at = MARGIN + 1 + _column(per_s, most, columns)
        right = at + 2 + len(says) <= MARGIN + 1 + columns
        lines.append(" " * at + f"^ {says}" if right else f"{says} ^".rjust(at + 1))
    return lines


def _legend(bench: Bench) -> str:
    question = bench.question
    if question.latency_s is None:
        return f"{HELD} p{question.percentile:g} of the answered at that load"
    return f"{HELD} held   {MISSED} missed   {OPEN} not decided   {LINE * 3} SLO {duration(question.latency_s)}"


def try_line(tried: Tried, percentile: float) -> str:
    """Return one try in a line, for progress in a pipe: `60/s: held, p99 12 ms, 0 of 210 missed`."""
    load = load_text(tried.load, closed=tried.closed)
    at = "no answer" if tried.at_percentile_s is None else f"p{percentile:g} {duration(tried.at_percentile_s)}"
    word = "" if tried.verdict is None else {True: "held, ", False: "missed, ", None: "not decided, "}[tried.held]
    refused = f", {tried.refused + tried.expired} refused" if tried.refused + tried.expired else ""
    failed = f", {tried.failed} failed" if tried.failed else ""
    given_up = f", {tried.given_up} given up" if tried.given_up else ""
    late = f", {tried.misses} of {tried.sent} missed" if tried.verdict else f", {tried.sent} sent"
    return f"{load}: {word}{at}{late}{refused}{failed}{given_up}, {figure(tried.goodput_per_s)}/s in time"
