"""Every OpenVINO property that orch knows: its values, who takes it, who sets it; and the check of `properties:`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.inventory.device import Device

PERFORMANCE_HINT = "PERFORMANCE_HINT"
NUM_REQUESTS = "PERFORMANCE_HINT_NUM_REQUESTS"
NUM_STREAMS = "NUM_STREAMS"
NUM_THREADS = "INFERENCE_NUM_THREADS"
CPU_PINNING = "ENABLE_CPU_PINNING"
CORE_TYPE = "SCHEDULING_CORE_TYPE"
AUTO_BATCHING = "ALLOW_AUTO_BATCHING"
AUTO_BATCH_TIMEOUT = "AUTO_BATCH_TIMEOUT"
MODEL_PRIORITY = "MODEL_PRIORITY"
QUEUE_THROTTLE = "GPU_QUEUE_THROTTLE"
STARTUP_FALLBACK = "ENABLE_STARTUP_FALLBACK"

Value = Literal["bool", "int", "float", "enum", "text", "type"]
Scalar = str | bool | int | float

YES = frozenset({"YES", "TRUE", "1"})
NO = frozenset({"NO", "FALSE", "0"})
ELEMENT_TYPES = ("dynamic", "f32", "f16", "bf16", "f64", "u8", "i8", "u4", "i4", "undefined")
LEVELS = ("LOW", "MEDIUM", "HIGH")
HINTS = ("LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT")
LOG_LEVELS = ("LOG_NONE", "LOG_ERROR", "LOG_WARNING", "LOG_INFO", "LOG_DEBUG", "LOG_TRACE")

# CORE: read by OpenVINO's core in front of every device, so that a device need not list it.
CORE = "CORE"
PHYSICAL = frozenset({"CPU", "GPU", "NPU"})


@dataclass(frozen=True, slots=True)
class Property:
    """One property: `families` take it at compile time; `field` is the manifest field that sets it, if one does."""

    key: str
    value: Value
    families: frozenset[str]
    allowed: tuple[str, ...] = ()
    least: int | None = None
    field: str | None = None
    """Manifest field to use instead; `properties:` may not set it."""
    set_by_orch: bool = False
    """orch sets it by rule; a value of the user's wins."""
    note: str = ""
    """Why it cannot be used, or what to use instead."""


def _property(key: str, value: Value, families: str, *allowed: str, **more: object) -> Property:
    return Property(key, value, frozenset(families.split()), allowed, **more)  # type: ignore[arg-type]


