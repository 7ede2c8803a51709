"""Makes plans of manifests: inspects the model files, divides the cores, resolves; agent and command line share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.backend.probe import MODELS_MAX, ModelQuery, probe
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.load import Document
from orchestrator.manifest.model_file import check_sources, resolve_source
from orchestrator.planner.layout import allocate_cores
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import grant_cpus, resolve, tls_of
from orchestrator.runner.decide import Found, Policy, find


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out before anything is decided: the machine planned for, and what each model file is."""

    inventory: Inventory
    models: Mapping[tuple[str, str], ModelInfo | OrchError]
    """By deployment and model; an error where the file could not be read."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """One document's plan, with what it was made of."""

    plan: DeploymentPlan
    document: Document
    found: Found
    facts: Facts


RULES_ONLY = Policy()


def assemble(
    documents: Sequence[Document],
    *,
    inventory: Inventory | None,
    timeout_s: float,
    keep: Mapping[str, tuple[int, ...]] | None = None,
    others: Mapping[str, int] | None = None,
    policy: Policy = RULES_ONLY,
) -> tuple[DeploymentPlan, ...]:
    """Return one plan for each document, in their order; raise OrchError with the problems of all of them.

    Otherwise as `assemble_each`.
    """
    found = assemble_all(documents, inventory=inventory, timeout_s=timeout_s, keep=keep, others=others, policy=policy)
    return tuple(each.plan for each in found)


def assemble_all(
    documents: Sequence[Document],
    *,
    inventory: Inventory | None,
    timeout_s: float,
    keep: Mapping[str, tuple[int, ...]] | None = None,
    others: Mapping[str, int] | None = None,
    policy: Policy = RULES_ONLY,
) -> tuple[Assembled, ...]:
    """Do what `assemble` does, and return with each plan what it was made of."""
    problems = [problem for document in documents for problem in check_sources(document)]
    if problems:
        raise OrchError(Kind.INVALID, problems)
    results = assemble_each(
        documents, inventory=inventory, timeout_s=timeout_s, keep=keep, others=others, policy=policy
    )
    refused = [result for result in results if isinstance(result, OrchError)]
    if refused:
        raise together(refused)
    return tuple(result for result in results if isinstance(result, Assembled))


def assemble_each(
    documents: Sequence[Document],
    *,
    inventory: Inventory | None,
    timeout_s: float,
    keep: Mapping[str, tuple[int, ...]] | None = None,
    others: Mapping[str, int] | None = None,
    policy: Policy = RULES_ONLY,
) -> tuple[Assembled | OrchError, ...]:
    """Return for each document its plan, or why there is none.

    `inventory` plans for another machine (the model files are still read here); None asks this one, within
    `timeout_s`. `keep` are the cores that deployments have for themselves now, `others` how many cores deployments
    that are not among the documents claim. `policy` says how what is not planned by rule is found; by default all is.
    Raise OrchError where the machine cannot be asked, and CANCELLED where the policy's caller gave up.
    """
    facts = _facts(documents, inventory, timeout_s)
    claims = dict(others or {}) | _claims(documents)
    cores = allocate_cores(facts.inventory.host.cores.allowed, claims, keep or {})
    return tuple(_plan(document, facts, cores, policy) for document in documents)


def cores_of(running: Mapping[str, DeploymentPlan]) -> dict[str, tuple[int, ...]]:
    """Return the cores that running deployments have for themselves: `keep` of `assemble`."""
    return {name: plan.cores for name, plan in running.items() if plan.cores is not None}


def claims_of(others: Mapping[str, DeploymentPlan]) -> dict[str, int]:
    """Return how many cores other deployments have for themselves: `others` of `assemble`."""
    return {name: len(cores) for name, cores in cores_of(others).items()}


