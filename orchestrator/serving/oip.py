"""The Open Inference Protocol v2 as values: requests read and checked, responses and metadata written, no I/O."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from orchestrator.backend.base import DTYPES, Array
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.model import TensorInfo
from orchestrator.serving.contract import Priority, priority_of, retry_ms
from orchestrator.serving.oip_tensors import (
    BINARY_ONLY,
    classify,
    count_of,
    decode_bytes,
    decode_values,
    encode_bytes,
    raw,
    texts,
)

__all__ = [
    "AnsweredOutput",
    "HeadCache",
    "InferHead",
    "InputHead",
    "Layout",
    "OutputHead",
    "Place",
    "Signature",
    "Slot",
    "Store",
    "Told",
    "answered",
    "check_input",
    "check_once",
    "decode_bytes",
    "decode_json",
    "encode_bytes",
    "encode_response",
    "error_body",
    "error_text",
    "model_metadata",
    "parse_infer_head",
    "place_of",
    "plan_inputs",
    "server_metadata",
    "stored",
    "timeout_of",
]

MAX_RANK = 32
"""Dimensions of a tensor: half of what numpy can hold, more than any model has."""
MAX_ELEMENTS = 2**40
"""Elements of a tensor: far beyond any body we take, and small enough that no product of it overflows."""
MAX_TENSORS = 1024
"""Inputs or outputs of one request."""
MAX_PROBLEMS = 8
"""Problems told for one request; a client that sends a thousand wrong inputs needs no thousand lines."""
MAX_CACHED_HEAD_BYTES = 4096
"""A longer head is not kept by the cache: it is parsed each time."""
BINARY_HINT = "a body with binary tensors needs the header Inference-Header-Content-Length, the bytes of its JSON"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "schedule_policy",
    "model_repository_index",
    "model_configuration",
    "statistics",
)
"""Of `schedule_policy` the parameters timeout and priority."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in system shared memory: in a registered region, from its byte `offset`."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class InputHead:
    """What a request says of one input: `binary_size` bytes follow the head, or `data` or `place` is in it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary_size: int | None
    data: Any | None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class OutputHead:
    """One output that the request asks for; `classification` 0 is none.

    `binary` None follows the request's default; with a `place` it is written there instead, if it fits.
    """

    name: str
    binary: bool | None
    classification: int
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class InferHead:
    """An inference request without its binary data. `outputs` None asks for all, in the model's order."""

    id: str | None
    parameters: Mapping[str, Any]
    inputs: tuple[InputHead, ...]
    outputs: tuple[OutputHead, ...] | None
    binary_default: bool
    timeout_s: float | None
    priority: Priority | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a served model takes and gives. With `max_rows` > 1 rows of several requests are gathered along axis 0,
    which may then be 1 to `max_rows` in every input, whatever the shape says of it."""

    name: str
    version: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_rows: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one input of a request goes: the model's input `index`. `nbytes` is 0 for JSON and BYTES data."""

    index: int
    datatype: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int
    head: InputHead


@dataclass(frozen=True, slots=True)
class Layout:
    """The inputs in the request's order, as their binary parts follow each other, `binary_bytes` in all.

    `shared_bytes` are those in shared memory; `shares` tells whether any input or output lies there.
    """

    slots: tuple[Slot, ...]
    rows: int
    binary_bytes: int
    shared_bytes: int
    shares: bool


# Reading the head of a request.


def parse_infer_head(text: bytes | bytearray | memoryview) -> InferHead:
    """Return the request that the JSON says; raise OrchError INVALID whatever else the bytes are."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hint = BINARY_HINT if b"binary_data_size" in bytes(text) else None
        raise OrchError(Kind.INVALID, f"the request is not JSON: {error}", hint=hint) from None
    if type(body) is not dict:
        raise OrchError(Kind.INVALID, f"the request must be a JSON object, got {_seen(body)}")
    parameters = _object(body, "parameters", "")
    outputs = _list(body, "outputs", "")
    return InferHead(
        id=_optional(body, "id", str, "a string", ""),
        parameters=parameters,
        inputs=check_once(tuple(_input_head(item, f"inputs[{i}]") for i, item in enumerate(_list(body, "inputs", "")))),
        outputs=check_once(tuple(_output_head(item, f"outputs[{i}]") for i, item in enumerate(outputs))) or None,
        binary_default=_optional(parameters, "binary_data_output", bool, "true or false", "parameters.") or False,
        timeout_s=timeout_of(parameters),
        priority=priority_of(parameters.get("priority"), "parameters.priority"),
    )


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the seconds of the parameter `timeout`, which counts microseconds; 0 is none (schedule policy)."""
    micros = _natural(parameters, "timeout", "parameters.")
    return micros / 1e6 if micros else None


