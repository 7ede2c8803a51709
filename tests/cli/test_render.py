"""Tables, colours and shortening: literals in, whole text out."""

from __future__ import annotations

from typing import Any

import pytest
from statuses import DETECTOR, ITEMS, NOW

from orchestrator.cli.render import Cell, Colour, Column, Screen, Table, cut_end, cut_middle, table
from orchestrator.cli.status_table import age, headroom_text, inline_text, milliseconds, plan_text, status_table

AT_60 = """\
NAME                  HEALTH     RATE        P99/SLO  SAT
shop-vision/detector  Healthy  58.2/s      21.3/40ms  61%
shop-vision/embedder  Healthy   412/s  p95 31.5/20ms  104%
line-7/counter        Missing       -              -  -
"""
AT_80 = """\
NAME                  DEVICE   SYNC       HEALTH     RATE        P99/SLO  SAT
shop-vision/detector  CPU      Synced     Healthy  58.2/s      21.3/40ms  61%
shop-vision/embedder  GPU,CPU  Synced     Healthy   412/s  p95 31.5/20ms  104%
line-7/counter        GPU      OutOfSync  Missing       -              -  -
"""
AT_120 = """\
NAME                  DEVICE   PLAN              SYNC       HEALTH     RATE        P99/SLO  SAT             HEADROOM
shop-vision/detector  CPU      2x1 b1 r2         Synced     Healthy  58.2/s      21.3/40ms  61%               36.8/s
shop-vision/embedder  GPU,CPU  CUMULATIVE b1 r8  Synced     Healthy   412/s  p95 31.5/20ms  104% SATURATED   unknown
line-7/counter        GPU      2s b4 r4          OutOfSync  Missing       -              -  -                      -
"""
AT_200 = [
    "NAME                  DEVICE   PLAN                         SYNC       HEALTH     RATE    P50        P99/SLO"
    "  SAT             HEADROOM  RESTARTS  REV  AGE",
    "shop-vision/detector  CPU      2x1 b1 r2                    Synced     Healthy  58.2/s  9.1ms      21.3/40ms"
    "  61%               36.8/s         0    4   3h",
    "shop-vision/embedder  GPU,CPU  CUMULATIVE_THROUGHPUT b1 r8  Synced     Healthy   412/s   11ms  p95 31.5/20ms"
    "  104% SATURATED   unknown         0    4   3h",
    "line-7/counter        GPU      2s b4 r4                     OutOfSync  Missing       -      -              -"
    "  -                      -         3    1    -",
]


@pytest.mark.parametrize(("width", "text"), [(60, AT_60), (80, AT_80), (120, AT_120), (200, "\n".join(AT_200) + "\n")])
def test_a_status_fits_the_terminal_by_leaving_out_what_matters_least(width: int, text: str) -> None:
    assert table(status_table(ITEMS, NOW), Screen(width)) == text


def test_a_status_in_a_pipe_has_a_header_and_tabs_and_nothing_shortened() -> None:
    lines = table(status_table(ITEMS, NOW), Screen(None)).splitlines()
    assert [len(line.split("\t")) for line in lines] == [14] * 4
    assert lines[0].startswith("NAME\tDEVICE\tPLAN\tSYNC\tHEALTH\tRATE\tP50\tP99/SLO\tSAT\tHEADROOM\tRESTARTS")
    assert lines[2].split("\t")[8] == "104% SATURATED"


def test_a_wide_status_shows_every_column_whatever_the_terminal() -> None:
    header, first, *_ = table(status_table(ITEMS, NOW), Screen(60), wide=True).splitlines()
    assert header.split() == [column.header for column in status_table([], NOW).columns]
    assert first.endswith("http://127.0.0.1:8000 grpc://127.0.0.1:8001  -")


def troubled(health: str, message: str, *models: dict[str, Any]) -> dict[str, Any]:
    conditions = [
        {"type": "Ready", "status": "False", "message": "not ready"},
        {"type": "Degraded", "status": str(health == "Degraded"), "message": message},
    ]
    return ITEMS[0] | {"health": health, "conditions": conditions, "models": list(models)}


