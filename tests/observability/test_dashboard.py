"""The dashboard has the structure that Grafana imports: places, numbers, variables, data sources."""

from __future__ import annotations

import itertools
import re
from typing import Any

from orchestrator.telemetry import dashboard

MADE = dashboard.dashboard()
PANELS: list[dict[str, Any]] = MADE["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
KINDS = {"row", "timeseries", "stat", "state-timeline", "table"}
UNITS = {"short", "percentunit", "reqps", "s", "bytes"}


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    return set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))


def test_no_panel_lies_on_another_or_beside_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        mine = cells(panel)
        assert not taken & mine, panel["title"]
        assert max(column for column, _ in mine) < dashboard.WIDTH, panel["title"]
        taken |= mine


def test_panels_have_numbers_of_their_own_and_kinds_and_units_that_grafana_knows() -> None:
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    assert {panel["type"] for panel in PANELS} == KINDS
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in DRAWN} <= UNITS
    assert len({panel["title"] for panel in DRAWN}) == len(DRAWN)


def test_every_query_goes_to_the_data_source_that_is_chosen_and_has_a_letter_of_its_own() -> None:
    for panel in DRAWN:
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_every_variable_that_is_used_is_there_and_the_other_way_round() -> None:
    text = dashboard.text()
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert used == {variable["name"] for variable in MADE["templating"]["list"]}
    assert [variable["name"] for variable in MADE["templating"]["list"]] == ["datasource", "deployment", "model"]


def test_legends_name_labels_that_their_queries_keep() -> None:
    for query in (query for panel in dashboard.panels() for query in panel.queries):
        named = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        grouped = re.match(r".*?by \(([^)]*)\)", query.expr)
        if grouped:
            assert named <= {*re.split(r",\s*", grouped[1])}, query.expr
