"""What would change between two revisions of manifests and locks, on each machine that the locks know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import Problem
from orchestrator.planner import fleet
from orchestrator.planner.diff import Change, diff
from orchestrator.planner.lock import LockedMachine, ModelFile
from orchestrator.planner.plan import DeploymentPlan, ModelPlan
from orchestrator.planner.sketch import Wanted, machines_of, sketch


@dataclass(frozen=True, slots=True)
class Difference:
    """What happens to one model of a deployment, or to its worker (`change.model` None)."""

    deployment: str
    change: Change
    machines: tuple[str, ...] = ()
    """In words, those on which exactly this happens; none where no lock names a machine."""
    before: ModelPlan | None = None
    after: ModelPlan | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs, sorted by deployment and model."""

    base: str
    """What is compared with, in words: a revision, a folder, or `what runs`."""
    differences: tuple[Difference, ...]
    problems: tuple[Problem, ...] = ()
    """Locks that do not fit the new manifests and SLOs that do not hold, of the deployments that differ."""
    notes: tuple[str, ...] = ()
    """What could not be compared."""
    total: int = 0
    """Deployments there are, those that are gone included."""

    @property
    def changed(self) -> int:
        """Return how many deployments differ."""
        return len({each.deployment for each in self.differences})


def compare(
    before: Mapping[str, Wanted], after: Mapping[str, Wanted], *, base: str, only: str | None = None
) -> Comparison:
    """Return what leads from the deployments `before`, by name, to those `after`.

    `only` is the fingerprint of the one machine to compare for. A deployment whose manifest, lock and model files are
    equal is not looked at any further.
    """
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    differences = [found for name in names for found in _differences(name, before.get(name), after.get(name), only)]
    problems = [problem for name in names if name in after for problem in fleet.problems(after[name])]
    return Comparison(base, tuple(differences), tuple(problems), total=len(before.keys() | after.keys()))


def of_plans(name: str, before: DeploymentPlan | None, after: DeploymentPlan | None) -> tuple[Difference, ...]:
    """Return what leads from one plan of a deployment to another, each change with the model's two plans."""
    return tuple(
        Difference(name, change, (), _model(before, change.model), _model(after, change.model))
        for change in diff(before, after)
        if change.action != "unchanged"
    )


def _differences(name: str, before: Wanted | None, after: Wanted | None, only: str | None) -> Sequence[Difference]:
    if before is not None and after is not None:
        was_files, will_files = before.files, after.files
        before = replace(before, files=_where_known(was_files, will_files))
        after = replace(after, files=_where_known(will_files, was_files))
    grouped: dict[str, Difference] = {}
    for machine in _machines(before, after, only):
        was = None if before is None else sketch(before, machine)
        will = None if after is None else sketch(after, machine)
        words = () if machine is None else (fleet.words(machine),)
        for found in of_plans(name, was, will):
            key = _key(found)
            so_far = grouped[key].machines if key in grouped else ()
            grouped[key] = replace(found, machines=(*so_far, *words))
    return sorted(grouped.values(), key=lambda each: each.change.model or "")


def _key(difference: Difference) -> str:
    """Return what is equal for the same difference on several machines."""
    plans = [plan.model_dump_json() if plan else "" for plan in (difference.before, difference.after)]
    return "\n".join([repr(difference.change), *plans])


def _machines(before: Wanted | None, after: Wanted | None, only: str | None) -> Sequence[LockedMachine | None]:
    """Return the machines that either lock knows, the later one's facts, or None for any where there are none."""
    known = {**(machines_of(before) if before else {}), **(machines_of(after) if after else {})}
    return [known[fingerprint] for fingerprint in sorted(known) if only in {None, fingerprint}] or [None]


def _where_known(mine: Mapping[str, ModelFile], theirs: Mapping[str, ModelFile]) -> Mapping[str, ModelFile]:
    """Leave out the digests of files that the other side could not read: what is not known has not changed."""
    unread = {name for name, file in theirs.items() if file.sha256 is None}
    return {name: ModelFile() if name in unread else file for name, file in mine.items()}


def _model(plan: DeploymentPlan | None, name: str | None) -> ModelPlan | None:
    return next((model for model in plan.models if model.name == name), None) if plan else None
