"""Which devices of the machine a model's device string means, and what OpenVINO is told in its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.errors import Kind
from orchestrator.inventory.device import Device, Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.manifest.target import Mode, Target
from orchestrator.planner.plan import Reason
from orchestrator.planner.rules import because

# GPUs of other makers that OpenVINO lists since 2025 although they rarely work (trap 27, openvino #33941).
FOREIGN_MAKERS = ("NVIDIA", "GeForce", "Radeon", "Adreno", "Mali", "Apple")
MANY_GPUS = 3  # from here on the CPU only takes bandwidth from the GPUs (rule 16)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field of a model."""

    field: str
    what: str
    hint: str | None = None
    kind: Kind = Kind.UNSUPPORTED


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of a model. `spread`: all of them work at the same time (CUMULATIVE_THROUGHPUT)."""

    mode: Mode
    devices: tuple[Device, ...]
    spread: bool = False
    batch: int | None = None
    degraded: str | None = None
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(Target(self.mode, tuple(device.name for device in self.devices), batch=self.batch))

    @property
    def virtual(self) -> str | None:
        """Return the virtual device in front, None when the device is used directly."""
        return None if self.mode is Mode.DIRECT else self.mode.value

    def of(self, family: str) -> tuple[Device, ...]:
        """Return the devices of that family."""
        return tuple(device for device in self.devices if device.family == family)

    @property
    def uses_cpu(self) -> bool:
        """Tell whether it computes on the CPU."""
        return any(on_cpu(device) for device in self.devices)


def on_cpu(device: Device) -> bool:
    """Tell whether the device computes with the processor's threads, under whatever name it is registered."""
    return device.family == "CPU" or device.supports("INFERENCE_NUM_THREADS")


def speed_rank(device: Device) -> int:
    """Return the place of the device, fastest first: discrete GPU, integrated GPU, NPU, others, CPU (rules 14, 15)."""
    if device.family == "GPU":
        return 0 if device.type == "discrete" else 1
    if device.family == "NPU":
        return 2
    return 4 if on_cpu(device) else 3


def place(spec: ModelSpec, info: ModelInfo, inventory: Inventory) -> tuple[Placement | None, tuple[Fault, ...]]:
    """Return where the model goes, or why it can go nowhere on this machine."""
    first, faults = _place_target(spec, spec.device, inventory)
    if first is None and spec.fallback and all(fault.kind is Kind.UNSUPPORTED for fault in faults):
        for target in spec.fallback:
            second, _ = _place_target(spec, target, inventory)
            if second is not None and not check_npu(second, info):
                why = f"{'; '.join(fault.what for fault in faults)}: {target} stands in, as `fallback` says"
                return replace(second, degraded=why), ()
        stand_ins = ", ".join(str(target) for target in spec.fallback)
        missing = Fault("fallback", f"none of {stand_ins} can stand in on this machine", present(inventory))
        return None, (*faults, missing)
    if first is not None:
        faults = check_npu(first, info)
    return (None if faults else first), faults


def present(inventory: Inventory) -> str:
    """Return the sentence that says what the machine has."""
    names = ", ".join(device.name for device in inventory.devices) or "no device"
    return f"this machine has {names}"


def check_npu(placement: Placement, info: ModelInfo) -> tuple[Fault, ...]:
    """Refuse dynamic shapes on an NPU: it compiles static ones only (rule 29)."""
    if placement.of("NPU") and info.dynamic:
        what = "the NPU takes static shapes only, and this model has dynamic ones"
        return (Fault("device", what, "give fixed sizes in `shapes`, or another device"),)
    return ()


def _place_target(spec: ModelSpec, target: Target, inventory: Inventory) -> tuple[Placement | None, tuple[Fault, ...]]:
    if target.mode is Mode.AUTO and not target.devices:
        return expand_auto(spec, target, inventory)
    found, faults = _find(target, inventory)
    if faults:
        return None, faults
    reasons, warnings = _remarks(target, found, inventory)
    placement = Placement(target.mode, found, batch=target.batch, reasons=reasons, warnings=warnings)
    if target.mode in {Mode.AUTO, Mode.MULTI}:
        placement = _arrange(spec, target, placement)
    return placement, ()


