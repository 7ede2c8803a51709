"""Plan several models on one machine's cores: predict layouts by simulation, take the one with most room, or refuse.

A layout gives each model streams of some threads each. `dedicated` layouts have no more threads than there are cores,
so that nobody waits for a core; `shared` ones give every model as many streams of one thread as its demand wants twice,
and let the kernel share the cores; `mixed` is what lies between. Threads are never pinned: OpenVINO pins each compiled
model from core 0 on, its reservation makes a further compile fail, which a change without a gap needs, and no other way
ties models to cores inside a process. So `dedicated` holds by the kernel, which spreads threads over idle cores.

What is sought is the slack: by what factor all rates can grow until a model misses its SLO.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.errors import Kind, OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.planner import evidence
from orchestrator.planner.arms import candidates
from orchestrator.planner.capacity import LOAD_MAX, Need, quantile
from orchestrator.planner.crowd import Load, Stream, crowd, most_per_s
from orchestrator.planner.decision import Capacity, Decision, Rejected
from orchestrator.planner.explain import duration, figure, interval, rate
from orchestrator.planner.steps import FRONT_END_S
from orchestrator.profiling.measurement import Arm, ArmProfile, Proof, ReadBack, Verdict
from orchestrator.scheduling.simulate import Fate
from orchestrator.units import format_size

Priority = Literal["critical", "default", "sheddable"]
Options = Mapping[str, "Option"]
Kindred = Literal["dedicated", "shared", "mixed"]

PRIORITIES: tuple[Priority, ...] = ("critical", "default", "sheddable")
DEMAND_MAX = 0.8  # of the cores: above, no layout is steady
STREAMS_PER_DEMAND = 2.0  # of a shared layout: half of its streams idle on average, which takes bursts
LADDER = (0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.45, 1.7, 2.0, 2.5, 3.0)  # factors of all rates that are tried
HOPELESS = 0.8  # slack below which a layout is not worth a run: predictions err by less
REQUESTS_LEAST, REQUESTS_MOST = 1000, 8000  # simulated: of the rarest model, and of all, which goes before
COMFORTABLE = (
    1.25  # slack with which cores of one's own go before more of it: the headroom that a lone model is proved at
)
FASTER = 0.95  # times the predicted latency: a difference that a prediction can tell
FINALISTS = 5
COMBINATIONS_MAX = 128
SAMPLES_MAX = 500  # of an option
STREAMS_TRIED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
BESIDE, BESIDE_MAX = 1.05, 2.0  # where no quiet block shows it, and at most: beyond, something else was there
PER_S_LEAST = 1e-9
CORES_MAX = 4  # times those there are, or are least needed, when asking how many would do
CORES_SIMULATED = 1024  # beyond, nobody asks
ADVISED = 1.1  # times the rates that what is advised must hold: at its edge a proof says no too easily
KEPT_LEAST, HALVINGS = 0.5, 4  # of the demand that could be planned: further cuts that are tried


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run one model, with the service times to predict it from."""

    arm: Arm
    stream: Stream

    @property
    def threads(self) -> int:
        """Return the threads of all its streams."""
        return self.stream.streams * self.stream.threads


@dataclass(frozen=True, slots=True)
class Member:
    """One model of the set: what it must hold at which rate, and the ways to run it."""

    model: str
    need: Need
    rate_per_s: float
    options: tuple[Option, ...]
    priority: Priority = "default"
    memory_bytes: int = 0
    """What it takes when served: its weights, or by what a process that served it grew."""

    @property
    def thread_s(self) -> float:
        """Return the median time of one inference on one thread (an upper bound where only more were measured)."""
        fewest = min(self.options, key=lambda option: (option.stream.threads, option.stream.streams))
        return statistics.median(fewest.stream.alone_s) * fewest.stream.threads

    @property
    def demand(self) -> float:
        """Return the cores that it needs for its rate; callers that wait keep as many busy as they are given."""
        return self.rate_per_s * self.thread_s / min(option.stream.rows for option in self.options)

    @property
    def closed(self) -> bool:
        """Tell whether its callers each wait for their answer, and so bring as much as they reach."""
        return self.need.arrivals == "closed"

    def comes_per_s(self, option: Option, factor: float = 1.0) -> float:
        """Return the arrivals at so many times the rate; of callers that wait the most that they can reach."""
        return most_per_s(self.need, option.stream) if self.closed else factor * self.rate_per_s


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a layout is predicted to do for one model at the declared rates."""

    latency_s: float
    """At the SLO's percentile; infinite where too many are refused."""
    service_s: float
    service_p99_s: float
    slack: float
    """By what all rates can grow before it misses: 0 where it misses even at the least that is tried."""
    per_s: float
    """Answers a second: of callers that wait, what they reach together."""


