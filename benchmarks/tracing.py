"""What traces cost a tiny model: off, on and never sampled, one in a hundred, all; against a commit before them.

    python -m benchmarks.tracing --before 6c669e1^ --rounds 5

In each round every contender serves once, in a new random order, under the same load. Spans go to a receiver in a
process of its own that throws them away; its time is not the worker's. Needs `wrk`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import topologies
from benchmarks.serving import Result, Setup, Worker, served, write_bodies, wrk

WARM_UP_S = 1.0
BEFORE, OFF = "before traces", "off"
ON: dict[str, dict[str, str]] = {
    "never sampled": {"OTEL_TRACES_SAMPLER": "always_off"},
    "one in a hundred": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    "all": {"OTEL_TRACES_SAMPLER": "always_on"},
}


class Thrown(http.server.BaseHTTPRequestHandler):
    """Takes spans and throws them away."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's word
        """Say nothing."""


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """Run a collector in a process of its own; yield its address."""
    code = (
        "from http.server import ThreadingHTTPServer\nfrom benchmarks.tracing import Thrown\n"
        "server = ThreadingHTTPServer(('127.0.0.1', 0), Thrown)\n"
        "print(server.server_port, flush=True)\nserver.serve_forever()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def checked_out(commit: str, tree: Path) -> Iterator[Path]:
    """Yield a tree of the commit."""
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), commit], check=True)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


@contextlib.contextmanager
def environment(more: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(setup: Setup, tree: Path, environ: dict[str, str]) -> Result:
    """Return rate and CPU time a request of a worker from this tree."""
    with contextlib.chdir(tree), environment({"CI": "true"} | environ):
        worker = Worker(setup)
    try:
        wrk(Setup(setup.name, setup.path, setup.folder, setup.properties, WARM_UP_S, setup.connections))
        return served(worker, lambda: wrk(setup), setup.seconds)
    finally:
        worker.stop()


def compare(
    setup: Setup, trees: dict[str, Path], endpoint: str, options: argparse.Namespace
) -> dict[str, list[Result]]:
    """Return every contender's results, round by round."""
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    contenders = {name: (tree, {}) for name, tree in trees.items()}
    contenders |= {f"on, {name}": (trees[OFF], to | more) for name, more in ON.items()}
    results: dict[str, list[Result]] = {}
    order = random.Random(options.seed)
    for number in range(options.rounds):
        for name in order.sample(sorted(contenders), len(contenders)):
            results.setdefault(name, []).append(run(setup, *contenders[name]))
            told = results[name][-1]
            print(f"round {number + 1}: {name}: {told['per_s']:.0f}/s {told['cpu_ms']:.4f} ms", file=sys.stderr)
    return results


def table(results: dict[str, list[Result]], base: str) -> str:
    """Return Markdown: medians, and the medians over rounds of each round's ratios to `base`."""
    lines = [f"| | per second | rate to {base} | CPU µs a request | CPU to {base} |", "|---|---|---|---|---|"]
    for name, runs in results.items():
        figures = []
        for key, scale in (("per_s", 1), ("cpu_ms", 1000)):
            shares = [one[key] / other[key] for one, other in zip(runs, results[base], strict=True)]
            spread = f"{statistics.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"
            figures += [f"{statistics.median(one[key] for one in runs) * scale:.0f}", spread]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="commit to compare with; without it off is the base")
    parser.add_argument("--of", help="commit to measure instead of the working tree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orch-bench-")))
        trees = {OFF: Path.cwd()}
        for name, commit in ((OFF, options.of), (BEFORE, options.before)):
            if commit:
                trees[name] = stack.enter_context(checked_out(commit, folder / name.replace(" ", "-")))
        cpus = len(os.sched_getaffinity(0))
        properties = {"NUM_STREAMS": str(cpus), "INFERENCE_NUM_THREADS": str(cpus)}
        path = topologies.save("tiny_mlp", folder)
        setup = Setup("tiny_mlp", path, folder, properties, options.seconds, options.connections)
        write_bodies(setup)
        results = compare(setup, trees, stack.enter_context(receiver()), options)
    print(table(results, BEFORE if options.before else OFF))


if __name__ == "__main__":
    main()
