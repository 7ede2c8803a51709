"""Find the arm that carries most within the SLO: which block to run next, when to stop, what to prove, whom to take.

A state machine without a clock: `next()` says what to do, `feed()` takes what came of it and the seconds since planning
began. Same question, same results, same decision. Its course:

    compile the likely arms one by one, a block of each --> rounds in random order, the anchor first and last in each
      --> a request more than streams --> batches where a probe of four pays
      --> more rounds for the best two while they are close
      --> proof of the best by an open-loop run; after a rejection the prediction learns, and the next is proved

Tainted blocks are asked for again while that is not vain. An arm goes when it cannot hold the SLO even unloaded, or
cannot beat the best even at its best. Nothing is cut short so much that the budget has no room for the proof.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from random import Random
from statistics import median

from orchestrator.planner import evidence
from orchestrator.planner.arms import Candidate, by_key, with_spare
from orchestrator.planner.capacity import LOAD_MAX, Need
from orchestrator.planner.decision import Decision
from orchestrator.planner.explain import UNTRIED, rate
from orchestrator.planner.notebook import BATCH_TIE, Notebook
from orchestrator.planner.steps import BLOCK_LEAST_S, Failed, Finish, Measure, Measured, Question, Result, Step, Verify
from orchestrator.planner.verdict import BLOCKS, Test, the_test
from orchestrator.profiling.measurement import Arm, ArmProfile, Proof, Verdict
from orchestrator.scheduling.inline import pays

ROUNDS = 3
SAME_WITHIN = 1.25  # times what was stored: more, and the machine is not what it was
SPARE_FROM = ROUNDS + 2  # after the two of batches
SPARE_ROUNDS = 3  # in which a spare request is tried
RACE_ROUNDS = 3  # more, for the best two
RACE_WITHIN = 0.10  # of the best capacity: further apart, the profile has decided
COMPILED_MAX = 5
PROVED_ARMS_MAX = 2
PROOFS_MAX = 3
AGAIN_MAX = 3  # times that a tainted block is asked for again
AGAIN_SHARE = 0.15  # of the budget, all of them together
BLOCK_S, BLOCK_MAX_S = 0.5, 1.5
BLOCK_INFERENCES = 25  # of each request that a closed loop should hold: its median then has a tenth of their spread
STEP_OVERHEAD_S = 0.3  # of a block: warming up again, and asking
PROOF_START_S = 3.0  # until the worker that is proved serves
DECIDING_S = 2.0  # of the budget, for predicting and for ending a worker: what begins within it shall end within it
PROOF_SPARE = 1.5  # times the requests that suffice when none is late: room for one that is, and for chance
PROOF_LEAST_S = 1.0  # less shows nothing
PROOF_GAP_S = 0.2
PROOF_BLOCKS = 5  # a machine is faster and slower from second to second: a yes must have seen some of that
BATCH_PROBE = 4
# Rows x D(1) / D(rows) of the probe. Where each row adds as much as the next, less means that no batch, however large,
# brings the quarter more throughput for which one is taken.
BATCH_PAYS = 1.15
BATCH_ROOM = 2.0  # times the rate asked for: what carries that without a batch needs none, and answers sooner
DEMAND_SHARE = 0.95  # of a predicted capacity is what a proof may ask for

Asking = Generator[Measure | Verify, Result, bool]
Deciding = Generator[Measure | Verify, Result, Decision]


class Search:
    """One search. `stored` are profiles of this model on this machine: what they hold is not measured again.

    But one block of them is, before a measurement builds on them: if the machine is not as fast as it was, all is.

    `stretch` is what an earlier proof taught of it: all that a prediction has, while a search learns its own.
    """

    def __init__(
        self,
        question: Question,
        found: Sequence[Candidate],
        stored: Sequence[ArmProfile] = (),
        stretch: float | None = None,
    ) -> None:
        assert found, "a model that has a place has an arm"
        self.question = question
        usable = _usable(stored, found, question)
        self.notes = Notebook(question, usable, stretch if question.predict else None)
        self._found = tuple(found)
        self._stored = {profile.arm.key for profile in usable}
        self._work: Deciding | None = None
        self._step: Step | None = None
        self._again: list[Measure] = []
        self._left_for_again_s = AGAIN_SHARE * question.budget_s
        self._overhead_s = STEP_OVERHEAD_S
        self._compiling_s = 0.0
        """The longest that a first block of an arm has taken beside its own seconds: starting a process, compiling."""

    def next(self) -> Step:
        """Return what to do now; the same until it is fed."""
        if self._step is None:
            self._work = self._search()
            self._advance(None)
        assert self._step is not None
        return self._step

    def feed(self, result: Result, *, seconds: float) -> None:
        """Take what came of the step that `next` gave; `seconds` have passed since planning began."""
        assert not isinstance(self.next(), Finish), "the search is over"
        self._note_costs(max(0.0, seconds - self.notes.seconds))
        self.notes.seconds = max(self.notes.seconds, seconds)
        self._advance(result)

    @property
    def profiles(self) -> tuple[ArmProfile, ...]:
        """Return all that was measured so far, stored profiles included."""
        return self.notes.all_profiles()

    @property
    def progress(self) -> str:
        """Return in a few words what is being tried, for people."""
        match self.next():
            case Measure(arm, _, _, number) as step:
                return f"round {number + 1}: {arm.name}, {step.load}"
            case Verify(arm, per_s):
                return f"proving {arm.name} at {rate(per_s)}"
            case Finish():
                return "decided"

    def _note_costs(self, seconds: float) -> None:
        """Learn from the seconds that a block took what the next will take: a busy machine is slow in everything."""
        if not isinstance(self._step, Measure):
            return
        beside_s = seconds - self._step.seconds
        if self._step.arm.compiled_key in self.notes.compiled:
            self._overhead_s = max(self._overhead_s, min(beside_s, BLOCK_MAX_S))
        else:
            self._compiling_s = max(self._compiling_s, beside_s)

    def _advance(self, result: Result | None) -> None:
        assert self._work is not None
        try:
            self._step = next(self._work) if result is None else self._work.send(result)
        except StopIteration as ended:
            self._step = Finish(ended.value)

    # The course.

    def _search(self) -> Deciding:
        notes, need = self.notes, self.question.need
        if need is None:
            return (yield from self._by_hint())
        if self._stored and not self.question.predict:
            yield from self._check_stored()
        if not (self.question.predict and self._stored):
            yield from self._first_round()
            for number in range(1, ROUNDS):
                yield from self._round(number)
        if not notes.measured():
            return notes.failed(self._found)
        self._prune()
        if not notes.ranked():
            return notes.infeasible()
        if not (self.question.predict and self._stored):
            yield from self._spare_request()
            if (yield from self._batches()):
                yield from self._spare_request()
            yield from self._race()
        if self.question.predict:
            return notes.decide("unverified", None, "planned by prediction, not proved")
        return (yield from self._prove())

    def _check_stored(self) -> Asking:
        """Run a block of the stored arm that serves most; forget all that is stored where it takes another time now.

        Else what was measured beside somebody's work would be compared with what is measured in quiet.
        """
        notes = self.notes
        arm = max(notes.measured(), key=notes.most_per_s)
        result = yield self._measure(arm, notes.slots(arm), 0)
        if isinstance(result, Measured) and result.block.service_s:
            now_s, then_s = median(result.block.service_s), notes.median_s(arm)
            if max(now_s, then_s) <= SAME_WITHIN * min(now_s, then_s):
                return True
        notes.forget_all()
        self._stored.clear()
        return False

    @property
    def builds_on_stored(self) -> bool:
        """Tell whether the profiles are partly those that were stored."""
        return bool(self._stored)

    def _by_hint(self) -> Deciding:
        """Take the first arm, which is the hint, and look at it once."""
        for candidate in self._found:
            yield from self._first_blocks(candidate.arm)
            if self.notes.measured():
                return self.notes.decide("unverified", None, "no SLO to hold, so OpenVINO's hint is taken")
        return self.notes.failed(self._found)

    def _first_round(self) -> Asking:
        """Compile the likely arms, as many as the budget allows, without those that are known to be others again."""
        notes = self.notes
        reserve = 1 if any(candidate.batched for candidate in self._found) else 0
        for candidate in self._found:
            arm = candidate.arm
            if notes.has(arm):
                continue
            twin = notes.twin(candidate)
            if twin is not None:
                notes.drop(arm, f"the same as {twin.name}")
            elif notes.is_hopeless(candidate):
                notes.drop(arm, f"more streams than {notes.slowest_name()}, which is too slow alone already")
            elif len(notes.compiled) + reserve >= COMPILED_MAX:
                notes.drop(arm, f"not tried: {COMPILED_MAX} arms are compiled at most")
            elif notes.measured() and not self._time_for_another():
                notes.drop(arm, f"{UNTRIED} has no room for it")
            else:
                yield from self._first_blocks(arm)
        return (yield from self._ask_again())

    def _time_for_another(self) -> bool:
        return self._left_s() > self._longest_compile_s() + 2 * ROUNDS * (BLOCK_S + self._overhead_s)

    def _longest_compile_s(self) -> float:
        """Return how long it takes until an arm that is not compiled yet can be measured."""
        compiled = (profile.compile_s for profile in self.notes.all_profiles())
        return max(self._compiling_s, max(compiled, default=0.0))

    def _left_s(self) -> float:
        """Return the seconds left for measuring, when the proof has its share."""
        question = self.question
        return question.budget_s - self.notes.seconds - (0.0 if question.predict else self._proof_reserve_s())

    def _proof_reserve_s(self) -> float:
        """Return how long a proof takes when no request misses, at most half of the budget."""
        question = self.question
        if question.need is None:
            return 0.0
        test = self._test(question.need, 0.0)
        rate = question.rate_per_s or max(self.notes.likely_rate(), 1e-9)
        start_s = PROOF_START_S + self._longest_compile_s()
        return DECIDING_S + min(0.5 * question.budget_s, start_s + _sending_s(test, rate, PROOF_GAP_S))

    def _test(self, need: Need, service_s: float, seconds: float = math.inf) -> Test:
        """Return the test; in a few seconds there is no room for all blocks, and fewer that are clean say something."""
        blocks = PROOF_BLOCKS if seconds >= 2 * PROOF_BLOCKS * BLOCK_LEAST_S else BLOCKS
        return the_test(need.percentile, service_s, blocks=blocks, strict=self.question.strict)

    def _first_blocks(self, arm: Arm) -> Asking:
        """Compile the arm with its first block, one inference at a time; then all requests at once."""
        if not (yield from self._block(Measure(arm, 1, BLOCK_S, 0, paced=True))):
            return False
        twin = self.notes.made_the_same(arm)
        if twin is not None:
            self.notes.drop(arm, f"OpenVINO makes the same of it as of {twin.name}")
            self.notes.forget(arm)
            return False
        return (yield from self._busy_block(arm, 0))

    def _busy_block(self, arm: Arm, number: int) -> Asking:
        if self.notes.too_slow(arm):
            return True
        return (yield from self._block(self._measure(arm, self.notes.slots(arm), number)))

    def _alone(self, arm: Arm, number: int) -> Measure:
        """Return a block of single inferences; the pauses take two thirds of it."""
        return replace(self._measure(arm, 1, number), paced=True)

    def _measure(self, arm: Arm, concurrency: int, number: int) -> Measure:
        """Return a block long enough for its figures, within reason."""
        one_s = self.notes.median_s(arm) / concurrency
        return Measure(arm, concurrency, min(BLOCK_MAX_S, max(BLOCK_S, BLOCK_INFERENCES * one_s)), number)

    def _block(self, step: Measure) -> Asking:
        result = yield step
        match result:
            case Measured():
                if not result.block.service_s:
                    self.notes.drop(step.arm, f"not one inference ended in a block of {step.seconds:g} s")
                    return False
                self.notes.add(step.arm, result)
                if result.block.host.tainted():
                    self._again.append(step)
                return True
            case Failed(reason):
                self.notes.drop(step.arm, reason)
                return False
            case Proof():
                raise AssertionError("a block was asked for, a proof came")

    def _round(self, number: int) -> Asking:
        """Measure all that is still in the race in random order, between two blocks of the anchor."""
        self._drop_infeasible()
        arms = [arm for arm in self.notes.contenders() if arm.key not in self._stored]
        anchor = self.notes.anchor
        if not arms or anchor is None or self._left_s() < self._round_s(arms):
            return False
        if all(self.notes.too_slow(arm) for arm in arms):
            for arm in arms:  # another look each, and it is known that the SLO cannot be held
                yield from self._block(self._alone(arm, number))
            return True
        Random(f"{self.question.seed}/{number}").shuffle(arms)
        yield from self._anchor_block(anchor, number)
        for arm in arms:
            if (yield from self._block(self._alone(arm, number))):
                yield from self._busy_block(arm, number)
        yield from self._anchor_block(anchor, number)
        return (yield from self._ask_again())

    def _round_s(self, arms: Sequence[Arm]) -> float:
        """Return how long a round of these arms takes."""
        steps = [step for arm in arms for step in (self._alone(arm, 0), self._measure(arm, self.notes.slots(arm), 0))]
        return sum(step.seconds + self._overhead_s for step in steps)

    def _anchor_block(self, anchor: Arm, number: int) -> Asking:
        return (yield from self._block(self._measure(anchor, self.notes.slots(anchor), number)))

    def _ask_again(self) -> Asking:
        """Ask for tainted blocks again; on a busy machine only until an arm has one quiet block.

        Where no block was ever quiet the noise is taken as given: ratios within a round decide.
        """
        for _ in range(AGAIN_MAX):
            again, self._again = self._again, []
            for step in again:
                takes_s = step.seconds + self._overhead_s
                if min(self._left_s(), self._left_for_again_s) > takes_s and self._worth_again(step):
                    self._left_for_again_s -= takes_s
                    yield from self._block(step)
        self._again = []
        return True

    def _worth_again(self, step: Measure) -> bool:
        notes = self.notes
        if notes.is_out(step.arm) or notes.never_quiet or notes.is_far_too_slow(step.arm):
            return False
        return not notes.ambient or notes.lacks(step)

    def _drop_infeasible(self) -> None:
        for arm in self.notes.contenders():
            if self.notes.is_infeasible(arm):
                self.notes.drop_infeasible(arm)

    def _prune(self) -> None:
        """Drop what cannot hold the SLO even unloaded, and what at its best cannot beat the best at its worst."""
        notes = self.notes
        self._drop_infeasible()
        bounds = {arm.key: notes.most_per_s(arm) * (1 + 2 * notes.resolution) * LOAD_MAX for arm in notes.contenders()}
        if not bounds or min(bounds.values()) > max(bounds.values()) / (1 + 2 * notes.resolution):
            return  # nobody can be dominated, and simulating costs time
        best = notes.best()
        if best is None:
            return
        worst_of_best = notes.capacity(best).low_per_s
        for arm in notes.contenders():
            most = bounds[arm.key]
            needed = worst_of_best * (1 - BATCH_TIE) if best.batch > arm.batch == 1 else worst_of_best
            if arm is not best and most < needed:
                notes.prune(
                    arm, f"even fully loaded it serves {rate(most)}, and {best.name} holds {rate(worst_of_best)}"
                )

    def _batches(self) -> Asking:
        """Probe a batch of four on the best arm; where it pays, try what promises most, as long as it promises more.

        Tell whether the best arm has a batch now.
        """
        known = {candidate.arm.key: candidate for candidate in self._found}
        best = next((arm for arm in self.notes.ranked() if arm.key in known), None)  # not one with a spare request
        if best is None or not known[best.key].batched or not self._may_compile():
            return False
        candidate = known[best.key]
        if best.device == "CPU" and pays(self.notes.quickest_s(best)):
            return False  # the worker infers it where requests arrive, and gathers rows itself
        sizes = {arm.batch: arm for arm in candidate.batched}
        probe = sizes.get(BATCH_PROBE) or candidate.batched[-1]
        asked, least = self.question.rate_per_s, self.notes.capacity(self.notes.ranked()[0]).low_per_s
        if asked is not None and least >= BATCH_ROOM * asked:
            why = f"not tried: {best.name} holds {least / asked:.2g} times the rate, and answers a lone request sooner"
            self.notes.drop(probe, why)
            return False
        if not (yield from self._batch_blocks(probe, best)):
            return False
        gain = self.notes.batch_gain(best, probe)
        if gain < BATCH_PAYS:
            self.notes.drop(probe, f"a batch of {probe.batch} pays {gain:.2f} times, less than {BATCH_PAYS:g}")
            return False
        while self._may_compile():
            promising = self.notes.most_promising(best, probe, self._found)
            if promising is None or not (yield from self._batch_blocks(promising, best)):
                break
        now = self.notes.best()
        return now is not None and now.batch > best.batch

    def _may_compile(self) -> bool:
        return len(self.notes.compiled) < COMPILED_MAX and self._time_for_another()

    def _batch_blocks(self, arm: Arm, rival: Arm) -> Asking:
        """Measure a batch in two rounds of its own, each beside the arm that it must beat."""
        if self.notes.has(arm):
            return True
        for number in (ROUNDS, ROUNDS + 1):
            first = number == ROUNDS
            step = Measure(arm, 1, BLOCK_MAX_S, number, paced=True) if first else self._alone(arm, number)
            if not (yield from self._block(step)):
                return False
            if self.notes.too_slow(arm):
                self.notes.drop_infeasible(arm)
                return True
            yield from self._busy_block(arm, number)
            yield from self._anchor_block(rival, number)
        yield from self._ask_again()
        if self.notes.is_infeasible(arm):
            self.notes.drop_infeasible(arm)
        return True

    def _spare_request(self) -> Asking:
        """Try one request more than streams on the best arm: while it waits in the engine no stream idles.

        Between the end of an inference and the start of the next a callback runs, which takes a twentieth of an
        inference of a millisecond or two.
        """
        notes, base = self.notes, self.notes.best()
        if base is None or base.requests is not None or base.key in self._stored:
            return False
        if base.device == "CPU" and pays(notes.quickest_s(base)):
            return False  # the worker infers it where requests arrive
        slots = notes.slots(base)
        if slots >= (self.question.concurrency or math.inf):
            return False  # there is never one more that could wait
        if slots != notes.streams(base) or self._left_s() < 2 * SPARE_ROUNDS * (BLOCK_S + self._overhead_s):
            return False
        arm = with_spare(base, slots)
        for number in range(SPARE_FROM, SPARE_FROM + SPARE_ROUNDS):
            if not notes.has(arm):
                notes.derive(arm, base)
            if not (yield from self._block(self._measure(arm, slots + 1, number))):
                notes.forget(arm)
                return False
            yield from self._block(self._measure(base, slots, number))
        return (yield from self._ask_again())

    def _race(self) -> Asking:
        """Run the best two against each other, in turns, until they are apart or a tie."""
        notes = self.notes
        first = SPARE_FROM + SPARE_ROUNDS
        for number in range(first, first + RACE_ROUNDS):
            self._prune()
            pair = notes.ranked()[:2]
            if len(pair) < 2 or any(arm.key in self._stored for arm in pair):
                return True
            better, other = (notes.capacity(arm) for arm in pair)
            close = other.per_s > (1 - RACE_WITHIN) * better.per_s
            if not close or other.high_per_s < better.low_per_s:
                return True
            if self._left_s() < 4 * (BLOCK_MAX_S + self._overhead_s):
                return False
            turns = [*pair, *reversed(pair)] if number % 2 else [*reversed(pair), *pair]
            for arm in turns:
                yield from self._block(self._measure(arm, notes.slots(arm), number))
            yield from self._ask_again()
        return True

    # The proof.

    def _prove(self) -> Deciding:
        """Prove the best at what is asked for and the headroom; learn from a rejection, and prove what is then best."""
        notes = self.notes
        if self.question.rate_per_s is None and notes.best_rate() <= 0:
            return notes.decide("infeasible", None, "no arm is predicted to hold the SLO when served, at any rate")
        beyond = notes.beyond_reach()
        if beyond:
            return notes.decide("infeasible", None, beyond)
        verdict: Verdict = "unverified"
        reason = "the budget has no room for a proof"
        for number in range(PROOFS_MAX):
            arm = self._to_prove()
            if arm is None:
                break
            step = self._proof_of(arm, number)
            if step.seconds < PROOF_LEAST_S:
                break
            result = yield step
            if isinstance(result, Failed):
                notes.drop(arm, f"could not be proved: {result.reason}")
                reason = result.reason
                continue
            assert isinstance(result, Proof), "a proof was asked for"
            notes.learn(arm, result)
            verdict, reason = result.verdict, result.reason
            if verdict == "verified":
                return notes.decide(verdict, arm, reason)
            if verdict == "unverified" and not self._can_ask_less(arm, result):
                break
        if not notes.contenders():
            return notes.failed(self._found)
        return notes.decide_unproved(verdict, reason)

    def _can_ask_less(self, arm: Arm, proof: Proof) -> bool:
        """Tell whether a lower rate is left to prove where the headroom's could neither be accepted nor rejected."""
        return proof.arrivals != "closed" and self._proof_rate(arm) < 0.99 * proof.rate_per_s

    def _to_prove(self) -> Arm | None:
        """Return the best arm that may still be proved, None where none may."""
        notes = self.notes
        open_to = [arm for arm in notes.ranked() if not notes.disproved(arm)]
        if len(notes.proved()) >= PROVED_ARMS_MAX:
            open_to = [arm for arm in open_to if arm.key in notes.proved()]
        return notes.simplest_of_ties(open_to)

    def _proof_of(self, arm: Arm, number: int) -> Verify:
        question, notes = self.question, self.notes
        assert question.need is not None
        need, service_s = question.need, notes.service(arm).mean_s
        test = self._test(need, service_s)
        rate, gap_s = self._proof_rate(arm), max(PROOF_GAP_S, test.episode_s)
        seconds = question.budget_s - notes.seconds - PROOF_START_S - DECIDING_S
        if number + 1 < PROOFS_MAX and question.rate_per_s is not None and rate > question.rate_per_s:
            # Leave room to prove the rate itself, if its headroom stays undecided.
            least = _sending_s(test, question.rate_per_s, gap_s)
            if seconds > 2 * least + PROOF_START_S:
                seconds -= least + PROOF_START_S
        test = self._test(need, service_s, seconds)
        least_per_s = question.rate_per_s if need.arrivals == "closed" else None
        return Verify(arm, rate, need, test, question.seed + number, seconds, gap_s, least_per_s)

    def _proof_rate(self, arm: Arm) -> float:
        """Return the rate to prove: with the headroom if that is within reach, never less than what is asked for.

        Where no rate is asked for, what the prediction is sure of.
        """
        question, capacity = self.question, self.notes.capacity(arm)
        undecided = self.notes.undecided_rate(arm)
        likely = DEMAND_SHARE * min(capacity.per_s, undecided)
        if question.rate_per_s is None:
            return max(min(likely, capacity.low_per_s), 1e-3)
        if undecided < math.inf:
            return question.rate_per_s
        if question.need is not None and question.need.arrivals == "closed":
            return question.rate_per_s
        return min(question.rate_per_s * question.headroom, max(question.rate_per_s, likely))