def _find(target: Target, inventory: Inventory) -> tuple[tuple[Device, ...], tuple[Fault, ...]]:
    found: list[Device] = []
    faults: list[Fault] = []
    for name in target.devices:
        device = inventory.device(name)
        if device is None:
            faults.append(_absent(name, inventory))
        elif device.family == "GPU" and any(maker in device.full_name for maker in FOREIGN_MAKERS):
            what = f"{name} is {device.full_name}, and OpenVINO runs on Intel GPUs only"
            faults.append(Fault("device", what, present(inventory)))
        elif device in found:
            what = f"{target} names {device.name} twice"
            faults.append(Fault("device", what, "name each device once", Kind.INVALID))
        else:
            found.append(device)
    return tuple(found), tuple(faults)


def _absent(name: str, inventory: Inventory) -> Fault:
    near = difflib.get_close_matches(name, [device.name for device in inventory.devices], n=1, cutoff=0.7)
    hint = present(inventory) + (f"; did you mean {near[0]}?" if near else "; name a stand-in in `fallback`")
    return Fault("device", f"{name} is not on this machine", hint)


def _remarks(
    target: Target, found: Iterable[Device], inventory: Inventory
) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    reasons: list[Reason] = []
    warnings: list[str] = []
    for name, device in zip(target.devices, found, strict=True):
        if device.name != name:
            others = [other for other in inventory.devices if other.family == device.family and other != device]
            text = f"{name} is {device.name} here ({_describe(device)})"
            more = "".join(f"; {other.name} is {_describe(other)}" for other in others)
            reasons.append(because("device", text + more))
        if device.family == "GPU" and device.full_name and "Intel" not in device.full_name:
            warnings.append(f"{device.name} says it is {device.full_name}: OpenVINO is made for Intel GPUs")
    return tuple(reasons), tuple(warnings)


def _describe(device: Device) -> str:
    return f"{device.type} GPU" if device.family == "GPU" and device.type else device.full_name or device.name


def expand_auto(spec: ModelSpec, target: Target, inventory: Inventory) -> tuple[Placement | None, tuple[Fault, ...]]:
    """Return a bare AUTO as the list of devices it means here, so that the plan does not change unseen (rule 15)."""
    excluded = {device.name for name in target.excluded if (device := inventory.device(name)) is not None}
    fit = [
        device
        for device in inventory.devices
        if device.name not in excluded | set(target.excluded)
        and device.family not in {"NPU", *target.excluded}
        and not any(maker in device.full_name for maker in FOREIGN_MAKERS)
    ]
    if not fit:
        return None, (Fault("device", f"{target} leaves no device to choose from", present(inventory)),)
    devices = tuple(sorted(fit, key=speed_rank))
    names = ", ".join(device.name for device in devices)
    reason = because("device", f"{target} means {names} on this machine, fastest first; an NPU only if named", 15)
    return _arrange(spec, target, Placement(Mode.AUTO, devices, reasons=(reason,))), ()


def _arrange(spec: ModelSpec, target: Target, placement: Placement) -> Placement:
    """Return the placement as AUTO gets it: MULTI rewritten, fastest first, and a list of one used directly."""
    hint = spec.compile.hint if spec.compile else None
    spread = target.mode is Mode.MULTI or hint == "CUMULATIVE_THROUGHPUT"
    placement = replace(placement, mode=Mode.AUTO, spread=spread)
    if spread:
        placement = drop_cpu(_fastest_first(target, placement))
    if len(placement.devices) == 1:
        name = placement.devices[0].name
        reason = because("device", f"{name} is the only device of {target}: used directly, there is nothing to choose")
        placement = replace(placement, mode=Mode.DIRECT, spread=False, reasons=(*placement.reasons, reason))
    return placement


def _fastest_first(target: Target, placement: Placement) -> Placement:
    devices = tuple(sorted(placement.devices, key=speed_rank))
    names = ",".join(device.name for device in devices)
    text = f"all of {names} work at the same time"
    if target.mode is Mode.MULTI:
        text = f"MULTI is deprecated in OpenVINO; AUTO:{names} with CUMULATIVE_THROUGHPUT does the same"
    if devices != placement.devices:
        text += "; reordered, fastest first, because a request goes to the first device that is free"
    return replace(placement, devices=devices, reasons=(*placement.reasons, because("device", text, 14)))


def drop_cpu(placement: Placement) -> Placement:
    """Drop the CPU beside three or more GPUs (rule 16)."""
    gpus = len(placement.of("GPU"))
    rest = tuple(device for device in placement.devices if not on_cpu(device))
    if gpus < MANY_GPUS or len(rest) == len(placement.devices):
        return placement
    reason = because("device", f"CPU dropped: beside {gpus} GPUs it costs more than it adds, it feeds them instead", 16)
    return replace(placement, devices=rest, reasons=(*placement.reasons, reason))
