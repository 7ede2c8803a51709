"""A request whose shapes do not go together is refused before the engine sees it, and costs later ones nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from benchmarks import topologies
from orchestrator.backend.base import Array, CompiledModel, CompileRequest
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.backend.shape_check import KEPT_BYTES, KNOWN_MAX, ShapeCheck, may_misfit, shape_check
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import TensorInfo
from tests.builders import a_tensor

WAIT_S = 20.0
STREAMS = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
OPEN = (0, None)


@pytest.fixture(scope="module")
def backend() -> OpenVinoBackend:
    return OpenVinoBackend(())


def scorer(features: int, group: int) -> list[Array]:
    """Return inputs of two_in_two_out, which takes as many of one as of the other."""
    return [np.ones((features, 16), np.float32), np.zeros(group, np.int64)]


def started(model: CompiledModel, arrays: list[Array]) -> tuple[Array, ...]:
    ended = threading.Event()
    request = model.create_request(ended.set)
    request.start(arrays)
    assert ended.wait(WAIT_S)
    return request.outputs()


def inferred(model: CompiledModel, arrays: list[Array]) -> tuple[Array, ...]:
    request = model.create_request(lambda: None)
    request.infer(arrays)
    return request.outputs()


@pytest.mark.parametrize("way", [started, inferred])
def test_a_request_whose_shapes_do_not_go_together_costs_the_next_ones_nothing(
    backend: OpenVinoBackend, way: object, tmp_path: Path
) -> None:
    model = backend.compile(CompileRequest(str(topologies.save("two_in_two_out", tmp_path)), "CPU", STREAMS))
    right = way(model, scorer(1, 1))  # type: ignore[operator]
    for wrong in ((2, 3), (3, 2), (2, 3)):
        with pytest.raises(OrchError, match=r"features \[\d, 16\], group \[\d\] do not go together: .*") as refused:
            way(model, scorer(*wrong))  # type: ignore[operator]
        assert refused.value.kind is Kind.INVALID
        again = way(model, scorer(1, 1))  # type: ignore[operator]
        np.testing.assert_array_equal(again[0], right[0])
    model.close()


def test_a_sequence_longer_than_the_model_has_positions_is_refused(backend: OpenVinoBackend, tmp_path: Path) -> None:
    data = ops.parameter([1, -1, 4], np.float32, name="x")
    positions = ops.constant(np.ones((1, 8, 4), np.float32))
    size = ops.gather(ops.shape_of(data), ops.constant([1]), ops.constant(0))
    cut = ops.slice(positions, ops.constant([0]), size, ops.constant([1]), ops.constant([1]))
    path = tmp_path / "positions.xml"
    ov.save_model(ov.Model([ops.add(data, cut)], [data], "positions"), str(path), compress_to_fp16=False)
    model = backend.compile(CompileRequest(str(path), "CPU", STREAMS))
    for length in (3, 8, 3):
        assert started(model, [np.ones((1, length, 4), np.float32)])[0].shape == (1, length, 4)
        with pytest.raises(OrchError, match="do not go together"):
            started(model, [np.ones((1, 9, 4), np.float32)])
    model.close()


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((a_tensor("x", 1, 4),), False),
        ((a_tensor("x", OPEN, 4),), False),
        ((a_tensor("x", OPEN, 4), a_tensor("y", 3)), False),
        ((a_tensor("x", OPEN, 4), a_tensor("y", OPEN)), True),
        ((a_tensor("x", 1, OPEN),), True),
        ((TensorInfo(name="x", datatype="FP32", shape=None),), True),
    ],
)
def test_only_what_is_open_in_more_than_the_rows_of_one_input_is_looked_at(
    inputs: tuple[TensorInfo, ...], expected: bool
) -> None:
    assert may_misfit(inputs) is expected


def test_the_copy_that_tells_holds_no_weights(tmp_path: Path) -> None:
    model = ov.Core().read_model(str(topologies.save("bert_small", tmp_path)))
    before = [op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant"]
    assert max(before) > KEPT_BYTES, "else there is nothing to lose"
    assert shape_check(model, [a_tensor("x", 1, OPEN)]) is not None
    after = [op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant"]
    assert max(after) <= KEPT_BYTES


class Engine:
    """Stands for OpenVINO's model: takes what has as many rows as columns, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def reshape(self, shapes: dict[int, list[int]]) -> None:
        self.asked += 1
        if shapes[0][0] != shapes[0][1]:
            raise RuntimeError("not square")


def test_shapes_are_looked_at_once_and_only_so_many_are_remembered() -> None:
    engine = Engine()
    check = ShapeCheck(engine, ["x"])
    for _ in range(3):
        check.check([np.zeros((2, 2))])
        with pytest.raises(OrchError, match=r"x \[2, 3\] do not go together: not square"):
            check.check([np.zeros((2, 3))])
    assert engine.asked == 2
    for size in range(KNOWN_MAX):
        check.check([np.broadcast_to(np.float32(0), (size + 3, size + 3))])
    check.check([np.zeros((2, 2))])
    assert engine.asked == 2 + KNOWN_MAX + 1
