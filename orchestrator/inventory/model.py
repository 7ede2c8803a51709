"""What a model file is, as plain data: its inputs and outputs, and what decides whether it may be batched."""

from __future__ import annotations

from pydantic import Field

from orchestrator.inventory.device import Facts


class Dim(Facts):
    """One dimension: `low` to `high` inclusive; `high` None is without bound."""

    low: int
    high: int | None

    @property
    def static(self) -> bool:
        """Tell whether the dimension has one value."""
        return self.low == self.high

    def admits(self, size: int) -> bool:
        """Tell whether a tensor may have this size here."""
        return self.low <= size and (self.high is None or size <= self.high)

    def __str__(self) -> str:
        if self.static:
            return str(self.low)
        if self.high is None:
            return "?" if self.low == 0 else f"{self.low}.."
        return f"{self.low}..{self.high}"


class TensorInfo(Facts):
    """One input or output. `datatype` is the protocol's name (FP32, BF16, BYTES); `shape` None means dynamic rank."""

    name: str
    datatype: str
    shape: tuple[Dim, ...] | None

    @property
    def static(self) -> bool:
        """Tell whether every dimension has one value."""
        return self.shape is not None and all(dim.static for dim in self.shape)

    @property
    def wire_shape(self) -> list[int]:
        """Return the shape as the protocol writes it, -1 for what may vary."""
        return [-1] if self.shape is None else [dim.low if dim.static else -1 for dim in self.shape]


class ModelInfo(Facts):
    """What the planner must know of a model file, and nothing that needs the file again."""

    path: str
    sha256: str
    """Digest of the file (of the .xml for IR)."""
    weights_sha256: str | None = None
    """Digest of the .bin of IR; None where the weights lie in the file itself."""
    weights_bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    stateful: bool = False
    """It keeps state between inferences (ReadValue / Assign)."""
    int8: bool = False
    """It holds FakeQuantize operations."""
    batchable: bool = False
    """Axis 0 of every input and output carries the batch: 1 or dynamic now, and a reshape to N keeps it at N."""
    unbatchable_reason: str | None = None
    """Why not, for people."""
    optimal_batch: dict[str, int] = Field(default_factory=dict)
    """OPTIMAL_BATCH_SIZE by device, where the device has it (GPU)."""
    max_batch: dict[str, int] = Field(default_factory=dict)
    """MAX_BATCH_SIZE by device, where the device has it (GPU)."""

    @property
    def dynamic(self) -> bool:
        """Tell whether any input dimension other than a leading batch may vary."""
        return any(
            tensor.shape is None or any(not dim.static for dim in tensor.shape[1 if self.batchable else 0 :])
            for tensor in self.inputs
        )
