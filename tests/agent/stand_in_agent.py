"""The real agent with stand-in workers and a planner that copies the manifest: no engine is asked."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.agent.__main__ import run
from orchestrator.agent.planning import Asking
from orchestrator.agent.restart import Patience
from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.load import Document
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan, ModelPlan, QueuePlan

WORKER = (sys.executable, str(Path(__file__).with_name("stand_in_worker.py")))


def this_machine() -> str:
    return os.environ.get("STAND_IN_MACHINE", "this machine")


def copy_manifests(
    documents: Sequence[Document], running: Mapping[str, DeploymentPlan], asking: Asking, /
) -> list[DeploymentPlan | OrchError]:
    return [_measured(document, asking) or _plan(document, running) for document in documents]


def _measured(document: Document, asking: Asking) -> OrchError | None:
    """Do as if a model were measured that says so: for ever, or while its file is there; until somebody gives up."""
    for model in document.deployment.spec.models:
        if "MEASURED" in model.properties and asking.locked and not asking.measures:
            return OrchError(Kind.CONFLICT, "no lock holds it", where=document.deployment.metadata.name)
        if "MEASURED" in model.properties and asking.measures:
            asking.tell(document.deployment.metadata.name, model.name, "measuring", f"locked: {asking.locked}")
            while _lasts(str(model.properties["MEASURED"])) and not asking.given_up():
                time.sleep(0.01)
    return None


def _lasts(measured: str) -> bool:
    return measured == "for ever" or Path(measured).exists()


def _plan(document: Document, running: Mapping[str, DeploymentPlan]) -> DeploymentPlan | OrchError:
    spec = document.deployment.spec
    if any("UNPLANNABLE" in model.properties for model in spec.models):
        where = f"{document.deployment.metadata.name}/{spec.models[0].name}: properties.UNPLANNABLE"
        return OrchError(Kind.UNSUPPORTED, "no device for this", where=where)
    return DeploymentPlan(
        name=document.deployment.metadata.name,
        endpoint=EndpointPlan(http=spec.endpoint.http, grpc=spec.endpoint.grpc),
        cpus=1,
        cores=_a_free_core(document, running) if spec.resources.cpus else None,
        models=tuple(_model(model, document.base) for model in spec.models),
        fingerprint=this_machine(),
    )


def _a_free_core(document: Document, running: Mapping[str, DeploymentPlan]) -> tuple[int]:
    name = document.deployment.metadata.name
    taken = {core for other, plan in running.items() if other != name for core in plan.cores or ()}
    return (next(core for core in range(1000) if core not in taken),)


def _model(model: ModelSpec, base: Path) -> ModelPlan:
    return ModelPlan(
        name=model.name,
        version="1",
        source=str(base / model.source),
        sha256=hashlib.sha256((base / model.source).read_bytes()).hexdigest(),
        requested=str(model.device),
        device=str(model.device),
        expression="hint",
        properties={key: str(value) for key, value in sorted(model.properties.items())},
        queue=QueuePlan(limit=model.queue.limit, timeout_s=1.0, memory_bytes=1),
        warnings=(str(model.properties["WARNED"]),) if "WARNED" in model.properties else (),
    )


if __name__ == "__main__":
    patience_s = float(os.environ.get("STAND_IN_PATIENCE_S", Patience().serving_s))
    patience = Patience(serving_s=patience_s, polls=2)
    sys.exit(run(os.environ, WORKER, copy_manifests, patience, this_machine))