def _input_head(item: object, where: str) -> InputHead:
    if type(item) is not dict:
        raise _invalid(where, f"must be an object, got {_seen(item)}")
    parameters = _object(item, "parameters", where + ".")
    size, data = _natural(parameters, "binary_data_size", where + ".parameters."), item.get("data")
    place = place_of(parameters, where + ".parameters.")
    if place is not None and (size is not None or data is not None):
        raise _invalid(where, "has data beside parameters.shared_memory_region; send one of them")
    if place is None and (size is None) == (data is None):
        both = "both data and" if data is not None else "neither data nor"
        raise _invalid(where, f"has {both} parameters.binary_data_size; send one of them")
    if "shape" not in item:
        raise _invalid(f"{where}.shape", "is missing")
    datatype, shape = _required(item, "datatype", where), tuple(_list(item, "shape", where + "."))
    check_input(where, datatype, shape)
    return InputHead(_required(item, "name", where), datatype, shape, size, data, place)


def check_input(where: str, datatype: str, shape: tuple[Any, ...]) -> None:
    """Raise OrchError INVALID unless the protocol has the datatype and the shape is one."""
    if datatype not in DTYPES:
        raise _invalid(f"{where}.datatype", f"{_seen(datatype)} is none of {', '.join(DTYPES)}")
    problem = _shape_problem(shape)
    if problem:
        raise _invalid(f"{where}.shape", problem)


def _output_head(item: object, where: str) -> OutputHead:
    if type(item) is not dict:
        raise _invalid(where, f"must be an object, got {_seen(item)}")
    parameters = _object(item, "parameters", where + ".")
    place = place_of(parameters, where + ".parameters.")
    binary = _optional(parameters, "binary_data", bool, "true or false", where + ".parameters.")
    classes = _natural(parameters, "classification", where + ".parameters.")
    if classes and place is not None:
        raise _invalid(where, "classes are not written to shared memory; leave out one of the two")
    return OutputHead(_required(item, "name", where), binary, classes or 0, place)


def place_of(parameters: Mapping[str, Any], where: str) -> Place | None:
    """Return where in shared memory a tensor's parameters say that it lies; `where` stands before their names."""
    region: str | None = _optional(parameters, "shared_memory_region", str, "a string", where)
    if region is None:
        return None
    size = _natural(parameters, "shared_memory_byte_size", where)
    if size is None:
        raise _invalid(f"{where}shared_memory_byte_size", "is missing")
    return Place(region, _natural(parameters, "shared_memory_offset", where) or 0, size)


def _shape_problem(shape: tuple[Any, ...]) -> str | None:
    if len(shape) > MAX_RANK:
        return f"has {len(shape)} dimensions, more than {MAX_RANK}"
    for size in shape:
        if type(size) is not int or size < 0:
            return f"must be integers of at least 0, got {_seen(size)}"
    return None if count_of(shape) <= MAX_ELEMENTS else f"holds more than {MAX_ELEMENTS} elements"


