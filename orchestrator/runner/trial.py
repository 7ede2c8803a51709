"""Whether a change holds what it promises: what became of requests under it, against the SLO and what was before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.explain import duration, figure, rate
from orchestrator.planner.plan import SloPlan

# Evidence is a log likelihood ratio. A slice of time alone is wrong once in a hundred; the two in a row that
# decide, which one hiccup of the machine does not reach, once in ten thousand.
SURE_NATS = 4.6
FAILED_NATS = 7.0  # for failures one look must do: each costs a caller its answer
FAILED_SHARE = 0.001  # of inferences fail by accident
NO_WORSE = 1.5  # times what the revision before missed is no worse: no two seconds of an overloaded machine are alike
FEW_ANSWERS = 10  # show that a model without an SLO answers real requests
LONGEST_S = 60.0  # whoever applies waits for it
VARIABLE = "ORCH_TRIAL_S"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """How long a change is tried under load; `seconds` 0: not at all."""

    seconds: float = 2.0
    """A queue that grows by a tenth of what arrives is 200 ms long by then."""
    longest_s: float = 5.0
    """Where so few requests come, or it is so close, that more must be seen."""
    answers: int = 50
    """Enough to see that a tenth is late where a hundredth may be."""
    settle_s: float = 0.5
    """At most, for the old pool to finish what it has: until then two models share the cores."""

    @property
    def slice_s(self) -> float:
        """Return the length of what is judged by itself."""
        return self.seconds / 2


TRIAL = TrialLimits()


def limits_of(text: str | None) -> TrialLimits:
    """Return the limits of a trial of so many seconds, as ORCH_TRIAL_S in the environment has them; raise INVALID."""
    if not text:
        return TRIAL
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_S:
        what = f"must be 0 to {LONGEST_S:g} seconds, got {text!r}"
        raise OrchError(Kind.INVALID, what, where=VARIABLE, hint="0 turns trials off; without it they take 2")
    return replace(TRIAL, seconds=seconds, longest_s=seconds * TRIAL.longest_s / TRIAL.seconds)


@dataclass(frozen=True, slots=True)
class Load:
    """What became of the requests for one model in so many seconds."""

    seconds: float = 0.0
    arrivals: int = 0
    answered: int = 0
    in_slo: int = 0
    """Of the answered; all where there is no SLO."""
    lost: int = 0
    """Refused, expired, or unanswered for longer than the SLO."""
    failed: int = 0
    quantile_s: float | None = None
    """Latency at the SLO's percentile, where it is known."""
    fitted: bool = True
    """Whether one inference alone was within the SLO, or there was none."""

    @property
    def ended(self) -> int:
        """Return the requests of which is known what became of them."""
        return self.answered + self.lost + self.failed

    @property
    def missed(self) -> int:
        """Return those that the SLO does not count."""
        return self.answered - self.in_slo + self.lost

    @property
    def missed_share(self) -> float:
        """Return the share of the ended that missed."""
        return self.missed / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under trial."""

    model: str
    slo: SloPlan | None
    service_s: float
    """The quickest inference of its check, which ran alone."""
    before: Load | None = None
    """What became of requests before the change, by the SLO of then; None for a model that is new."""
    changed: bool = True
    """False for one that only shares the machine with what changed."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a trial says of one model."""

    model: str
    good: bool
    text: str


def together(slices: Sequence[Load], quantile_s: float | None = None) -> Load:
    """Return all slices as one; `quantile_s` is that of all."""
    return Load(
        seconds=sum(each.seconds for each in slices),
        arrivals=sum(each.arrivals for each in slices),
        answered=sum(each.answered for each in slices),
        in_slo=sum(each.in_slo for each in slices),
        lost=sum(each.lost for each in slices),
        failed=sum(each.failed for each in slices),
        quantile_s=quantile_s,
    )


