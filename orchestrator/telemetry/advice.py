"""Say in a sentence with numbers why a pool is full or slow, and what to do about it: for whoever is on call."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.telemetry.drift import LARGE_AT, WELL_AT, Around, Drift
from orchestrator.telemetry.saturation import (
    FULL_AT,
    OFFERED,
    PLANNED,
    SERVICE_SLO,
    refused_share,
    refusing_share,
    service_per_s,
)
from orchestrator.telemetry.snapshot import Origin, PoolSnapshot, Saturation, Yardstick

ADVICE_MAX = 240  # characters: three lines of a terminal
BUSY_AT = 0.7
NEAR_AT = 0.9  # of the capacity: up to here a rate is below it


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of a pool at one look."""

    snapshot: PoolSnapshot
    measured: Saturation
    """Its origin and advice are still to come."""
    drift: Drift
    around: Around
    yardstick: Yardstick
    rate_per_s: float
    """Requests that arrive a second."""
    sure: bool = False
    """Whether it is evident that more arrives than can be answered."""


def origin_of(case: Case) -> Origin:
    """Return why the pool is full, `none` while it is not: demand only where it would be full without the drift."""
    measured = case.measured
    if measured.state == "OK" and measured.value < BUSY_AT:
        return "none"
    demand = demand_share(case)
    if case.drift.slow and demand < FULL_AT:
        return case.drift.origin
    if measured.cause == SERVICE_SLO:
        return "slo"
    # Refusing all the time is demand beyond what holds the SLO, however much more could be inferred without one.
    if case.sure or measured.state == "OVERLOADED" or measured.cause in {OFFERED, PLANNED} or demand >= FULL_AT:
        return "demand"
    return "bursts" if measured.value >= BUSY_AT else "none"  # a state outlasts its cause by some seconds


def demand_share(case: Case) -> float:
    """Return what arrives against what could be answered if inferences took as long as they should."""
    snapshot, yardstick, rate = case.snapshot, case.yardstick, case.rate_per_s
    if yardstick.capacity_per_s:
        return rate / yardstick.capacity_per_s
    if case.drift.expected_s:
        rows = max(1.0, snapshot.batch, snapshot.window.rows_per_batch or 0.0)
        return rate * case.drift.expected_s / (snapshot.requests * rows)
    return case.measured.terms.get(OFFERED, 0.0)


def advice(case: Case) -> str:
    """Return what is the matter and what to do, in at most ADVICE_MAX characters; empty where all is well."""
    match case.measured.origin:
        case "none":
            return drift_advice(case) if case.drift.drifted and case.drift.slow else ""
        case "demand":
            return _demand(case)
        case "bursts":
            return _bursts(case)
        case "slo":
            return _slo(case)
        case _:
            return drift_advice(case)


def drift_advice(case: Case) -> str:
    """Return why inferences are slower than they should be, and what to do."""
    host, slow = case.around.host, slowness(case.drift)
    match case.drift.origin:
        case "host":
            what = f"other processes use {_percent(host.foreign)} of the cores"
            do = "stop or move them, or keep cores for orch (cpuset)"
        case "steal":
            what = f"the hypervisor withholds {_percent(host.steal)} of the CPU time"
            do = "get cores of your own, or plan for what is left: orch plan --replan"
        case "throttling":
            what = f"the CPU quota stops them {_percent(host.throttled)} of the time"
            do = "raise the quota, or set resources.cpus below it"
        case "neighbour":
            what = f"other models of this deployment use {_percent(case.around.neighbours)} of the cores"
            do = "lower their rates, or give each an slo and plan them together"
        case "input":
            what = f"requests carry {(case.drift.bytes_ratio or 1.0):.1f} times the usual bytes"
            do = "send smaller inputs, or plan for these: `shapes:` in the manifest"
        case _:
            what = "nothing seen on the host explains it"
            do = "look at clocks and temperature, or plan anew: orch plan --replan"
    return _bounded(f"{slow}: {what}; {do}")


def slowness(drift: Drift) -> str:
    """Return how slow inferences are, as `inferences take 31 ms, planned 19 ms (1.6 times)`."""
    if drift.observed_s is None or drift.expected_s is None or drift.ratio is None:
        return "inferences were slower than they should be"
    usual = "planned" if drift.source == "plan" else "at first"
    which, now_s = "inferences", drift.observed_s
    if drift.slow and drift.ratio < WELL_AT and drift.newest_s is not None:
        which, now_s = "the newest inferences", drift.newest_s
    now, before = figure(now_s * 1e3), figure(drift.expected_s * 1e3)
    return f"{which} take {now} ms, {usual} {before} ms ({now_s / drift.expected_s:.1f} times)"


