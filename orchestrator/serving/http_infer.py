"""One inference request as it comes in over HTTP: its JSON, then its binary tensors, each straight into its array."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.backend.base import Array
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.dataplane import Admission
from orchestrator.serving.oip import HeadCache, InferHead, Layout, decode_bytes, decode_json, encode_response
from orchestrator.serving.tensors import TensorPool

OCTETS = "application/octet-stream"
JSON = "application/json"


class InferBody:
    """Collects one request's tensors. `start` takes the JSON; then `targets` are filled in order; then `arrays`."""

    __slots__ = ("_heads", "_layout", "_parts", "_tensors", "admission", "head", "targets")

    def __init__(self, admission: Admission, heads: HeadCache, tensors: TensorPool) -> None:
        self.admission = admission
        self._heads = heads
        self._tensors = tensors
        self._layout: Layout
        self._parts: list[Array | bytearray | None] = []
        self.head: InferHead
        self.targets: list[memoryview] = []

    def start(self, text: bytes, binary_bytes: int) -> None:
        """Take the JSON and provide memory for the `binary_bytes` that follow; raise INVALID."""
        self.head, self._layout = self._heads.plan(text, self.admission.served.signature)
        if self._layout.binary_bytes != binary_bytes:
            what = f"the body holds {binary_bytes} bytes of binary tensors, its inputs say {self._layout.binary_bytes}"
            raise OrchError(Kind.INVALID, what)
        if self.head.timeout_s is not None:
            self.admission.served.pool.tighten(self.admission.ticket, self.head.timeout_s)
        for slot in self._layout.slots:
            size = slot.head.binary_size
            if size is None:
                self._parts.append(None)
            elif slot.datatype == "BYTES":
                self._add(memory := bytearray(size), memoryview(memory))
            else:
                array = self._tensors.take(slot.dtype, slot.shape)
                self._add(array, array.reshape(-1).view("u1").data)

    def _add(self, part: Array | bytearray, memory: memoryview) -> None:
        self._parts.append(part)
        if len(memory):
            self.targets.append(memory)

    @property
    def rows(self) -> int:
        """Return how many rows the request has along axis 0."""
        return self._layout.rows

    def arrays(self) -> Sequence[Array]:
        """Return the inputs in the model's order, now that all bytes are there; raise INVALID."""
        arrays: list[Array] = [None] * len(self._layout.slots)  # type: ignore[list-item]
        for position, (slot, part) in enumerate(zip(self._layout.slots, self._parts, strict=True)):
            if part is None:
                array = decode_json(slot)
            elif isinstance(part, bytearray):
                array = self._bytes(position, part)
            else:
                array = part
            arrays[slot.index] = array
        return arrays

    def _bytes(self, position: int, part: bytearray) -> Array:
        slot = self._layout.slots[position]
        return decode_bytes(memoryview(part), slot.nbytes or _count(slot.shape)).reshape(slot.shape)

    def recycle(self) -> None:
        """Give the tensors' memory back, once nothing reads it any more."""
        for part in self._parts:
            if part is not None and not isinstance(part, bytearray):
                self._tensors.give(part)
        self._parts = []

    def answer(self, outputs: Sequence[Array]) -> tuple[list[bytes | memoryview], int, str, str]:
        """Return the answer's chunks, their length, its content type and its extra header line."""
        head = self.head
        signature = self.admission.served.signature
        chunks, json_length = encode_response(signature, head.id, outputs, head.outputs, head.binary_default)
        length = sum(chunk.nbytes if isinstance(chunk, memoryview) else len(chunk) for chunk in chunks)
        if json_length is None:
            return chunks, length, JSON, ""
        return chunks, length, OCTETS, f"Inference-Header-Content-Length: {json_length}\r\n"


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
