"""Changes a worker's plan back and forth while HTTP and gRPC clients call it: not one request may fail."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

import numpy as np
import tritonclient.grpc
import tritonclient.http

from benchmarks import topologies
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.manifest.spec import Deployment
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.serving import admin

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 30.0
PLANS = 2
CALLERS = 3  # of each protocol


def a_plan(name: str, folder: Path, compile_: Mapping[str, Any], **spec: Any) -> DeploymentPlan:
    """Return the plan of one generated model `name` on free ports."""
    path = topologies.save(name, folder)
    endpoint = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0"} | spec.pop("endpoint", {})
    model = {"name": "model", "source": str(path), "compile": dict(compile_), **spec}
    deployment = Deployment.model_validate(
        {
            "apiVersion": "orch/v1",
            "kind": "Deployment",
            "metadata": {"name": "reload"},
            "spec": {"endpoint": endpoint, "models": [model]},
        }
    )
    backend = OpenVinoBackend(())
    return resolve(deployment, backend.inventory(), {"model": backend.inspect(str(path), {}, ("CPU",))})


class WorkerProcess:
    """A worker process and its control socket; a context manager that ends it."""

    def __init__(self, state: Path, plan: DeploymentPlan, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state = state
        self.log = state / "worker.log"
        (state / "plan.json").write_text(plan.model_dump_json())
        command = [sys.executable, "-m", "orchestrator.serving", "--state", str(state), "--generation", "1"]
        command += ["--plan", str(state / "plan.json"), *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=pass_fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(CALL_TIMEOUT_S)

    def call(self, method: str, **params: Any) -> Any:
        """Call the control socket."""
        return admin.call(self.state / "control.sock", method, params, timeout_s=CALL_TIMEOUT_S)

    def until_state(self, *states: str) -> dict[str, Any]:
        """Wait until the worker is in one of these states and return its status."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if (self.state / "control.sock").exists():
                try:
                    status: dict[str, Any] = self.call("status")
                except Exception:  # noqa: BLE001 - it is just beginning to listen
                    status = {"state": "Starting"}
                if status["state"] in states and (status["state"] != "Serving" or status["ready"]):
                    return status
            time.sleep(0.02)
        raise AssertionError(f"the worker did not become {states}: {self.log.read_text()[-2000:]}")


@dataclass
class Load:
    """Clients that call one after the other until told to stop."""

    http: str
    grpc: str
    stop: threading.Event = field(default_factory=threading.Event)
    answered: dict[str, int] = field(default_factory=lambda: {"http": 0, "grpc": 0})
    failures: list[str] = field(default_factory=list)
    plans: int = PLANS
    """So many different answers there may be."""
    answers: set[bytes] = field(default_factory=set)
    """All different answers to the one request; each plan may round in its own way, but always in the same."""
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin to call."""
        for kind in ("http", "grpc"):
            self.threads += [threading.Thread(target=self._call_on, args=(kind,)) for _ in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Stop and wait for the last answers."""
        self.stop.set()
        for thread in self.threads:
            thread.join(CALL_TIMEOUT_S)

    def _call_on(self, kind: str) -> None:
        module: Any = tritonclient.http if kind == "http" else tritonclient.grpc
        with module.InferenceServerClient(self.http if kind == "http" else self.grpc) as client:
            metadata = client.get_model_metadata("model", **({} if kind == "http" else {"as_json": True}))
            (info,) = metadata["inputs"]
            array = np.ones([max(1, int(size)) for size in info["shape"]], np.float32)
            given = module.InferInput(info["name"], array.shape, "FP32")
            given.set_data_from_numpy(array)
            while not self.stop.is_set():
                try:
                    output = client.infer("model", [given]).as_numpy(metadata["outputs"][0]["name"])
                except Exception as error:  # noqa: BLE001 - counted, whatever it is
                    self.failures.append(f"{kind}: {type(error).__name__}: {error}")
                    continue
                self.answers.add(output.tobytes())
                if len(self.answers) > self.plans:
                    self.failures.append(f"{kind}: a wrong answer")
                self.answered[kind] += 1


def alternate(worker: WorkerProcess, plans: tuple[DeploymentPlan, DeploymentPlan], changes: int) -> Load:
    """Apply the plans in turn under load, and return what the clients saw."""
    endpoint = worker.until_state("Serving")["endpoint"]
    load = Load(endpoint["http"].removeprefix("http://"), endpoint["grpc"])
    load.start()
    try:
        for number in range(changes):
            plan = plans[(number + 1) % 2].model_dump(mode="json")
            result = worker.call("apply", plan=plan, generation=number + 2)
            assert result["models"][0]["action"] == "replace", result
    finally:
        load.end()
    return load


def main(arguments: list[str] | None = None) -> int:
    """Print the counts; return 1 when any request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload_under_load", description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--model", default="tiny_mlp", choices=topologies.NAMES)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans = tuple(a_plan(options.model, folder, {"streams": streams, "threads": 2}) for streams in (1, 2))
        with WorkerProcess(folder / "state", plans[0]) as worker:
            began = time.monotonic()
            load = alternate(worker, (plans[0], plans[1]), options.changes)
            seconds = time.monotonic() - began
            bugs = worker.log.read_text().count("Traceback")
    print(f"{options.changes} changes of plan in {seconds:.1f} s under {CALLERS} HTTP and {CALLERS} gRPC callers:")
    print(f"answered {load.answered['http']} over HTTP, {load.answered['grpc']} over gRPC")
    print(f"failed {len(load.failures)}, tracebacks in the worker's log {bugs}")
    for failure in load.failures[:10]:
        print(f"  {failure}")
    return 1 if load.failures or bugs else 0


if __name__ == "__main__":
    sys.exit(main())
