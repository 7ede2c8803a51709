"""What Prometheus is told of deployments, their workers and sources by the agent, which is never on a request's way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from orchestrator.telemetry.families import Line, Values, families

HEALTH = ("Healthy", "Progressing", "Degraded", "Suspended", "Missing")
SYNC = ("Synced", "OutOfSync", "Unknown")
WORKER_STATES = ("running", "backoff", "crash_loop", "failed", "missing")


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """One deployment as the agent sees it."""

    name: str
    health: str
    sync: str
    worker_state: str
    restarts: int
    source: str = ""
    """Name of the source that it came from; empty where somebody applied it by hand."""
    commit: str = ""
    applied_revision: int | None = None
    attempted_revision: int | None = None
    attempted_epoch_s: float | None = None
    revision_failed: bool = False


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source as the agent sees it; times in seconds since the epoch, None where it never happened."""

    name: str
    interval_s: float
    suspended: bool
    ready: bool
    """Whether the commit that was last seen there is what runs."""
    held: int = 0
    """Deployments that were rolled back by hand, and are left alone until it is resumed."""
    silent_since_epoch_s: float | None = None
    """Since when the remote cannot be asked; None while it answers."""
    attempted_epoch_s: float | None = None
    """When a commit was last begun to be applied."""
    applied_epoch_s: float | None = None
    """When the commit that runs was begun to be applied."""
    attempted: str = ""
    """The commit last begun."""
    applied: str = ""
    """The commit last applied in full."""


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What an agent says of itself and of what it keeps."""

    version: str
    started_epoch_s: float
    deployments: tuple[DeploymentReport, ...] = ()
    sources: tuple[SourceReport, ...] = ()


def _deployments(read: Callable[[DeploymentReport], float | None]) -> Callable[[AgentReport], Values]:
    def values(agent: AgentReport) -> Values:
        numbers = {(each.name,): read(each) for each in agent.deployments}
        return {labels: number for labels, number in numbers.items() if number is not None}

    return values


def _sources(read: Callable[[SourceReport], float | None]) -> Callable[[AgentReport], Values]:
    def values(agent: AgentReport) -> Values:
        numbers = {(each.name,): read(each) for each in agent.sources}
        return {labels: number for labels, number in numbers.items() if number is not None}

    return values


def _one_of(words: Iterable[str], read: Callable[[DeploymentReport], str]) -> Callable[[AgentReport], Values]:
    """Return a series for each word, 1 for the one that holds."""
    kept = tuple(words)
    return lambda agent: {(each.name, word): float(read(each) == word) for each in agent.deployments for word in kept}


AGENT_METRICS: tuple[Line[AgentReport], ...] = (
    Line(
        *("orch_deployment_health", "gauge", "1 for the health that the deployment is in, 0 for the others."),
        ("deployment", "health"),
        _one_of(HEALTH, lambda each: each.health),
    ),
    Line(
        *("orch_deployment_sync", "gauge", "1 for whether the worker runs the plan that is wanted, 0 for the others."),
        ("deployment", "sync"),
        _one_of(SYNC, lambda each: each.sync),
    ),
    Line(
        *("orch_deployment_worker_state", "gauge", "1 for what the agent does for the worker, 0 for the others."),
        ("deployment", "state"),
        _one_of(WORKER_STATES, lambda each: each.worker_state),
    ),
    Line(
        *("orch_deployment_worker_restarts", "counter", "Times that a worker that had died was started again."),
        ("deployment",),
        _deployments(lambda each: each.restarts),
    ),
    Line(
        *("orch_deployment_applied_revision", "gauge", "Number of the revision that runs; absent before the first."),
        ("deployment",),
        _deployments(lambda each: each.applied_revision),
    ),
    Line(
        *("orch_deployment_attempted_revision", "gauge", "Number of the revision that was last begun."),
        ("deployment",),
        _deployments(lambda each: each.attempted_revision),
    ),
    Line(
        *("orch_deployment_attempted_timestamp_seconds", "gauge", "When it was begun, in seconds since the epoch."),
        ("deployment",),
        _deployments(lambda each: each.attempted_epoch_s),
    ),
    Line(
        *("orch_deployment_revision_failed", "gauge", "1 while the last revision failed and an older one serves."),
        ("deployment",),
        _deployments(lambda each: float(each.revision_failed)),
    ),
    Line(
        *("orch_deployment", "info", "Where the deployment came from; the value is always 1."),
        ("deployment", "source", "commit"),
        lambda agent: {(each.name, each.source, each.commit): 1 for each in agent.deployments},
    ),
    Line(
        *("orch_source_ready", "gauge", "1 while the commit last seen in the source is what runs."),
        ("source",),
        _sources(lambda each: float(each.ready)),
    ),
    Line(
        *("orch_source_suspended", "gauge", "1 while the source is suspended: it is not looked at."),
        ("source",),
        _sources(lambda each: float(each.suspended)),
    ),
    Line(
        *("orch_source_held_deployments", "gauge", "Deployments that were rolled back by hand, and are left alone."),
        ("source",),
        _sources(lambda each: each.held),
    ),
    Line(
        *("orch_source_interval_seconds", "gauge", "Time between two looks at the source."),
        ("source",),
        _sources(lambda each: each.interval_s),
    ),
    Line(
        *(
            "orch_source_silent_since_timestamp_seconds",
            "gauge",
            "Since when it cannot be asked; absent while it answers.",
        ),
        ("source",),
        _sources(lambda each: each.silent_since_epoch_s),
    ),
    Line(
        *("orch_source_attempted_timestamp_seconds", "gauge", "When a commit of it was last begun to be applied."),
        ("source",),
        _sources(lambda each: each.attempted_epoch_s),
    ),
    Line(
        *("orch_source_applied_timestamp_seconds", "gauge", "When the commit of it that runs was begun."),
        ("source",),
        _sources(lambda each: each.applied_epoch_s),
    ),
    Line(
        *("orch_source", "info", "The commits last begun and last applied in full; the value is always 1."),
        ("source", "attempted", "applied"),
        lambda agent: {(each.name, each.attempted, each.applied): 1 for each in agent.sources},
    ),
    Line(
        *("orch_agent_start_time_seconds", "gauge", "When the agent started, in seconds since the epoch."),
        (),
        lambda agent: {(): agent.started_epoch_s},
    ),
    Line(
        *("orch_agent", "info", "Version of the agent; the value is always 1."),
        ("version",),
        lambda agent: {(agent.version,): 1},
    ),
)


class AgentCollector(Collector):
    """Turns one report into metric families."""

    def __init__(self, report: AgentReport) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        """Return one family for each line of the table that has a value."""
        return families(AGENT_METRICS, self._report)


def agent_registry(report: AgentReport) -> CollectorRegistry:
    """Return a registry of the report and of the process's own CPU, memory and descriptors."""
    registry = CollectorRegistry()
    registry.register(AgentCollector(report))
    ProcessCollector(registry=registry)
    return registry
