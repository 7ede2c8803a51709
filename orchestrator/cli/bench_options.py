"""From the options of orch bench, the manifest and the plan to the question that is asked."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from orchestrator.cli.app import duration
from orchestrator.cli.bench_subject import Subject
from orchestrator.planner.bench import BenchQuestion
from orchestrator.planner.bench_result import Bench, Planned
from orchestrator.planner.decision import Capacity
from orchestrator.units import parse_rate_per_s

BUDGET_S = 60.0
DURATION_S = 20.0  # of one load
RUN_MAX_S = 3600.0
PERCENTILE = 99.0  # where no SLO names another
CLOSED = "closed"


class ArrivalsChoice(enum.StrEnum):
    """How requests come."""

    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTY = "bursty"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say."""

    budget: str | None = None
    rate: str | None = None
    callers: int | None = None
    duration: str | None = None
    latency: str | None = None
    percentile: float | None = None
    arrivals: str | None = None
    seed: int = 1

    @property
    def one_load(self) -> bool:
        """Tell whether one load is to be tried instead of a search."""
        return self.rate is not None or self.duration is not None


def check(wishes: Wishes) -> None:
    """Raise BadParameter for options that contradict each other."""
    closed = wishes.arrivals == CLOSED or wishes.callers is not None
    if wishes.rate is not None and closed:
        raise typer.BadParameter("--rate is of arrivals on a schedule; callers wait for their answers: use --callers")
    if wishes.callers is not None and wishes.arrivals not in (None, CLOSED):
        raise typer.BadParameter(f"--callers are a closed loop, and --arrivals says {wishes.arrivals}: drop one")
    if wishes.duration is not None and wishes.rate is None and wishes.callers is None:
        raise typer.BadParameter("--duration is of one load: add --rate 60/s, or use --budget for a search")
    if wishes.budget is not None and wishes.one_load:
        raise typer.BadParameter("--budget is of a search, and one load is to be tried: use --duration")
    if _seconds(wishes) > RUN_MAX_S:
        raise typer.BadParameter("more than an hour is not supported")
    _fixed(wishes)
    if wishes.arrivals is not None and wishes.arrivals not in set(ArrivalsChoice):
        raise typer.BadParameter(f"--arrivals {wishes.arrivals!r} is none of {', '.join(ArrivalsChoice)}")


def question(subject: Subject, wishes: Wishes) -> BenchQuestion:
    """Return what is asked: the options go before the manifest."""
    arrivals = _arrivals(subject, wishes)
    latency_s, percentile = _slo(subject, wishes)
    plan = planned(subject, wishes)
    return BenchQuestion(
        latency_s=latency_s,
        percentile=percentile,
        arrivals=arrivals,  # type: ignore[arg-type]  # check() and the manifest let nothing else through
        budget_s=_seconds(wishes),
        seed=wishes.seed,
        declared=_declared(subject, wishes, arrivals),
        planned_per_s=plan.capacity.per_s if plan.capacity else None,
        fixed=_fixed(wishes),
    )


def planned(subject: Subject, wishes: Wishes) -> Planned:
    """Return what the plan says; its capacity only where it is for the SLO and the arrivals that are asked about."""
    plan = subject.model_plan
    capacity = _capacity(plan)
    same = (_slo(subject, wishes), _arrivals(subject, wishes)) == (
        _slo(subject, Wishes()),
        _arrivals(subject, Wishes()),
    )
    return Planned(
        capacity=capacity if same else None,
        not_compared=None if same or capacity is None else "another SLO, or other arrivals, than asked about",
        verdict=plan.get("verdict"),
        service_s=plan.get("service_s"),
        cpus=subject.plan.get("cpus"),
        neighbours=subject.neighbours,
    )


def _capacity(plan: Mapping[str, Any]) -> Capacity | None:
    per_s = plan.get("capacity_per_s")
    if not per_s:
        return None
    low, high = (plan.get(f"capacity_{which}_per_s") or per_s for which in ("low", "high"))
    return Capacity(per_s=per_s, low_per_s=low, high_per_s=high)


def _slo(subject: Subject, wishes: Wishes) -> tuple[float | None, float]:
    slo = subject.model.get("slo") or {}
    own_s = slo["latency_ms"] / 1e3 if slo else None
    latency_s = duration(wishes.latency, "--latency") if wishes.latency is not None else own_s
    return latency_s, float(wishes.percentile or slo.get("percentile") or PERCENTILE)


def _arrivals(subject: Subject, wishes: Wishes) -> str:
    if wishes.callers is not None:
        return CLOSED
    if wishes.rate is not None and subject.traffic.get("arrivals") == CLOSED:
        return wishes.arrivals or "poisson"
    return str(wishes.arrivals or subject.traffic.get("arrivals") or "poisson")


def _declared(subject: Subject, wishes: Wishes, arrivals: str) -> float | None:
    if arrivals == CLOSED:
        callers = wishes.callers or subject.traffic.get("concurrency")
        return float(callers) if callers else None
    return (subject.model.get("slo") or {}).get("rate_per_s")


def _fixed(wishes: Wishes) -> float | None:
    if wishes.rate is None:
        return float(wishes.callers) if wishes.callers is not None and wishes.duration is not None else None
    try:
        per_s = parse_rate_per_s(wishes.rate)
    except ValueError as error:
        raise typer.BadParameter(f"--rate {error}") from None
    if per_s <= 0:
        raise typer.BadParameter("--rate must be greater than zero")
    return per_s


def _seconds(wishes: Wishes) -> float:
    given, option = (wishes.duration, "--duration") if wishes.one_load else (wishes.budget, "--budget")
    return duration(given, option) if given is not None else DURATION_S if wishes.one_load else BUDGET_S


def capacity_to_tell(found: Bench, wishes: Wishes) -> float | None:
    """Return the capacity that the worker may count headroom from; None where it is none of what the manifest asks.

    Nor where it was not found to its end, or something made it doubtful.
    """
    asked = (wishes.rate, wishes.callers, wishes.latency, wishes.percentile, wishes.arrivals)
    capacity = found.measured
    if asked != (None,) * len(asked) or found.interrupted or found.remarks or capacity is None:
        return None
    whole = capacity.limit == "slo" and capacity.callers is None and capacity.per_s > 0
    return capacity.per_s if whole else None