def test_a_terminal_tells_below_the_rows_why_they_are_not_as_they_should_be() -> None:
    other = DETECTOR | {"name": "other"}
    items = [
        troubled("Degraded", "revision 5 failed,\nthe revision before it serves: no file", DETECTOR, other),
        ITEMS[0],
    ]
    lines = table(status_table(items, NOW), Screen(60)).splitlines()
    assert lines[3] == "  revision 5 failed, the revision before it serves: no file"
    assert [line.split()[0] for line in lines if not line.startswith("  ")] == [
        "NAME",
        "shop-vision/detector",
        "shop-vision/other",
        "shop-vision/detector",
        "shop-vision/embedder",
    ]
    narrow = table(status_table(items, NOW), Screen(40)).splitlines()
    assert narrow[3:5] == ["  revision 5 failed, the revision before", "  it serves: no file"]
    items = [troubled("Degraded", "so many words " * 9, DETECTOR)]
    assert table(status_table(items, NOW), Screen(40)).splitlines()[3:] == ["  words so many words so many words so…"]


def test_what_is_wrong_with_one_model_stands_below_that_one() -> None:
    broken = DETECTOR | {"name": "broken", "message": "inferences fail or hang"}
    lines = table(status_table([troubled("Healthy", "", broken, DETECTOR)], NOW), Screen(80)).splitlines()
    assert lines[2] == "  inferences fail or hang"
    assert len(lines) == 4


def test_a_pipe_and_the_wide_table_have_the_reason_in_its_column() -> None:
    data = status_table([troubled("Missing", "", DETECTOR)], NOW)
    assert table(data, Screen(None)).splitlines()[1].endswith("\tnot ready")
    wide = table(data, Screen(60), wide=True).splitlines()
    assert len(wide) == 2
    assert wide[1].endswith("  not ready")


def test_a_plan_that_does_not_run_yet_is_a_reason() -> None:
    item = ITEMS[0] | {"sync": "OutOfSync"}
    assert table(status_table([item], NOW), Screen(80)).splitlines()[3].startswith("  what runs is an earlier plan")


@pytest.mark.parametrize(
    ("value", "state", "text"),
    [
        (0.01, "OK", "1%"),
        (10.0, "OK", ">999%"),
        (10.0, "SATURATED", ">999% SATURATED"),
        (1.2, "BUSY", "120%"),
        (0.75, "BUSY", "75% BUSY"),
        (0.6, "BUSY", "60% BUSY"),
        (0.4, "SATURATED", "40%"),
        (0.4, "OVERLOADED", "40% OVERLOADED"),
    ],
)
def test_how_full_a_pool_is_never_contradicts_its_state(value: float, state: str, text: str) -> None:
    item = ITEMS[0] | {"models": [DETECTOR | {"saturation": {"value": value, "state": state, "cause": "x"}}]}
    assert table(status_table([item], NOW), Screen(None)).splitlines()[1].split("\t")[8] == text


@pytest.mark.parametrize("width", [40, 45, 60, 80, 100, 120, 160, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    longest = max(map(len, table(status_table(ITEMS, NOW), Screen(width)).splitlines()))
    assert longest <= width


def test_a_name_too_long_keeps_its_beginning_and_its_end() -> None:
    assert cut_middle("warehouse-north/detector", 12) == "wareh…tector"
    assert cut_middle("short", 12) == "short"


def test_a_message_too_long_is_cut_at_its_end_instead_of_the_name() -> None:
    columns = (Column("NAME"), Column("MESSAGE", cut_end=True))
    data = Table(columns, ((Cell("shop-vision"), Cell("a long message that does not fit")),))
    assert table(data, Screen(30)).splitlines()[1] == "shop-vision  a long message t…"
    assert cut_end("abcdef", 4) == "abc…"


def test_colours_stand_around_words_and_do_not_count_as_width() -> None:
    data = Table((Column("A"), Column("B")), ((Cell("bad", Colour.BAD), Cell("x")), (Cell("longer"), Cell("y"))))
    plain, coloured = table(data, Screen(80)), table(data, Screen(80, colour=True))
    assert "\x1b" not in plain
    assert coloured.replace("\x1b[31m", "").replace("\x1b[0m", "") == plain
    assert "\x1b[31mbad\x1b[0m     x" in coloured


def test_a_tab_or_line_end_inside_a_value_does_not_shift_the_columns() -> None:
    data = Table((Column("A"), Column("B")), ((Cell("one\ttwo\nthree"), Cell("")),))
    assert table(data, Screen(None)) == "A\tB\none two three\t-\n"


def test_a_deployment_without_models_has_a_row_of_its_own() -> None:
    item = ITEMS[1] | {"models": []}
    assert table(status_table([item], NOW), Screen(40)).splitlines()[1].split() == ["line-7", "Missing", "-", "-", "-"]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ({}, "-"),
        ({"expression": "explicit", "streams": 2, "threads": 4, "batch": 1, "requests": 2}, "2x2 b1 r2"),
        ({"expression": "explicit", "streams": 2, "threads": None, "batch": 4, "requests": None}, "2s b4"),
        (
            {"expression": "hint", "properties": {"PERFORMANCE_HINT": "LATENCY"}, "streams": 1, "threads": 2},
            "LATENCY 1x2 b1",
        ),
        (
            {
                "expression": "hint",
                "properties": {"PERFORMANCE_HINT": "THROUGHPUT"},
                "streams": 2,
                "threads": 2,
                "requests": 1,
                "inline": True,
                "rows_together": 64,
            },
            "THROUGHPUT inline x64",
        ),
        (
            {"expression": "explicit", "streams": 2, "threads": 2, "requests": 1, "inline": True, "rows_together": 1},
            "2x1 inline",
        ),
    ],
)
def test_a_plan_fits_into_a_word(plan: dict[str, object], text: str) -> None:
    assert plan_text(plan) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "0.001ms"), (0.0834, "0.083ms"), (0.997, "1ms"), (0.0, "0ms"), (7.25, "7.2ms"), (112.4, "112ms")],
)
def test_a_latency_of_microseconds_is_not_told_as_none(value: float, text: str) -> None:
    """Seen with an SLO of 1us, told as 0ms."""
    assert milliseconds(value) == text


