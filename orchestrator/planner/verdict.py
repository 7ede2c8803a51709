"""Whether an SLO was held, decided while requests are answered: Wald's sequential test on misses.

For p99 the test tells a miss rate of 0.5 % from one of 2 %, each with an error of 5 %, in about 195 clean requests;
other percentiles keep the ratios. Misses come in clumps, so that they are counted twice: every miss speaks against
accepting, but misses of one episode (five service times from its first) are one miss for rejecting. Nothing is
accepted in fewer than three blocks that an idle gap separates (or as many as the test asks for), and nothing rejected
for what one block alone shows, unless it shows it three times over: one burst of somebody else's work is not the arm's
fault. Where misses never cease, episodes are few; so what spoils block after block is rejected by its share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.profiling.measurement import Verdict

ALPHA = BETA = 0.05  # rejecting what is good, accepting what is bad
# Miss shares of the hypotheses by percentile, and for those between: half and twice the share that is allowed.
SHARES: Mapping[float, tuple[float, float]] = {99.0: (0.005, 0.02), 95.0: (0.025, 0.075)}
EPISODE = 5  # service times
BLOCKS = 3
OVERWHELMING = 3  # times the evidence that suffices from two blocks
CONFIDENCE = 0.95  # of the exact test
SPOILT_MIN = 3  # blocks of too many misses and no other: enough at once; when the run ends, most of them are
REACHED_MIN = 0.95  # of the rate that is asked for: callers that wait reach now more, now less


@dataclass(frozen=True, slots=True)
class Test:
    """What is asked: a miss share of at most `good`, or one of at least `bad`; `allowed` is what the SLO leaves."""

    __test__ = False  # for pytest: this is no test case

    allowed: float
    good: float
    bad: float
    episode_s: float
    blocks: int = BLOCKS
    """Nothing is accepted in fewer of them."""
    strict: bool = False
    """Demand the exact binomial proof that misses are within the SLO, as MLPerf does; takes 299 clean requests."""

    @property
    def accept_at(self) -> float:
        """Return the log-likelihood ratio at or below which the SLO counts as held."""
        return math.log(BETA / (1 - ALPHA))

    @property
    def reject_at(self) -> float:
        """Return the log-likelihood ratio at or above which the SLO counts as broken."""
        return math.log((1 - BETA) / ALPHA)

    @property
    def fewest(self) -> int:
        """Return how many requests without a miss suffice."""
        if self.strict:
            return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - self.allowed))
        return math.ceil(self.accept_at / _hit(self))

    @property
    def block(self) -> int:
        """Return how many requests one block should have, so that a clean run ends with the last of them."""
        return math.ceil(self.fewest / self.blocks)


def the_test(percentile: float, service_s: float, *, blocks: int = BLOCKS, strict: bool = False) -> Test:
    """Return the test of an SLO's percentile for an arm whose inference takes `service_s`."""
    allowed = round(1 - percentile / 100, 12)
    good, bad = SHARES.get(percentile, (allowed / 2, min(0.95, 2 * allowed)))
    return Test(allowed, good, bad, EPISODE * service_s, blocks, strict)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was seen of one block."""

    block: int = -1
    answered: int = 0
    misses: int = 0
    episodes: int = 0

    def spoilt(self, test: Test) -> bool:
        """Tell whether it missed as much as a bad arm would, in more than one episode."""
        return self.episodes > 1 and self.misses >= test.bad * self.answered


@dataclass(frozen=True, slots=True)
class State:
    """What was seen so far."""

    answered: int = 0
    misses: int = 0
    episodes: int = 0
    blocks: frozenset[int] = frozenset()
    guilty: frozenset[int] = frozenset()
    """Blocks in which an episode began."""
    for_accepting: float = 0.0
    """Log-likelihood ratio of bad over good, every miss counted."""
    for_rejecting: float = 0.0
    """The same, an episode counted once."""
    episode_until: float = -math.inf
    now: Tally = Tally()
    """Of the last block."""
    spoilt: int = 0
    """Earlier blocks that missed as much as a bad arm would, in more than one episode."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it was scheduled, in which block, and whether it was answered too late, refused or failed."""

    at_s: float
    block: int
    missed: bool