# facts section 1 (OpenVINO 2026.4.1). Where an inventory lists a device's own properties, those decide over `families`.
_TABLE = (
    _property(PERFORMANCE_HINT, "enum", "CPU GPU NPU AUTO MULTI", *HINTS, field="compile.hint"),
    _property(NUM_REQUESTS, "int", "CPU GPU NPU AUTO MULTI", least=0, field="compile.requests"),
    _property(NUM_STREAMS, "int", "CPU GPU", least=1, field="compile.streams"),
    _property(NUM_THREADS, "int", "CPU", least=1, field="compile.threads"),
    _property("EXECUTION_MODE_HINT", "enum", "CPU GPU NPU AUTO MULTI", "PERFORMANCE", "ACCURACY"),
    _property("INFERENCE_PRECISION_HINT", "type", "CPU GPU NPU", *ELEMENT_TYPES),
    _property("COMPILATION_NUM_THREADS", "int", "GPU NPU", least=1),
    _property(CPU_PINNING, "bool", "CPU GPU", set_by_orch=True),
    _property("ENABLE_CPU_RESERVATION", "bool", "CPU GPU"),
    _property("ENABLE_HYPER_THREADING", "bool", "CPU"),
    _property(CORE_TYPE, "enum", "CPU", "ANY_CORE", "PCORE_ONLY", "ECORE_ONLY", set_by_orch=True),
    _property("MODEL_DISTRIBUTION_POLICY", "text", "CPU HETERO"),
    _property("ENABLE_TENSOR_PARALLEL", "bool", "CPU"),
    _property("AFFINITY", "text", "", note="it was removed from OpenVINO; use ENABLE_CPU_PINNING"),
    _property(AUTO_BATCHING, "bool", "CORE AUTO MULTI", set_by_orch=True),
    _property(AUTO_BATCH_TIMEOUT, "int", "BATCH", least=0, set_by_orch=True),
    _property("CACHE_DIR", "text", "CORE"),
    _property("CACHE_PATH", "text", "CORE"),
    _property("CACHE_MODE", "enum", "GPU", "OPTIMIZE_SPEED", "OPTIMIZE_SIZE"),
    _property("WEIGHTS_PATH", "text", "CPU GPU NPU"),
    _property("ENABLE_WEIGHTLESS", "bool", "CPU GPU NPU"),
    _property("ENABLE_MMAP", "bool", "CORE"),
    _property("FORCE_TBB_TERMINATE", "bool", "CORE"),
    _property("PERF_COUNT", "bool", "CPU GPU NPU AUTO MULTI BATCH"),
    _property("LOG_LEVEL", "enum", "CPU NPU AUTO MULTI", *LOG_LEVELS),
    _property("WORKLOAD_TYPE", "enum", "NPU", "DEFAULT", "EFFICIENT"),
    _property(MODEL_PRIORITY, "enum", "GPU NPU AUTO MULTI", *LEVELS, set_by_orch=True),
    _property("MULTI_DEVICE_PRIORITIES", "text", "AUTO MULTI BATCH HETERO", field="device"),
    _property("DEVICE_PROPERTIES", "text", "AUTO MULTI HETERO", field="device", note="orch writes it"),
    _property("DEVICE_ID", "text", "CPU GPU NPU", field="device"),
    _property(STARTUP_FALLBACK, "bool", "AUTO", set_by_orch=True),
    _property("ENABLE_RUNTIME_FALLBACK", "bool", "AUTO"),
    _property("SCHEDULE_POLICY", "enum", "AUTO MULTI", "ROUND_ROBIN", "DEVICE_PRIORITY"),
    _property("DEVICE_BIND_BUFFER", "bool", "AUTO MULTI"),
    _property("DEVICES_UTILIZATION_THRESHOLD", "text", "AUTO"),
    _property("PERF_CURVE_TABLE", "text", "AUTO"),
    _property("LOW_POWER_DEVICE", "text", "AUTO"),
    _property("CPU_DENORMALS_OPTIMIZATION", "bool", "CPU"),
    _property("CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE", "float", "CPU"),
    _property("TBB_PARTITIONER", "enum", "CPU", "STATIC", "AUTO", "NONE"),
    _property("DYNAMIC_QUANTIZATION_GROUP_SIZE", "int", "CPU GPU", least=0),
    _property("ACTIVATIONS_SCALE_FACTOR", "float", "GPU"),
    _property("KV_CACHE_PRECISION", "type", "CPU GPU", *ELEMENT_TYPES),
    _property("KEY_CACHE_PRECISION", "type", "CPU", *ELEMENT_TYPES),
    _property("VALUE_CACHE_PRECISION", "type", "CPU", *ELEMENT_TYPES),
    _property("KEY_CACHE_GROUP_SIZE", "int", "CPU", least=0),
    _property("VALUE_CACHE_GROUP_SIZE", "int", "CPU", least=0),
    _property("GPU_QUEUE_PRIORITY", "enum", "GPU", *LEVELS),
    _property(QUEUE_THROTTLE, "enum", "GPU", *LEVELS, set_by_orch=True),
    _property("GPU_HOST_TASK_PRIORITY", "enum", "GPU", *LEVELS),
    _property("GPU_ENABLE_LOOP_UNROLLING", "bool", "GPU"),
    _property("GPU_DISABLE_WINOGRAD_CONVOLUTION", "bool", "GPU"),
    _property("GPU_ENABLE_SDPA_OPTIMIZATION", "bool", "GPU"),
    _property("GPU_ENABLE_KERNELS_REUSE", "bool", "GPU"),
    _property("GPU_ENABLE_LARGE_ALLOCATIONS", "bool", "GPU"),
    _property("NPU_TURBO", "bool", "NPU"),
    _property("NPU_TILES", "int", "NPU", least=1),
    _property("NPU_COMPILATION_MODE_PARAMS", "text", "NPU"),
    _property("NPU_COMPILER_TYPE", "text", "NPU"),
    _property("NPU_DEFER_WEIGHTS_LOAD", "bool", "NPU"),
    _property("NPU_RUN_INFERENCES_SEQUENTIALLY", "bool", "NPU"),
    _property("NPU_BYPASS_UMD_CACHING", "bool", "NPU"),
)  # fmt: skip
TABLE: Mapping[str, Property] = {row.key: row for row in _TABLE}


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a property of the manifest cannot be used, and what to do."""

    what: str
    hint: str | None = None


def accepts(device: Device, key: str) -> bool:
    """Tell whether the device takes `key` at compile time: its own list decides, else the table."""
    known = TABLE.get(key)
    if known is not None and not known.families:
        return False  # removed from OpenVINO
    if device.properties:
        return device.supports(key)
    return known is not None and device.family in known.families


def to_text(value: Scalar) -> str:
    """Return the value as OpenVINO reads it from text: YES and NO for booleans."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    return str(value)


