"""Reads the tensors that people name on the command line, and writes the answered ones for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.backend.base import DTYPES, Array
from orchestrator.cli.oip_client import Message
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.oip_tensors import decode_bytes, encode_bytes, object_array

VALUES_SHOWN = 8
Tensors = Mapping[str, tuple[str, Array]]
"""Datatype and array by name; BF16 as its 16 bits, BYTES as an array of bytes."""


def with_standard_input(values: Sequence[str], read: Callable[[], bytes]) -> list[str]:
    """Return the values with what `read` returns in the place of `@-`, alone or after a name."""
    return [
        value.removesuffix("@-") + read().decode("utf-8", "replace").strip()
        if value == "@-" or value.endswith("=@-")
        else value
        for value in values
    ]


def read_request(values: Sequence[str]) -> Message | None:
    """Return the whole request in `@request.json` or `{...}`, None where the values are inputs."""
    if len(values) != 1 or not values[0].startswith(("@", "{")) or values[0].endswith(".npy"):
        return None
    file = values[0][1:] if values[0].startswith("@") else None
    body = _json(values[0], "--input") if file is None else _json(_bytes(Path(file)), file)
    if not isinstance(body, dict) or "inputs" not in body:
        return None
    return Message(body)


def read_inputs(values: Sequence[str], metadata: Mapping[str, Any]) -> Tensors:
    """Return the inputs as the model takes them; raise OrchError for unknown, doubled and missing ones."""
    wanted = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    found: dict[str, tuple[str, Array]] = {}
    for value in values:
        name, text = _named(value, list(wanted))
        if name not in wanted or name in found:
            what = "is given twice" if name in found else "is no input of the model"
            raise OrchError(Kind.INVALID, what, where=f"--input {name}", hint=f"inputs: {_described(wanted)}")
        found[name] = (wanted[name]["datatype"], _array(name, text, wanted[name]))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise OrchError(Kind.INVALID, f"no value for {', '.join(missing)}", hint=f"inputs: {_described(wanted)}")
    return found


def _named(value: str, names: list[str]) -> tuple[str, str]:
    name, equals, text = value.partition("=")
    if equals and not value.startswith(("@", "[", "{", '"')):
        return name, text
    if len(names) != 1:
        what = f"the model has {len(names)} inputs, and the value {value[:40]!r} names none"
        raise OrchError(Kind.INVALID, what, hint=f"write --input {names[0] if names else 'NAME'}=VALUE")
    return names[0], value


def _described(wanted: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {tensor['datatype']} {tensor['shape']}" for name, tensor in wanted.items())


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot be read: {error.strerror}", where=str(path)) from None


def _json(text: bytes | str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "give @file.npy, @file.json or JSON such as [[1, 2]]"
        raise OrchError(Kind.INVALID, f"is no JSON: {error}", where=where, hint=hint) from None


def _array(name: str, text: str, tensor: Mapping[str, Any]) -> Array:
    where, datatype = f"--input {name}", tensor["datatype"]
    if text.startswith("@") and text.endswith(".npy"):
        value = _npy(Path(text[1:]))
    elif text.startswith("@"):
        value = _json(_bytes(Path(text[1:])), text[1:])
    else:
        value = _json(text, where)
    if isinstance(value, dict):
        hint = f"{name} is {datatype} {tensor['shape']}; a whole request has the key inputs"
        raise OrchError(Kind.INVALID, "is a JSON object, not a tensor", where=where, hint=hint)
    try:
        return _typed(value, datatype, tensor["shape"])
    except (ValueError, TypeError, OverflowError) as error:
        hint = f"{name} is {datatype} {tensor['shape']}"
        raise OrchError(Kind.INVALID, f"cannot become a tensor: {error}", where=where, hint=hint) from None


def _npy(path: Path) -> Array:
    try:
        return np.load(io.BytesIO(_bytes(path)), allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise OrchError(Kind.INVALID, f"is no NumPy file: {error}", where=str(path)) from None


def _typed(value: Any, datatype: str, shape: Sequence[int]) -> Array:
    """Return the value with the model's datatype; a missing batch axis of one row is added."""
    if datatype == "BYTES":
        given = np.array(value, dtype=np.object_)
        texts = [element if isinstance(element, bytes) else str(element).encode() for element in given.ravel()]
        return object_array(texts).reshape(given.shape)
    try:
        array = np.asarray(value)
    except ValueError:  # NumPy tells of inhomogeneous shapes
        raise ValueError("its rows differ in length") from None
    if array.dtype == np.object_:
        raise ValueError("it holds null or an object where a number belongs")
    if datatype == "BF16":
        return _to_bf16(array.astype(np.float32))
    safe = array.astype(DTYPES[datatype], casting="same_kind" if array.dtype.kind == "f" else "unsafe")
    if array.dtype.kind in "iu" and not np.array_equal(safe, array) and safe.dtype.kind != "f":
        raise ValueError(f"a value is out of range for {datatype}")
    return safe.reshape(1, *safe.shape) if safe.ndim == len(shape) - 1 and shape[0] in {-1, 1} else safe


