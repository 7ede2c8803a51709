"""Says in a few plain sentences why a measured arm was chosen, what was proven, and what would change it."""

from __future__ import annotations

from orchestrator.planner.capacity import INFLATION_MAX, Need, Service, formula_capacity, quantile
from orchestrator.planner.decision import Capacity, Decision, Rejected
from orchestrator.planner.plan import SloPlan
from orchestrator.profiling.measurement import Arm, Proof

TIE_MAX = 0.05  # relative; larger differences are never called a tie, however noisy the machine
GAIN_NOISE = 1.15
UNTRIED = "not tried: the budget"  # how the reason of an arm begins for which there was no time
AS_GOOD = "as good as"  # in the reason of an arm that is tied with the chosen one
STRETCH_SAID = 1.05
FRONT_END_SAID = 0.02  # of the cores: less is not worth a sentence
_STEPS = 30  # of a bisection: far below what is printed


def explain(decision: Decision, slo: SloPlan | None, rate_per_s: float | None, cpus: int) -> tuple[str, ...]:
    """Return the explanation of a decision: what, why, proof, floor, and last what would change it.

    `rate_per_s` is the arrival rate asked for, `cpus` the cores that the arms were given. What is predicted is called
    predicted, and what was not measured is not claimed. Same input, same sentences.
    """
    if not decision.per_s:
        return _not_measured(decision)
    found = [
        _choice(decision, slo),
        _speed_up(decision, slo),
        _runner_up(decision),
        _batches(decision),
        _front_end(decision, cpus),
        _verdict(decision, slo, rate_per_s),
        _neighbours(decision),
        _floor(decision, slo),
        _would_change(decision, slo, rate_per_s, cpus),
    ]
    return tuple(sentence for sentence in found if sentence)


def figure(value: float) -> str:
    """Return a number for people with three figures, never as a power of ten: more would be noise."""
    short = f"{value:.3g}"
    return f"{float(short):.0f}" if abs(value) >= 99.95 else short


def rate(per_s: float) -> str:
    """Return a rate for people: `61.3/s`."""
    return f"{figure(per_s)}/s"


def duration(seconds: float) -> str:
    """Return a duration for people with three figures: `17.8 ms`, `1.25 s`."""
    if 0 < seconds < 0.0009995:
        return f"{figure(seconds * 1e6)} us"
    return f"{figure(seconds * 1e3)} ms" if seconds < 0.9995 else f"{figure(seconds)} s"


def interval(capacity: Capacity) -> str:
    """Return a capacity with its interval: `61/s (58 to 64)`."""
    return f"{rate(capacity.per_s)} ({figure(capacity.low_per_s)} to {figure(capacity.high_per_s)})"


def observed_s(proof: Proof, percentile: float) -> float | None:
    """Return the percentile of the answers' latency, from samples or what a lock keeps of them; None if neither."""
    if proof.latency_s:
        return quantile(proof.latency_s, percentile / 100)
    return proof.percentiles_s.get(f"p{percentile:g}")


def _not_measured(decision: Decision) -> tuple[str, ...]:
    arm = decision.arm
    by = "as OpenVINO's hint has it" if arm.expression == "hint" else "as stated"
    return (
        f"{arm.name} on {arm.device}, {by}: nothing was measured.",
        "Not verified: its latency and capacity on this machine are unknown.",
        "Would change: a measurement (`planning: {mode: measure}` and an `slo`), or the arm by hand.",
    )


def _choice(decision: Decision, slo: SloPlan | None) -> str:
    arm = decision.arm
    where = f"{arm.name} on {arm.device}"
    tried = _counted(1 + len([each for each in decision.rejected if each.service_s is not None]), "arm")
    if decision.verdict == "infeasible":
        return f"{where} comes nearest of {tried} measured."
    if decision.capacity is None or slo is None:
        return f"{where}: {figure(decision.per_s)} rows/s with all its requests busy, {_service(decision)} each."
    took = f" in {decision.seconds:.0f} s" if decision.seconds >= 0.5 else ""
    untried = sum(each.reason.startswith(UNTRIED) for each in decision.rejected)
    if untried:
        took += f", with no time for {untried} more"
    if _was_shown(decision):
        return (
            f"{where}, chosen of {tried} measured{took}: carried {rate(decision.capacity.per_s)} with {_promise(slo)}."
        )
    carries = f"predicted to carry {interval(decision.capacity)} with {_promise(slo)}"
    if abs(decision.inflation - 1) > 0.005:
        least = "at least " if decision.inflation >= INFLATION_MAX * 0.99 else ""
        carries += f", now that a run showed it to take {least}{decision.inflation:.2f} times as long"
    if decision.stretch > STRETCH_SAID:
        carries += f", counting that answers took {decision.stretch:.2g} times as long in a run as inferences explain"
    return f"{where}, chosen of {tried} measured{took}: {carries}."


