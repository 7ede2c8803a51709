"""What the models of a deployment need of the memory, as far as their files tell (rule 31)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.inventory.device import Device, Host
from orchestrator.inventory.model import ModelInfo, TensorInfo
from orchestrator.units import format_size

# Bytes of one element by the protocol's datatype; BYTES has no fixed size and counts nothing.
ELEMENT_BYTES: Mapping[str, int] = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
    "UINT32": 4, "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip
HOST = ""  # where weights lie that are not in a device's own memory


@dataclass(frozen=True, slots=True)
class Need:
    """What one model needs: weights where they lie (HOST or a device's name), and tensors of its requests."""

    model: str
    weights: Mapping[str, int]
    tensors: int

    @property
    def host(self) -> int:
        """Return the bytes of host memory: weights and tensors."""
        return self.weights.get(HOST, 0) + self.tensors


def need_of(model: str, info: ModelInfo, devices: Iterable[Device], batch: int, requests: int) -> Need:
    """Return what the model needs: its weights once for each device, its tensors once for each request (probe)."""
    weights: dict[str, int] = defaultdict(int)
    for device in devices:
        weights[device.name if device.type == "discrete" else HOST] += info.weights_bytes
    return Need(model, dict(weights), request_bytes(info) * batch * requests)


def request_bytes(info: ModelInfo) -> int:
    """Return the bytes of a request and its answer; what may vary counts as its least."""
    return sum(_bytes(tensor) for tensor in (*info.inputs, *info.outputs))


def _bytes(tensor: TensorInfo) -> int:
    if tensor.shape is None:
        return 0
    return ELEMENT_BYTES.get(tensor.datatype, 0) * math.prod(max(1, dim.low) for dim in tensor.shape)


def host_limit(host: Host, asked: int | None) -> tuple[int, str]:
    """Return the memory that the worker may use and who says so."""
    limits = [(host.memory_bytes, "of the machine")]
    if host.memory_limit_bytes is not None:
        limits.append((host.memory_limit_bytes, "that the cgroup grants"))
    if asked is not None:
        limits.append((asked, "in `resources.memory`"))
    return min(limits)


def check_memory(
    needs: Iterable[Need], host: Host, asked: int | None, devices: Iterable[Device]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what cannot fit (weights alone), and warnings about what may not (rule 31)."""
    needs = tuple(needs)
    limit, whose = host_limit(host, asked)
    refusals, warnings = [], []
    weights = sum(need.weights.get(HOST, 0) for need in needs)
    total = sum(need.host for need in needs)
    largest = max((need.host for need in needs), default=0)
    if weights > limit:
        what = f"the weights alone need {format_size(weights)}, more than the {format_size(limit)} {whose}"
        refusals.append(f"{what} ({_largest_first(needs, HOST)})")
    elif total > limit:
        warnings.append(f"weights and tensors need {format_size(total)}, more than the {format_size(limit)} {whose}")
    elif total + largest > limit:
        text = f"during a change a model and its successor may need {format_size(total + largest)}"
        warnings.append(f"{text}, more than the {format_size(limit)} {whose}")
    for device in devices:
        used = sum(need.weights.get(device.name, 0) for need in needs)
        if device.memory_bytes is not None and device.type == "discrete" and used > device.memory_bytes:
            what = f"the weights alone need {format_size(used)} on {device.name}"
            refusals.append(f"{what}, which has {format_size(device.memory_bytes)}")
    return tuple(refusals), tuple(warnings)


def _largest_first(needs: tuple[Need, ...], where: str) -> str:
    ranked = sorted(needs, key=lambda need: (-need.weights.get(where, 0), need.model))
    return ", ".join(f"{need.model} {format_size(need.weights[where])}" for need in ranked[:5] if where in need.weights)