def unfit(subject: Subject) -> Judgement | None:
    """Return why the model cannot hold its SLO whatever the load, None where it can, or could not before either."""
    slo, before = subject.slo, subject.before
    if slo is None or subject.service_s <= slo.latency_s or (before is not None and not before.fitted):
        return None
    text = f"one inference alone takes {duration(subject.service_s)}, longer than the SLO of {duration(slo.latency_s)}"
    return Judgement(subject.model, good=False, text=text)


def judge(
    subject: Subject,
    slices: Sequence[Load],
    limits: TrialLimits,
    *,
    healthy: bool = True,
    quantile_s: float | None = None,
) -> Judgement | None:
    """Return what is to be said of the model after these slices of time; None where more must be seen.

    `quantile_s` is the latency at the SLO's percentile over all slices.
    """
    total = together(slices, quantile_s)
    if not healthy:
        return Judgement(subject.model, good=False, text="its inferences fail or hang under its load")
    if _fails(total, subject.before):
        return Judgement(subject.model, good=False, text=_failures(total, subject.before))
    if subject.slo is None:
        return _without_slo(subject, total, limits)
    if _idle(subject, total, limits):
        why = f"nobody asked it in {total.seconds:.1f} s" if total.seconds else "nobody asks it"
        return _by_service(subject, subject.slo, why)
    return _by_slo(subject, subject.slo, slices, total, limits)


def excused(subject: Subject, now: Load | None) -> bool:
    """Tell whether what served before the change does no better now: then the machine has become slower meanwhile."""
    if now is None or subject.before is None:
        return False
    return _fails(now, None) or (subject.slo is not None and not _holds(now, None, subject.slo))


def _idle(subject: Subject, total: Load, limits: TrialLimits) -> bool:
    """Tell whether nobody asks, nor is about to: those who asked before would have come by now."""
    asked_before = subject.before is not None and subject.before.arrivals > 0
    return total.arrivals == 0 and (not asked_before or total.seconds >= limits.seconds)


def _without_slo(subject: Subject, total: Load, limits: TrialLimits) -> Judgement | None:
    if total.ended < FEW_ANSWERS and total.seconds < limits.seconds and not _idle(subject, total, limits):
        return None
    text = f"{total.answered} answered, {total.failed} failed" if total.ended else "nobody asks it"
    return Judgement(subject.model, good=True, text=text)


def _by_slo(
    subject: Subject, slo: SloPlan, slices: Sequence[Load], total: Load, limits: TrialLimits
) -> Judgement | None:
    if total.seconds < limits.seconds:
        return None
    held = [_holds(each, subject.before, slo) for each in slices]
    at_end = total.seconds >= limits.longest_s
    if len(held) > 1 and held[-1] != held[-2] and not at_end:
        return None
    # At the end undecided: what was so for most of the time.
    good = held[-1] if len(held) < 2 or held[-1] == held[-2] else 2 * sum(held) > len(held)
    if not good:
        return Judgement(subject.model, good=False, text=_missed(subject, slo, total))
    if total.answered >= limits.answers:
        return Judgement(subject.model, good=True, text=_kept(subject, slo, total))
    if not at_end:
        return None
    few = f"{total.answered} answers in {total.seconds:.1f} s are too few to judge {_name(slo)} by"
    return _by_service(subject, slo, few)


def _by_service(subject: Subject, slo: SloPlan, why: str) -> Judgement:
    bad = unfit(subject)
    if bad is not None:
        return bad
    alone = f"one inference alone takes {duration(subject.service_s)} of {duration(slo.latency_s)}"
    return Judgement(subject.model, good=True, text=f"{why}: {alone}")


def _holds(now: Load, before: Load | None, slo: SloPlan) -> bool:
    """Tell whether requests met the SLO, or as many missed it before: then the change is not to blame."""
    allowed = 1 - slo.percentile / 100
    if now.missed_share <= allowed or now.ended * _divergence(now.missed_share, allowed) < SURE_NATS:
        return True
    return before is not None and before.ended > 0 and not (_worse(now, before, allowed) or _slower(now, before))


