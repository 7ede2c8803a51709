"""Make up inputs on which a compiled model can be tried before anybody has called it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from orchestrator.backend.base import DTYPES, Array
from orchestrator.inventory.model import Dim, TensorInfo

# What a dimension without an upper bound may be when the model does not say: the smallest that works is taken.
FREE_SIZES = (1, 8, 32, 128, 224, 512)


def candidates(inputs: Sequence[TensorInfo]) -> Iterator[tuple[Array, ...]]:
    """Yield zeros for all inputs; several sizes, smallest first, where the model leaves its shapes open."""
    for size in FREE_SIZES if free(inputs) else FREE_SIZES[:1]:
        yield tuple(_zeros(info, size) for info in inputs)


def free(inputs: Sequence[TensorInfo]) -> bool:
    """Tell whether an input leaves a dimension open."""
    return any(not info.static for info in inputs)


def _zeros(info: TensorInfo, size: int) -> Array:
    shape = [] if info.shape is None else [_within(dim, size if axis else 1) for axis, dim in enumerate(info.shape)]
    if info.datatype == "BYTES":
        return np.full(shape, b"", np.object_)
    return np.zeros(shape, DTYPES[info.datatype])


def _within(dim: Dim, size: int) -> int:
    low = max(1, dim.low)
    return max(low, size) if dim.high is None else min(dim.high, max(low, size))
