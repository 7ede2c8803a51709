"""Compare what is served with what one process can infer, interleaved in rounds, as ratios.

    python -m benchmarks.serving --model mobilenet_v2 --rounds 5

Needs `wrk` and `h2load` (Debian packages wrk and nghttp2-client); benchmark_app comes with openvino. In each round
every contender runs once, in a new random order, alone on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import topologies
from benchmarks.inprocess import made_up
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.manifest.load import load_text
from orchestrator.planner.resolve import resolve
from orchestrator.serving import admin
from orchestrator.serving.oip_messages import ModelInferRequest

HTTP, GRPC = "127.0.0.1:18230", "127.0.0.1:18231"
START_TIMEOUT_S = 60.0
Result = dict[str, float]


@dataclass(frozen=True)
class Setup:
    """One comparison: the model, how it is compiled, how it is called."""

    name: str
    path: Path
    folder: Path
    properties: dict[str, str]
    seconds: float
    connections: int


class Worker:
    """A worker process serving one model over HTTP and gRPC."""

    def __init__(self, setup: Setup) -> None:
        plan = self._plan(setup)
        (setup.folder / "plan.json").write_text(plan)
        command = [sys.executable, "-m", "orchestrator.serving", "--state", str(setup.folder), "--generation", "1"]
        log = (setup.folder / "worker.log").open("ab")
        self._process = subprocess.Popen([*command, "--plan", str(setup.folder / "plan.json")], stderr=log)
        self.pid = self._process.pid
        self._wait(setup.folder / "control.sock")

    def _plan(self, setup: Setup) -> str:
        manifest = f"""
apiVersion: orch/v1
kind: Deployment
metadata: {{name: bench}}
spec:
  endpoint: {{http: "{HTTP}", grpc: "{GRPC}"}}
  models:
    - name: model
      source: {setup.path}
      compile: {{streams: {setup.properties["NUM_STREAMS"]}, threads: {setup.properties["INFERENCE_NUM_THREADS"]}}}
      queue: {{limit: 1000}}
"""
        (document,) = load_text(manifest, name="bench.yaml", base=setup.folder)
        backend = OpenVinoBackend(())
        info = backend.inspect(str(setup.path), {}, ())
        return resolve(document.deployment, backend.inventory(), {"model": info}).model_dump_json()

    def _wait(self, control: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                if admin.call(control, "status", timeout_s=5.0)["ready"]:
                    return
            except Exception:  # noqa: BLE001 - not there yet
                time.sleep(0.1)
        raise SystemExit("the worker did not become ready; see its log")

    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


def served(worker: Worker, load: Callable[[], float], seconds: float) -> Result:
    """Return rate and the worker's CPU time a request while `load` runs."""
    before = worker.cpu_s()
    per_s = load()
    return {"per_s": per_s, "cpu_ms": 1000 * (worker.cpu_s() - before) / (per_s * seconds)}


def wrk(setup: Setup) -> float:
    """Return answers a second over HTTP; any answer but 200 ends the run."""
    script = setup.folder / "infer.lua"
    command = ["wrk", "-t1", f"-c{setup.connections}", f"-d{setup.seconds:g}s", "-s", str(script)]
    text = _run([*command, f"http://{HTTP}/v2/models/model/infer"])
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)
    return float(_found(r"Requests/sec:\s+([0-9.]+)", text))


def h2load(setup: Setup) -> float:
    """Return answers a second over gRPC; any failure ends the run."""
    command = [
        "h2load",
        f"-c{setup.connections}",
        "-m1",
        "-t1",
        f"-D{setup.seconds:g}",
        "-d",
        str(setup.folder / "grpc"),
    ]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    text = _run([*command, *headers, f"http://{GRPC}/inference.GRPCInferenceService/ModelInfer"])
    succeeded = _found(r"([0-9]+) succeeded", text)
    if _found(r"([0-9]+) failed", text) != "0" or succeeded == "0":
        raise SystemExit(text)
    return float(succeeded) / setup.seconds


def benchmark_app(setup: Setup) -> Result:
    """Return inferences a second of OpenVINO's own benchmark with the same properties."""
    properties = setup.properties
    options = [
        "-hint",
        "none",
        "-nstreams",
        properties["NUM_STREAMS"],
        "-nthreads",
        properties["INFERENCE_NUM_THREADS"],
    ]
    program = str(Path(sys.executable).with_name("benchmark_app"))
    text = _run([program, "-m", str(setup.path), "-d", "CPU", "-t", f"{setup.seconds:g}", *options, "-pin", "NO"])
    return {"per_s": float(_found(r"Throughput:\s+([0-9.]+)", text)), "cpu_ms": float("nan")}


