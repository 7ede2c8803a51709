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
        free = self._free.get((dtype.str, shape))
        if free:
            array = free.pop()
            self._bytes -= array.nbytes
            return array
        return _aligned(dtype, shape)

    def give(self, array: Array) -> None:
        """Take an array back; nobody may read or write it any more."""
        if array.nbytes >= POOLED_MIN_BYTES and self._bytes + array.nbytes <= POOLED_MAX_BYTES:
            self._bytes += array.nbytes
            self._free.setdefault((array.dtype.str, array.shape), []).append(array)


def _aligned(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < POOLED_MIN_BYTES:
        return np.empty(shape, dtype)
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)
