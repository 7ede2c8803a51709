"""What an agent costs that has nothing to do: its CPU time and memory beside running deployments and polled sources."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import psutil

from benchmarks.gitops.git_server import GitServer, git
from benchmarks.gitops.site import free_port
from benchmarks.home import MODELS, Home

GOAL_CPU, GOAL_BYTES = 0.01, 150 * 10**6
SETTLE_S = 15.0
INTERVAL = "60s"
MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: idle-{number:02d}}}
spec:
  endpoint: {{http: "127.0.0.1:{port}", grpc: null}}
  planning: {{mode: hint}}
  models: [{{name: digits, source: models/digits.onnx, compile: {{streams: 1, threads: 1, requests: 1}}}}]
"""
SOURCE = """\
apiVersion: orch/v1
kind: Source
metadata: {{name: idle-{number}}}
spec: {{git: {{url: "{url}", branch: main}}, path: deployments, interval: {interval}, locks: hint}}
"""


def write(folder: Path, numbers: range) -> None:
    """Write a deployment for each number, and their one model."""
    (folder / "models").mkdir(parents=True)
    shutil.copy(MODELS / "digits.onnx", folder / "models")
    for number in numbers:
        (folder / f"idle-{number:02d}.yaml").write_text(MANIFEST.format(number=number, port=free_port()))


def run(deployments: int, sources: int, seconds: float) -> bool:
    """Print the agent's CPU share and memory over so many seconds; tell whether both are within their goals."""
    with Home() as home:
        servers = [GitServer(home.folder / f"server-{number}") for number in range(sources)]
        for server in servers:
            server.__enter__()
        try:
            if servers:
                _follow(home, servers, deployments)
            else:
                write(home.folder / "manifests", range(deployments))
                home.orch("apply", "manifests")
            return _measured(home, deployments, servers, seconds)
        finally:
            for server in servers:
                server.__exit__()


def _follow(home: Home, servers: list[GitServer], deployments: int) -> None:
    """Divide the deployments among the sources, and wait until all serve."""
    for number, server in enumerate(servers):
        tree = home.folder / f"tree-{number}"
        git(home.folder, "init", "--quiet", "--initial-branch", "main", str(tree))
        each = deployments // len(servers) + (number < deployments % len(servers))
        begin = sum(deployments // len(servers) + (other < deployments % len(servers)) for other in range(number))
        write(tree / "deployments", range(begin, begin + each))
        git(tree, "add", "--all")
        git(tree, "commit", "--quiet", "--message", "begin")
        git(tree, "push", "--quiet", str(server.bare), "HEAD:refs/heads/main")
        text = SOURCE.format(number=number, url=server.url, interval=INTERVAL)
        (home.folder / f"source-{number}.yaml").write_text(text)
        home.orch("apply", f"source-{number}.yaml")
        home.orch("source", "reconcile", f"idle-{number}", timeout_s=900.0)


def _measured(home: Home, deployments: int, servers: list[GitServer], seconds: float) -> bool:
    agent = psutil.Process(home.agent_pid())
    time.sleep(SETTLE_S)
    before, asked = agent.cpu_times(), sum(server.requests for server in servers)
    begin = time.monotonic()
    time.sleep(seconds)
    after, elapsed = agent.cpu_times(), time.monotonic() - begin
    own = (after.user + after.system - before.user - before.system) / elapsed
    git_too = (after.children_user + after.children_system - before.children_user - before.children_system) / elapsed
    size = agent.memory_info().rss
    asked = sum(server.requests for server in servers) - asked
    good = own + git_too <= GOAL_CPU and size <= GOAL_BYTES
    print(
        f"{deployments} deployments served, {len(servers)} sources polled every {INTERVAL} ({asked} requests to them): "
        f"agent {own:.2%} of a core, its git {git_too:.2%}, {size / 1e6:.0f} MB over {elapsed:.0f} s; "
        f"goal {GOAL_CPU:.0%} and {GOAL_BYTES / 1e6:.0f} MB  {'within' if good else 'OVER'}",
        flush=True,
    )
    return good