def check(key: str, value: Scalar, devices: Iterable[Device], virtual: str | None) -> Rejection | None:
    """Return why `key: value` cannot be used on all of `devices` behind `virtual` (AUTO, HETERO, BATCH), else None.

    AUTO, MULTI and HETERO swallow what a device does not support (trap 7), so every physical device is asked.
    """
    devices = tuple(devices)
    known = TABLE.get(key)
    if known is None:
        return _check_unknown(key, devices)
    if known.field is not None:
        return Rejection(f"{key} is set by `{known.field}`", f"remove it from `properties` and write `{known.field}`")
    if needs_devices(known, virtual):
        refusing = [device.name for device in devices if not accepts(device, key)]
        if refusing:
            return _refused(known, refusing, devices)
    return _check_value(known, value)


def needs_devices(known: Property, virtual: str | None) -> bool:
    """Tell whether every device must take the property; what only the core or the virtual device reads needs none."""
    return CORE not in known.families and (virtual not in known.families or bool(known.families & PHYSICAL))


def belongs_in_front(key: str, virtual: str) -> bool:
    """Tell whether, under a virtual device, the property is given to that and not to each device behind it."""
    known = TABLE.get(key)
    return known is not None and bool(known.families & {CORE, virtual})


def normalise(key: str, value: Scalar) -> str:
    """Return the text for a value that `check` has let pass, so that equal values give equal plans."""
    known = TABLE.get(key)
    text = to_text(value)
    if known is not None and known.value == "bool":
        return "YES" if text.upper() in YES else "NO"
    return text


def _check_unknown(key: str, devices: tuple[Device, ...]) -> Rejection | None:
    modes = {device.name: device.properties.get(key) for device in devices}
    if modes and all(mode == "RW" for mode in modes.values()):
        return None
    if any(mode == "RO" for mode in modes.values()):
        return Rejection(f"{key} can only be read", "remove it")
    missing = sorted(name for name, mode in modes.items() if mode is None)
    if any(mode == "RW" for mode in modes.values()):
        return Rejection(f"{key} is not supported by {', '.join(missing)}", "remove it, or drop that device")
    words = sorted({*TABLE, *(name for device in devices for name in device.properties)})
    near = difflib.get_close_matches(key.upper(), words, n=1)
    return Rejection(f"{key} is no OpenVINO property that orch or {', '.join(missing) or 'the device'} knows",
                     f"did you mean {near[0]}?" if near else "remove it")  # fmt: skip


def _refused(known: Property, refusing: list[str], devices: tuple[Device, ...]) -> Rejection:
    if known.note:
        return Rejection(f"{known.key} cannot be used: {known.note}", "remove it")
    if any(device.properties.get(known.key) == "RO" for device in devices):
        return Rejection(f"{known.key} can only be read on {', '.join(refusing)}", "remove it")
    takers = ", ".join(sorted(known.families)) or "no device"
    return Rejection(f"{known.key} is not supported by {', '.join(refusing)}", f"it is for {takers}; remove it")


def _check_value(known: Property, value: Scalar) -> Rejection | None:
    text = to_text(value)
    match known.value:
        case "bool":
            allowed = text.upper() in YES | NO
            want = "YES or NO"
        case "int":
            allowed = _number(text, known.least, whole=True)
            want = f"a whole number of at least {known.least}" if known.least is not None else "a whole number"
        case "float":
            allowed = _number(text, known.least, whole=False)
            want = "a number"
        case "enum" | "type":
            allowed = text in known.allowed
            want = "one of " + ", ".join(known.allowed)
        case "text":
            allowed, want = True, ""
    if allowed:
        return None
    words = [word for form in (text, text.upper()) for word in difflib.get_close_matches(form, known.allowed, n=1)]
    return Rejection(
        f"{known.key} must be {want}, got {text!r}", f"did you mean {words[0]}?" if words else f"write {want}"
    )


def _number(text: str, least: int | None, *, whole: bool) -> bool:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        return False
    return math.isfinite(number) and (least is None or number >= least)
