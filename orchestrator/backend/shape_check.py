"""Tells whether the shapes of a request go together, before an inference that finds out spoils the ones after it.

Where shapes do not fit, OpenVINO's CPU plugin fails in the middle of its graph and leaves it half changed: what lies
before the operation that failed keeps the shapes of that request, so that later ones fail too or are answered wrongly
(docs/openvino-traps.md). So shapes that are new are first given to a copy of the model that has no weights.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.backend.base import Array
from orchestrator.backend.engine_text import clean
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import TensorInfo

KEPT_BYTES = 4096  # of a constant: shapes, axes, scales; what is larger is weights, and says nothing of shapes
KNOWN_MAX = 4096  # combinations of shapes that are remembered; of more, the one longest known is looked at again
COPIED = frozenset({"f16", "f32", "f64"} | {f"{kind}{bits}" for kind in "iu" for bits in (8, 16, 32, 64)})
UNTOLD = frozenset({"If", "Loop", "TensorIterator", "ReadValue"})  # bodies with weights of their own; shapes of a state

Shapes = tuple[tuple[int, ...], ...]


def may_misfit(inputs: Sequence[TensorInfo]) -> bool:
    """Tell whether a request can have shapes that the model cannot infer: more is open than the rows of one input."""
    free = [info for info in inputs if not info.static]
    return len(free) > 1 or any(info.shape is None or not all(dim.static for dim in info.shape[1:]) for info in free)


def shape_check(model: Any, inputs: Sequence[TensorInfo]) -> ShapeCheck | None:
    """Return the check of a model that nobody else uses, which loses its weights; None where it cannot tell."""
    if UNTOLD & {op.get_type_name() for op in model.get_ops()}:
        return None
    _drop_weights(model)
    return ShapeCheck(model, [info.name for info in inputs])


class ShapeCheck:
    """The shapes that are known to go together, and a model without weights that tells of others; any thread asks."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        self._model = model
        self._names = tuple(names)
        self._looking = threading.Lock()
        self._known: dict[Shapes, str] = {}  # why they do not fit; nothing where they do

    def check(self, arrays: Sequence[Array]) -> None:
        """Raise OrchError(INVALID) for arrays whose shapes the model cannot infer."""
        shapes = tuple([array.shape for array in arrays])
        why = self._known.get(shapes)
        if why is None:
            why = self._look(shapes)
        if why:
            named = ", ".join(f"{name} {list(shape)}" for name, shape in zip(self._names, shapes, strict=True))
            raise OrchError(Kind.INVALID, f"the shapes {named} do not go together: {why}")

    def _look(self, shapes: Shapes) -> str:
        """Return why the model cannot infer these shapes, nothing where it can, and remember it."""
        with self._looking:
            why = ""
            try:
                self._model.reshape({index: list(shape) for index, shape in enumerate(shapes)})
            except Exception as error:  # noqa: BLE001 - the binding raises types of its own
                why = clean(str(error), "them")
            if len(self._known) >= KNOWN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[shapes] = why
        return why


def _drop_weights(model: Any) -> None:
    """Put inputs in the place of large constants, and copies in that of small ones: these may share one memory."""
    parameter = type(model.get_parameters()[0])
    stand_ins = []
    for op in model.get_ops():
        if op.get_type_name() != "Constant":
            continue
        kind = op.get_element_type()
        if op.get_byte_size() <= KEPT_BYTES and kind.get_type_name() in COPIED:
            new = type(op)(np.array(op.data))
        else:
            new = parameter(kind, op.get_output_shape(0))
            stand_ins.append(new)
        for target in op.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
    model.add_parameters(stand_ins)
