"""Writes measured decisions as one HTML page that needs nothing else: charts, arms, reasons, proofs, machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.inventory.device import Inventory
from orchestrator.planner.capacity import quantile
from orchestrator.planner.chart import Drawing, Series, chart, shape
from orchestrator.planner.curve import Point, curve
from orchestrator.planner.decision import Capacity, Decision, Rejected
from orchestrator.planner.evidence import busy_blocks
from orchestrator.planner.explain import duration, explain, figure, interval, observed_s, rate
from orchestrator.planner.page import cell, facts, figures, listed, page, table
from orchestrator.planner.plan import ModelPlan, SloPlan
from orchestrator.planner.steps import FRONT_END_S
from orchestrator.profiling.measurement import Arm, ArmProfile, Profile, Proof, Verdict
from orchestrator.scheduling.arrivals import Arrivals
from orchestrator.units import format_size

PERCENTILE = 99.0  # drawn where no SLO names another
SIGNS: dict[Verdict, str] = {
    "verified": "\N{CHECK MARK}",
    "rejected": "\N{MULTIPLICATION X}",
    "infeasible": "\N{CIRCLED DIVISION SLASH}",
    "unverified": "?",
}
_BY_RULE = '<span class="badge unverified"><span aria-hidden="true">?</span> planned by rule</span>'
_FOOT = (
    "Predicted figures come from simulating the pool's scheduler with measured service times; observed ones from an"
    " open-loop run, with latency counted from the scheduled arrival."
)


_ARRIVALS: Mapping[Arrivals, str] = {
    "poisson": "Poisson",
    "constant": "evenly spaced",
    "bursty": "bursty",
    "closed": "Poisson",
}


@dataclass(frozen=True, slots=True)
class Planned:
    """What the report tells of one model."""

    decision: Decision
    slo: SloPlan | None
    cpus: int
    """Cores that the arms were given."""
    profile: Profile | None = None
    """Gives the curves; without it the capacities alone are drawn."""
    name: str = ""
    """As the page shall call it; the decision's model by default."""
    arrivals: Arrivals = "poisson"
    """How its requests come."""

    @property
    def called(self) -> str:
        """Return the name for people."""
        return self.name or self.decision.model


@dataclass(frozen=True, slots=True)
class ByRule:
    """What the report tells of a model that was planned without a measurement."""

    model: ModelPlan
    name: str = ""

    @property
    def called(self) -> str:
        """Return the name for people."""
        return self.name or self.model.name


@dataclass(frozen=True, slots=True)
class _Row:
    """One arm: what the table and the chart say of it."""

    series: Series
    arm: Arm
    reason: str
    service_s: float | None
    service_p99_s: float | None
    per_s: float | None


def report_html(models: Sequence[Planned | ByRule], host: Sequence[tuple[str, str]], *, title: str, date: str) -> str:
    """Return the page. `host` tells of the machine (see `machine_facts`); `date` is printed as it is.

    Same input, same bytes. Takes about a second however many arms there are.
    """
    arms = sum(1 + len(model.decision.rejected) for model in models if isinstance(model, Planned))
    sections = [
        _section(f"model-{number}", model, arms) if isinstance(model, Planned) else _by_rule(f"model-{number}", model)
        for number, model in enumerate(models, 1)
    ]
    machine = f'<section aria-labelledby="machine"><h2 id="machine">The machine</h2>\n{facts(host, "wide")}</section>'
    overview = _overview(models) if len(models) > 1 else ""
    return page(title, f"Made by orch plan, {date}", [overview, *sections, machine], _FOOT)


