"""Several models on one machine's cores: which layout is taken, what is refused and with what advice."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.planner.arms import candidates
from orchestrator.planner.capacity import Need, quantile
from orchestrator.planner.crowd import Load, Stream, crowd
from orchestrator.planner.joint import (
    LADDER,
    Member,
    Option,
    decided,
    dedicated,
    kind_of,
    mixed,
    moved,
    options_of,
    plan_together,
    reasons,
    shared,
    would_change,
)
from orchestrator.profiling.measurement import Arm, ArmProfile, Block, ReadBack
from tests.builders import a_deployment, a_model, a_model_info, an_inventory
from tests.builders_decision import a_capacity, a_decision

MIB = 2**20


def an_option(streams: int, threads: int, service_s: float, *, beside: float = 1.03, seed: int = 1) -> Option:
    chance = random.Random(seed)
    plural, threaded = "" if streams == 1 else "s", "" if threads == 1 else "s"
    arm = Arm(
        name=f"{streams} stream{plural} x {threads} thread{threaded}",
        device="CPU",
        expression="explicit",
        properties={"NUM_STREAMS": str(streams), "INFERENCE_NUM_THREADS": str(streams * threads)},
        threads=streams * threads,
    )
    return Option(
        arm, Stream(streams, threads, tuple(service_s * chance.lognormvariate(0, 0.03) for _ in range(300)), beside)
    )


def a_member(
    model: str, service_s: float, rate: float, latency_s: float, *, cpus: int = 2, speedup: float = 1.7, **over: Any
) -> Member:
    """Return a model that takes `service_s` on one thread, with one or more streams of one thread, or one of all."""
    options = [an_option(streams, 1, service_s) for streams in range(1, cpus + 1)]
    options += [an_option(1, cpus, service_s / speedup)] if cpus > 1 else []
    need = Need(latency_s, 99.0, timeout_s=latency_s)
    return Member(**{"model": model, "need": need, "rate_per_s": rate, "options": tuple(options), **over})


def a_profile(streams: int, threads: int, service_s: float) -> ArmProfile:
    """Return what was measured of an arm with nothing beside its inferences."""
    arm = Arm(name="measured", device="CPU", expression="explicit", properties={"NUM_STREAMS": str(streams)})
    actual = ReadBack(properties={}, streams=streams, threads=threads, requests=streams, execution_devices=("CPU",))
    block = Block(arm=arm.key, round=0, concurrency=1, seconds=1.0, completed=20, service_s=(service_s,) * 20)
    return ArmProfile(arm=arm, actual=actual, compile_s=1.0, blocks=(block,))


def test_one_profile_stands_for_every_number_of_streams_one_among_them() -> None:
    spec = a_deployment(a_model()).spec.models[0]
    measured = [a_profile(2, 2, 0.02), a_profile(1, 2, 0.012)]
    options = options_of(spec, a_model_info(), an_inventory(), measured, cpus=2, cpu_models=2, own_cores=False)
    found = {(option.stream.streams, option.stream.threads): option.arm for option in options}
    assert set(found) == {(1, 1), (2, 1), (1, 2)}
    assert all(arm.expression == "explicit" for arm in found.values()), "a hint says nothing of its streams"


def test_what_compile_states_is_the_one_way_to_run_a_model() -> None:
    """Seen to leave hints and batches without a way, and so out of the demand of all."""
    profile = a_profile(1, 2, 0.02)
    for stated, rows in (({"hint": "LATENCY"}, 1), ({"streams": 1, "threads": 2, "batch": 4}, 4)):
        spec = a_deployment(a_model(compile=stated)).spec.models[0]
        (alone,) = candidates(spec, a_model_info(), an_inventory(), cpus=2)
        measured = [profile.model_copy(update={"arm": alone.arm})]
        (option,) = options_of(spec, a_model_info(), an_inventory(), measured, cpus=2, cpu_models=2, own_cores=False)
        assert (option.stream.streams, option.stream.threads, option.stream.rows) == (1, 2, rows)
        assert option.arm.name == alone.arm.name
        assert option.arm.properties["ENABLE_CPU_PINNING"] == "NO", "as beside other models"


# The simulation.


def a_load(streams: int, threads: int, service_s: float, rate: float, seed: int = 1, latency_s: float = 10.0) -> Load:
    return Load(Stream(streams, threads, (service_s,)), Need(latency_s, 99.0, timeout_s=latency_s), rate, seed)


def test_a_load_that_has_its_cores_alone_takes_its_service_time() -> None:
    (fates,) = crowd([a_load(1, 1, 0.01, 0.5)], 2, 400)
    assert quantile([fate.latency_s for fate in fates], 0.5) == pytest.approx(0.01)


def test_loads_with_a_core_each_do_not_slow_each_other_down() -> None:
    alone = crowd([a_load(1, 1, 0.01, 40)], 2, 20)
    together = crowd([a_load(1, 1, 0.01, 40), a_load(1, 1, 0.03, 20, seed=2)], 2, 20)
    ends = [[round(fate.ended, 9) for fate in fates] for fates in (alone[0], together[0])]
    assert ends[0] == ends[1]


def test_more_threads_than_cores_share_them_evenly() -> None:
    loads = [a_load(1, 1, 1.0, 100, seed=seed, latency_s=1.5) for seed in (1, 2, 3)]
    fates = crowd(loads, 2, 3.0)
    served = [fate for each in fates for fate in each if fate.started is not None]
    usual = quantile([fate.ended - fate.started for fate in served if fate.started is not None], 0.5)
    assert usual == pytest.approx(1.5, rel=0.05), "three threads on two cores"


def test_an_inference_on_all_cores_waits_for_its_slowest_thread() -> None:
    fates = crowd([a_load(1, 2, 1.0, 100, latency_s=3.0), a_load(1, 1, 1.0, 100, seed=2, latency_s=3.0)], 2, 4.0)
    middle = [fate.ended - fate.started for fate in fates[0] if fate.started is not None]
    assert quantile(middle, 0.5) == pytest.approx(2.0, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0.001, 0.05), st.floats(1, 80)), min_size=1, max_size=3))
def test_every_request_has_one_fate_and_none_ends_before_it_could(given: list[tuple[int, float, float]]) -> None:
    loads = [a_load(streams, 1, service, rate, seed) for seed, (streams, service, rate) in enumerate(given)]
    fates = crowd(loads, 2, 1.0)
    for load, each in zip(loads, fates, strict=True):
        assert len(each) >= load.rate_per_s
        for fate in each:
            assert fate.started is None or fate.ended - fate.started >= load.stream.alone_s[0] - 1e-9


# The layouts.


def test_two_light_models_are_planned_with_room_to_grow() -> None:
    joint = plan_together([a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)], 2)
    best = joint.layouts[0]
    assert best.slack >= 1.45
    assert set(best.options) == {"a", "b"}
    assert best.slack == max(layout.slack for layout in joint.layouts)


def test_the_same_members_in_any_order_give_the_same_layout() -> None:
    members = [a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)]
    first, second = plan_together(members, 2), plan_together(members[::-1], 2)
    assert [each.key for each in first.layouts] == [each.key for each in second.layouts]


def test_an_slo_shorter_than_a_neighbours_inference_gets_cores_that_nobody_else_takes() -> None:
    joint = plan_together([a_member("fast", 0.004, 60, 0.015), a_member("slow", 0.08, 5, 0.8)], 2)
    best = joint.layouts[0]
    assert joint.blocked == (("fast", "slow"),)
    assert best.kind == "dedicated"
    assert best.slack >= 1
    assert "longer than the SLO of fast" in " ".join(reasons(joint, best, "fast"))


def test_the_division_of_the_cores_gives_most_to_the_most_pressed() -> None:
    busy, idle = a_member("busy", 0.02, 100, 0.2, cpus=4), a_member("idle", 0.02, 5, 0.2, cpus=4)
    chosen = dedicated([busy, idle], 4)
    assert chosen is not None
    assert chosen["busy"].threads == 3
    assert chosen["idle"].threads == 1


def test_shared_streams_are_twice_the_demand_and_never_more_than_the_cores() -> None:
    light, heavy = a_member("light", 0.01, 10, 0.1), a_member("heavy", 0.02, 70, 0.1)
    chosen = shared([light, heavy], 2)
    assert [(name, option.stream.streams) for name, option in chosen.items()] == [("light", 1), ("heavy", 2)]
    assert kind_of(chosen, 2) == "shared"


def test_a_mixed_layout_divides_the_cores_for_the_critical_and_shares_the_rest() -> None:
    members = [
        a_member("first", 0.01, 20, 0.1, priority="critical", cpus=4),
        a_member("second", 0.01, 20, 0.1, cpus=4),
        a_member("third", 0.01, 20, 0.1, cpus=4),
    ]
    chosen = mixed(members, 4)
    assert chosen is not None
    assert chosen["first"].threads == 3
    assert {chosen[name].stream.streams for name in ("second", "third")} == {1}
    assert mixed(members[1:], 4) is None, "nobody is critical"


def test_three_models_on_two_cores_are_planned_too() -> None:
    members = [a_member(name, 0.01, 15, 0.15) for name in ("a", "b", "c")]
    best = plan_together(members, 2).layouts[0]
    assert best.slack >= 1
    assert len(best.options) == 3


def test_a_critical_model_holds_even_where_a_sheddable_one_then_does_not() -> None:
    members = [
        a_member("critical", 0.02, 25, 0.08, priority="critical"),
        a_member("cheap", 0.02, 25, 0.08, priority="sheddable"),
    ]
    joint = plan_together(members, 2)
    best = joint.layouts[0]
    most = max(min(1.0, each.forecasts["critical"].slack) for each in joint.layouts)
    assert min(1.0, best.forecasts["critical"].slack) == most


def test_each_layout_is_predicted_on_the_same_ladder() -> None:
    joint = plan_together([a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)], 2)
    for layout in joint.layouts:
        assert {forecast.slack for forecast in layout.forecasts.values()} <= {*LADDER, 0.0}


def a_closed_member(
    model: str, service_s: float, callers: int, latency_s: float, rate: float = 20.0, **over: Any
) -> Member:
    member = a_member(model, service_s, rate, latency_s, **over)
    return replace(member, need=replace(member.need, arrivals="closed", callers=callers))


def test_callers_that_wait_are_planned_and_told_with_what_they_reach() -> None:
    """Seen to be counted as Poisson arrivals of the declared 20/s: 0.1 cores of the 0.9 that they kept busy."""
    joint = plan_together([a_closed_member("batch", 0.005, 8, 0.5), a_member("live", 0.01, 20, 0.2)], 2)
    best = joint.layouts[0]
    assert best.forecasts["batch"].per_s > 150
    demand = reasons(joint, best, "batch")[1]
    assert "brought by 8 callers waiting for their answers, keep " in demand
    busy = float(demand.partition(" keep ")[2].partition(" ")[0])
    assert busy > 0.8


def test_callers_that_do_not_reach_the_rate_do_not_hold_it() -> None:
    def slack(rate: float) -> float:
        batch = a_closed_member("batch", 0.02, 1, 0.5, rate=rate, speedup=1.0)
        return plan_together([batch, a_member("live", 0.02, 10, 0.2)], 2).layouts[0].forecasts["batch"].slack

    assert slack(40.0) >= 1
    with pytest.raises(OrchError, match=r"reached by 1 caller \(55/s asked for\)"):
        slack(55.0)


# After a failed run.


def test_after_a_failed_run_the_model_that_failed_gets_more_of_the_threads() -> None:
    joint = plan_together([a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)], 2)
    tried = [joint.layouts[0]]
    for _ in range(len(joint.layouts)):
        further = moved(joint, tried, "b")
        if further is None:
            break
        assert further.key not in {layout.key for layout in tried}
        before, after = (
            each.options["b"].threads / sum(option.threads for option in each.options.values())
            for each in (tried[-1], further)
        )
        sooner = further.forecasts["b"].latency_s < tried[-1].forecasts["b"].latency_s
        assert after >= before or sooner or further.kind == "dedicated"
        tried.append(further)
    else:
        pytest.fail("there is always something left to try")


def test_after_a_miss_in_shared_cores_a_core_for_every_thread_is_tried_next() -> None:
    joint = plan_together([a_member("a", 0.02, 30.0, 0.3), a_member("b", 0.01, 12.0, 0.035)], 2)
    crowded = next(layout for layout in joint.layouts if layout.kind != "dedicated")
    further = moved(joint, [crowded], "b")
    assert further is not None
    assert further.kind == "dedicated"


# What does not fit.


def test_demands_beyond_the_cores_are_refused_with_who_lacks_what_and_what_to_cut() -> None:
    members = [
        a_member("door", 0.02, 50, 0.1, priority="critical"),
        a_member("shelf", 0.02, 40, 0.1),
        a_member("stats", 0.02, 25, 0.2, priority="sheddable"),
    ]
    with pytest.raises(OrchError) as raised:
        plan_together(members, 2)
    assert raised.value.kind is Kind.UNSUPPORTED
    problems = raised.value.problems
    assert [problem.where for problem in problems] == ["shelf (default)", "stats (sheddable)"], "door is served first"
    assert "50/s" not in problems[0].what
    assert "it lacks 0.2" in problems[0].what
    hint = problems[0].hint or ""
    assert "4 cores would do" in hint, "on three of them they would be 77 % busy, too much for 100 ms"
    assert hint.index("leave out stats (sheddable)") < hint.index("lower the rate of shelf (default) to")
    assert "door" not in hint


@pytest.mark.parametrize("latency_s", [0.08, 0.2])
def test_what_to_cut_is_enough(latency_s: float) -> None:
    """Seen to be what leaves 80 % of the cores busy, however short the SLO: doing that was then predicted to miss."""
    members = [a_member("a", 0.02, 60, latency_s), a_member("b", 0.02, 40, latency_s, priority="sheddable")]
    with pytest.raises(OrchError) as raised:
        plan_together(members, 2)
    hint = raised.value.problems[0].hint or ""
    lower = float(hint.partition("lower the rate of b (sheddable) to ")[2].partition("/s")[0])
    after = [members[0], a_member("b", 0.02, lower, latency_s, priority="sheddable")]
    assert plan_together(after, 2).layouts[0].slack >= 1.1


def test_the_cores_that_would_do_are_simulated() -> None:
    members = [a_member("a", 0.02, 60, 0.05), a_member("b", 0.02, 40, 0.05)]
    with pytest.raises(OrchError) as raised:
        plan_together(members, 2)
    cores = int((raised.value.problems[0].hint or "").partition(" cores would do")[0])
    assert cores > 3, "three of them would be 67 % busy"
    more = [a_member("a", 0.02, 60, 0.05, cpus=cores), a_member("b", 0.02, 40, 0.05, cpus=cores)]
    assert plan_together(more, cores).layouts[0].slack >= 1.1


def test_a_cut_that_was_not_seen_to_be_enough_is_said_not_to_be_sure() -> None:
    members = [a_member("a", 0.02, 60, 0.0201), a_member("b", 0.02, 40, 0.0201)]
    with pytest.raises(OrchError, match="together the models need") as raised:
        plan_together(members, 2)
    hint = raised.value.problems[0].hint or ""
    assert " to below " in hint
    assert "which may not be enough" in hint
    assert "would do" not in hint


def test_latencies_that_no_layout_holds_are_refused_with_the_prediction() -> None:
    members = [a_member("a", 0.02, 30, 0.022), a_member("b", 0.02, 30, 0.022)]
    with pytest.raises(OrchError, match="in the best layout there is") as raised:
        plan_together(members, 2)
    assert raised.value.kind is Kind.UNSUPPORTED
    assert "planning: {mode: hint}" in (raised.value.problems[0].hint or "")


def test_memory_that_does_not_suffice_is_refused_with_the_figures() -> None:
    members = [
        a_member("a", 0.01, 20, 0.1, memory_bytes=300 * MIB),
        a_member("b", 0.02, 10, 0.2, memory_bytes=800 * MIB),
    ]
    with pytest.raises(OrchError, match=r"b 800MiB, a 300MiB"):
        plan_together(members, 2, memory=(1024 * MIB, "in `resources.memory`"))
    assert plan_together(members, 2, memory=(2048 * MIB, "in `resources.memory`")).layouts


def test_the_reasons_say_the_layout_the_demand_and_what_would_change_it() -> None:
    joint = plan_together([a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)], 2)
    best = joint.layouts[0]
    first, demand, predicted = reasons(joint, best, "a")
    assert "planned together with b" in first
    assert demand.startswith("20/s of 10 ms each keep 0.2 of 2 cores busy, all models 0.4")
    assert predicted.startswith("Predicted beside the others: p99 ")
    assert would_change(joint, best).startswith("Would change: ")


def test_who_is_not_counted_is_named_and_nobody_is_said_to_have_cores_alone() -> None:
    """Seen to be `verified with all models loaded` and `nobody waits` beside a model without a rate."""
    members = [a_member("a", 0.01, 20, 0.1), a_member("b", 0.02, 10, 0.2)]

    planned = plan_together(members, 2)

    def told(*beside: tuple[str, str]) -> str:
        joint = replace(planned, beside=beside)
        layout = next(each for each in joint.layouts if each.kind == "dedicated")
        alone = a_decision(model="a", capacity=a_capacity(80.0))
        return " ".join(decided(joint, layout, alone, "verified", "0 misses", None, None).sentences)

    with_all, without = told(), told(("free", "no rate is stated"))
    assert "so that nobody waits for one" in with_all
    assert "Verified with all models loaded at their rates at once" in with_all
    assert "a core for every thread; not counted, free (no rate is stated) shares the cores too" in without
    assert "Verified with a and b, but not free, loaded at their rates at once" in without
