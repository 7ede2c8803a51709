"""What a search knows so far: profiles, who is out and why, capacities, proofs; and the decision that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.planner import evidence
from orchestrator.planner.arms import Candidate, simplicity
from orchestrator.planner.capacity import (
    INFLATION_MAX,
    LOAD_MAX,
    Need,
    Service,
    capacity,
    observed_inflation,
    observed_stretch,
    quantile,
)
from orchestrator.planner.decision import Capacity, Decision, Rejected
from orchestrator.planner.explain import AS_GOOD, duration, figure, rate
from orchestrator.planner.steps import Measure, Measured, Question
from orchestrator.profiling.measurement import Arm, ArmProfile, Proof, Verdict
from orchestrator.scheduling.inline import pays

TIE_MAX = 0.05  # differences above it are never called a tie, however noisy the machine
# A batch must carry more than this beyond single rows. It computes all its rows for a lone request too, which takes as
# long as they do, and keeps all cores from the front end at rates at which single rows leave it half of them.
# Served, batches that were predicted to carry up to a fifth more carried less than single rows (docs/adr/0008).
BATCH_TIE = 0.20
ENOUGH_ANSWERS = 20  # of a proof, to learn from their latencies
STRETCH_ANSWERS = 150  # to learn from their tail
DISPROVED_INFLATION = 1.05  # at least, after a rejection that latencies do not explain
WELL_KNOWN = 3  # rounds after which a percentile above the SLO in each of them is no accident
SEEN = 2  # rounds after which a median above it is none
BEYOND = 2.0  # times what an arm serves fully loaded: nothing that a proof could still find out
BEYOND_BUSY = 10.0  # the same on a machine that is busy elsewhere, and may not be for long
# Times the requests that the prediction has the server take in. It is told what one with few callers needs for each;
# with many that come together it needs a third of that (benchmarks/README.md). Nobody was seen to reach this.
FRONT_END_REACH = 10


class Notebook:
    """All that was measured and concluded. Arms are told apart by their keys."""

    def __init__(self, question: Question, stored: Sequence[ArmProfile], stretch: float | None = None) -> None:
        self.question = question
        self.seconds = 0.0
        self.compiled: set[str] = set()
        self._profiles: dict[str, ArmProfile] = {profile.arm.key: profile for profile in stored if profile.blocks}
        self._out: dict[str, tuple[Arm, str]] = {}
        self._pruned: set[str] = set()
        self._inflation: dict[str, float] = {}
        self.stretch = stretch
        """Observed over predicted latency, None where no proof has taught it."""
        self._proofs: dict[str, list[Proof]] = {}
        self._capacities: dict[tuple[str, int, int, float, float], Capacity] = {}

    # What is known.

    @property
    def anchor(self) -> Arm | None:
        """Return the arm that every round begins and ends with: the first that could be measured."""
        return next((profile.arm for profile in self._profiles.values()), None)

    @property
    def resolution(self) -> float:
        """Return the half-width of the anchor's ratio to itself."""
        anchor = self.anchor
        return evidence.resolution(self._profiles[anchor.key]) if anchor else evidence.RESOLUTION_MIN

    @property
    def ambient(self) -> bool:
        """Tell whether other load is there to stay, so that asking again for a quiet block is vain."""
        return evidence.ambient(self.all_profiles())

    @property
    def never_quiet(self) -> bool:
        """Tell whether no block at all was quiet."""
        blocks = [block for profile in self._profiles.values() for block in profile.blocks]
        return all(block.host.tainted() for block in blocks)

    def all_profiles(self) -> tuple[ArmProfile, ...]:
        """Return every profile, in the order of measuring."""
        return tuple(self._profiles.values())

    def measured(self) -> list[Arm]:
        """Return the arms that have blocks."""
        return [profile.arm for profile in self._profiles.values()]

    def lacks(self, step: Measure) -> bool:
        """Tell whether the arm never had a quiet block under such a load."""
        alike = evidence.at(self._profiles[step.arm.key], step.concurrency, paced=step.paced)
        return all(block.host.tainted() for block in alike)

    def has(self, arm: Arm) -> bool:
        """Tell whether the arm was measured."""
        return arm.key in self._profiles

    def is_out(self, arm: Arm) -> bool:
        """Tell whether the arm was dropped."""
        return arm.key in self._out

    def contenders(self) -> list[Arm]:
        """Return the arms that are measured and not dropped."""
        return [arm for arm in self.measured() if not self.is_out(arm)]

    def slots(self, arm: Arm) -> int:
        """Return how many inferences the arm runs at the same time."""
        return evidence.slots_of(self._profiles[arm.key])

    def streams(self, arm: Arm) -> int | None:
        """Return how many inferences the arm computes at the same time, None where OpenVINO does not say."""
        return self._profiles[arm.key].actual.streams

    def median_s(self, arm: Arm) -> float:
        """Return the median of one inference with all requests under way, as far as that is known."""
        return evidence.median_s(evidence.busy_blocks(self._profiles[arm.key]))

    def alone_median_s(self, arm: Arm) -> float:
        """Return the median time of an inference that finds the pool idle."""
        return evidence.median_s(evidence.alone_blocks(self._profiles[arm.key]))

    def quickest_s(self, arm: Arm) -> float:
        """Return the least that one inference at a time took: by it a worker decides where it infers."""
        blocks = (block for block in self._profiles[arm.key].blocks if block.concurrency == 1)
        return min((min(block.service_s) for block in blocks if block.service_s), default=math.inf)

    def most_per_s(self, arm: Arm) -> float:
        """Return the requests a second that the arm serves when it is never idle."""
        return self.service(arm).most_per_s

    def service(self, arm: Arm) -> Service:
        """Return the arm's service times, with what proofs taught."""
        profile = self._profiles[arm.key]
        return evidence.service_of(
            profile,
            cpus=self.question.cpus,
            front_end_s=self.question.front_end_s,
            inflation=self._inflation.get(arm.key, 1.0),
            stretch=self.stretch or 1.0,
            factors=self._factors(profile),
        )

    def _factors(self, profile: ArmProfile) -> dict[int, float] | None:
        """Return what puts the rounds on one footing, needed only where the arm never had a quiet block."""
        anchor = self.anchor
        if anchor is None or not all(block.host.tainted() for block in evidence.busy_blocks(profile)):
            return None
        return evidence.round_factors(self._profiles[anchor.key])

    def capacity(self, arm: Arm) -> Capacity:
        """Return the arm's capacity as far as it is known."""
        anchor = self.anchor
        blocks = len(self._profiles[arm.key].blocks)
        footing = len(self._profiles[anchor.key].blocks) if anchor and self._factors(self._profiles[arm.key]) else 0
        known = (arm.key, blocks, footing, self._inflation.get(arm.key, 1.0), self.stretch or 1.0)
        if known not in self._capacities:
            self._capacities[known] = capacity(self.service(arm), self._need, seed=self.question.seed)
        return self._capacities[known]

    @property
    def _need(self) -> Need:
        assert self.question.need is not None, "only asked where there is an SLO"
        return self.question.need

    # What is concluded.

    def add(self, arm: Arm, result: Measured) -> None:
        """Note a block."""
        self.compiled.add(arm.compiled_key)
        before = self._profiles.get(arm.key)
        self._profiles[arm.key] = ArmProfile(
            arm=arm,
            actual=result.actual,
            compile_s=result.compile_s if before is None else before.compile_s,
            memory_bytes=result.memory_bytes or (before.memory_bytes if before else None),
            blocks=(*(before.blocks if before else ()), result.block),
        )

    def derive(self, arm: Arm, base: Arm) -> None:
        """Begin the profile of an arm that differs in its requests alone: with fewer of them both are the same."""
        profile = self._profiles[base.key]
        blocks = tuple(block.model_copy(update={"arm": arm.key}) for block in profile.blocks)
        self._profiles[arm.key] = profile.model_copy(update={"arm": arm, "blocks": blocks})

    def forget(self, arm: Arm) -> None:
        """Drop the profile of an arm of which nothing came."""
        self._profiles.pop(arm.key, None)

    def forget_all(self) -> None:
        """Drop all profiles."""
        self._profiles.clear()
        self._capacities.clear()  # known by how many blocks there are, as there soon will be again

    def drop(self, arm: Arm, reason: str) -> None:
        """Take the arm out for a reason; the first reason stands."""
        self._out.setdefault(arm.key, (arm, reason))

    def prune(self, arm: Arm, reason: str) -> None:
        """Take the arm out because another carries more, as long as no proof shows otherwise."""
        self.drop(arm, reason)
        self._pruned.add(arm.key)

    def drop_infeasible(self, arm: Arm) -> None:
        """Take the arm out because even a lone request takes too long."""
        floor = self._floor_s(arm)
        text = (
            f"a lone request takes {_ms(floor)} at p{self._need.percentile:g}, the SLO is {_ms(self._need.latency_s)}"
        )
        self.drop(arm, text)

    def twin(self, candidate: Candidate) -> Arm | None:
        """Return the measured arm that the candidate would be again, where that is sure before compiling."""
        for profile in self._profiles.values():
            arm, actual = profile.arm, profile.actual
            same = (arm.device, arm.batch, arm.threads) == (
                candidate.arm.device,
                candidate.arm.batch,
                candidate.arm.threads,
            )
            sure = candidate.streams is not None and candidate.streams == actual.streams
            if same and sure and arm.device == "CPU" and candidate.arm.requests in {None, evidence.slots_of(profile)}:
                return arm
        return None

    def made_the_same(self, arm: Arm) -> Arm | None:
        """Return the earlier arm of which OpenVINO made the same, None where there is none."""
        mine = self._profiles[arm.key]
        for other in self._profiles.values():
            if other is mine:
                return None
            if (other.actual.key, other.arm.batch) == (mine.actual.key, arm.batch):
                return other.arm
        return None

    def too_slow(self, arm: Arm) -> bool:
        """Tell whether a lone request has taken longer than the SLO in every round so far."""
        if self.question.need is None:
            return False
        profile = self._profiles[arm.key]
        return min(evidence.unloaded_s(profile, 0.5).values()) > self._need.latency_s

    def is_far_too_slow(self, arm: Arm) -> bool:
        """Tell whether not even the fastest inference was within the SLO, so that noise explains nothing."""
        if self.question.need is None:
            return False
        profile = self._profiles[arm.key]
        return min(value for block in profile.blocks for value in block.service_s) > self._need.latency_s

    def is_infeasible(self, arm: Arm) -> bool:
        """Tell whether the arm misses the SLO even unloaded: in every round, of which there are enough."""
        profile = self._profiles[arm.key]
        medians = evidence.unloaded_s(profile, 0.5)
        tails = evidence.unloaded_s(profile, self._need.share)
        limit = self._need.latency_s
        return (len(medians) >= SEEN and min(medians.values()) > limit) or (
            len(tails) >= WELL_KNOWN and min(tails.values()) > limit
        )

    def is_hopeless(self, candidate: Candidate) -> bool:
        """Tell whether fewer cores for each inference cannot help: an arm with fewer streams is too slow alone."""
        if candidate.streams is None or candidate.arm.threads is None:
            return False
        return any(
            profile.arm.device == candidate.arm.device
            and (profile.actual.streams or candidate.streams) < candidate.streams
            and (profile.arm.threads or 0) >= candidate.arm.threads
            and self.too_slow(profile.arm)
            for profile in self._profiles.values()
        )

    def slowest_name(self) -> str:
        """Return the name of an arm that is too slow alone."""
        return next(arm.name for arm in self.measured() if self.too_slow(arm))

    def ranked(self) -> list[Arm]:
        """Return the contenders that answer a lone request in time, best first, ties in the simpler's favour."""
        found = [arm for arm in self.contenders() if self._floor_s(arm) <= self._need.latency_s]
        return sorted(found, key=lambda arm: (-self.capacity(arm).per_s, simplicity(arm)))

    def best(self) -> Arm | None:
        """Return the contender with the largest capacity."""
        return next(iter(self.ranked()), None)

    def best_rate(self) -> float:
        """Return the largest capacity so far, 0 where none is known."""
        best = self.best()
        return self.capacity(best).per_s if best else 0.0

    def beyond_reach(self) -> str:
        """Return why the rate that is asked for is beyond every arm for sure; nothing where only a proof can tell."""
        asked = self.question.rate_per_s
        if asked is None:
            return ""
        taken_in = FRONT_END_REACH / self.question.front_end_s if self.question.front_end_s > 0 else math.inf
        if asked > taken_in:
            times = figure(asked * self.question.front_end_s)
            return f"{rate(asked)} is {times} times what the server is predicted to take in"
        arms = self.contenders()
        if any(arm.device == "CPU" and pays(self.quickest_s(arm)) for arm in arms):
            return ""  # the worker gathers rows of these itself, and then carries more
        most = max(arms, key=self.most_per_s)
        beyond = BEYOND_BUSY if self.ambient or self.never_quiet else BEYOND
        if asked <= beyond * self.most_per_s(most) * (1 + 2 * self.resolution):
            return ""
        return f"even fully loaded {most.name} serves {rate(self.most_per_s(most))}, and {rate(asked)} was asked for"

    def likely_rate(self) -> float:
        """Return a rate that the best arm may hold, without simulating: half of the largest throughput."""
        return 0.5 * max((self.most_per_s(arm) for arm in self.contenders()), default=0.0)

    def simplest_of_ties(self, arms: Sequence[Arm]) -> Arm | None:
        """Return of those that are as good as the first, within the resolution, the simplest, then the best."""
        arms = [arm for arm in arms if not self._has_vain_spare(arm, arms)]
        if not arms:
            return None
        tie = min(TIE_MAX, max(evidence.RESOLUTION_MIN, self.resolution))
        most = self.capacity(arms[0]).per_s
        batched = arms[0].batch > 1

        def least(arm: Arm) -> float:
            return (1 - (max(tie, BATCH_TIE) if batched and arm.batch == 1 else tie)) * most

        tied = [arm for arm in arms if self.capacity(arm).per_s >= least(arm)]
        tied = [arm for arm in tied if arm.batch == 1] or tied
        return min(tied, key=lambda arm: (simplicity(arm)[:3], -self.capacity(arm).per_s, self._memory(arm), arm.name))

    def _has_vain_spare(self, arm: Arm, arms: Sequence[Arm]) -> bool:
        """Tell whether the arm's spare request, which waits out of our hands, does not help for sure."""
        base = next((each for each in arms if each.requests is None and each.compiled_key == arm.compiled_key), None)
        if arm.requests is None or base is None:
            return False
        return self.capacity(arm).low_per_s <= self.capacity(base).per_s

    def _memory(self, arm: Arm) -> int:
        return self._profiles[arm.key].memory_bytes or 0

    def batch_gain(self, single: Arm, batched: Arm) -> float:
        """Return how many times the rows a batch lets through, with the server's own time for each row."""
        service = self.service(single)
        own_s = self.question.front_end_s * service.slots * service.cores_share
        return batched.batch * (self.median_s(single) + own_s) / (self.median_s(batched) + batched.batch * own_s)

    def most_promising(self, single: Arm, probe: Arm, found: Sequence[Candidate]) -> Arm | None:
        """Return the unmeasured batch whose predicted capacity beats all that was measured, None where none does.

        Each row is taken to add as much as in the probe (BentoML, Sponge), whatever the streams.
        """
        each_row = (self.median_s(probe) / self.median_s(single) - 1) / (probe.batch - 1)
        best, promising = self.best_rate() * (1 + evidence.RESOLUTION_MIN), None
        for candidate in found:
            if not self.has(candidate.arm) or self.too_slow(candidate.arm):
                continue
            service = self.service(candidate.arm)
            for arm in candidate.batched:
                factor = max(1.0, 1 + (arm.batch - 1) * each_row)
                larger = replace(service, rows=arm.batch, inflation=service.inflation * factor)
                if self.has(arm) or LOAD_MAX * larger.most_per_s <= best:
                    continue
                per_s = capacity(larger, self._need, seed=self.question.seed).per_s
                if per_s > best:
                    best, promising = per_s, arm
        return promising

    # Proofs.

    def proved(self) -> set[str]:
        """Return the keys of the arms of which a proof was run."""
        return set(self._proofs)

    def learn(self, arm: Arm, proof: Proof) -> None:
        """Note a proof, and learn how long answers take when served.

        A rejected one slows the prediction down, for the other arms by the root of it.
        """
        self._proofs.setdefault(arm.key, []).append(proof)
        if proof.verdict == "verified":
            self._learn_stretch(arm, proof)
        if proof.verdict != "rejected":
            return
        for key in self._pruned:  # what they could not beat is not what it seemed
            self._out.pop(key, None)
        self._pruned.clear()
        if proof.arrivals != "closed" and proof.rate_per_s > self.capacity(arm).high_per_s:
            return  # as predicted
        seen = DISPROVED_INFLATION
        if len(proof.latency_s) >= ENOUGH_ANSWERS:
            seen = max(seen, observed_inflation(self.service(arm), self._need, proof.rate_per_s, proof.latency_s))
        for other in self.measured():
            factor = seen if other.key == arm.key else seen**0.5
            self._inflation[other.key] = min(INFLATION_MAX, self._inflation.get(other.key, 1.0) * factor)

    def _learn_stretch(self, arm: Arm, proof: Proof) -> None:
        """Learn from a proof that held on a quiet machine; after a rejection the inflation says it already."""
        if self._inflation or proof.host.tainted() or len(proof.latency_s) < STRETCH_ANSWERS:
            return
        block = max(1, proof.sent // proof.blocks)
        service = self.service(arm)
        self.stretch = observed_stretch(service, self._need, proof.rate_per_s, proof.latency_s, block=block)

    def undecided_rate(self, arm: Arm) -> float:
        """Return the lowest rate of the arm that a proof left undecided, infinity where there is none."""
        proofs = self._proofs.get(arm.key, ())
        return min((proof.rate_per_s for proof in proofs if proof.verdict == "unverified"), default=math.inf)

    def disproved(self, arm: Arm) -> bool:
        """Tell whether a proof showed that the arm does not hold the rate that is asked for."""
        asked = self.question.rate_per_s
        return any(
            proof.verdict == "rejected" and asked is not None and proof.rate_per_s <= asked * (1 + 1e-9)
            for proof in self._proofs.get(arm.key, ())
        )

    # Decisions.

    def decide(self, verdict: Verdict, arm: Arm | None, reason: str) -> Decision:
        """Return the decision for the arm, or for the best."""
        if arm is None:
            ranked = self.ranked() if self.question.need else self.contenders()
            arm = self.simplest_of_ties(ranked) if self.question.need else ranked[0]
        arm = arm or self._least_bad()
        held = [proof.rate_per_s for proof in self._proofs.get(arm.key, ()) if proof.verdict == "verified"]
        predicted = self.capacity(arm) if self.question.need else None
        if predicted and held:
            low, high = max(predicted.low_per_s, *held, 0.0), max(predicted.high_per_s, *held, 0.0)
            per_s = max(predicted.per_s, *held, 0.0)
            predicted = predicted.model_copy(update={"per_s": per_s, "low_per_s": low, "high_per_s": high})
        missed = self._missed_at(arm)
        if predicted and not held and missed < predicted.high_per_s:
            figures = (predicted.per_s, predicted.low_per_s, predicted.high_per_s)
            per_s, low, high = (min(value, missed) for value in figures)
            predicted = predicted.model_copy(update={"per_s": per_s, "low_per_s": low, "high_per_s": high})
        proofs = self._proofs.get(arm.key)
        return self._decision(arm, verdict, reason, predicted, proofs[-1] if proofs else None)

    def decide_unproved(self, verdict: Verdict, reason: str) -> Decision:
        """Return the decision for the best arm where no proof was accepted.

        Rejected where what is asked for was disproved; a proof that asked for more than that leaves it unverified.
        """
        arm = self._least_bad()
        if verdict == "rejected" and self.question.rate_per_s is None:
            reason = f"no rate was asked for, and a run at {rate(self._missed_at(arm))} missed: {reason}"
        if verdict == "rejected" and not self.disproved(arm):
            verdict = "unverified"
        return self.decide(verdict, arm, reason)

    def _missed_at(self, arm: Arm) -> float:
        """Return the lowest rate at which more of the arm's answers than may be late were, infinity where none."""
        proofs = self._proofs.get(arm.key)
        if not proofs:
            return math.inf
        allowed = 1 - self._need.share
        return min((each.rate_per_s for each in proofs if each.misses > allowed * each.sent), default=math.inf)

    def _least_bad(self) -> Arm:
        """Return the best arm, preferring what was not disproved; where none holds the SLO, the lowest floor.

        A disproved one is no worse than others of which nobody believes that they carry the rate.
        """
        ranked, asked = self.ranked(), self.question.rate_per_s or 0.0
        open_to = [
            arm for arm in ranked if not self.disproved(arm) and self.capacity(arm).high_per_s >= asked
        ] or ranked
        return self.simplest_of_ties(open_to) or min(self.measured(), key=self._floor_s)

    def infeasible(self) -> Decision:
        """Return the decision where no arm answers even a lone request in time: the lowest floor, and how low it is."""
        arm = min(self.measured(), key=self._floor_s)
        floor, need = self._floor_s(arm), self._need
        reason = f"a lone request takes {_ms(floor)} at p{need.percentile:g} at best, the SLO is {_ms(need.latency_s)}"
        return self._decision(arm, "infeasible", reason, Capacity(per_s=0.0, low_per_s=0.0, high_per_s=0.0), None)

    def failed(self, found: Sequence[Candidate]) -> Decision:
        """Raise FAILED with why each arm could not be measured."""
        where = self.question.model
        problems = [Problem(f"{arm.name}: {reason}", where) for arm, reason in self._out.values()]
        raise OrchError(Kind.FAILED, problems or [Problem(f"none of {len(found)} arms could be measured", where)])

    def _floor_s(self, arm: Arm) -> float:
        """Return the latency of a lone request at the SLO's percentile, in the round in which it was lowest.

        In the others somebody may have used the machine: a floor is what no setting can promise less than.
        """
        share = self.question.need.share if self.question.need else 0.5
        return min(evidence.unloaded_s(self._profiles[arm.key], share).values())

    def _decision(
        self, arm: Arm, verdict: Verdict, reason: str, predicted: Capacity | None, proof: Proof | None
    ) -> Decision:
        profile = self._profiles[arm.key]
        service = self.service(arm)
        return Decision(
            model=self.question.model,
            model_sha256=self.question.model_sha256,
            arm=arm,
            actual=profile.actual,
            capacity=predicted,
            service_s=self.median_s(arm),
            service_p99_s=quantile(service.pooled_s, 0.99),
            alone_s=evidence.median_s(evidence.alone_blocks(profile)),
            per_s=evidence.rows_per_s(profile),
            verdict=verdict,
            reason=reason,
            inflation=self._inflation.get(arm.key, 1.0),
            stretch=self.stretch or 1.0,
            proof=proof,
            floor_s=min(self._floor_s(each) for each in self.measured()) if self.question.need else None,
            rejected=self._rejected(arm, predicted),
            resolution=self.resolution,
            front_end_s=self.question.front_end_s,
            seconds=self.seconds,
            compiled=len(self.compiled),
        )

    def _rejected(self, chosen: Arm, predicted: Capacity | None) -> tuple[Rejected, ...]:
        others = [arm for arm in self.measured() if arm.key != chosen.key]
        others += [arm for arm, _ in self._out.values() if not self.has(arm)]
        return tuple(self._reject(arm, chosen, predicted) for arm in others)

    def _reject(self, arm: Arm, chosen: Arm, best: Capacity | None) -> Rejected:
        if not self.has(arm):
            return Rejected(arm=arm, reason=self._out[arm.key][1])
        own = self.capacity(arm) if self.question.need else None
        beaten = not self.is_out(arm) or (arm.key in self._pruned and own and best and own.per_s > best.per_s)
        reason = self._why_not(arm, chosen, own, best) if beaten else self._out[arm.key][1]
        return Rejected(
            arm=arm,
            reason=reason,
            capacity=own,
            streams=self._profiles[arm.key].actual.streams,
            service_s=self.median_s(arm),
            alone_s=self.alone_median_s(arm),
            per_s=evidence.rows_per_s(self._profiles[arm.key]),
            inflation=self._inflation.get(arm.key, 1.0),
        )

    def _why_not(self, arm: Arm, chosen: Arm, own: Capacity | None, best: Capacity | None) -> str:
        """Return why an arm that could have been taken was not."""
        rejected = [proof for proof in self._proofs.get(arm.key, ()) if proof.verdict == "rejected"]
        if rejected:
            last = rejected[-1]
            if last.arrivals == "closed":
                return f"fell short when served: {last.reason}"
            return f"did not hold {rate(last.rate_per_s)} when served: {last.reason}"
        if own is None or best is None or best.per_s <= 0:
            return f"{chosen.name} was there first"
        if own.per_s <= 0:
            return f"holds the SLO at no rate; {chosen.name} at {rate(best.per_s)}"
        less = 1 - own.per_s / best.per_s
        tie = min(TIE_MAX, max(evidence.RESOLUTION_MIN, self.resolution))
        if less < -tie and arm.batch > chosen.batch == 1 and (1 - BATCH_TIE) * own.per_s <= best.per_s:
            return (
                f"may hold {rate(own.per_s)}, {-100 * less:.0f} % more than {chosen.name}: too little to have a lone "
                f"request take as long as {arm.batch} rows"
            )
        if less < -tie:
            return f"may hold {rate(own.per_s)}, more than {chosen.name} with {rate(best.per_s)}, but was not proved"
        if less < tie:
            return f"holds {rate(own.per_s)}, {AS_GOOD} {chosen.name} with {rate(best.per_s)}, which is simpler"
        return f"holds {rate(own.per_s)}, {100 * less:.0f} % less than {chosen.name} with {rate(best.per_s)}"


def _ms(seconds: float) -> str:
    return duration(seconds)
