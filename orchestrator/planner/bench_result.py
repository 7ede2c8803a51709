"""What a bench found, as plain data, and the sentences that say it: capacity, promise, plan, what else was there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.planner.bench import (
    BEYOND,
    BenchQuestion,
    Measured,
    Tried,
    bounds,
    could_try_less,
    declared_held,
    held_above,
    measured,
)
from orchestrator.planner.decision import Capacity
from orchestrator.planner.explain import duration, figure, interval, rate

NEAR = 0.05  # relative; a smaller difference between plan and measurement is none
SLOWER = 1.1  # times the planned service time, from where on it explains something
FOREIGN_MAX, STEAL_MAX = 0.05, 0.02  # of the processors' time, as for a proof
LATE_SHARE_MAX = 0.01  # of the sends
BUSY_CORES = 0.9  # of the cores, from where on the server's process is full
OTHERS_LEAST_PER_S = 0.05  # fewer requests of others are nobody


@dataclass(frozen=True, slots=True)
class Planned:
    """What the plan says of the model."""

    capacity: Capacity | None = None
    verdict: str | None = None
    service_s: float | None = None
    cpus: int | None = None
    """Cores that the deployment shares."""
    neighbours: tuple[str, ...] = ()
    """Other models of the deployment."""
    not_compared: str | None = None
    """What the plan's capacity is for, where that is something else."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that was asked, tried and found."""

    deployment: str | None
    """None where any server was asked by its address."""
    model: str
    url: str
    question: BenchQuestion
    tried: tuple[Tried, ...]
    planned: Planned = Planned()
    inputs: str = "made up"
    service_s: float | None = None
    """Median of an inference as the server itself saw it under this load."""
    seconds: float = 0.0
    date: str = ""
    interrupted: bool = False
    remarks: tuple[str, ...] = ()
    """What happened meanwhile that makes figures doubtful."""

    @property
    def measured(self) -> Measured | None:
        """Return the capacity as far as it was found."""
        return measured(self.question, self.tried)

    @property
    def promised(self) -> bool | None:
        """Tell whether the declared load held; None where it is not known or nothing was declared."""
        return declared_held(self.question, self.tried)

    @property
    def ratio(self) -> float | None:
        """Return the measured capacity over the planned one, None where there is none of both."""
        found, planned = self.measured, self.planned.capacity
        return found.per_s / planned.per_s if found and found.per_s > 0 and planned and planned.per_s > 0 else None


def holds(bench: Bench) -> bool:
    """Tell whether the answer is yes: the promised load, or that of a fixed run, held; or none was promised."""
    question = bench.question
    if question.latency_s is None:
        return True
    if question.fixed is not None:
        return any(each.purpose == "fixed" and each.held is True for each in bench.tried)
    found = bench.measured
    if found is None or found.limit == "floor":
        return False
    return bench.promised is True if question.declared is not None else found.per_s > 0


def sentences(bench: Bench) -> tuple[str, ...]:
    """Return what was found, in plain sentences with numbers; same input, same sentences."""
    return tuple(_all(bench))


def _all(bench: Bench) -> Iterator[str]:
    if bench.interrupted:
        yield f"Interrupted after {duration(bench.seconds)}: this is what was found until then."
    yield from _found(bench)
    yield from _promise(bench)
    yield from _beyond(bench)
    yield from _compared(bench)
    yield from _generator(bench)
    yield from _others(bench)
    yield from bench.remarks


# The capacity.


def slo_text(question: BenchQuestion) -> str:
    """Return the SLO without its rate: `p99 within 40 ms`."""
    if question.latency_s is None:
        return "no SLO"
    return f"p{question.percentile:g} within {duration(question.latency_s)}"


def load_text(load: float, *, closed: bool) -> str:
    """Return a load for people: `60/s`, `16 callers`."""
    if closed:
        return "1 caller" if load == 1 else f"{load:.0f} callers"
    return rate(load)


def _found(bench: Bench) -> Iterator[str]:
    question = bench.question
    if question.latency_s is None:
        most = max((each.answered_per_s for each in bench.tried), default=0.0)
        if most:
            yield f"No SLO, so there is no capacity to find: at most {rate(most)} were answered."
        return
    if question.fixed is not None:
        yield from (_fixed(each, question) for each in bench.tried if each.purpose == "fixed")
        return
    found = bench.measured
    if found is None:
        yield "Nothing was found yet."
    elif found.limit == "floor":
        floor = bench.tried[0]
        took = duration(floor.p50_s) if floor.p50_s is not None else "no answer at all"
        yield f"Out of reach: one caller alone sees a median of {took}, and {slo_text(question)} is asked for."
    else:
        yield from _capacity(bench, found)


