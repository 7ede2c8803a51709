"""The colours and the style sheet of the report; every pair of text and ground keeps WCAG AA in light and dark."""

from __future__ import annotations

from collections.abc import Mapping

# ground: the page; card: what stands on it; edge: lines that only divide; series-0 is the chosen arm.
LIGHT: Mapping[str, str] = {
    "ground": "#f5f6f8",
    "card": "#ffffff",
    "text": "#16202c",
    "soft": "#4b5867",
    "edge": "#d5dae1",
    "grid": "#e6e9ee",
    "slo": "#a4161a",
    "slo-ground": "#fdf0f0",
    "good": "#0b6b3a",
    "bad": "#a4161a",
    "open": "#7a4b00",
    "focus": "#0b57d0",
    "series-0": "#0b57d0",
    "series-1": "#b3470a",
    "series-2": "#0f766e",
    "series-3": "#6d28d9",
    "series-4": "#a21a7a",
    "series-5": "#4a6a0c",
    "series-6": "#5b6675",
}
DARK: Mapping[str, str] = {
    "ground": "#0e1319",
    "card": "#161d26",
    "text": "#e8edf3",
    "soft": "#aab6c4",
    "edge": "#303b48",
    "grid": "#25303c",
    "slo": "#ff9a94",
    "slo-ground": "#2b1a1f",
    "good": "#6fdc9c",
    "bad": "#ff9a94",
    "open": "#f3c26b",
    "focus": "#8ab8ff",
    "series-0": "#7fb2ff",
    "series-1": "#ffb07a",
    "series-2": "#5fd9cb",
    "series-3": "#c3a9ff",
    "series-4": "#f59ad3",
    "series-5": "#b5dc66",
    "series-6": "#b3bdc9",
}
SERIES = 7
TEXTS = ("text", "soft", "slo", "good", "bad", "open", "focus", *(f"series-{number}" for number in range(SERIES)))
"""Colours that letters are printed in, on the card as on the ground."""


def style() -> str:
    """Return the style sheet."""
    series = "\n".join(f".s{number} {{ --series: var(--series-{number}); }}" for number in range(SERIES))
    dark = _variables(DARK)
    scheme = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f":root {{ {_variables(LIGHT)} }}\n{scheme}\n{series}\n{_RULES}"


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


