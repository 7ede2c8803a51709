"""A real worker process over simulated devices that go wrong as told: `simulated_worker.py STATE_DIR FAULTS`.

FAULTS is a JSON list, one entry for each compilation (the last one for all after it): the fields of `Faults`.
SIGUSR1 steps the wall clock a day ahead, SIGUSR2 two days back.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

DAY_S = 86_400.0
wall, ahead_s = time.time, [0.0]
time.time = lambda: wall() + ahead_s[0]  # before anything else imports it


def step(seconds: float) -> None:
    ahead_s[0] += seconds


from orchestrator.backend.base import CompileRequest  # noqa: E402 - found by the lines above
from orchestrator.backend.simulated import Faults, SimulatedBackend, SimulatedCompiledModel  # noqa: E402
from orchestrator.manifest.spec import Deployment  # noqa: E402
from orchestrator.planner.resolve import resolve  # noqa: E402
from orchestrator.serving.process import Start, run  # noqa: E402
from tests.builders import a_model_info, a_tensor, an_inventory  # noqa: E402

MODEL = "double"
SERVICE_S = 0.002  # too long to be inferred where requests arrive


class Scripted(SimulatedBackend):
    """Goes wrong in another way after each compilation."""

    script: list[dict[str, Any]]

    def compile(self, request: CompileRequest) -> SimulatedCompiledModel:
        entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        fields = {key: frozenset(value) if isinstance(value, list) else value for key, value in entry.items()}
        self.faults = Faults(**fields)
        return super().compile(request)


def main(state: Path, script: list[dict[str, Any]]) -> int:
    """Serve one model that doubles numbers, however many, one inference at a time."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    signal.signal(signal.SIGUSR1, lambda *_: step(DAY_S))
    signal.signal(signal.SIGUSR2, lambda *_: step(-2 * DAY_S))
    path = str(state / "double.xml")
    info = a_model_info(path=path, inputs=(a_tensor("x", 1, (1, None)),), outputs=(a_tensor("y", 1, (1, None)),))
    spec = {
        "endpoint": {"http": "127.0.0.1:0", "grpc": None},
        "models": [{"name": MODEL, "source": path, "device": "CPU", "compile": {"streams": 1, "threads": 1}}],
    }
    document = {"apiVersion": "orch/v1", "kind": "Deployment", "metadata": {"name": "sim"}, "spec": spec}
    inventory = an_inventory()
    plan = resolve(Deployment.model_validate(document), inventory, {MODEL: info})
    backend = Scripted(inventory, {path: info}, SERVICE_S, compute=lambda arrays: (arrays[0] * 2,))
    backend.script = script
    return run(Start(plan, state, 1), backend)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