def _fixed(tried: Tried, question: BenchQuestion) -> str:
    verdict = {True: "held", False: "missed", None: "could not be judged, the load generator was late"}[tried.held]
    sure = "" if tried.verdict in ("verified", "rejected") else ", not proven"
    load = load_text(tried.load, closed=tried.closed)
    return f"At {load} {slo_text(question)} {verdict}{sure if tried.held is not None else ''}: {_counted(tried)}."


def _counted(tried: Tried) -> str:
    return f"{tried.misses} of {tried.sent} requests missed it"


def _capacity(bench: Bench, found: Measured) -> Iterator[str]:
    closed, above = bench.question.closed, held_above(bench.tried)
    held, missed = bounds(bench.tried)
    yield _largest(bench, found) if held is not None else _none_held(bench)
    if above:
        loads = _listed([load_text(load, closed=closed) for load in sorted({each.load for each in above})])
        range_ = (
            f", and the capacity is from {rate(found.per_s)} to {rate(above[-1].per_s)}" if held is not None else ""
        )
        yield f"Above that, {loads} held it nonetheless: the machine was not the same from second to second{range_}."
    unsure = [load for load in (held, missed) if load is not None and not _sure(bench.tried, load)]
    if unsure and found.per_s > 0 and found.limit != "generator":
        loads = " and ".join(f"{load_text(load, closed=closed)} ({_missed_at(bench.tried, load)})" for load in unsure)
        may = f"{100 * bench.question.allowed:g} % that may miss"
        yield f"Not sure at {loads}: too few requests, too near to the {may}, or missed in clumps; their share decides."


def _none_held(bench: Bench) -> str:
    question, searched = bench.question, [each for each in bench.tried if each.purpose == "search"]
    least = load_text(min(each.load for each in searched), closed=question.closed)
    if held_above(bench.tried):
        return f"No capacity was found: {least}, the least that was tried, missed {slo_text(question)}."
    more = "; a larger --budget would try less" if could_try_less(question, bench.tried) else ""
    return f"No load held {slo_text(question)}: the least that was tried is {least}{more}."


def _largest(bench: Bench, found: Measured) -> str:
    """Say what the capacity is, and what ends it above."""
    question = bench.question
    held, missed = bounds(bench.tried)
    assert held is not None, "a capacity is a load that held"
    callers = f" with {load_text(found.callers, closed=True)}" if found.callers else ""
    told = f"Capacity {rate(found.per_s)}{callers}: the largest load that held {slo_text(question)}"
    told += _often(bench.tried, held, held=True)
    if missed is None:
        return f"{told}; nothing higher was tried in this budget."
    if found.limit == "generator":
        return f"{told}. Above it the load generator itself was the limit, so that the server may take more."
    end = f"{load_text(missed, closed=question.closed)}{_often(bench.tried, missed, held=False)}"
    told += f" below the first that missed it, {end}" if held_above(bench.tried) else f", and {end} missed it"
    return f"{told}; a larger --budget would narrow that." if found.limit == "budget" else f"{told}."


def _missed_at(tried: Sequence[Tried], load: float) -> str:
    """Return how many requests missed in all tries of a load: `12 of 800 missed`."""
    at = [each for each in tried if each.purpose == "search" and each.load == load]
    return f"{sum(each.misses for each in at)} of {sum(each.sent for each in at)} missed"


def _often(tried: Sequence[Tried], load: float, *, held: bool) -> str:
    """Return how often a load held, or missed, where its tries do not agree: ` (in 2 of 3 tries)`."""
    votes = [each.held for each in tried if each.purpose == "search" and each.load == load and each.held is not None]
    agree = votes.count(held)
    return "" if agree == len(votes) else f" (in {agree} of {len(votes)} tries)"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _sure(tried: Sequence[Tried], load: float) -> bool:
    return any(
        each.verdict in ("verified", "rejected") for each in tried if each.purpose == "search" and each.load == load
    )