_RULES = """
*, *::before, *::after { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: break-word; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 clamp(12px, 3vw, 32px); }
header { padding-top: 28px; }
footer { padding-bottom: 40px; color: var(--soft); font-size: 14px; }
h1 { font-size: clamp(22px, 4vw, 30px); line-height: 1.2; margin: 0; }
h2 { font-size: 22px; line-height: 1.25; margin: 0; }
h3 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 8px 0; max-width: 78ch; }
a { color: var(--focus); }
.sub, .note, figcaption { color: var(--soft); font-size: 14px; }
section, .overview { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: clamp(14px, 2.4vw, 26px); margin: 20px 0; }
.head { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; }
.badge { font-weight: 600; border: 1.5px solid currentColor; border-radius: 999px; padding: 1px 12px;
  white-space: nowrap; font-size: 15px; }
.verified { color: var(--good); } .rejected, .infeasible { color: var(--bad); } .unverified { color: var(--open); }
.figures { display: flex; flex-wrap: wrap; gap: 10px 22px; margin: 16px 0 4px; }
.figures div { flex: 1 1 128px; } .figures div:first-child { flex: 2 1 236px; }
.figures div { border-left: 3px solid var(--edge); padding-left: 10px; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; font-size: 20px; font-weight: 600; line-height: 1.3; }
.figures dd small { display: block; font-size: 13px; font-weight: 400; color: var(--soft); }
.why { padding-left: 20px; margin: 8px 0; max-width: 80ch; } .why li { margin: 4px 0; }
figure { margin: 14px 0 0; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg.narrow { display: none; max-width: 520px; }
svg text { fill: var(--text); font-family: inherit; }
svg .soft { fill: var(--soft); } svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--soft); }
svg .over { fill: var(--slo-ground); } svg .slo { stroke: var(--slo); } svg .slo-text { fill: var(--slo); }
svg .asked { stroke: var(--text); stroke-dasharray: 2 4; }
.curve { fill: none; stroke: var(--series); stroke-width: 1.5; stroke-linejoin: round; }
.arm.chosen .curve { stroke-width: 3.5; }
.mark { fill: var(--card); stroke: var(--series); stroke-width: 2; } .arm.chosen .mark { fill: var(--series); }
.spread { stroke: var(--series); stroke-width: 2; }
svg .name { fill: var(--series); paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.arm.chosen .name { font-weight: 700; }
.seen { stroke: var(--text); stroke-width: 2.5; fill: none; }
.arm a { cursor: pointer; } .arm a:hover .name { text-decoration: underline; }
.ring { fill: none; stroke: none; } .arm a:focus { outline: none; }
.arm a:focus-visible .ring { stroke: var(--focus); stroke-width: 3; }
.arm:hover .curve, .arm:focus-within .curve { stroke-width: 4.5; }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 3px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; }
caption { text-align: left; color: var(--soft); font-size: 14px; padding: 0 0 8px; }
th, td { text-align: left; vertical-align: top; padding: 9px 14px 9px 0; border-top: 1px solid var(--edge); }
thead th { color: var(--soft); font-size: 13px; font-weight: 600; border-top: 0; padding-top: 2px; }
tbody th { font-weight: 500; } tr.chosen th { font-weight: 700; }
tr.chosen > * { background: color-mix(in srgb, var(--series-0) 8%, transparent); }
tr:target > * { background: color-mix(in srgb, var(--series-0) 22%, transparent); }
tr.chosen > :first-child, tr:target > :first-child { box-shadow: inset 4px 0 0 var(--series-0); }
tbody th { padding-left: 12px; min-width: 130px; } thead th:first-child { padding-left: 12px; }
.key { display: inline-block; width: 18px; height: 18px; vertical-align: -4px; margin-right: 7px; }
.letter { white-space: nowrap; margin-right: 4px; }
.pick { display: block; color: var(--series-0); font-size: 13px; }
.bar { display: block; width: 100%; min-width: 110px; max-width: 190px; height: 14px; margin-top: 3px; }
.bar .track { stroke: var(--edge); stroke-width: 2; } .bar .asked { stroke-dasharray: none; stroke-width: 1.5; }
.bar .dot { fill: var(--series); }
code { font: 13px/1.45 ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace; }
.properties code { display: block; overflow-wrap: anywhere; padding-left: 1.2em; text-indent: -1.2em; }
td.times { white-space: nowrap; }
td.properties { min-width: 212px; padding-right: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 4px 28px; margin: 0; }
.facts div { display: flex; justify-content: space-between; gap: 14px; border-top: 1px solid var(--edge);
  padding: 5px 0; font-size: 15px; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.facts.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media screen and (max-width: 860px) { svg.wide { display: none; } svg.narrow { display: block; } }
@media screen and (max-width: 1000px) {
  table.stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.stack, table.stack caption { display: block; }
  table.stack tbody { display: grid; gap: 0 24px;
    grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
  table.stack tr { display: block; border-top: 2px solid var(--edge); padding: 6px 0; }
  table.stack th, table.stack td { display: block; border: 0; padding: 4px 10px; min-width: 0; }
  table.stack td { display: grid; grid-template-columns: minmax(84px, 118px) minmax(0, 1fr); gap: 10px;
    white-space: normal; overflow-wrap: anywhere; }
  table.stack .badge { white-space: normal; border-radius: 12px; }
  table.stack td::before { content: attr(data-label); color: var(--soft); font-size: 13px; }
  tr.chosen > :not(:first-child) { box-shadow: inset 4px 0 0 var(--series-0); }
}
@media print {
  body { background: #fff; font-size: 12px; } main, header, footer { max-width: none; padding: 0; }
  section, .overview { border: 0; padding: 0; margin: 16px 0; } section { break-before: page; }
  section:first-of-type { break-before: auto; } svg, tr, figure { break-inside: avoid; }
  svg.wide { display: block; } svg.narrow { display: none; }
  table, thead th, .pick, .sub, .note, figcaption, caption { font-size: 10.5px; }
  code { font-size: 9px; } td.properties, tbody th, .bar { min-width: 0; }
  .facts div { font-size: 11px; } .figures dd { font-size: 15px; } a { color: inherit; text-decoration: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
"""
