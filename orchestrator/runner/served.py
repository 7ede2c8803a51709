"""A model as it is served, and what of it a change puts on trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.backend.base import Actual, CompileRequest
from orchestrator.planner.plan import ModelPlan
from orchestrator.runner.check import Checked
from orchestrator.runner.pool import Pool, PoolSettings
from orchestrator.runner.trial import Load, Subject
from orchestrator.runner.trying import Candidate


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as it runs: its plan, what was read back, the check, and the pool that answers."""

    plan: ModelPlan
    actual: Actual
    checked: Checked
    pool: Pool

    def planned(self, plan: ModelPlan) -> ServedModel:
        """Return the same pool with another plan, which `settle` brings about."""
        return self if plan == self.plan else replace(self, plan=plan)

    def settle(self) -> None:
        """Change in place what of the pool is not as planned."""
        wanted = settings(self.plan)
        if (self.pool.version, self.pool.settings) != (self.plan.version, wanted):
            self.pool.version = self.plan.version
            self.pool.reconfigure(wanted)


def candidates_of(
    old: Mapping[str, ServedModel], wanted: Mapping[str, ServedModel], before: Mapping[str, Load]
) -> list[Candidate]:
    """Return what is to be tried: models that change, and those with an SLO that share the machine with a new pool."""
    compiled = any(name not in old or old[name].pool is not model.pool for name, model in wanted.items())
    found = (_candidate(model, old.get(name), before.get(name), compiled) for name, model in wanted.items())
    return [each for each in found if each is not None]


def _candidate(model: ServedModel, was: ServedModel | None, before: Load | None, compiled: bool) -> Candidate | None:
    slo = model.plan.slo
    built = was is None or was.pool is not model.pool
    changed = was is None or built or settings(was.plan) != settings(model.plan)
    untold = slo is None and (not built or before is None or not before.arrivals)  # only real requests could tell
    if untold or not (changed or compiled):
        return None
    return Candidate(Subject(model.plan.name, slo, model.checked.quickest_s, before, changed), model.pool)


def without_place(models: Mapping[str, ServedModel], seated: Mapping[str, ServedModel]) -> list[ServedModel]:
    """Return those of the models whose pools are not among the seated ones."""
    pools = {served.pool for served in seated.values()}
    return [served for served in models.values() if served.pool not in pools]


def compile_request(plan: ModelPlan) -> CompileRequest:
    """Return what the backend is asked for."""
    return CompileRequest(
        path=plan.source,
        device=plan.device,
        properties=plan.properties,
        device_properties=plan.device_properties,
        shapes=plan.shapes,
        batch=plan.batch,
        sha256=plan.sha256,
        weights_sha256=plan.weights_sha256,
    )


def settings(plan: ModelPlan) -> PoolSettings:
    """Return what of the plan may change while the pool runs."""
    slo = plan.slo
    return PoolSettings(
        timeout_s=plan.queue.timeout_s,
        queue_limit=plan.queue.limit,
        memory_bytes=plan.queue.memory_bytes,
        slo_latency_s=slo.latency_s if slo else None,
        slo_percentile=slo.percentile if slo else None,
        slo_rate_per_s=slo.rate_per_s if slo else None,
        priority=plan.priority,
    )