def machine_facts(inventory: Inventory) -> tuple[tuple[str, str], ...]:
    """Return what the report says of a machine, as pairs of a label and a text."""
    host = inventory.host
    quota = "none" if host.quota_cpus is None else f"{host.quota_cpus:g} CPUs (cgroup {host.cgroup})"
    limit = f", of which {format_size(host.memory_limit_bytes)} may be used" if host.memory_limit_bytes else ""
    rows = [
        ("Host", host.name),
        ("Processor", host.cpu),
        ("Instruction sets", ", ".join(host.isa)),
        ("Cores that may be used", str(host.effective_cpus)),
        ("CPU quota", quota),
        ("Memory", format_size(host.memory_bytes) + limit),
        ("Kernel", host.kernel),
        ("OpenVINO", inventory.openvino),
        *((f"Device {device.name}", device.full_name) for device in inventory.devices),
    ]
    return tuple((label, text) for label, text in rows if text)


def _overview(models: Sequence[Planned | ByRule]) -> str:
    heads = ("Model", "Verdict", "Chosen", "Asked", "Capacity")
    rows = "\n".join(_overview_row(number, model, heads) for number, model in enumerate(models, 1))
    return f'<nav class="overview" aria-label="Models">{table("All models", heads, rows)}</nav>'


def _overview_row(number: int, model: Planned | ByRule, heads: Sequence[str]) -> str:
    if isinstance(model, Planned):
        decision = model.decision
        told = (_badge(decision.verdict), escape(decision.arm.name), escape(_asked(model.slo)))
        cells = (*told, escape(_capacity(decision.capacity)))
    else:
        cells = (_BY_RULE, escape(_expression(model.model)), escape(_asked(model.model.slo)), "not predicted")
    head = f'<th role="rowheader" scope="row"><a href="#model-{number}">{escape(model.called)}</a></th>'
    return f'<tr role="row">{head}{"".join(map(cell, heads[1:], cells))}</tr>'


def _by_rule(ident: str, planned: ByRule) -> str:
    """Return the section of a model that was planned without a measurement: the reasons and the properties."""
    model = planned.model
    why = [f"{each.subject}: {each.text}" for each in model.reasons]
    return "\n".join(
        [
            f'<section aria-labelledby="{ident}">',
            f'<div class="head"><h2 id="{ident}">{escape(planned.called)}</h2>{_BY_RULE}</div>',
            "<p>Nothing was measured of this model: its latency and capacity here are unknown.</p>",
            f"<h3>Why</h3>\n{listed((*why, *model.warnings))}",
            f"<h3>Properties</h3>\n{facts(_planned_facts(model), 'wide')}",
            "</section>",
        ]
    )


def _expression(model: ModelPlan) -> str:
    return model.properties.get("PERFORMANCE_HINT", model.expression)


def _planned_facts(model: ModelPlan) -> list[tuple[str, str]]:
    rows = [("Device", model.device), ("Batch", str(model.batch)), *sorted(model.properties.items())]
    return rows + [
        (f"{device}: {key}", value)
        for device, properties in sorted(model.device_properties.items())
        for key, value in sorted(properties.items())
    ]


def _asked(slo: SloPlan | None) -> str:
    if slo is None:
        return "no SLO"
    at = f" at {rate(slo.rate_per_s)}" if slo.rate_per_s else ""
    return f"p{slo.percentile:g} within {duration(slo.latency_s)}{at}"


def _capacity(capacity: Capacity | None) -> str:
    if capacity is None:
        return "not predicted"
    return interval(capacity) if capacity.per_s > 0 else "none"


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge {verdict}"><span aria-hidden="true">{SIGNS[verdict]}</span> {verdict}</span>'