def _demand(case: Case) -> str:
    snapshot, capacity = case.snapshot, case.yardstick.capacity_per_s
    rate = case.rate_per_s
    if capacity:
        word = "benched" if case.yardstick.capacity_from == "bench" else "planned"
        if case.measured.state in {"OK", "BUSY"} and rate < capacity:
            return _bounded(
                f"{figure(rate)}/s of the {word} {figure(capacity)}/s arrive: {figure(capacity - rate)}/s are left"
            )
        if rate <= NEAR_AT * capacity and refusing_share(snapshot):
            return _short_of_capacity(case, f"the {word} {figure(capacity)}/s")
        than = "above" if rate > capacity else "close to" if rate > NEAR_AT * capacity else "now below"
        do = "send less, or raise slo.rate and apply again, which plans for it"
        return _bounded(f"rate {figure(rate)}/s is {than} the {word} {figure(capacity)}/s: {do}")
    possible = service_per_s(snapshot)
    most = f", about {figure(possible)}/s can be answered" if possible else ""
    if case.measured.state in {"OK", "BUSY"}:
        return _bounded(f"{figure(rate)}/s arrive{most}")
    do = "send less, add cores (resources.cpus), or use a faster device"
    refused = refused_share(snapshot.recent)
    if refused and possible and rate < possible:
        return _bounded(f"{figure(rate)}/s arrive, {_percent(refused)} are refused since they would be late: {do}")
    return _bounded(f"{figure(rate)}/s arrive{most}: {do}")


def _short_of_capacity(case: Case, capacity: str) -> str:
    """Say that less than what was measured is too much now, beside whom."""
    refused = _percent(refusing_share(case.snapshot))
    foreign = case.around.host.foreign
    crowd = f"other processes use {_percent(foreign)} of the cores" if foreign >= LARGE_AT else "it does not hold now"
    do = "stop or move them, or send less" if foreign >= LARGE_AT else "send less, or measure it anew: orch bench"
    return _bounded(f"{figure(case.rate_per_s)}/s is below {capacity}, yet {refused} are refused: {crowd}; {do}")


def _bursts(case: Case) -> str:
    rate, refused = figure(case.rate_per_s), refused_share(case.snapshot.window)
    effect = f"{_percent(refused)} are refused" if refused else f"they wait too long ({case.measured.value:.0%})"
    do = "smooth them, raise slo.rate to plan for the peaks, or allow a longer slo.latency"
    if not case.snapshot.slo_latency_s:
        do = "smooth them, or declare an slo so that the queue is sized for it"
    return _bounded(f"{rate}/s fit on average, but come in bursts and {effect}: {do}")


def _slo(case: Case) -> str:
    service_s = case.snapshot.window.service.p50 or case.snapshot.service_s or 0.0
    slo_s = case.snapshot.slo_latency_s or 0.0
    usual, slo = f"{figure(service_s * 1e3)} ms", f"{figure(slo_s * 1e3)} ms"
    if service_s < slo_s / 2:
        what = f"inferences take {usual}, but the slowest more than the {slo} that the SLO allows"
        return _bounded(f"{what}: look for what else uses these cores, or relax slo.latency")
    what = f"one inference takes {usual}, most of the {slo} that the SLO allows or more"
    return _bounded(f"{what}: relax slo.latency, or use a faster device or model")


def numbers(case: Case) -> str:
    """Return the figures of a change of state that the advice does not have."""
    snapshot = case.snapshot
    parts = [] if case.measured.origin in {"demand", "bursts"} else [f"{figure(case.rate_per_s)}/s arrive"]
    if snapshot.slo_latency_s and snapshot.window.latency.p99 is not None:
        slo_ms, p99_ms = snapshot.slo_latency_s * 1e3, snapshot.window.latency.p99 * 1e3
        parts.append(f"p99 {figure(p99_ms)} ms, SLO {figure(slo_ms)} ms at p{snapshot.slo_percentile or 99:g}")
    refused = refused_share(snapshot.recent)
    if refused:
        parts.append(f"{refused:.1%} refused or expired")
    return ", ".join(parts)


def figure(value: float) -> str:
    """Return three figures, and all of those before the point."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "under 1%"


def _bounded(text: str) -> str:
    return text if len(text) <= ADVICE_MAX else text[: ADVICE_MAX - 1] + "…"
