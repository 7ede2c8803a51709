"""Turns a StatusList (DESIGN.md section 7) into the table that `orch status` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import Any

from orchestrator.cli.render import NONE, Cell, Colour, Column, Table, cut_end

Json = Mapping[str, Any]

# What gives way on a narrow terminal, first to last: what `orch describe` tells as well, then what seldom changes.
COLUMNS = (
    Column("NAME"),
    Column("DEVICE", drop_rank=10),
    Column("PLAN", shorten_rank=5, drop_rank=6),
    Column("SYNC", drop_rank=9),
    Column("HEALTH"),
    Column("STATE", wide_only=True),
    Column("RATE", right=True, drop_rank=11),
    Column("GOODPUT", right=True, wide_only=True),
    Column("P50", right=True, drop_rank=4),
    Column("P99/SLO", right=True),
    Column("SAT", shorten_rank=8),
    Column("CAUSE", wide_only=True),
    Column("HEADROOM", right=True, drop_rank=7),
    Column("RESTARTS", right=True, drop_rank=3),
    Column("REV", right=True, drop_rank=2),
    Column("COMMIT", wide_only=True),
    Column("AGE", right=True, drop_rank=1),
    Column("ENDPOINT", wide_only=True),
    Column("REASON", wide_only=True, in_pipe=True),
)

_HEALTH = {
    "Healthy": Colour.GOOD,
    "Progressing": Colour.WARN,
    "Degraded": Colour.BAD,
    "Missing": Colour.BAD,
}
_SYNC = {"OutOfSync": Colour.WARN, "Unknown": Colour.WARN}
_SATURATION = {"BUSY": Colour.WARN, "SATURATED": Colour.BAD, "OVERLOADED": Colour.BAD}
REASON_MAX = 200  # characters; describe tells the rest
LATER = "what runs is an earlier plan; orch events may say why"
PERCENT_MAX = 999  # the figure ends at ten times full
COMMIT_DIGITS = 8
# Where the figure bears the state out: a state ends below 0.8 of what it begins at. Refusing is not a question of it.
_RANGES = {"OK": (0.0, 0.7), "BUSY": (0.56, 1.0), "SATURATED": (0.8, inf), "OVERLOADED": (0.0, inf)}
_PERCENTILES = (("p50", 50.0), ("p95", 95.0), ("p99", 100.0))
UNKNOWN = "unknown"
FULL = frozenset({"SATURATED", "OVERLOADED"})
# What stands for a cause where it is not the load itself, as the agent's conditions have it.
ORIGINS = {
    "demand": "demand",
    "host": "other processes",
    "steal": "hypervisor",
    "throttling": "CPU quota",
    "neighbour": "another model",
    "input": "larger inputs",
    "model": "slow, unknown why",
    "bursts": "bursts",
    "slo": "inference time against the SLO",
}


def status_table(items: Sequence[Json], now: datetime) -> Table:
    """Return one row for each model; a deployment without models has one row of its own."""
    rows = [_row(item, model, now) for item in items for model in item.get("models") or [{}]]
    return Table(COLUMNS, tuple(rows), tuple(note for item in items for note in _notes(item)))


def _notes(item: Json) -> Iterator[str]:
    """Yield why each model is not as it should be; what holds for several in a row below the last of them only."""
    reasons = [_reason(item, model) for model in item.get("models") or [{}]]
    for reason, following in zip(reasons, [*reasons[1:], None], strict=True):
        yield reason if reason != following else ""


def _reason(item: Json, model: Json) -> str:
    """Return why the model, or else its deployment, is not as it should be; empty where all is well."""
    own = model.get("message") or model.get("degraded") or _trouble(model)
    if own:
        return str(own)
    if item["health"] in {"Healthy", "Suspended"}:
        return LATER if item["sync"] == "OutOfSync" else ""
    conditions = {each["type"]: each for each in item.get("conditions") or ()}
    telling = next((each for each in conditions.values() if each["type"] != "Ready" and each["status"] == "True"), None)
    return str((telling or conditions.get("Ready") or {}).get("message") or "")


def _trouble(model: Json) -> str:
    """Return what to do about a pool that is full or slow; empty where whoever is on call can sleep."""
    saturation, drift = model.get("saturation") or {}, model.get("drift") or {}
    if saturation.get("state") in FULL and saturation.get("advice"):
        return f"{saturation['state']}: {saturation['advice']}"
    return f"slow: {drift['advice']}" if drift.get("drifted") and drift.get("advice") else ""


def _cause(model: Json) -> str:
    """Return the largest term, or who slows the inferences down where that is why."""
    saturation, drift = model.get("saturation") or {}, model.get("drift") or {}
    origin = saturation.get("origin") or "none"
    if origin == "none" and drift.get("drifted"):
        origin = drift.get("origin") or "none"
    return ORIGINS.get(origin) or str(saturation.get("cause") or NONE)


def headroom_text(model: Json) -> str:
    """Return the headroom; `unknown` where a model serves whose capacity nobody has measured."""
    if model.get("headroom_per_s") is None and model.get("observed"):
        return UNKNOWN
    return rate_text(model.get("headroom_per_s"))


def _row(item: Json, model: Json, now: datetime) -> tuple[Cell, ...]:
    worker = item.get("worker") or {}
    observed = model.get("observed") or {}
    name = item["metadata"]["name"]
    return (
        Cell(f"{name}/{model['name']}" if model else name),
        Cell(device_text(model)),
        _plan(model.get("plan") or {}),
        Cell(item["sync"], _SYNC.get(item["sync"])),
        Cell(item["health"], _HEALTH.get(item["health"])),
        Cell(model.get("state") or NONE),
        Cell(rate_text(observed.get("rate_per_s"))),
        Cell(rate_text(observed.get("goodput_per_s"))),
        Cell(milliseconds((observed.get("latency_ms") or {}).get("p50"))),
        _latency(model),
        _saturation(model.get("saturation") or {}),
        Cell(_cause(model)),
        Cell(headroom_text(model)),
        Cell(str(worker.get("restarts", NONE))),
        Cell(str((item.get("revision") or {}).get("number") or NONE)),
        Cell(((item.get("revision") or {}).get("commit") or NONE)[:COMMIT_DIGITS]),
        Cell(age(worker.get("started"), now)),
        Cell(endpoint_text(item.get("endpoint") or {})),
        Cell(cut_end(_reason(item, model), REASON_MAX)),
    )


def device_text(model: Json) -> str:
    """Return the devices that infer, or the one asked for while it is not known."""
    return ",".join(model.get("execution_devices") or ()) or model.get("device") or NONE


def plan_text(plan: Json) -> str:
    """Return the plan in a word: `2x1 b1 r2` is 2 streams x 1 thread, batch 1, 2 requests; a hint by its name.

    `inline x64`: inferred where requests arrive, one inference at a time, of up to 64 rows.
    """
    if not plan:
        return NONE
    streams, threads = plan.get("streams"), plan.get("threads")
    requests = f"r{plan['requests']}" if plan.get("requests") else ""
    layout = (f"{streams}x{max(1, threads // streams)}" if threads else f"{streams}s") if streams else ""
    hint = (plan.get("properties") or {}).get("PERFORMANCE_HINT") if plan.get("expression") == "hint" else None
    if plan.get("inline"):
        rows = plan.get("rows_together") or 1
        return " ".join(part for part in (hint or layout, "inline", f"x{rows}" if rows > 1 else "") if part)
    return " ".join(part for part in (hint, layout, f"b{plan.get('batch') or 1}", requests) if part)


def inline_text(plan: Json) -> str | None:
    """Return in words how a model is inferred that takes less than a hand-over; None for one that takes more."""
    if not plan.get("inline"):
        return None
    rows = plan.get("rows_together") or 1
    together = f"up to {rows} rows together" if rows > 1 else "each request alone"
    return f"inferred where requests arrive, {together} (the model takes less than a hand-over between threads)"


def _plan(plan: Json) -> Cell:
    text = plan_text(plan)
    return Cell(text, short=text.replace("CUMULATIVE_THROUGHPUT", "CUMULATIVE"))


def rate_text(per_s: float | None) -> str:
    """Return a rate in three digits or so, with its unit."""
    return NONE if per_s is None else f"{_short(per_s)}/s"


def milliseconds(value: float | None) -> str:
    """Return milliseconds in three digits or so, with their unit."""
    return NONE if value is None else f"{_short(value)}ms"


def _short(value: float) -> str:
    """Return three digits or so; two of what is less than one, however small."""
    if 0 < value < 0.995:
        return f"{float(f'{value:.2g}'):.9f}".rstrip("0")
    return f"{value:.1f}".removesuffix(".0") if value < 100 else f"{value:.0f}"


def slo_quantile(model: Json) -> tuple[str, float | None]:
    """Return which observed quantile answers for the SLO's percentile, and its value in milliseconds."""
    percentile = (model.get("slo") or {}).get("percentile") or 99.0
    name = next((name for name, most in _PERCENTILES if percentile <= most), "p99")
    return name, ((model.get("observed") or {}).get("latency_ms") or {}).get(name)


