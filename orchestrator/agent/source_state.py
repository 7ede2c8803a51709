"""A source in plain data: what is wanted of it, what was taken from it, and what was wrong with that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.planner.plan import Frozen

Result = Literal["running", "applied", "failed"]


class SourcePlan(Frozen):
    """What a source's manifest wants, in plain values; paths are absolute."""

    url: str | None = None
    branch: str | None = None
    token_file: str | None = None
    ssh_key_file: str | None = None
    known_hosts_file: str | None = None
    allowed_signers_file: str | None = None
    folder: str | None = None
    path: str = "."
    interval_s: float = 60.0
    timeout_s: float = 60.0
    prune: bool = True
    prune_all: bool = False
    locks: Literal["measure", "hint", "refuse"] = "measure"
    model_roots: tuple[str, ...] = ()
    webhook: str | None = None
    """HOST:PORT; None where nobody tells of a push."""
    webhook_secret_file: str | None = None
    suspend: bool = False

    @property
    def kind(self) -> Literal["git", "folder"]:
        """Return what kind of place it is."""
        return "git" if self.folder is None else "folder"

    @property
    def place(self) -> str:
        """Return where it is, for people."""
        return self.url or self.folder or ""


class Fault(Frozen):
    """One thing that is wrong with a commit: where, what, whose, and what to do."""

    what: str
    where: str | None = None
    """FILE:LINE:COLUMN in the repository, or the object that failed."""
    hint: str | None = None
    commit: str | None = None
    """That touched the line last, as far as known."""
    author: str | None = None


class Tried(Frozen):
    """A commit that was tried, and how it went."""

    commit: str
    author: str = ""
    subject: str = ""
    time: float = 0.0
    """Unix time of the commit."""
    began: float
    """Unix time of the attempt."""
    result: Result
    generation: int
    """Of the source's manifest."""
    surroundings: str = ""
    """Digest of what else decides whether a commit can run here."""
    kind: str | None = None
    """Of the error."""
    faults: tuple[Fault, ...] = ()


class Before(Frozen):
    """A deployment as it was before an attempt; `revision` None where it was not there."""

    revision: int | None
    path: str = ""
    base: str = ""
    labels: dict[str, str] = {}  # noqa: RUF012 - pydantic copies it
    source: str | None = None
    commit: str | None = None


class Trouble(Frozen):
    """Why the remote cannot be asked, since when."""

    what: str
    hint: str | None
    since: float
    """Unix time."""


class SourceState(Frozen):
    """How far a source is; kept in the store."""

    applied: Tried | None = None
    """The last commit that all runs of."""
    attempted: Tried | None = None
    """The last commit that was tried."""
    names: tuple[str, ...] = ()
    """Deployments of the last good commit."""
    before: dict[str, Before] | None = None
    """What ran before the attempt under way, to be put back should it fail."""
    held: tuple[str, ...] = ()
    """Deployments that somebody rolled back by hand: left alone until the source is resumed."""
    trouble: Trouble | None = None
    """None while the remote answers."""
    conditions: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One source as it is wanted, and how far it is."""

    name: str
    manifest: str
    """Text of its document."""
    path: str
    """File of the manifest, or what stood for it."""
    labels: dict[str, str]
    plan: SourcePlan
    generation: int
    """Counts the plans that were wanted."""
    created: float
    state: SourceState


@dataclass(frozen=True, slots=True)
class Row:
    """As much of a deployment's record as shows whether it is as its source has it."""

    source: str | None
    commit: str | None
    desired: str
    """Digest of the plan that is wanted."""
    settled: bool = True
    """A worker ran that plan."""
