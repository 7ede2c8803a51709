"""The envelope of a ModelInferRequest, taken apart without protobuf so that no tensor byte is copied.

protobuf would copy each raw tensor twice, into its arena and out of it. Here the message is walked at its top level
only: the raw tensors become views of the received bytes; what is left, the head, is small and the same from request to
request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from orchestrator.errors import Kind, OrchError

# Field numbers of ModelInferRequest and of ModelInferResponse.
_ID, _PARAMETERS, _RAW_INPUT = 3, 4, 7  # model_name is 1, model_version 2
_RAW_OUTPUT_KEY = bytes([6 << 3 | 2])

MAX_FIELDS = 8192
"""Parts of a request: parameters, inputs, outputs, raw tensors. A walk of that many takes a few milliseconds."""

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Envelope(NamedTuple):
    """A request's outer parts. `head` is the message without `id` and raw tensors, `parameters` only those."""

    model_name: str
    model_version: str
    id: str
    parameters: bytes
    head: bytes
    raws: list[memoryview]


def open_envelope(data: bytes) -> Envelope:
    """Return the parts of a serialised ModelInferRequest; raise OrchError INVALID when it is none."""
    texts = [b"", b"", b""]  # model_name, model_version, id
    parameters: list[bytes] = []
    heads: list[bytes] = []
    raws: list[memoryview] = []
    view = memoryview(data)
    position = kept = 0  # what lies before `kept` is in heads, in raws or in texts
    size = len(data)
    fields = 0
    try:
        while position < size:
            start = position
            fields += 1
            if fields > MAX_FIELDS:
                raise OrchError(Kind.INVALID, f"the message has more than {MAX_FIELDS} parts")
            key, position = _varint(data, position)
            body, position = _skip(data, position, key & 7)
            if key & 7 != _LENGTH_DELIMITED:
                continue  # unknown, or an error that protobuf will tell of when it reads the head
            field = key >> 3
            if field == _RAW_INPUT or field == _ID:  # noqa: SIM109  the hot loop
                heads.append(data[kept:start])
                kept = position
            if field == _RAW_INPUT:
                raws.append(view[body:position])
            elif 1 <= field <= _ID:
                texts[field - 1] = data[body:position]
            elif field == _PARAMETERS:
                parameters.append(data[start:position])
        name, version, request_id = texts
        heads.append(data[kept:])
        return Envelope(
            name.decode(), version.decode(), request_id.decode(), b"".join(parameters), b"".join(heads), raws
        )
    except (IndexError, UnicodeDecodeError):
        raise _broken() from None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value = byte & 0x7F
    for index in range(1, _MAX_VARINT_BYTES):
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise _broken()


def _skip(data: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Return where the value at `position` begins and ends, without its length prefix."""
    if wire_type == _LENGTH_DELIMITED:
        length, body = _varint(data, position)
        end = body + length
    elif wire_type == _VARINT:
        body, end = position, _varint(data, position)[1]
    elif wire_type in {_FIXED64, _FIXED32}:
        body, end = position, position + (8 if wire_type == _FIXED64 else 4)
    else:  # groups, which the protocol never had
        raise _broken()
    if end > len(data):
        raise _broken()
    return body, end


def close_envelope(head: bytes, request_id: str, raws: Iterable[bytes | memoryview]) -> bytes:
    """Return a serialised ModelInferResponse: `head` is one without id and raw tensors, which are copied once."""
    parts: list[bytes | memoryview] = [head]
    if request_id:
        text = request_id.encode()
        parts += (bytes([_ID << 3 | _LENGTH_DELIMITED]) + varint(len(text)), text)
    for raw in raws:
        parts += (_RAW_OUTPUT_KEY + varint(len(raw)), raw)
    return b"".join(parts)


def varint(value: int) -> bytes:
    """Return the number as protobuf writes it."""
    if value < 0x80:
        return bytes([value])
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _broken() -> OrchError:
    return OrchError(Kind.INVALID, "the message is not a ModelInferRequest: it is cut short or malformed")
