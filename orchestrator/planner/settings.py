"""The properties that OpenVINO is given for one model: in front, for each device behind, and the user's own on top."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.inventory.device import Device
from orchestrator.manifest.target import Mode
from orchestrator.planner import properties as keys
from orchestrator.planner.demand import Case, Choice
from orchestrator.planner.placement import on_cpu
from orchestrator.planner.plan import Reason
from orchestrator.planner.processors import core_type, pinning, usable_threads
from orchestrator.planner.rules import because

MODEL_PRIORITIES = {"critical": "HIGH", "default": "MEDIUM", "sheddable": "LOW"}
BATCH_TIMEOUT_SHARE = 0.1  # of the SLO, for OpenVINO's own batching: its timer adds up to this to every request
BATCH_TIMEOUT_MS = 20  # without an SLO; OpenVINO's default of 1000 ms stalls a lone request (trap 4)


def cpu_settings(case: Case, choice: Choice) -> tuple[int | None, tuple[Reason, ...], dict[str, str]]:
    """Return the threads, why, and what the CPU is told: threads and pinning always (OpenVINO ignores quotas)."""
    if not case.placement.uses_cpu:
        return None, (), {}
    latency = choice.latency and choice.batch == 1
    if case.asked.threads is not None:
        threads, reason = case.share, because("threads", f"{case.share}, as the manifest asks")
    else:
        threads, reason = usable_threads(case.worker, case.share, latency=latency, int8=case.info.int8)
    threads = max(threads, choice.streams if isinstance(choice.streams, int) else 1)
    pin, pin_reason = pinning(case.worker)
    kind, kind_reason = core_type(case.worker, latency=latency, tight=case.tight)
    settings = {keys.NUM_THREADS: str(threads), keys.CPU_PINNING: keys.to_text(pin)}
    if kind is not None:
        settings[keys.CORE_TYPE] = kind
    return threads, (reason, pin_reason, *((kind_reason,) if kind_reason else ())), settings


def all_properties(
    case: Case, choice: Choice, on_cpus: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, dict[str, str]], tuple[Reason, ...], tuple[str, ...]]:
    """Return what the device in front is told, what each device behind it is told, and why."""
    front, reasons = front_properties(case, choice)
    behind: dict[str, dict[str, str]] = {}
    for device in case.placement.devices:
        settings, more = device_settings(case, choice, device, on_cpus)
        reasons += more
        if case.placement.mode in {Mode.DIRECT, Mode.BATCH}:
            front |= settings
        elif settings:
            behind[device.name] = settings
    front, behind, user_reasons = _with_users(case, front, behind)
    reasons += user_reasons
    warnings: tuple[str, ...] = ()
    if case.placement.mode is Mode.BATCH:
        warnings = (
            "OpenVINO's BATCH waits for a timer; `compile.batch` lets orch gather what has arrived, without one",
        )
    sorted_behind = {name: dict(sorted(behind[name].items())) for name in sorted(behind)}
    return dict(sorted(front.items())), sorted_behind, tuple(dict.fromkeys(reasons)), warnings


def front_properties(case: Case, choice: Choice) -> tuple[dict[str, str], list[Reason]]:
    """Return the properties for the named device as a whole (rules 10, 18)."""
    placement = case.placement
    front: dict[str, str] = {}
    reasons: list[Reason] = []
    if choice.hint is not None:
        front[keys.PERFORMANCE_HINT] = choice.hint
    if choice.num_requests is not None:
        front[keys.NUM_REQUESTS] = str(choice.num_requests)
    if placement.mode is Mode.BATCH:
        slo = case.spec.slo
        timeout = max(1, int(slo.latency * 1000 * BATCH_TIMEOUT_SHARE)) if slo else BATCH_TIMEOUT_MS
        front[keys.AUTO_BATCH_TIMEOUT] = str(timeout)
        reasons.append(because("batch", f"AUTO_BATCH_TIMEOUT {timeout} ms, far below the SLO", 10))
    elif placement.of("GPU"):
        front[keys.AUTO_BATCHING] = "NO"
        reasons.append(because("batch", "ALLOW_AUTO_BATCHING=NO: orch batches what has arrived, without a timer", 10))
    if placement.mode is Mode.AUTO and not placement.spread and any(map(on_cpu, placement.devices[1:])):
        if case.spec.slo is not None:
            front[keys.STARTUP_FALLBACK] = "NO"
            text = "ENABLE_STARTUP_FALLBACK=NO: with an SLO no answer may come from a helper"
        else:
            text = "the CPU helps while the other device compiles (no SLO that it could break)"
        reasons.append(because("device", text, 18))
    return front, reasons


def device_settings(
    case: Case, choice: Choice, device: Device, on_cpus: Mapping[str, str]
) -> tuple[dict[str, str], list[Reason]]:
    """Return the properties for one device, those only that it takes (rules 17, 30)."""
    spread, priority = case.placement.spread, case.spec.priority
    wanted: dict[str, str] = {}
    reasons: list[Reason] = []
    if on_cpu(device):
        wanted |= on_cpus
    if choice.streams is not None:
        wanted[keys.NUM_STREAMS] = str(choice.streams)
    elif choice.device_hint is not None:
        wanted[keys.PERFORMANCE_HINT] = choice.device_hint
        text = f"{choice.device_hint} for each device: a GPU does not know CUMULATIVE_THROUGHPUT"
        reasons.append(because("hint", text, 17))
    if spread and device.family == "GPU" and case.placement.uses_cpu and keys.accepts(device, keys.QUEUE_THROTTLE):
        wanted[keys.QUEUE_THROTTLE] = "LOW"
        reasons.append(because("device", f"GPU_QUEUE_THROTTLE=LOW on {device.name} leaves a thread to the CPU", 17))
    if priority != "default" and device.family in {"GPU", "NPU"} and keys.accepts(device, keys.MODEL_PRIORITY):
        wanted[keys.MODEL_PRIORITY] = MODEL_PRIORITIES[priority]
        reasons.append(because("priority", f"MODEL_PRIORITY={MODEL_PRIORITIES[priority]} on {device.name}", 30))
    # A device of its own kind gets nothing that it does not list; one used directly must take its streams.
    certain = keys.NUM_STREAMS if case.placement.mode is Mode.DIRECT else None
    return {key: wanted[key] for key in wanted if key == certain or keys.accepts(device, key)}, reasons


def _with_users(
    case: Case, front: Mapping[str, str], behind: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], dict[str, dict[str, str]], list[Reason]]:
    """Return the properties with the manifest's own on top; those win (they have been checked)."""
    front, below = dict(front), {name: dict(settings) for name, settings in behind.items()}
    reasons: list[Reason] = []
    virtual = case.placement.virtual
    for key, value in sorted(case.spec.properties.items()):
        text = keys.normalise(key, value)
        if virtual in {None, Mode.BATCH.value} or keys.belongs_in_front(key, virtual or ""):
            front[key] = text
            for settings in below.values():
                settings.pop(key, None)
        else:
            for device in case.placement.devices:
                below.setdefault(device.name, {})[key] = text
        reasons.append(because("properties", f"{key}={text}, as the manifest asks"))
    return front, below, reasons
