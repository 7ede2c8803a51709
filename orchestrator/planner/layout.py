"""Who gets which cores of the machine, and how many threads each model of a worker gets."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def allocate_cores(
    allowed: Sequence[int], claims: Mapping[str, int], keep: Mapping[str, tuple[int, ...]]
) -> Mapping[str, tuple[int, ...] | None]:
    """Return disjoint sets of `allowed` cores for the deployments that claim a number of them (rule 22).

    Cores in `keep` stay where they still fit the claim, so that a new deployment moves nobody. None stands for "shares
    the machine": the claim is the whole machine, or what is left is too little.
    """
    result: dict[str, tuple[int, ...] | None] = dict.fromkeys(sorted(claims))
    free = sorted(set(allowed))
    most = len(free) - 1 if len(free) > 1 else 0  # who claims every core shares the machine with orch itself
    for name in sorted(claims):
        kept = tuple(sorted(set(keep.get(name, ()))))
        if len(kept) == claims[name] <= most and set(kept) <= set(free):
            result[name] = kept
            free = [core for core in free if core not in kept]
    for name in sorted(claims):
        if result[name] is None and 1 <= claims[name] <= min(most, len(free)):
            result[name], free = tuple(free[: claims[name]]), free[claims[name] :]
    return result


@dataclass(frozen=True, slots=True)
class ThreadClaim:
    """What one model asks of its worker's cores: a weight, at least `least` threads, or exactly `exact`."""

    weight: float = 1.0
    least: int = 1
    exact: int | None = None

    @property
    def floor(self) -> int:
        """Return the threads without which the model cannot run as asked."""
        return self.least if self.exact is None else self.exact


def share_threads(cpus: int, claims: Mapping[str, ThreadClaim]) -> Mapping[str, int] | None:
    """Return the threads of each model so that their sum fits into `cpus` (rule 21), None where the claims cannot.

    Every model gets its floor, the rest goes one by one to whoever has least for its weight (D'Hondt), names deciding
    ties. When there are more models than cores each gets one thread and they share.
    """
    threads = {name: claims[name].floor for name in sorted(claims)}
    left = cpus - sum(threads.values())
    if left < 0:
        return threads if set(threads.values()) == {1} else None
    heap = [(threads[name] / claims[name].weight, name) for name in threads if claims[name].exact is None]
    heapq.heapify(heap)
    while left > 0 and heap:
        _, name = heapq.heappop(heap)
        threads[name] += 1
        left -= 1
        heapq.heappush(heap, (threads[name] / claims[name].weight, name))
    return threads
