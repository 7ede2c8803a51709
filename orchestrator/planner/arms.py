"""The candidate ways to compile a model on given cores: hints, streams times threads, devices, and their batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from orchestrator.errors import OrchError, Problem
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import ModelSpec
from orchestrator.manifest.target import Mode, Target
from orchestrator.planner.batching import REQUESTS_PER_STREAM, by_device, obstacle
from orchestrator.planner.demand import Case, Choice, Hint, choose
from orchestrator.planner.placement import Placement, on_cpu, place
from orchestrator.planner.processors import Worker
from orchestrator.planner.settings import all_properties, cpu_settings
from orchestrator.profiling.measurement import Arm

BATCHES = (2, 4, 8, 16, 32)
HINTS: tuple[Hint, ...] = ("THROUGHPUT", "LATENCY")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An arm, and what it will be when compiled, where that is sure: streams, and threads of all of them."""

    arm: Arm
    streams: int | None = None
    batched: tuple[Arm, ...] = ()
    """The same with batches, smallest first; empty where the model cannot be batched or a batch is given."""


def candidates(
    spec: ModelSpec,
    info: ModelInfo,
    inventory: Inventory,
    *,
    cpus: int,
    own_cores: bool = False,
    cpu_models: int = 1,
    share: int | None = None,
) -> tuple[Candidate, ...]:
    """Return the arms worth trying, likely ones first, each with the properties that a plan would set.

    `cpus` are the worker's cores, its own or not, `cpu_models` its models on the CPU; `share` is this model's part of
    the cores (all by default). What `compile` states restricts them, down to one. Two that OpenVINO may make the same
    of are both there: only the compiled model tells. Raise OrchError where the model has no place on this machine.
    """
    found: list[Candidate] = []
    worker = Worker(inventory.host, cpus, own_cores, cpu_models)
    placements = tuple(_placements(spec, info, inventory))
    for placement in placements:
        case = Case(spec, info, placement, worker, (spec.compile and spec.compile.threads) or share or cpus)
        prefix = f"{placement}: " if len(placements) > 1 else ""
        found += [_candidate(case, choice, prefix) for choice in _choices(case)]
    unique = {candidate.arm.key: candidate for candidate in reversed(found)}
    return tuple(candidate for candidate in found if unique[candidate.arm.key] is candidate)


def _placements(spec: ModelSpec, info: ModelInfo, inventory: Inventory) -> Iterator[Placement]:
    """Yield where the manifest puts the model, and for AUTO, which leaves the device to us, each device on its own."""
    placement, faults = place(spec, info, inventory)
    if placement is None:
        problems = [Problem(fault.what, f"{spec.name}: {fault.field}", fault.hint) for fault in faults]
        raise OrchError(faults[0].kind, problems)
    yield placement
    if placement.mode is Mode.AUTO and not placement.spread:
        for device in placement.devices:
            alone = spec.model_copy(update={"device": Target(Mode.DIRECT, (device.name,))})
            one, _ = place(alone, info, inventory)
            if one is not None:
                yield one


def _choices(case: Case) -> Iterator[Choice]:
    """Yield the ways to compile: the one that is asked for, or hints, then streams from many to few."""
    asked = case.asked
    if asked.hint is not None or asked.streams is not None:
        yield choose(case)
        return
    if case.placement.spread:
        yield _strip(choose(case), case)
        return
    if asked.threads is None:
        for hint in HINTS:
            yield Choice(hint=hint, num_requests=_bound(case, hint), batch=asked.batch or 1)
    for streams in _streams(case):
        requests = asked.requests
        if requests is None and not on_cpu(case.placement.devices[0]):
            requests = streams * REQUESTS_PER_STREAM
        yield Choice(streams=streams, requests=requests, batch=asked.batch or 1)


def _strip(choice: Choice, case: Case) -> Choice:
    return replace(choice, num_requests=case.asked.requests)


