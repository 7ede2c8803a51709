"""Makes plans of manifests: inspects the model files, divides the cores, resolves; agent and command line share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.backend import probe
from orchestrator.backend.probe import ModelQuery
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.load import Document
from orchestrator.manifest.model_file import check_sources, resolve_source
from orchestrator.planner.layout import allocate_cores
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out before anything is decided: the machine planned for, and each deployment's model files."""

    inventory: Inventory
    models: Mapping[str, Mapping[str, ModelInfo]]
    """By deployment and model."""


def assemble(
    documents: Sequence[Document],
    *,
    inventory: Inventory | None,
    timeout_s: float,
    keep: Mapping[str, tuple[int, ...]] | None = None,
    others: Mapping[str, int] | None = None,
) -> tuple[DeploymentPlan, ...]:
    """Return one plan for each document, in their order.

    `inventory` plans for another machine (the model files are still read here); None probes this one within
    `timeout_s`. `keep` are the cores that deployments have now, `others` the cores that deployments not among the
    documents claim. Raise OrchError with the problems of all models of all documents.
    """
    _raise_if((problem for document in documents for problem in check_sources(document)), Kind.INVALID)
    facts = _facts(documents, inventory, timeout_s)
    claims = dict(others or {}) | _claims(documents)
    cores = allocate_cores(facts.inventory.host.cores.allowed, claims, keep or {})
    plans: list[DeploymentPlan] = []
    refused: list[OrchError] = []
    for document in documents:
        try:
            plans.append(_resolved(document, facts, cores))
        except OrchError as error:
            refused.append(error)
    _raise_if((problem for error in refused for problem in error.problems), *(error.kind for error in refused))
    return tuple(plans)


def _raise_if(problems: Iterable[Problem], *kinds: Kind) -> None:
    found = list(problems)
    if found:
        raise OrchError(kinds[0], found)


def _claims(documents: Iterable[Document]) -> dict[str, int]:
    """Return the cores that documents claim for themselves, by deployment."""
    specs = {document.deployment.metadata.name: document.deployment.spec for document in documents}
    return {name: spec.resources.cpus for name, spec in specs.items() if spec.resources.cpus is not None}


def _facts(documents: Sequence[Document], inventory: Inventory | None, timeout_s: float) -> Facts:
    queries = {
        (document.deployment.metadata.name, model.name): ModelQuery(
            path=str(resolve_source(document, model)), shapes=model.shapes, devices=model.device.devices
        )
        for document in documents
        for model in document.deployment.spec.models
    }
    here, infos = probe.probe(list(queries.values()), timeout_s=timeout_s)
    found: dict[str, dict[str, ModelInfo]] = {}
    for (deployment, model), info in zip(queries, infos, strict=True):
        found.setdefault(deployment, {})[model] = info
    return Facts(here if inventory is None else inventory, found)


def _resolved(document: Document, facts: Facts, cores: Mapping[str, tuple[int, ...] | None]) -> DeploymentPlan:
    deployment = document.deployment
    name, token = deployment.metadata.name, deployment.spec.endpoint.token_file
    return resolve(
        deployment,
        facts.inventory,
        facts.models.get(name, {}),
        cores=cores.get(name),
        taken_cpus=sum(len(taken) for other, taken in cores.items() if taken and other != name),
        token_file=None if token is None else str(document.base / token),
        fingerprint=fingerprint(facts.inventory),
    )
