"""Errors that know what kind they are, where they arose, and what to do about them; edges map kinds to transports."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Kind(enum.Enum):
    """What went wrong, in terms that each edge (exit code, HTTP, gRPC) maps in a table of its own."""

    INVALID = "invalid"  # the input breaks a rule: manifest, request, argument
    NOT_FOUND = "not-found"  # no such deployment, model, file
    CONFLICT = "conflict"  # somebody else holds it, or the state changed meanwhile
    UNSUPPORTED = "unsupported"  # this machine, device or version cannot do it
    UNAVAILABLE = "unavailable"  # it exists but does not answer: agent not running, model not ready
    OVERLOADED = "overloaded"  # refused now, may be tried again later
    QUOTA = "quota"  # this caller has had its share; others are served
    DEADLINE = "deadline"  # it took, or would take, longer than allowed
    CANCELLED = "cancelled"  # the caller went away
    TOO_LARGE = "too-large"  # over a stated limit
    FAILED = "failed"  # tried and did not succeed: compile, start, check
    UNAUTHORIZED = "unauthorized"  # no or a wrong token
    INTERNAL = "internal"  # our bug


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what (with the value seen), where (file:line:column or object), and what to do."""

    what: str
    where: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class OrchError(Exception):
    """One or more problems of one kind, meant for the user; never a traceback."""

    def __init__(
        self,
        kind: Kind,
        what: str | Iterable[Problem],
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
    ) -> None:
        self.kind = kind
        self.problems = (Problem(what, where, hint),) if isinstance(what, str) else tuple(what)
        self.retry_after_s = retry_after_s
        self.code = code or kind.name
        """For programs: why, more exactly than the kind, in capital letters."""
        super().__init__("; ".join(str(problem) for problem in self.problems))


def render(error: OrchError) -> str:
    """Return the text people see: an `error:` line for each problem, each with its `hint:` line if it has one."""
    lines = []
    for problem in error.problems:
        lines.append(f"error: {problem}")
        if problem.hint:
            lines.append(f"hint: {problem.hint}")
    return "\n".join(lines)