def _bound(case: Case, hint: Hint) -> int | None:
    """Return PERFORMANCE_HINT_NUM_REQUESTS: what is asked for, or the callers where these are known to be few.

    A rate bounds nothing: bursts are what the streams are for.
    """
    if case.asked.requests is not None:
        return case.asked.requests
    return case.spec.traffic.concurrency if hint == "THROUGHPUT" else None


def _streams(case: Case) -> tuple[int, ...]:
    """Return the streams that divide the threads evenly: all of them, one, then those between, few threads first."""
    device = case.placement.devices[0]
    if case.placement.mode is not Mode.DIRECT or device.family == "NPU":
        return ()
    low, high = device.range_for_streams or (1, case.share)
    if not on_cpu(device):
        return tuple(streams for streams in (2, 1) if low <= streams <= min(high, _callers(case)))
    threads = case.share
    divisors = [streams for streams in range(threads, 0, -1) if threads % streams == 0 and streams <= max(high, 1)]
    between = [streams for streams in divisors if streams not in {1, threads}]
    found = dict.fromkeys((*(streams for streams in (threads, 1) if streams in divisors), *between))
    return tuple(streams for streams in found if streams <= _callers(case))


def _callers(case: Case) -> float:
    """Return how many requests there are at the same time at most: more streams than that, or rows, never meet."""
    return case.spec.traffic.concurrency or math.inf


def _candidate(case: Case, choice: Choice, prefix: str) -> Candidate:
    batched: tuple[Arm, ...] = ()
    if case.asked.batch is None and case.placement.mode is Mode.DIRECT and obstacle(case.info) is None:
        most = by_device(case.info.max_batch, case.placement.devices[0]) or BATCHES[-1]
        sizes = [rows for rows in BATCHES if rows <= min(most, _callers(case))]
        batched = tuple(_arm(case, replace(choice, batch=rows), prefix) for rows in sizes)
    streams = choice.streams if isinstance(choice.streams, int) else None
    if streams is None and choice.hint == "LATENCY" and _is_plain_cpu(case):
        streams = 1
    return Candidate(_arm(case, choice, prefix), streams, batched)


def _is_plain_cpu(case: Case) -> bool:
    """Tell whether OpenVINO's LATENCY is one stream over all threads given: so on a CPU of one kind of core."""
    return case.placement.mode is Mode.DIRECT and on_cpu(case.placement.devices[0]) and not case.worker.hybrid


def _arm(case: Case, choice: Choice, prefix: str) -> Arm:
    threads, _, on_cpus = cpu_settings(case, choice)
    properties, device_properties, _, _ = all_properties(case, choice, on_cpus)
    return Arm(
        name=prefix + _name(choice, threads),
        device=str(case.placement),
        expression="hint" if choice.streams is None else "explicit",
        properties=properties,
        device_properties=device_properties,
        batch=choice.batch,
        requests=choice.requests,
        threads=threads,
    )


def _name(choice: Choice, threads: int | None) -> str:
    """Return the arm for people: `2 streams x 1 thread, batch 4`."""
    if choice.streams is None:
        name = str(choice.hint)
    elif choice.streams == "AUTO" or threads is None:
        name = _count(choice.streams, "stream")
    else:
        name = f"{_count(choice.streams, 'stream')} x {_count(max(1, threads // choice.streams), 'thread')}"
    return name if choice.batch == 1 else f"{name}, batch {choice.batch}"


def _count(number: int | str, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def with_spare(arm: Arm, slots: int) -> Arm:
    """Return the arm with one request more than its `slots`."""
    return arm.model_copy(update={"requests": slots + 1, "name": f"{arm.name}, {slots + 1} requests"})


def simplicity(arm: Arm) -> tuple[int, int, int, str]:
    """Return what puts the simpler of two equally good arms first: a hint, no batch, fewer threads, by name."""
    return (arm.expression != "hint", arm.batch, arm.threads or 0, arm.name)


def by_key(found: Iterable[Candidate]) -> dict[str, Arm]:
    """Return all arms of the candidates, batched ones too, by their keys."""
    return {arm.key: arm for candidate in found for arm in (candidate.arm, *candidate.batched)}
