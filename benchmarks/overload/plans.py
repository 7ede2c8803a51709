"""orch's own preparation: a manifest that states what is wanted and sets nothing by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers.subject import Subject

FIRST_PORT: Final = 18_300
RATE_SHARE: Final = 0.5  # of the in-process rate: what the manifest asks for


@dataclass(frozen=True, slots=True)
class Planned:
    """A manifest, and the ports that it names."""

    manifest: Path
    http: int
    grpc: int


def plan(subject: Subject, slo_ms: float, in_process_per_s: float, folder: Path, number: int) -> Planned:
    """Write the manifest into `folder`.

    It is planned by rule: that gives the THROUGHPUT hint, which the peers compile with too, so that the servers are
    compared and not the arms.
    """
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
  planning: {{mode: hint}}
  models:
    - name: model
      source: {subject.path}
      slo: {{latency: {slo_ms:g}ms, percentile: 99, rate: {RATE_SHARE * in_process_per_s:.0f}/s}}
"""
    )
    return Planned(manifest, http, http + 1)
