"""What must change so that what runs becomes what is planned: one change for each model, with its cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator.planner.plan import DeploymentPlan, EndpointPlan, ModelPlan, SloPlan
from orchestrator.units import format_duration, format_rate, format_size

T = TypeVar("T")
Action = Literal["create", "update", "replace", "delete", "unchanged"]
PINNING = "ENABLE_CPU_PINNING"
SYMBOLS: Mapping[Action, str] = {"create": "+", "update": "~", "replace": "±", "delete": "-", "unchanged": "="}


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one model; `model` None: to the worker that serves them all."""

    model: str | None
    action: Action
    cause: str
    details: tuple[str, ...] = ()

    @property
    def symbol(self) -> str:
        """Return the sign that stands for the action."""
        return SYMBOLS[self.action]


def diff(observed: DeploymentPlan | None, desired: DeploymentPlan | None) -> tuple[Change, ...]:
    """Return the changes from what runs to what is wanted, the worker's first, then the models' by name.

    `replace` makes a new compiled model beside the old one; `update` is made in place; None: nothing runs, or nothing
    shall. Plans that are equal are `unchanged` throughout.
    """
    old = {plan.name: plan for plan in observed.models} if observed else {}
    new = {plan.name: plan for plan in desired.models} if desired else {}
    worker = _worker_changes(observed, desired) if observed and desired else ()
    return (*worker, *(_model_change(name, old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())))


def needs_action(changes: tuple[Change, ...]) -> bool:
    """Tell whether anything is to be done."""
    return any(change.action != "unchanged" for change in changes)


def _worker_changes(observed: DeploymentPlan, desired: DeploymentPlan) -> tuple[Change, ...]:
    details = [
        *_endpoint_details(observed.endpoint, desired.endpoint),
        *_detail("cores", _cores(observed.cores), _cores(desired.cores)),
    ] or _pinning_details(observed, desired)
    if details:
        return (Change(None, "replace", _needing(details, "a new worker"), tuple(details)),)
    details = [
        *_detail("cpus", observed.cpus, desired.cpus),
        *_written("memory", observed.memory_bytes, desired.memory_bytes, _size),
        *_detail("machine", observed.fingerprint or "unknown", desired.fingerprint or "unknown"),
    ]
    return (Change(None, "update", _first(details), tuple(details)),) if details else ()


def _pinning_details(observed: DeploymentPlan, desired: DeploymentPlan) -> list[str]:
    """Return the models whose pinning changes: idle threads of the process would be used with the old one (trap 13)."""
    old = {plan.name: plan.properties.get(PINNING) for plan in observed.models}
    new = {plan.name: plan.properties.get(PINNING) for plan in desired.models}
    return [
        detail
        for name in sorted(old.keys() & new.keys())
        if old[name] is not None and new[name] is not None
        for detail in _detail(f"pinning of {name}", old[name], new[name])
    ]


def _endpoint_details(old: EndpointPlan, new: EndpointPlan) -> list[str]:
    return [
        detail
        for field in sorted(EndpointPlan.model_fields)
        for detail in _detail(field, _or_none(getattr(old, field)), _or_none(getattr(new, field)))
    ]


