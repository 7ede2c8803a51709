"""Reads one file of generated facts (an inventory, a lock) as the pydantic model that it was written from."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.manifest import source
from orchestrator.manifest.explain import dotted, seen

T = TypeVar("T", bound=BaseModel)


def from_yaml(model: type[T], text: str, name: str, *, called: str, hint: str) -> T:
    """Read one value of the model; raise OrchError with every problem at `name:line:column`.

    `called` is what errors call the file's contents, such as `inventory`; `hint` says how to write the file anew.
    """
    parsed = source.parse(text, name)
    problems = [finding.problem for finding in parsed.findings]
    start = str(source.Position(name, 1, 1))
    if not problems and len(parsed.documents) != 1:
        problems.append(Problem(f"must hold one {called}, got {len(parsed.documents)} documents", start, hint))
    if problems:
        raise OrchError(Kind.INVALID, problems)
    root = parsed.documents[0].root
    try:
        return model.model_validate(root.value)
    except ValidationError as error:
        raise OrchError(Kind.INVALID, [_problem(root, entry, called, hint) for entry in error.errors()]) from None


def _problem(root: source.Node, entry: Any, called: str, hint: str) -> Problem:
    """Say what pydantic found, in our words and with its place in the text."""
    found = source.lookup(root, entry["loc"])
    path = dotted(entry["loc"]) or f"the {called}"
    if entry["type"] == "extra_forbidden":
        return Problem(f"{path}: unknown key", str(found.key_position), f"delete it, or {hint}")
    if entry["type"] == "missing":
        return Problem(f"{path}: is missing", str(found.position), hint)
    words = entry["msg"][:1].lower() + entry["msg"][1:]
    return Problem(f"{path}: {words}, got {seen(entry['input'])}", str(found.position), hint)
