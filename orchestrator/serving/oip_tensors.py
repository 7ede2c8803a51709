"""Tensor data as the Open Inference Protocol writes it: JSON values, length-prefixed BYTES, class strings."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from orchestrator.backend.datatypes import DTYPES, Array
from orchestrator.errors import Kind, OrchError

# Datatypes for which the protocol has no JSON form: their numbers travel as binary only.
BINARY_ONLY = frozenset({"FP16", "BF16"})

# What the elements of `data` may be, by the kind of numpy dtype. Exact types: True is no number here, 1.0 no integer.
_ELEMENTS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true and false"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers of at least 0"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}
_WORDS = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "an object"}


def decode_values(where: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """Return the tensor of JSON `data`, nested as `shape` or flat in row-major order.

    Raise OrchError INVALID for a wrong count, a wrong nesting, a value of the wrong type or beyond its range.
    """
    if datatype in BINARY_ONLY:
        raise _invalid(where, f"{datatype} has no JSON form; send it as binary data (binary_data_size)")
    flat = _flatten(where, shape, data)
    dtype = DTYPES[datatype]
    allowed, expected = _ELEMENTS[dtype.kind]
    strange = set(map(type, flat)) - allowed
    if strange:
        words = ", ".join(sorted(_WORDS.get(kind, "null") for kind in strange))
        raise _invalid(where, f"{datatype} takes {expected}, got {words}")
    return _typed(where, datatype, flat).reshape(shape)


def _typed(where: str, datatype: str, flat: list[Any]) -> Array:
    if datatype == "BYTES":
        return object_array([text.encode() for text in flat])
    if datatype == "FP32":
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=np.float64).astype(np.float32)
        if not np.isfinite(array).all():  # JSON has no infinity, so it was finite before
            raise _invalid(where, "a value is out of range for FP32")
        return array
    try:
        return np.array(flat, dtype=DTYPES[datatype])
    except OverflowError:
        raise _invalid(where, f"a value is out of range for {datatype}") from None


def _flatten(where: str, shape: tuple[int, ...], data: object) -> list[Any]:
    if not isinstance(data, list):
        raise _invalid(where, f"must be a list of values, got {_WORDS.get(type(data), 'null')}")
    if data and isinstance(data[0], list):
        level: list[Any] = [data]
        for size in shape:
            if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
                raise _invalid(where, f"is not nested as the shape {list(shape)} says")
            level = list(chain.from_iterable(level))
        return level
    expected = count_of(shape)
    if len(data) != expected:
        raise _invalid(where, f"shape {list(shape)} holds {expected} values, got {len(data)}")
    return data


def decode_bytes(memory: bytes | bytearray | memoryview, count: int, where: str | None = None) -> Array:
    """Return `count` BYTES elements, each with its length before it (4 bytes, little-endian), as an object array.

    Raise OrchError INVALID unless the memory holds exactly that many.
    """
    data = bytes(memory)
    if count * 4 > len(data):
        raise _invalid(where, f"BYTES data of {len(data)} bytes cannot hold {count} elements with their lengths")
    elements: list[bytes] = []
    position = 0
    for _ in range(count):
        start = position + 4
        if start > len(data):
            raise _invalid(where, f"BYTES data ends after {len(elements)} of {count} elements")
        position = start + int.from_bytes(data[position:start], "little")
        if position > len(data):
            raise _invalid(where, f"BYTES element {len(elements)} reaches beyond the end of the data")
        elements.append(data[start:position])
    if position != len(data):
        raise _invalid(where, f"BYTES data has {len(data) - position} bytes after its {count} elements")
    return object_array(elements)


def encode_bytes(array: Array) -> bytes:
    """Return the elements in row-major order, each with its length before it (4 bytes, little-endian)."""
    parts: list[bytes] = []
    for element in array.ravel().tolist():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (struct.pack("<I", len(data)), data)
    return b"".join(parts)


def texts(where: str, array: Array) -> list[str]:
    """Return BYTES elements as the strings of JSON; raise OrchError INVALID for those that are not UTF-8."""
    try:
        return [element.decode() if isinstance(element, bytes) else str(element) for element in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise _invalid(where, "holds bytes that are not UTF-8 text; ask for it as binary data") from None


def raw(array: Array) -> memoryview:
    """Return the memory of a tensor of fixed-size elements in row-major order, not copied where it lies so already."""
    return array.reshape(-1).view(np.uint8).data


def classify(array: Array, datatype: str, count: int) -> Array:
    """Return the `count` greatest values of each row of axis 0 as BYTES `value:index`, the greatest first.

    A tensor of rank 0 or 1 is one row and gives a tensor of rank 1 (Triton's classification extension).
    """
    values = (array.astype(np.uint32) << 16).view(np.float32) if datatype == "BF16" else array
    rows = values.reshape(1, -1) if values.ndim < 2 else values.reshape(len(values), count_of(values.shape[1:]))
    kept = min(count, rows.shape[1])
    order = np.argsort(rows, axis=1, kind="stable")[:, ::-1][:, :kept]
    style = "f" if values.dtype.kind == "f" else "d"
    classes = [f"{rows[row, index]:{style}}:{index}".encode() for row, kinds in enumerate(order) for index in kinds]
    return object_array(classes).reshape((kept,) if values.ndim < 2 else (len(rows), kept))


def object_array(elements: Sequence[bytes]) -> Array:
    """Return a one-dimensional array of Python objects."""
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array


def count_of(shape: Sequence[int]) -> int:
    """Return how many elements a shape holds, without overflow."""
    count = 1
    for size in shape:
        count *= size
    return count


def _invalid(where: str | None, what: str) -> OrchError:
    return OrchError(Kind.INVALID, what, where=where)
