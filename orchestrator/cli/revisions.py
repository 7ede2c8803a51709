"""What differs between two revisions of a deployment, or between one and what runs (`orch diff --revision`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.render import Text

if TYPE_CHECKING:
    from orchestrator.planner.diff import Change

RANGE = re.compile(r"([1-9][0-9]{0,8})(?:\.\.([1-9][0-9]{0,8}))?")


def numbers(revision: str) -> tuple[int | None, int]:
    """Return from and to of `N..M`, or None and N of `N`: from what runs; anything else is wrong usage."""
    found = RANGE.fullmatch(revision)
    if found is None:
        raise typer.BadParameter(f"must be a revision such as 3, or two such as 3..5, got {revision!r}")
    first, second = found.groups()
    return (None, int(first)) if second is None else (int(first), int(second))


def differs(names: Sequence[str], revision: str, output: Text) -> bool:
    """Write what differs between revisions of one deployment; tell whether anything does."""
    start, end = numbers(revision)
    if len(names) != 1:
        raise typer.BadParameter("--revision compares plans of one deployment: give its name, and no file")
    (name,) = names
    before = control.ask("revision", {"name": name, "number": start})
    after = control.ask("revision", {"name": name, "number": end})
    changes = changes_of(before["plan"], after["plan"])
    acts = any(change.action != "unchanged" for change in changes)
    value = _as_json(name, before, after, changes)
    render.emit(value, output, lambda: text_of(name, before["number"], after["number"], changes) if acts else "")
    return acts


def changes_of(before: Any, after: Any) -> tuple[Change, ...]:
    """Return what leads from one plan to another, both as JSON."""
    from orchestrator.planner.diff import diff  # the planner brings pydantic: only comparing pays for it
    from orchestrator.planner.plan import DeploymentPlan

    return diff(DeploymentPlan.model_validate(before), DeploymentPlan.model_validate(after))


def _as_json(name: str, before: Any, after: Any, changes: Sequence[Change]) -> dict[str, Any]:
    listed = [
        {
            "model": change.model,
            "action": change.action,
            "symbol": change.symbol,
            "cause": change.cause,
            "details": list(change.details),
        }
        for change in changes
    ]
    ends = {"from": before["number"], "to": after["number"]}
    return {"apiVersion": "orch/v1", "kind": "RevisionDiff", "name": name, **ends, "changes": listed}


def text_of(name: str, before: int, after: int, changes: Sequence[Change]) -> str:
    """Return a line for each change, and how to go back."""
    from dataclasses import replace  # as above

    from orchestrator.planner.text import changes_to_text, summary

    full = [replace(change, model=f"{name}/{change.model}" if change.model else name) for change in changes]
    lines = changes_to_text(full, unchanged=False)
    return f"{lines}Revision {before} to {after}: {summary(changes)}. Go back with: orch rollback {name} --to {after}\n"