def _promise(bench: Bench) -> Iterator[str]:
    question = bench.question
    if question.declared is None or question.latency_s is None or question.fixed is not None:
        return
    load = load_text(question.declared, closed=question.closed)
    match bench.promised:
        case True:
            unsure = "" if _sure(bench.tried, question.declared) else ", as far as the share that missed tells"
            yield f"The declared {load} holds{unsure}."
        case False:
            yield f"The declared {load} does not hold."
        case None:
            yield f"Whether the declared {load} holds is not known."


def _beyond(bench: Bench) -> Iterator[str]:
    found = bench.measured
    if found is None or found.per_s <= 0:
        return
    capacity = float(found.callers or found.per_s)
    told = [
        f"{figure(each.load / capacity)} times {rate(each.goodput_per_s)}"
        f" ({100 * each.goodput_per_s / found.per_s:.0f} %)"
        for each in bench.tried
        if each.purpose == "beyond"
    ]
    if told:
        yield f"Beyond it, answers in time: at {', at '.join(told)}."


# The plan.


def _compared(bench: Bench) -> Iterator[str]:
    found, planned, ratio = bench.measured, bench.planned.capacity, bench.ratio
    if found is None or bench.deployment is None or bench.question.fixed is not None:
        return
    if bench.planned.not_compared is not None:
        yield f"The plan's capacity is for {bench.planned.not_compared}, so it is not compared."
        return
    if planned is not None and found.per_s <= 0:
        yield _none_to_compare(bench, planned)
        return
    if planned is None or ratio is None:
        yield "The plan was made without a measurement, so it names no capacity to compare with."
        return
    inside = planned.low_per_s * (1 - NEAR) <= found.per_s <= planned.high_per_s * (1 + NEAR)
    head = f"Planned {interval(planned)}: measured is {ratio:.2f} times that"
    if inside or abs(ratio - 1) <= NEAR:
        yield f"{head}, as planned."
        return
    if ratio > 1:
        yield f"{head}. A plan keeps a tenth of the throughput in hand, and counts on no batch that forms by itself."
        return
    yield _explained(bench, head)


def _none_to_compare(bench: Bench, planned: Capacity) -> str:
    """Say what no load held against the plan, which is nothing where only larger ones were tried."""
    least = min((each.per_s for each in bench.tried if each.purpose == "search"), default=0.0)
    head = f"Planned {interval(planned)}"
    if least > planned.per_s:
        return f"{head}: no load as low was tried, so it is not compared."
    return _explained(bench, f"{head}, and {rate(least) if least else 'one caller alone'} already missed the SLO")


def _explained(bench: Bench, head: str) -> str:
    causes = list(_causes(bench))
    return (
        f"{head}. It may come from: {'; '.join(causes)}." if causes else f"{head}; nothing that was seen explains it."
    )


def _causes(bench: Bench) -> Iterator[str]:
    planned, tried = bench.planned, [each for each in bench.tried if each.purpose == "search"]
    if bench.service_s and planned.service_s and bench.service_s > SLOWER * planned.service_s:
        yield f"an inference took {duration(bench.service_s)}, planned were {duration(planned.service_s)}"
    others = max((each.others_per_s or 0.0 for each in tried), default=0.0)
    if others > OTHERS_LEAST_PER_S:
        yield f"other clients sent up to {rate(others)}"
    hosts = [each.host for each in tried if each.host is not None]
    foreign = max((host.foreign for host in hosts), default=0.0)
    if foreign > FOREIGN_MAX:
        yield f"other processes took up to {100 * foreign:.0f} % of the cores"
    steal = max((host.steal for host in hosts), default=0.0)
    if steal > STEAL_MAX:
        yield f"the hypervisor took up to {100 * steal:.0f} %"
    throttled = max((host.throttled for host in hosts), default=0.0)
    if throttled > STEAL_MAX:
        yield f"the cgroup's quota held it back for up to {100 * throttled:.0f} % of the time"
    cpu = max((each.worker_cpu or 0.0 for each in tried), default=0.0)
    if planned.cpus and cpu > BUSY_CORES * planned.cpus:
        yield f"the worker used {cpu:.2f} of its {planned.cpus} cores, front end included"
    generator = max((each.generator.cpu for each in tried), default=0.0)
    if hosts and generator > FOREIGN_MAX:
        yield f"the load generator took {generator:.2f} cores of the same machine"
    if planned.neighbours:
        yield f"it shares its cores with {', '.join(planned.neighbours)}"


# What else was there.


