"""Long JSON tensors, read and written in pieces, so that whoever shares the thread waits for no more than one.

A parser holds Python's lock for as long as it parses, in whatever thread it runs; 2 MB of numbers are some tens of
milliseconds. So the long arrays of numbers are cut out of the request, what is left is parsed as ever, and each array
is parsed a piece at a time, its nesting compared with that of the declared shape. Each function whose name ends in
`_in_pieces` is a generator that yields between pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.oip import (
    InferHead,
    Layout,
    OutputHead,
    Signature,
    Slot,
    decode_json,
    parse_infer_head,
    plan_inputs,
)
from orchestrator.serving.oip_tensors import BINARY_ONLY, count_of, decode_values

LONG_BYTES = 32 * 1024
"""Of a request's JSON: less is read at once, in less than a millisecond."""
PIECE_BYTES = 16 * 1024
LONG_VALUES = 8 * 1024
"""Of an output: fewer are written at once."""
PIECE_VALUES = 4 * 1024
MAX_STRINGS = 512
"""Strings that are looked at in search of long arrays; a request with a few inputs has a few dozen."""

_SPACE = b" \t\r\n"
_NO_STRUCTURE = bytes(code for code in range(256) if chr(code) not in "[],")


class Span(NamedTuple):
    """Where an array of numbers stands in a request, brackets included."""

    start: int
    end: int


class Request(NamedTuple):
    """A request that was read: the arrays stand as its inputs do, None for data that is not in its JSON."""

    head: InferHead
    layout: Layout
    arrays: list[Array | None]


Take = Callable[[np.dtype[Any], tuple[int, ...]], Array]
"""Gives memory for a tensor."""


# Reading


def read_in_pieces(text: bytes | bytearray, signature: Signature, take: Take) -> Generator[None, None, Request]:
    """Return the request that the JSON says; raise OrchError INVALID where reading it at once would."""
    spans = list(long_arrays(text))
    rest, mark = _without(text, spans)
    head = parse_infer_head(rest)
    yield
    layout = plan_inputs(head, signature)
    arrays: list[Array | None] = []
    for slot in layout.slots:
        data = slot.head.data
        index = _marked(data, mark) if spans else None
        if index is not None:
            arrays.append((yield from _decode_in_pieces(text, spans[index], slot, take)))
        else:
            arrays.append(None if data is None else decode_json(slot))
        yield
    return Request(head, layout, arrays)


def long_arrays(text: bytes | bytearray) -> Iterator[Span]:
    """Yield where the long arrays stand that are the values of a key `data`; their insides are not looked at."""
    position, key = 0, b""
    for _ in range(MAX_STRINGS):
        quote = text.find(b'"', position)
        end = len(text) if quote < 0 else quote
        if key == b'"data"' and end - position > PIECE_BYTES:
            span = _array(text, position, end)
            if span is not None:
                yield span
        if quote < 0:
            return
        position = _string_end(text, quote)
        if position < 0:
            return  # not JSON, as whoever parses it will say
        key = bytes(text[quote:position]) if position - quote == len(b'"data"') else b""


def _array(text: bytes | bytearray, start: int, end: int) -> Span | None:
    """Return the array that follows a key's colon, in a stretch without strings."""
    opening = text.find(b"[", start, end)
    if opening < 0 or text[start:opening].strip(_SPACE) != b":":
        return None
    brace = text.find(b"}", opening, end)  # ends the input's object; no array of numbers holds one
    closing = text.rfind(b"]", opening, end if brace < 0 else brace)
    return None if closing < 0 else Span(opening, closing + 1)


def _string_end(text: bytes | bytearray, quote: int) -> int:
    """Return the place after the string that begins at `quote`; -1 when it does not end."""
    position = quote
    while (position := text.find(b'"', position + 1)) >= 0:
        before = position - 1
        while text[before] == 0x5C:  # a quote after an odd number of backslashes is escaped
            before -= 1
        if (position - 1 - before) % 2 == 0:
            return position + 1
    return -1


def _without(text: bytes | bytearray, spans: Sequence[Span]) -> tuple[bytes, str]:
    """Return the request without its long arrays, and the key of the objects that stand for them, its own nowhere."""
    kept: list[bytes | bytearray] = []
    position = 0
    for span in spans:
        kept.append(text[position : span.start])
        position = span.end
    kept.append(text[position:])
    number = 0
    while any(f"@{number}".encode() in part for part in kept):
        number += 1
    mark = f"@{number}"
    for index in range(len(spans)):
        kept[index] = kept[index] + b'{"%b":%d}' % (mark.encode(), index)
    return b"".join(kept), mark


