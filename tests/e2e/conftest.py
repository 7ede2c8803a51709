"""A home of its own for each end-to-end test: real agent, real workers, real clients; everything started is ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
ORCH = Path(sys.executable).with_name("orch")
WAIT_S = 60.0

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  endpoint: {{http: "127.0.0.1:0", grpc: "127.0.0.1:0"}}
  planning: {planning}
  models:
    - name: digits
      source: {source}
{extra}
"""


@dataclass
class Home:
    """One machine's worth of orch: a state folder, a folder of manifests, and the commands."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)

    def orch(self, *arguments: str, check: bool = True, timeout_s: float = 110) -> subprocess.CompletedProcess[str]:
        """Run `orch` and return its output; fail with it unless it exits 0 (or `check` is False)."""
        environ = os.environ | {"ORCH_HOME": str(self.folder / "home"), "CI": "true", "COLUMNS": "120"} | self.environ
        command = [str(ORCH), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=environ, cwd=self.folder
        )
        if check and done.returncode:
            pytest.fail(f"orch {' '.join(arguments)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def manifest(
        self, name: str = "demo", extra: str = "", source: str | None = None, planning: str = "{mode: hint}"
    ) -> str:
        """Write a manifest of one digits model; `extra` are further lines of the model."""
        lines = "".join(f"      {line}\n" for line in extra.splitlines())
        path = self.folder / f"{name}.yaml"
        path.write_text(MANIFEST.format(name=name, source=source or "digits.onnx", extra=lines, planning=planning))
        return path.name

    def status(self, name: str = "demo") -> dict[str, Any]:
        """Return the deployment's item of `orch status -o json`."""
        items = json.loads(self.orch("status", "-o", "json").stdout)["items"]
        return next(item for item in items if item["metadata"]["name"] == name)

    def eventually(self, holds: Callable[[dict[str, Any]], object], name: str = "demo") -> dict[str, Any]:
        """Return the first status of which `holds` is true; fail after a minute."""
        deadline = time.monotonic() + WAIT_S
        while not holds(status := self.status(name)):
            if time.monotonic() > deadline:
                pytest.fail(f"never came true; the last status: {json.dumps(status, indent=1)}")
        return status

    def agent_pid(self) -> int:
        """Return the agent's process id."""
        return int(json.loads(self.orch("agent", "status", "-o", "json").stdout)["pid"])

    def processes(self) -> list[psutil.Process]:
        """Return the agent and workers of this home that run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("ORCH_HOME") == str(self.folder / "home"):
                    found.append(process)
        return found

    def end(self) -> None:
        """End every process of this home, agents first: they would start new workers."""
        while processes := self.processes():
            for process in sorted(processes, key=is_worker):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
                    # Not wait(): what init has not reaped yet has ended all the same.
                    while process.status() != psutil.STATUS_ZOMBIE:
                        time.sleep(0.005)


def is_worker(process: psutil.Process) -> bool:
    """Tell whether the process serves; agents and commands do not."""
    return "orchestrator.serving" in process.cmdline()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A fresh home with the digits model in its folder."""
    shutil.copy(ROOT / "deployments/models/digits.onnx", tmp_path)
    shutil.copy(ROOT / "deployments/models/digits-sample.json", tmp_path)
    made = Home(tmp_path)
    try:
        yield made
    finally:
        made.end()


class Caller:
    """Sends one request after another from a thread of its own and counts what comes back."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.good = 0
        self.errors: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._call()
                self.good += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                self.errors.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def past(self, count: int) -> None:
        """Wait until `count` more requests were answered."""
        goal, deadline = self.good + count, time.monotonic() + WAIT_S
        while self.good < goal and not self.errors:
            assert time.monotonic() < deadline, "no answers"
            self._stop.wait(0.005)