def _worse(now: Load, before: Load, allowed: float) -> bool:
    """Tell whether clearly more missed than before, and not only by chance."""
    if now.missed_share <= NO_WORSE * before.missed_share + allowed:
        return False
    return _difference(now.missed, now.ended, before.missed, before.ended) >= SURE_NATS


def _slower(now: Load, before: Load) -> bool:
    """Tell whether clearly fewer were answered in time than before, although as many asked.

    Callers who come back at once make most of the requests of any pool that is full; then shares tell nothing.
    """
    expected = before.in_slo / max(before.seconds, 1e-6) * now.seconds
    if now.arrivals < expected or NO_WORSE * now.in_slo >= expected:
        return False
    chance = now.in_slo * math.log(now.in_slo / expected) if now.in_slo else 0.0
    return expected - now.in_slo + chance >= SURE_NATS


def _fails(now: Load, before: Load | None) -> bool:
    if now.failed < 2:
        return False  # one is an accident, however few were asked
    share = now.failed / now.ended
    if share <= FAILED_SHARE or now.ended * _divergence(share, FAILED_SHARE) < FAILED_NATS:
        return False
    if before is None or not before.failed:
        return True
    no_worse = share <= NO_WORSE * before.failed / before.ended
    return not no_worse and _difference(now.failed, now.ended, before.failed, before.ended) >= SURE_NATS


def _divergence(share: float, expected: float) -> float:
    """Return how much a share speaks against the one expected, in nats for each request (Chernoff's bound)."""
    expected = min(max(expected, 1e-9), 1 - 1e-9)
    terms = ((share, expected), (1 - share, 1 - expected))
    return sum(part * math.log(part / whole) for part, whole in terms if part > 0)


def _difference(one: int, of_one: int, other: int, of_other: int) -> float:
    """Return how much two shares speak against being one and the same, in nats."""
    both = (one + other) / (of_one + of_other)
    return of_one * _divergence(one / of_one, both) + of_other * _divergence(other / of_other, both)


# --- in words


def _name(slo: SloPlan) -> str:
    return f"p{slo.percentile:g}"


def _under(total: Load) -> str:
    return f"in {total.seconds:.1f} s under {rate(total.arrivals / total.seconds)}"


def _percent(share: float) -> str:
    return f"{figure(100 * share)} %"


def _missed(subject: Subject, slo: SloPlan, total: Load) -> str:
    if total.quantile_s is not None and total.quantile_s > slo.latency_s:
        what = f"{_name(slo)} {duration(total.quantile_s)} over the SLO of {duration(slo.latency_s)}"
    else:
        allowed = _percent(1 - slo.percentile / 100)
        what = f"{total.missed} of {total.ended} requests refused or late, where the SLO allows {allowed},"
    beside = "" if subject.changed else ", although only its neighbours changed"
    return f"{what} {_under(total)}{beside}; {_before(subject.before, slo)}"


def _before(before: Load | None, slo: SloPlan) -> str:
    if before is None:
        return "it is new"
    if not before.ended:
        return "nobody asked the revision before"
    if before.missed_share <= 1 - slo.percentile / 100:
        return "the revision before held it"
    return f"the revision before missed it for {_percent(before.missed_share)} of them"


def _kept(subject: Subject, slo: SloPlan, total: Load) -> str:
    quantile_s, before = total.quantile_s, subject.before
    seen = "" if quantile_s is None else f"{_name(slo)} {duration(quantile_s)} of {duration(slo.latency_s)} "
    if total.missed_share <= 1 - slo.percentile / 100:
        return f"{seen}{_under(total)}"
    then = f", {_percent(before.missed_share)} before" if before is not None and before.ended else ""
    return f"{seen}{_under(total)}; {_percent(total.missed_share)} of the requests refused or late{then}"


def _failures(total: Load, before: Load | None) -> str:
    then = "" if before is None else f"; before {before.failed} of {before.ended}"
    return f"{total.failed} of {total.ended} requests failed in {total.seconds:.1f} s{then}"
