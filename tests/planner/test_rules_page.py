"""The rules' reference page is what the code says."""

from __future__ import annotations

import importlib
from pathlib import Path

from orchestrator.planner.demand import HINT_TABLE
from orchestrator.planner.rules import RULES, SOURCES
from orchestrator.planner.rules_page import EXAMPLES, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "planner-rules.md"


def test_the_page_is_up_to_date(update_golden: bool) -> None:
    if update_golden:
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_place_that_a_rule_names_exists() -> None:
    places = [place for rule in RULES.values() if rule.where for place in rule.where.split(", ")]
    for place in places:
        module, name = place.split(".")
        assert hasattr(importlib.import_module(f"orchestrator.planner.{module}"), name), place


def test_every_source_is_a_page_or_an_issue_or_a_probe() -> None:
    for rule in RULES.values():
        for source in rule.source.split(", "):
            assert source in SOURCES or "#" in source or source == "probe"


def test_each_example_falls_under_its_line_of_the_table() -> None:
    assert len(EXAMPLES) == len(HINT_TABLE)
    for index, demand in enumerate(EXAMPLES):
        assert [row.holds(demand) for row in HINT_TABLE].index(True) == index