def _or_none(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()  # as the manifest has it
    return "none" if value is None else value


def _model_change(name: str, old: ModelPlan | None, new: ModelPlan | None) -> Change:
    if old is None:
        return Change(name, "create", "no pool is running")
    if new is None:
        return Change(name, "delete", "the manifest no longer names it")
    details = _compiled_details(old, new)
    if old.compile_key() != new.compile_key():
        return Change(name, "replace", _needing(details, "a new compiled model"), (*details, *_details(old, new)))
    details = _details(old, new)
    if details:
        return Change(name, "update", _first(details), tuple(details))
    if old != new:
        return Change(name, "unchanged", "only the wording of the plan differs")
    return Change(name, "unchanged", "as planned")


def _compiled_details(old: ModelPlan, new: ModelPlan) -> list[str]:
    """Return what of the compiled model differs, properties by their own names."""
    details = [*_detail("device", old.device, new.device), *_detail("source", old.source, new.source)]
    details += _detail("sha256", old.sha256[:12], new.sha256[:12]) if old.sha256 != new.sha256 else []
    if old.weights_sha256 != new.weights_sha256:
        details += _detail("weights", (old.weights_sha256 or "none")[:12], (new.weights_sha256 or "none")[:12])
    details += _keys("", old.properties, new.properties)
    for device in sorted(old.device_properties.keys() | new.device_properties.keys()):
        before, after = old.device_properties.get(device, {}), new.device_properties.get(device, {})
        details += _keys(f"{device} ", before, after)
    details += [*_keys("shape of ", _texts(old.shapes), _texts(new.shapes)), *_detail("batch", old.batch, new.batch)]
    return [*details, *_detail("requests", _open(old.requests), _open(new.requests))] or ["its compiled model"]


def _details(old: ModelPlan, new: ModelPlan) -> list[str]:
    """Return what differs that a running pool takes over in place."""
    return [
        *_written("queue limit", old.queue.limit, new.queue.limit, _limit),
        *_written("queue timeout", old.queue.timeout_s, new.queue.timeout_s, format_duration),
        *_written("queue memory", old.queue.memory_bytes, new.queue.memory_bytes, format_size),
        *_written("slo", old.slo, new.slo, _slo),
        *_detail("priority", old.priority, new.priority),
        *_detail("concurrency", _open(old.concurrency), _open(new.concurrency)),
        *_detail("version", old.version, new.version),
        *_detail("requested device", old.requested, new.requested),
        *_detail("degraded", old.degraded or "no", new.degraded or "no"),
        *_detail("expression", old.expression, new.expression),
        *_detail("streams", _open(old.streams), _open(new.streams)),
        *_detail("threads", _open(old.threads), _open(new.threads)),
        *_written("capacity", _capacity(old), _capacity(new), _rates),
        *_detail("verdict", old.verdict or "none", new.verdict or "none"),
        *_written("inference", (old.service_s, old.service_p99_s), (new.service_s, new.service_p99_s), _seconds),
    ]


def _capacity(plan: ModelPlan) -> tuple[float | None, ...]:
    return (plan.capacity_per_s, plan.capacity_low_per_s, plan.capacity_high_per_s)


def _rates(figures: tuple[float | None, ...]) -> str:
    return "unknown" if figures[0] is None else format_rate(figures[0])


def _seconds(figures: tuple[float | None, ...]) -> str:
    return "not measured" if figures[0] is None else format_duration(figures[0])


def _detail(subject: str, old: object, new: object) -> list[str]:
    return [] if old == new else [f"{subject} {old} -> {new}"]


def _written(subject: str, old: T, new: T, text: Callable[[T], str]) -> list[str]:
    """Return the detail of values that differ even where their texts are rounded to the same."""
    return [] if old == new else [f"{subject} {text(old)} -> {text(new)}"]


def _keys(prefix: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    names = sorted(old.keys() | new.keys())
    return [text for key in names for text in _detail(prefix + key, old.get(key, "unset"), new.get(key, "unset"))]


def _first(details: list[str]) -> str:
    others = len(details) - 1
    return details[0] + ("" if not others else " and 1 other change" if others == 1 else f" and {others} other changes")


def _needing(details: list[str], what: str) -> str:
    return f"{_first(details)} {'needs' if len(details) == 1 else 'need'} {what}"


def _open(figure: int | None) -> str:
    return "open" if figure is None else str(figure)


def _size(size: int | None) -> str:
    return "open" if size is None else format_size(size)


def _cores(cores: tuple[int, ...] | None) -> str:
    return "shared" if cores is None else ",".join(map(str, cores))


def _texts(shapes: Mapping[str, list[int | str]]) -> dict[str, str]:
    return {name: "x".join(map(str, shape)) for name, shape in shapes.items()}


def _limit(limit: int | None) -> str:
    return "derived" if limit is None else str(limit)


def _slo(slo: SloPlan | None) -> str:
    if slo is None:
        return "none"
    rate = f" at {format_rate(slo.rate_per_s)}" if slo.rate_per_s is not None else ""
    return f"{slo.percentile:g} % within {format_duration(slo.latency_s)}{rate}"