def _to_bf16(array: Array) -> Array:
    """Return the upper 16 bits, rounded to the nearest even."""
    bits = array.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def encode(inputs: Tensors) -> Message:
    """Return the request with binary inputs that asks for binary outputs."""
    heads, parts = [], []
    for name, (datatype, array) in inputs.items():
        data = encode_bytes(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        heads.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(data)},
            }
        )
        parts.append(data)
    return Message({"inputs": heads, "parameters": {"binary_data_output": True}}, b"".join(parts))


def decode(answer: Message) -> Tensors:
    """Return the outputs of an answer, binary or JSON."""
    outputs: dict[str, tuple[str, Array]] = {}
    position = 0
    for head in answer.header.get("outputs", ()):
        size = (head.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.array(head["data"], dtype=DTYPES[head["datatype"]])
        else:
            array = _from_bytes(answer.binary[position : position + size], head)
            position += size
        outputs[head["name"]] = (head["datatype"], array.reshape(head["shape"]))
    return outputs


def _from_bytes(data: bytes, head: Mapping[str, Any]) -> Array:
    if head["datatype"] == "BYTES":
        return decode_bytes(data, int(np.prod(head["shape"])))
    return np.frombuffer(data, dtype=DTYPES[head["datatype"]])


def _values(datatype: str, array: Array) -> Array:
    """Return what the bits mean: BF16 as floats, BYTES as text."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if datatype == "BYTES":
        texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in array.ravel()]
        return np.array(texts, dtype=np.object_).reshape(array.shape)
    return array


def to_json(outputs: Tensors) -> dict[str, Any]:
    """Return the outputs as JSON values."""
    return {
        "outputs": [
            {"name": name, "datatype": datatype, "shape": list(array.shape), "data": _values(datatype, array).tolist()}
            for name, (datatype, array) in outputs.items()
        ]
    }


def to_npy(outputs: Tensors) -> bytes:
    """Return the only output as a NumPy file; raise OrchError where there are several, or texts."""
    if len(outputs) != 1:
        what = f"a NumPy file holds one output, and the model answered {len(outputs)}: {', '.join(outputs)}"
        raise OrchError(Kind.INVALID, what, hint="use -o json")
    ((datatype, array),) = outputs.values()
    if datatype == "BYTES":
        raise OrchError(Kind.INVALID, "texts have no NumPy file that is safe to read", hint="use -o json")
    file = io.BytesIO()
    np.save(file, _values(datatype, array), allow_pickle=False)
    return file.getvalue()


def to_text(outputs: Tensors) -> str:
    """Return for each output its shape and first values, and for one row of numbers which is the greatest."""
    lines = []
    for name, (datatype, array) in outputs.items():
        values = _values(datatype, array)
        lines.append(f"{name}  {datatype} [{','.join(map(str, array.shape))}]")
        flat = values.ravel()
        more = f", ... {flat.size} values" if flat.size > VALUES_SHOWN else ""
        if flat.size:
            lines.append("  " + ", ".join(_number(value) for value in flat[:VALUES_SHOWN]) + more)
        if datatype != "BYTES" and values.ndim == 2 and values.shape[0] == 1 and values.shape[1] > 1:
            at = int(values[0].argmax())
            lines.append(f"  greatest: {_number(values[0, at])} at index {at}")
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
