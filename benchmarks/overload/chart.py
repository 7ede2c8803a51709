"""Draw goodput against offered load as an SVG: `python -m benchmarks.overload.chart results.json chart.svg`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks.overload import tables

PANEL_WIDTH, PANEL_HEIGHT = 320, 270
LEFT, TOP, LABELS, BETWEEN, BOTTOM = 52, 74, 112, 30, 62
WIDTH: Final = LEFT + 2 * (PANEL_WIDTH + LABELS) + BETWEEN
HEIGHT: Final = TOP + PANEL_HEIGHT + BOTTOM
LINE_HEIGHT: Final = 15  # of labels that would overlap
BY_HAND: Final = ", by hand"
# Of middling lightness, so that they stand out from white and from black.
COLOURS: Final[Mapping[str, str]] = {
    "orch": "#2f7fe6",
    "FastAPI": "#c98500",
    "granian": "#8a6fdf",
    "PyTriton": "#2f9e68",
    "MLServer": "#d45c8c",
}
STYLE: Final = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .panel { font-weight: 600 } .soft { fill: #57606a }
.grid { stroke: #8c959f; stroke-opacity: .28 } .line { fill: none; stroke-width: 2 } .ours { stroke-width: 3.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .soft { fill: #9aa4af } }
"""


@dataclass(frozen=True, slots=True)
class Curve:
    """One contender's goodput over the load."""

    name: str
    points: Sequence[tuple[float, float]]
    """Multiple of its own capacity, answers in time per second."""

    @property
    def colour(self) -> str:
        """Return the contender's colour, the same in both panels."""
        return COLOURS.get(self.name.split(",")[0], "#808890")

    @property
    def marks(self) -> str:
        """Return how its line is drawn: ours thick, gRPC dashed."""
        kind = "line ours" if self.name.startswith("orch") else "line"
        dashes = ' stroke-dasharray="7 5"' if "gRPC" in self.name else ""
        return f'class="{kind}" stroke="{self.colour}"{dashes}'


@dataclass(frozen=True, slots=True)
class Panel:
    """Where a panel's points lie."""

    left: float
    multiples: Sequence[float]
    top_per_s: float

    def x(self, multiple: float) -> float:
        """Return the place of a load; twice the load is as far everywhere."""
        low, high = math.log(self.multiples[0]), math.log(self.multiples[-1])
        return round(self.left + PANEL_WIDTH * (math.log(multiple) - low) / (high - low), 1)

    def y(self, per_s: float) -> float:
        """Return the place of a goodput."""
        return round(TOP + PANEL_HEIGHT * (1 - per_s / self.top_per_s), 1)


def curves(results: Mapping[str, Any]) -> list[Curve]:
    """Return the medians over the rounds of all that were measured."""
    found = []
    for key, all_records in results["records"].items():
        records = tables.good(all_records)
        if key == "bars" or not records:
            continue
        points = []
        for multiple in tables.multiples(records):
            per_s = tables.middle(step["score"]["in_time_per_s"] for step in tables.at(records, multiple))
            points.append((multiple, per_s or 0.0))
        found.append(Curve(key, points))
    return sorted(found, key=lambda curve: curve.name)


def svg(results: Mapping[str, Any]) -> str:
    """Return the whole picture, which needs nothing from outside it."""
    every = curves(results)
    ours = [curve for curve in every if curve.name.startswith("orch")]
    as_installed = [curve for curve in every if not curve.name.endswith(BY_HAND) and curve not in ours]
    by_hand = [Curve(c.name.removesuffix(BY_HAND), c.points) for c in every if c.name.endswith(BY_HAND)]
    multiples = [multiple for multiple, _ in every[0].points]
    top = _round_up(max(per_s for curve in every for _, per_s in curve.points))
    panels = [Panel(LEFT + number * (PANEL_WIDTH + LABELS + BETWEEN), multiples, top) for number in (0, 1)]
    title = f"Answers within {results['slo_ms']:g} ms, per second, against offered load"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *_panel(panels[0], "others as installed", [*ours, *as_installed]),
        *_panel(panels[1], "others with the best limit found by hand; orch unchanged", [*ours, *by_hand]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(panel: Panel, title: str, shown: Sequence[Curve]) -> list[str]:
    right, floor = panel.left + PANEL_WIDTH, TOP + PANEL_HEIGHT
    parts = [f'<text class="panel" x="{panel.left}" y="{TOP - 18}">{escape(title)}</text>']
    for part in range(5):
        per_s = panel.top_per_s * part / 4
        y = panel.y(per_s)
        parts.append(f'<path class="grid" d="M{panel.left} {y}H{right}"/>')
        parts.append(f'<text class="soft" x="{panel.left - 8}" y="{y + 4}" text-anchor="end">{per_s:.0f}</text>')
    for multiple in panel.multiples:
        x = panel.x(multiple)
        parts.append(f'<text class="soft" x="{x}" y="{floor + 20}" text-anchor="middle">{multiple:g}x</text>')
    middle = panel.left + PANEL_WIDTH / 2
    text = "offered, in multiples of each server's own capacity"
    parts.append(f'<text class="soft" x="{middle}" y="{floor + 44}" text-anchor="middle">{text}</text>')
    for curve in reversed(shown):  # ours on top
        places = [(panel.x(multiple), panel.y(per_s)) for multiple, per_s in curve.points]
        parts.append(f'<path {curve.marks} d="M{"L".join(f"{x} {y}" for x, y in places)}"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{curve.colour}"/>' for x, y in places]
    return parts + _labels(panel, shown)


def _labels(panel: Panel, shown: Sequence[Curve]) -> list[str]:
    """Name each line at its end; names that would overlap are moved apart."""
    x = panel.left + PANEL_WIDTH + 10
    return [
        f'<text x="{x}" y="{y + 4:.1f}" style="fill:{curve.colour}">{escape(curve.name)}</text>'
        for y, curve in _ends(panel, shown)
    ]


def _ends(panel: Panel, shown: Sequence[Curve]) -> list[tuple[float, Curve]]:
    wanted = sorted(((panel.y(curve.points[-1][1]), curve) for curve in shown), key=lambda end: -end[0])
    placed: list[tuple[float, Curve]] = []
    for y, curve in wanted:  # from the floor up
        placed.append((min(y, placed[-1][0] - LINE_HEIGHT) if placed else y, curve))
    return placed


def _round_up(value: float) -> float:
    """Return the next round figure that four grid lines divide well."""
    unit = 10 ** math.floor(math.log10(max(1.0, value)))
    return next(unit * part for part in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * part >= value)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload.chart", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    options.picture.write_text(svg(json.loads(options.results.read_text())))


if __name__ == "__main__":
    main()