@dataclass(frozen=True, slots=True)
class Layout:
    """An option for each model, and what comes of it."""

    kind: Kindred
    options: Mapping[str, Option]
    forecasts: Mapping[str, Forecast]

    @property
    def slack(self) -> float:
        """Return the slack of the model that has least."""
        return min(forecast.slack for forecast in self.forecasts.values())

    @property
    def tightest(self) -> str:
        """Return the model that has least."""
        return min(sorted(self.forecasts), key=lambda name: self.forecasts[name].slack)

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """Return what tells this layout from others."""
        return tuple((name, self.options[name].arm.key) for name in sorted(self.options))

    @property
    def words(self) -> str:
        """Return the layout for people: `detector 1 stream x 1 thread, embedder 2 streams x 1 thread`."""
        return ", ".join(f"{name} {self.options[name].arm.name}" for name in sorted(self.options))


@dataclass(frozen=True, slots=True)
class Joint:
    """All layouts that are worth a run, the best first."""

    members: tuple[Member, ...]
    cpus: int
    layouts: tuple[Layout, ...]
    blocked: tuple[tuple[str, str], ...] = ()
    """Pairs of models of which the first's SLO is shorter than one inference of the second."""
    beside: tuple[tuple[str, str], ...] = ()
    """Other models on these cores, which are not counted, and why."""


def plan_together(
    members: Sequence[Member],
    cpus: int,
    *,
    memory: tuple[int, str] | None = None,
    disturbed: bool = False,
    beside: tuple[tuple[str, str], ...] = (),
    seed: int = 1,
) -> Joint:
    """Return the layouts to run, best first; same input, same result.

    `memory` is the limit in bytes and who says so. `disturbed` profiles have other processes' work in their tails: then
    only a run may say that no layout holds. `beside` are other models on these cores, and why they are not counted.
    Raise OrchError UNSUPPORTED with who lacks what, how many cores would do
    and what to cut where the demands do not fit.
    """
    assert len(members) > 1, "one model needs no layout"
    members = tuple(sorted(members, key=lambda member: member.model))
    problems = [*_memory_problems(members, memory), *_demand_problems(members, cpus, seed)]
    if problems:
        raise OrchError(Kind.UNSUPPORTED, problems)
    found = _finalists(members, cpus, seed)
    layouts = [_predicted(members, options, cpus, seed) for options in found]
    blocked = _blocked(members)
    ranked = sorted(layouts, key=lambda layout: _rank(members, layout, bool(blocked)))
    if ranked[0].slack < HOPELESS and not disturbed:
        raise OrchError(Kind.UNSUPPORTED, _layout_problems(members, ranked[0], cpus, seed))
    worth = tuple(each for each in ranked if each.slack >= HOPELESS) or (ranked[0],)
    return Joint(members, cpus, worth, blocked, beside)


def moved(joint: Joint, tried: Sequence[Layout], failed: str) -> Layout | None:
    """Return the untried layout to run after `failed` missed its SLO, None where there is none.

    What a prediction misses is how models get in each other's way, so a core for every thread comes first. Then
    what gives the model more: of the threads, or by a lower predicted latency, neighbours having fewer of them.
    """
    before = {layout.key for layout in tried}
    part, latency_s = _part(tried[-1], failed), tried[-1].forecasts[failed].latency_s

    def gives_more(layout: Layout) -> bool:
        return _part(layout, failed) > part + 1e-9 or layout.forecasts[failed].latency_s < FASTER * latency_s

    untried = [layout for layout in joint.layouts if layout.key not in before]
    apart = [layout for layout in untried if layout.kind == "dedicated" and layout.slack >= 1]
    return next(iter([*apart, *filter(gives_more, untried)]), None)


def _part(layout: Layout, model: str) -> float:
    """Return the model's part of all threads, and a little for having more of them."""
    mine = layout.options[model].threads
    return mine / sum(option.threads for option in layout.options.values()) + mine * 1e-6


# The options.


