"""The protobuf messages: checked in as compiled, numbered as the protocol numbers them, alone in their pool."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from orchestrator.serving import oip_messages
from tests.serving.regenerate_oip import TARGET, descriptor_module

OURS: Any = oip_messages.POOL.FindFileByName("orchestrator/serving/oip.proto")
THEIRS: Any = service_pb2.DESCRIPTOR
CONFIGURATION: Any = model_config_pb2.DESCRIPTOR


def shape_of(message: Any) -> Iterator[tuple[Any, ...]]:
    """Give what decides a message's bytes: names, numbers, types and repetition of fields, nested messages too."""
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else None
        oneof = field.containing_oneof.name if field.containing_oneof else None
        yield message.full_name, field.name, field.number, field.type, field.is_repeated, kind, oneof
    for nested in message.nested_types:
        yield from shape_of(nested)


@pytest.mark.parametrize("name", sorted(OURS.message_types_by_name))
def test_each_message_is_the_one_that_tritonclient_sends(name: str) -> None:
    ours, theirs = OURS.message_types_by_name[name], THEIRS.message_types_by_name.get(name)
    if theirs is not None:
        assert list(shape_of(ours)) == list(shape_of(theirs))
    else:  # of the configuration, a page of fields, orch writes a few
        assert set(shape_of(ours)) <= set(shape_of(CONFIGURATION.message_types_by_name[name]))


def test_datatypes_and_kinds_are_numbered_as_tritonclient_numbers_them() -> None:
    ours = OURS.enum_types_by_name["DataType"].values_by_name
    theirs = CONFIGURATION.enum_types_by_name["DataType"].values_by_name
    assert {name: value.number for name, value in ours.items()} == {name: v.number for name, v in theirs.items()}
    ours = OURS.message_types_by_name["ModelInstanceGroup"].enum_types_by_name["Kind"].values_by_name
    theirs = CONFIGURATION.message_types_by_name["ModelInstanceGroup"].enum_types_by_name["Kind"].values_by_name
    assert {name: value.number for name, value in ours.items()} == {name: v.number for name, v in theirs.items()}


def test_each_method_takes_and_gives_what_tritonclient_expects() -> None:
    theirs = {m.name: (m.input_type.name, m.output_type.name) for m in service(THEIRS).methods}
    ours = {m.name: (m.input_type.name, m.output_type.name) for m in service(OURS).methods}
    assert ours.items() <= theirs.items()
    assert service(OURS).full_name == service(THEIRS).full_name == oip_messages.SERVICE


def service(file: Any) -> Any:
    return file.services_by_name["GRPCInferenceService"]


def test_the_checked_in_descriptor_is_what_the_proto_compiles_to() -> None:
    assert TARGET.read_text(encoding="utf-8") == descriptor_module()


@pytest.mark.parametrize(
    "order",
    [
        ("orchestrator.serving.oip_messages", "tritonclient.grpc"),
        ("tritonclient.grpc", "orchestrator.serving.oip_messages"),
    ],
)
def test_a_program_may_import_tritonclient_and_our_messages_in_either_order(order: tuple[str, str]) -> None:
    # Fails with "duplicate symbol 'inference...'" when ours are registered in the default pool.
    command = [sys.executable, "-W", "error", "-c", f"import {order[0]}; import {order[1]}"]
    subprocess.run(command, check=True, timeout=60)


def test_a_message_of_ours_is_read_by_theirs() -> None:
    ours = oip_messages.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"abc"])
    ours.parameters["timeout"].int64_param = 5
    ours.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert str(theirs) == str(ours)
