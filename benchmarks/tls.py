"""What TLS costs: the same model served in clear text and encrypted, asked by wrk in turns.

    python -m benchmarks.tls

Needs `wrk` (Debian package of that name). Both workers run all the time, with equal plans; in each round each is loaded
once, in an order drawn anew. The last rows open a connection for every request, so that each costs a handshake.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

import psutil
import trustme

from benchmarks import topologies
from benchmarks.reload_under_load import WorkerProcess, a_plan
from benchmarks.serving import Setup, write_bodies
from orchestrator.planner.plan import TlsPlan

THREADS = {"streams": 1, "threads": 1}


@dataclass(frozen=True)
class Endpoint:
    """A worker that serves."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


def certificate(folder: Path) -> TlsPlan:
    """Write a certificate for this run; ECDSA, as public authorities issue now."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    (folder / "tls.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "tls.key").touch(mode=0o600)
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    return TlsPlan(certificate_file=str(folder / "tls.crt"), key_file=str(folder / "tls.key"))


@contextmanager
def serving(model: str, folder: Path, tls: TlsPlan | None) -> Iterator[Endpoint]:
    """Run a worker of the model."""
    plan = a_plan(model, folder, THREADS)
    plan = plan.model_copy(update={"endpoint": plan.endpoint.model_copy(update={"tls": tls, "grpc": None})})
    with WorkerProcess(folder / ("clear" if tls is None else "tls"), plan) as worker:
        status = worker.until_state("Serving")
        yield Endpoint(status["endpoint"]["http"], worker.process.pid)


def asked(endpoint: Endpoint, script: Path, seconds: int, connections: int) -> tuple[float, float]:
    """Return answers a second, and the worker's CPU milliseconds for one."""
    before = endpoint.cpu_s()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    text = subprocess.run(
        [*command, f"{endpoint.url}/v2/models/model/infer"], capture_output=True, text=True, timeout=300, check=True
    ).stdout
    count, rate = re.search(r"([0-9]+) requests in", text), re.search(r"Requests/sec:\s+([0-9.]+)", text)
    if "Non-2xx" in text or count is None or rate is None:
        raise SystemExit(text)
    return float(rate[1]), 1000 * (endpoint.cpu_s() - before) / int(count[1])


def compare(model: str, rounds: int, seconds: int, connections: int, seed: int) -> list[str]:
    """Return the rows of the table for one model: requests on kept connections, then a connection for each."""
    order = random.Random(seed)
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orch-tls-")))
        setup = Setup(model, topologies.save(model, folder), folder, {}, seconds, connections)
        write_bodies(setup)
        kept, anew = folder / "infer.lua", folder / "anew.lua"
        anew.write_text(kept.read_text() + 'wrk.headers["Connection"] = "close"\n')
        places = {
            "clear": stack.enter_context(serving(model, folder, None)),
            "TLS": stack.enter_context(serving(model, folder, certificate(folder))),
        }
        for script, how in ((kept, "kept connections"), (anew, "a connection each")):
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in places}
            for _ in range(rounds):
                for name in order.sample(sorted(places), len(places)):
                    runs[name].append(asked(places[name], script, seconds, connections))
            rows.append(_row(f"{model}, {how}", runs["clear"], runs["TLS"]))
    return rows


def _row(name: str, clear: list[tuple[float, float]], tls: list[tuple[float, float]]) -> str:
    shares = [encrypted[0] / plain[0] for encrypted, plain in zip(tls, clear, strict=True)]
    rates = [statistics.median(rate for rate, _ in runs) for runs in (clear, tls)]
    cpus = [statistics.median(cpu for _, cpu in runs) for runs in (clear, tls)]
    spread = f"{statistics.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"
    return f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | {spread} | {cpus[0]:.3f} | {cpus[1]:.3f} |"


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=topologies.NAMES, default=["tiny_mlp", "mobilenet_v2"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    print("| model | clear/s | TLS/s | TLS over clear | CPU ms clear | CPU ms TLS |\n|---|---|---|---|---|---|")
    for model in options.models:
        for row in compare(model, options.rounds, options.seconds, options.connections, options.seed):
            print(row, flush=True)


if __name__ == "__main__":
    main()