def test_how_an_inline_model_is_inferred_is_told_in_words() -> None:
    assert inline_text({"inline": False, "rows_together": 1}) is None
    assert inline_text({"inline": True, "rows_together": 64}) == (
        "inferred where requests arrive, up to 64 rows together (the model takes less than a hand-over between threads)"
    )
    assert "each request alone" in str(inline_text({"inline": True, "rows_together": 1}))


@pytest.mark.parametrize(
    ("started", "text"),
    [
        ("2026-03-01T11:59:30Z", "30s"),
        ("2026-03-01T11:00:00.123Z", "59m"),
        ("2026-02-28T12:00:00+00:00", "24h"),
        ("2026-01-01T00:00:00Z", "59d"),
        ("2026-03-01T12:00:05Z", "0s"),
        (None, "-"),
        ("yesterday", "-"),
    ],
)
def test_an_age_has_one_unit(started: str | None, text: str) -> None:
    assert age(started, NOW) == text


FULL = {"value": 1.18, "state": "SATURATED", "cause": "offered load", "origin": "demand", "advice": "send less"}
SLOW = {"drifted": True, "origin": "host", "advice": "others use 45% of the cores"}


@pytest.mark.parametrize(
    ("model", "note"),
    [
        ({"saturation": FULL}, "  SATURATED: send less"),
        ({"saturation": FULL, "drift": SLOW}, "  SATURATED: send less"),
        ({"saturation": FULL | {"state": "BUSY"}}, None),
        ({"drift": SLOW}, "  slow: others use 45% of the cores"),
        ({"drift": SLOW | {"drifted": False}}, None),
        ({"saturation": FULL, "message": "inferences fail or hang"}, "  inferences fail or hang"),
    ],
)
def test_a_pool_that_is_full_or_slow_says_below_its_row_what_to_do(model: dict[str, Any], note: str | None) -> None:
    items = [ITEMS[0] | {"models": [DETECTOR | model]}]
    assert table(status_table(items, NOW), Screen(80)).splitlines()[2:] == ([note] if note else [])


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ({"saturation": FULL}, "demand"),
        ({"saturation": FULL | {"origin": "throttling"}}, "CPU quota"),
        ({"saturation": FULL | {"origin": "none", "state": "OK"}}, "offered load"),
        ({"saturation": FULL | {"origin": "none", "state": "OK"}, "drift": SLOW}, "other processes"),
    ],
)
def test_the_cause_is_who_makes_the_pool_full_or_slow(model: dict[str, Any], cause: str) -> None:
    data = status_table([ITEMS[0] | {"models": [DETECTOR | model]}], NOW)
    at = [column.header for column in data.columns].index("CAUSE")
    assert data.rows[0][at].text == cause


def test_headroom_is_unknown_where_a_model_serves_and_nothing_was_measured() -> None:
    unmeasured = {"capacity_per_s": None, "headroom_per_s": None}
    assert headroom_text(DETECTOR) == "36.8/s"
    assert headroom_text(DETECTOR | unmeasured) == "unknown"
    assert headroom_text(DETECTOR | unmeasured | {"observed": None}) == "-"