def _latency(model: Json) -> Cell:
    name, seen = slo_quantile(model)
    limit = (model.get("slo") or {}).get("latency_ms")
    mark = "" if name == "p99" else f"{name} "
    if limit is None:
        return Cell(milliseconds(seen))
    text = f"{mark}{NONE if seen is None else _short(seen)}/{_short(limit)}ms"
    return Cell(text, Colour.BAD if seen is not None and seen > limit else None)


def percent_full(value: float) -> str:
    """Return how full a pool is; beyond ten times, where it is not measured any further, only that it is beyond."""
    percent = round(value * 100)
    return f"{percent}%" if percent <= PERCENT_MAX else f">{PERCENT_MAX}%"


def state_fits(value: float, state: str) -> bool:
    """Tell whether figure and state say the same: the state waits some seconds before it follows the figure."""
    low, high = _RANGES.get(state, (0.0, inf))
    return low <= value < high


def _saturation(saturation: Json) -> Cell:
    value, state = saturation.get("value"), saturation.get("state") or ""
    if value is None:
        return Cell(NONE)
    percent = percent_full(value)
    if state not in _SATURATION or not state_fits(value, state):
        return Cell(percent)  # OK says no more than the figure
    return Cell(f"{percent} {state}", _SATURATION[state], short=percent)


def age(started: str | None, now: datetime) -> str:
    """Return how long ago an RFC 3339 time was, in one unit."""
    if not started:
        return NONE
    try:
        then = datetime.fromisoformat(started)
    except ValueError:
        return NONE
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length, most in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds // length}{unit}"
    return f"{seconds // 86_400}d"


def endpoint_text(endpoint: Json) -> str:
    """Return where clients reach it."""
    grpc, scheme = endpoint.get("grpc"), "grpcs" if endpoint.get("tls") else "grpc"
    return " ".join(part for part in (endpoint.get("http"), f"{scheme}://{grpc}" if grpc else None) if part) or NONE
