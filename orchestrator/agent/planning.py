"""From manifest documents to plans for this machine, beside the deployments that already run on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.agent.store import Origin
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner.plan import DeploymentPlan, digest

if TYPE_CHECKING:
    from orchestrator.inventory.device import Inventory
    from orchestrator.inventory.model import ModelInfo
    from orchestrator.manifest.load import Document

DOCUMENTS_MAX = 1000  # in one apply
_STANDARD_INPUT = frozenset({"-", "<stdin>", "standard input", ""})


@dataclass(frozen=True, slots=True)
class Wanted:
    """One deployment that an apply asks for."""

    document: Document
    origin: Origin

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        return self.document.deployment.metadata.name


class Planner(Protocol):
    """Plans documents for this machine; blocks, so it runs in a thread."""

    def __call__(
        self, documents: Sequence[Document], running: Mapping[str, DeploymentPlan]
    ) -> list[DeploymentPlan | OrchError]:
        """Return a plan, or why there is none, for each document; `running` are the deployments that exist."""


def read(texts: Sequence[Mapping[str, Any]]) -> tuple[Wanted, ...]:
    """Return the deployments in the documents of an apply; raise OrchError with the problems of all of them."""
    from orchestrator.manifest.load import load_text  # an idle agent needs no YAML
    from orchestrator.manifest.model_file import check_sources  # as above

    if len(texts) > DOCUMENTS_MAX:
        raise OrchError(Kind.TOO_LARGE, f"{len(texts)} documents in one apply, at most {DOCUMENTS_MAX}")
    wanted: dict[str, Wanted] = {}
    problems: list[Problem] = []
    for text in texts:
        try:
            documents = load_text(text["text"], name=text["name"], base=Path(text["base"]))
        except OrchError as error:
            problems += error.problems
            continue
        for document in documents:
            name = document.deployment.metadata.name
            if name in wanted:
                what = f"metadata.name: the deployment name {name!r} is taken, first in {wanted[name].origin.path}"
                problems.append(Problem(what, text["name"], "give each deployment its own name"))
            problems += check_sources(document)
            wanted[name] = Wanted(document, origin_of(document, text["name"]))
    if problems:
        raise OrchError(Kind.INVALID, problems)
    return tuple(wanted.values())


def origin_of(document: Document, name: str) -> Origin:
    """Return where the document came from; `name` is its file as the caller wrote it."""
    path = name if name in _STANDARD_INPUT else str(document.base / Path(name).name)
    labels = dict(document.deployment.metadata.labels)
    return Origin(document.source, path, str(document.base), labels)


def plan_on_this_machine(
    documents: Sequence[Document], running: Mapping[str, DeploymentPlan]
) -> list[DeploymentPlan | OrchError]:
    """Plan with what OpenVINO says of this machine and the models, asked in a process of its own."""
    from orchestrator.backend.probe import ModelQuery, probe  # an idle agent plans nothing
    from orchestrator.manifest.model_file import resolve_source  # as above

    queries = [
        ModelQuery(path=str(resolve_source(document, model)), shapes=model.shapes, devices=model.device.devices)
        for document in documents
        for model in document.deployment.spec.models
    ]
    inventory, answers = probe(queries)
    rest = iter(answers)
    facts = [[next(rest) for _ in document.deployment.spec.models] for document in documents]
    return plan_for(inventory, documents, facts, running)


def plan_for(
    inventory: Inventory,
    documents: Sequence[Document],
    facts: Sequence[Sequence[ModelInfo | OrchError]],
    running: Mapping[str, DeploymentPlan],
) -> list[DeploymentPlan | OrchError]:
    """Plan for a machine; `facts` are what the models of each document are, in order."""
    from orchestrator.inventory.fingerprint import fingerprint  # as above

    cores = share_cores(inventory, documents, running)
    machine = fingerprint(inventory)
    plans: list[DeploymentPlan | OrchError] = []
    for document, models in zip(documents, facts, strict=True):
        name = document.deployment.metadata.name
        taken = sum(len(own) for other, own in cores.items() if own is not None and other != name)
        plans.append(_plan(document, inventory, models, Share(cores.get(name), taken, machine)))
    return plans


def share_cores(
    inventory: Inventory, documents: Sequence[Document], running: Mapping[str, DeploymentPlan]
) -> Mapping[str, tuple[int, ...] | None]:
    """Return the cores of each deployment that asks for some; those that run keep theirs."""
    from orchestrator.planner.layout import allocate_cores  # as above

    asked = {document.deployment.metadata.name: document.deployment.spec.resources.cpus for document in documents}
    keep = {name: plan.cores for name, plan in running.items() if plan.cores is not None}
    claims = {name: len(cores) for name, cores in keep.items() if name not in asked}
    claims |= {name: cpus for name, cpus in asked.items() if cpus is not None}
    return allocate_cores(inventory.host.cores.allowed, claims, keep)


@dataclass(frozen=True, slots=True)
class Share:
    """What of the machine a deployment is planned for."""

    cores: tuple[int, ...] | None
    taken_cpus: int
    fingerprint: str


def _plan(
    document: Document, inventory: Inventory, facts: Sequence[ModelInfo | OrchError], share: Share
) -> DeploymentPlan | OrchError:
    from orchestrator.planner.resolve import resolve  # as above

    spec = document.deployment.spec
    errors = [fact for fact in facts if isinstance(fact, OrchError)]
    if errors:
        return merge(errors)
    models = {
        model.name: fact for model, fact in zip(spec.models, facts, strict=True) if not isinstance(fact, OrchError)
    }
    token = spec.endpoint.token_file
    try:
        return resolve(
            document.deployment,
            inventory,
            models,
            cores=share.cores,
            taken_cpus=share.taken_cpus,
            token_file=None if token is None else str(document.base / token),
            fingerprint=share.fingerprint,
        )
    except OrchError as error:
        return error


def together(plans: Sequence[DeploymentPlan]) -> str:
    """Return the digest of what an apply would do: the plan's own, or one over those of several deployments."""
    digests = sorted(plan.digest() for plan in plans)
    return digests[0] if len(digests) == 1 else digest("".join(digests))[:12]


def merge(errors: Sequence[OrchError], kind: Kind | None = None) -> OrchError:
    """Return one error with the problems of all, of their kind where they share one, else FAILED."""
    kinds = {error.kind for error in errors}
    if kind is None:
        kind = kinds.pop() if len(kinds) == 1 else Kind.FAILED
    return OrchError(kind, [problem for error in errors for problem in error.problems])
