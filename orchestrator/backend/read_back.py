"""What a compiled model says of itself, in one spelling: properties, execution devices, sums over devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backend.engine_text import engine_errors, spell
from orchestrator.errors import OrchError


def execution_devices(compiled: Any) -> tuple[str, ...]:
    devices = compiled.get_property("EXECUTION_DEVICES")
    return tuple(devices.split(",")) if isinstance(devices, str) else tuple(devices)


def read_back(compiled: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each readable property with its value; those of the devices under AUTO as `GPU:NUM_STREAMS`."""
    for key in compiled.get_property("SUPPORTED_PROPERTIES"):
        if key == "SUPPORTED_PROPERTIES":
            continue
        try:
            with engine_errors(key):
                value = compiled.get_property(key)
        except OrchError:  # some plugins list what they cannot answer
            continue
        yield from _flat(prefix, key, value)


def _flat(prefix: str, key: str, value: Any) -> Iterator[tuple[str, str]]:
    if key == "SUPPORTED_PROPERTIES":
        return
    if key != "DEVICE_PROPERTIES" or not isinstance(value, Mapping):
        yield prefix + key, spell(value)
        return
    for device, properties in value.items():
        for name, nested in properties.items():
            yield from _flat(f"{prefix}{device}:", name, nested)


def total(properties: Mapping[str, str], key: str) -> int | None:
    """Return the model's own number, or the sum over its devices, None where nobody says."""
    own = properties.get(key)
    values = [own] if own is not None else [text for name, text in properties.items() if name.endswith(f":{key}")]
    numbers = [int(text) for text in values if text.removeprefix("-").isdigit()]
    return sum(numbers) if numbers else None
