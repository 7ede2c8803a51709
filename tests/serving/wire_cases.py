"""One table of tensors and how the wire carries them, as JSON values and as bytes, for HTTP and gRPC tests alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from orchestrator.backend.base import DTYPES, Array


@dataclass(frozen=True)
class WireCase:
    """A tensor, its JSON values (None where JSON has none) and its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[object] | None
    wire: bytes

    @property
    def array(self) -> Array:
        """Return the tensor, read from the bytes by hand."""
        if self.datatype == "BYTES":
            assert self.values is not None
            array = np.empty(len(self.values), dtype=np.object_)
            array[:] = [str(value).encode() for value in self.values]
            return array.reshape(self.shape)
        return np.frombuffer(self.wire, DTYPES[self.datatype]).reshape(self.shape)


WIRE_CASES = [
    WireCase("booleans", "BOOL", (1, 3), [True, False, True], b"\x01\x00\x01"),
    WireCase("the range of UINT8", "UINT8", (2, 1), [0, 255], b"\x00\xff"),
    WireCase("the range of INT8", "INT8", (1, 2), [-128, 127], b"\x80\x7f"),
    WireCase("the range of UINT16", "UINT16", (1, 2), [0, 65535], b"\x00\x00\xff\xff"),
    WireCase("the range of INT16", "INT16", (1, 2), [-32768, 1], b"\x00\x80\x01\x00"),
    WireCase("the range of UINT32", "UINT32", (1, 2), [0, 2**32 - 1], b"\x00" * 4 + b"\xff" * 4),
    WireCase("the range of INT32", "INT32", (1, 2), [-(2**31), -1], b"\x00\x00\x00\x80" + b"\xff" * 4),
    WireCase("the range of UINT64", "UINT64", (1, 2), [1, 2**64 - 1], b"\x01" + b"\x00" * 7 + b"\xff" * 8),
    WireCase("the range of INT64", "INT64", (1, 1), [-(2**63)], b"\x00" * 7 + b"\x80"),
    WireCase("half floats", "FP16", (1, 2), None, b"\x00\x3c\x00\xc0"),
    WireCase("brain floats", "BF16", (1, 2), None, b"\x80\x3f\x00\xc0"),
    WireCase("floats", "FP32", (2, 2), [1.0, -0.5, 0, 3], b"\0\0\x80\x3f\0\0\0\xbf\0\0\0\0\0\0\x40\x40"),
    WireCase("doubles", "FP64", (1, 1), [1.5], b"\x00" * 6 + b"\xf8\x3f"),
    WireCase("no elements", "FP32", (0, 4), [], b""),
    WireCase("texts", "BYTES", (1, 3), ["ab", "", "é"], b"\2\0\0\0ab\0\0\0\0\2\0\0\0\xc3\xa9"),
]

each_case = pytest.mark.parametrize("case", WIRE_CASES, ids=lambda case: case.name)


def same(left: Array, right: Array) -> bool:
    """Tell whether two tensors have the same type, shape and bits."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()
