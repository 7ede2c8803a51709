"""The files that belong to a model beside its own: weights of IR and Paddle, and what an ONNX model keeps outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import Kind, OrchError

BESIDE = {".xml": (".bin",), ".pdmodel": (".pdiparams",), ".json": (".pdiparams",)}
NAMES_MAX = 10_000
BLOCK_BYTES, BLOCKS_MAX = 64 * 1024, 256
TEXT_MAX = 4096  # of a file's name
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
    beside = (model.with_suffix(suffix).name for suffix in BESIDE.get(model.suffix, ()))
    return tuple(sorted({*beside, *external_data(model)}))


def external_data(model: Path) -> tuple[str, ...]:
    """Return the locations of an ONNX model's external tensors, sorted; none for a file that is no ONNX model.

    What a file is called decides nothing: the engine takes an ONNX model by any name.
    """
    found: set[str] = set()
    try:
        with model.open("rb") as file:
            for location in _locations(_Bytes(file)):
                found.add(location)
                if len(found) > NAMES_MAX:
                    raise OrchError(Kind.INVALID, f"names more than {NAMES_MAX} files", where=str(model))
    except _UnreadableError as error:
        if model.suffix != ".onnx":
            return ()  # nor can the engine read it as one
        raise OrchError(Kind.INVALID, f"cannot be read as an ONNX model: {error}", where=str(model)) from None
    except OSError as error:
        raise OrchError(Kind.INVALID, f"cannot be read: {error.strerror}", where=str(model)) from None
    return tuple(sorted(found))


class _UnreadableError(Exception):
    """Not the wire format of protobuf."""


class _Bytes:
    """A file's bytes by their place, a few of them in memory; not mapped, because a file that is cut would end us."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._blocks: dict[int, bytes] = {}
        self.size = os.fstat(file.fileno()).st_size

    def byte(self, at: int) -> int:
        number, offset = divmod(at, BLOCK_BYTES)
        block = self._blocks.get(number) or self._read(number)
        if offset >= len(block):
            raise _UnreadableError("it ends while it is read")
        return block[offset]

    def text(self, begin: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), min(end - begin, TEXT_MAX), begin)

    def _read(self, number: int) -> bytes:
        if len(self._blocks) >= BLOCKS_MAX:
            self._blocks.clear()
        block = os.pread(self._file.fileno(), BLOCK_BYTES, number * BLOCK_BYTES)
        self._blocks[number] = block
        return block


def _locations(data: _Bytes) -> Iterator[str]:
    """Yield what stands under `location` in each tensor's external_data, without reading the weights themselves."""
    steps = 0
    waiting = [("model", 0, data.size)]
    while waiting:
        message, at, end = waiting.pop()
        entry: dict[int, bytes] = {}
        while at < end:
            steps += 1
            if steps > STEPS_MAX:
                raise OrchError(Kind.INVALID, f"has more than {STEPS_MAX} fields")
            number, begin, at = _field(data, at, end)
            inner = _MESSAGES[message].get(number)
            if begin is not None and inner is not None:
                waiting.append((inner, begin, at))
            elif begin is not None and message == "external":
                entry[number] = data.text(begin, at)
        if entry.get(1) == b"location" and 2 in entry:
            yield entry[2].decode("utf-8", "surrogateescape")


def _field(data: _Bytes, at: int, end: int) -> tuple[int, int | None, int]:
    """Return a field's number, where its bytes begin (None where it has none), and where the next one begins."""
    key, at = _varint(data, at, end)
    begin: int | None = None
    match key & 7:
        case 0:
            _, at = _varint(data, at, end)
        case 1:
            at += 8
        case 2:
            size, begin = _varint(data, at, end)
            at = begin + size
        case 3 | 4:
            pass  # the fields of a group are passed over one by one, like those around it
        case 5:
            at += 4
        case kind:
            raise _UnreadableError(f"a field of the kind {kind}")
    if at > end:
        raise _UnreadableError("a field goes beyond its end")
    return key >> 3, begin, at


def _varint(data: _Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data.byte(at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _UnreadableError("a number goes beyond its end")
