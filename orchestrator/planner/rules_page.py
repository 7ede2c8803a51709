"""The reference page of the rules, docs/planner-rules.md, generated from the table that the planner uses."""

from __future__ import annotations

from orchestrator.planner.demand import HARDLY_MEET, HINT_TABLE, TIGHT_SLO_S, Demand
from orchestrator.planner.properties import TABLE
from orchestrator.planner.rules import RULES, SOURCES

DOCS = "https://docs.openvino.ai/2026/openvino-workflow/running-inference/"

_HEAD = """# The rules a plan is made by

Generated from `orchestrator/planner/rules.py`: `pytest tests/planner/test_rules_page.py --update-golden` rewrites it.

`orch plan` gives each decision its reason and the number of its rule. A rule without a place in the code is not a
decision of the planner: it is left to a measurement, to `properties:`, or to what reads the compiled model back.

| rule | when | then | source | where |
|---|---|---|---|---|
"""

_HINT_HEAD = """
## Which hint, when the manifest asks for none

The first line that holds decides (`demand.HINT_TABLE`); the examples stand for all that falls under the line.

| callers | SLO latency | rate | hint | bound on requests | rule |
|---|---|---|---|---|---|
"""

# One demand that falls under each line of the table, in its order; the test checks that it does.
EXAMPLES: tuple[Demand, ...] = (
    Demand(1, None, None),
    Demand(16, None, None),
    Demand(None, 0.04, 1.0),
    Demand(None, 0.04, 60.0),
    Demand(None, TIGHT_SLO_S, None),
    Demand(None, None, None),
)

_WHY = f"""
Why THROUGHPUT for an SLO with a rate: requests that arrive at random meet. One stream that uses all cores beats as
many streams as cores only if the model speeds up almost perfectly with cores; at a speed-up of 1.6 on two cores, two
thin streams hold a p99 of three service times at a rate 40 % higher (our calculation, not a measurement of your
model). Requests hardly ever meet when rate x latency is below {HARDLY_MEET}, and an SLO is tight up to
{TIGHT_SLO_S * 1000:g} ms: both lines are our own.
"""

_PROPERTY_HEAD = """
## Properties that orch knows

What a device lists as writable in the inventory decides; the table stands in where an inventory lists nothing, and
gives the values. A key that a device lists and the table does not know is passed through as it is.

| property | values | taken by | in a manifest |
|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown."""
    rows = "".join(_row(number) for number in sorted(RULES))
    hints = "".join(_hint_row(index, demand) for index, demand in enumerate(EXAMPLES))
    properties = "".join(_property_row(key) for key in sorted(TABLE))
    sources = "\n## Sources\n\n" + "".join(f"- {name}: {DOCS}{SOURCES[name]}.html\n" for name in sorted(SOURCES))
    more = "- probe: tried on OpenVINO 2026.4.1\n- `repository #number`: an issue or pull request on GitHub\n"
    return _HEAD + rows + _HINT_HEAD + hints + _WHY + _PROPERTY_HEAD + properties + sources + more


def _row(number: int) -> str:
    rule = RULES[number]
    where = f"`{rule.where}`" if rule.where else "-"
    return f"| {number} | {rule.when} | {rule.then} | {rule.source} | {where} |\n"


def _hint_row(index: int, demand: Demand) -> str:
    row = HINT_TABLE[index]
    bound = row.requests(demand)
    latency = "-" if demand.latency_s is None else f"{demand.latency_s * 1000:g} ms"
    rate = "-" if demand.rate_per_s is None else f"{demand.rate_per_s:g}/s"
    return f"| {demand.callers or '-'} | {latency} | {rate} | {row.hint} | {bound or 'none'} | {row.rule} |\n"


def _property_row(key: str) -> str:
    known = TABLE[key]
    values = ", ".join(known.allowed) or {"bool": "YES, NO", "int": "whole number"}.get(known.value, known.value)
    if known.field is not None:
        use = f"`{known.field}`"
    elif not known.families:
        use = "refused: " + known.note
    else:
        use = "`properties`; set by rule" if known.set_by_orch else "`properties`"
    return f"| {key} | {values} | {', '.join(sorted(known.families)) or 'none'} | {use} |\n"
