"""When rows are inferred together: what forbids a batch, and the batch that a rule gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.errors import Kind
from orchestrator.inventory.device import Device
from orchestrator.inventory.model import ModelInfo
from orchestrator.planner.placement import Fault, Placement
from orchestrator.planner.plan import Reason
from orchestrator.planner.rules import because

GPU_STREAMS = 2  # streams that keep a GPU busy while one of them copies (rule 9)
REQUESTS_PER_STREAM = 2  # on a GPU: one is computed, one is prepared (rule 8)
FEW_CALLERS = 4  # up to here a GPU gets streams only (rule 8)
CPU_CORES_FOR_BATCH = 16  # below, streams alone fill a CPU (rule 7)
CPU_BATCH_MAX = 8


@dataclass(frozen=True, slots=True)
class Fill:
    """Streams, requests and rows that keep a device busy with the callers there are."""

    streams: int
    requests: int
    batch: int
    reasons: tuple[Reason, ...]


def obstacle(info: ModelInfo) -> tuple[str, int] | None:
    """Return why the model cannot be batched and the rule that says so, None where it can (rules 6, 32)."""
    if info.stateful:
        return "it keeps state between inferences, so rows of different callers must not mix", 32
    if info.dynamic:
        return "it has dynamic input shapes, so rows of different sizes would meet", 6
    if not info.batchable:
        return info.unbatchable_reason or "axis 0 of its inputs and outputs does not carry a batch", 6
    return None


def check_batch(batch: int | None, info: ModelInfo, placement: Placement, field: str) -> tuple[Fault, ...]:
    """Return why `batch` rows cannot be inferred together on these devices."""
    if batch is None or batch == 1:
        return ()
    why = obstacle(info)
    if why is not None:
        return (Fault(field, f"the model cannot be batched, got {batch}: {why[0]}", "remove the batch", Kind.INVALID),)
    faults = []
    for device in placement.devices:
        most = by_device(info.max_batch, device)
        if most is not None and batch > most:
            what = f"batch {batch} is more than {device.name} can hold (MAX_BATCH_SIZE {most})"
            faults.append(Fault(field, what, f"state at most {most}"))
    return tuple(faults)


def by_device(figures: Mapping[str, int], device: Device) -> int | None:
    """Return the figure of the device, which may be written as GPU or GPU.0."""
    for name in (device.name, f"{device.name}.0", device.name.removesuffix(".0")):
        if name in figures:
            return figures[name]
    return None


def gpu_by_callers(callers: int, device: Device, info: ModelInfo, asked: int | None) -> Fill:
    """Return streams, requests and batch for a GPU with that many callers (rules 8 and 9).

    16 callers: 2 streams x 2 requests x batch 4.
    """
    most = device.range_for_streams[1] if device.range_for_streams else GPU_STREAMS
    half = -(-callers // REQUESTS_PER_STREAM)
    why = obstacle(info)
    if callers <= FEW_CALLERS or (why is not None and asked is None):
        streams = max(1, min(half, most))
        text = f"{streams} of at most {most}: {callers} callers, {REQUESTS_PER_STREAM} requests for each stream"
        reasons = [because("streams", text, 8)]
        if why is not None and callers > FEW_CALLERS:
            reasons.append(because("batch", f"none: {why[0]}", why[1]))
        return Fill(streams, streams * REQUESTS_PER_STREAM, asked or 1, tuple(reasons))
    streams = max(1, min(GPU_STREAMS, most))
    requests = streams * REQUESTS_PER_STREAM
    if asked is not None:
        reason = because("streams", f"{streams} streams x {REQUESTS_PER_STREAM} requests x batch {asked} as asked", 9)
        return Fill(streams, requests, asked, (reason,))
    batch, limit = _within_device(_power_of_two(callers // requests), device, info)
    text = f"{callers} callers = {streams} streams x {REQUESTS_PER_STREAM} requests x batch {batch}{limit}"
    return Fill(streams, requests, batch, (because("batch", text, 9),))


def _within_device(batch: int, device: Device, info: ModelInfo) -> tuple[int, str]:
    limit = ""
    for name, figures in (("OPTIMAL_BATCH_SIZE", info.optimal_batch), ("MAX_BATCH_SIZE", info.max_batch)):
        most = by_device(figures, device)
        if most is not None and most < batch:
            batch, limit = _power_of_two(most), f" ({name} of {device.name} is {most})"
    return batch, limit


def cpu_batch(callers: int | None, threads: int, info: ModelInfo) -> tuple[int, Reason | None]:
    """Return the batch that a rule gives on a CPU: one, but on many cores with more callers than cores (rule 7)."""
    if threads < CPU_CORES_FOR_BATCH or callers is None or callers < 2 * threads:
        return 1, None
    why = obstacle(info)
    if why is not None:
        return 1, because("batch", f"none: {why[0]}", why[1])
    batch = min(CPU_BATCH_MAX, _power_of_two(callers // threads))
    return batch, because("batch", f"{batch}: {callers} callers for {threads} threads, on top of the streams", 7)


def _power_of_two(number: int) -> int:
    """Return the largest power of two that is at most `number`, at least one."""
    return 1 << (max(1, number).bit_length() - 1)
