"""One inference request as it comes in over HTTP: its JSON, then its binary tensors, each straight into its array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.dataplane import Admission
from orchestrator.serving.http_routes import JSON
from orchestrator.serving.oip import (
    HeadCache,
    InferHead,
    Layout,
    OutputHead,
    Place,
    Signature,
    Slot,
    Store,
    decode_bytes,
    decode_json,
    encode_response,
)
from orchestrator.serving.oip_json import LONG_BYTES, LONG_VALUES, encode_in_pieces, long_outputs, read_in_pieces
from orchestrator.serving.oip_tensors import count_of, raw
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.shared_tensors import PIECE_BYTES, SharedTensors
from orchestrator.serving.tensors import POOLED_MIN_BYTES, TensorPool

OCTETS = "application/octet-stream"
KNOWN_MAX = 256

Chunks = list[bytes | memoryview]


class Encoded(NamedTuple):
    """The body of an answer, its length, its content type and its extra header line."""

    chunks: Chunks
    length: int
    content_type: str
    extra: str


Order = tuple[tuple[int, Place | None], ...]
"""The outputs that an answer holds, by their number in the model, and where they go instead of its body."""


class _Known(NamedTuple):
    layout: Layout  # kept, so that no other can have its identity
    text: bytes
    length: int
    content_type: str
    extra: str
    order: Order


class Answers:
    """The JSON of the last answers without values in it: equal for equal requests as long as shapes are."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], _Known] = {}

    def find(self, layout: Layout, outputs: Sequence[Array], store: Store | None) -> Encoded | None:
        """Return the answer where its JSON is known; `store` takes the outputs that have a place."""
        known = self._known.get((id(layout), *[array.shape for array in outputs]))
        if known is None:
            return None
        chunks: Chunks = [known.text]
        for index, place in known.order:
            array = outputs[index]
            # Copied where that costs less than a view of it.
            data = array.tobytes() if array.nbytes < POOLED_MIN_BYTES else raw(array)
            if place is None:
                chunks.append(data)
            else:
                assert store is not None, "an equal request had places too"
                store(place, data)
        return Encoded(chunks, known.length, known.content_type, known.extra)

    def keep(
        self, head: InferHead, layout: Layout, signature: Signature, outputs: Sequence[Array], answer: Encoded
    ) -> None:
        """Remember the JSON of this answer if the next one to an equal request will have the same."""
        order = _fixed(head, signature)
        if order is None:
            return
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        text = bytes(answer.chunks[0])
        key = (id(layout), *[array.shape for array in outputs])
        self._known[key] = _Known(layout, text, answer.length, answer.content_type, answer.extra, order)


def _fixed(head: InferHead, signature: Signature) -> Order | None:
    """Return which outputs an answer holds, none in its JSON, all of fixed size; None where that is not so."""
    if head.id is not None or any(given.data is not None for given in head.inputs):
        return None  # a request whose head is its own
    positions = {tensor.name: index for index, tensor in enumerate(signature.outputs)}
    order = []
    for output in head.outputs or [OutputHead(tensor.name, None, 0) for tensor in signature.outputs]:
        index = positions[output.name]
        apart = output.place or (head.binary_default if output.binary is None else output.binary)
        if not apart or output.classification or signature.outputs[index].datatype == "BYTES":
            return None
        order.append((index, output.place))
    return tuple(order) or None


