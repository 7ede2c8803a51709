"""Turns the agent's description of a deployment into the text that `orch describe` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from orchestrator.cli.render import NONE, Cell, Colour, Column, Screen, Table, table
from orchestrator.cli.status_table import (
    age,
    device_text,
    endpoint_text,
    inline_text,
    milliseconds,
    percent_full,
    plan_text,
    rate_text,
    slo_quantile,
    state_fits,
)

Json = Mapping[str, Any]

EVENTS_SHOWN = 10
REVISIONS_SHOWN = 5
LABEL_WIDTH = 12
PIPE_WIDTH = 100
# What a compiled model says that is worth knowing even where it was not planned.
_VERDICTS = {
    "verified": "an open-loop run held the SLO",
    "rejected": "an open-loop run missed the SLO",
    "infeasible": "this machine cannot hold the SLO",
    "unverified": "predicted, not proven by an open-loop run",
}
TELLING = ("EXECUTION_DEVICES", "INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT", "NUM_STREAMS")
UNMEASURED = "unknown, and so is the headroom: plan with an slo and planning.mode measure, or run orch bench"


def describe_text(answer: Json, where: Screen, now: datetime) -> str:
    """Return everything about one deployment, for people."""
    item = answer["status"]
    planned = {model["name"]: model for model in (answer.get("plan") or {}).get("models", ())}
    lines = [
        *_head(item, answer, now),
        *_section("Conditions", _conditions(item.get("conditions") or (), now), where),
        "",
        "Models",
    ]
    for model in item.get("models") or ():
        lines += _model(model, planned.get(model["name"]) or {}, where)
    lines += _section("Revisions", _revisions((answer.get("revisions") or ())[-REVISIONS_SHOWN:], now), where)
    lines += _section("Events", events_table((answer.get("events") or ())[-EVENTS_SHOWN:], now, where), where)
    return "".join(_wrapped(line, where.width or PIPE_WIDTH) for line in lines)


def _wrapped(line: str, width: int) -> str:
    """Return the line, its end below its beginning where it is a fact that is too long."""
    if len(line) <= width or ": " not in line[: LABEL_WIDTH + 6]:
        return line + "\n"
    indent = len(line) - len(line.lstrip())
    below = " " * (indent + LABEL_WIDTH + 1)
    return "\n".join(textwrap.wrap(line, max(width, 40), subsequent_indent=below, break_on_hyphens=False)) + "\n"


def _head(item: Json, answer: Json, now: datetime) -> Iterator[str]:
    worker, revision = item.get("worker") or {}, item.get("revision") or {}
    yield _fact("Name", item["metadata"]["name"])
    yield _fact("Sync", item["sync"])
    yield _fact("Health", item["health"])
    commit = f", commit {revision['commit']}" if revision.get("commit") else ""
    generation = item["metadata"].get("generation", NONE)
    yield _fact(
        "Revision", f"{revision.get('number', NONE)} (generation {generation}, {revision.get('source', NONE)}{commit})"
    )
    yield _fact("Manifest", answer.get("path") or NONE)
    yield _fact("Endpoint", endpoint_text(item.get("endpoint") or {}))
    if tls := (item.get("endpoint") or {}).get("tls"):
        clients = ", for clients with a certificate" if tls["client_certificates"] else ""
        yield _fact("Certificate", f"until {tls['expires']}, SHA-256 {tls['sha256']}{clients}")
    if worker.get("pid"):
        restarts = f"{worker.get('restarts', 0)} restarts"
        yield _fact("Worker", f"process {worker['pid']}, {restarts}, runs for {age(worker.get('started'), now)}")
    else:
        yield _fact("Worker", "none runs")
    yield _fact("Log", answer.get("log") or NONE)
    for warning in (answer.get("plan") or {}).get("warnings") or ():
        yield _fact("Warning", warning)


def _fact(label: str, value: object, indent: int = 0) -> str:
    return f"{' ' * indent}{label + ':':<{LABEL_WIDTH}} {value}"


def _section(title: str, data: Table, where: Screen, indent: int = 2) -> list[str]:
    """Return a title and its table, nothing for a table without rows."""
    if not data.rows:
        return []
    # Padded in a pipe too: a description is text for people, its tables are no rows to parse.
    width = 10_000 if where.width is None else where.width - indent
    text = table(data, Screen(width, where.colour))
    return ["", title, *(" " * indent + line for line in text.splitlines())]


def _conditions(conditions: Sequence[Json], now: datetime) -> Table:
    columns = (
        Column("TYPE"),
        Column("STATUS"),
        Column("REASON"),
        Column("SINCE", right=True, drop_rank=1),
        Column("MESSAGE", cut_end=True),
    )
    rows = (
        (
            Cell(each["type"]),
            Cell(each["status"]),
            Cell(each.get("reason") or NONE),
            Cell(age(each.get("lastTransitionTime"), now)),
            Cell(each.get("message") or NONE),
        )
        for each in conditions
    )
    return Table(columns, tuple(rows))


def _revisions(revisions: Sequence[Json], now: datetime) -> Table:
    columns = (
        Column("NUMBER", right=True),
        Column("AGE", right=True),
        Column("RESULT"),
        Column("PLAN"),
        Column("REASON", cut_end=True),
    )
    rows = (
        (
            Cell(str(each["number"])),
            Cell(age(rfc3339(each.get("time")), now)),
            Cell(each["result"], Colour.BAD if each["result"] == "failed" else None),
            Cell(each.get("digest") or NONE),
            Cell(each.get("reason") or NONE),
        )
        for each in revisions
    )
    return Table(columns, tuple(rows))


def events_table(events: Sequence[Json], now: datetime, where: Screen) -> Table:
    """Return one row for each event; how long ago for people, the time itself in a pipe."""
    columns = (
        Column("TIME" if where.width is None else "AGE", right=where.width is not None),
        Column("TYPE"),
        Column("REASON"),
        Column("OBJECT", drop_rank=1),
        Column("MESSAGE", cut_end=True),
    )
    return Table(columns, tuple(_event(event, now, where) for event in events))


def _event(event: Json, now: datetime, where: Screen) -> tuple[Cell, ...]:
    time = rfc3339(event.get("time"))
    count = event.get("count") or 1
    return (
        Cell((time or NONE) if where.width is None else age(time, now)),
        Cell(event["type"], Colour.WARN if event["type"] == "Warning" else None),
        Cell(event["reason"]),
        Cell(event.get("object") or event.get("deployment") or NONE),
        Cell(event["message"] + (f" ({count} times)" if count > 1 else "")),
    )


def rfc3339(time: str | float | None) -> str | None:
    """Return the time as RFC 3339, whether it comes so or as seconds since 1970."""
    if isinstance(time, int | float):
        return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return time


def _model(model: Json, planned: Json, where: Screen) -> Iterator[str]:
    plan = model.get("plan") or {}
    checked = ", verified" if plan.get("verified") else ""
    yield ""
    yield f"  {model['name']}: {model.get('state', NONE)} on {device_text(model)}"
    if model.get("message"):
        yield _fact("message", model["message"], 4)
    if planned.get("degraded"):
        yield _fact("degraded", planned["degraded"], 4)
    yield _fact("source", planned.get("source") or NONE, 4)
    yield _fact("plan", f"{plan_text(plan)} ({plan.get('expression', NONE)}{checked})", 4)
    if how := inline_text(plan):
        yield _fact("runs", how, 4)
    told = [plan["reason"]] if plan.get("reason") else []
    yield from _reasons(model.get("reasons") or planned.get("reasons") or told)
    yield from (_fact("warning", warning, 4) for warning in planned.get("warnings") or ())
    yield from _load(model)
    yield from _section_without_title(_properties(plan, planned), where)


def _reasons(reasons: Sequence[Any]) -> Iterator[str]:
    for reason in reasons:
        if isinstance(reason, str):
            yield _fact("why", reason, 4)
        else:
            rule = f" (rule {reason['rule']})" if reason.get("rule") else ""
            yield _fact("why", f"{reason['subject']}: {reason['text']}{rule}", 4)


def _load(model: Json) -> Iterator[str]:
    """Yield SLO against observed, the queue, and what fills the pool."""
    observed, slo, saturation = model.get("observed") or {}, model.get("slo"), model.get("saturation") or {}
    name, seen = slo_quantile(model)
    if slo:
        rate = f" at {rate_text(slo['rate_per_s'])}" if slo.get("rate_per_s") else ""
        promise = f"{slo['percentile']:g}% within {milliseconds(slo['latency_ms'])}{rate}"
        now = f"{name} {milliseconds(seen)} at {rate_text(observed.get('rate_per_s'))}"
        yield _fact("SLO", f"{promise}; now {now}", 4)
    if observed:
        latency = observed.get("latency_ms") or {}
        quantiles = ", ".join(f"{key} {milliseconds(latency.get(key))}" for key in ("p50", "p95", "p99"))
        rates = f"{rate_text(observed.get('rate_per_s'))}, {rate_text(observed.get('goodput_per_s'))} in time"
        yield _fact("observed", f"{rates}; {quantiles} (last {observed.get('window_s', NONE)} s)", 4)
        counts = ("accepted", "completed", "rejected", "expired", "failed", "cancelled")
        totals = ", ".join(f"{observed.get(f'{count}_total', 0)} {count}" for count in counts)
        yield _fact(
            "requests", f"{observed.get('in_flight', 0)} in flight, {observed.get('queued', 0)} queued; {totals}", 4
        )
    if saturation.get("value") is not None:
        terms = ", ".join(f"{key} {percent_full(value)}" for key, value in (saturation.get("terms") or {}).items())
        text = f"{_fullness(saturation['value'], saturation.get('state') or '')}: {saturation.get('cause') or NONE}"
        yield _fact("saturation", text + (f" ({terms})" if terms else ""), 4)
    if saturation.get("advice"):
        yield _fact("advice", saturation["advice"], 4)
    yield from _speed(model.get("drift") or {}, told=saturation.get("advice"))
    yield from _capacity(model)


def _speed(drift: Json, told: str | None) -> Iterator[str]:
    """Yield how long an inference takes against how long it should, where both are known."""
    if drift.get("ratio") is None:
        return
    source = "planned" if drift.get("expected_from") == "plan" else "in its first steady minute"
    times = f"{milliseconds(drift.get('observed_ms'))} now, {milliseconds(drift.get('expected_ms'))} {source}"
    yield _fact("inference", f"{times}: {drift['ratio']:.2f} times{', drifted' if drift.get('drifted') else ''}", 4)
    if drift.get("advice") and drift["advice"] != told:
        yield _fact("advice", drift["advice"], 4)


def _fullness(value: float, state: str) -> str:
    return (
        f"{percent_full(value)} {state}" if state_fits(value, state) else f"{percent_full(value)} now, {state} so far"
    )


def _capacity(model: Json) -> Iterator[str]:
    """Yield the verdict of the proof, and the capacity with its interval beside what is left of it."""
    plan = model.get("plan") or {}
    if plan.get("verdict"):
        yield _fact("verdict", f"{plan['verdict']}: {_VERDICTS.get(plan['verdict'], '')}", 4)
    if model.get("capacity_per_s") is None:
        if model.get("observed"):
            yield _fact("capacity", UNMEASURED, 4)
        return
    low, high = plan.get("capacity_interval_per_s") or (None, None)
    benched = model.get("capacity_from") == "bench"
    interval = "" if low is None or benched else f" ({rate_text(low)} to {rate_text(high)})"
    source = "by orch bench" if benched else "planned"
    headroom = rate_text(model.get("headroom_per_s"))
    yield _fact("capacity", f"{rate_text(model['capacity_per_s'])} {source}{interval}, headroom {headroom}", 4)


def _properties(plan: Json, planned: Json) -> Table:
    """Put what was planned beside what the compiled model says."""
    wanted: Json = planned.get("properties") or plan.get("properties") or {}
    actual: Json = (plan.get("actual") or {}).get("properties") or {}
    columns = (Column("PROPERTY"), Column("PLANNED"), Column("ACTUAL", cut_end=True))
    rows = []
    for key in sorted({*wanted, *(key for key in TELLING if key in actual)}):
        differs = key in wanted and key in actual and str(actual[key]) != str(wanted[key])
        cells = (Cell(str(wanted.get(key, NONE))), Cell(str(actual.get(key, NONE)), Colour.WARN if differs else None))
        rows.append((Cell(key), *cells))
    return Table(columns, tuple(rows))


def _section_without_title(data: Table, where: Screen) -> list[str]:
    return _section("", data, where, indent=4)[2:]
