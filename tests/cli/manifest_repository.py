"""A Git repository of manifests for tests of what CI does with it: written, locked and committed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from stand_in import ROOT

from orchestrator.cli.trees import wanted_here
from orchestrator.inventory.device import Inventory
from orchestrator.manifest.load import load
from orchestrator.planner.lock import locked
from orchestrator.runner.locks import read_lock, write_lock
from tests.builders import an_inventory
from tests.builders_decision import a_decision

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  endpoint: {{http: 127.0.0.1:{port}, grpc: null}}
  models:
    - {{name: digits, source: models/digits.onnx, {how}}}
"""
SLO = "slo: {latency: 200ms, rate: 25/s}"
HINT = "compile: {hint: LATENCY}"


def git(folder: Path, *arguments: str) -> str:
    """Run git with no configuration but its own, and return what it prints."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(
        ["git", *who, *arguments], cwd=folder, env=environ, capture_output=True, text=True, timeout=30, check=True
    )
    return ran.stdout.strip()


def commit(folder: Path) -> str:
    """Commit all that changed and return the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


def write(folder: Path, name: str, how: str, port: int) -> Path:
    """Write the manifest of a deployment of the digits model and return its file."""
    path = folder / f"{name}.yaml"
    path.write_text(MANIFEST.format(name=name, how=how, port=port))
    return path


def lock(path: Path, *machines: Inventory) -> None:
    """Write, or add to, the lock beside the manifest: for these machines."""
    (document,) = load([str(path)]).documents
    sha256 = wanted_here([document])[path.stem].files["digits"].sha256
    beside = path.with_name(f"{path.stem}.lock.yaml")
    written = read_lock(beside)
    for machine in machines:
        decision = a_decision(model="digits", model_sha256=sha256)
        written = locked(written, document.deployment, machine, 2, {"digits": decision})
    assert written is not None
    write_lock(beside, written)


def two_deployments(root: Path) -> Path:
    """Make a repository of one commit: `shop`, measured and locked, and `door`, by rule; return their folder."""
    folder = root / "deployments"
    (folder / "models").mkdir(parents=True)
    shutil.copy(ROOT / "deployments/models/digits.onnx", folder / "models")
    lock(write(folder, "shop", SLO, 8000), an_inventory())
    write(folder, "door", HINT, 9000)
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root)
    return folder