class InferBody:
    """Collects one request's JSON and tensors.

    Bytes are given to `take`, or written where `sink` points (the rest of a tensor) and then told to `filled`. When
    `complete`, `arrays` are the inputs. What is wrong with the JSON is in `failure`; `unread` bytes are then to come.
    JSON that is `long` is there as text only: `read` reads it in steps.
    """

    __slots__ = (
        *("_head", "_heads", "_json_left", "_layout", "_parts", "_regions", "_shared", "_targets", "_tensors"),
        *("_answers", "_encoded", "_fetched", "_long", "_text", "admission", "binary_bytes", "failure", "sink"),
        "started",
    )

    def __init__(
        self,
        admission: Admission,
        heads: HeadCache,
        tensors: TensorPool,
        regions: Regions,
        answers: Answers,
        *,
        json_bytes: int,
        binary_bytes: int,
    ) -> None:
        self.admission = admission
        self.binary_bytes = binary_bytes
        self.failure: OrchError | None = None
        self.sink: memoryview | None = None
        self.started = False
        self._heads = heads
        self._tensors = tensors
        self._regions = regions
        self._answers = answers
        self._shared: SharedTensors | None = None
        self._fetched = False
        self._json_left = json_bytes
        self._long = json_bytes >= LONG_BYTES and not binary_bytes
        self._encoded: dict[str, bytes] = {}
        self._text = bytearray()
        self._head: InferHead
        self._layout: Layout
        self._parts: list[Array | bytearray | None] = []
        self._targets: list[memoryview] = []  # after `sink`, the last one first

    @property
    def complete(self) -> bool:
        """Tell whether all bytes are there."""
        return self.started and self.sink is None

    @property
    def unread(self) -> int:
        """Return how many bytes of the body are still to come."""
        if not self.started:
            return self._json_left + self.binary_bytes
        return sum(map(len, self._targets)) + (0 if self.sink is None else len(self.sink))

    def take(self, data: memoryview) -> memoryview:
        """Take what belongs to the body and return what does not."""
        if not self.started:
            data = self._take_json(data)
        while self.sink is not None and len(data):
            count = min(len(self.sink), len(data))
            self.sink[:count] = data[:count]
            self.filled(count)
            data = data[count:]
        return data

    def _take_json(self, data: memoryview) -> memoryview:
        count = min(self._json_left, len(data))
        self._json_left -= count
        if self._json_left or self._long:
            self._text += data[:count]
            return data[count:]
        text = bytes(data[:count])
        return self._start(bytes(self._text) + text if self._text else text, data[count:])

    def filled(self, count: int) -> None:
        """Take notice of `count` bytes at the beginning of `sink`."""
        sink = self.sink
        assert sink is not None
        if count < len(sink):
            self.sink = sink[count:]
        else:
            self.sink = self._targets.pop() if self._targets else None

    @property
    def long(self) -> bool:
        """Tell whether the body is there, and is to be read in steps."""
        return self._long and not self._json_left and not self.started and self.failure is None

    def read(self) -> Iterator[None]:
        """Read a long body in steps; it is complete in the end, or its `failure` is known."""
        text, self._text = self._text, bytearray()
        try:
            request = yield from read_in_pieces(text, self.admission.served.signature, self._tensors.take)
        except OrchError as error:
            self.failure = error
            return
        self._accept(request.head, request.layout)
        if self.failure is None:
            self._parts = list(request.arrays)
            self.started = True

    @property
    def far(self) -> bool:
        """Tell whether inputs are to be fetched from shared memory in steps."""
        return self._shared is not None and not self._fetched and self._layout.shared_bytes > PIECE_BYTES

    def fetch(self) -> Iterator[None]:
        """Fetch them in steps; they are there in the end, or the `failure` is known."""
        assert self._shared is not None, "they are far"
        self._fetched = True
        try:
            yield from self._shared.fetch(self._layout)
        except OrchError as error:
            self.failure = error

    def _start(self, text: bytes, data: memoryview) -> memoryview:
        try:
            head, layout = self._heads.plan(text, self.admission.served.signature)
        except OrchError as error:
            self.failure = error
            return data
        self._accept(head, layout)
        if self.failure is not None:
            return data
        self.started = True
        if self.binary_bytes <= min(len(data), POOLED_MIN_BYTES):
            return self._cut(data)
        self._provide()
        return data

    def _cut(self, data: memoryview) -> memoryview:
        """Copy binary tensors that are all there and small out of what came with their head."""
        position = 0
        for slot in self._layout.slots:
            size = slot.head.binary_size
            if size is None:
                self._parts.append(None)
                continue
            memory = bytearray(data[position : position + size])
            self._parts.append(memory if slot.datatype == "BYTES" else np.ndarray(slot.shape, slot.dtype, memory))
            position += size
        return data[position:]

    def _accept(self, head: InferHead, layout: Layout) -> None:
        self._head, self._layout = head, layout
        try:
            if self._layout.binary_bytes != self.binary_bytes:
                says = self._layout.binary_bytes
                what = f"the body holds {self.binary_bytes} bytes of binary tensors, its inputs say {says}"
                raise OrchError(Kind.INVALID, what)
            if self._layout.shares:
                self._share()
        except OrchError as error:
            self.failure = error
            return
        if self._head.timeout_s is not None:
            self.admission.served.pool.tighten(self.admission.ticket, self._head.timeout_s)

    def _share(self) -> None:
        """Find the regions of the outputs, and room for the inputs that will be read from theirs."""
        self._shared = SharedTensors(self._head, self._regions, self._tensors)
        self.admission.served.pool.enlarge(self.admission.ticket, self._layout.shared_bytes)

    def _provide(self) -> None:
        """Take memory for the binary tensors."""
        for slot in self._layout.slots:
            size = slot.head.binary_size
            if size is None:
                self._parts.append(None)
            elif slot.datatype == "BYTES":
                self._add(memory := bytearray(size), memoryview(memory))
            else:
                array = self._tensors.take(slot.dtype, slot.shape)
                self._add(array, array.reshape(-1).view("u1").data)
        self._targets.reverse()
        self.sink = self._targets.pop() if self._targets else None

    def _add(self, part: Array | bytearray, memory: memoryview) -> None:
        self._parts.append(part)
        if len(memory):
            self._targets.append(memory)

    @property
    def id(self) -> str | None:
        """Return the request's id, once its JSON is there; cut where no id needs to be that long."""
        given = self._head.id if self.started else None
        return None if given is None else given[:128]

    @property
    def rows(self) -> int:
        """Return how many rows the request has along axis 0."""
        return self._layout.rows

    def arrays(self) -> Sequence[Array]:
        """Return the inputs in the model's order, now that all bytes are there; raise INVALID."""
        arrays: list[Array] = [None] * len(self._layout.slots)  # type: ignore[list-item]
        for slot, part in zip(self._layout.slots, self._parts, strict=True):
            if part is None:
                array = self._elsewhere(slot)
            elif isinstance(part, bytearray):
                where = f"input {slot.head.name!r}"
                array = decode_bytes(memoryview(part), count_of(slot.shape), where).reshape(slot.shape)
            else:
                array = part
            arrays[slot.index] = array
        return arrays

    def _elsewhere(self, slot: Slot) -> Array:
        if slot.head.place is None:
            return decode_json(slot)
        assert self._shared is not None, "the layout says that there are places"
        return self._shared.read(slot, slot.head.place)

    def recycle(self) -> None:
        """Give the tensors' memory back, once nothing reads it any more."""
        if self._shared is not None:
            self._shared.recycle()
        for part in self._parts:
            if part is not None and not isinstance(part, bytearray) and not part.dtype.hasobject:
                self._tensors.give(part)
        self._parts = []

    def long_outputs(self, outputs: Sequence[Array]) -> list[tuple[str, Array]]:
        """Return what of the answer is JSON that is to be written in steps."""
        for array in outputs:
            if array.size > LONG_VALUES:
                return list(long_outputs(self._head, self.admission.served.signature, outputs))
        return []

    def write(self, long: list[tuple[str, Array]]) -> Iterator[None]:
        """Write these outputs in steps; `answer` takes them from here."""
        for name, array in long:
            self._encoded[name] = yield from encode_in_pieces(array)

    def answer(self, outputs: Sequence[Array]) -> Encoded:
        """Return the answer; raise INVALID for outputs without the form that is asked for."""
        store = None if self._shared is None else self._shared.store
        return self._answers.find(self._layout, outputs, store) or self._encode(outputs, store)

    def _encode(self, outputs: Sequence[Array], store: Store | None) -> Encoded:
        head = self._head
        signature = self.admission.served.signature
        chunks, json_length = encode_response(
            signature, head.id, outputs, head.outputs, head.binary_default, store=store, encoded=self._encoded
        )
        length = sum(chunk.nbytes if isinstance(chunk, memoryview) else len(chunk) for chunk in chunks)
        answer = Encoded(chunks, length, JSON, "")
        if json_length is not None:
            answer = Encoded(chunks, length, OCTETS, f"Inference-Header-Content-Length: {json_length}\r\n")
        self._answers.keep(head, self._layout, signature, outputs, answer)
        return answer
