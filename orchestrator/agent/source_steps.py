"""What a source does next: take a commit, repair what drifted, or rest, and for how long; what may be removed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.agent.source_state import Row, SourceState
from orchestrator.errors import Kind
from orchestrator.planner.plan import digest

JITTER = 0.1  # of the interval, and only off it: a commit is seen within one interval
BACKOFF_MAX_S = 30.0  # a remote that is gone is asked at least this often, or once an interval where that is longer
BACKOFF_DOUBLINGS_MAX = 16
REPAIR_PAUSE_MAX_S = 3600.0
SHORT = 8  # digits of a commit for people
DIGITS = 12

NOT_THE_COMMIT = frozenset({Kind.UNAVAILABLE, Kind.OVERLOADED, Kind.CANCELLED})
"""Errors of an attempt that say nothing about the commit: it is tried again at the next look."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at a source and its deployments showed."""

    head: str | None
    """Commit at the remote; None where it did not answer."""
    generation: int
    """Of the source's manifest."""
    surroundings: str
    drifted: Mapping[str, str]
    """Deployments that are not as the last good commit has them, and why."""
    asked: bool = False
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done."""

    reason: str


@dataclass(frozen=True, slots=True)
class Take:
    """Bring a commit about."""

    commit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repair:
    """Bring deployments back to the last good commit."""

    commit: str
    names: tuple[str, ...]
    reason: str


Step = Rest | Take | Repair


def next_step(state: SourceState, seen: Seen) -> Step:
    """Return what to do; the first that holds decides."""
    reason = None if seen.head is None else _why_take(state, seen)
    if seen.head is not None and reason is not None:
        return Take(seen.head, reason)
    if seen.drifted and state.applied is not None:
        names = tuple(sorted(seen.drifted))
        return Repair(state.applied.commit, names, "; ".join(f"{name}: {seen.drifted[name]}" for name in names))
    return Rest("the remote does not answer" if seen.head is None else "nothing changed")


def _why_take(state: SourceState, seen: Seen) -> str | None:
    last = state.attempted
    if last is None or last.commit != seen.head:
        return "a new commit"
    if last.result == "running":
        return "the last attempt was not finished"
    if seen.asked:
        return "asked for"
    if last.generation != seen.generation:
        return "the source's manifest changed"
    if last.result == "failed" and last.kind in {kind.value for kind in NOT_THE_COMMIT}:
        return "the last attempt failed for a reason that passes"
    if last.result == "failed" and last.surroundings != seen.surroundings:
        return "it failed, and since then something around it changed"
    return None


def drift(name: str, state: SourceState, rows: Mapping[str, Row]) -> dict[str, str]:
    """Return the deployments of the source that are not as its last good commit has them, and why."""
    if state.applied is None:
        return {}
    found = {}
    for each in state.names:
        why = _why_drifted(name, state.applied.commit, rows.get(each))
        if why is not None and each not in state.held:
            found[each] = why
    return found


def _why_drifted(source: str, commit: str, row: Row | None) -> str | None:
    if row is None:
        return "deleted by hand"
    if row.source is None:
        return "applied by hand"
    if row.source != source:
        return f"taken by the source {row.source}"
    if row.commit != commit:
        return f"at commit {short(row.commit or 'unknown')} instead of {short(commit)}"
    return None if row.settled else "its last change failed"


def surroundings(name: str, rows: Mapping[str, Row], machine: str) -> str:
    """Return a digest of what decides, beside a commit, whether it can run: the machine, and what else runs on it."""
    others = [f"{each} {row.desired}" for each, row in sorted(rows.items()) if row.source != name]
    return digest("\n".join([machine, *others]))[:DIGITS]


@dataclass(frozen=True, slots=True)
class Removal:
    """What a commit removes; `refused` says why it may not."""

    names: tuple[str, ...] = ()
    refused: str | None = None


def removal(owned: Collection[str], wanted: Collection[str], *, prune: bool, all_may_go: bool) -> Removal:
    """Return which of the deployments that came from a source a commit removes, having those that are wanted."""
    gone = tuple(sorted(set(owned) - set(wanted)))
    if not gone or not prune:
        return Removal()
    if len(gone) == len(set(owned)) and not all_may_go:
        count = "the one deployment" if len(gone) == 1 else f"all {len(gone)} deployments"
        return Removal((), f"would remove {count} of this source ({', '.join(gone[:3])}{', …' * (len(gone) > 3)})")
    return Removal(gone)


def pause_s(interval_s: float, failures: int, chance: float) -> float:
    """Return how long to rest after so many failures to ask the remote in a row; `chance` is from 0 to 1."""
    longest = max(interval_s, BACKOFF_MAX_S)
    return min(longest, interval_s * 2.0 ** min(failures, BACKOFF_DOUBLINGS_MAX)) * (1 - JITTER * chance)


def repair_pause_s(interval_s: float, failures: int) -> float:
    """Return how long to wait after so many repairs in a row that failed."""
    longest = max(interval_s, REPAIR_PAUSE_MAX_S)
    return 0.0 if not failures else min(longest, interval_s * 2.0 ** min(failures, BACKOFF_DOUBLINGS_MAX))


def short(commit: str) -> str:
    """Return a commit as people name it."""
    return commit[:SHORT]
