"""An agent process of one test, its manifests, and waiting for what it does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orchestrator.agent import process
from orchestrator.agent.client import worker_environ
from orchestrator.agent.paths import Layout
from orchestrator.errors import OrchError
from orchestrator.serving import admin

WAIT_S = 20.0
T = TypeVar("T")
HERE = Path(__file__).parent


def eventually(look: Callable[[], T], what: str) -> T:
    """Return what `look` returns as soon as that is true; fail after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail(f"within {WAIT_S:g} s not: {what}")


class Agent:
    """A real agent process on a state folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder / "state")
        self.folder = folder
        self.child: subprocess.Popen[bytes] | None = None
        self.children: list[subprocess.Popen[bytes]] = []
        (folder / "model.onnx").write_bytes(b"model")

    def start(self, **more: str) -> None:
        self.layout.root.mkdir(exist_ok=True, mode=0o700)
        environ = worker_environ({**os.environ, "ORCH_HOME": str(self.layout.root)}) | more
        with self.layout.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, str(HERE / "stand_in_agent.py")], env=environ, stdout=log, stderr=log
            )
        self.children.append(self.child)
        eventually(self.answers, f"the agent answers; its log: {process.tail(self.layout.log, 40)}")

    def answers(self) -> bool:
        try:
            admin.call(self.layout.socket, "version", timeout_s=WAIT_S)
        except OrchError:
            return False
        return True

    def end(self, number: signal.Signals) -> int:
        assert self.child is not None
        self.child.send_signal(number)
        return self.child.wait(WAIT_S)

    def workers(self) -> list[int]:
        return [one.pid for found in process.find(self.layout.workers).values() for one in found]

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        return admin.call(self.layout.socket, method, params, timeout_s=WAIT_S)

    def apply(self, *manifests: str, **more: Any) -> Any:
        return self.call("apply", self.request(*manifests, **more))

    def request(self, *manifests: str, **more: Any) -> dict[str, Any]:
        documents = [{"name": "shop.yaml", "base": str(self.folder), "text": text} for text in manifests]
        return {"documents": documents, "prune": False, "timeout_s": WAIT_S, "plan": None, **more}

    def item(self, name: str = "shop") -> dict[str, Any]:
        return dict(self.call("status", {"names": [name]})["items"][0])

    def clean_up(self) -> None:
        for child in self.children:
            child.kill()
            child.wait(WAIT_S)
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.clean_up()


def manifest(
    name: str = "shop", *, behaviour: str = "", limit: int = 8, http: str = "127.0.0.1:0", more: str = ""
) -> str:
    """Return a manifest whose stand-in worker behaves so."""
    return f"""
apiVersion: orch/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  endpoint: {{http: "{http}", grpc: null}}
  models:
    - name: m
      source: model.onnx
      device: CPU
      queue: {{limit: {limit}}}
      properties: {{STAND_IN: "{behaviour}"}}
{more}"""


def pid_that_serves(url: str) -> int:
    """Connect to an endpoint and return the pid that answers."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        return int(connection.makefile("rb").readline())
