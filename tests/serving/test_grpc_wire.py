"""The envelope of ModelInferRequest, walked by hand: the same as protobuf reads, whatever the bytes."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.serving.grpc_wire import close_envelope, open_envelope
from orchestrator.serving.oip_messages import ModelInferRequest, ModelInferResponse


@st.composite
def requests(draw: st.DrawFn) -> ModelInferRequest:
    texts = st.text(max_size=200)
    message = ModelInferRequest(model_name=draw(texts), model_version=draw(texts), id=draw(texts))
    for name in draw(st.lists(texts, max_size=2)):
        message.parameters[name].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
    for name in draw(st.lists(texts, max_size=3)):
        message.inputs.add(name=name, datatype="FP32", shape=draw(st.lists(st.integers(0, 2**40), max_size=3)))
    for name in draw(st.lists(texts, max_size=2)):
        message.outputs.add(name=name)
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=300), max_size=3)))
    return message


@given(requests())
def test_the_envelope_holds_what_protobuf_reads(message: ModelInferRequest) -> None:
    envelope = open_envelope(message.SerializeToString())
    assert (envelope.model_name, envelope.model_version, envelope.id) == (
        message.model_name,
        message.model_version,
        message.id,
    )
    assert list(map(bytes, envelope.raws)) == list(message.raw_input_contents)
    assert ModelInferRequest.FromString(envelope.parameters).parameters == message.parameters
    rest = ModelInferRequest.FromString(envelope.head)
    message.ClearField("raw_input_contents")
    message.ClearField("id")
    assert rest == message


@given(requests(), requests())
def test_parts_in_any_order_and_repeated_mean_what_protobuf_makes_of_them(
    one: ModelInferRequest, two: ModelInferRequest
) -> None:
    data = one.SerializeToString() + two.SerializeToString()
    envelope, message = open_envelope(data), ModelInferRequest.FromString(data)
    assert (envelope.model_name, envelope.model_version, envelope.id) == (
        message.model_name,
        message.model_version,
        message.id,
    )
    assert list(map(bytes, envelope.raws)) == list(message.raw_input_contents)


def test_the_head_is_the_same_bytes_for_other_tensors_and_ids() -> None:
    messages = [
        ModelInferRequest(model_name="m", id=request_id, raw_input_contents=[raw])
        for request_id, raw in (("", b"abcd"), ("7", b"efgh"), ("a long one", b""))
    ]
    for message in messages:
        message.inputs.add(name="x", datatype="FP32", shape=[1])
    assert len({open_envelope(message.SerializeToString()).head for message in messages}) == 1


def test_raw_tensors_are_views_of_the_received_bytes() -> None:
    data = ModelInferRequest(raw_input_contents=[b"abcd"]).SerializeToString()
    assert open_envelope(data).raws[0].obj is data


def test_a_message_cut_anywhere_inside_a_field_is_refused() -> None:
    message = ModelInferRequest(model_name="model", model_version="1", id="7", raw_input_contents=[b"x" * 200])
    data = message.SerializeToString()
    for length in range(len(data)):
        with contextlib.suppress(DecodeError):
            ModelInferRequest.FromString(data[:length])
            open_envelope(data[:length])  # a cut between two fields is a message
            continue
        with pytest.raises(OrchError, match="cut short or malformed"):
            open_envelope(data[:length])


@given(st.binary(max_size=40))
def test_any_bytes_that_protobuf_reads_are_an_envelope_and_others_are_refused(data: bytes) -> None:
    try:
        envelope = open_envelope(data)
    except OrchError as error:
        if error.kind is not Kind.INVALID:
            raise
        return
    with contextlib.suppress(DecodeError):
        message = ModelInferRequest.FromString(data)
        assert (envelope.model_name, list(map(bytes, envelope.raws))) == (
            message.model_name,
            list(message.raw_input_contents),
        )


@given(st.text(max_size=200), st.lists(st.binary(max_size=70_000), max_size=2))
def test_a_closed_envelope_is_read_by_protobuf(request_id: str, raws: list[bytes]) -> None:
    head = ModelInferResponse(model_name="m", model_version="1").SerializeToString()
    message = ModelInferResponse.FromString(close_envelope(head, request_id, raws))
    assert (message.model_name, message.id, list(message.raw_output_contents)) == ("m", request_id, raws)


def test_a_message_of_countless_small_parts_is_refused_before_it_is_walked_to_its_end() -> None:
    with pytest.raises(OrchError, match="more than 8192 parts"):
        open_envelope(b"\x3a\x00" * 2**24)