def _sending_s(test: Test, rate_per_s: float, gap_s: float) -> float:
    """Return about how long a proof sends until it may say yes."""
    return max(PROOF_SPARE * test.fewest / rate_per_s, test.blocks * BLOCK_LEAST_S) + test.blocks * gap_s


def _usable(stored: Sequence[ArmProfile], found: Sequence[Candidate], question: Question) -> tuple[ArmProfile, ...]:
    """Return the stored profiles of arms that are candidates still, measured in more than one round and fully loaded.

    One round of a batch may be all there was to learn of it, and one block that is too slow too. A prediction takes
    what there is: one round, where a busy machine allowed no more.
    """
    known = by_key(found)
    slow_s = question.need.latency_s if question.need else math.inf
    spare = {arm.compiled_key for arm in known.values() if arm.requests is None}
    mine = [each for each in stored if each.arm.key in known or each.arm.compiled_key in spare]
    whole = [each for each in mine if evidence.is_whole(each, slow_s)]
    rounds = {each.arm.key: len({block.round for block in each.blocks if block.service_s}) for each in whole}
    usable = tuple(each for each in whole if rounds[each.arm.key] >= (1 if each.arm.batch > 1 else 2))
    if question.predict and not any(each.arm.batch == 1 for each in usable):
        return tuple(whole)
    return usable
