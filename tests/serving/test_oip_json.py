"""Long JSON tensors: what is read and written in pieces is what is read and written at once."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.backend.base import Array
from orchestrator.errors import OrchError
from orchestrator.serving import oip, oip_json
from tests.serving.doubling import PAIR, doubler

SMALL = 24  # bytes of a piece, so that a few numbers are several
Made = TypeVar("Made")


def made(steps: Generator[None, None, Made]) -> tuple[Made, int]:
    """Return what a generator returns, and in how many steps."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def in_pieces(text: bytes, signature: oip.Signature) -> list[Any]:
    """Return the arrays that are read in small pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oip_json, "PIECE_BYTES", SMALL)
        request, _ = made(oip_json.read_in_pieces(text, signature, lambda dtype, shape: np.empty(shape, dtype)))
    return request.arrays


def at_once(text: bytes, signature: oip.Signature) -> list[Array]:
    head = oip.parse_infer_head(text)
    return [oip.decode_json(slot) for slot in oip.plan_inputs(head, signature).slots]


def outcome(read: Any, text: bytes, signature: oip.Signature) -> Any:
    try:
        return [(array.dtype.str, array.shape, array.tolist()) for array in read(text, signature)]
    except OrchError as error:
        return error.kind


VALUES = {
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "INT8": st.integers(-130, 130),  # some beyond its range
    "UINT64": st.integers(0, 2**64 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=30),
    "FP16": st.integers(0, 9),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, oip.Signature]:
    """Draw a request with one input of rank 2, nested or flat, tight or spaced, its parts in any order."""
    datatype = draw(st.sampled_from(sorted(VALUES)))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    values = draw(st.lists(VALUES[datatype], min_size=rows * columns, max_size=rows * columns))
    nested = [values[row * columns : (row + 1) * columns] for row in range(rows)]
    parts = [("name", "x"), ("datatype", datatype), ("shape", [rows, columns])]
    parts.insert(draw(st.integers(0, 3)), ("data", draw(st.sampled_from([nested, values]))))
    rest = {"id": draw(st.sampled_from(['"data"', "a", '\\"data":[1,2', "}]"]))}
    body = draw(st.sampled_from([rest | {"inputs": [dict(parts)]}, {"inputs": [dict(parts)]} | rest]))
    text = json.dumps(body, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    return text.encode(), doubler(datatype, None, None)


@given(requests())
def test_what_is_read_in_pieces_is_what_is_read_at_once(request: tuple[bytes, oip.Signature]) -> None:
    assert outcome(in_pieces, *request) == outcome(at_once, *request)


@given(requests(), st.data())
def test_damaged_requests_are_read_alike_or_refused_alike(
    request: tuple[bytes, oip.Signature], data: st.DataObject
) -> None:
    # Seen to fail without the look at digits beside brackets: `1[,2]` was read as `[1,2]`.
    text, signature = request
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.text(alphabet='[]{}",:0 1-.e\\tnull', max_size=3)).encode()
    damaged = text[:at] + put + text[at + cut :]
    assert outcome(in_pieces, damaged, signature) == outcome(at_once, damaged, signature)


@pytest.mark.parametrize(
    "data",
    [
        "[[1,2],[3,4]",
        "[[1,2],[3,4]]]",
        "[[1,2],[3]]",
        "[[1,2,3],[4]]",
        "[1[,2],[3,4]]",
        "[[1,2]3,[4]]",
        "[[1 2,3],[4]]",
        "[[1,,2],[3]]",
        "[[1,2],[3,]]",
        "[[1,2],[3,null]]",
        "[[1,2],[3,01]]",
        "[[1,2],[3,-]]",
        "[1,2],[3,4]",
        "[1,2,3,4,5]",
        "[1,2,3]",
        "[]",
        "[[1,2],[3,NaN]]",
        "[[1,2],[3,1e400]]",
        "[[1,2],[3,true]]",
    ],
)
def test_data_that_is_not_the_tensor_is_refused_wherever_it_is_cut(data: str) -> None:
    space = " " * 2 * SMALL
    for at in range(len(data) + 1):
        text = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[2,2],"data":{data[:at]}{space}{data[at:]}}}]}}'
        assert outcome(in_pieces, text.encode(), doubler("FP32", None, None)) == outcome(
            at_once, text.encode(), doubler("FP32", None, None)
        )


def test_several_long_inputs_and_short_ones_find_their_places() -> None:
    left, right = np.arange(300, dtype=np.float32).reshape(100, 3), np.arange(200)
    inputs = [
        {"name": "right", "datatype": "INT64", "shape": [200], "data": right.tolist()},
        {"name": "left", "datatype": "FP32", "shape": [100, 3], "data": left.tolist()},
    ]
    arrays = in_pieces(orjson.dumps({"inputs": inputs}), PAIR)
    assert np.array_equal(arrays[0], right)
    assert np.array_equal(arrays[1], left)


def test_a_shape_that_claims_more_than_came_is_refused_before_anything_is_made_of_it() -> None:
    claims = {"name": "x", "datatype": "FP32", "shape": [2**20, 2**19], "data": [0.5] * 100}
    with pytest.raises(OrchError, match="not as many as came"):
        in_pieces(orjson.dumps({"inputs": [claims]}), doubler("FP32", None, None))


def test_a_long_request_is_read_in_steps_of_a_piece_each() -> None:
    numbers = np.random.default_rng(7).random(60_000).astype(np.float32)
    given = {"name": "x", "datatype": "FP32", "shape": [1, 60_000], "data": numbers.tolist()}
    text = orjson.dumps({"inputs": [given]})
    request, steps = made(
        oip_json.read_in_pieces(text, doubler("FP32", 1, None), lambda dtype, shape: np.empty(shape, dtype))
    )
    assert request.arrays[0] is not None
    assert np.array_equal(request.arrays[0][0], numbers)
    assert steps >= len(text) / oip_json.PIECE_BYTES


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10_001, dtype=np.int64) - 5,
        np.linspace(-1e30, 1e30, 9000, dtype=np.float32).reshape(3, 3000),
        np.array([np.nan, np.inf, 1.5, -0.0] * 2500),
        np.arange(10_000) % 3 == 0,
        np.asfortranarray(np.arange(10_000, dtype=np.uint8).reshape(100, 100)),
    ],
)
def test_what_is_written_in_pieces_is_what_is_written_at_once(array: Array) -> None:
    text, steps = made(oip_json.encode_in_pieces(array))
    flat = np.ascontiguousarray(array).reshape(-1)
    assert text == orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    assert steps >= 2
