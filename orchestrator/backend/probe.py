"""Ask OpenVINO in a child process: what the machine has and what model files are.

Importing OpenVINO is slow and starts threads, and a broken driver may take the process down: the child bears both.
The request goes in as JSON on standard input, the answer comes out as JSON on standard output.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo

INVENTORY_TIMEOUT_S = 60.0  # a GPU driver compiles its kernels at first use
MODELS_TIMEOUT_S = 120.0  # a GPU asked for its batch sizes builds the model
MODELS_MAX = 256  # as many as a manifest may name
LOG_LINES = 5  # of the child's standard error, shown when it dies
HINT = "try: orch devices; a driver that crashes is reported there too"


class ModelQuery(BaseModel):
    """One model file to be inspected: with these input shapes, asking these devices for their batch sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    shapes: dict[str, list[int | str]] = Field(default_factory=dict)
    devices: tuple[str, ...] = ()


class _Request(BaseModel):
    models: tuple[ModelQuery, ...] = ()


class _Failure(BaseModel):
    """An OrchError on its way between processes."""

    kind: Kind
    problems: tuple[tuple[str, str | None, str | None], ...]

    @classmethod
    def of(cls, error: OrchError) -> _Failure:
        return cls(kind=error.kind, problems=tuple((it.what, it.where, it.hint) for it in error.problems))

    def error(self) -> OrchError:
        return OrchError(self.kind, [Problem(*parts) for parts in self.problems])


class _Answer(BaseModel):
    inventory: Inventory | _Failure
    models: tuple[ModelInfo | _Failure, ...] = ()


def probe_inventory(timeout_s: float = INVENTORY_TIMEOUT_S) -> Inventory:
    """Return what this machine has; raise OrchError(FAILED) when the child dies or takes too long."""
    return probe((), timeout_s=timeout_s)[0]


def probe_model(
    path: str,
    shapes: Mapping[str, Sequence[int | str]],
    devices: Sequence[str],
    timeout_s: float = MODELS_TIMEOUT_S,
    cache: Path | None = None,
) -> ModelInfo:
    """Return what a model file is; raise the OrchError that the backend raises for it."""
    query = ModelQuery(path=path, shapes={name: list(dims) for name, dims in shapes.items()}, devices=tuple(devices))
    kept = _cached(cache, query)
    if kept is not None:
        return kept
    answer = probe([query], timeout_s=timeout_s, cache=cache)[1][0]
    if isinstance(answer, OrchError):
        raise answer
    return answer


def probe(
    models: Sequence[ModelQuery], timeout_s: float = MODELS_TIMEOUT_S, cache: Path | None = None
) -> tuple[Inventory, tuple[ModelInfo | OrchError, ...]]:
    """Return the inventory and, in order, what each model is or why it cannot be read, from one child process.

    Models found in the folder `cache` unchanged are not read again. Raise OrchError(FAILED, DEADLINE) when the child
    dies (naming the signal) or takes longer than `timeout_s`.
    """
    if len(models) > MODELS_MAX:
        raise OrchError(Kind.TOO_LARGE, f"at most {MODELS_MAX} models at once, got {len(models)}")
    known = {place: kept for place, query in enumerate(models) if (kept := _cached(cache, query)) is not None}
    asked = [place for place in range(len(models)) if place not in known]
    answer = _ask(_Request(models=tuple(models[place] for place in asked)), timeout_s)
    if isinstance(answer.inventory, _Failure):
        raise answer.inventory.error()
    found: dict[int, ModelInfo | OrchError] = dict(known)
    for place, result in zip(asked, answer.models, strict=True):
        found[place] = result.error() if isinstance(result, _Failure) else result
        if isinstance(result, ModelInfo):
            _keep(cache, models[place], result)
    return answer.inventory, tuple(found[place] for place in range(len(models)))


def _ask(request: _Request, timeout_s: float) -> _Answer:
    command = [sys.executable, "-m", "orchestrator.backend.probe"]
    # The child finds this very package, also where it is not installed; CI keeps the telemetry away (trap 31).
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "CI": "true", "PYTHONPATH": os.pathsep.join(paths)}
    try:
        child = subprocess.run(
            command,
            input=request.model_dump_json().encode(),
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"OpenVINO did not answer within {timeout_s:g} s and was stopped"
        raise OrchError(Kind.DEADLINE, what, hint=HINT) from None
    if child.returncode != 0:
        raise OrchError(Kind.FAILED, f"OpenVINO's process {_end(child.returncode)}{_last(child.stderr)}", hint=HINT)
    try:
        return _Answer.model_validate_json(child.stdout)
    except ValidationError:
        raise OrchError(Kind.FAILED, f"OpenVINO's process gave no answer{_last(child.stderr)}", hint=HINT) from None


def _end(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was ended by the signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by the signal {-returncode}"


def _last(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return ": " + " | ".join(lines[-LOG_LINES:]) if lines else ""


def _cache_file(cache: Path, query: ModelQuery) -> Path | None:
    """Return where the answer to this query is kept, None for what has no one size and time (folders, absent files)."""
    parts = [Path(query.path)] + [weights for weights in [Path(query.path).with_suffix(".bin")] if weights.is_file()]
    if not parts[0].is_file():
        return None
    states = [(part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    key = [str(parts[0].resolve()), states, sorted(query.shapes.items()), query.devices, metadata.version("openvino")]
    return cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"


def _cached(cache: Path | None, query: ModelQuery) -> ModelInfo | None:
    if cache is None:
        return None
    try:
        file = _cache_file(cache, query)
        info = None if file is None else ModelInfo.model_validate_json(file.read_bytes())
    except (OSError, ValueError):  # nothing there, or not what this version writes
        return None
    return None if info is None else info.model_copy(update={"path": query.path})


def _keep(cache: Path | None, query: ModelQuery, info: ModelInfo) -> None:
    """Write by staging name and rename; a cache that cannot be written is none."""
    if cache is None:
        return
    with contextlib.suppress(OSError):
        file = _cache_file(cache, query)
        if file is not None:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=cache, suffix=".tmp", delete=False) as staging:
                staging.write(info.model_dump_json())
            Path(staging.name).replace(file)


def _answer(request: _Request) -> _Answer:
    """Ask OpenVINO, in this process."""
    from orchestrator.backend.openvino_backend import OpenVinoBackend  # heavy, and only the child needs it

    try:
        backend = OpenVinoBackend()
        inventory: Inventory | _Failure = backend.inventory()
    except OrchError as error:
        return _Answer(inventory=_Failure.of(error), models=())
    models: list[ModelInfo | _Failure] = []
    for query in request.models:
        try:
            models.append(backend.inspect(query.path, query.shapes, query.devices))
        except OrchError as error:
            models.append(_Failure.of(error))
    return _Answer(inventory=inventory, models=tuple(models))


def main() -> int:
    """Answer the request on standard input; whatever libraries print goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)  # drivers print to standard output as they please
    text: Any = sys.stdin.buffer.read()
    answer = _answer(_Request.model_validate_json(text))
    with os.fdopen(channel, "wb") as output:
        output.write(answer.model_dump_json().encode())
        output.flush()
    # Some drivers crash while they are taken down; the answer is out.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
