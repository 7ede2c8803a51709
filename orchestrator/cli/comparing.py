"""`orch diff --base`: what changes between two revisions of manifests and locks, as text, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.planning import Step, read_inventory

if TYPE_CHECKING:
    from orchestrator.cli.trees import Tree
    from orchestrator.planner.compare import Comparison, Difference
    from orchestrator.planner.diff import Change
    from orchestrator.planner.plan import ModelPlan

RUNNING = "what runs"


@dataclass(frozen=True, slots=True)
class Group:
    """Files among which names are unique."""

    name: str | None
    files: list[str]


def compared(files: Sequence[str], base: str, inventory: str | None) -> Comparison:
    """Return what leads from the manifests and locks of `base`, a folder or Git revision, to those of the files.

    Folders are compared one by one where there are several, so that sites may have deployments of the same name; each
    is then called with its folder. `inventory` compares for the machine of that file only. Raise OrchError for a base
    that is none, and for manifests and locks here that cannot be read; those of the base are noted.
    """
    from orchestrator.cli.trees import base_tree  # the planner brings pydantic: only here
    from orchestrator.inventory.fingerprint import fingerprint

    only = None if inventory is None else fingerprint(read_inventory(Path(inventory)))
    with base_tree(base, [Path(file).absolute() for file in files]) as tree:
        return _together(base, [_compared(group, tree, base, only) for group in _groups(files)])


def _groups(files: Sequence[str]) -> list[Group]:
    """Return each folder alone, and all that are none together."""
    folders = [file for file in dict.fromkeys(files) if Path(file).is_dir()]
    rest = [file for file in files if file not in folders]
    groups = [Group(folder.rstrip("/") or "/", [folder]) for folder in folders]
    if len(groups) + bool(rest) == 1:
        return [Group(None, list(files))]
    return [*groups, *([Group(None, rest)] if rest else [])]


def _compared(group: Group, tree: Tree, base: str, only: str | None) -> Comparison:
    from orchestrator.cli.manifests import read  # as above
    from orchestrator.cli.trees import Reader, wanted_here
    from orchestrator.planner.compare import compare

    reader = Reader(tree)
    after = wanted_here(read(group.files).documents)
    before = reader.deployments([Path(file).absolute() for file in group.files])
    found = replace(compare(before, after, base=base, only=only), notes=tuple(dict.fromkeys(reader.notes)))
    return found if group.name is None else _placed(found, group.name)


def _placed(comparison: Comparison, folder: str) -> Comparison:
    """Return the comparison with its deployments called by their folder."""
    differences = [replace(each, deployment=f"{folder}/{each.deployment}") for each in comparison.differences]
    problems = [replace(each, where=f"{folder}/{each.where}") for each in comparison.problems]
    return replace(comparison, differences=tuple(differences), problems=tuple(problems))


def _together(base: str, found: Sequence[Comparison]) -> Comparison:
    from orchestrator.planner.compare import Comparison  # as above

    return Comparison(
        base,
        tuple(each for one in found for each in one.differences),
        tuple(each for one in found for each in one.problems),
        tuple(each for one in found for each in one.notes),
        sum(one.total for one in found),
    )


def as_markdown(comparison: Comparison) -> str:
    """Return the comparison as a comment for a pull request."""
    from orchestrator.planner.markdown import to_markdown  # as above

    return to_markdown(comparison)


def of_steps(steps: Sequence[Step]) -> Comparison:
    """Return what the steps change of what runs here."""
    from orchestrator.planner.compare import Comparison, Difference  # as above

    def model(step: Step, name: str | None) -> ModelPlan | None:
        return next((each for each in step.plan.models if each.name == name), None)

    differences = [
        Difference(step.name, change, (), None, model(step, change.model))
        for step in steps
        for change in step.changes
        if change.action != "unchanged"
    ]
    return Comparison(RUNNING, tuple(differences), total=len(steps))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain data."""
    return {
        "apiVersion": "orch/v1",
        "kind": "Comparison",
        "base": comparison.base,
        "deployments": {"total": comparison.total, "changed": comparison.changed},
        "items": [_item(each) for each in comparison.differences],
        "problems": [asdict(each) for each in comparison.problems],
        "notes": list(comparison.notes),
    }


def _item(difference: Difference) -> dict[str, Any]:
    change = difference.change
    return {
        "deployment": difference.deployment,
        **asdict(change),
        "symbol": change.symbol,
        "details": list(change.details),
        "machines": list(difference.machines),
        "before": difference.before.model_dump(mode="json") if difference.before else None,
        "after": difference.after.model_dump(mode="json") if difference.after else None,
    }


def as_text(comparison: Comparison) -> str:
    """Return one line for each change, and what is to be looked at."""
    from orchestrator.planner.text import changes_to_text  # as above

    changes = [_named(each) for each in comparison.differences]
    lines = [f"warning: {problem}\n" for problem in comparison.problems]
    lines += [f"not compared: {note}\n" for note in comparison.notes]
    return changes_to_text(changes) + "".join(lines)


def _named(difference: Difference) -> Change:
    name = "/".join(filter(None, (difference.deployment, difference.change.model)))
    on = f" (on {', '.join(difference.machines)})" if difference.machines else ""
    return replace(difference.change, model=name, cause=difference.change.cause + on)
