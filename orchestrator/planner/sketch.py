"""The plan of a deployment as far as its manifest and its lock tell it, for a machine that is not here.

What measuring decided stands in the lock; what the rules would decide needs the machine and the model, so of a model
without a decision only what its manifest asks for is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.manifest.spec import Compile, Deployment, ModelSpec
from orchestrator.planner import properties as keys
from orchestrator.planner.lock import Lock, LockedDeployment, LockedMachine, ModelFile
from orchestrator.planner.modes import to_decide
from orchestrator.planner.plan import DeploymentPlan, ModelPlan, Reason
from orchestrator.planner.resolve import as_decided, endpoint_of, queue_of, slo_of
from orchestrator.planner.rules import because

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One deployment as one revision of the manifests wants it."""

    deployment: Deployment
    lock: Lock | None = None
    files: Mapping[str, ModelFile] = field(default_factory=dict)
    """The model files, by model."""

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        return self.deployment.metadata.name

    def entry(self, fingerprint: str | None) -> LockedDeployment | None:
        """Return what is locked for it on that machine."""
        if self.lock is None or fingerprint is None:
            return None
        return self.lock.deployment(fingerprint, self.name)


def machines_of(wanted: Wanted) -> Mapping[str, LockedMachine]:
    """Return the machines that its lock holds it for, by fingerprint."""
    machines = wanted.lock.machines if wanted.lock else ()
    return {machine.fingerprint: machine for machine in machines if wanted.name in machine.deployments}


def sketch(wanted: Wanted, machine: LockedMachine | None) -> DeploymentPlan:
    """Return the plan as it would be on a machine that some lock describes, or on any (None).

    Decisions are taken from the lock also where they no longer fit: `lock.drift_there` tells that.
    """
    deployment, entry = wanted.deployment, wanted.entry(machine.fingerprint if machine else None)
    decides = to_decide(deployment)
    models = (
        _model(spec, wanted.files.get(spec.name, ModelFile()), entry, decided=spec.name in decides)
        for spec in deployment.spec.models
    )
    return DeploymentPlan(
        name=wanted.name,
        endpoint=endpoint_of(deployment, deployment.spec.endpoint.token_file),
        cpus=_cpus(deployment, entry, machine),
        memory_bytes=deployment.spec.resources.memory,
        models=tuple(sorted(models, key=lambda model: model.name)),
        fingerprint=machine.fingerprint if machine else "",
    )


def _cpus(deployment: Deployment, entry: LockedDeployment | None, machine: LockedMachine | None) -> int:
    effective = machine.facts.get("effective_cpus") if machine else None
    return (entry.cpus if entry else None) or deployment.spec.resources.cpus or effective or 1


def _model(spec: ModelSpec, file: ModelFile, entry: LockedDeployment | None, *, decided: bool) -> ModelPlan:
    plan = _as_asked(spec, file, decided=decided)
    locked = entry.models.get(spec.name) if entry and decided else None
    return plan if locked is None else as_decided(plan, locked.decision)


def _as_asked(spec: ModelSpec, file: ModelFile, *, decided: bool) -> ModelPlan:
    asked = spec.compile or Compile()
    return ModelPlan(
        name=spec.name,
        version=spec.version,
        source=spec.source,
        sha256=file.sha256 or UNKNOWN,
        weights_sha256=file.weights_sha256,
        requested=str(spec.device),
        device=str(spec.device),
        expression="hint" if asked.streams is None else "explicit",
        properties=_properties(spec, asked),
        shapes={name: list(spec.shapes[name]) for name in sorted(spec.shapes)},
        streams=asked.streams if isinstance(asked.streams, int) else None,
        threads=asked.threads,
        batch=asked.batch or 1,
        requests=asked.requests,
        queue=queue_of(spec),
        slo=slo_of(spec),
        concurrency=spec.traffic.concurrency,
        priority=spec.priority,
        reasons=(_reason(decided=decided),),
    )


def _properties(spec: ModelSpec, asked: Compile) -> dict[str, str]:
    """Return the OpenVINO properties that the manifest asks for; orch adds its own where it runs."""
    stated: dict[str, Any] = {
        keys.PERFORMANCE_HINT: asked.hint,
        keys.NUM_STREAMS: asked.streams,
        keys.NUM_THREADS: asked.threads,
        keys.NUM_REQUESTS: asked.requests if asked.streams is None else None,
    }
    stated |= spec.properties
    return {key: keys.to_text(stated[key]) for key in sorted(stated) if stated[key] is not None}


def _reason(*, decided: bool) -> Reason:
    if decided:
        return because("plan", "no lock holds it: it is measured, or predicted, where it runs")
    return because("plan", "by rule where it runs; here only what the manifest asks for is known")
