"""Reads a commit: its manifests checked in every way that needs no device, and what they want as an apply takes it."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent import content
from orchestrator.agent.planning import Wanted
from orchestrator.agent.source_state import Fault, SourcePlan
from orchestrator.agent.store import Origin
from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.gitops.remote import Checkout, Commit

if TYPE_CHECKING:  # an idle agent needs no YAML
    from orchestrator.manifest.files import Text
    from orchestrator.manifest.load import Document, Manifests, SourceDocument

MANIFESTS_MAX = 1000  # files of one source
DEPLOYMENTS_MAX = 200  # of one source; each is a process
FAULTS_MAX = 50  # kept of one commit
_EMPTY = "the folder holds no manifest"

Bring = Callable[[Checkout, Iterable[str]], Collection[str]]
Authored = Callable[[Checkout, Path, int], Commit]


@dataclass(frozen=True, slots=True)
class Read:
    """What a commit wants."""

    wanted: tuple[Wanted, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    """FILE:LINE:COLUMN of each file that is kept for a model, since errors of the engine name that file."""

    def place(self, where: str) -> str | None:
        """Return FILE:LINE:COLUMN of what an error names: DEPLOYMENT[/MODEL][: FIELD], an address, or a kept file."""
        if where in self.kept:
            return self.kept[where]
        subject, _, path = where.partition(": ")
        name, _, model = subject.partition("/")
        for document in (one.document for one in self.wanted):
            if document.deployment.metadata.name == name:
                return str(document.where(*_loc(document, model, path)))
            endpoint = document.deployment.spec.endpoint
            if where in {endpoint.http, endpoint.grpc}:
                return str(document.where("spec", "endpoint", "http" if where == endpoint.http else "grpc"))
        return None


def read_commit(name: str, plan: SourcePlan, checkout: Checkout, bring: Bring, kept: Path) -> Read:
    """Return what the commit wants; raise OrchError with everything that is wrong with it, by FILE:LINE:COLUMN.

    `kept` is where the files that it names are kept.
    """
    manifests = _manifests(plan, checkout)
    problems = [_no_source(document) for document in manifests.sources]
    problems += _bounded(manifests, checkout, plan, bring)
    if problems:
        raise OrchError(Kind.INVALID, problems)
    wanted: list[Wanted] = []
    kept_places: dict[str, str] = {}
    for document in manifests.documents:
        addressed = content.address(document, checkout.root, kept, _beside(document))
        kept_places |= _kept_places(document, addressed)
        wanted.append(Wanted(addressed, _origin(name, document, checkout)))
    return Read(tuple(wanted), kept_places)


def _manifests(plan: SourcePlan, checkout: Checkout) -> Manifests:
    from orchestrator.manifest.files import read_all  # an idle agent needs no YAML
    from orchestrator.manifest.load import load_texts  # as above

    texts, problems = read_all([str(checkout.folder)], stdin=None, base=None)
    if not texts and [problem.what for problem in problems] == [_EMPTY]:
        if plan.prune_all:
            return load_texts([])
        what = "there is no manifest in this folder, so nothing is removed"
        hint = "commit one; or, if nothing shall be left, orch source delete NAME, or state spec.prune_all: true"
        raise OrchError(Kind.INVALID, what, where=plan.path, hint=hint)
    if len(texts) > MANIFESTS_MAX:
        what = f"{len(texts)} manifests, and a source has at most {MANIFESTS_MAX}"
        raise OrchError(Kind.TOO_LARGE, what, where=plan.path, hint="divide them over several folders and sources")
    return load_texts([_named(text, checkout.root) for text in texts], [_relative(each, checkout) for each in problems])


def _named(text: Text, root: Path) -> Text:
    """Return the text with the name that it has in the repository, as errors shall call it."""
    return replace(text, name=_in(root, text.name))


def _in(root: Path, name: str) -> str:
    return Path(name).relative_to(root).as_posix() if Path(name).is_relative_to(root) else name


def _relative(problem: Problem, checkout: Checkout) -> Problem:
    """Return the problem with paths as the repository has them: the folder of the checkout says nothing to people."""
    inside = re.compile(re.escape(f"{checkout.root}/") + r"[^\s'\":,;)]*")

    def told(text: str | None) -> str | None:
        return text and inside.sub(lambda found: _in(checkout.root, os.path.normpath(found[0])), text)

    return Problem(told(problem.what) or "", told(problem.where), told(problem.hint))


def _no_source(document: SourceDocument) -> Problem:
    hint = "keep it out of spec.path, and apply it with orch apply FILE"
    return Problem("kind: a source cannot hold sources", str(document.where("kind")), hint)


def _bounded(manifests: Manifests, checkout: Checkout, plan: SourcePlan, bring: Bring) -> list[Problem]:
    from orchestrator.gitops.bounds import problems as out_of_bounds  # an idle agent needs no YAML
    from orchestrator.manifest.model_file import check_sources  # as above

    documents = manifests.documents
    if len(documents) > DEPLOYMENTS_MAX:
        what = f"{len(documents)} deployments, and a source has at most {DEPLOYMENTS_MAX}"
        hint = "each is a process: serve several models by one deployment, or divide them over machines"
        return [Problem(what, str(documents[DEPLOYMENTS_MAX].where("metadata", "name")), hint)]
    bring(checkout, _elsewhere(documents, checkout))
    bring(checkout, _beside_elsewhere(documents, checkout))
    found = out_of_bounds(documents, checkout.root, [Path(root) for root in plan.model_roots])
    if found:  # what lies outside is not even looked for
        return [_relative(problem, checkout) for problem in found]
    return [_relative(problem, checkout) for document in documents for problem in check_sources(document)]


def _elsewhere(documents: Sequence[Document], checkout: Checkout) -> list[str]:
    """Return the models that the documents name inside the repository, relative to its root."""
    named = [document.base / model.source for document in documents for model in document.deployment.spec.models]
    return _inside(named, checkout)


def _beside_elsewhere(documents: Sequence[Document], checkout: Checkout) -> list[str]:
    """Return the files that belong to those models, which are read to know what they are."""
    from orchestrator.gitops.companions import companions  # an idle agent reads no models

    found = []
    for document in documents:
        for path in [document.base / model.source for model in document.deployment.spec.models]:
            if path.is_file() and path.resolve().is_relative_to(checkout.root.resolve()):
                with suppress(OrchError):  # told with its place where bounds are checked
                    found += [path.parent / name for name in companions(path)]
    return _inside(found, checkout)


def _inside(paths: Iterable[Path], checkout: Checkout) -> list[str]:
    normal = {Path(os.path.normpath(path)) for path in paths}  # as written: no link is followed
    return sorted(path.relative_to(checkout.root).as_posix() for path in normal if path.is_relative_to(checkout.root))


def _beside(document: Document) -> list[list[Path]]:
    """Return, for each model, the files that belong to it, as far as they are there."""
    from orchestrator.gitops.companions import companions  # an idle agent reads no models

    found = []
    for model in document.deployment.spec.models:
        path = Path(os.path.normpath(document.base / model.source))
        names = companions(path) if path.is_file() else ()
        found.append([path.parent / name for name in names if (path.parent / name).is_file()])
    return found


def _origin(name: str, document: Document, checkout: Checkout) -> Origin:
    labels = dict(document.deployment.metadata.labels)
    path = str(document.path or checkout.folder)
    commit = checkout.commit
    return Origin(document.source, path, str(document.base), labels, name, commit.id, commit.author or None)


def _loc(document: Document, model: str, path: str) -> tuple[str | int, ...]:
    names = [each.name for each in document.deployment.spec.models]
    fields = path.split(".") if path else []
    if model in names:
        return ("spec", "models", names.index(model), *fields)
    return ("spec", *fields) if fields else ("metadata", "name")


def _kept_places(document: Document, addressed: Document) -> dict[str, str]:
    before, after = document.deployment.spec.models, addressed.deployment.spec.models
    return {
        new.source: str(document.where("spec", "models", index, "source"))
        for index, (old, new) in enumerate(zip(before, after, strict=True))
        if old.source != new.source
    }


def faults(error: OrchError, checkout: Checkout, read: Read, authored: Authored) -> tuple[Fault, ...]:
    """Return what is wrong with a commit, each with its place in the repository and who touched that line last."""
    return tuple(_fault(problem, checkout, read, authored) for problem in error.problems[:FAULTS_MAX])


def _fault(problem: Problem, checkout: Checkout, read: Read, authored: Authored) -> Fault:
    place = None if problem.where is None else read.place(problem.where)
    problem = _relative(problem, checkout)
    where = place or problem.where
    what = problem.what if place is None else f"{problem.where}: {problem.what}"
    commit, found = checkout.commit, position(where)
    if found is not None:
        with suppress(OrchError, OSError):  # else it is the commit itself
            commit = authored(checkout, checkout.root / found[0], found[1])
    return Fault(what=what, where=where, hint=problem.hint, commit=commit.id, author=commit.author or None)


def position(where: str | None) -> tuple[str, int] | None:
    """Return file and line of FILE:LINE:COLUMN or FILE:LINE; None for anything else."""
    parts = (where or "").split(":")
    numbers = [part for part in parts[1:] if part.isdecimal()]
    if len(parts) < 2 or len(numbers) != len(parts) - 1 or not parts[0]:
        return None
    return parts[0], int(numbers[0])
