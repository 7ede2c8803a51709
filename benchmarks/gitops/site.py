"""A site under test: an agent that follows a repository with two deployments of the digits model, and its clients."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.gitops.git_server import GitServer, git, tell_of_push
from benchmarks.home import MODELS, Home
from benchmarks.kills import HttpCaller
from orchestrator.errors import OrchError
from orchestrator.serving import admin

NAME = "site"
SECRET = b"known to both"
CALL_TIMEOUT_S = 30.0
START_S = 120.0
LOOK_S = 0.02
PAUSE_S = 0.005  # between a caller's requests
CALLERS = 2  # of each deployment
SOURCE = """\
apiVersion: orch/v1
kind: Source
metadata: {{name: {name}}}
spec:
  git: {{url: "{url}", branch: main}}
  path: deployments
  interval: {interval}
  timeout: 30s
  locks: hint
{webhook}"""
MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  endpoint: {{http: "127.0.0.1:{port}", grpc: null}}
  planning: {{mode: hint}}
  models:
    - name: digits
      source: models/{model}.onnx
      version: "{version}"
{more}
"""
STREAMS = "      compile: {{streams: {streams}, threads: 2, requests: 4}}"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Tally:
    """What the callers of one deployment saw."""

    good: int = 0
    failures: list[str] = field(default_factory=list)


class Site:
    """The server, the repository's working tree, the agent and what it serves; a context manager that ends them all."""

    def __init__(self, interval: str, *, webhook: bool) -> None:
        self.home = Home()
        self.server = GitServer(self.home.folder / "server")
        self.tree = self.home.folder / "tree"
        self.ports = {"steady": free_port(), "changing": free_port()}
        self.hook = f"127.0.0.1:{free_port()}" if webhook else None
        self.version = 0
        self._interval = interval
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.tallies = {name: Tally() for name in self.ports}

    def __enter__(self) -> Self:
        self.home.__enter__()
        self.server.__enter__()
        git(self.home.folder, "init", "--quiet", "--initial-branch", "main", str(self.tree))
        git(self.tree, "remote", "add", "origin", str(self.server.bare))
        self.reset()
        self.push()
        self._follow()
        self.until(lambda: self.served("steady") == "1" and self.served("changing") == str(self.version), START_S)
        self.until(lambda: self.source()["applied"] is not None, START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT_S)
        self.server.__exit__()
        self.home.__exit__()

    def _follow(self) -> None:
        (self.home.folder / "secret").write_bytes(SECRET)
        told = f'  webhook: {{secret_file: secret, listen: "{self.hook}"}}\n' if self.hook else ""
        text = SOURCE.format(name=NAME, url=self.server.url, interval=self._interval, webhook=told)
        (self.home.folder / "source.yaml").write_text(text)
        self.home.orch("apply", "source.yaml")

    # --- the repository

    def reset(self) -> None:
        """Write the two manifests and their models as they are when all is well."""
        models = self.tree / "deployments" / "models"
        models.mkdir(parents=True, exist_ok=True)
        for name in self.ports:
            shutil.copy(MODELS / "digits.onnx", models / f"{name}.onnx")
        self.write("steady", "1", STREAMS.format(streams=1))
        self.good()

    def write(self, name: str, version: str, more: str) -> None:
        """Write a manifest."""
        text = MANIFEST.format(name=name, port=self.ports[name], model=name, version=version, more=more)
        (self.tree / "deployments" / f"{name}.yaml").write_text(text)

    def good(self) -> None:
        """Ask for another version of the changing deployment, with other streams, which compiles the model anew."""
        self.version += 1
        self.write("changing", str(self.version), STREAMS.format(streams=1 + self.version % 2))

    def commit(self, message: str) -> str:
        """Commit all that is in the working tree and return the commit."""
        git(self.tree, "add", "--all")
        git(self.tree, "commit", "--quiet", "--allow-empty", "--message", message)
        return git(self.tree, "rev-parse", "HEAD")

    def push(self, message: str = "change", *, tell: bool = True) -> str:
        """Commit, push whatever stands in the way, and tell the agent where it has a webhook; return the commit."""
        commit = self.commit(message)
        git(self.tree, "push", "--quiet", "--force", "origin", "HEAD:refs/heads/main")
        if tell:
            self.tell(commit)
        return commit

    def tell(self, commit: str) -> None:
        """Tell the agent of a push, where it has a webhook and follows the source already."""
        if self.hook and (self.home.folder / "source.yaml").exists():
            status = tell_of_push(self.hook, NAME, SECRET, commit)
            assert status // 100 == 2, status

    # --- what is seen of it

    def source(self) -> dict[str, Any]:
        """Return the source's status, as `orch source describe -o json` has it, without a process for each look."""
        answer = admin.call(self._socket, "sources", {"names": [NAME]}, timeout_s=CALL_TIMEOUT_S)
        item: dict[str, Any] = answer["items"][0]
        return item

    def described(self) -> dict[str, Any]:
        """Return what the command itself says."""
        found: dict[str, Any] = json.loads(self.home.orch("source", "describe", NAME, "-o", "json"))
        return found

    @property
    def _socket(self) -> Path:
        return self.home.folder / "home" / "agent.sock"

    def served(self, name: str) -> str | None:
        """Return the version that a deployment serves, None while it does not answer."""
        import http.client  # beside its use

        connection = http.client.HTTPConnection(f"127.0.0.1:{self.ports[name]}", timeout=CALL_TIMEOUT_S)
        try:
            connection.request("GET", "/v2/models/digits")
            answer = connection.getresponse()
            return str(json.loads(answer.read())["versions"][0]) if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def until(self, holds: Callable[[], bool], timeout_s: float) -> float:
        """Wait until it holds and return the seconds; raise TimeoutError with the source's status."""
        begin = time.monotonic()
        while not holds():
            if time.monotonic() - begin > timeout_s:
                raise TimeoutError(f"not within {timeout_s:g} s: {self._told()}")
            time.sleep(LOOK_S)
        return time.monotonic() - begin

    def _told(self) -> str:
        try:
            return json.dumps(self.source())[:3000]
        except OrchError as error:
            return str(error)

    # --- the load

    def load(self) -> None:
        """Begin to call both deployments, one request after the other on each connection, until the end."""
        for name in self.ports:
            self._threads += [threading.Thread(target=self._call, args=(name,), daemon=True) for _ in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _call(self, name: str) -> None:
        tally, caller = self.tallies[name], HttpCaller(f"127.0.0.1:{self.ports[name]}")
        while not self._stop.wait(PAUSE_S):
            try:
                caller()
                tally.good += 1
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                tally.failures.append(f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}"[:300])
