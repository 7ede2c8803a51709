"""Turns a bench into what a terminal shows: sentences, a picture in letters, the table of all tries."""

from __future__ import annotations

import textwrap

from orchestrator.cli.render import Cell, Colour, Column, Screen, Table, table
from orchestrator.planner.bench import Tried
from orchestrator.planner.bench_report import WORDS, outcome
from orchestrator.planner.bench_result import Bench, load_text, sentences, slo_text
from orchestrator.planner.bench_text import chart
from orchestrator.planner.explain import duration, figure

WIDTH_MAX = 100  # of sentences and the picture: wider is no easier to read
COLUMNS = (
    Column("LOAD", right=True),
    Column("FOR", drop_rank=2),
    Column("SENT", right=True, wide_only=True),
    Column("P50", right=True, drop_rank=4),
    Column("P95", right=True, drop_rank=3),
    Column("P99", right=True),
    Column("IN TIME", right=True),
    Column("MISSED", right=True),
    Column("RESULT"),
    Column("GEN CPU", right=True, wide_only=True),
    Column("LATE", right=True, wide_only=True),
    Column("OTHERS", right=True, wide_only=True),
    Column("FOREIGN", right=True, wide_only=True),
    Column("WORKER CPU", right=True, wide_only=True),
)
_SHORT = {"beyond the capacity": "beyond", "below the capacity": "below", "one caller alone": "floor"}
_COLOURS = {True: Colour.GOOD, False: Colour.BAD, None: Colour.WARN}


def bench_text(bench: Bench, where: Screen, *, wide: bool) -> str:
    """Return all that a terminal shows."""
    width = min(WIDTH_MAX, where.width or 80)
    parts = [heading(bench) + "\n", *(_wrapped(each, width) for each in sentences(bench)), "", chart(bench, width)]
    return "\n".join([*parts, table(bench_table(bench), where, wide=wide)])


def heading(bench: Bench) -> str:
    """Return what was asked, in a line."""
    name = f"{bench.deployment}/{bench.model}" if bench.deployment else bench.model
    return f"{name} at {bench.url}: {bench.question.arrivals} arrivals, {slo_text(bench.question)}"


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def bench_table(bench: Bench) -> Table:
    """Return one row for each try."""
    return Table(COLUMNS, tuple(_row(each) for each in bench.tried))


def _row(tried: Tried) -> tuple[Cell, ...]:
    word = WORDS[tried.purpose]
    return (
        Cell(load_text(tried.load, closed=tried.closed)),
        Cell(_SHORT.get(word, word)),
        Cell(str(tried.sent)),
        *(Cell("-" if seen is None else duration(seen)) for seen in (tried.p50_s, tried.p95_s, tried.p99_s)),
        Cell(f"{figure(tried.goodput_per_s)}/s"),
        Cell(_share(tried)),
        Cell(outcome(tried), None if tried.verdict is None else _COLOURS[tried.held]),
        Cell(f"{tried.generator.cpu:.2f}"),
        Cell(str(tried.generator.late_sends)),
        Cell("-" if tried.others_per_s is None else f"{figure(tried.others_per_s)}/s"),
        Cell("-" if tried.host is None else f"{100 * tried.host.foreign:.0f}%"),
        Cell("-" if tried.worker_cpu is None else f"{tried.worker_cpu:.2f}"),
    )


def _share(tried: Tried) -> str:
    if not tried.sent or not tried.misses:
        return "0"
    share = 100 * tried.misses / tried.sent
    return f"{share:.1f}%" if share < 9.95 else f"{share:.0f}%"
