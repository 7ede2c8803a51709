"""What a model file and the engine's reading of it say: digest, weights, tensors, and whether axis 0 is a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.backend.engine_text import engine_errors, written
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.model import Dim, TensorInfo

RESTORE_HINT = "restore the file, or apply the manifest again: that plans with the one that is there"
DATATYPES = {
    "boolean": "BOOL",
    **{f"u{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"i{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    "f16": "FP16",
    "bf16": "BF16",
    "f32": "FP32",
    "f64": "FP64",
    "string": "BYTES",
}


def tensors(ports: Sequence[Any], role: str, path: str) -> tuple[TensorInfo, ...]:
    return tuple(_tensor_info(port, f"{role}_{index}", path) for index, port in enumerate(ports))


def _tensor_info(port: Any, unnamed: str, path: str) -> TensorInfo:
    name = port.get_any_name() if port.get_names() else unnamed
    kind = port.get_element_type().get_type_name()
    if kind not in DATATYPES:
        what = f"tensor {name!r} is {kind}, which the Open Inference Protocol does not have"
        raise OrchError(Kind.UNSUPPORTED, what, where=path, hint="convert it when exporting the model")
    shape = port.get_partial_shape()
    dims = None if shape.rank.is_dynamic else tuple(_dim(dim) for dim in shape)
    return TensorInfo(name=name, datatype=DATATYPES[kind], shape=dims)


def _dim(dim: Any) -> Dim:
    high = dim.get_max_length()
    return Dim(low=dim.get_min_length(), high=None if high == -1 else high)


def reshape(model: Any, shapes: Mapping[str, Sequence[int | str]], batch: int, path: str) -> None:
    """Give the inputs their shapes, then the batch; raise OrchError(INVALID) for what the model does not take."""
    names = [info.name for info in tensors(model.inputs, "input", path)]
    unknown = sorted(set(shapes) - set(names))
    if unknown:
        what = f"has no input {', '.join(map(repr, unknown))}"
        raise OrchError(Kind.INVALID, what, where=path, hint=f"its inputs are {', '.join(names)}")
    if shapes:
        asked = written({name: _shape_text(dims) for name, dims in shapes.items()})
        with engine_errors(f"the shapes {asked}", path, f"asked for {asked}", Kind.INVALID):
            model.reshape({names.index(name): _shape_text(dims) for name, dims in shapes.items()})
    if batch > 1:
        reason = unbatchable(model)
        if reason is not None:
            raise OrchError(Kind.INVALID, f"cannot be batched: {reason}", where=path, hint="use batch 1")
        with engine_errors(f"batch {batch}", path):
            model.reshape(_batched(model, batch))


def _shape_text(dims: Sequence[int | str]) -> str:
    return "[" + ",".join("?" if dim in {-1, "?"} else str(dim) for dim in dims) + "]"


def _batched(model: Any, batch: int) -> dict[int, Any]:
    shapes = {}
    for index, port in enumerate(model.inputs):
        shape = port.get_partial_shape()
        shape[0] = batch
        shapes[index] = shape
    return shapes


def unbatchable(model: Any) -> str | None:
    """Return why axis 0 is not a batch that may be set, None when it is: found by trying with 2."""
    for role, ports in (("input", model.inputs), ("output", model.outputs)):
        for info in tensors(ports, role, ""):
            if not info.shape:
                return f"{role} {info.name!r} has no axis 0"
            if info.shape[0].static and info.shape[0].low != 1:
                return f"axis 0 of {role} {info.name!r} is fixed at {info.shape[0]}"
    copy = model.clone()
    try:
        with engine_errors("batch 2"):
            copy.reshape(_batched(copy, 2))
    except OrchError as error:
        return f"OpenVINO cannot reshape it to batch 2: {error}"
    for info in tensors(copy.outputs, "output", ""):
        if not info.shape or str(info.shape[0]) != "2":
            return f"axis 0 of output {info.name!r} does not follow the batch"
    return None


def check_file(path: Path) -> None:
    """Say what is wrong with a file where the engine's own words would mislead."""
    if not path.exists():
        raise OrchError(Kind.NOT_FOUND, "no such file", where=str(path), hint="check the path of the model")
    if path.is_file() and path.stat().st_size == 0:
        raise OrchError(Kind.FAILED, "the file is empty", where=str(path), hint="copy or export the model again")
    if path.suffix == ".xml" and not path.with_suffix(".bin").exists() and b"<net" in _beginning(path):
        hint = f"put {path.with_suffix('.bin').name} beside it"
        raise OrchError(Kind.FAILED, "its weights file (.bin) is missing", where=str(path), hint=hint)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for part in sorted(part for part in path.rglob("*") if part.is_file()):
        whole.update(f"{part.relative_to(path)}\0{digest(part)}\n".encode())
    return whole.hexdigest()


def other_content(path: Path, sha256: str | None, weights_sha256: str | None) -> Problem | None:
    """Return what is wrong where a model file is gone or not the one of these digests; None is not looked at."""
    for part, wanted in ((path, sha256), (path.with_suffix(".bin"), weights_sha256)):
        if not wanted:
            continue
        if not part.exists():
            return Problem("the file that was planned is gone", str(part), RESTORE_HINT)
        found = digest(part)
        if found != wanted:
            what = f"is not the file that was planned: its SHA-256 is {found[:12]}, planned was {wanted[:12]}"
            return Problem(what, str(part), RESTORE_HINT)
    return None


def weights_digest(path: Path) -> str | None:
    """Return the SHA-256 of the .bin beside an .xml, None where there is none."""
    binary = path.with_suffix(".bin")
    return digest(binary) if path.suffix == ".xml" and binary.is_file() else None


def weights(path: Path, model: Any) -> int:
    """Return the bytes of weights: the .bin of IR, the constants of every other format."""
    binary = path.with_suffix(".bin")
    if path.suffix == ".xml" and binary.exists():
        return binary.stat().st_size
    return sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant")
