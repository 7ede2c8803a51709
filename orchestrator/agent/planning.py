"""From manifest documents to plans for this machine, beside the deployments that already run on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.agent.paths import state_dir
from orchestrator.agent.store import Origin
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner.plan import DeploymentPlan, digest

if TYPE_CHECKING:
    from orchestrator.manifest.load import Document

DOCUMENTS_MAX = 1000  # in one apply
PROBE_TIMEOUT_S = 120.0  # a GPU driver compiles its kernels at first use
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


def never() -> bool:
    """Return that nobody gave up."""
    return False


def silent(_deployment: str, _model: str | None, _phase: str, _message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a plan is to be found; its functions may be called from any thread."""

    locked: bool = False
    """Refuse what no lock holds."""
    measures: bool = False
    """Measure what neither a lock nor the memory holds; else it is planned by rule."""
    tell: Callable[[str, str | None, str, str], None] = silent
    """Takes deployment, model, phase and message while something is measured."""
    given_up: Callable[[], bool] = never
    """Tell whether measuring shall end at once."""


class Planner(Protocol):
    """Plans documents for this machine; blocks, so it runs in a thread."""

    def __call__(
        self, documents: Sequence[Document], running: Mapping[str, DeploymentPlan], asking: Asking, /
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
            origin = origin_of(document, text["name"])
            path = Path(origin.path) if Path(origin.path).is_absolute() else None
            wanted[name] = Wanted(replace(document, path=path), origin)
    if problems:
        raise OrchError(Kind.INVALID, problems)
    return tuple(wanted.values())


def origin_of(document: Document, name: str) -> Origin:
    """Return where the document came from; `name` is its file as the caller wrote it."""
    path = name if name in _STANDARD_INPUT else str(document.base / Path(name).name)
    labels = dict(document.deployment.metadata.labels)
    return Origin(document.source, path, str(document.base), labels)


def plan_on_this_machine(
    documents: Sequence[Document], running: Mapping[str, DeploymentPlan], asking: Asking, /
) -> list[DeploymentPlan | OrchError]:
    """Plan with what OpenVINO says of this machine and the models, asked and measured in processes of their own."""
    from orchestrator.runner.assemble import assemble_each, claims_of, cores_of  # an idle agent plans nothing
    from orchestrator.runner.decide import Policy
    from orchestrator.runner.locks import Memory, read_beside
    from orchestrator.runner.measuring import measuring

    names = {document.deployment.metadata.name for document in documents}
    others = {name: plan for name, plan in running.items() if name not in names}
    state = state_dir(os.environ)
    policy = Policy(
        locks=read_beside(documents),
        memory=Memory(state / "decisions"),
        measure=measuring(state) if asking.measures else None,
        locked=asking.locked,
        tell=asking.tell,
        cancelled=asking.given_up,
    )
    found = assemble_each(
        documents,
        inventory=None,
        timeout_s=PROBE_TIMEOUT_S,
        keep=cores_of(running),
        others=claims_of(others),
        policy=policy,
    )
    return [each if isinstance(each, OrchError) else each.plan for each in found]


def this_machine() -> str:
    """Return the fingerprint of this machine, as OpenVINO and the host describe it; blocks for a second or two."""
    from orchestrator.backend.probe import probe  # as above
    from orchestrator.inventory.fingerprint import fingerprint

    inventory, _ = probe((), timeout_s=PROBE_TIMEOUT_S)
    return fingerprint(inventory)


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
