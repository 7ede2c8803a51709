"""What is done to a deployment: the step from what runs to what is wanted, what is pruned, which addresses clash."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from orchestrator.agent.planning import Wanted
from orchestrator.agent.store import DeploymentRecord
from orchestrator.agent.turns import Report
from orchestrator.planner.diff import Change, needs_action
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan

ANY_HOST = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared with, not bound to


class Step(enum.Enum):
    """What is done to a deployment."""

    NOTHING = "nothing"
    CREATE = "create"  # no worker serves it: start one
    UPDATE = "update"  # the worker changes its pools in place
    REPLACE = "replace"  # another worker takes over


def decide(record: DeploymentRecord | None, serving: bool, changes: Sequence[Change]) -> Step:
    """Return what to do; `changes` lead from what was last applied to what is wanted."""
    if record is None or not serving:
        return Step.CREATE
    if any(change.model is None and change.action == "replace" for change in changes):
        return Step.REPLACE
    wanted_before = record.applied is not None and record.desired.digest() == record.applied.digest()
    if wanted_before and not needs_action(tuple(changes)):
        return Step.NOTHING
    return Step.UPDATE


def to_prune(records: Sequence[DeploymentRecord], wanted: Sequence[Wanted], exists: Callable[[str], bool]) -> list[str]:
    """Return the deployments that `--prune` deletes: those not named that came from the same place as these documents.

    The same place is a file that is named again, or a file of the same folder that is no longer there.
    """
    named = {one.name for one in wanted}
    files, folders = {one.origin.path for one in wanted}, {one.origin.base for one in wanted}
    return [
        record.name
        for record in records
        if record.name not in named
        and (
            record.origin.path in files
            or (
                record.origin.base in folders
                and Path(record.origin.path).is_absolute()
                and not exists(record.origin.path)
            )
        )
    ]


def warn_owned(records: Iterable[DeploymentRecord | None], report: Report) -> None:
    """Report which of the deployments, about to be changed by hand, a source will change back."""
    for record in records:
        if record is not None and record.origin.source is not None:
            source = record.origin.source
            what = f"belongs to the source {source!r}, which changes it back; to keep it: orch source suspend {source}"
            report({"deployment": record.name, "model": None, "phase": "warning", "message": what})


def warn_planned(plan: DeploymentPlan, report: Report) -> None:
    """Report the warnings of a plan: it is carried out whatever they say, and who applies may not have looked at it."""
    told: list[tuple[str | None, str]] = [(None, warning) for warning in plan.warnings]
    told += [(model.name, warning) for model in plan.models for warning in model.warnings]
    for model, what in dict.fromkeys(told):
        report({"deployment": plan.name, "model": model, "phase": "warning", "message": what})


def overlap(wanted: EndpointPlan, taken: EndpointPlan) -> list[str]:
    """Return which of `http` and `grpc` cannot be listened on beside an endpoint that is taken."""
    return [
        field
        for field, address in (("http", wanted.http), ("grpc", wanted.grpc))
        if address is not None and any(_same_place(address, other) for other in (taken.http, taken.grpc) if other)
    ]


def _same_place(one: str, other: str) -> bool:
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    hosts = {{"localhost": "127.0.0.1"}.get(name, name) for name in (host, other_host)}
    return port == other_port != "0" and (len(hosts) == 1 or bool(hosts & ANY_HOST))
