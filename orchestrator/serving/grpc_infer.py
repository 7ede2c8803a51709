"""ModelInfer's translation: a request's head and tensors out of protobuf, a response into it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.contract import Priority, priority_of
from orchestrator.serving.grpc_wire import Envelope, close_envelope, varint
from orchestrator.serving.oip import (
    AnsweredOutput,
    HeadCache,
    InferHead,
    InputHead,
    Layout,
    OutputHead,
    Signature,
    Slot,
    Store,
    Told,
    answered,
    check_input,
    check_once,
    decode_bytes,
    place_of,
    plan_inputs,
    stored,
    timeout_of,
)
from orchestrator.serving.oip_messages import ModelInferRequest, ModelInferResponse
from orchestrator.serving.oip_tensors import BINARY_ONLY, count_of, object_array
from orchestrator.serving.shared_tensors import SharedTensors

_PLACES = b"shared_memory_region"  # a head without these bytes has no tensors in shared memory

PIECE_VALUES = 4096
"""Numbers of typed contents that are read at once, in a tenth of a millisecond."""
FLOATS = frozenset({"FP32", "FP64"})
"""Datatypes that protobuf packs as numpy does."""

# Which field of InferTensorContents carries a datatype.
CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def raw_heads(limit: int) -> HeadCache:
    """Return a cache for the heads of requests whose tensors come as raw_input_contents."""
    return HeadCache(limit, _raw_head)


def parse(message: Callable[[bytes], Any], data: bytes) -> Any:
    """Return the protobuf message; raise OrchError INVALID for bytes that are none."""
    try:
        return message(data)
    except DecodeError:
        raise OrchError(Kind.INVALID, "the message is cut short or malformed") from None


def schedule(envelope: Envelope) -> tuple[float | None, Priority | None]:
    """Return the seconds of the request's `timeout` parameter and its `priority`, read without the rest of the head."""
    if not envelope.parameters:
        return None, None
    parameters = _parameters(parse(ModelInferRequest.FromString, envelope.parameters))
    return timeout_of(parameters), priority_of(parameters.get("priority"), "parameters.priority")


def plan(envelope: Envelope, signature: Signature, heads: HeadCache) -> tuple[InferHead, Layout]:
    """Return the head and where each input goes; raise OrchError INVALID."""
    if envelope.raws or _PLACES in envelope.head:
        return heads.plan(envelope.head, signature)
    head = _typed_head(envelope.head)
    return head, plan_inputs(head, signature)


def tensors(envelope: Envelope, layout: Layout, shared: SharedTensors | None) -> Generator[None, None, list[Array]]:
    """Return the input arrays in the model's order, after steps between which others may be served; raise OrchError.

    Raw tensors that are aligned for their type stay where they were received; the others are copied once.
    """
    raws = _raws_by_slot(envelope.raws, layout)
    arrays: list[Array] = [None] * len(layout.slots)  # type: ignore[list-item]
    for slot, memory in zip(layout.slots, raws, strict=True):
        if slot.head.place is not None:
            assert shared is not None, "the layout says that there are places"
            arrays[slot.index] = shared.read(slot, slot.head.place)
        else:
            arrays[slot.index] = (yield from _typed_array(slot)) if memory is None else _raw_array(slot, memory)
    return arrays


def _raws_by_slot(raws: Sequence[memoryview], layout: Layout) -> list[memoryview | None]:
    """Return the raw tensor of each input, in the request's order; None where its data is elsewhere."""
    if not raws and not layout.binary_bytes:  # nothing is wanting but perhaps tensors without elements
        return [None if slot.head.binary_size is None else memoryview(b"") for slot in layout.slots]
    for index, slot in enumerate(layout.slots):
        if raws and slot.head.data is not None:
            what = "has contents beside raw_input_contents; send one of them"
            raise OrchError(Kind.INVALID, what, where=f"inputs[{index}]")
    wanting = sum(slot.head.binary_size is not None for slot in layout.slots)
    if len(raws) != wanting:
        what = f"{wanting} inputs come with {len(raws)} raw_input_contents; each input needs its own"
        raise OrchError(Kind.INVALID, what)
    rest = iter(raws)
    return [None if slot.head.binary_size is None else next(rest) for slot in layout.slots]


