"""Prometheus and promtool as installed: `.ci/promtool` puts both beside the interpreter where there are none."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RULES = ROOT / "orchestrator" / "telemetry" / "observability" / "alerts.yaml"
START_S = 40.0
ANSWER_S = 10.0


def program(name: str) -> str:
    """Return where the program is; tests fail without it, on purpose."""
    return shutil.which(name) or str(Path(sys.executable).parent / name)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("promtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes."""

    url: str

    def api(self, path: str, **params: str) -> Any:
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=ANSWER_S) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples of now; raise AssertionError with what Prometheus says of a query that is wrong."""
        try:
            found: list[dict[str, Any]] = self.api("query", query=expr)["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expr}: {error.read().decode()}") from None
        return found

    def until(self, holds: Callable[[], object]) -> None:
        """Wait, bounded, for what scraping brings about."""
        pause = threading.Event()
        deadline = time.monotonic() + START_S
        while not holds():
            assert time.monotonic() < deadline, self.api("targets")
            pause.wait(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Run a real Prometheus with the shipped rules that scrapes the targets (address by job) twice a second."""
    jobs = [{"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()]
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        _wait(process, server, folder / "prometheus.log")
        yield server
    finally:
        process.kill()
        process.wait(ANSWER_S)


def _wait(process: subprocess.Popen[bytes], server: Prometheus, log: Path) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=ANSWER_S):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        pause.wait(0.05)