def check_once(heads: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the heads; raise OrchError INVALID when two have one name."""
    seen: set[str] = set()
    for head in heads:
        if head.name in seen:
            raise OrchError(Kind.INVALID, f"{_seen(head.name)} is named twice")
        seen.add(head.name)
    return heads


def _object(body: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    return _optional(body, key, dict, "an object", where) or {}


def _list(body: Mapping[str, Any], key: str, where: str) -> list[Any]:
    items = _optional(body, key, list, "a list", where) or []
    if len(items) > MAX_TENSORS:
        raise _invalid(f"{where}{key}", f"has {len(items)} items, more than {MAX_TENSORS}")
    return items


def _required(body: Mapping[str, Any], key: str, where: str) -> str:
    value = body.get(key)
    if type(value) is not str:
        raise _invalid(f"{where}.{key}", f"must be a string, got {_seen(value)}" if key in body else "is missing")
    return value


def _natural(body: Mapping[str, Any], key: str, where: str) -> int | None:
    value: int | None = _optional(body, key, int, "an integer of at least 0", where)
    if value is not None and value < 0:
        raise _invalid(f"{where}{key}", f"must be an integer of at least 0, got {value}")
    return value


def _optional(body: Mapping[str, Any], key: str, kind: type, words: str, where: str) -> Any:
    value = body.get(key)
    if value is not None and type(value) is not kind:  # exact: a bool is no int here
        raise _invalid(f"{where}{key}", f"must be {words}, got {_seen(value)}")
    return value


def _seen(value: object) -> str:
    """Return the value as a message shows it: short, and never deep (repr of a nested list may recurse too far)."""
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "...")
    return "null" if value is None else repr(value)


# Checking it against the model.


def plan_inputs(head: InferHead, signature: Signature) -> Layout:
    """Return where each input goes; raise OrchError INVALID that says all that is wrong and what the model takes."""
    positions = {tensor.name: index for index, tensor in enumerate(signature.inputs)}
    problems: list[Problem] = []
    slots: list[Slot] = []
    for given in head.inputs:
        index = positions.pop(given.name, None)
        if index is None:
            problems.append(_unknown(given.name, "input", signature.inputs))
            continue
        wrong = _input_problem(given, signature.inputs[index], signature.max_rows)
        if wrong:
            problems.append(Problem(wrong, f"input {given.name!r}", _expected(signature.inputs[index], signature)))
        slots.append(_slot(index, given))
    problems += [
        Problem("is missing", f"input {name!r}", _expected(signature.inputs[index], signature))
        for name, index in positions.items()
    ]
    problems += _output_problems(head, signature)
    rows = {slot.shape[0] for slot in slots if slot.shape} if signature.max_rows > 1 else {1}
    if len(rows) > 1 and not problems:
        problems.append(Problem(f"the inputs have different numbers of rows: {sorted(rows)}"))
    if problems:
        raise OrchError(Kind.INVALID, problems[:MAX_PROBLEMS])
    places = [given.place for given in head.inputs if given.place is not None]
    return Layout(
        slots=tuple(slots),
        rows=rows.pop() if rows else 1,
        binary_bytes=sum(slot.head.binary_size or 0 for slot in slots),
        shared_bytes=sum(place.byte_size for place in places),
        shares=bool(places) or any(output.place is not None for output in head.outputs or ()),
    )


def _slot(index: int, given: InputHead) -> Slot:
    fixed = given.binary_size is not None and given.datatype != "BYTES"
    nbytes = given.binary_size or 0 if fixed else 0
    return Slot(index, given.datatype, DTYPES[given.datatype], given.shape, nbytes, given)


def _input_problem(given: InputHead, tensor: TensorInfo, max_rows: int) -> str | None:
    if given.datatype != tensor.datatype:
        return f"is {given.datatype}, the model takes {tensor.datatype}"
    if not _shape_fits(given.shape, tensor, max_rows):
        return f"has shape {list(given.shape)}, the model takes {_shape_text(tensor, max_rows)}"
    says, nbytes = "binary_data_size", given.binary_size
    if given.place is not None:
        says, nbytes = "shared_memory_byte_size", given.place.byte_size
    if nbytes is None:
        return None
    count = count_of(given.shape)
    if given.datatype == "BYTES":
        return f"has {count} elements, too many for {nbytes} bytes" if nbytes < 4 * count else None
    size = count * DTYPES[given.datatype].itemsize
    return None if nbytes == size else f"needs {size} bytes, {says} says {nbytes}"


def _shape_fits(shape: tuple[int, ...], tensor: TensorInfo, max_rows: int) -> bool:
    if _shape_problem(shape):
        return False
    dims = tensor.shape
    if dims is None:
        return max_rows <= 1 or (bool(shape) and 1 <= shape[0] <= max_rows)
    if len(shape) != len(dims):
        return False
    if max_rows > 1 and dims:
        return 1 <= shape[0] <= max_rows and all(
            dim.admits(size) for dim, size in zip(dims[1:], shape[1:], strict=True)
        )
    return all(dim.admits(size) for dim, size in zip(dims, shape, strict=True))


def _shape_text(tensor: TensorInfo, max_rows: int) -> str:
    if tensor.shape is None:
        return "any shape"
    sizes = [str(dim) for dim in tensor.shape]
    if max_rows > 1 and sizes:
        sizes[0] = f"1..{max_rows}"
    return f"[{', '.join(sizes)}]"


def _expected(tensor: TensorInfo, signature: Signature) -> str:
    return f"{signature.name} takes {tensor.name!r}: {tensor.datatype} {_shape_text(tensor, signature.max_rows)}"


def _unknown(name: str, what: str, tensors: Iterable[TensorInfo]) -> Problem:
    names = [tensor.name for tensor in tensors]
    near = difflib.get_close_matches(name[:100], names, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"the model has {', '.join(map(repr, names[:16]))}"
    return Problem(f"the model has no {what} {_seen(name)}", hint=known)


def _output_problems(head: InferHead, signature: Signature) -> Iterable[Problem]:
    if head.outputs is None:
        wanted = [OutputHead(tensor.name, None, 0) for tensor in signature.outputs]
    else:
        wanted = list(head.outputs)
    tensors = {tensor.name: tensor for tensor in signature.outputs}
    for output in wanted:
        tensor = tensors.get(output.name)
        if tensor is None:
            yield _unknown(output.name, "output", signature.outputs)
        elif output.classification and tensor.datatype == "BYTES":
            yield Problem("BYTES cannot be classified", f"output {output.name!r}")
        elif _binary_is_needed(output, tensor.datatype, head.binary_default):
            yield _binary_problem(output.name, tensor.datatype)


def _binary_is_needed(output: OutputHead, datatype: str, binary_default: bool) -> bool:
    binary = output.place is not None or (binary_default if output.binary is None else output.binary)
    return not binary and not output.classification and datatype in BINARY_ONLY


def _binary_problem(name: str, datatype: str) -> Problem:
    hint = "ask for it as binary data: parameters.binary_data of the output, or parameters.binary_data_output"
    return Problem(f"{datatype} has no JSON form", f"output {name!r}", hint)


def decode_json(slot: Slot) -> Array:
    """Return the tensor of an input whose data is in the head; raise OrchError INVALID."""
    return decode_values(f"input {slot.head.name!r}", slot.datatype, slot.shape, slot.head.data)


class HeadCache:
    """The last heads and their layouts, found by their bytes: a client sends equal heads again and again.

    `parse` reads a head, from JSON unless it is given. Heads with data in them are not kept, nor refused ones.
    """

    def __init__(self, limit: int = 256, parse: Callable[[bytes], InferHead] | None = None) -> None:
        self._limit = limit
        self._parse = parse or parse_infer_head
        self._heads: OrderedDict[bytes, InferHead] = OrderedDict()
        self._plans: OrderedDict[bytes, tuple[Signature, InferHead, Layout]] = OrderedDict()

    def __len__(self) -> int:
        return max(len(self._heads), len(self._plans))

    def parse(self, text: bytes) -> InferHead:
        """Return the head; raise OrchError INVALID."""
        head = self._heads.get(text)
        if head is not None:
            self._heads.move_to_end(text)
            return head
        head = self._parse(text)
        if _is_kept(text, head):
            _keep(self._heads, text, head, self._limit)
        return head

    def plan(self, text: bytes, signature: Signature) -> tuple[InferHead, Layout]:
        """Return the head and its layout for this signature (the same object each time); raise OrchError INVALID."""
        known = self._plans.get(text)
        if known is not None and known[0] is signature:
            self._plans.move_to_end(text)
            return known[1], known[2]
        head = self._parse(text)
        layout = plan_inputs(head, signature)
        if _is_kept(text, head):
            _keep(self._plans, text, (signature, head, layout), self._limit)
        return head, layout


def _is_kept(text: bytes, head: InferHead) -> bool:
    return len(text) <= MAX_CACHED_HEAD_BYTES and all(given.data is None for given in head.inputs)


def _keep(entries: OrderedDict[bytes, Any], text: bytes, value: object, limit: int) -> None:
    entries[text] = value
    if len(entries) > limit:
        entries.popitem(last=False)


# Writing answers.


class AnsweredOutput(NamedTuple):
    """One output of a response; `binary` None follows the request's default, with a `place` it goes there instead."""

    name: str
    binary: bool | None
    datatype: str
    array: Array
    place: Place | None = None

    def payload(self) -> bytes | memoryview:
        """Return the tensor as its bytes, not copied where it has a fixed size."""
        return encode_bytes(self.array) if self.datatype == "BYTES" else raw(self.array)


Store = Callable[[Place, bytes | memoryview], None]
"""Writes an output where the request wants it."""
Told = dict[str, str | int]
"""The parameters of an answered output that say where it is."""


def stored(output: AnsweredOutput, place: Place, store: Store | None) -> Told:
    """Write the output to its place and return the parameters that tell so; raise OrchError."""
    data = output.payload()
    if len(data) > place.byte_size:
        what = f"has {len(data)} bytes, shared_memory_byte_size says {place.byte_size}"
        raise _invalid(f"output {output.name!r}", what)
    assert store is not None, "who takes requests with places stores"
    store(place, data)
    told: Told = {"shared_memory_region": place.region, "shared_memory_byte_size": len(data)}
    return told | ({"shared_memory_offset": place.offset} if place.offset else {})


def answered(
    signature: Signature, outputs: Sequence[Array], wanted: tuple[OutputHead, ...] | None
) -> list[AnsweredOutput]:
    """Return what the response holds, in the requested order, classes where they are asked for."""
    whole = [
        AnsweredOutput(tensor.name, None, tensor.datatype, array)
        for tensor, array in zip(signature.outputs, outputs, strict=True)
    ]
    if wanted is None:
        return whole
    known = {output.name: output for output in whole}
    result = []
    for head in wanted:
        datatype, array = known[head.name].datatype, known[head.name].array
        if head.classification:
            datatype, array = "BYTES", classify(array, datatype, head.classification)
        result.append(AnsweredOutput(head.name, head.binary, datatype, array, head.place))
    return result


def encode_response(
    signature: Signature,
    id: str | None,  # noqa: A002  the protocol's own word
    outputs: Sequence[Array],
    head_outputs: tuple[OutputHead, ...] | None,
    binary_default: bool,
    parameters: Mapping[str, Any] | None = None,
    store: Store | None = None,
    encoded: Mapping[str, bytes] | None = None,
) -> tuple[list[bytes | memoryview], int | None]:
    """Return the chunks of the body and the length of its JSON part, None when there is no binary part.

    `outputs` are in the model's order; binary ones are not copied but handed out as their own memory, and `store` takes
    those that have a place; `encoded` are outputs whose JSON is there already. NaN and infinity, for which JSON has no
    word, are written as null. Raise OrchError INVALID for outputs without a JSON form.
    """
    items: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for output in answered(signature, outputs, head_outputs):
        item: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.array.shape}
        if output.place is not None:
            item["parameters"] = stored(output, output.place, store)
        elif binary_default if output.binary is None else output.binary:
            part = output.payload()
            item["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            known = encoded.get(output.name) if encoded else None
            item["data"] = (
                _json_data(output.name, output.datatype, output.array) if known is None else orjson.Fragment(known)
            )
        items.append(item)
    body: dict[str, Any] = {"model_name": signature.name, "model_version": signature.version}
    if id is not None:
        body["id"] = id
    if parameters:
        body["parameters"] = parameters
    body["outputs"] = items
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return [text, *parts], len(text) if parts else None


def _json_data(name: str, datatype: str, array: Array) -> object:
    if datatype in BINARY_ONLY:
        raise OrchError(Kind.INVALID, [_binary_problem(name, datatype)])
    if datatype == "BYTES":
        return texts(f"output {name!r}", array)
    return np.ascontiguousarray(array).reshape(-1)


def server_metadata(version: str = "", *, shared_memory: bool = False) -> dict[str, Any]:
    """Return the answer to `GET v2`, with `system_shared_memory` where it is offered."""
    extensions = [*EXTENSIONS, *(["system_shared_memory"] if shared_memory else [])]
    return {"name": "orch", "version": version, "extensions": extensions}


def model_metadata(signature: Signature, platform: str = "openvino") -> dict[str, Any]:
    """Return the answer to `GET v2/models/NAME`; -1 stands for dimensions that may vary, the gathered rows included."""
    return {
        "name": signature.name,
        "versions": [signature.version],
        "platform": platform,
        "inputs": [_tensor_metadata(tensor, signature.max_rows) for tensor in signature.inputs],
        "outputs": [_tensor_metadata(tensor, signature.max_rows) for tensor in signature.outputs],
    }


def _tensor_metadata(tensor: TensorInfo, max_rows: int) -> dict[str, Any]:
    shape = list(tensor.wire_shape)
    if max_rows > 1 and tensor.shape:
        shape[0] = -1
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}


def error_text(error: OrchError) -> str:
    """Return the problems in one line, each with what to do about it."""
    return "; ".join(f"{problem} ({problem.hint})" if problem.hint else str(problem) for problem in error.problems)


def error_body(error: OrchError, **extra: object) -> bytes:
    """Return the protocol's error object: `error`, `code`, `retry_after_ms` if it is known, and the `extra` keys."""
    body: dict[str, object] = {"error": error_text(error), "code": error.code}
    if error.retry_after_s is not None:
        body["retry_after_ms"] = retry_ms(error)
    return orjson.dumps(body | extra, default=str)


def _invalid(where: str, what: str) -> OrchError:
    return OrchError(Kind.INVALID, what, where=where)