class Responses:
    """Writes responses; keeps the last heads, which are equal as long as names and shapes are."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._heads: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def write(
        self,
        signature: Signature,
        request_id: str,
        outputs: Sequence[Array],
        wanted: tuple[OutputHead, ...] | None,
        store: Store | None = None,
    ) -> bytes:
        """Return the serialised ModelInferResponse, tensors as raw_output_contents or where `store` puts them.

        Clients count on a raw tensor for each output, so those that are elsewhere have an empty one (so does Triton).
        """
        parts = answered(signature, outputs, wanted)
        places = [None if part.place is None else stored(part, part.place, store) for part in parts]
        raws = [part.payload() if place is None else b"" for part, place in zip(parts, places, strict=True)]
        return close_envelope(self._head(signature, parts, places), request_id, raws)

    def _head(self, signature: Signature, parts: Sequence[AnsweredOutput], places: Sequence[Told | None]) -> bytes:
        tensors = ((part.name, part.datatype, part.array.shape) for part in parts)
        key = (signature.name, signature.version, *tensors, *(place and tuple(place.values()) for place in places))
        head = self._heads.get(key)
        if head is None:
            message = ModelInferResponse(model_name=signature.name, model_version=signature.version)
            for part, place in zip(parts, places, strict=True):
                output = message.outputs.add(name=part.name, datatype=part.datatype, shape=part.array.shape)
                for name, value in (place or {}).items():
                    parameter = output.parameters[name]
                    if isinstance(value, str):
                        parameter.string_param = value
                    else:
                        parameter.int64_param = value
            self._heads[key] = head = message.SerializeToString()
            if len(self._heads) > self._limit:
                self._heads.popitem(last=False)
        return head


def _raw_head(data: bytes) -> InferHead:
    return _head(parse(ModelInferRequest.FromString, data), _raw_input)


def _typed_head(data: bytes) -> InferHead:
    return _head(parse(ModelInferRequest.FromString, data), _typed_input)


def _head(message: Any, read_input: Callable[[Any, str], InputHead]) -> InferHead:
    parameters = _parameters(message)
    return InferHead(
        id=None,  # the envelope has it
        parameters=parameters,
        inputs=check_once(tuple(read_input(item, f"inputs[{index}]") for index, item in enumerate(message.inputs))),
        outputs=check_once(tuple(_output(item, f"outputs[{i}]") for i, item in enumerate(message.outputs))) or None,
        binary_default=True,
        timeout_s=timeout_of(parameters),
        priority=None,
    )


def _raw_input(item: Any, where: str) -> InputHead:
    shape = _checked_shape(item, where)
    place = place_of(_parameters(item), f"{where}.parameters.")
    if item.HasField("contents"):
        if place is not None:
            what = "has contents beside parameters.shared_memory_region; send one of them"
            raise OrchError(Kind.INVALID, what, where=where)
        return _typed_input(item, where)
    if place is not None:
        return InputHead(item.name, item.datatype, shape, None, None, place)
    # The sizes are compared with the raw tensors of each request, so that one plan serves all with this head.
    return InputHead(item.name, item.datatype, shape, count_of(shape) * _itemsize(item.datatype), None)


def _typed_input(item: Any, where: str) -> InputHead:
    if item.datatype in BINARY_ONLY:
        what = f"{item.datatype} has no typed contents; send it in raw_input_contents"
        raise OrchError(Kind.INVALID, what, where=where)
    return InputHead(item.name, item.datatype, _checked_shape(item, where), None, item.contents)


def _checked_shape(item: Any, where: str) -> tuple[int, ...]:
    shape = tuple(item.shape)
    check_input(where, item.datatype, shape)
    return shape


def _itemsize(datatype: str) -> int:
    return 4 if datatype == "BYTES" else DTYPES[datatype].itemsize  # BYTES: at least its length


def _output(item: Any, where: str) -> OutputHead:
    parameters = _parameters(item)
    place = place_of(parameters, f"{where}.parameters.")
    count = parameters.get("classification", 0)
    if type(count) is not int or count < 0:
        raise OrchError(Kind.INVALID, "classification must be an integer of at least 0", where=where)
    if count and place is not None:
        raise OrchError(Kind.INVALID, "classes are not written to shared memory; leave out one of the two", where=where)
    return OutputHead(item.name, True, count, place)


def _parameters(message: Any) -> dict[str, Any]:
    result = {}
    for name, parameter in message.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        result[name] = getattr(parameter, choice) if choice else None
    return result


def _raw_array(slot: Slot, memory: memoryview) -> Array:
    if slot.datatype == "BYTES":
        return decode_bytes(memory, count_of(slot.shape), f"input {slot.head.name!r}").reshape(slot.shape)
    if len(memory) != slot.nbytes:
        what = f"needs {slot.nbytes} bytes, raw_input_contents has {len(memory)}"
        raise OrchError(Kind.INVALID, what, where=f"input {slot.head.name!r}")
    array = np.frombuffer(memory, slot.dtype).reshape(slot.shape)
    return array if array.flags.aligned else array.copy()


def _typed_array(slot: Slot) -> Generator[None, None, Array]:
    """Return the tensor, after steps of PIECE_VALUES values."""
    where = f"input {slot.head.name!r}"
    field = CONTENTS[slot.datatype]
    given = [descriptor.name for descriptor, _ in slot.head.data.ListFields()] if slot.head.data else []
    if given not in ([field], []):
        what = f"{slot.datatype} comes in {field} or raw_input_contents, got {', '.join(given)}"
        raise OrchError(Kind.INVALID, what, where=where)
    values = getattr(slot.head.data, field)
    count = count_of(slot.shape)
    if len(values) != count:
        what = f"shape {list(slot.shape)} holds {count} values, {field} has {len(values)}"
        raise OrchError(Kind.INVALID, what, where=where)
    if slot.datatype == "BYTES":
        return object_array(values).reshape(slot.shape)
    assert slot.head.data is not None, "it has contents, perhaps empty ones"
    packed = _packed(slot.head.data.SerializeToString(), slot.dtype, count) if slot.datatype in FLOATS else None
    if packed is not None:
        return packed.reshape(slot.shape)
    array = np.empty(count, slot.dtype)
    try:
        for start in range(0, count, PIECE_VALUES):
            if start:
                yield
            array[start : start + PIECE_VALUES] = np.array(values[start : start + PIECE_VALUES], dtype=slot.dtype)
    except OverflowError:
        raise OrchError(Kind.INVALID, f"a value is out of range for {slot.datatype}", where=where) from None
    return array.reshape(slot.shape)


def _packed(data: bytes, dtype: np.dtype[Any], count: int) -> Array | None:
    """Return the numbers of a message that is one field of packed fixed-size numbers; None where it is more than that.

    Such a field holds them as numpy does; one by one they would take fifty times as long.
    """
    nbytes = count * dtype.itemsize
    start = len(data) - nbytes
    if start < 2 or data[1:start] != varint(nbytes):
        return None
    return np.frombuffer(data, np.uint8, offset=start).copy().view(dtype)
