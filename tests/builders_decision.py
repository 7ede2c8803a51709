"""Valid measured decisions for tests: ResNet-50 and others on two cores, after figures measured for the project."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

from orchestrator.planner.curve import Point, curve
from orchestrator.planner.decision import Capacity, Decision, Rejected
from orchestrator.planner.plan import SloPlan
from orchestrator.planner.report import ByRule, Planned
from orchestrator.profiling.measurement import Arm, ArmProfile, Block, Profile, Proof, ReadBack
from tests.builders import a_model, a_plan

SHA = "9f2c" * 16


def an_slo(latency_s: float = 0.2, percentile: float = 99.0, rate_per_s: float | None = 25.0) -> SloPlan:
    """Return p99 within 200 ms at 25/s."""
    return SloPlan(latency_s=latency_s, percentile=percentile, rate_per_s=rate_per_s)


def an_arm(streams: int = 2, each: int = 1, batch: int = 1, **over: Any) -> Arm:
    """Return an explicit CPU arm of so many streams of `each` threads."""
    name = f"{streams} stream{'s' * (streams > 1)} x {each} thread{'s' * (each > 1)}"
    properties = {
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": str(streams * each),
        "NUM_STREAMS": str(streams),
    }
    fields = {
        "name": name + (f", batch {batch}" if batch > 1 else ""),
        "device": "CPU",
        "expression": "explicit",
        "properties": properties,
        "batch": batch,
        "requests": streams,
        "threads": streams * each,
    }
    return Arm(**{**fields, **over})


def a_hint(hint: str = "LATENCY", device: str = "CPU") -> Arm:
    """Return an arm that leaves streams to OpenVINO."""
    properties = {"INFERENCE_NUM_THREADS": "2", "PERFORMANCE_HINT": hint}
    return Arm(name=hint, device=device, expression="hint", properties=properties, threads=2)


def a_read_back(arm: Arm) -> ReadBack:
    """Return what OpenVINO would make of the arm."""
    streams = int(arm.properties.get("NUM_STREAMS", "1"))
    properties = {**arm.properties, "INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": str(streams)}
    return ReadBack(
        properties=dict(sorted(properties.items())),
        streams=streams,
        threads=arm.threads,
        requests=arm.requests or streams,
        execution_devices=("CPU",),
    )


def a_capacity(per_s: float, spread: float = 0.05, formula: float | None = None) -> Capacity:
    """Return a capacity with an interval of so much on both sides."""
    return Capacity(per_s=per_s, low_per_s=per_s * (1 - spread), high_per_s=per_s * (1 + spread), formula_per_s=formula)


def a_rejected(arm: Arm, carries: float | None, **over: Any) -> Rejected:
    """Return an arm that carries too little."""
    fields: dict[str, Any] = {
        "arm": arm,
        "reason": "carries less",
        "streams": a_read_back(arm).streams,
        "capacity": None if carries is None else a_capacity(carries),
        "service_s": 0.0217,
        "per_s": 46.0,
    }
    return Rejected(**{**fields, **over})


def latencies(count: int, median_s: float, spread: float = 0.25, seed: int = 7) -> tuple[float, ...]:
    """Return skewed samples around a median."""
    chance = Random(seed)
    return tuple(round(median_s * chance.lognormvariate(0, spread), 6) for _ in range(count))


def a_proof(**over: Any) -> Proof:
    """Return a run that was accepted: no miss in 299 requests at 1.25 times the rate."""
    fields: dict[str, Any] = {
        "arm": an_arm().key,
        "rate_per_s": 31.25,
        "seed": 1,
        "sent": 299,
        "answered": 299,
        "refused": 0,
        "misses": 0,
        "latency_s": latencies(299, 0.058),
        "generator_cpu": 0.02,
        "blocks": 3,
        "verdict": "verified",
        "reason": "accepted after 299 requests",
        "date": "2026-11-22T09:30:00Z",
    }
    return Proof(**{**fields, **over})


def a_decision(**over: Any) -> Decision:
    """Return ResNet-50 on two cores: two thin streams, verified."""
    arm = over.get("arm", an_arm())
    batch = a_rejected(
        an_arm(batch=4), None, reason="gain of batch 4 is 1.04x, below 1.15x", service_s=0.154, per_s=52.0
    )
    late = "an inference alone takes longer than the SLO"
    huge = a_rejected(an_arm(batch=16), None, reason=late, service_s=0.62, per_s=51.6)
    fields: dict[str, Any] = {
        "model": "resnet50",
        "model_sha256": SHA,
        "arm": arm,
        "actual": a_read_back(arm),
        "capacity": a_capacity(38.4, formula=36.1),
        "service_s": 0.0395,
        "service_p99_s": 0.0432,
        "alone_s": 0.0389,
        "per_s": 50.1,
        "verdict": "verified",
        "proof": a_proof(),
        "floor_s": 0.0253,
        "rejected": (
            a_rejected(an_arm(1, 2), 35.2),
            a_rejected(a_hint(), 34.7, service_s=0.0219, per_s=45.6),
            batch,
            huge,
        ),
        "resolution": 0.024,
        "seconds": 38.2,
        "compiled": 5,
    }
    return Decision(**{**fields, **over})


def an_infeasible_decision() -> Decision:
    """Return an SLO of 10 ms that ResNet-50 cannot reach on two cores."""
    late = "even alone it takes longer than the SLO"
    return a_decision(
        model="resnet50-fast",
        arm=an_arm(1, 2),
        capacity=a_capacity(0.0),
        service_s=0.0217,
        service_p99_s=0.0258,
        alone_s=0.0212,
        per_s=46.0,
        verdict="infeasible",
        proof=None,
        rejected=(a_rejected(an_arm(), None, reason=late, service_s=0.0395, per_s=50.1),),
        seconds=9.1,
        compiled=2,
    )


def a_hint_decision() -> Decision:
    """Return a plan for which nothing was measured."""
    arm = a_hint("THROUGHPUT")
    return a_decision(
        model="embedder",
        arm=arm,
        actual=a_read_back(arm),
        capacity=None,
        service_s=0.0,
        service_p99_s=0.0,
        alone_s=0.0,
        per_s=0.0,
        verdict="unverified",
        proof=None,
        floor_s=None,
        rejected=(),
        seconds=0.0,
        compiled=0,
    )


def a_profile(decision: Decision, cpus: int = 2) -> Profile:
    """Return blocks of every arm of a decision that fit its figures."""
    arms = [(decision.arm, decision.service_s)]
    arms += [(each.arm, each.service_s or 0.05) for each in decision.rejected]
    return Profile(
        model_sha256=decision.model_sha256,
        fingerprint="0c0ffee0",
        openvino="2026.4.1",
        cpus=cpus,
        resolution=decision.resolution,
        arms=tuple(_an_arm_profile(arm, service_s, seed) for seed, (arm, service_s) in enumerate(arms)),
        measured="2026-11-22T09:29:00Z",
    )


def _an_arm_profile(arm: Arm, service_s: float, seed: int) -> ArmProfile:
    requests = arm.requests or 1
    blocks = tuple(
        Block(
            arm=arm.key,
            round=number,
            concurrency=concurrency,
            seconds=1.0,
            completed=max(1, int(concurrency / service_s)),
            service_s=latencies(60, service_s * (0.98 if concurrency == 1 else 1.0), 0.05, seed * 10 + number),
        )
        for number in range(3)
        for concurrency in sorted({1, requests})
    )
    return ArmProfile(arm=arm, actual=a_read_back(arm), compile_s=0.8, blocks=blocks)


def crossing(points: tuple[Point, ...], latency_s: float) -> float | None:
    """Return the rate at which a curve reaches the latency."""
    for low, high in pairwise(points):
        if low.latency_s <= latency_s < high.latency_s:
            share = (latency_s - low.latency_s) / (high.latency_s - low.latency_s)
            return low.per_s + share * (high.per_s - low.per_s)
    return points[-1].per_s if points[-1].latency_s <= latency_s else None


def a_many_armed_decision(slo_s: float = 0.012) -> Decision:
    """Return MobileNetV2 on eight cores with a dozen arms, not proven yet."""
    speed = {1: 1.0, 2: 0.55, 4: 0.32, 8: 0.21}
    arms = []
    for batch in (1, 2, 4):
        for number, (streams, each) in enumerate([(8, 1), (4, 2), (2, 4), (1, 8)]):
            arm, service_s = an_arm(streams, each, batch), 0.0046 * speed[each] * (0.85 * batch + 0.15)
            points = curve(_an_arm_profile(arm, service_s, number), 99.0, slo_s, cpus=8, arms=12)
            rows_per_s = streams * batch / service_s
            arms.append(a_rejected(arm, crossing(points, slo_s), service_s=service_s, per_s=rows_per_s))
    best, *others = sorted(arms, key=lambda each: -(each.capacity.per_s if each.capacity else 0))
    service_s = best.service_s or 0.0
    return a_decision(
        model="mobilenet-v2",
        arm=best.arm,
        capacity=best.capacity,
        service_s=service_s,
        service_p99_s=service_s * 1.1,
        alone_s=service_s * 0.97,
        per_s=best.per_s,
        verdict="unverified",
        proof=None,
        floor_s=0.0011,
        rejected=tuple(others),
        seconds=57.0,
        compiled=12,
    )


def planned_examples() -> list[Planned | ByRule]:
    """Return one model of each verdict, as a report gets them."""
    verified, many, late, hint = a_decision(), a_many_armed_decision(), an_infeasible_decision(), a_hint_decision()
    (by_rule,) = a_plan(a_model("cameras")).models
    return [
        Planned(verified, an_slo(), 2, a_profile(verified)),
        Planned(many, an_slo(0.012, rate_per_s=None), 8, a_profile(many, 8)),
        Planned(late, an_slo(0.01), 2, a_profile(late)),
        Planned(hint, None, 2),
        ByRule(by_rule),
    ]
