"""The tensors of one request that lie in system shared memory: inputs copied in, outputs copied out, once each."""

from __future__ import annotations

from orchestrator.backend.base import Array
from orchestrator.serving.oip import InferHead, Place, Slot, decode_bytes
from orchestrator.serving.oip_tensors import count_of, raw
from orchestrator.serving.shared_memory import Region
from orchestrator.serving.shared_regions import Regions
from orchestrator.serving.tensors import TensorPool


class SharedTensors:
    """Holds the regions of a request's outputs until it is answered, whatever is unregistered meanwhile."""

    __slots__ = ("_borrowed", "_outputs", "_regions", "_tensors")

    def __init__(self, head: InferHead, regions: Regions, tensors: TensorPool) -> None:
        """Find the outputs' regions, so that a wrong one costs no inference; raise INVALID, UNSUPPORTED."""
        self._regions = regions
        self._tensors = tensors
        self._borrowed: list[Array] = []
        self._outputs: dict[Place, Region] = {
            output.place: regions.find(output.place, f"output {output.name!r}", writing=True)
            for output in head.outputs or ()
            if output.place is not None
        }

    def read(self, slot: Slot, place: Place) -> Array:
        """Return the input as it is now; raise INVALID, CONFLICT, FAILED, UNSUPPORTED."""
        where = f"input {slot.head.name!r}"
        region = self._regions.find(place, where)
        if slot.datatype == "BYTES":
            memory = bytearray(place.byte_size)
            region.read(place.offset, memoryview(memory))
            return decode_bytes(memory, count_of(slot.shape), where).reshape(slot.shape)
        array = self._tensors.take(slot.dtype, slot.shape)
        region.read(place.offset, raw(array))
        self._borrowed.append(array)
        return array

    def store(self, place: Place, data: bytes | memoryview) -> None:
        """Write an output; raise CONFLICT, FAILED."""
        self._outputs[place].write(place.offset, data)

    def recycle(self) -> None:
        """Give the inputs' memory back, once nothing reads it any more."""
        for array in self._borrowed:
            self._tensors.give(array)
        self._borrowed = []
