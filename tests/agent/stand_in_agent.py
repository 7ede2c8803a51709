"""The real agent with stand-in workers and a planner that copies the manifest: no engine is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.agent.__main__ import run
from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.load import Document
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan, ModelPlan, QueuePlan

WORKER = (sys.executable, str(Path(__file__).with_name("stand_in_worker.py")))


def copy_manifests(
    documents: Sequence[Document], running: Mapping[str, DeploymentPlan]
) -> list[DeploymentPlan | OrchError]:
    return [_plan(document) for document in documents]


def _plan(document: Document) -> DeploymentPlan | OrchError:
    spec = document.deployment.spec
    if any("UNPLANNABLE" in model.properties for model in spec.models):
        return OrchError(Kind.UNSUPPORTED, "no device for this")
    return DeploymentPlan(
        name=document.deployment.metadata.name,
        endpoint=EndpointPlan(http=spec.endpoint.http, grpc=spec.endpoint.grpc),
        cpus=1,
        models=tuple(_model(model, document.base) for model in spec.models),
        fingerprint=os.environ.get("STAND_IN_MACHINE", "this machine"),
    )


def _model(model: ModelSpec, base: Path) -> ModelPlan:
    return ModelPlan(
        name=model.name,
        version="1",
        source=str(base / model.source),
        sha256="",
        requested=str(model.device),
        device=str(model.device),
        expression="hint",
        properties={key: str(value) for key, value in sorted(model.properties.items())},
        queue=QueuePlan(limit=model.queue.limit, timeout_s=1.0, memory_bytes=1),
    )


if __name__ == "__main__":
    sys.exit(run(os.environ, WORKER, copy_manifests))
