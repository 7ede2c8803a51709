"""The model repository and model configuration extensions, for models that only manifests load and unload."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.model import TensorInfo
from orchestrator.serving.oip import Signature

READY = "READY"

# The protocol's datatypes are Triton's without the prefix, but for one.
_STRINGS = "TYPE_STRING"


def only_ready(index: Iterable[dict[str, str]], *, ready: bool) -> list[dict[str, str]]:
    """Return the entries of a repository index, those that are ready where only they are asked for."""
    return [entry for entry in index if not ready or entry["state"] == READY]


def refuse_change(name: str, action: str) -> NoReturn:
    """Raise UNSUPPORTED: what a client loaded or unloaded would be undone by the next apply, and no plan would hold."""
    hint = "change the manifest and run `orch apply FILE`; `orch delete NAME` takes a whole deployment away"
    which = f"model {name[:128]!r}" if name else "models"
    raise OrchError(Kind.UNSUPPORTED, f"clients cannot {action} {which}: manifests say what is served", hint=hint)


def model_config(signature: Signature, requests: int) -> dict[str, Any]:
    """Return a minimal Triton model configuration; the same keys make JSON and protobuf.

    `max_batch_size` is the rows that are gathered along axis 0, which `dims` then leave out; 0 where they are not.
    """
    batch = signature.max_rows if signature.max_rows > 1 else 0
    config: dict[str, Any] = {
        "name": signature.name,
        "platform": "openvino",
        "backend": "openvino",
        "max_batch_size": batch,
        "input": [_tensor(tensor, batch) for tensor in signature.inputs],
        "output": [_tensor(tensor, batch) for tensor in signature.outputs],
        # KIND_MODEL: which device it is decides the plan, not the group.
        "instance_group": [{"name": signature.name, "kind": "KIND_MODEL", "count": requests}],
    }
    # Its presence says that requests are gathered; how is the plan's affair.
    return config | ({"dynamic_batching": {}} if batch else {})


def _tensor(tensor: TensorInfo, batch: int) -> dict[str, Any]:
    dims = list(tensor.wire_shape)
    data_type = _STRINGS if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return {"name": tensor.name, "data_type": data_type, "dims": dims[1:] if batch else dims}