def _generator(bench: Bench) -> Iterator[str]:
    blocked = next((each for each in bench.tried if each.generator.bottleneck is not None), None)
    if blocked is not None:
        load = load_text(blocked.load, closed=blocked.closed)
        yield f"The load generator was itself the bottleneck at {load}: {blocked.generator.bottleneck}."
    late = [
        each for each in bench.tried if not each.closed and each.generator.late_wakes > LATE_SHARE_MAX * each.sent > 0
    ]
    if late:
        worst = max(late, key=lambda each: each.generator.late_wakes / each.sent)
        share = 100 * worst.generator.late_wakes / worst.sent
        yield (
            f"The load generator sent {share:.0f} % more than 2 ms late at {load_text(worst.load, closed=False)}:"
            " that counts as latency, but no load is called missed for it, only for what would be late without."
        )


def _others(bench: Bench) -> Iterator[str]:
    yield from _host(bench)
    known = [each for each in bench.tried if each.others_per_s is not None]
    if not known:
        if bench.deployment is None:
            yield "Whether others used the server meanwhile is not known."
        return
    most = max(each.others_per_s or 0.0 for each in known)
    if most > OTHERS_LEAST_PER_S:
        yield f"Other clients sent up to {rate(most)} meanwhile; they competed with this load, and it with them."


def _host(bench: Bench) -> Iterator[str]:
    """Say what disturbed tries that missed: they tell as much of the neighbours."""
    disturbed = [
        each.host for each in bench.tried if each.held is False and each.host is not None and each.host.tainted()
    ]
    if not disturbed:
        return
    foreign, steal = max(host.foreign for host in disturbed), max(host.steal for host in disturbed)
    tries = "one load that" if len(disturbed) == 1 else f"{len(disturbed)} loads that"
    yield (
        f"During {tries} missed, others took up to {100 * foreign:.0f} % of the cores and the hypervisor"
        f" {100 * steal:.0f} %: on a quiet machine more may hold."
    )


# As data.


def to_json(bench: Bench) -> dict[str, Any]:
    """Return the whole as JSON values: the contract of `orch bench -o json`."""
    question, found = bench.question, bench.measured
    promised = question.declared
    return {
        "apiVersion": "orch/v1",
        "kind": "BenchResult",
        "deployment": bench.deployment,
        "model": bench.model,
        "url": bench.url,
        "date": bench.date,
        "seconds": round(bench.seconds, 2),
        "complete": not bench.interrupted,
        "inputs": bench.inputs,
        "arrivals": question.arrivals,
        "seed": question.seed,
        "slo": None
        if question.latency_s is None
        else {"latency_ms": round(question.latency_s * 1e3, 3), "percentile": question.percentile},
        "declared": promised,
        "declared_holds": bench.promised,
        "holds": holds(bench),
        "capacity": None if found is None else asdict(found),
        "planned": _planned_json(bench.planned),
        "ratio": None if bench.ratio is None else round(bench.ratio, 4),
        "beyond": list(BEYOND),
        "tries": [_tried_json(each) for each in bench.tried],
        "sentences": list(sentences(bench)),
    }


def _planned_json(planned: Planned) -> dict[str, Any] | None:
    if planned.capacity is None:
        return None
    return planned.capacity.model_dump(mode="json", exclude={"formula_per_s"}) | {"verdict": planned.verdict}


def _tried_json(tried: Tried) -> dict[str, Any]:
    generator = asdict(tried.generator)
    return {
        "purpose": tried.purpose,
        "callers" if tried.closed else "rate_per_s": tried.load,
        "offered_per_s": round(tried.per_s, 3),
        "seconds": tried.seconds,
        **{name: getattr(tried, name) for name in ("sent", "answered", "refused", "expired", "failed", "given_up")},
        "given_up_after_s": tried.answer_s,
        "misses": tried.misses,
        "misses_of_the_generator": tried.excused,
        "answered_per_s": round(tried.answered_per_s, 3),
        "goodput_per_s": round(tried.goodput_per_s, 3),
        "latency_ms": {
            "p50": _ms(tried.p50_s),
            "p95": _ms(tried.p95_s),
            "p99": _ms(tried.p99_s),
            "at_percentile": _ms(tried.at_percentile_s),
        },
        "verdict": tried.verdict,
        "held": tried.held,
        "generator": generator,
        "host": None if tried.host is None else tried.host.model_dump(mode="json"),
        "worker_cpu": tried.worker_cpu,
        "others_per_s": tried.others_per_s,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)
