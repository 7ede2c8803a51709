"""Inference requests and answers of the Open Inference Protocol as bytes: NumPy in, NumPy out, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import orjson

from orchestrator.backend.datatypes import DTYPES, Array
from orchestrator.client.failures import Failed, Invalid
from orchestrator.errors import OrchError
from orchestrator.serving.oip_tensors import count_of, decode_bytes, encode_bytes, object_array, raw

JSON_LENGTH = "Inference-Header-Content-Length"
BY_DTYPE = {dtype: name for name, dtype in DTYPES.items() if name not in {"BF16", "BYTES"}}
BFLOAT16 = "bfloat16"  # as the dtype of ml_dtypes is called, which need not be installed


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body: its JSON, and the memory of the tensors, which is not copied."""

    text: bytes
    parts: tuple[bytes | memoryview, ...]


def encode(
    inputs: Mapping[str, npt.ArrayLike],
    *,
    outputs: Sequence[str] | None = None,
    request_id: str | None = None,
) -> Body:
    """Return the request with binary inputs that asks for binary outputs; raise Invalid for what is no tensor."""
    heads, parts = [], []
    for name, value in inputs.items():
        datatype, shape, data = _tensor(name, value)
        size = {"binary_data_size": len(data)}
        heads.append({"name": name, "datatype": datatype, "shape": shape, "parameters": size})
        parts.append(data)
    request: dict[str, Any] = {"inputs": heads, "parameters": {"binary_data_output": True}}
    if outputs is not None:
        request["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    if request_id is not None:
        request["id"] = request_id
    return Body(orjson.dumps(request), tuple(parts))


def _tensor(name: str, value: npt.ArrayLike) -> tuple[str, tuple[int, ...], bytes | memoryview]:
    """Return datatype, shape and bytes; row-major arrays of the machine's order are not copied."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # NumPy tells of inhomogeneous shapes
        raise Invalid(f"is no tensor: {error}", where=f"input {name!r}") from None
    if array.dtype.kind in "OSU":
        return "BYTES", array.shape, _texts(name, array)
    if array.dtype.name == BFLOAT16:
        return "BF16", array.shape, raw(np.ascontiguousarray(array).view(np.uint16))
    little = array.dtype.newbyteorder("<")
    datatype = BY_DTYPE.get(little)
    if datatype is None:
        hint = f"the protocol has {', '.join(map(str, BY_DTYPE))}, texts and bytes"
        raise Invalid(f"has dtype {array.dtype}, which the protocol lacks", where=f"input {name!r}", hint=hint)
    # 0-d arrays would gain an axis by ascontiguousarray; the shape is told beside the bytes.
    return datatype, array.shape, raw(np.ascontiguousarray(array, little))


def _texts(name: str, array: Array) -> bytes:
    if array.dtype.kind == "O":
        strange = {type(element).__name__ for element in array.flat if not isinstance(element, (bytes, str))}
        if strange:
            what = f"holds {', '.join(sorted(strange))}, where an array of objects may hold bytes and texts only"
            raise Invalid(what, where=f"input {name!r}", hint="give the array a dtype of numbers")
    return encode_bytes(array)


def decode(memory: bytearray, json_length: int | None, where: str) -> dict[str, Array]:
    """Return the outputs by name; arrays are views of the answer's memory where that is aligned.

    Raise Failed for bytes that are no answer of this protocol.
    """
    try:
        head = orjson.loads(memory[:json_length])
        outputs, position = {}, len(memory) if json_length is None else json_length
        for output in head["outputs"]:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                outputs[output["name"]] = _from_json(output)
            else:
                outputs[output["name"]] = _from_bytes(memory, position, size, output)
                position += size
        if position != len(memory):
            raise ValueError(f"{len(memory) - position} bytes are left over")
    except (KeyError, TypeError, ValueError, AttributeError, OrchError) as error:
        _broken(error, where)
    return outputs


def _broken(error: Exception, where: str) -> NoReturn:
    hint = "is it an endpoint of the Open Inference Protocol? orch status -o wide shows them"
    raise Failed(f"the answer is none of an inference: {error!r:.200}", where=where, hint=hint) from None


def _from_bytes(memory: bytearray, position: int, size: int, output: Mapping[str, Any]) -> Array:
    shape, dtype = output["shape"], DTYPES[output["datatype"]]
    count = count_of(shape)
    if output["datatype"] == "BYTES":
        return decode_bytes(memoryview(memory)[position : position + size], count).reshape(shape)
    if count * dtype.itemsize != size or position + size > len(memory):
        raise ValueError(f"{output['name']!r} of {size} bytes does not hold {shape}")
    array: Array = np.frombuffer(memory, dtype, count, position).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _from_json(output: Mapping[str, Any]) -> Array:
    if output["datatype"] == "BYTES":
        texts = [each.encode() for each in output["data"]]
        return object_array(texts).reshape(output["shape"])
    return np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])