def _was_shown(decision: Decision) -> bool:
    """Tell whether the capacity is what a run has shown, and no prediction went beyond."""
    proof, capacity = decision.proof, decision.capacity
    if proof is None or capacity is None or decision.verdict != "verified":
        return False
    return capacity.per_s <= proof.rate_per_s * (1 + 1e-6)


def _service(decision: Decision) -> str:
    return f"{duration(decision.service_s)} (p99 {duration(decision.service_p99_s)})"


def _promise(slo: SloPlan) -> str:
    return f"{slo.percentile:g} % of the answers within {duration(slo.latency_s)}"


def _speed_up(decision: Decision, slo: SloPlan | None) -> str:
    """Compare with the best arm of other streams: fewer, thicker ones win only if threads speed a model up enough."""
    other = _other_streams(decision)
    if other is None or other.service_s is None:
        return ""
    mine, theirs = _threads_each(decision.arm, decision.actual.streams), _threads_each(other.arm, other.streams)
    if mine is None or theirs is None or mine == theirs:
        return ""
    if mine > theirs:
        most = mine / theirs  # by which threads can help: a larger gain is another machine's, or another moment's
        waiting = (decision.arm.requests or 1) / (decision.actual.streams or 1)  # a spare request waits for a stream
        gain = other.service_s * max(1.0, waiting) / decision.service_s
        busy = "while all streams are busy"
        if gain > GAIN_NOISE * most:
            return ""
        return f"{_counted(mine, 'thread')} run one inference {gain:.2f} times as fast as {_few(theirs)} {busy}."
    gain = decision.alone_s / (other.alone_s or other.service_s)
    text = f"{_counted(theirs, 'thread')} run one inference only {gain:.2f} times as fast as {_few(mine)}"
    needed = _needed(decision, slo, other.streams or 1)
    if needed is None or needed <= gain:
        return text + "."
    if needed > theirs / mine:
        return f"{text}; even {theirs / mine:g} times would not let {other.arm.name} carry as much."
    return f"{text}; about {needed:.2f} times would be needed for {other.arm.name} to carry as much."


def _other_streams(decision: Decision) -> Rejected | None:
    """Return the best arm that differs from the chosen one in its streams only."""
    mine = decision.arm
    alike = [
        each
        for each in decision.rejected
        if (each.arm.device, each.arm.batch, each.arm.threads) == (mine.device, mine.batch, mine.threads)
        and each.streams not in {None, decision.actual.streams}
        and each.service_s
    ]
    return max(alike, key=lambda each: (_per_s(each), each.arm.name), default=None)


def _threads_each(arm: Arm, streams: int | None) -> int | None:
    return arm.threads // streams if arm.threads and streams else None


def _few(threads: int) -> str:
    return "one" if threads == 1 else str(threads)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _per_s(rejected: Rejected) -> float:
    return -1.0 if rejected.capacity is None else rejected.capacity.per_s


def _needed(decision: Decision, slo: SloPlan | None, streams: int) -> float | None:
    """Return the speed-up at which `streams` streams would carry the chosen capacity, by the closed formula."""
    if slo is None or decision.capacity is None or decision.capacity.per_s <= 0 or decision.arm.batch > 1:
        return None  # the formula knows no batches
    in_the_pool_s = max(0.0, slo.latency_s / decision.stretch - decision.front_end_s)
    need = Need(in_the_pool_s, slo.percentile)
    low, high = 0.0, in_the_pool_s
    for _ in range(_STEPS):
        middle = (low + high) / 2
        steady = Service(alone_s=(middle,), busy_s=((middle,),), slots=streams)
        low, high = (middle, high) if formula_capacity(steady, need) >= decision.capacity.per_s else (low, middle)
    return decision.alone_s / low if low > 0 else None


