"""Serve one way to run a model by a worker process of its own, and load it: what live.py compares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from benchmarks.inprocess import made_up
from benchmarks.planner.truth import Slo, quantile
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.manifest.load import load_text
from orchestrator.planner.resolve import resolve
from orchestrator.profiling.children import LoadChild
from orchestrator.profiling.measurement import Arm
from orchestrator.profiling.wire import LoadOrder, LoadReport, Outcome
from orchestrator.runner.proof import with_arm
from orchestrator.serving import admin

START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class Target:
    """A worker that serves one contender."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str]
    body: Path


@dataclass(frozen=True)
class Seen:
    """One open-loop run at a rate: the share of requests not answered within the SLO, and their p99 in seconds."""

    rate_per_s: float
    missed: float
    p99_s: float
    """Infinite where more than one request in a hundred was not answered."""


class Worker:
    """A worker process that serves one arm; use it in a `with`."""

    def __init__(self, folder: Path, model: Path, arm: Arm, slo: Slo, rate_per_s: float, port: int) -> None:
        folder.mkdir(parents=True)
        plan = folder / "plan.json"
        plan.write_text(_plan(model, arm, slo, rate_per_s, port))
        command = [sys.executable, "-m", "orchestrator.serving", "--state", str(folder), "--generation", "1"]
        environment = {**os.environ, "CI": "true"}
        with (folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "--plan", str(plan)], stderr=log, env=environment)
        self._control = folder / "control.sock"

    def __enter__(self) -> Worker:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if admin.call(self._control, "status", timeout_s=5.0)["ready"]:
                    return self
            except Exception:  # noqa: BLE001 - not there yet
                time.sleep(0.1)
        self.__exit__()
        raise SystemExit(f"the worker did not become ready; see {self._control.with_name('worker.log')}")

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def manifest(model: Path, slo: Slo, rate_per_s: float, port: int) -> str:
    """Return the manifest of the model alone under that SLO."""
    arrivals = slo.arrivals if slo.arrivals == "constant" else "poisson"
    return f"""
apiVersion: orch/v1
kind: Deployment
metadata: {{name: live}}
spec:
  endpoint: {{http: "127.0.0.1:{port}"}}
  models:
    - name: model
      source: {model}
      slo: {{latency: {slo.latency_s * 1e6:.0f}us, percentile: {slo.percentile:g}, rate: {rate_per_s:.3f}/s}}
      traffic: {{arrivals: {arrivals}}}
"""


def _plan(model: Path, arm: Arm, slo: Slo, rate_per_s: float, port: int) -> str:
    (document,) = load_text(manifest(model, slo, rate_per_s, port), name="live.yaml", base=model.parent)
    backend = OpenVinoBackend(())
    info = backend.inspect(str(model), {}, ())
    by_rule = resolve(document.deployment, backend.inventory(), {"model": info})
    return with_arm(by_rule, arm).model_dump_json()


def write_body(model: Path, folder: Path) -> tuple[Path, dict[str, str]]:
    """Write the body of a request, and return it with its headers."""
    info = OpenVinoBackend(()).inspect(str(model), {}, ())
    arrays = made_up(model)
    inputs = [
        {"name": t.name, "shape": list(a.shape), "datatype": t.datatype, "parameters": {"binary_data_size": a.nbytes}}
        for t, a in zip(info.inputs, arrays, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    path = folder / "body"
    path.write_bytes(head + b"".join(array.tobytes() for array in arrays))
    return path, {"Inference-Header-Content-Length": str(len(head))}


def load(target: Target, rate_per_s: float, slo: Slo, seed: int, seconds: float) -> Seen:
    """Load a target by one open-loop run."""
    order = LoadOrder(
        host="127.0.0.1",
        port=target.port,
        path=target.path,
        headers=dict(target.headers),
        body=str(target.body),
        arrivals=slo.arrivals,
        rate_per_s=rate_per_s,
        seed=seed,
        seconds=seconds,
        timeout_s=max(1.0, 10 * slo.latency_s),
    )
    outcomes: list[Outcome] = []
    with LoadChild(order) as generator:
        for part in generator.outcomes():
            if isinstance(part, LoadReport):
                if part.bottleneck:
                    print(f"warning: {target.name}: {part.bottleneck}", file=sys.stderr)
            else:
                outcomes += part
    latencies = [outcome.latency_s if outcome.status == 200 else inf for outcome in outcomes] or [inf]
    late = sum(latency > slo.latency_s for latency in latencies)
    return Seen(rate_per_s, late / len(latencies), quantile(latencies, 0.99))
