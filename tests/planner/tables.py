"""Made-up tables of two cores: how fast a model is on one thread, and how much a second one, or a batch, helps."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from orchestrator.planner.arms import Candidate, by_key, candidates, with_spare
from orchestrator.planner.steps import Question, question_of
from orchestrator.profiling.measurement import Arm, ReadBack
from tests.builders import a_cpu, a_deployment, a_model, a_model_info, an_inventory
from tests.planner.replay import Entry, Table

SAMPLES = 400


def a_question(
    slo: dict[str, Any] | None = None, *, model: dict[str, Any] | None = None, **over: Any
) -> tuple[Question, tuple[Candidate, ...]]:
    """Return a question about a model on two cores, and its candidates; `slo` None is no SLO."""
    given = {"slo": slo, **(model or {})} if slo else model or {}
    spec = a_deployment(a_model(**given)).spec.models[0]
    info = a_model_info()
    found = candidates(spec, info, an_inventory(a_cpu(range_for_streams=(1, 2))), cpus=2)
    return question_of(spec, info, cpus=2, **over), found


def a_table(
    found: tuple[Candidate, ...],
    *,
    thread_s: float = 0.04,
    speedup: float = 1.85,
    beside: float = 1.03,
    row: float = 1.0,
    spread: float = 0.04,
    throughput_streams: int = 2,
    compile_s: float = 1.0,
    hand_over_s: float | None = None,
    seed: int = 1,
    **more: Any,
) -> Table:
    """Return the table of a model that takes `thread_s` on one thread and 1 / `speedup` of it on two.

    Two streams make each other `beside` times slower; each further row of a batch costs `row` times the first.
    `hand_over_s` is what a stream idles between two inferences, unless a spare request waits; None knows no such arm.
    """
    chance = random.Random(seed)

    def samples(seconds: float) -> tuple[float, ...]:
        return tuple(seconds * chance.lognormvariate(0, spread) for _ in range(SAMPLES))

    def entry(arm: Arm) -> Entry:
        hint = arm.properties.get("PERFORMANCE_HINT")
        by_hint = {"LATENCY": 1, "THROUGHPUT": throughput_streams}
        streams = by_hint[hint] if hint else int(arm.properties["NUM_STREAMS"])
        one = thread_s * (1 + row * (arm.batch - 1)) / (speedup if streams == 1 else 1.0)
        return Entry(
            ReadBack(properties={}, streams=streams, threads=2, requests=streams, execution_devices=("CPU",)),
            {1: samples(one)} | ({2: samples(one * beside)} if streams == 2 else {}),
            compile_s=compile_s,
            memory_bytes=(100 + 10 * streams) * 2**20,
        )

    def with_hand_over(of: Entry) -> Entry:
        assert hand_over_s is not None
        slower = {n: tuple(value + hand_over_s for value in values) for n, values in of.samples_s.items()}
        return replace(of, samples_s=slower)

    def with_one_more(of: Entry) -> Entry:
        """Return the entry of an arm with one request more: the last one waits for its share of the others' time."""
        streams = of.actual.streams or 1
        waits = tuple(value * (streams + 1) / streams for value in of.samples_s[streams])
        return replace(of, samples_s={**of.samples_s, streams + 1: waits})

    arms = {key: entry(arm) for key, arm in by_key(found).items()}
    if hand_over_s is None:
        return Table(arms, **more)
    known = by_key(found)
    spare = {with_spare(known[key], of.actual.requests).key: with_one_more(of) for key, of in arms.items()}
    return Table({**{key: with_hand_over(of) for key, of in arms.items()}, **spare}, **more)