def _runner_up(decision: Decision) -> str:
    best = max(decision.rejected, key=lambda each: (_per_s(each), each.arm.name), default=None)
    if best is None or best.capacity is None or decision.capacity is None:
        return ""
    mine, theirs = decision.capacity.per_s, best.capacity.per_s
    text = f"The next best, {best.arm.name}, is predicted to carry {interval(best.capacity)}"
    if _was_shown(decision) and theirs < mine:
        return f"{text}, and was not run."
    if mine <= 0 or abs(theirs - mine) <= min(TIE_MAX, decision.resolution or TIE_MAX) * mine:
        if AS_GOOD in best.reason:
            return f"{text}, too close for this measurement to tell apart, and is less simple."
        return f"{text}, but was not taken: {best.reason}."
    if theirs > mine:
        return f"{text}, but was not taken: {best.reason}."
    less = f"{100 * (1 - theirs / mine):.0f} % less"
    if best.capacity.high_per_s >= mine:
        return f"{text}, {less}, though its interval reaches as far."
    return f"{text}, {less}."


def _batches(decision: Decision) -> str:
    """Say what gathering rows brings, from closed-loop rows a second of arms that differ in the batch only."""
    arms = [(decision.arm, decision.actual.streams, decision.per_s)]
    arms += [(each.arm, each.streams, each.per_s) for each in decision.rejected if each.per_s]
    gains = [
        (large.batch, many_per_s / one_per_s)
        for large, streams, many_per_s in arms
        for single, as_many, one_per_s in arms
        if large.batch > single.batch == 1
        and (large.device, large.threads, streams) == (single.device, single.threads, as_many)
    ]
    if not gains:
        return ""
    batch, gain = max(gains, key=lambda each: (each[1], -each[0]))
    taken = "and was taken" if decision.arm.batch == batch else "and was not taken"
    return f"A batch of {batch} gives {gain:.2f} times the rows a second of single rows {taken}."


def _front_end(decision: Decision, cpus: int) -> str:
    """Say what of the cores the server itself needs at the capacity, where that is much."""
    arm, capacity, each_s = decision.arm, decision.capacity, decision.front_end_s
    if arm.threads is None or capacity is None or capacity.per_s * each_s < FRONT_END_SAID * cpus:
        return ""
    if capacity.per_s * each_s > 1:
        return ""  # more than one event loop can: a run has shown that the server needs less
    share = f"{100 * capacity.per_s * each_s / cpus:.0f} % of the {_counted(cpus, 'core')} at {rate(capacity.per_s)}"
    return f"The server itself needs {duration(each_s)} of a core for each request, {share}; the prediction counts it."


def _verdict(decision: Decision, slo: SloPlan | None, rate_per_s: float | None) -> str:
    match decision.verdict:
        case "infeasible":
            return _infeasible(decision, slo, rate_per_s)
        case "unverified":
            return _unverified(decision, slo, rate_per_s)
        case "rejected" if decision.proof and _fell_short(decision.proof, rate_per_s):
            return f"Rejected: {decision.proof.reason}."
        case "verified" | "rejected" if decision.proof and slo:
            text = f"{decision.verdict.capitalize()}: {_run(decision.proof, slo, rate_per_s)}"
            hopeful = decision.verdict == "rejected" and decision.inflation > 1
            return f"{text} The prediction was too hopeful." if hopeful else text
        case "rejected" if rate_per_s and decision.capacity and rate_per_s > decision.capacity.per_s:
            return f"Rejected: {rate(rate_per_s)} was asked for, more than it is predicted to carry."
        case _:
            return f"{decision.verdict.capitalize()}, without the record of a run."


def _fell_short(proof: Proof, rate_per_s: float | None) -> bool:
    """Tell whether callers that wait for their answers did not come to the rate."""
    return proof.arrivals == "closed" and rate_per_s is not None and proof.rate_per_s < rate_per_s


def _run(proof: Proof, slo: SloPlan, rate_per_s: float | None) -> str:
    missed = f"{proof.misses} of {_counted(proof.sent, 'request')} missed {duration(slo.latency_s)}"
    how = f"in an open loop ({proof.arrivals}) through the served path"
    if proof.arrivals == "closed":
        how = "by callers that wait for their answers, through the served path"
    return f"{_at(proof, rate_per_s)}, {missed} {how}{_latencies(proof, slo)}."


def _at(proof: Proof, rate_per_s: float | None) -> str:
    text = f"at {rate(proof.rate_per_s)}"
    if not rate_per_s or abs(proof.rate_per_s / rate_per_s - 1) <= 0.005:
        return text
    return f"{text} ({_times(proof.rate_per_s / rate_per_s)} the {rate(rate_per_s)} asked for)"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 10 else f"{figure(ratio)} times"