def options_of(
    spec: ModelSpec,
    info: ModelInfo,
    inventory: Inventory,
    profiles: Sequence[ArmProfile],
    *,
    cpus: int,
    cpu_models: int,
    own_cores: bool,
) -> tuple[Option, ...]:
    """Return the ways to run the model beside others, from what was measured of it alone.

    A stream of so many threads is as fast in an arm of few streams as in one of many while the others idle; so one
    profile stands for every number of streams. Batches are left out: they would make neighbours wait longer. What
    `compile` states, a batch too, is the only way where it leaves no streams to choose.
    """
    singles = {threads: profile for profile in profiles if (threads := _threads_each(profile)) is not None}
    beside = _beside(singles)
    found = []
    for threads, profile in sorted(singles.items()):
        alone_s = _thinned([value for block in evidence.back_to_back(profile) for value in block.service_s])
        for streams in (each for each in STREAMS_TRIED if each * threads <= cpus):
            arms = candidates(
                spec,
                info,
                inventory,
                cpus=cpus,
                own_cores=own_cores,
                cpu_models=cpu_models,
                share=streams * threads,
            )
            of_all = streams * threads
            explicit = (each for each in arms if each.arm.expression == "explicit")  # LATENCY is one stream too
            arm = next((each.arm for each in explicit if (each.streams, each.arm.threads) == (streams, of_all)), None)
            if arm is not None:
                found.append(Option(arm, Stream(streams, threads, alone_s, beside)))
    if found or spec.compile is None:
        return tuple(found)
    stated = candidates(spec, info, inventory, cpus=cpus, own_cores=own_cores, cpu_models=cpu_models)
    return _as_stated({each.arm.name: each.arm for each in stated}, profiles)


