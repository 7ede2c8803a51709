"""What the blocks of an arm say: its service times, its floor, and how much of it is the machine's noise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from orchestrator.planner.capacity import Service, quantile
from orchestrator.profiling.measurement import ArmProfile, Block

RESOLUTION_MIN = 0.02  # of a ratio: a difference below it is a tie, whatever the anchor says
AMBIENT_SHARE = 0.5  # of all blocks: when more are tainted, the neighbours are there to stay


def clean(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Return the blocks that no neighbour spoilt, all of them where there is no such block."""
    return tuple(block for block in blocks if not block.host.tainted()) or tuple(blocks)


def at(profile: ArmProfile, concurrency: int, *, paced: bool = False) -> tuple[Block, ...]:
    """Return the closed loops with so many inferences under way that hold any; with `paced` those with pauses."""
    found = (block for block in profile.blocks if block.service_s and block.paced == paced)
    return tuple(block for block in found if block.concurrency == concurrency)


def _fullest(profile: ArmProfile) -> int | None:
    """Return the most inferences under way in any closed loop, None where there is none."""
    return max((block.concurrency for block in profile.blocks if block.service_s and not block.paced), default=None)


def slots_of(profile: ArmProfile) -> int:
    """Return how many inferences the arm runs at the same time."""
    return max(1, profile.arm.requests or profile.actual.requests)


def busy_blocks(profile: ArmProfile) -> tuple[Block, ...]:
    """Return the clean blocks with all requests under way; the fullest there are, if there are none."""
    most = _fullest(profile)
    if most is None:
        return clean(at(profile, 1, paced=True))
    return clean(at(profile, min(most, slots_of(profile))) or at(profile, most))


def alone_blocks(profile: ArmProfile) -> tuple[Block, ...]:
    """Return the clean blocks with one inference at a time, such with pauses rather than without, else busy ones."""
    return clean(at(profile, 1, paced=True) or at(profile, 1)) or busy_blocks(profile)


def back_to_back(profile: ArmProfile) -> tuple[Block, ...]:
    """Return the clean closed loops with the fewest inferences under way: without pauses, such as neighbours leave."""
    closed = [block.concurrency for block in profile.blocks if block.service_s and not block.paced]
    return clean(at(profile, min(closed))) if closed else alone_blocks(profile)


def service_of(
    profile: ArmProfile,
    *,
    cpus: int,
    front_end_s: float = 0.0,
    inflation: float = 1.0,
    stretch: float = 1.0,
    factors: Mapping[int, float] | None = None,
) -> Service:
    """Return the arm's service times for prediction; `factors` by round put all rounds on one footing."""
    factors = factors or {}

    def samples(blocks: Sequence[Block]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(factors.get(block.round, 1.0) * value for value in block.service_s) for block in blocks)

    slots = slots_of(profile)
    spare = profile.actual.streams is not None and slots == profile.actual.streams + 1
    return Service(
        alone_s=tuple(value for block in samples(alone_blocks(profile)) for value in block),
        busy_s=samples(busy_blocks(profile)),
        slots=slots,
        rows=profile.arm.batch,
        cores_share=_cores_share(profile, cpus),
        front_end_s=front_end_s,
        inflation=inflation,
        stretch=stretch,
        streams_s=tuple(value for block in samples(clean(at(profile, slots - 1))) for value in block) if spare else (),
    )


def _cores_share(profile: ArmProfile, cpus: int) -> float:
    threads = profile.actual.threads or profile.arm.threads
    if threads is None or profile.arm.threads is None:
        return 0.0
    return min(1.0, threads / (profile.actual.streams or slots_of(profile)) / cpus)


def is_whole(profile: ArmProfile, too_slow_s: float) -> bool:
    """Tell whether the arm was seen with all requests under way, or need not be: alone it takes too long already."""
    if not any(block.service_s for block in profile.blocks):
        return False
    return (_fullest(profile) or 0) >= slots_of(profile) or median_s(alone_blocks(profile)) > too_slow_s


def unloaded_s(profile: ArmProfile, share: float) -> dict[int, float]:
    """Return for each round the latency of a lone request that this share of them does not exceed."""
    rounds: dict[int, list[float]] = {}
    for block in alone_blocks(profile):
        rounds.setdefault(block.round, []).extend(block.service_s)
    return {number: quantile(values, share) for number, values in sorted(rounds.items())}


def median_s(blocks: Sequence[Block]) -> float:
    """Return the median of the blocks' medians: no block weighs more because it was faster."""
    return statistics.median(statistics.median(block.service_s) for block in blocks)


def rows_per_s(profile: ArmProfile) -> float:
    """Return the closed-loop throughput in rows a second, the median of the busy blocks, pauses left out."""
    blocks = busy_blocks(profile)
    per_s = (1 / statistics.fmean(block.service_s) if block.paced else block.per_s for block in blocks)
    return statistics.median(per_s) * profile.arm.batch


def resolution(anchor: ArmProfile) -> float:
    """Return the half-width of the ratio of the anchor to itself within a round: what is below it is a tie."""
    rounds: dict[int, list[float]] = {}
    for block in busy_blocks(anchor):
        rounds.setdefault(block.round, []).append(statistics.median(block.service_s))
    ratios = [max(values) / min(values) - 1 for values in rounds.values() if len(values) > 1]
    return max(RESOLUTION_MIN, statistics.median(ratios)) if ratios else RESOLUTION_MIN


def ambient(profiles: Sequence[ArmProfile]) -> bool:
    """Tell whether the neighbours' load is there to stay, so that only ratios within a round can decide."""
    blocks = [block for profile in profiles for block in profile.blocks]
    return bool(blocks) and sum(block.host.tainted() for block in blocks) > AMBIENT_SHARE * len(blocks)


def round_factors(anchor: ArmProfile) -> dict[int, float]:
    """Return by what to multiply the times of a round so that the anchor is as fast in each as in the median one."""
    rounds: dict[int, list[float]] = {}
    for block in at(anchor, _fullest(anchor) or 1):
        rounds.setdefault(block.round, []).append(statistics.median(block.service_s))
    medians = {number: statistics.fmean(values) for number, values in rounds.items()}
    usual = statistics.median(medians.values()) if medians else 1.0
    return {number: usual / value for number, value in medians.items()}