def _latencies(proof: Proof, slo: SloPlan) -> str:
    median, tail = observed_s(proof, 50), observed_s(proof, slo.percentile)
    if median is None or tail is None:
        return ""
    of = "" if proof.answered >= proof.sent else f"of the {proof.answered} that were answered "
    return f"; {of}median {duration(median)}, p{slo.percentile:g} {duration(tail)}"


def _infeasible(decision: Decision, slo: SloPlan | None, rate_per_s: float | None) -> str:
    if slo and decision.floor_s is not None and decision.floor_s > slo.latency_s:
        return f"Infeasible: no arm answers within {duration(slo.latency_s)} at p{slo.percentile:g}, even unloaded."
    if slo and decision.capacity and rate_per_s and rate_per_s > decision.capacity.per_s:
        most = rate(decision.capacity.per_s)
        return (
            f"Infeasible: {rate(rate_per_s)} was asked for, and the most that any arm is predicted to carry within"
            f" {duration(slo.latency_s)} is {most}."
        )
    return f"Infeasible: {decision.reason.rstrip('.') or 'no arm measured here holds the SLO'}."


def _unverified(decision: Decision, slo: SloPlan | None, rate_per_s: float | None) -> str:
    if slo is None:
        return "Not verified: without an SLO there is nothing to prove."
    if decision.proof:
        reason = (decision.reason or decision.proof.reason).rstrip(".")
        seen = _at(decision.proof, rate_per_s) + _latencies(decision.proof, slo)
        return f"Not verified: {reason}. The run was {seen}."
    if rate_per_s is None:
        return "Not verified: no rate was asked for, so none was proven; the capacity is a prediction."
    why = decision.reason.rstrip(".") or "no open-loop run was made"
    return f"Not verified: {why}; the capacity is a prediction."


def _neighbours(decision: Decision) -> str:
    proof = decision.proof
    if proof is None or decision.verdict not in {"verified", "rejected"} or not proof.host.tainted():
        return ""
    shares = (("other processes", proof.host.foreign), ("the hypervisor", proof.host.steal))
    taken = [f"{who} took {100 * share:.0f} %" for who, share in shares if share > 0.005]
    if proof.host.throttled > 0.005:
        taken.append(f"the quota held back {100 * proof.host.throttled:.0f} %")
    return f"During the run {' and '.join(taken)} of the CPU time: it tells of this machine as busy as that."


def _floor(decision: Decision, slo: SloPlan | None) -> str:
    if decision.floor_s is None or slo is None:
        return ""
    return f"The floor here is {duration(decision.floor_s)}: the lowest p{slo.percentile:g} of any arm without load."


def _would_change(decision: Decision, slo: SloPlan | None, rate_per_s: float | None, cpus: int) -> str:
    others = _surroundings(decision.arm, cpus)
    if slo is None:
        return f"Would change: an SLO, or {others}."
    if decision.verdict in ("infeasible", "rejected"):
        return f"Would change: {_remedies(decision, slo, rate_per_s)}{others}."
    limits = []
    if decision.capacity and decision.capacity.per_s > 0:
        limits.append(f"a rate above {rate(decision.capacity.per_s)}")
    if limits and decision.proof and decision.verdict == "verified" and not _was_shown(decision):
        limits[-1:] = [f"{limit} (above {rate(decision.proof.rate_per_s)} unproven)" for limit in limits[-1:]]
    if decision.floor_s is not None:
        limits.append(f"an SLO below {duration(decision.floor_s)}")
    return f"Would change: {', '.join([*limits, others])}."


def _remedies(decision: Decision, slo: SloPlan, rate_per_s: float | None) -> str:
    """Return what to ask for instead, each followed by a comma and a space."""
    if decision.floor_s is not None and decision.floor_s > slo.latency_s:
        return f"an SLO above {duration(decision.floor_s)}, "
    if decision.capacity and decision.capacity.per_s <= 0:
        return "a longer latency, "
    if rate_per_s and decision.capacity and decision.capacity.per_s < rate_per_s:
        return f"a rate below {rate(decision.capacity.per_s)}, a longer latency, "
    return "a lower rate, a longer latency, "


def _surroundings(arm: Arm, cpus: int) -> str:
    cores = f"another number of cores than {cpus}, " if "CPU" in arm.device or arm.device == "AUTO" else ""
    return f"{cores}or another load beside it" if cores else "another load beside it"
