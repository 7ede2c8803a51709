"""Quantities with their units written out: durations, sizes and rates, read from and written as text."""

from __future__ import annotations

import re
from decimal import Decimal

DURATIONS = {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
SIZES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
RATES = {"/s": Decimal(1), "/min": Decimal(1) / 60, "/h": Decimal(1) / 3600}

_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z/]+)\s*")


def _parse(text: object, units: dict[str, Decimal] | dict[str, int], what: str, example: str) -> Decimal:
    if isinstance(text, bool) or not isinstance(text, str):
        raise ValueError(f"must be {what} with its unit, such as {example}, got {text!r}")
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"must be {what} with its unit ({', '.join(units)}), such as {example}, got {text!r}")
    return Decimal(match[1]) * units[match[2]]


def parse_duration_s(text: object) -> float:
    """Return seconds of `40ms`, `1.5s`, `2m`; raise ValueError for bare numbers and unknown units."""
    return float(_parse(text, DURATIONS, "a duration", "40ms"))


def parse_size_bytes(text: object) -> int:
    """Return bytes of `2GiB`, `64MB`; raise ValueError for bare numbers and unknown units."""
    return int(_parse(text, SIZES, "a size", "2GiB"))


def parse_rate_per_s(text: object) -> float:
    """Return events per second of `60/s`, `90/min`; raise ValueError for bare numbers and unknown units."""
    return float(_parse(text, RATES, "a rate", "60/s"))


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def format_duration(seconds: float) -> str:
    """Return the duration in the largest unit that keeps it at or above one, so that it can be read back."""
    if seconds == 0:
        return "0s"
    for unit, low in (("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= low and (unit not in "hm" or seconds % low == 0):
            return _number(seconds / low) + unit
    return _number(seconds / 1e-6) + "us"


def format_size(size: int) -> str:
    """Return the size in the largest binary unit that keeps it at or above one, with one decimal at most."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= SIZES[unit]:
            return f"{size / SIZES[unit]:.1f}".removesuffix(".0") + unit
    return f"{size}B"


def format_rate(rate_per_s: float) -> str:
    """Return the rate per second, such as `60/s`."""
    return _number(rate_per_s) + "/s"
