"""A plan and its changes as plain text of at most 80 columns, for `orch plan`, `orch diff` and golden files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.planner.diff import Action, Change
from orchestrator.planner.explain import duration, rate
from orchestrator.planner.plan import DeploymentPlan, ModelPlan, Reason, SloPlan
from orchestrator.units import format_duration, format_rate, format_size

WIDTH = 80
_LABEL = 14
_NO_BREAK = "\N{NO-BREAK SPACE}"  # keeps words together while wrapping; printed as a space
_ORDER: tuple[Action, ...] = ("create", "update", "replace", "delete", "unchanged")


def plan_to_text(
    plan: DeploymentPlan,
    changes: Sequence[Change] | None = None,
    actual: Mapping[str, Mapping[str, str]] | None = None,
    *,
    file: str = "FILE",
) -> str:
    """Return what `orch plan` prints: each model with its settings and reasons, and what applying it would do.

    `changes` come from `diff`; `actual` holds, by model, the properties read back from what runs, shown beside the
    planned ones. `file` is what the closing line tells to apply. No colours; ends with a newline.
    """
    by_model = {change.model: change for change in changes or ()}
    blocks = [_heading(plan, by_model.get(None))]
    blocks += [model_to_text(model, by_model.get(model.name), (actual or {}).get(model.name)) for model in plan.models]
    blocks += [_wrapped(f"- {gone.model}", gone.cause) for gone in _gone(changes or ())]
    blocks.append(_closing(plan, changes, file))
    return "\n\n".join(blocks) + "\n"


def changes_to_text(changes: Sequence[Change], *, unchanged: bool = True) -> str:
    """Return one line for each change: sign, model, action, cause; without the unchanged ones where not wanted."""
    shown = [change for change in changes if unchanged or change.action != "unchanged"]
    width = max((len(_name(change)) for change in shown), default=0)
    lines = []
    for change in shown:
        head = f"{change.symbol}  {_name(change):<{width}}  {change.action:<9}  "
        lines.append(_fill(change.cause, head, " " * 6))
        lines += [f"      {detail}" for detail in change.details if len(change.details) > 1]
    return "".join(f"{line}\n" for line in lines)


def sentences_to_text(title: str, sentences: Iterable[str]) -> str:
    """Return a title and below it each sentence on lines of its own."""
    return "".join(f"{line}\n" for line in (title, *(_fill(each, "  ", "    ") for each in sentences)))


def summary(changes: Iterable[Change]) -> str:
    """Return the counts of what happens to models: `1 create, 1 update`, or `nothing changes`."""
    changes = tuple(changes)
    counts = {action: sum(change.action == action for change in changes if change.model) for action in _ORDER}
    worker = ["a new worker"] if any(change.model is None and change.action == "replace" for change in changes) else []
    parts = [f"{counts[action]} {action}" for action in _ORDER if counts[action]] + worker
    return ", ".join(parts) or "nothing changes"


def _fill(text: str, head: str, indent: str) -> str:
    """Return the text wrapped; names, paths and properties are never cut, however narrow the column."""
    wrapper = textwrap.TextWrapper(
        WIDTH, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(text).replace(_NO_BREAK, " ").rstrip()


def _heading(plan: DeploymentPlan, change: Change | None) -> str:
    count = "1 model" if len(plan.models) == 1 else f"{len(plan.models)} models"
    cpus = "1 core" if plan.cpus == 1 else f"{plan.cpus} cores"
    own = f"of its own ({','.join(map(str, plan.cores))})" if plan.cores is not None else "shared with others"
    lines = [f"{plan.name}: {count} on {cpus} {own}"]
    at = plan.endpoint
    places = {"http": at.http, "grpc": at.grpc, "tls": at.tls and str(at.tls), "token": at.token_file}
    lines.append(_wrapped("  endpoint", ", ".join(f"{key} {places[key]}" for key in places if places[key]) or "none"))
    if plan.memory_bytes is not None:
        lines.append(_wrapped("  memory", f"at most {format_size(plan.memory_bytes)}"))
    if change is not None:
        lines.append(_wrapped(f"{change.symbol} worker", f"{change.action}: {change.cause}"))
    lines += [_wrapped("  warning", warning) for warning in plan.warnings]
    return "\n".join(lines)


def model_to_text(model: ModelPlan, change: Change | None = None, actual: Mapping[str, str] | None = None) -> str:
    """Return one model of a plan: its settings and why, what happens to it, and what was read back beside it."""
    sign = f"{change.symbol} " if change else ""
    lines = [f"{sign}{model.name}"]
    if change is not None:
        lines.append(_wrapped("  change", f"{change.action}: {change.cause}"))
    if model.degraded is not None:
        lines.append(_wrapped("  degraded", model.degraded))
    lines += [_wrapped(f"  {label}", text) for label, text in _settings(model)]
    if actual is not None:
        lines += _compared(model, actual)
    labels = ["  because", *[""] * len(model.reasons)]
    lines += [_wrapped(label, _reason(reason), 2) for label, reason in zip(labels, model.reasons, strict=False)]
    lines += [_wrapped("  warning", warning) for warning in model.warnings]
    return "\n".join(lines)


def _settings(model: ModelPlan) -> list[tuple[str, str]]:
    device = model.device if model.device == model.requested else f"{model.device} (asked for {model.requested})"
    rows = [("device", device), ("expression", model.expression), ("properties", _pairs(model.properties))]
    rows += [(f"on {name}", _pairs(model.device_properties[name])) for name in sorted(model.device_properties)]
    if model.shapes:
        shapes = (f"{name} {'x'.join(map(str, model.shapes[name]))}" for name in sorted(model.shapes))
        rows.append(("shapes", ", ".join(shapes)))
    figures = {"streams": model.streams, "threads": model.threads, "batch": model.batch, "requests": model.requests}
    # Threads are nobody's to decide where nothing runs on the CPU.
    shown = {key: figures[key] for key in figures if key != "threads" or figures[key] is not None}
    rows.append(("runs", ", ".join(f"{key} {_figure(shown[key])}" for key in shown)))
    limit = "derived" if model.queue.limit is None else str(model.queue.limit)
    queue = f"limit {limit}, timeout {format_duration(model.queue.timeout_s)}"
    rows.append(("queue", f"{queue}, memory {format_size(model.queue.memory_bytes)}"))
    if model.slo is not None:
        rows.append(("slo", _slo(model.slo)))
    if model.verdict is not None:
        rows.append(("measured", _measured(model)))
    if model.priority != "default":
        rows.append(("priority", model.priority))
    return rows


def _measured(model: ModelPlan) -> str:
    """Return verdict, capacity with its interval, and the time of one inference."""
    parts = [str(model.verdict)]
    if model.capacity_per_s is not None:
        low, high = model.capacity_low_per_s, model.capacity_high_per_s
        interval = f" ({rate(low)} to {rate(high)})" if low is not None and high is not None else ""
        parts.append(f"capacity {rate(model.capacity_per_s)}{interval}")
    if model.service_s is not None:
        p99 = f", p99 {duration(model.service_p99_s)}" if model.service_p99_s is not None else ""
        parts.append(f"inference {duration(model.service_s)}{p99}")
    return ", ".join(parts)


def _compared(model: ModelPlan, actual: Mapping[str, str]) -> list[str]:
    """Return planned beside read back, for every property that can be read back."""
    rows = [(key, model.properties[key], actual[key]) for key in sorted(model.properties) if key in actual]
    lines = [_wrapped("  planned", f"{key} {planned}, actual {real}") for key, planned, real in rows if planned != real]
    return lines or [_wrapped("  planned", f"all {len(rows)} properties that can be read back are as planned")]


def _closing(plan: DeploymentPlan, changes: Sequence[Change] | None, file: str) -> str:
    if changes is None:
        return f"Plan {plan.digest()}."
    line = f"Plan {plan.digest()}: {summary(changes)}."
    if all(change.action == "unchanged" for change in changes):
        return line
    apply = f"Apply with: orch apply {file}"
    return f"{line} {apply}" if len(line) + 1 + len(apply) <= WIDTH else f"{line}\n{apply}"


def _gone(changes: Iterable[Change]) -> list[Change]:
    return [change for change in changes if change.model is not None and change.action == "delete"]


def _wrapped(label: str, text: str, hanging: int = 0) -> str:
    """Return the text in a column beside its label; its further lines are indented by `hanging` more."""
    indent = " " * (_LABEL + 2 + hanging)
    head = f"{label:<{_LABEL}}  "
    return _fill(text, head, indent)


def _reason(reason: Reason) -> str:
    rule = f" (rule{_NO_BREAK}{reason.rule})" if reason.rule is not None else ""
    return f"{reason.subject}: {reason.text}{rule}"


def _pairs(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={settings[key]}" for key in sorted(settings)) or "none"


def _figure(figure: int | None) -> str:
    return "open" if figure is None else str(figure)


def _slo(slo: SloPlan) -> str:
    rate = f" at {format_rate(slo.rate_per_s)}" if slo.rate_per_s is not None else ""
    return f"{slo.percentile:g} % within {format_duration(slo.latency_s)}{rate}"


def _name(change: Change) -> str:
    return change.model or "worker"
