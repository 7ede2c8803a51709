"""Memory for input tensors, used again and again: fresh pages cost more than a small model's inference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.backend.base import Array

ALIGNMENT = 64  # a cache line, and what OpenVINO aligns its own tensors to
POOLED_MIN_BYTES = 4096  # smaller arrays come from the allocator's free lists anyway
POOLED_MAX_BYTES = 128 * 2**20  # kept for later use at most


class TensorPool:
    """Hands out arrays and takes them back; used by one thread."""

    def __init__(self) -> None:
        self._free: dict[tuple[str, tuple[int, ...]], list[Array]] = {}
        self._bytes = 0

    def take(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Return an array whose contents are undefined."""
        key = (dtype.str, shape)
        free = self._free.get(key)
        if free is None:
            return _aligned(dtype, shape)
        array = free.pop()
        if not free:
            del self._free[key]
        self._bytes -= array.nbytes
        return array

    def give(self, array: Array) -> None:
        """Take an array back; nobody may read or write it any more."""
        if not POOLED_MIN_BYTES <= array.nbytes <= POOLED_MAX_BYTES:
            return
        while self._bytes + array.nbytes > POOLED_MAX_BYTES:
            self._forget_oldest()
        key = (array.dtype.str, array.shape)
        free = self._free.pop(key, [])
        free.append(array)
        self._free[key] = free  # now the last: shapes that are used stay, those of the past go
        self._bytes += array.nbytes

    def _forget_oldest(self) -> None:
        arrays = self._free.pop(next(iter(self._free)))
        self._bytes -= sum(array.nbytes for array in arrays)


def _aligned(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < POOLED_MIN_BYTES:
        return np.empty(shape, dtype)
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)