def together(errors: Sequence[OrchError]) -> OrchError:
    """Return one error with each problem of all, of their kind where they share one, else INVALID."""
    kinds = {error.kind for error in errors}
    problems = dict.fromkeys(problem for error in errors for problem in error.problems)
    return OrchError(kinds.pop() if len(kinds) == 1 else Kind.INVALID, problems)


def _claims(documents: Iterable[Document]) -> dict[str, int]:
    """Return the cores that documents claim for themselves, by deployment."""
    specs = {_name(document): document.deployment.spec for document in documents}
    return {name: spec.resources.cpus for name, spec in specs.items() if spec.resources.cpus is not None}


def _name(document: Document) -> str:
    return document.deployment.metadata.name


def _facts(documents: Sequence[Document], inventory: Inventory | None, timeout_s: float) -> Facts:
    queries = {
        (_name(document), model.name): ModelQuery(
            path=str(resolve_source(document, model)), shapes=model.shapes, devices=model.device.devices
        )
        for document in documents
        for model in document.deployment.spec.models
    }
    here, answers = _inspected(queries.values(), timeout_s)
    models = {model: answers[query.model_dump_json()] for model, query in queries.items()}
    return Facts(here if inventory is None else inventory, models)


def _inspected(queries: Iterable[ModelQuery], timeout_s: float) -> tuple[Inventory, dict[str, ModelInfo | OrchError]]:
    """Return this machine and, by the query's text, what each model file is: equal queries are asked once."""
    asked = {query.model_dump_json(): query for query in queries}
    keys, answers = list(asked), dict[str, ModelInfo | OrchError]()
    here: Inventory | None = None
    for first in range(0, len(keys) or 1, MODELS_MAX):
        some = keys[first : first + MODELS_MAX]
        here, infos = probe([asked[key] for key in some], timeout_s=timeout_s)
        answers |= zip(some, infos, strict=True)
    assert here is not None
    return here, answers


def _plan(
    document: Document, facts: Facts, cores: Mapping[str, tuple[int, ...] | None], policy: Policy
) -> Assembled | OrchError:
    name, spec = _name(document), document.deployment.spec
    answers = {model.name: facts.models[name, model.name] for model in spec.models}
    unread = [_placed(answer, f"{name}/{model}") for model, answer in answers.items() if isinstance(answer, OrchError)]
    if unread:
        return together(unread)
    infos = {model: answer for model, answer in answers.items() if isinstance(answer, ModelInfo)}
    taken = sum(len(each) for other, each in cores.items() if each and other != name)
    try:
        return _assembled(document, facts, infos, cores.get(name), taken, policy)
    except OrchError as error:
        if error.kind is Kind.CANCELLED:
            raise
        return error


def _assembled(
    document: Document,
    facts: Facts,
    infos: Mapping[str, ModelInfo],
    cores: tuple[int, ...] | None,
    taken: int,
    policy: Policy,
) -> Assembled:
    deployment, inventory = document.deployment, facts.inventory
    token = deployment.spec.endpoint.token_file
    tls = tls_of(deployment.spec.endpoint.tls, lambda file: str(document.base / file))

    def plan(found: Found) -> DeploymentPlan:
        return resolve(
            deployment,
            inventory,
            infos,
            cores=cores,
            taken_cpus=taken,
            token_file=None if token is None else str(document.base / token),
            tls=tls,
            fingerprint=fingerprint(inventory),
            decisions=found.decisions,
            notes=found.notes,
        )

    # By rule first: what no rule can plan (a device that is not there, models that do not fit) is not measured.
    by_rule = plan(Found())
    cpus, _ = grant_cpus(deployment, inventory, cores, taken)
    found = find(deployment, infos, inventory, cpus, cores, policy)
    return Assembled(by_rule if found == Found() else plan(found), document, found, facts)


def _placed(error: OrchError, model: str) -> OrchError:
    """Return the error with the model named where its problems do not say where they arose."""
    problems = [Problem(each.what, each.where or model, each.hint) for each in error.problems]
    return OrchError(error.kind, problems)
