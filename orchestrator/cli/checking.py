"""`orch plan --check`: whether the locks hold what the manifests want, on this machine, recorded ones, or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import planning
from orchestrator.cli.planning import Step, Wishes
from orchestrator.errors import Kind, OrchError, Problem

if TYPE_CHECKING:
    from orchestrator.manifest.load import Manifests
    from orchestrator.planner.sketch import Wanted


def check(manifests: Manifests, wishes: Wishes, inventories: Sequence[Path]) -> str:
    """Return a line for each deployment and machine; raise OrchError with all locks and plans that do not hold.

    Without inventories the machine is this one. Measures nothing.
    """
    if not inventories:
        return _checked(manifests, wishes)
    lines, problems = [], []
    for path in inventories:
        try:
            text = _checked(manifests, replace(wishes, inventory=path))
            lines += [f"{path}: {line}" for line in text.splitlines(keepends=True)]
        except OrchError as error:
            problems += [replace(each, what=f"{each.what} (for {path})") for each in error.problems]
    if problems:
        raise OrchError(Kind.CONFLICT, problems)
    return "".join(lines)


def recorded(names: Sequence[str]) -> list[Path]:
    """Return the inventory files that the arguments name, those in a folder; raise OrchError where it has none."""
    from orchestrator.manifest.files import SUFFIXES  # only a check in CI names them

    found: list[Path] = []
    for name in map(Path, names):
        inside = sorted(each for each in name.iterdir() if each.suffix in SUFFIXES) if name.is_dir() else [name]
        if not inside:
            hint = "write one with: orch devices -o yaml"
            raise OrchError(Kind.INVALID, "the folder holds no inventory", where=str(name), hint=hint)
        found += inside
    return list(dict.fromkeys(found))


def check_fleet(manifests: Manifests) -> str:
    """Return a line for each deployment; raise OrchError where a lock does not fit a machine that it knows."""
    from orchestrator.cli.trees import wanted_here  # the planner brings pydantic: only here
    from orchestrator.planner.fleet import problems

    wanted = wanted_here(manifests.documents)
    found = [problem for each in wanted.values() for problem in problems(each)]
    if found:
        raise OrchError(Kind.CONFLICT, found)
    return "".join(f"{_fits(each)}\n" for each in wanted.values())


def _checked(manifests: Manifests, wishes: Wishes) -> str:
    from orchestrator.planner.fleet import unheld  # as above

    steps = planning.steps(manifests, wishes)
    found: list[Problem] = [problem for step in steps for problem in unheld(step.plan)]
    if found:
        raise OrchError(Kind.UNSUPPORTED, found)
    return "".join(map(_fits_here, steps))


def _fits_here(step: Step) -> str:
    found = step.assembled.found
    return f"{step.name}: {'the lock fits' if found.wanted else 'planned by rule, needs no lock'}\n"


def _fits(wanted: Wanted) -> str:
    from orchestrator.planner.modes import to_decide  # as above
    from orchestrator.planner.sketch import machines_of

    if not to_decide(wanted.deployment):
        return f"{wanted.name}: planned by rule, needs no lock"
    count = len(machines_of(wanted))
    return f"{wanted.name}: the lock fits {count} {'machine' if count == 1 else 'machines'}"
