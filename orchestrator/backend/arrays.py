"""What an input array must be before an engine sees it, the same for every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import TensorInfo


@dataclass(frozen=True, slots=True)
class Slot:
    """One input: how its array must lie in memory."""

    name: str
    datatype: str
    dtype: np.dtype[Any]


def slots(inputs: Sequence[TensorInfo]) -> tuple[Slot, ...]:
    """Return what each input's array must be."""
    return tuple(Slot(info.name, info.datatype, DTYPES[info.datatype]) for info in inputs)


def check_arrays(wanted: Sequence[Slot], arrays: Sequence[Array]) -> None:
    """Raise OrchError(INVALID) for a wrong count, dtype or layout; never converts anything."""
    if len(arrays) != len(wanted):
        raise OrchError(Kind.INVALID, f"takes {len(wanted)} inputs, got {len(arrays)}")
    for slot, array in zip(wanted, arrays, strict=True):
        if array.dtype != slot.dtype:
            what = f"input {slot.name!r}: must be {slot.dtype} ({slot.datatype}), got {array.dtype}"
            raise OrchError(Kind.INVALID, what)
        if slot.datatype == "BYTES":
            _check_bytes(slot, array)
        elif not array.flags.c_contiguous:
            raise OrchError(Kind.INVALID, f"input {slot.name!r}: the array is not contiguous")


def _check_bytes(slot: Slot, array: Array) -> None:
    for value in array.flat:
        if not isinstance(value, bytes):
            what = f"input {slot.name!r}: every element must be bytes, got {type(value).__name__}"
            raise OrchError(Kind.INVALID, what)
        # OpenVINO's binding goes through numpy's S type, which cannot tell a last zero byte from padding.
        if value.endswith(b"\0"):
            raise OrchError(Kind.INVALID, f"input {slot.name!r}: OpenVINO cannot take bytes that end in a zero byte")
