"""The tensors of one request that lie in system shared memory: inputs copied in, outputs copied out, once each."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.backend.base import Array
from orchestrator.serving.oip import InferHead, Layout, Place, Slot, decode_bytes
from orchestrator.serving.oip_tensors import count_of, raw
from orchestrator.serving.shared_memory import Region
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.tensors import TensorPool

PIECE_BYTES = 4 * 2**20
"""Copied at once, in a quarter of a millisecond; of requests with more in pieces, between which others are served."""


class SharedTensors:
    """Holds the regions of a request's outputs until it is answered, whatever is unregistered meanwhile."""

    __slots__ = ("_borrowed", "_fetched", "_outputs", "_regions", "_tensors")

    def __init__(self, head: InferHead, regions: Regions, tensors: TensorPool) -> None:
        """Find the outputs' regions, so that a wrong one costs no inference; raise INVALID, UNSUPPORTED."""
        self._regions = regions
        self._tensors = tensors
        self._borrowed: list[Array] = []
        self._fetched: dict[int, Array] = {}
        self._outputs: dict[Place, Region] = {
            output.place: regions.find(output.place, f"output {output.name!r}", writing=True)
            for output in head.outputs or ()
            if output.place is not None
        }

    def read(self, slot: Slot, place: Place) -> Array:
        """Return the input as it is now, or was fetched; raise INVALID, CONFLICT, FAILED, UNSUPPORTED."""
        if slot.index in self._fetched:
            return self._fetched[slot.index]
        where = f"input {slot.head.name!r}"
        region = self._regions.find(place, where)
        if slot.datatype == "BYTES":
            memory = bytearray(place.byte_size)
            region.read(place.offset, memoryview(memory))
            return decode_bytes(memory, count_of(slot.shape), where).reshape(slot.shape)
        array = self._borrow(slot)
        region.read(place.offset, raw(array))
        return array

    def fetch(self, layout: Layout) -> Iterator[None]:
        """Read the inputs of fixed size in pieces, for `read` to return; raise as it does."""
        for slot in layout.slots:
            place = slot.head.place
            if place is None or slot.datatype == "BYTES":
                continue
            region = self._regions.find(place, f"input {slot.head.name!r}")
            array = self._borrow(slot)
            memory = raw(array)
            for start in range(0, len(memory), PIECE_BYTES):
                region.read(place.offset + start, memory[start : start + PIECE_BYTES])
                yield
            self._fetched[slot.index] = array

    def _borrow(self, slot: Slot) -> Array:
        array = self._tensors.take(slot.dtype, slot.shape)
        self._borrowed.append(array)
        return array

    def store(self, place: Place, data: bytes | memoryview) -> None:
        """Write an output; raise CONFLICT, FAILED."""
        self._outputs[place].write(place.offset, data)

    def recycle(self) -> None:
        """Give the inputs' memory back, once nothing reads it any more."""
        for array in self._borrowed:
            self._tensors.give(array)
        self._borrowed, self._fetched = [], {}
