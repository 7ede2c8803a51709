"""A real worker process whose device is the shipped simulated one: `simulated_worker.py STATE_DIR SERVICE_S`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.backend.simulated import SimulatedBackend  # noqa: E402 - found by the line above
from orchestrator.manifest.spec import Deployment  # noqa: E402
from orchestrator.planner.resolve import resolve  # noqa: E402
from orchestrator.serving.process import Start, run  # noqa: E402
from tests.builders import a_model_info, a_tensor, an_inventory  # noqa: E402

MODEL = "slow"


def main(state: Path, service_s: float) -> int:
    """Serve one model whose inferences take so long, one at a time."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    path = str(state / "slow.xml")
    info = a_model_info(path=path, inputs=(a_tensor("x", 1, 4),), outputs=(a_tensor("y", 1, 4),))
    spec = {
        "endpoint": {"http": "127.0.0.1:0", "grpc": None},
        "models": [{"name": MODEL, "source": path, "device": "CPU", "compile": {"streams": 1, "threads": 1}}],
    }
    document = {"apiVersion": "orch/v1", "kind": "Deployment", "metadata": {"name": "sim"}, "spec": spec}
    inventory = an_inventory()
    plan = resolve(Deployment.model_validate(document), inventory, {MODEL: info})
    backend = SimulatedBackend(inventory, {path: info}, service_s)
    return run(Start(plan, state, 1), backend)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