def _as_stated(arms: Mapping[str, Arm], profiles: Sequence[ArmProfile]) -> tuple[Option, ...]:
    """Return the arms by their names as they were measured: hints, batches, more requests than streams."""
    found = []
    for profile in profiles:
        arm, actual = arms.get(profile.arm.name), profile.actual
        blocks = evidence.alone_blocks(profile)
        if arm is None or not actual.streams or not actual.threads or not blocks:
            continue
        slots, threads = evidence.slots_of(profile), max(1, actual.threads // actual.streams)
        beside = BESIDE
        if slots <= actual.streams:  # otherwise a busy one waits for a stream
            blocks, beside = evidence.back_to_back(profile), _beside({threads: profile})
        alone_s = _thinned([value for block in blocks for value in block.service_s])
        found.append(Option(arm, Stream(min(slots, actual.streams), threads, alone_s, beside, arm.batch)))
    return tuple(found)


def _thinned(samples: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted(samples)[:: max(1, -(-len(samples) // SAMPLES_MAX))])


def _threads_each(profile: ArmProfile) -> int | None:
    """Return the threads of each stream, None where the profile says nothing of single rows on the CPU."""
    actual = profile.actual
    if profile.arm.batch != 1 or not actual.streams or not actual.threads or not evidence.alone_blocks(profile):
        return None
    if evidence.slots_of(profile) > actual.streams:
        return None
    return max(1, actual.threads // actual.streams)


def _beside(singles: Mapping[int, ArmProfile]) -> float:
    """Return by what an inference is slower when other cores compute, as streams of the model itself showed."""
    for _, profile in sorted(singles.items()):
        busy = evidence.busy_blocks(profile)
        alone = evidence.back_to_back(profile)
        if alone != busy and evidence.slots_of(profile) > 1 and not all(block.host.tainted() for block in busy):
            ratio = evidence.median_s(busy) / evidence.median_s(alone)
            return min(BESIDE_MAX, max(1.0, ratio))
    return BESIDE


# Layouts.


def kind_of(options: Mapping[str, Option], cpus: int) -> Kindred:
    """Return what the layout is called."""
    if sum(option.threads for option in options.values()) <= cpus:
        return "dedicated"
    return "shared" if all(option.stream.threads == 1 for option in options.values()) else "mixed"


def shared(members: Sequence[Member], cpus: int) -> dict[str, Option]:
    """Return streams of one thread for all, twice as many as their demand, else of the fewest threads there are."""
    found: dict[str, Option] = {}
    for member in members:
        wanted = min(cpus, max(1, math.ceil(STREAMS_PER_DEMAND * member.demand)))
        found[member.model] = min(
            member.options, key=lambda option: (option.stream.threads, abs(option.stream.streams - wanted))
        )
    return found


def dedicated(members: Sequence[Member], cpus: int) -> dict[str, Option] | None:
    """Return the division of the cores that leaves the least slack largest, None where there are too few cores.

    best[c] of the first models is over what the last of them gets: max of min(best[c - own], slack of the last).
    Slack is the model's alone with so many threads: nobody takes a core from it.
    """
    best: dict[int, tuple[float, dict[str, Option]]] = {0: (math.inf, {})}
    for member in members:
        by_threads: dict[int, tuple[float, Option]] = {}
        for option in member.options:
            slack = _alone_slack(member, option)
            if option.threads not in by_threads or slack > by_threads[option.threads][0]:
                by_threads[option.threads] = (slack, option)
        further: dict[int, tuple[float, dict[str, Option]]] = {}
        for (used, (least, chosen)), (threads, (slack, option)) in itertools.product(best.items(), by_threads.items()):
            total, worst = used + threads, min(least, slack)
            if total <= cpus and (total not in further or worst > further[total][0]):
                further[total] = (worst, {**chosen, member.model: option})
        best = further
    return max(best.values(), key=lambda each: each[0])[1] if best else None


def _alone_slack(member: Member, option: Option) -> float:
    """Return about how often its rate the option serves on cores of its own; the simulation says it exactly."""
    stream, need = option.stream, member.need
    waiting = max(1.0, (need.callers or 1) / stream.streams) if member.closed else 1.0
    if quantile(stream.alone_s, need.share) * stream.beside * waiting > need.latency_s:
        return 0.0
    service_s = statistics.fmean(stream.alone_s) * stream.beside
    room = 1 - service_s / need.latency_s / 2  # the less an inference leaves of the SLO, the emptier the queue must be
    return LOAD_MAX * room * stream.streams * stream.rows / service_s / member.rate_per_s


def mixed(members: Sequence[Member], cpus: int) -> dict[str, Option] | None:
    """Return threads of their own for critical models, and what is left, shared, for the rest."""
    critical = [member for member in members if member.priority == "critical"]
    rest = [member for member in members if member.priority != "critical"]
    if not critical or not rest or cpus < 2:
        return None
    first = dedicated(critical, cpus - 1)
    if first is None:
        return None
    left = cpus - sum(option.threads for option in first.values())
    return {**first, **shared(rest, left)}


def _finalists(members: Sequence[Member], cpus: int, seed: int) -> list[dict[str, Option]]:
    """Return the named layouts and, of all combinations, those that come nearest to their SLOs at the rates."""
    named = [each for each in (dedicated(members, cpus), shared(members, cpus), mixed(members, cpus)) if each]
    count = math.prod(len(member.options) for member in members)
    if count > COMBINATIONS_MAX:
        return _without_twins(named)
    names = [member.model for member in members]
    every = [dict(zip(names, each, strict=True)) for each in itertools.product(*(each.options for each in members))]
    every.sort(key=lambda options: _pressure(members, options, cpus, seed))
    return _without_twins([*named, *every[:FINALISTS]])


def _without_twins(found: Sequence[dict[str, Option]]) -> list[dict[str, Option]]:
    unique = {tuple((name, options[name].arm.key) for name in sorted(options)): options for options in found}
    return list(unique.values())


def _pressure(members: Sequence[Member], options: Mapping[str, Option], cpus: int, seed: int) -> float:
    """Return by how much the worst latency fills its SLO, from a short simulation."""
    fates = _simulated(members, options, cpus, seed, 1.0, 0.25)
    return max(
        min(10.0, max(latency_s(fate, member.need.share) / member.need.latency_s, _short(member, fate)))
        for member, fate in zip(members, fates, strict=True)
    )


def _short(member: Member, fates: Sequence[Fate]) -> float:
    """Return by how much the rate exceeds what callers that wait reach; 0 for all others, who come at their rate."""
    return member.rate_per_s / max(PER_S_LEAST, answered_per_s(fates)) if member.closed else 0.0


def answered_per_s(fates: Sequence[Fate]) -> float:
    """Return the answers a second."""
    return sum(fate.cause is None for fate in fates) / max(fate.ended for fate in fates)


def _simulated(
    members: Sequence[Member], options: Mapping[str, Option], cpus: int, seed: int, factor: float, part: float = 1.0
) -> tuple[tuple[Fate, ...], ...]:
    rates = {member.model: member.comes_per_s(options[member.model], factor) for member in members}
    seconds = part * min(REQUESTS_LEAST / min(rates.values()), REQUESTS_MOST / sum(rates.values()))
    return simulated_at(members, options, cpus, rates, seconds, seed)


def simulated_at(
    members: Sequence[Member],
    options: Mapping[str, Option],
    cpus: int,
    rates: Mapping[str, float],
    seconds: float,
    seed: int,
) -> tuple[tuple[Fate, ...], ...]:
    """Return the fates of each member's requests within so many seconds at these rates; closed callers bring theirs."""
    loads = [
        Load(options[member.model].stream, member.need, rates[member.model], seed + number)
        for number, member in enumerate(members)
    ]
    return crowd(loads, cpus, seconds, front_end_s=FRONT_END_S)


def latency_s(fates: Sequence[Fate], share: float) -> float:
    return quantile([fate.latency_s if fate.cause is None else math.inf for fate in fates], share)


def _predicted(members: Sequence[Member], options: Mapping[str, Option], cpus: int, seed: int) -> Layout:
    """Return the layout with its forecasts: from the rates themselves the ladder is climbed up and down.

    Up until every model has missed, down until each that misses at its rate has held. Who holds a rung is taken to hold
    all below it, and who misses one all above.
    """
    at_rate = _simulated(members, options, cpus, seed, 1.0)
    holding = in_time(members, at_rate)
    slack = {name: 1.0 if name in holding else 0.0 for name in options}
    going = set(holding)
    for factor in (rung for rung in LADDER if rung > 1.0):
        if not going:
            break
        going &= in_time(members, _simulated(members, options, cpus, seed, factor))
        slack |= dict.fromkeys(going, factor)
    late = set(options) - holding
    for factor in (rung for rung in reversed(LADDER) if rung < 1.0):
        if not late:
            break
        found = late & in_time(members, _simulated(members, options, cpus, seed, factor))
        slack |= dict.fromkeys(found, factor)
        late -= found
    forecasts = {
        member.model: _forecast(fate, member.need.share, slack[member.model])
        for member, fate in zip(members, at_rate, strict=True)
    }
    return Layout(kind_of(options, cpus), dict(options), forecasts)


def in_time(members: Sequence[Member], fates: Sequence[Sequence[Fate]]) -> set[str]:
    """Return the models whose requests were answered in time often enough, and whose callers reach the rate."""
    return {
        member.model
        for member, fate in zip(members, fates, strict=True)
        if latency_s(fate, member.need.share) <= member.need.latency_s and _short(member, fate) <= 1
    }


def _forecast(fates: Sequence[Fate], share: float, slack: float) -> Forecast:
    served = [fate.ended - fate.started for fate in fates if fate.started is not None] or [math.inf]
    return Forecast(
        latency_s(fates, share), statistics.median(served), quantile(served, 0.99), slack, answered_per_s(fates)
    )


def _blocked(members: Sequence[Member]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (one.model, other.model)
        for one, other in itertools.permutations(members, 2)
        if one.need.latency_s < other.thread_s
    )


def _rank(members: Sequence[Member], layout: Layout, blocked: bool) -> tuple[object, ...]:
    """Return what puts the better layout first.

    First that it is worth a run; that critical models hold, then the others; then threads of one's own where an
    inference of a neighbour is longer than somebody's SLO; then the least slack, then the fewest threads.
    """
    held = [
        min([1.0, *(layout.forecasts[each.model].slack for each in members if each.priority == priority)])
        for priority in PRIORITIES
    ]
    beside = blocked and not (layout.kind == "dedicated" and layout.slack >= COMFORTABLE)
    threads = sum(option.threads for option in layout.options.values())
    ways = sum(forecast.slack for forecast in layout.forecasts.values())
    return (layout.slack < HOPELESS, *(-each for each in held), beside, -layout.slack, -ways, threads, layout.key)


# What does not fit.


def _memory_problems(members: Sequence[Member], memory: tuple[int, str] | None) -> list[Problem]:
    total = sum(member.memory_bytes for member in members)
    if memory is None or total <= memory[0]:
        return []
    largest = sorted(members, key=lambda member: (-member.memory_bytes, member.model))
    each = ", ".join(f"{member.model} {format_size(member.memory_bytes)}" for member in largest)
    limit, whose = memory
    what = f"served together they need {format_size(total)} as measured, more than the {format_size(limit)} {whose}"
    return [Problem(f"{what} ({each})", hint="serve fewer models here, or raise `resources.memory`")]


def _demand_problems(members: Sequence[Member], cpus: int, seed: int) -> list[Problem]:
    """Return who lacks what where the cores are too few for the demands, those of the highest priority served first."""
    total, left = sum(member.demand for member in members), DEMAND_MAX * cpus
    if total <= left:
        return []
    problems: list[Problem] = []
    layouts = [each for each in (dedicated(members, cpus), shared(members, cpus)) if each]
    advice = _advice(members, cpus, layouts, math.ceil(total / DEMAND_MAX), total - left, seed)
    for member in sorted(members, key=lambda member: (PRIORITIES.index(member.priority), member.demand, member.model)):
        lacks = member.demand - left
        left = max(0.0, left - member.demand)
        if lacks > 0:
            needs = f"{rate(member.rate_per_s)} of {duration(member.thread_s)} each keep {_cores(member.demand)} busy"
            what = f"{needs}, and it lacks {figure(lacks)} of that: together the models need {_cores(total)}"
            what += f", and {100 * DEMAND_MAX:.0f} % of {_cores(cpus)} can be planned"
            problems.append(Problem(what, f"{member.model} ({member.priority})", None if problems else advice))
    return problems


def _cores(number: float) -> str:
    return "1 core" if number == 1 else f"{figure(number)} cores"


def _advice(members: Sequence[Member], cpus: int, layouts: Sequence[Options], least: int, cut: float, seed: int) -> str:
    """Return how many cores would do, at least `least`, and what to cut of the demand: both are simulated first."""
    cores = cores_that_do(members, layouts, cpus, least, seed)
    would = f"{_cores(cores)} would do; here, " if cores is not None else ""
    return f"{would}{_cuts(members, cpus, cut, seed)}; or plan by rule, without a promise: `planning: {{mode: hint}}`"


def _cuts(members: Sequence[Member], cpus: int, cut: float, seed: int) -> str:
    """Return what to cut so that a layout is predicted to hold, with a little to spare; `cut` cores' worth at least."""
    total = sum(member.demand for member in members)

    def kept(part: float) -> tuple[list[Member], list[str]]:
        return _after_cuts(members, total - part * (total - cut))

    low, high = KEPT_LEAST, 1.0
    if _some_layout_holds(kept(high)[0], cpus, seed):
        return ", ".join(kept(high)[1])
    if not _some_layout_holds(kept(low)[0], cpus, seed):
        return f"{', '.join(kept(low)[1]).replace(' to ', ' to below ')}, which may not be enough"
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _some_layout_holds(kept(middle)[0], cpus, seed) else (low, middle)
    return ", ".join(kept(low)[1])


def _after_cuts(members: Sequence[Member], excess: float) -> tuple[list[Member], list[str]]:
    """Return who is left with so many cores' worth less, and the cuts: the lowest priority, the most first."""
    left, words, rest = {member.model: member for member in members}, list[str](), excess
    for member in sorted(members, key=lambda each: (-PRIORITIES.index(each.priority), -each.demand, each.model)):
        if rest <= 1e-9:
            break
        who = f"{member.model} ({member.priority})"
        kept = max(0.0, 1 - rest / member.demand)
        callers = math.floor((member.need.callers or 1) * kept) if member.closed else 1
        if member.demand > rest * 1.02 and callers:
            lower = _rounded_down(member.rate_per_s * kept)
            need = replace(member.need, callers=callers) if member.closed else member.need
            left[member.model] = replace(member, rate_per_s=lower, need=need)
            few = f" and its callers to {callers}" if member.closed else ""
            words.append(f"lower the rate of {who} to {rate(lower)}{few}")
        else:
            del left[member.model]
            words.append(f"leave out {who}")
        rest -= member.demand
    return list(left.values()), words


def _some_layout_holds(members: Sequence[Member], cpus: int, seed: int) -> bool:
    """Tell whether one of the likely layouts is predicted to hold at a little more than the rates."""
    return not members or any(
        len(in_time(members, _simulated(members, options, cpus, seed, ADVISED))) == len(members)
        for options in _finalists(members, cpus, seed)
    )


def _rounded_down(value: float) -> float:
    """Return the value with two figures, never more than it is."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / step + 1e-9) * step


def _layout_problems(members: Sequence[Member], best: Layout, cpus: int, seed: int) -> list[Problem]:
    """Return who misses in the best layout there is, and what would help."""
    total = sum(member.demand for member in members)
    excess = total * (1 - max(0.5, best.slack) if best.slack else 0.5)
    advice, problems = _advice(members, cpus, [best.options], cpus + 1, excess, seed), list[Problem]()
    for member in members:
        slack = best.forecasts[member.model].slack
        if slack < 1:
            what = f"{_too_late(member, best)}, in the best layout there is ({best.words})"
            problems.append(Problem(what, f"{member.model} ({member.priority})", None if problems else advice))
    return problems


def _too_late(member: Member, layout: Layout) -> str:
    forecast, need = layout.forecasts[member.model], member.need
    at, slo = rate(member.rate_per_s), duration(need.latency_s)
    if member.closed:
        at = f"the {rate(forecast.per_s)} reached by {_callers(member)} ({at} asked for)"
    text = f"p{need.percentile:g} at {at} is predicted as {duration(forecast.latency_s)}, and the SLO is {slo}"
    if math.isinf(forecast.latency_s):
        text = f"too many would be late or refused at {at} for an SLO of {slo}"
    return f"{text}; it would hold at {forecast.slack:g} times all rates" if forecast.slack else text


def _callers(member: Member) -> str:
    number = member.need.callers or 1
    return "1 caller" if number == 1 else f"{number} callers"


def cores_that_do(
    members: Sequence[Member], layouts: Sequence[Options], cpus: int, least: int, seed: int = 1
) -> int | None:
    """Return from how many cores on all hold in a layout with streams in proportion, None where many more do not."""
    low, high = least - 1, CORES_MAX * max(cpus, least)
    if high > CORES_SIMULATED or not _hold_on(members, layouts, cpus, high, seed):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _hold_on(members, layouts, cpus, middle, seed) else (middle, high)
    return high


def _hold_on(members: Sequence[Member], layouts: Sequence[Options], cpus: int, cores: int, seed: int) -> bool:
    for layout in layouts:
        options = {name: _widened(option, cores, cpus) for name, option in layout.items()}
        if len(in_time(members, _simulated(members, options, cores, seed, ADVISED))) == len(members):
            return True
    return False


def _widened(option: Option, cores: int, cpus: int) -> Option:
    streams = max(1, math.ceil(option.stream.streams * cores / cpus))
    return replace(option, stream=replace(option.stream, streams=streams))


# Why.


def reasons(joint: Joint, layout: Layout, model: str) -> tuple[str, ...]:
    """Return in plain sentences why the model runs as it does among its neighbours."""
    member = next(each for each in joint.members if each.model == model)
    option, forecast = layout.options[model], layout.forecasts[model]
    others = [each.model for each in joint.members if each.model != model]
    total = sum(_busy(each, layout) for each in joint.members)
    threads = sum(each.threads for each in layout.options.values())
    first = f"{option.arm.name} on {option.arm.device}, planned together with {_listed(others)}: {_why(joint, layout)}."
    per_s = forecast.per_s if member.closed else member.rate_per_s
    brought = f", brought by {_callers(member)} waiting for their answers," if member.closed else ""
    demand = (
        f"{rate(per_s)} of {duration(_core_s(member, layout))} each{brought} keep {figure(_busy(member, layout))} of "
        f"{_cores(joint.cpus)} busy, all models {figure(total)}; their {_threads(threads)} not pinned."
    )
    predicted = (
        f"Predicted beside the others: p{member.need.percentile:g} {_told(forecast.latency_s)} of "
        f"{duration(member.need.latency_s)}; all rates could grow {_grow(forecast.slack)} before it misses."
    )
    return first, demand, predicted


def _busy(member: Member, layout: Layout) -> float:
    """Return the cores that it keeps busy: as many as its rate needs, or as callers that wait take."""
    forecast = layout.forecasts[member.model]
    return forecast.per_s * _core_s(member, layout) if member.closed else member.demand


def _core_s(member: Member, layout: Layout) -> float:
    """Return the time of one core that a request takes; of callers that wait, as the layout runs it."""
    if not member.closed:
        return member.thread_s
    stream = layout.options[member.model].stream
    return statistics.median(stream.alone_s) * stream.threads / stream.rows


def _threads(number: int) -> str:
    return "1 thread is" if number == 1 else f"{number} threads are"


def _told(seconds: float) -> str:
    return "beyond reach" if math.isinf(seconds) else duration(seconds)


def _grow(slack: float) -> str:
    return f"at least {slack:g} times" if slack >= LADDER[-1] else f"about {slack:g} times"


def _why(joint: Joint, layout: Layout) -> str:
    match layout.kind:
        case "dedicated":
            text = "a core for every thread" + ("" if joint.beside else ", so that nobody waits for one")
            if joint.blocked:
                one, other = joint.blocked[0]
                text += f" (an inference of {other} is longer than the SLO of {one})"
        case "shared":
            text = "streams of one thread that share the cores, so that who idles leaves room"
        case "mixed":
            text = "more threads than cores, those of one inference together"
    rest = [each for each in joint.layouts if each.kind != layout.kind]
    if rest and rest[0].slack < layout.slack:
        text += (
            f"; a {rest[0].kind} layout would let rates grow {rest[0].slack:g} times, this one {_grow(layout.slack)}"
        )
    return f"{text}; {_uncounted(joint)} the cores too" if joint.beside else text


def _uncounted(joint: Joint) -> str:
    """Return who shares the cores and is not counted, and why: `not counted, free (no rate is stated) shares`."""
    reasons = sorted({why for _, why in joint.beside})
    each = [_listed([name for name, reason in joint.beside if reason == why]) + f" ({why})" for why in reasons]
    return f"not counted, {_listed(each)} {'share' if len(joint.beside) > 1 else 'shares'}"


def would_change(joint: Joint, layout: Layout) -> str:
    """Return what would change the plan."""
    first = f" ({layout.tightest} misses first)" if layout.slack < LADDER[-1] else ""
    return (
        f"Would change: another model, another SLO, rates above {_grow(layout.slack)} of these together{first}, or "
        f"another number of cores than {joint.cpus}."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# What is decided.


def decided(
    joint: Joint,
    layout: Layout,
    alone: Decision,
    verdict: Verdict,
    reason: str,
    proof: Proof | None,
    capacity: Capacity | None,
) -> Decision:
    """Return the decision for one model of the layout, of what was decided for it alone."""
    model = alone.model
    option, forecast = layout.options[model], layout.forecasts[model]
    return alone.model_copy(
        update={
            "arm": option.arm,
            "actual": _as_planned(option, alone.actual),
            "capacity": capacity,
            "service_s": forecast.service_s,
            "service_p99_s": forecast.service_p99_s,
            "alone_s": statistics.median(option.stream.alone_s),
            "per_s": option.stream.rows_per_s,
            "verdict": verdict,
            "reason": reason,
            "proof": proof,
            "rejected": _rejected(alone, option),
            "sentences": (
                *reasons(joint, layout, model),
                *_carried(capacity),
                _proved(joint, verdict, reason),
                would_change(joint, layout),
            ),
        }
    )


def _as_planned(option: Option, actual: ReadBack) -> ReadBack:
    """Return what the arm is compiled as: all of it is explicit, and the worker that was proved took it."""
    stream = option.stream
    return actual.model_copy(
        update={
            "properties": {**actual.properties, **option.arm.properties},
            "streams": stream.streams,
            "threads": option.threads,
            "requests": option.arm.requests or stream.streams,
        }
    )


def _carried(capacity: Capacity | None) -> tuple[str, ...]:
    if capacity is None:
        return ()
    return (f"Predicted to carry {interval(capacity)} itself while the others come at their rates.",)


def _rejected(alone: Decision, option: Option) -> tuple[Rejected, ...]:
    others = tuple(each for each in alone.rejected if each.arm.key != option.arm.key)
    if alone.arm.key == option.arm.key:
        return others
    best = Rejected(
        arm=alone.arm,
        reason=f"best if the model had the cores alone; beside its neighbours {option.arm.name} leaves more room",
        capacity=alone.capacity,
        streams=alone.actual.streams,
        service_s=alone.service_s,
        per_s=alone.per_s,
        alone_s=alone.alone_s,
        inflation=alone.inflation,
    )
    return (best, *others)


def _proved(joint: Joint, verdict: Verdict, reason: str) -> str:
    if verdict == "unverified":
        return f"Not verified: {reason}."
    loaded = "all models"
    if joint.beside:
        others = _listed([name for name, _ in joint.beside])
        loaded = f"{_listed([member.model for member in joint.members])}, but not {others},"
    return f"{verdict.capitalize()} with {loaded} loaded at their rates at once: {reason}."
