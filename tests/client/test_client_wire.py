"""Requests as the server's own codec reads them, and its answers as the client does."""

from __future__ import annotations

import contextlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from orchestrator.backend.datatypes import DTYPES, Array
from orchestrator.client import Failed, Invalid
from orchestrator.client.wire import decode, encode
from orchestrator.inventory.model import Dim, TensorInfo
from orchestrator.serving.oip import Signature, encode_response, parse_infer_head
from orchestrator.serving.oip_tensors import count_of, decode_bytes, object_array

NUMBERS = sorted(set(DTYPES) - {"BYTES", "BF16"})
HERE = "here"


def sent(name: str, value: Any) -> tuple[str, Array]:
    """Return datatype and array as a server reads them."""
    body = encode({name: value})
    (head,) = parse_infer_head(body.text).inputs
    data = b"".join(body.parts)
    assert head.binary_size == len(data)
    if head.datatype == "BYTES":
        return head.datatype, decode_bytes(data, count_of(head.shape)).reshape(head.shape)
    return head.datatype, np.frombuffer(data, DTYPES[head.datatype]).reshape(head.shape)


def answered(datatype: str, array: Array, *, binary: bool = True) -> dict[str, Array]:
    """Return an output as the client reads it from the server's answer."""
    info = TensorInfo(name="y", datatype=datatype, shape=tuple(Dim(low=size, high=size) for size in array.shape))
    chunks, length = encode_response(Signature("m", "1", (), (info,), 1), None, [array], None, binary)
    return decode(bytearray(b"".join(chunks)), length, HERE)


def same(one: Array, other: Array) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(st.data(), st.sampled_from(NUMBERS))
def test_numbers_arrive_and_come_back_to_the_bit(data: st.DataObject, datatype: str) -> None:
    array = data.draw(arrays.arrays(DTYPES[datatype], SHAPES))
    kind, there = sent("x", array)
    assert (kind, same(there, array)) == (datatype, True)
    assert same(answered(datatype, array)["y"], array)


@given(arrays.arrays(np.object_, SHAPES, elements=st.binary(max_size=9), fill=st.nothing()))
def test_bytes_arrive_and_come_back(array: Array) -> None:
    kind, there = sent("x", array)
    assert kind == "BYTES"
    assert there.tolist() == array.tolist()
    assert answered("BYTES", array)["y"].tolist() == array.tolist()


def test_texts_go_as_utf_8() -> None:
    for value in ("zwölf", ["zwölf"], np.array(["zwölf"]), np.array(["zwölf"], np.object_)):
        assert sent("x", value)[1].ravel().tolist() == ["zwölf".encode()]


def test_bf16_goes_by_its_bits() -> None:
    array = np.array([[1.5, -2.0]], ml_dtypes.bfloat16)
    kind, there = sent("x", array)
    assert (kind, there.tolist()) == ("BF16", array.view(np.uint16).tolist())


def test_strided_foreign_and_listed_values_are_brought_into_order() -> None:
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    for value in (wanted.T.copy().T, np.repeat(wanted, 2, axis=1)[:, ::2], wanted.astype(">f4")):
        assert same(sent("x", value)[1], wanted)
    assert sent("x", [[1, 2]])[0] == "INT64"
    assert sent("x", 1.5) == ("FP64", np.array(1.5))


def test_memory_of_a_row_major_array_is_not_copied() -> None:
    array = np.zeros((2, 3), np.float32)
    (part,) = encode({"x": array}).parts
    array[1, 2] = 1.0
    assert bytes(part) == array.tobytes()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.zeros(1, np.complex64), "complex64"),
        (np.zeros(1, "M8[s]"), "datetime64"),
        ([[1], [1, 2]], "inhomogeneous"),
        ([None], "NoneType"),
        (np.array([1, b"x"], np.object_), "int"),
    ],
)
def test_what_is_no_tensor_is_refused_by_its_name(value: object, complaint: str) -> None:
    with pytest.raises(Invalid, match=rf"input 'picture': .*{complaint}"):
        encode({"picture": value})  # type: ignore[dict-item]


def test_only_the_outputs_that_are_wanted_are_asked_for_and_the_id_goes_along() -> None:
    head = parse_infer_head(encode({"x": [1]}, outputs=["b", "a"], request_id="ä 7").text)
    assert head.outputs is not None
    assert ([output.name for output in head.outputs], head.id, head.binary_default) == (["b", "a"], "ä 7", True)


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "BOOL", "BYTES"])
def test_outputs_in_json_are_read_too(datatype: str) -> None:
    array = object_array([b"a", b"b"]) if datatype == "BYTES" else np.array([1, 0], DTYPES[datatype])
    output = answered(datatype, array, binary=False)["y"]
    assert (output.dtype, output.tolist()) == (array.dtype, array.tolist())


def test_answered_arrays_can_be_written_to() -> None:
    for length in range(1, 9):  # of a name, so that the tensor begins at any address
        info = TensorInfo(name="y" * length, datatype="FP64", shape=(Dim(low=2, high=2),))
        chunks, json_length = encode_response(Signature("m", "1", (), (info,), 1), None, [np.ones(2)], None, True)
        (output,) = decode(bytearray(b"".join(chunks)), json_length, HERE).values()
        assert output.flags.aligned
        output += 1


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_an_answer_or_a_failure(data: bytes, length: int) -> None:
    with contextlib.suppress(Failed):
        decode(bytearray(data), min(length, len(data)), HERE)


@pytest.mark.parametrize(
    "head",
    [
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3],"parameters":{"binary_data_size":8}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[-1],"parameters":{"binary_data_size":8}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP128","shape":[2],"parameters":{"binary_data_size":8}}]}',
        b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":8}}]}',
        b'{"outputs":[]}',
        b"[]",
    ],
)
def test_an_answer_that_contradicts_itself_is_a_failure(head: bytes) -> None:
    with pytest.raises(Failed, match="Open Inference Protocol"):
        decode(bytearray(head + b"\x01" * 8), len(head), HERE)
