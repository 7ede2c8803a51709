"""Who is compared: how each server is started, what it is sent, and the limit that was found for it by hand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.peers.install import python_of
from benchmarks.peers.subject import Subject

SERVERS: Final = Path(__file__).parent / "servers"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is started."""

    subject: Subject
    peers: Path
    """The folder of the peers' environments."""
    folder: Path
    """For its files and its log."""
    http: int
    grpc: int
    """Ports on loopback."""
    manifest: Path | None = None
    """Of orch."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What is executed."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A server as it is compared."""

    name: str
    form: str
    """Which of the subject's requests it is sent."""
    ready_form: str
    """The same over HTTP, to see that it answers."""
    launch: Callable[[Place, Mapping[str, str]], Launch]
    environment: str | None = None
    """Its environment among the peers'; None: this one."""
    by_hand: Mapping[str, str] = field(default_factory=dict)
    """The limits that were found by hand; empty: as installed."""

    @property
    def key(self) -> str:
        """Return the name with how it is set."""
        return f"{self.name}, by hand" if self.by_hand else self.name

    def there(self, peers: Path) -> bool:
        """Tell whether it is installed."""
        return self.environment is None or python_of(peers, self.environment).exists()


def _orch(place: Place, _limits: Mapping[str, str]) -> Launch:
    assert place.manifest is not None, "orch is started from a manifest"
    state = place.folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "orchestrator.cli", "run", "--state", str(state), str(place.manifest)]
    return Launch(
        command, {"ORCH_HOME": str(place.manifest.parents[1] / "home"), "PYTHONPATH": str(SERVERS.parents[2])}
    )


def _fastapi(place: Place, limits: Mapping[str, str]) -> Launch:
    python = str(python_of(place.peers, "web"))
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    where = ["--app-dir", str(SERVERS), "--host", "127.0.0.1", "--port", str(place.http)]
    return Launch([python, "-m", "uvicorn", *where, *options, "fastapi_app:app"], _environment(place, limits))


def _granian(place: Place, limits: Mapping[str, str]) -> Launch:
    program = str(python_of(place.peers, "web").with_name("granian"))
    options = ["--interface", "rsgi", "--workers", "1", "--loop", "uvloop", "--no-ws", "--log-level", "warning"]
    where = ["--working-dir", str(SERVERS), "--host", "127.0.0.1", "--port", str(place.http)]
    return Launch([program, *where, *options, "granian_app:app"], _environment(place, limits), SERVERS)


def _mlserver(place: Place, limits: Mapping[str, str]) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.http,
        "grpc_port": place.grpc,
        "metrics_endpoint": None,
        "debug": False,
    }
    if limits:
        settings["parallel_workers"] = 0  # in one process, so that one counter sees all requests
    (place.folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "model", "implementation": "mlserver_runtime.OpenVino"}
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    program = str(python_of(place.peers, "mlserver").with_name("mlserver"))
    return Launch([program, "start", str(place.folder)], _environment(place, limits), place.folder)


def _pytriton(place: Place, limits: Mapping[str, str]) -> Launch:
    python = str(python_of(place.peers, "pytriton"))
    script = str(SERVERS / "pytriton_server.py")
    command = [python, script, str(place.http), str(place.grpc), str(place.folder)]
    return Launch(command, _environment(place, limits) | _activated(python))


def _environment(place: Place, limits: Mapping[str, str]) -> dict[str, str]:
    return {"BENCH_MODEL": str(place.subject.path), "PYTHONPATH": str(SERVERS), **limits}


def _activated(python: str) -> dict[str, str]:
    """Return what activating an environment sets, for the Python inside Triton; and where its library is."""
    folder, library = Path(python).parent, Path(python).resolve().parents[1] / "lib"
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "LD_LIBRARY_PATH": str(library)}
    return {"VIRTUAL_ENV": str(folder.parent), **path}


ORCH: Final = Contender("orch", "oip", "oip", _orch)
ORCH_GRPC: Final = Contender("orch, gRPC", "grpc", "oip", _orch)
AS_INSTALLED: Final = (
    Contender("FastAPI", "raw", "raw", _fastapi, "web"),
    Contender("granian", "raw", "raw", _granian, "web"),
    Contender("PyTriton", "oip data", "oip data", _pytriton, "pytriton"),
    Contender("MLServer", "oip json", "oip json", _mlserver, "mlserver"),
)
PEERS_GRPC: Final = (
    Contender("PyTriton, gRPC", "grpc data", "oip data", _pytriton, "pytriton"),
    Contender("MLServer, gRPC", "grpc", "oip json", _mlserver, "mlserver"),
)
