"""An agent and its worker in a folder of their own, asked by the command line, as users do; all of it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "deployments" / "models"
COMMAND_TIMEOUT_S = 120.0
WAIT_S = 60.0
STEP_S = 0.02
MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: demo}}
spec:
  endpoint: {{http: "127.0.0.1:0", grpc: "127.0.0.1:{grpc}"}}
  planning: {{mode: hint}}
  models:
    - name: digits
      source: digits.onnx
      device: CPU
      compile: {{streams: {streams}, threads: 2, requests: 2}}
"""


class Home:
    """A context manager: a state folder, a manifest of the digits model, and the commands."""

    def __init__(self) -> None:
        self._made = tempfile.TemporaryDirectory()
        self.folder = Path(self._made.name)
        with socket.socket() as probe:  # one port for all workers: clients come back to it
            probe.bind(("127.0.0.1", 0))
            self._grpc_port = int(probe.getsockname()[1])

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever ends the run ends what it started
        shutil.copy(MODELS / "digits.onnx", self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._made.cleanup()

    def orch(self, *arguments: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a command and return what it prints; raise RuntimeError unless it exits 0."""
        environ = os.environ | {"ORCH_HOME": str(self.folder / "home"), "CI": "true"}
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environ | {"PYTHONPATH": str(ROOT)},
            cwd=self.folder,
        )
        if check and done.returncode:
            raise RuntimeError(f"orch {' '.join(arguments)} exited {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, streams: int = 1) -> None:
        """Serve the digits model with so many streams."""
        (self.folder / "demo.yaml").write_text(MANIFEST.format(streams=streams, grpc=self._grpc_port))
        self.orch("apply", "demo.yaml")

    def status(self) -> dict[str, Any]:
        """Return the deployment's item of `orch status`."""
        item: dict[str, Any] = json.loads(self.orch("status", "-o", "json"))["items"][0]
        return item

    def serving(self, *, after: int = 0) -> dict[str, Any]:
        """Return the status once a worker serves, another than the pid `after`; raise TimeoutError after a minute."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            status = self.status()
            models = status["models"]
            if models and all(model["state"] == "Serving" for model in models) and status["worker"]["pid"] != after:
                return status
            time.sleep(STEP_S)
        raise TimeoutError(f"not serving within {WAIT_S:g} s: {status}")

    def agent_pid(self) -> int:
        """Return the agent's process id."""
        return int(json.loads(self.orch("agent", "status", "-o", "json"))["pid"])

    def worker_log(self) -> str:
        """Return what all workers logged."""
        return "".join(path.read_text(errors="replace") for path in (self.folder / "home").rglob("worker.log*"))

    def processes(self) -> list[psutil.Process]:
        """Return agent and workers, agents first: they would start new workers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ORCH_HOME") == str(self.folder / "home"):
                    found.append(process)
        return sorted(found, key=lambda process: "orchestrator.serving" in process.cmdline())

    def end(self) -> None:
        """End every process of this home."""
        deadline = time.monotonic() + WAIT_S
        while (processes := self.processes()) and time.monotonic() < deadline:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.kill()
                    process.wait(1.0)