def _section(ident: str, model: Planned, arms: int) -> str:
    decision = model.decision
    rows = _rows(ident, model, arms)
    asked = model.slo.rate_per_s if model.slo else None
    sentences = decision.sentences or explain(decision, model.slo, asked, model.cpus)
    parts = [
        f'<section aria-labelledby="{ident}">',
        f'<div class="head"><h2 id="{ident}">{escape(model.called)}</h2>{_badge(decision.verdict)}</div>',
        _headline(model),
        f"<h3>Why</h3>\n{listed(sentences)}",
        _figure(ident, model, rows),
        "<h3>Arms</h3>",
        _arms_table(model, rows),
        _proof(decision.proof, model.slo),
        f"<h3>What OpenVINO made of it</h3>\n{facts(_read_back(decision), 'wide')}",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _headline(model: Planned) -> str:
    """Return the four figures that most people came for."""
    decision, capacity = model.decision, model.decision.capacity
    known = capacity is not None and capacity.per_s > 0
    asked = model.slo.rate_per_s if model.slo else None
    spread = f"{figure(capacity.low_per_s)} to {figure(capacity.high_per_s)}, predicted" if capacity and known else ""
    told = [
        ("Chosen arm", decision.arm.name, f"on {decision.arm.device}"),
        ("Asked for", rate(asked) if asked else "no rate", _slo_text(model.slo)),
        ("Capacity", rate(capacity.per_s) if capacity and known else "none" if capacity else "not predicted", spread),
    ]
    if decision.floor_s is not None:
        told.append(("Floor", duration(decision.floor_s), "lowest latency without load"))
    return figures(told)


def _slo_text(slo: SloPlan | None) -> str:
    return "no SLO" if slo is None else f"p{slo.percentile:g} within {duration(slo.latency_s)}"


def _rows(ident: str, model: Planned, arms: int) -> tuple[_Row, ...]:
    """Return the chosen arm, then the others by falling capacity."""
    decision = model.decision
    others = sorted(
        decision.rejected,
        key=lambda each: (
            -(each.capacity.per_s if each.capacity else -1.0),
            each.arm.batch,
            each.arm.name,
            each.arm.key,
        ),
    )
    profiles = {each.arm.key: each for each in model.profile.arms} if model.profile else {}
    measured = decision.per_s > 0
    found = [
        _Row(
            _series(ident, 0, decision, model, profiles.get(decision.arm.key), arms),
            decision.arm,
            f"chosen, {decision.verdict}" + (f": {decision.reason}" if decision.reason else ""),
            decision.service_s if measured else None,
            decision.service_p99_s if measured else None,
            decision.per_s if measured else None,
        )
    ]
    for number, each in enumerate(others, 1):
        profile = profiles.get(each.arm.key)
        samples = [value for block in busy_blocks(profile) for value in block.service_s] if profile else []
        found.append(
            _Row(
                _series(ident, number, each, model, profile, arms),
                each.arm,
                each.reason,
                each.service_s,
                quantile(samples, 0.99) if samples else None,
                each.per_s,
            )
        )
    return tuple(found)


def _series(
    ident: str, number: int, found: Decision | Rejected, model: Planned, profile: ArmProfile | None, arms: int
) -> Series:
    percentile = model.slo.percentile if model.slo else PERCENTILE
    points: tuple[Point, ...] = ()
    if profile:
        ceiling_s, inflation = _ceiling_s(model), found.inflation
        own_s = model.decision.front_end_s or FRONT_END_S
        carried = found.capacity.per_s if found.capacity else 0.0
        points = curve(
            profile,
            percentile,
            ceiling_s,
            cpus=model.cpus,
            arms=arms,
            inflation=inflation,
            stretch=model.decision.stretch,
            front_end_s=own_s,
            arrivals="poisson" if model.arrivals == "closed" else model.arrivals,
            most_per_s=max(carried, 1 / model.decision.front_end_s) if model.decision.front_end_s else math.inf,
        )
    return Series(number, found.arm.name, f"{ident}-arm-{number}", points, found.capacity)


def _ceiling_s(model: Planned) -> float:
    """Return the highest latency that is drawn: enough to see where the curves cross the SLO, or what misses it."""
    decision = model.decision
    seen = _observed(model)
    lows = [decision.service_p99_s, decision.floor_s or 0.0, seen.latency_s if seen else 0.0]
    if model.slo is None:
        return 8 * max(lows) or 1.0
    slo_s = model.slo.latency_s
    return max(2 * slo_s, (3 if max(lows) > slo_s else 1.25) * max(lows))


def _observed(model: Planned) -> Point | None:
    proof = model.decision.proof
    seen = observed_s(proof, model.slo.percentile) if proof and model.slo else None
    return None if proof is None or seen is None else Point(proof.rate_per_s, seen)


def _figure(ident: str, model: Planned, rows: Sequence[_Row]) -> str:
    drawn = [row.series for row in rows if row.series.points or (row.series.capacity and model.slo)]
    if not drawn or not any(series.points or (series.capacity and series.capacity.per_s) for series in drawn):
        return '<p class="note">Nothing was measured, so there is nothing to draw.</p>'
    percentile = model.slo.percentile if model.slo else PERCENTILE
    drawing = Drawing(
        title=f"p{percentile:g} latency of {model.called} against the arrival rate",
        described=_described(model, rows),
        percentile=percentile,
        slo_s=model.slo.latency_s if model.slo else None,
        asked_per_s=model.slo.rate_per_s if model.slo else None,
        seen=_observed(model),
        series=tuple(drawn),
        ceiling_s=_ceiling_s(model),
    )
    return (
        f"<h3>Latency against arrival rate</h3>\n<figure>\n{chart(drawing, ident)}\n"
        f"<figcaption>{escape(_legend(drawing, model))}</figcaption>\n</figure>"
    )


def _described(model: Planned, rows: Sequence[_Row]) -> str:
    """Return what the picture shows, in words."""
    told = [f"{row.series.letter}, {row.arm.name}: {_capacity(row.series.capacity)}" for row in rows]
    slo = f"The line of the SLO is at {duration(model.slo.latency_s)}. " if model.slo else ""
    return f"{slo}Capacity of each arm, the chosen one first: {'; '.join(told)}. The table below has all figures."


def _legend(drawing: Drawing, model: Planned) -> str:
    parts = []
    if any(series.points for series in drawing.series):
        parts.append(f"Curves: simulated from measured service times, {_ARRIVALS[model.arrivals]} arrivals.")
        own_s = model.decision.front_end_s
        if own_s and any(series.capacity and series.capacity.per_s * own_s > 0.99 for series in drawing.series):
            parts.append("They end where the server itself can take in no more.")
        if model.arrivals == "closed":
            parts.append(
                "Callers that wait for their answers bring no more than they reach, so their mark may lie before."
            )
    if drawing.slo_s is not None:
        parts.append(
            "Marks on the SLO line: capacity with its interval. The filled mark and thick curve are the chosen arm."
        )
    if drawing.seen:
        parts.append("Cross: what the proof observed.")
    return " ".join([*parts, "Each mark leads to its row in the table."])


def _arms_table(model: Planned, rows: Sequence[_Row]) -> str:
    most = max((row.series.capacity.high_per_s for row in rows if row.series.capacity), default=0.0)
    asked = model.slo.rate_per_s if model.slo else None
    if asked and most:
        most = max(most, min(asked, 2.5 * most))
    heads = ("Arm", "Capacity within the SLO", "Service p50 / p99", "Throughput, rows", "Outcome", "Properties")
    return table("Every arm that was considered", heads, "\n".join(_arm_row(row, most, asked) for row in rows))


def _arm_row(row: _Row, most: float, asked: float | None) -> str:
    chosen = row.series.number == 0
    pick = '<span class="pick">chosen</span>' if chosen else ""
    kind = f"arm {row.series.colour}" + (" chosen" if chosen else "")
    key = f'<svg class="key" viewBox="0 0 18 18" aria-hidden="true">{shape(row.series.number, 9, 9)}</svg>'
    times = _known(row.service_s) + " / " + _known(row.service_p99_s)
    cells = [
        cell("Capacity", _capacity_cell(row.series.capacity, most, asked)),
        cell("Service p50 / p99", times if row.service_s or row.service_p99_s else "not measured", "times"),
        cell("Throughput", rate(row.per_s) if row.per_s else "not measured"),
        cell("Outcome", escape(row.reason)),
        cell("Properties", _properties(row.arm), "properties"),
    ]
    named = f'<span class="letter">{key}{row.series.letter}</span> {escape(row.arm.name)}'
    head = f'<th role="rowheader" scope="row">{named}{pick}</th>'
    return f'<tr role="row" id="{row.series.target}" class="{kind}">{head}{"".join(cells)}</tr>'


def _known(seconds: float | None) -> str:
    return duration(seconds) if seconds else "not measured"


def _capacity_cell(capacity: Capacity | None, most: float, asked: float | None) -> str:
    if capacity is None or capacity.per_s <= 0 or most <= 0:
        return escape(_capacity(capacity))
    low, at, high = (4 + 182 * value / most for value in (capacity.low_per_s, capacity.per_s, capacity.high_per_s))
    wanted = f'<path class="asked" d="M{4 + 182 * asked / most:.1f} 1V13"/>' if asked and asked <= most else ""
    return (
        f'{escape(interval(capacity))}<svg class="bar" viewBox="0 0 190 14" aria-hidden="true">'
        f'<path class="track" d="M4 7H186"/>{wanted}<path class="spread" d="M{low:.1f} 7H{high:.1f}"/>'
        f'<circle class="dot" cx="{at:.1f}" cy="7" r="4"/></svg>'
    )


def _properties(arm: Arm) -> str:
    lines = [f"{key}={value}" for key, value in sorted(arm.properties.items())]
    lines += [
        f"{device}: {key}={value}"
        for device, properties in sorted(arm.device_properties.items())
        for key, value in sorted(properties.items())
    ]
    lines += [f"batch={arm.batch}"] * (arm.batch > 1)
    lines += [f"requests={arm.requests}"] * (arm.requests is not None)
    broken = (escape(line).replace("_", "_<wbr>").replace("=", "=<wbr>") for line in lines)
    return "".join(f"<code>{line}</code>" for line in broken) or "none"


def _proof(proof: Proof | None, slo: SloPlan | None) -> str:
    if proof is None:
        return "<h3>Proof</h3>\n<p>None: no open-loop run was made through the served path.</p>"
    latencies = [
        (f"p{percentile:g} observed", duration(seen))
        for percentile in sorted({50.0, 95.0, slo.percentile if slo else PERCENTILE})
        if (seen := observed_s(proof, percentile)) is not None
    ]
    rows = [
        ("Verdict", proof.verdict),
        ("Arrival rate", rate(proof.rate_per_s)),
        ("Arrivals", f"{proof.arrivals}, seed {proof.seed}"),
        ("Requests sent", str(proof.sent)),
        ("Answered", str(proof.answered)),
        ("Refused", str(proof.refused)),
        ("Missed the SLO", str(proof.misses)),
        *latencies,
        ("Blocks", str(proof.blocks)),
        ("Sent late by the generator", str(proof.late_sends)),
        ("Cores the generator used", f"{proof.generator_cpu:.2f}"),
        ("Other processes", f"{100 * proof.host.foreign:.0f} % of CPU time"),
        ("Taken by the hypervisor", f"{100 * proof.host.steal:.0f} % of CPU time"),
        ("Date", proof.date),
    ]
    said = f"<p>{escape(proof.reason)}</p>\n" if proof.reason else ""
    return f"<h3>Proof</h3>\n{said}{facts([each for each in rows if each[1]])}"


def _read_back(decision: Decision) -> tuple[tuple[str, str], ...]:
    actual = decision.actual
    rows = [
        ("Runs on", ", ".join(actual.execution_devices)),
        ("Streams", "" if actual.streams is None else str(actual.streams)),
        ("Threads", "" if actual.threads is None else str(actual.threads)),
        ("Infer requests", str(actual.requests)),
        *sorted(actual.properties.items()),
        ("Model SHA-256", decision.model_sha256),
    ]
    return tuple((label, text) for label, text in rows if text)
