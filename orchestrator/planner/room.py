"""How much each model of a layout can take: its own rate grown in the crowd until it misses, the others at theirs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from orchestrator.planner.capacity import LOAD_MAX, boundary
from orchestrator.planner.decision import Capacity, Decision
from orchestrator.planner.joint import Joint, Layout, Member, Option, in_time, simulated_at
from orchestrator.planner.steps import FRONT_END_S
from orchestrator.profiling.measurement import Proof

STEP = 1.03  # the factor between rates that are told apart: so few requests leave about as much open
REQUESTS_OWN, REQUESTS_ALL = 3000, 6000  # simulated for one rate: of the model that grows, and of all


def room(joint: Joint, layout: Layout, *, seed: int = 1) -> dict[str, float]:
    """Return the largest rate of each model at which it holds its SLO while the others come at theirs.

    At most 0.9 of the throughput of its streams, as of a model alone, and what the front end takes in.
    """
    return {member.model: _most_per_s(joint, layout, member, seed) for member in joint.members}


def _most_per_s(joint: Joint, layout: Layout, member: Member, seed: int) -> float:
    ceiling = ceiling_per_s(layout.options[member.model])
    slack = layout.forecasts[member.model].slack

    def holds(per_s: float) -> bool:
        return member.model in _in_time_at(joint.members, layout.options, joint.cpus, member.model, per_s, seed)

    return boundary(holds, max(slack, 1.0) * member.rate_per_s, ceiling, STEP)


def ceiling_per_s(option: Option) -> float:
    """Return the largest rate that is planned for an option: a part of what its streams serve when never idle."""
    stream = option.stream
    most_per_s = stream.streams / statistics.fmean(stream.alone_s) / stream.beside
    return min(LOAD_MAX * most_per_s, 1 / FRONT_END_S)


def _in_time_at(
    members: Sequence[Member], options: Mapping[str, Option], cpus: int, model: str, per_s: float, seed: int
) -> set[str]:
    rates = {member.model: member.rate_per_s for member in members} | {model: per_s}
    seconds = min(REQUESTS_OWN / per_s, REQUESTS_ALL / sum(rates.values()))
    return in_time(members, simulated_at(members, options, cpus, rates, seconds, seed))


def capacity_of(per_s: float, alone: Decision, proof: Proof | None) -> Capacity:
    """Return the capacity with an interval: no more than the model carries alone, no less than was proved.

    The interval is in proportion as wide as alone, whose samples are the same.
    """
    before = alone.capacity
    low, high = 1.0, 1.0
    if before is not None and before.per_s > 0:
        per_s = min(per_s, before.per_s)
        low, high = before.low_per_s / before.per_s, before.high_per_s / before.per_s
    held = proof.rate_per_s if proof is not None and proof.verdict == "verified" else 0.0
    per_s = max(per_s, held)
    return Capacity(per_s=per_s, low_per_s=max(held, per_s * min(1.0, low)), high_per_s=per_s * max(1.0, high))
