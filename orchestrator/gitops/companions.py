"""The files that belong to a model beside its own: weights of IR and Paddle, and what an ONNX model keeps outside."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import Kind, OrchError

BESIDE = {".xml": (".bin",), ".pdmodel": (".pdiparams",), ".json": (".pdiparams",)}
NAMES_MAX = 10_000
STEPS_MAX = 2_000_000  # fields of one model: a second or two

# Where tensors may stand in onnx.proto, as field numbers: message -> field -> the message in it.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {13: "external"},
    "external": {},
}


def companions(model: Path) -> tuple[str, ...]:
    """Return the names, relative to the model's folder, of the files that belong to it, whether they are there or not.

    What an ONNX model says is returned as it says it, also where it leads out. Raise INVALID for a model that cannot be
    read this far.
    """
    if model.suffix == ".onnx":
        return external_data(model)
    return tuple(model.with_suffix(suffix).name for suffix in BESIDE.get(model.suffix, ()))


def external_data(model: Path) -> tuple[str, ...]:
    """Return the locations of an ONNX model's external tensors, sorted; none for a file that is no ONNX model."""
    found: set[str] = set()
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for location in _locations(data):
                found.add(location)
                if len(found) > NAMES_MAX:
                    raise OrchError(Kind.INVALID, f"names more than {NAMES_MAX} files", where=str(model))
    except _UnreadableError as error:
        # What is no ONNX model is told better by the engine; one made to look broken here must not pass unseen.
        raise OrchError(Kind.INVALID, f"cannot be read as an ONNX model: {error}", where=str(model)) from None
    except ValueError:  # an empty file cannot be mapped
        return ()
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot be read: {error.strerror}", where=str(model)) from None
    return tuple(sorted(found))


class _UnreadableError(Exception):
    """Not the wire format of protobuf."""


def _locations(data: mmap.mmap) -> Iterator[str]:
    """Yield what stands under `location` in each tensor's external_data, without reading the weights themselves."""
    steps = 0
    waiting = [("model", 0, len(data))]
    while waiting:
        message, at, end = waiting.pop()
        entry: dict[int, tuple[int, int]] = {}
        while at < end:
            steps += 1
            if steps > STEPS_MAX:
                raise _UnreadableError(f"more than {STEPS_MAX} fields")
            number, begin, at = _field(data, at, end)
            inner = _MESSAGES[message].get(number)
            if begin is not None and inner is not None:
                waiting.append((inner, begin, at))
            elif begin is not None and message == "external":
                entry[number] = (begin, at)
        if 1 in entry and 2 in entry and data[slice(*entry[1])] == b"location":
            yield data[slice(*entry[2])].decode("utf-8", "surrogateescape")


def _field(data: mmap.mmap, at: int, end: int) -> tuple[int, int | None, int]:
    """Return a field's number, where its bytes begin (None where it is a number), and where the next one begins."""
    key, at = _varint(data, at, end)
    match key & 7:
        case 0:
            _, at = _varint(data, at, end)
            return key >> 3, None, at
        case 1 | 5:
            at += 8 if key & 7 == 1 else 4
            begin = None
        case 2:
            size, begin = _varint(data, at, end)
            at = begin + size
        case kind:
            raise _UnreadableError(f"a field of the kind {kind}")
    if at > end:
        raise _UnreadableError("a field goes beyond its end")
    return key >> 3, begin, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _UnreadableError("a number goes beyond its end")