def _marked(data: object, mark: str) -> int | None:
    index = data.get(mark) if isinstance(data, dict) else None
    return index if isinstance(index, int) else None


def _decode_in_pieces(text: bytes | bytearray, span: Span, slot: Slot, take: Take) -> Generator[None, None, Array]:
    where = f"input {slot.head.name!r}"
    count = count_of(slot.shape)
    if slot.datatype in BINARY_ONLY or slot.datatype == "BYTES":
        decode_values(where, slot.datatype, (1,), [0])  # raises: it has no numbers in JSON
    if not 0 < count <= span.end - span.start:
        raise OrchError(
            Kind.INVALID, f"shape {list(slot.shape)} holds {count} values, not as many as came", where=where
        )
    nesting, levels = _nesting(text, span, slot.shape)
    array = take(slot.dtype, slot.shape)
    flat = array.reshape(-1)
    done = seen = depth = 0  # values decoded, characters of the nesting compared, lists open
    for start, end in _pieces(text, span):
        piece = text[start:end]
        structure = b"" if b"[" not in piece and b"]" not in piece else piece.translate(None, _NO_STRUCTURE)
        if nesting[seen : seen + len(structure)] != structure:
            raise _misshapen(slot)
        opened = depth + structure.count(b"[") - structure.count(b"]")
        values = _values(b"[" * depth + piece + b"]" * opened, levels, slot)
        length = len(structure) or len(values) - 1
        commas = nesting.count(b",", seen, seen + length)
        if not values or len(values) != commas + 1 or done + len(values) > count:
            raise _misshapen(slot)
        flat[done : done + len(values)] = decode_values(where, slot.datatype, (len(values),), values)
        done, depth, seen = done + len(values), opened, seen + length
        if end < span.end:
            if nesting[seen : seen + 1] != b",":  # the one between two pieces
                raise _misshapen(slot)
            seen += 1
        yield
    if seen != len(nesting) or done != count:
        raise _misshapen(slot)
    return array


def _misshapen(slot: Slot) -> OrchError:
    what = f"is not {count_of(slot.shape)} values, nested as the shape {list(slot.shape)} says or flat"
    return OrchError(Kind.INVALID, what, where=f"input {slot.head.name!r}")


def _nesting(text: bytes | bytearray, span: Span, shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the brackets and commas that the array must have, nested as the shape says or flat, and how deep."""
    begins = bytes(text[span.start : span.start + 64]).translate(None, _SPACE)
    sizes = shape if begins.startswith(b"[[") else (count_of(shape),)
    nested = b""
    for size in reversed(sizes):
        nested = b"[" + (nested + b",") * (size - 1) + nested + b"]"
    return nested, len(sizes)


def _pieces(text: bytes | bytearray, span: Span) -> Iterator[tuple[int, int]]:
    """Yield stretches of about PIECE_BYTES that end before a comma, which belongs to none."""
    start = span.start
    while start < span.end:
        comma = text.find(b",", start + PIECE_BYTES, span.end)
        end = span.end if comma < 0 else comma
        yield start, end
        start = end + 1


def _values(text: bytes | bytearray, levels: int, slot: Slot) -> list[Any]:
    """Return the values of a piece whose lists were closed, flat."""
    try:
        values: list[Any] = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"input {slot.head.name!r}"
        raise OrchError(Kind.INVALID, f"the data is not JSON: {error}", where=where) from None
    for _ in range(levels - 1):
        if set(map(type, values)) != {list}:
            raise _misshapen(slot)
        values = list(chain.from_iterable(values))
    return values


# Writing


def long_outputs(head: InferHead, signature: Signature, outputs: Sequence[Array]) -> Iterator[tuple[str, Array]]:
    """Yield the outputs that the answer carries as numbers in JSON and that are long."""
    wanted = None if head.outputs is None else {output.name: output for output in head.outputs}
    for tensor, array in zip(signature.outputs, outputs, strict=True):
        if array.size <= LONG_VALUES or tensor.datatype in BINARY_ONLY or tensor.datatype == "BYTES":
            continue
        asked = OutputHead(tensor.name, None, 0) if wanted is None else wanted.get(tensor.name)
        if asked is None or asked.classification or asked.place is not None:
            continue
        if not (head.binary_default if asked.binary is None else asked.binary):
            yield tensor.name, array


def encode_in_pieces(array: Array) -> Generator[None, None, bytes]:
    """Return the elements as a JSON list, in row-major order, NaN and infinity as null."""
    flat = np.ascontiguousarray(array).reshape(-1)
    parts = []
    for start in range(0, flat.size, PIECE_VALUES):
        parts.append(orjson.dumps(flat[start : start + PIECE_VALUES], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        yield
    return b"[" + b",".join(parts) + b"]"
