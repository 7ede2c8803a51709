"""How much each model of a layout can take: its own rate grown in the crowd until it misses, the others at theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.planner.capacity import LOAD_MAX, boundary
from orchestrator.planner.decision import Capacity, Decision
from orchestrator.planner.joint import Joint, Layout, Member, Option, answered_per_s, latency_s, simulated_at
from orchestrator.profiling.measurement import Proof
from orchestrator.scheduling.simulate import Fate

STEP = 1.03  # the factor between rates that are told apart: so few requests leave about as much open
REQUESTS_OWN, REQUESTS_ALL = 3000, 6000  # simulated for one rate: of the model that grows, and of all
ERROR = 0.05  # of a capacity: what that leaves open at least


def room(joint: Joint, layout: Layout, *, seed: int = 1) -> dict[str, float]:
    """Return the largest rate of each model at which it holds its SLO while the others come at theirs.

    At most 0.9 of the throughput of its streams, as of a model alone. Of callers that wait: what they reach, of as many
    of them as hold the SLO.
    """
    return {
        member.model: (_reached_per_s if member.closed else _most_per_s)(joint, layout, member, seed)
        for member in joint.members
    }


def _most_per_s(joint: Joint, layout: Layout, member: Member, seed: int) -> float:
    slack = layout.forecasts[member.model].slack

    def holds(per_s: float) -> bool:
        return _is_in_time(member, _fates(joint, layout, member, per_s, seed))

    return boundary(holds, max(slack, 1.0) * member.rate_per_s, ceiling_per_s(layout.options[member.model]), STEP)


def _reached_per_s(joint: Joint, layout: Layout, member: Member, seed: int) -> float:
    callers = member.need.callers or 1
    low, high, best, trial = 0, callers + 1, 0.0, callers
    while high - low > 1:
        tried = replace(member, need=replace(member.need, callers=trial))
        fates = _fates(joint, layout, tried, tried.comes_per_s(layout.options[tried.model]), seed)
        if _is_in_time(tried, fates):
            low, best = trial, answered_per_s(fates)
        else:
            high = trial
        trial = (low + high) // 2
    return best


def ceiling_per_s(option: Option) -> float:
    """Return the largest rate that is planned for an option: a part of what its streams serve when never idle."""
    return LOAD_MAX * option.stream.rows_per_s


def _fates(joint: Joint, layout: Layout, member: Member, per_s: float, seed: int) -> Sequence[Fate]:
    """Return what becomes of the requests of a member that stands in for the one of its name."""
    members = [member if each.model == member.model else each for each in joint.members]
    rates = {each.model: each.comes_per_s(layout.options[each.model]) for each in members} | {member.model: per_s}
    seconds = min(REQUESTS_OWN / per_s, REQUESTS_ALL / sum(rates.values()))
    fates = simulated_at(members, layout.options, joint.cpus, rates, seconds, seed)
    return fates[members.index(member)]


def _is_in_time(member: Member, fates: Sequence[Fate]) -> bool:
    return latency_s(fates, member.need.share) <= member.need.latency_s


def capacity_of(per_s: float, alone: Decision, proof: Proof | None) -> Capacity:
    """Return the capacity with an interval: no more than the model carries alone, no less than was proved.

    The interval is in proportion as wide as alone, whose samples are the same, or as the simulation leaves it.
    """
    before = alone.capacity
    low, high, most = 1.0, 1.0, math.inf
    if before is not None and before.per_s > 0:
        per_s, most = min(per_s, before.per_s), before.high_per_s
        low, high = before.low_per_s / before.per_s, before.high_per_s / before.per_s
    held = proof.rate_per_s if proof is not None and proof.verdict == "verified" else 0.0
    per_s = max(per_s, held)
    return Capacity(
        per_s=per_s,
        low_per_s=max(held, per_s * min(1 - ERROR, low)),
        high_per_s=max(per_s, min(most, per_s * max(1 + ERROR, high))),
    )