def step(test: Test, state: State, outcome: Outcome) -> State:
    """Return what is known after one more request, requests in the order of their schedule."""
    if not outcome.missed:
        return hits(test, state, outcome.block, 1)
    miss = math.log(test.bad / test.good)
    begins = outcome.at_s >= state.episode_until
    now, spoilt = _counted(test, state, Tally(outcome.block, 1, 1, int(begins)))
    known = replace(
        state,
        answered=state.answered + 1,
        misses=state.misses + 1,
        blocks=state.blocks | {outcome.block},
        for_accepting=state.for_accepting + miss,
        now=now,
        spoilt=spoilt,
    )
    if not begins:
        return known
    return replace(
        known,
        episodes=state.episodes + 1,
        guilty=state.guilty | {outcome.block},
        for_rejecting=state.for_rejecting + miss,
        episode_until=outcome.at_s + test.episode_s,
    )


def _counted(test: Test, state: State, more: Tally) -> tuple[Tally, int]:
    """Return the tally of the last block with what came, and how many blocks before it were spoilt."""
    now = state.now
    if now.block != more.block:
        return more, state.spoilt + now.spoilt(test)
    answered, misses = now.answered + more.answered, now.misses + more.misses
    return Tally(now.block, answered, misses, now.episodes + more.episodes), state.spoilt


def hits(test: Test, state: State, block: int, count: int) -> State:
    """Return what is known after `count` more requests of a block, all of them in time: as so many steps, but cheap."""
    gain = count * _hit(test)
    now, spoilt = _counted(test, state, Tally(block, count))
    return State(
        state.answered + count,
        state.misses,
        state.episodes,
        state.blocks if block in state.blocks else state.blocks | {block},
        state.guilty,
        state.for_accepting + gain,
        state.for_rejecting + gain,
        state.episode_until,
        now,
        spoilt,
    )


def verdict(test: Test, state: State) -> Verdict | None:
    """Return verified or rejected as soon as it is sure enough, None while it is not."""
    evidence = state.for_rejecting / test.reject_at
    if evidence >= OVERWHELMING or (evidence >= 1 and len(state.guilty) > 1):
        return "rejected"
    if SPOILT_MIN <= _spoilt(test, state) == len(state.blocks):
        return "rejected"
    if len(state.blocks) < test.blocks:
        return None
    if test.strict:
        return "verified" if proven(test, state) else None
    return "verified" if state.for_accepting <= test.accept_at else None


def final(test: Test, state: State) -> Verdict | None:
    """Return the verdict of a run that has ended: rejected also where it missed too much in most of its blocks."""
    found = verdict(test, state)
    if found is None and _spoilt(test, state) > max(1, len(state.blocks) / 2):
        return "rejected" if state.misses >= test.bad * state.answered else None
    return found


def _spoilt(test: Test, state: State) -> int:
    return state.spoilt + state.now.spoilt(test)


def proven(test: Test, state: State) -> bool:
    """Tell whether so few misses would be seen in at most 5 % of the runs if misses were as many as the SLO allows."""
    return binomial_cdf(state.misses, state.answered, test.allowed) <= 1 - CONFIDENCE


def binomial_cdf(most: int, count: int, share: float) -> float:
    """Return the probability of at most `most` in `count` independent ones that each happen with `share`."""
    if most >= count:
        return 1.0
    log_odds = math.log(share / (1 - share))
    term, total = count * math.log(1 - share), 0.0
    for number in range(most + 1):
        total += math.exp(term)
        term += math.log((count - number) / (number + 1)) + log_odds
    return min(1.0, total)


def close(test: Test, state: State, stopped: str) -> tuple[Verdict, str]:
    """Return the verdict and its reason in one line for a run that ended because of `stopped` (`the budget is spent`).

    What the test has not decided is unverified, however good it looks.
    """
    found = final(test, state)
    seen = f"{state.misses} {'miss' if state.misses == 1 else 'misses'} in {state.answered}"
    allowed = f"{100 * test.allowed:g} % may miss"
    match found:
        case "verified":
            return found, f"{seen} requests, {allowed}"
        case "rejected":
            return found, f"{seen} requests in {state.episodes} episodes, {allowed}"
        case _:
            return "unverified", f"{stopped}: {seen} requests decides nothing yet"


def reaching(found: tuple[Verdict, str], per_s: float, least_per_s: float | None) -> tuple[Verdict, str]:
    """Return the verdict and its reason for callers that wait for their answers, who must reach so many a second.

    However soon they are answered, a rate that they do not reach is not held; a little less is too near to tell.
    """
    if found[0] != "verified" or least_per_s is None or per_s >= least_per_s:
        return found
    short: Verdict = "rejected" if per_s < REACHED_MIN * least_per_s else "unverified"
    return short, f"the callers, who wait for their answers, reach {per_s:.4g}/s of {least_per_s:.4g}/s"


def _hit(test: Test) -> float:
    return math.log((1 - test.bad) / (1 - test.good))
