"""orch's own preparation: a manifest that states the SLO and nothing else, planned once, with its lock beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers.subject import Subject

FIRST_PORT: Final = 18_300
RATE_SHARE: Final = 0.5  # of the in-process rate: what the manifest asks for
REPOSITORY: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Planned:
    """A manifest with its lock."""

    manifest: Path
    http: int
    grpc: int
    seconds: float
    """That planning took; 0 when the lock was there already."""


def plan(subject: Subject, slo_ms: float, in_process_per_s: float, folder: Path, number: int) -> Planned:
    """Write the manifest and its lock into `folder`; raise RuntimeError when no plan holds."""
    home = folder / f"{subject.name}-{slo_ms:g}"
    home.mkdir(parents=True, exist_ok=True)
    manifest, http = home / "deployment.yaml", FIRST_PORT + 2 * number
    manifest.write_text(
        f"""\
apiVersion: orch/v1
kind: Deployment
metadata: {{name: overload}}
spec:
  endpoint: {{http: "127.0.0.1:{http}", grpc: "127.0.0.1:{http + 1}"}}
  models:
    - name: model
      source: {subject.path}
      slo: {{latency: {slo_ms:g}ms, percentile: 99, rate: {RATE_SHARE * in_process_per_s:.0f}/s}}
"""
    )
    return Planned(manifest, http, http + 1, _lock(manifest, folder / "home"))


def _lock(manifest: Path, home: Path) -> float:
    """Plan unless the lock is there; return the seconds that it took."""
    if manifest.with_name("deployment.lock.yaml").exists():
        return 0.0
    began = time.monotonic()
    command = [sys.executable, "-m", "orchestrator.cli", "plan", "--write-lock", str(manifest)]
    environment = {**os.environ, "CI": "true", "ORCH_HOME": str(home)}
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    manifest.with_name("plan.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"orch plan {manifest}: {done.stdout}{done.stderr}")
    return round(time.monotonic() - began, 1)