def in_process(setup: Setup, loop: str, properties: dict[str, str], *more: str) -> Result:
    """Return rate and CPU time of a closed loop in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inprocess", loop, "--model", str(setup.path)]
    options = [
        "--properties",
        json.dumps(properties),
        "--seconds",
        f"{setup.seconds}",
        "--callers",
        str(setup.connections),
    ]
    result: Result = json.loads(_run([*command, *options, *more]).strip().splitlines()[-1])
    return result


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"CI": "true"}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"no {pattern!r} in:\n{text}")
    return match[1]


def write_bodies(setup: Setup) -> None:
    """Write one request as wrk's script and as h2load's data."""
    info = OpenVinoBackend(()).inspect(str(setup.path), {}, ())
    arrays = made_up(setup.path)
    inputs = [
        {"name": t.name, "shape": list(a.shape), "datatype": t.datatype, "parameters": {"binary_data_size": a.nbytes}}
        for t, a in zip(info.inputs, arrays, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    (setup.folder / "body").write_bytes(head + b"".join(array.tobytes() for array in arrays))
    (setup.folder / "infer.lua").write_text(
        f'local f = io.open("{setup.folder}/body", "rb"); wrk.body = f:read("*a"); f:close()\n'
        f'wrk.method = "POST"; wrk.headers["Inference-Header-Content-Length"] = "{len(head)}"\n'
    )
    request = ModelInferRequest(model_name="model", raw_input_contents=[array.tobytes() for array in arrays])
    for tensor, array in zip(info.inputs, arrays, strict=True):
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
    message = request.SerializeToString()
    (setup.folder / "grpc").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)


def compare(setup: Setup, rounds: int, seed: int) -> dict[str, list[Result]]:
    """Return every contender's results, round by round."""
    results: dict[str, list[Result]] = {}
    order = random.Random(seed)
    for number in range(rounds):
        contenders: list[tuple[str, Callable[[], Result]]] = [
            ("AsyncInferQueue, THROUGHPUT", lambda: in_process(setup, "queue", {"PERFORMANCE_HINT": "THROUGHPUT"})),
            ("AsyncInferQueue, same properties", lambda: in_process(setup, "queue", setup.properties)),
            ("benchmark_app", lambda: benchmark_app(setup)),
            ("orch pool", lambda: in_process(setup, "pool", setup.properties)),
            ("orch HTTP", lambda: _with_worker(setup, wrk)),
            ("orch gRPC", lambda: _with_worker(setup, h2load)),
        ]
        order.shuffle(contenders)
        for name, run in contenders:
            results.setdefault(name, []).append(run())
            print(f"round {number + 1}: {name}: {results[name][-1]['per_s']:.0f}/s", file=sys.stderr)
    return results


def _with_worker(setup: Setup, load: Callable[[Setup], float]) -> Result:
    worker = Worker(setup)
    try:
        load(Setup(setup.name, setup.path, setup.folder, setup.properties, 1.0, setup.connections))  # warm up
        return served(worker, lambda: load(setup), setup.seconds)
    finally:
        worker.stop()


def table(results: dict[str, list[Result]], base: str = "AsyncInferQueue, THROUGHPUT") -> str:
    """Return Markdown: medians, and the median over rounds of each round's ratio to the in-process loop."""
    lines = ["| | per second | share of in-process | to benchmark_app | CPU ms a request |", "|---|---|---|---|---|"]
    for name, runs in sorted(results.items()):
        shares = [run["per_s"] / other["per_s"] for run, other in zip(runs, results[base], strict=True)]
        to_app = [run["per_s"] / other["per_s"] for run, other in zip(runs, results["benchmark_app"], strict=True)]
        rate, cpu = (statistics.median(run[key] for run in runs) for key in ("per_s", "cpu_ms"))
        spread = f"{min(shares):.2f}-{max(shares):.2f}"
        figures = (
            f"{rate:.0f} | {statistics.median(shares):.2f} ({spread}) | {statistics.median(to_app):.2f} | {cpu:.2f}"
        )
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=topologies.NAMES, default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for program in ("wrk", "h2load"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install wrk nghttp2-client")
    with tempfile.TemporaryDirectory(prefix="orch-bench-") as name:
        folder = Path(name)
        cpus = len(os.sched_getaffinity(0))
        properties = {"NUM_STREAMS": str(cpus), "INFERENCE_NUM_THREADS": str(cpus), "ENABLE_CPU_PINNING": "NO"}
        path = topologies.save(options.model, folder)
        setup = Setup(options.model, path, folder, properties, options.seconds, options.connections)
        write_bodies(setup)
        results = compare(setup, options.rounds, options.seed)
    when = datetime.now(UTC).date().isoformat()
    print(
        f"{options.model}, {options.connections} callers, {options.rounds} rounds of {options.seconds:g} s, {when}, ",
        end="",
    )
    print(f"{cpus} cores, {platform.processor() or platform.machine()}\n\n{table(results)}")


if __name__ == "__main__":
    main()
