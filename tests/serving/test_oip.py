"""The protocol codec: heads, layouts, tensor data and responses, in both directions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import Dim, TensorInfo
from orchestrator.serving import oip
from tests.serving.doubling import PAIR, doubler
from tests.serving.wire_cases import WireCase, each_case, same


def an_input(**changes: Any) -> dict[str, Any]:
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    return {key: value for key, value in {**item, **changes}.items() if value is not ...}


def a_place() -> dict[str, Any]:
    """Return the parameters of a tensor of 8 bytes in shared memory."""
    return {"shared_memory_region": "r", "shared_memory_byte_size": 8}


def a_request(*inputs: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({"inputs": list(inputs) or [an_input()], **changes}).encode()


def refusal_of(text: bytes) -> str:
    with pytest.raises(OrchError) as caught:
        oip.parse_infer_head(text)
    assert caught.value.kind is Kind.INVALID
    return oip.error_text(caught.value)


def plan_refusal_of(text: bytes, signature: oip.Signature) -> str:
    with pytest.raises(OrchError) as caught:
        oip.plan_inputs(oip.parse_infer_head(text), signature)
    assert caught.value.kind is Kind.INVALID
    return oip.error_text(caught.value)


@contextmanager
def refused_as_invalid_at_most() -> Iterator[None]:
    try:
        yield
    except OrchError as error:
        if error.kind is not Kind.INVALID:
            raise


# Heads.


def test_a_tensor_in_shared_memory_has_a_place_and_no_data() -> None:
    text = a_request(
        an_input(parameters={**a_place(), "shared_memory_offset": 64}),
        outputs=[{"name": "y", "parameters": {**a_place(), "binary_data": False}}],
    )
    head = oip.parse_infer_head(text)
    assert head.inputs == (oip.InputHead("x", "FP32", (1, 2), None, None, oip.Place("r", 64, 8)),)
    assert head.outputs == (oip.OutputHead("y", False, 0, oip.Place("r", 0, 8)),)
    layout = oip.plan_inputs(head, doubler("FP32", 1, 2))
    assert (layout.binary_bytes, layout.shared_bytes, layout.shares) == (0, 8, True)
    assert not oip.plan_inputs(oip.parse_infer_head(a_request()), doubler("FP32", 1, 2)).shares


def test_an_output_with_a_place_is_stored_there_and_told_of_in_the_answer() -> None:
    written: list[tuple[oip.Place, bytes]] = []
    output = np.array([[1, 2]], np.float32)
    place = oip.Place("r", 16, 100)
    wanted = (oip.OutputHead("y", True, 0, place),)
    chunks, length = oip.encode_response(
        doubler("FP32", 1, 2), None, [output], wanted, True, store=lambda at, data: written.append((at, bytes(data)))
    )
    assert written == [(place, output.tobytes())]
    assert length is None
    (item,) = json.loads(b"".join(chunks))["outputs"]
    assert item == {
        "name": "y",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 16},
    }


def test_a_head_is_read_whole() -> None:
    text = a_request(
        an_input(),
        id="a1",
        parameters={"binary_data_output": True, "timeout": 2500, "priority": 2, "mine": "kept"},
        outputs=[{"name": "y", "parameters": {"binary_data": False, "classification": 3}}, {"name": "z"}],
    )
    assert oip.parse_infer_head(memoryview(text)) == oip.InferHead(
        id="a1",
        parameters={"binary_data_output": True, "timeout": 2500, "priority": 2, "mine": "kept"},
        inputs=(oip.InputHead("x", "FP32", (1, 2), 8, None),),
        outputs=(oip.OutputHead("y", False, 3), oip.OutputHead("z", None, 0)),
        binary_default=True,
        timeout_s=0.0025,
        priority="default",
    )


def test_what_a_head_leaves_out_has_its_default() -> None:
    head = oip.parse_infer_head(a_request(an_input(parameters=..., data=[1, 2]), outputs=[]))
    assert (head.id, head.outputs, head.binary_default, head.timeout_s, head.priority) == (
        None,
        None,
        False,
        None,
        None,
    )
    assert head.inputs[0] == oip.InputHead("x", "FP32", (1, 2), None, [1, 2])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "the request is not JSON"),
        (b"\xff\xfe", "the request is not JSON"),
        (b"[" * 5000, "the request is not JSON"),
        (b'{"inputs": [{"data": [NaN]}]}', "the request is not JSON"),
        (b"7", "the request must be a JSON object, got 7"),
        (b"{}" + b"x", "the request is not JSON"),
        (a_request(id=7), "id: must be a string, got 7"),
        (a_request(parameters=[]), "parameters: must be an object, got a list"),
        (a_request(parameters={"timeout": True}), "parameters.timeout: must be an integer of at least 0, got True"),
        (a_request(parameters={"timeout": -1}), "parameters.timeout: must be an integer of at least 0, got -1"),
        (
            a_request(parameters={"binary_data_output": 1}),
            "parameters.binary_data_output: must be true or false, got 1",
        ),
        (json.dumps({"inputs": {}}).encode(), "inputs: must be a list, got an object"),
        (json.dumps({"inputs": [1]}).encode(), "inputs[0]: must be an object, got 1"),
        (a_request(an_input(name=...)), "inputs[0].name: is missing"),
        (a_request(an_input(name=None)), "inputs[0].name: must be a string, got null"),
        (a_request(an_input(datatype="FP31")), "inputs[0].datatype: 'FP31' is none of BOOL, UINT8"),
        (a_request(an_input(shape=...)), "inputs[0].shape: is missing"),
        (a_request(an_input(shape=[1, -2])), "inputs[0].shape: must be integers of at least 0, got -2"),
        (a_request(an_input(shape=[True, 2])), "inputs[0].shape: must be integers of at least 0, got True"),
        (a_request(an_input(shape=[1.0, 2])), "inputs[0].shape: must be integers of at least 0, got 1.0"),
        (a_request(an_input(shape=[2**63, 2**63])), "inputs[0].shape: holds more than"),
        (a_request(an_input(shape=[1] * 33)), "inputs[0].shape: has 33 dimensions, more than 32"),
        (a_request(an_input(parameters={})), "inputs[0]: has neither data nor parameters.binary_data_size"),
        (a_request(an_input(data=[1, 2])), "inputs[0]: has both data and parameters.binary_data_size"),
        (a_request(an_input(parameters={"binary_data_size": -8})), "must be an integer of at least 0, got -8"),
        (
            a_request(an_input(parameters={"shared_memory_region": "r"})),
            "inputs[0].parameters.shared_memory_byte_size: is missing",
        ),
        (a_request(an_input(parameters={"shared_memory_region": 1})), "shared_memory_region: must be a string, got 1"),
        (
            a_request(an_input(parameters=a_place() | {"shared_memory_offset": -1})),
            "shared_memory_offset: must be an integer of at least 0, got -1",
        ),
        (a_request(an_input(parameters=a_place(), data=[1, 2])), "has data beside parameters.shared_memory_region"),
        (a_request(an_input(parameters=a_place() | {"binary_data_size": 8})), "has data beside"),
        (
            a_request(outputs=[{"name": "y", "parameters": a_place() | {"classification": 2}}]),
            "outputs[0]: classes are not written to shared memory",
        ),
        (a_request(an_input(), an_input()), "'x' is named twice"),
        (a_request(outputs=[{"name": "y"}, {"name": "y"}]), "'y' is named twice"),
        (a_request(outputs=[{}]), "outputs[0].name: is missing"),
        (a_request(outputs=[{"name": "y", "parameters": {"classification": 0.5}}]), "must be an integer of at least 0"),
        (a_request(*[an_input()] * 1025), "inputs: has 1025 items, more than 1024"),
    ],
)
def test_a_bad_head_is_refused_with_the_place_and_the_value(text: bytes, told: str) -> None:
    assert told in refusal_of(text)


def test_a_deeply_nested_value_where_a_word_belongs_is_refused_not_printed() -> None:
    # Fails with RecursionError when _seen returns repr(value) of lists.
    nested = b"[" * 1000 + b"]" * 1000
    assert refusal_of(b'{"inputs": [], "id": ' + nested + b"}") == "id: must be a string, got a list"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
head_like = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=3) | json_values,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "priority", "binary_data_output"]), json_values)
        | json_values,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "z"])}) | json_values, max_size=3),
        "inputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["x", "y"]) | json_values, "datatype": st.sampled_from(sorted(DTYPES))},
                optional={
                    "shape": st.lists(st.integers(0, 4), max_size=3) | json_values,
                    "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(0, 64) | json_values}),
                    "data": json_values,
                },
            ),
            max_size=3,
        ),
    },
)


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_head_or_are_refused_as_invalid(text: bytes) -> None:
    read_and_plan(text)


@given(head_like.map(lambda value: json.dumps(value).encode()))
def test_anything_like_a_head_is_decoded_or_refused_as_invalid(text: bytes) -> None:
    read_and_plan(text)


def read_and_plan(text: bytes) -> None:
    with refused_as_invalid_at_most():
        head = oip.parse_infer_head(text)
        for datatype in DTYPES:
            with refused_as_invalid_at_most():
                for slot in oip.plan_inputs(head, doubler(datatype, None, None)).slots:
                    assert slot.head.data is None or oip.decode_json(slot).shape == slot.shape


# Layouts.


def test_slots_follow_the_request_and_point_into_the_model() -> None:
    right = an_input(name="right", datatype="INT64", shape=[2], parameters={"binary_data_size": 16})
    left = an_input(name="left", shape=[4, 3], parameters={"binary_data_size": 48})
    layout = oip.plan_inputs(oip.parse_infer_head(a_request(right, left)), PAIR)
    assert [(slot.index, slot.shape, slot.nbytes, slot.dtype.name) for slot in layout.slots] == [
        (1, (2,), 16, "int64"),
        (0, (4, 3), 48, "float32"),
    ]
    assert (layout.rows, layout.binary_bytes) == (1, 64)


def test_json_and_bytes_inputs_have_no_size_until_they_are_decoded() -> None:
    text = a_request(an_input(datatype="BYTES", shape=[1, 1], parameters={"binary_data_size": 7}))
    layout = oip.plan_inputs(oip.parse_infer_head(text), doubler("BYTES", 1, 1))
    assert (layout.slots[0].nbytes, layout.binary_bytes) == (0, 7)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (a_request(an_input(name="inptu")), "the model has no input 'inptu' (the model has 'x')"),
        (a_request(an_input(name="x1")), "the model has no input 'x1' (did you mean 'x'?)"),
        (a_request(an_input(name="x1")), "input 'x': is missing (double takes 'x': FP32 [?, 2])"),
        (a_request(an_input(datatype="INT32")), "input 'x': is INT32, the model takes FP32"),
        (a_request(an_input(shape=[1, 3])), "input 'x': has shape [1, 3], the model takes [?, 2]"),
        (a_request(an_input(shape=[2])), "input 'x': has shape [2], the model takes [?, 2]"),
        (a_request(an_input(shape=[4, 2])), "input 'x': needs 32 bytes, binary_data_size says 8"),
        (a_request(outputs=[{"name": "Y"}]), "the model has no output 'Y' (the model has 'y')"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_what_it_takes(text: bytes, told: str) -> None:
    assert told in plan_refusal_of(text, doubler("FP32", None, 2))


def test_all_problems_are_told_at_once() -> None:
    told = plan_refusal_of(a_request(an_input(name="left", datatype="INT8"), outputs=[{"name": "nothing"}]), PAIR)
    assert told.count(";") == 2


def test_a_dimension_takes_its_range_and_no_more() -> None:
    ranged = TensorInfo(name="x", datatype="FP32", shape=(Dim(low=1, high=1), Dim(low=2, high=4)))
    signature = oip.Signature("m", "1", (ranged,), (), 1)
    for width, fits in ((1, False), (2, True), (4, True), (5, False)):
        text = a_request(an_input(shape=[1, width], parameters={"binary_data_size": 4 * width}))
        if fits:
            assert oip.plan_inputs(oip.parse_infer_head(text), signature).slots[0].nbytes == 4 * width
        else:
            assert "the model takes [1, 2..4]" in plan_refusal_of(text, signature)


def test_dynamic_rank_takes_any_shape() -> None:
    signature = oip.Signature("m", "1", (TensorInfo(name="x", datatype="FP32", shape=None),), (), 1)
    for shape in ([], [2], [1, 2, 1]):
        text = a_request(an_input(shape=shape, parameters={"binary_data_size": 4 * math.prod(shape)}))
        assert oip.plan_inputs(oip.parse_infer_head(text), signature).slots[0].shape == tuple(shape)


def test_rows_are_gathered_up_to_the_batch_whatever_the_compiled_shape_says() -> None:
    signature = doubler("FP32", 8, 2, max_rows=8)
    head = oip.parse_infer_head(a_request(an_input(shape=[3, 2], parameters={"binary_data_size": 24})))
    assert oip.plan_inputs(head, signature).rows == 3
    for rows in (0, 9):
        text = a_request(an_input(shape=[rows, 2], parameters={"binary_data_size": 8 * rows}))
        assert "the model takes [1..8, 2]" in plan_refusal_of(text, signature)


def test_inputs_with_different_rows_are_refused() -> None:
    signature = oip.Signature("m", "1", PAIR.inputs, PAIR.outputs, 8)
    left = an_input(name="left", shape=[2, 3], parameters={"binary_data_size": 24})
    right = an_input(name="right", datatype="INT64", shape=[1], parameters={"binary_data_size": 8})
    assert "different numbers of rows: [1, 2]" in plan_refusal_of(a_request(left, right), signature)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_an_output_without_json_form_is_refused_before_the_inference(datatype: str) -> None:
    given = an_input(datatype=datatype, parameters={"binary_data_size": 4})
    assert "has no JSON form" in plan_refusal_of(a_request(given), doubler(datatype, 1, 2))
    head = oip.parse_infer_head(a_request(given, parameters={"binary_data_output": True}))
    assert oip.plan_inputs(head, doubler(datatype, 1, 2)).binary_bytes == 4


# Tensor data.


def slot_of(case: WireCase, data: object) -> oip.Slot:
    head = oip.InputHead("x", case.datatype, case.shape, None, data)
    return oip.Slot(0, case.datatype, DTYPES[case.datatype], case.shape, 0, head)


@each_case
def test_json_values_become_the_tensor_flat_and_nested(case: WireCase) -> None:
    if case.values is None:
        with pytest.raises(OrchError, match="no JSON form"):
            oip.decode_json(slot_of(case, [1.0, 2.0]))
        return
    nested = np.array(case.values, dtype=object).reshape(case.shape).tolist()
    assert same(oip.decode_json(slot_of(case, case.values)), case.array)
    assert same(oip.decode_json(slot_of(case, nested)), case.array)


@each_case
def test_a_tensor_is_answered_as_json_values_and_as_bytes(case: WireCase) -> None:
    signature = doubler(case.datatype, None, None)
    body, length = oip.encode_response(signature, None, [case.array], None, True)
    assert b"".join(body[1:]) == case.wire
    assert length == len(body[0])
    item = json.loads(body[0])["outputs"][0]
    assert item == {
        "name": "y",
        "datatype": case.datatype,
        "shape": list(case.shape),
        "parameters": {"binary_data_size": len(case.wire)},
    }
    if case.values is not None:
        body, length = oip.encode_response(signature, None, [case.array], None, False)
        assert (len(body), length) == (1, None)
        assert json.loads(body[0])["outputs"][0]["data"] == case.values


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "told"),
    [
        ("UINT8", (1,), [300], "a value is out of range for UINT8"),
        ("UINT8", (1,), [-1], "a value is out of range for UINT8"),
        ("INT64", (1,), [2**63], "a value is out of range for INT64"),
        ("FP32", (1,), [1e300], "a value is out of range for FP32"),
        ("INT32", (1,), [1.0], "INT32 takes integers, got a float"),
        ("INT32", (2,), [1, True], "INT32 takes integers, got a boolean"),
        ("BOOL", (1,), [1], "BOOL takes true and false, got an integer"),
        ("FP32", (1,), ["1"], "FP32 takes numbers, got a string"),
        ("FP32", (2,), [1, None], "FP32 takes numbers, got null"),
        ("FP32", (2,), [1, [2]], "FP32 takes numbers, got a list"),
        ("BYTES", (1,), [7], "BYTES takes strings, got an integer"),
        ("FP32", (2,), [1], "shape [2] holds 2 values, got 1"),
        ("FP32", (2, 2), [[1, 2], [3]], "is not nested as the shape [2, 2] says"),
        ("FP32", (2, 2), [[1, 2], 3], "is not nested as the shape [2, 2] says"),
        ("FP32", (1,), [[[1]]], "FP32 takes numbers, got a list"),
        ("FP32", (1,), {"a": 1}, "must be a list of values, got an object"),
        ("FP32", (), 1.5, "must be a list of values, got a float"),
    ],
)
def test_values_that_are_not_the_tensor_are_refused(
    datatype: str, shape: tuple[int, ...], data: object, told: str
) -> None:
    with pytest.raises(OrchError) as caught:
        oip.decode_json(slot_of(WireCase("", datatype, shape, None, b""), data))
    assert caught.value.kind is Kind.INVALID
    assert told in oip.error_text(caught.value)


def test_a_tensor_of_rank_zero_is_a_list_of_one() -> None:
    assert oip.decode_json(slot_of(WireCase("", "FP32", (), None, b""), [1.5])).shape == ()


@each_case
def test_bytes_are_cut_at_every_length_and_only_the_whole_is_taken(case: WireCase) -> None:
    if case.datatype != "BYTES":
        return
    count = len(case.array.ravel())
    assert oip.encode_bytes(case.array) == case.wire
    assert same(oip.decode_bytes(memoryview(case.wire), count).reshape(case.shape), case.array)
    for cut in [*(case.wire[:length] for length in range(len(case.wire))), case.wire + b"\0"]:
        with pytest.raises(OrchError, match="BYTES"):
            oip.decode_bytes(cut, count)


@given(st.binary(max_size=40), st.integers(0, 2**40))
def test_any_memory_is_bytes_elements_or_is_refused(memory: bytes, count: int) -> None:
    with refused_as_invalid_at_most():
        assert oip.encode_bytes(oip.decode_bytes(memory, count)) == memory


@given(st.lists(st.binary(max_size=300)))
def test_bytes_elements_come_back_as_they_went(elements: list[bytes]) -> None:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    assert oip.decode_bytes(oip.encode_bytes(array), len(elements)).tolist() == elements


numeric = [name for name in DTYPES if name not in {"BYTES", "FP16", "BF16"}]


@given(st.data())
def test_tensors_come_back_through_json_as_they_went(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(numeric))
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    elements = hnp.from_dtype(DTYPES[datatype], **finite)
    array = data.draw(hnp.arrays(DTYPES[datatype], hnp.array_shapes(min_dims=1, min_side=0), elements=elements))
    signature = oip.Signature("m", "1", (), (TensorInfo(name="y", datatype=datatype, shape=None),), 1)
    chunks, _ = oip.encode_response(signature, None, [array], None, False)
    answer = json.loads(chunks[0])["outputs"][0]
    text = a_request(an_input(datatype=datatype, shape=answer["shape"], parameters=..., data=answer["data"]))
    taking = oip.Signature("m", "1", (TensorInfo(name="x", datatype=datatype, shape=None),), (), 1)
    slot = oip.plan_inputs(oip.parse_infer_head(text), taking).slots[0]
    assert same(oip.decode_json(slot), array)


# Responses.


def test_only_the_requested_outputs_are_answered_in_the_requested_order() -> None:
    outputs: list[Array] = [np.ones((1, 3), np.float32), np.array([7, 8])]
    wanted = (oip.OutputHead("right_doubled", False, 0), oip.OutputHead("left_doubled", True, 0))
    chunks, length = oip.encode_response(PAIR, "id-1", outputs, wanted, False, {"queue_us": 3})
    assert json.loads(chunks[0]) == {
        "model_name": "pair",
        "model_version": "1",
        "id": "id-1",
        "parameters": {"queue_us": 3},
        "outputs": [
            {"name": "right_doubled", "datatype": "INT64", "shape": [2], "data": [7, 8]},
            {"name": "left_doubled", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
        ],
    }
    assert length == len(chunks[0])
    assert chunks[1] == outputs[0].tobytes()


def test_a_binary_output_is_its_own_memory_not_a_copy() -> None:
    output = np.zeros((2, 3), np.float32)
    chunks, _ = oip.encode_response(doubler("FP32", None, None), None, [output], None, True)
    output[:] = 1
    assert chunks[1] == np.ones((2, 3), np.float32).tobytes()


def test_an_output_that_does_not_lie_in_row_major_order_is_answered_so() -> None:
    output = np.arange(6, dtype=np.float32).reshape(2, 3).T
    chunks, _ = oip.encode_response(doubler("FP32", None, None), None, [output], None, True)
    assert chunks[1] == np.ascontiguousarray(output).tobytes()
    chunks, _ = oip.encode_response(doubler("FP32", None, None), None, [output], None, False)
    assert json.loads(chunks[0])["outputs"][0]["data"] == [0, 3, 1, 4, 2, 5]


def test_nan_and_infinity_are_null_in_json() -> None:
    output = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    chunks, _ = oip.encode_response(doubler("FP32", None, None), None, [output], None, False)
    assert json.loads(chunks[0])["outputs"][0]["data"] == [None, None, None, 1.0]


def test_bytes_that_are_no_text_are_refused_as_json() -> None:
    output = np.empty((1, 1), dtype=object)
    output[0, 0] = b"\xff"
    with pytest.raises(OrchError, match="not UTF-8"):
        oip.encode_response(doubler("BYTES", 1, 1), None, [output], None, False)


def test_classification_gives_the_greatest_first_for_each_row() -> None:
    output = np.array([[0.25, 0.5, 0.125], [3, 1, 2]], np.float32)
    wanted = (oip.OutputHead("y", None, 2),)
    chunks, _ = oip.encode_response(doubler("FP32", None, 3), None, [output], wanted, False)
    assert json.loads(chunks[0])["outputs"] == [
        {
            "name": "y",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["0.500000:1", "0.250000:0", "3.000000:0", "2.000000:2"],
        }
    ]


def test_classification_of_one_row_and_of_brain_floats_and_of_more_classes_than_there_are() -> None:
    signature = oip.Signature("m", "1", (), (TensorInfo(name="y", datatype="BF16", shape=None),), 1)
    output = np.array([0x3F80, 0xC000], np.uint16)  # 1, -2
    chunks, _ = oip.encode_response(signature, None, [output], (oip.OutputHead("y", False, 9),), False)
    assert json.loads(chunks[0])["outputs"][0]["data"] == ["1.000000:0", "-2.000000:1"]


# The cache, metadata, errors.


def test_equal_heads_are_parsed_and_planned_once() -> None:
    cache, signature, text = oip.HeadCache(2), doubler("FP32", None, None), a_request()
    assert cache.parse(text) is cache.parse(bytes(text))
    first, again = cache.plan(text, signature), cache.plan(bytes(text), signature)
    assert (first[0] is again[0], first[1] is again[1]) == (True, True)


def test_a_plan_is_made_anew_when_the_model_changed() -> None:
    cache, text = oip.HeadCache(2), a_request()
    cache.plan(text, doubler("FP32", None, None))
    with pytest.raises(OrchError, match="the model takes INT8"):
        cache.plan(text, doubler("INT8", None, None))


def test_the_cache_keeps_no_more_than_its_limit_and_drops_the_longest_unused() -> None:
    cache, signature = oip.HeadCache(2), doubler("FP32", None, None)
    texts = [a_request(id=str(number)) for number in range(3)]
    kept = cache.plan(texts[0], signature)
    cache.plan(texts[1], signature)
    assert cache.plan(texts[0], signature)[0] is kept[0]
    cache.plan(texts[2], signature)
    assert cache.plan(texts[0], signature)[0] is kept[0]
    assert len(cache) == 2


def test_heads_with_data_or_beyond_the_size_are_not_kept() -> None:
    cache = oip.HeadCache(2)
    cache.parse(a_request(an_input(parameters=..., data=[1, 2])))
    cache.parse(a_request(id="x" * 5000))
    assert len(cache) == 0


def test_metadata_writes_minus_one_for_what_may_vary_gathered_rows_included() -> None:
    assert oip.model_metadata(doubler("FP32", 8, None, 3, max_rows=8)) == {
        "name": "double",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 3]}],
    }


def test_server_metadata_names_the_extensions() -> None:
    assert oip.server_metadata("1.2")["version"] == "1.2"
    assert "binary_tensor_data" in oip.server_metadata()["extensions"]


def test_an_error_body_carries_what_to_do_and_when_to_come_back() -> None:
    error = OrchError(Kind.OVERLOADED, "the pool is full", hint="come back later", retry_after_s=0.25)
    assert json.loads(oip.error_body(error, model="m")) == {
        "error": "the pool is full (come back later)",
        "code": "OVERLOADED",
        "retry_after_ms": 250,
        "model": "m",
    }
