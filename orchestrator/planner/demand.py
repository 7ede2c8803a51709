"""From what callers need to how a model is compiled: a hint, or explicit streams, with requests and batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.errors import Kind
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Compile, ModelSpec
from orchestrator.manifest.target import Mode
from orchestrator.planner.batching import REQUESTS_PER_STREAM, check_batch, cpu_batch, gpu_by_callers
from orchestrator.planner.placement import Fault, Placement, on_cpu
from orchestrator.planner.plan import Reason
from orchestrator.planner.processors import Worker
from orchestrator.planner.rules import because

Hint = Literal["LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"]

TIGHT_SLO_S = 0.05  # our own line: below, half the device for each request is rarely enough (rule 2)
HARDLY_MEET = 0.1  # requests in flight on average, at most, below which a second stream would stand idle


@dataclass(frozen=True, slots=True)
class Case:
    """One model with all that decides how it is compiled. `share`: its part of the worker's cores."""

    spec: ModelSpec
    info: ModelInfo
    placement: Placement
    worker: Worker
    share: int

    @property
    def asked(self) -> Compile:
        """Return what the manifest says under `compile`."""
        return self.spec.compile or Compile()

    @property
    def tight(self) -> bool:
        """Tell whether the SLO leaves no room for less than the whole device."""
        return self.spec.slo is not None and self.spec.slo.latency <= TIGHT_SLO_S


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is compiled; None leaves a figure to OpenVINO."""

    hint: Hint | None = None
    device_hint: Hint | None = None
    """Hint for each device where the hint in front is CUMULATIVE_THROUGHPUT."""
    num_requests: int | None = None
    streams: int | Literal["AUTO"] | None = None
    requests: int | None = None
    batch: int = 1
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def latency(self) -> bool:
        """Tell whether one inference at a time gets the whole device."""
        return (self.device_hint or self.hint) == "LATENCY" or self.streams == 1


@dataclass(frozen=True, slots=True)
class Demand:
    """What the callers of one model need."""

    callers: int | None
    latency_s: float | None
    rate_per_s: float | None

    @property
    def in_flight(self) -> float:
        """Return the requests in flight on average if each took the whole SLO (Little's law); 0 when unknown."""
        return (self.rate_per_s or 0.0) * (self.latency_s or 0.0)


@dataclass(frozen=True, slots=True)
class HintRow:
    """One line of the decision table: the first whose condition holds decides."""

    holds: Callable[[Demand], bool]
    hint: Hint
    requests: Callable[[Demand], int | None]
    rule: int
    text: Callable[[Demand], str]


def _no_bound(_: Demand) -> int | None:
    return None


# Why THROUGHPUT for an SLO with a rate: under Poisson arrivals several thin streams hold a p99 at a higher rate than
# one fat one, unless the model speeds up almost perfectly with cores (our calculation, docs/planner-rules.md).
HINT_TABLE: tuple[HintRow, ...] = (
    HintRow(lambda d: d.callers == 1, "LATENCY", _no_bound, 2, lambda _: "one caller: each inference gets the device"),
    HintRow(lambda d: d.callers is not None, "THROUGHPUT", lambda d: d.callers, 3,
            lambda d: f"{d.callers} callers at the same time, so no more requests than that"),
    HintRow(lambda d: 0 < d.in_flight < HARDLY_MEET, "LATENCY", _no_bound, 2,
            lambda d: f"at {d.rate_per_s:g}/s requests hardly ever meet, so each inference gets the device"),
    HintRow(lambda d: d.in_flight > 0, "THROUGHPUT", lambda d: max(2, math.ceil(d.in_flight)), 3,
            lambda d: f"at {d.rate_per_s:g}/s several thin streams hold a percentile better than one; at most "
            f"{d.in_flight:.{2 if d.in_flight < 100 else 9}g} requests are in flight on average within the SLO"),
    HintRow(lambda d: d.latency_s is not None and d.latency_s <= TIGHT_SLO_S, "LATENCY", _no_bound, 2,
            lambda _: "a tight SLO without a rate: each inference gets the device; state `slo.rate` for better"),
    HintRow(lambda _: True, "THROUGHPUT", _no_bound, 3, lambda _: "nothing says that requests come one at a time"),
)  # fmt: skip


def demand_of(spec: ModelSpec) -> Demand:
    """Return what the manifest says of the model's callers."""
    slo = spec.slo
    return Demand(spec.traffic.concurrency, slo.latency if slo else None, slo.rate if slo else None)


def choose(case: Case) -> Choice:
    """Return how the model is compiled: as asked, else by the rules for its device."""
    asked, placement = case.asked, case.placement
    callers = case.spec.traffic.concurrency
    if asked.streams is not None:
        choice = _explicit(case)
    elif (
        asked.hint is None and asked.requests is None and callers is not None and callers > 1 and is_one_gpu(placement)
    ):
        choice = _gpu(case, callers)
    else:
        choice = numa_streams(case) or choose_hint(case)
    return _say_what_is_open(case, choice)


def is_one_gpu(placement: Placement) -> bool:
    """Tell whether the model has one GPU, used directly."""
    return placement.mode is Mode.DIRECT and placement.devices[0].family == "GPU"


def choose_hint(case: Case) -> Choice:
    """Return the hint that is asked for, or that the table gives, with its bound on requests (rules 1 to 3)."""
    demand, asked = demand_of(case.spec), case.asked
    row = next(row for row in HINT_TABLE if row.holds(demand))
    if asked.hint is None:
        hint, bound, reason = (
            row.hint,
            row.requests(demand),
            because("hint", f"{row.hint}: {row.text(demand)}", row.rule),
        )
    else:
        hint, bound = asked.hint, demand.callers if asked.hint != "LATENCY" else None
        reason = because("hint", f"{hint}: as the manifest asks; streams are left to OpenVINO", 1)
    reasons = [reason]
    if asked.requests is not None:
        bound = asked.requests
        reasons.append(because("requests", f"at most {bound}, as the manifest asks", 3))
    batch, why = _hint_batch(case, hint)
    choice = Choice(hint=hint, num_requests=bound, batch=batch, reasons=(*reasons, *((why,) if why else ())))
    return _over_devices(case, choice)


def _hint_batch(case: Case, hint: Hint) -> tuple[int, Reason | None]:
    if case.asked.batch is not None:
        return case.asked.batch, because("batch", f"{case.asked.batch}, as the manifest asks")
    if hint == "LATENCY" or case.placement.mode is not Mode.DIRECT or not on_cpu(case.placement.devices[0]):
        return 1, None
    return cpu_batch(case.spec.traffic.concurrency, min(case.share, case.worker.physical), case.info)


def _over_devices(case: Case, choice: Choice) -> Choice:
    """Return the choice with the hint for several devices, or for one where the manifest asks for all of one."""
    if case.placement.spread:
        device_hint: Hint = "LATENCY" if case.asked.hint == "LATENCY" else "THROUGHPUT"
        warnings: tuple[str, ...] = ()
        if case.spec.traffic.concurrency == 1:
            warnings = ("one caller keeps one device busy at a time; the others stand idle",)
        bound = choice.num_requests if case.asked.hint != "LATENCY" else None
        return replace(
            choice, hint="CUMULATIVE_THROUGHPUT", device_hint=device_hint, num_requests=bound, warnings=warnings
        )
    if choice.hint == "CUMULATIVE_THROUGHPUT":
        text = "THROUGHPUT: CUMULATIVE_THROUGHPUT is for several devices, and a GPU ignores it"
        return replace(choice, hint="THROUGHPUT", reasons=(*choice.reasons, because("hint", text, 17)))
    return choice


def _gpu(case: Case, callers: int) -> Choice:
    fill = gpu_by_callers(callers, case.placement.devices[0], case.info, case.asked.batch)
    return Choice(streams=fill.streams, requests=fill.requests, batch=fill.batch, reasons=fill.reasons)


def numa_streams(case: Case) -> Choice | None:
    """Return one stream for each NUMA node where several callers want low latency of several sockets (rule 26)."""
    nodes = len(case.worker.host.cores.numa_nodes)
    callers = case.spec.traffic.concurrency or 0
    mine = case.asked == Compile() and case.placement.mode is Mode.DIRECT and on_cpu(case.placement.devices[0])
    if not mine or not case.tight or case.worker.host.cores.sockets < 2 or not 2 <= nodes <= min(callers, case.share):
        return None
    # The number is written, not "NUMA": it means the same and can be compared with what is read back.
    text = f"{nodes}: one for each NUMA node; each inference stays on its socket"
    return Choice(streams=nodes, reasons=(because("streams", text, 26),))


def _explicit(case: Case) -> Choice:
    asked, placement = case.asked, case.placement
    batch = asked.batch or 1
    reasons = [because("streams", f"{asked.streams}, as the manifest asks", 5)]
    spread: Hint | None = "CUMULATIVE_THROUGHPUT" if placement.spread else None
    requests = asked.requests
    if requests is not None:
        reasons.append(because("requests", f"{requests} for all streams together, as the manifest asks", 5))
    if asked.streams is None or asked.streams == "AUTO":
        return Choice(hint=spread, streams="AUTO", requests=requests, batch=batch, reasons=tuple(reasons))
    if requests is None and is_one_gpu(placement):
        requests = asked.streams * REQUESTS_PER_STREAM
        text = f"{requests} = {asked.streams} streams x {REQUESTS_PER_STREAM}: one computes, one is prepared"
        reasons.append(because("requests", text, 8))
    warnings = _idle_warnings(case, asked.streams, requests, batch)
    return Choice(
        hint=spread, streams=asked.streams, requests=requests, batch=batch, reasons=tuple(reasons), warnings=warnings
    )


def _idle_warnings(case: Case, streams: int, requests: int | None, batch: int) -> tuple[str, ...]:
    callers = case.spec.traffic.concurrency
    warnings = []
    if callers is not None and callers < streams:
        warnings.append(f"{streams} streams for {callers} callers: {streams - callers} will stand idle")
    elif callers is not None and batch > 1 and callers < streams * batch:
        warnings.append(f"{callers} callers cannot fill {streams} streams x batch {batch}: batches will not fill")
    if requests is not None and requests < streams:
        warnings.append(f"{requests} requests for {streams} streams: {streams - requests} will stand idle")
    elif case.placement.of("GPU") and requests is not None and requests < streams * REQUESTS_PER_STREAM:
        warnings.append(f"{requests} requests for {streams} streams: a GPU wants {REQUESTS_PER_STREAM} for each stream")
    return tuple(warnings)


def _say_what_is_open(case: Case, choice: Choice) -> Choice:
    reasons = list(choice.reasons)
    has_streams = any(device.family != "NPU" for device in case.placement.devices)
    if has_streams and not isinstance(choice.streams, int):
        reasons.append(because("streams", "left to OpenVINO; read back from the compiled model (NUM_STREAMS)", 1))
    if choice.requests is None:
        text = "OPTIMAL_NUMBER_OF_INFER_REQUESTS of the compiled model"
        reasons.append(because("requests", text, 4))
    return replace(choice, reasons=tuple(reasons))


def check_compile(spec: ModelSpec, info: ModelInfo, placement: Placement, cpus: int) -> tuple[Fault, ...]:
    """Return all under `compile`, and in BATCH, that contradicts itself or that the devices cannot do."""
    asked = spec.compile or Compile()
    return (
        *_contradictions(asked),
        *check_streams(asked, placement, cpus),
        *_check_threads(asked, placement, cpus),
        *check_batch(asked.batch, info, placement, "compile.batch"),
        *_check_batch_device(asked, info, placement),
    )


def _contradictions(asked: Compile) -> tuple[Fault, ...]:
    faults = []
    if asked.hint is not None and asked.streams is not None:
        what = f"hint {asked.hint} and streams {asked.streams} contradict each other"
        faults.append(Fault("compile", what, "drop `streams` to let OpenVINO decide, or drop `hint`", Kind.INVALID))
    return tuple(faults)


def check_streams(asked: Compile, placement: Placement, cpus: int) -> tuple[Fault, ...]:
    """Refuse streams that a device does not have (rules 5, 29)."""
    faults = []
    streams = asked.streams
    if streams is not None and placement.of("NPU"):
        faults.append(Fault("compile.streams", f"an NPU has no streams, got {streams}", "write a hint in their place"))
    if not isinstance(streams, int):
        return tuple(faults)
    for device in placement.devices:
        low, high = device.range_for_streams or (1, streams)
        if device.family != "NPU" and not low <= streams <= high:
            what = f"{device.name} offers {low} to {high} streams, got {streams}"
            faults.append(Fault("compile.streams", what, f"state at most {high}"))
        elif on_cpu(device) and streams > cpus:
            what = f"streams {streams} need as many cores, and the worker has {cpus}"
            faults.append(Fault("compile.streams", what, f"state at most {cpus}"))
    if asked.threads is not None and asked.threads < streams and placement.uses_cpu:
        what = f"{streams} streams cannot run on {asked.threads} threads: OpenVINO would cut them"
        faults.append(Fault("compile.streams", what, "state at least as many threads as streams", Kind.INVALID))
    return tuple(faults)


def _check_threads(asked: Compile, placement: Placement, cpus: int) -> tuple[Fault, ...]:
    if asked.threads is None:
        return ()
    if not placement.uses_cpu:
        what = f"threads are a setting of the CPU, and the model runs on {placement}"
        return (Fault("compile.threads", what, "remove it"),)
    if asked.threads > cpus:
        return (Fault("compile.threads", f"the worker has {cpus} cores, got {asked.threads}", f"state at most {cpus}"),)
    return ()


def _check_batch_device(asked: Compile, info: ModelInfo, placement: Placement) -> tuple[Fault, ...]:
    if placement.mode is not Mode.BATCH:
        return ()
    faults = list(check_batch(placement.batch, info, placement, "device"))
    name = placement.devices[0].name
    if placement.batch is None and placement.devices[0].family != "GPU":
        what = f"BATCH:{name} without a size is plain {name}: only a GPU knows its own"
        faults.append(Fault("device", what, f"write BATCH:{name}(4), or {name} with `compile.batch`", Kind.INVALID))
    if asked.batch is not None:
        what = f"batch {asked.batch} and {placement} would batch twice"
        faults.append(Fault("compile.batch", what, f"write `device: {name}` and keep `batch`", Kind.INVALID))
    return tuple(faults)
