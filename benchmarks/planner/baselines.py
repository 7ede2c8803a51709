"""What others do: each baseline chooses an arm for a cell by benchmarking, in closed loops as those tools do.

What a tool does not set is as OpenVINO has it; what it cannot express here (devices, instance groups on a GPU) is left
out. Costs are those of a live session with the tool's own durations.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log2
from typing import Any, Final

from benchmarks.planner.bench import Bench, Choice, OutOfTimeError, Run
from benchmarks.planner.oracle import Cell
from benchmarks.planner.table import Entry, Row
from benchmarks.planner.truth import Candidate

BENCHMARK_APP_S: Final = 20.0
GREEDY_SAMPLE_S: Final = 10.0  # DL Streamer's optimizer: --sample-duration
GREEDY_TOTAL_S: Final = 300.0  # and --search-duration
GREEDY_REQUESTS: Final = range(1, 9)
WORKBENCH_S: Final = 20.0  # DL Workbench: a cell of Group Inference
ANALYZER_S: Final = 15.0  # perf_analyzer: three windows of 5 s that agree, at best
ANALYZER_RADIUS, ANALYZER_FIRST, ANALYZER_TOP = 3, 3, 3
ANALYZER_STEPS: Final = (0.09, 0.3, 1.0)  # a gain beyond each is one step more
TRIAL_S: Final = 10.0
OPTUNA_TRIALS, RANDOM_TRIALS = 20, 10
PACKRAT_S: Final = 5.0

Baseline = Callable[[Cell, Bench, int], Choice]


@dataclass(frozen=True)
class _Tried:
    """A candidate that was measured."""

    candidate: Candidate
    run: Run
    late: float
    """How far the latency that the tool looks at lies above the SLO, as a share of it; 0 within."""


def _candidate(row: Row, requests: int) -> Candidate:
    """Return the row with the nearest request count that differs in more than the length of OpenVINO's own queue."""
    return Candidate(row, min(requests, row.streams + 1))


def _late(latency_s: float, cell: Cell) -> float:
    return max(0.0, latency_s / cell.slo.latency_s - 1)


def _best(tried: Sequence[_Tried]) -> _Tried:
    """Return the constraint first, then the objective: the fastest of those in time, else the least late."""
    return min(tried, key=lambda one: (one.late, -one.run.per_s))


def _chosen(best: _Tried, cell: Cell, bench: Bench) -> Choice:
    return Choice(best.candidate, best.late == 0 and best.run.per_s >= cell.rate_per_s, bench.cost)


def _try_all(trials: Iterator[_Tried]) -> list[_Tried]:
    """Return what was measured until the end, or until the time was up."""
    tried: list[_Tried] = []
    with suppress(OutOfTimeError):
        tried.extend(trials)  # extends one by one: what came before the end of the time stays
    return tried


def _or_default(tried: Sequence[_Tried], cell: Cell, bench: Bench) -> Choice:
    if not tried:
        return _by_name("no properties")(cell, bench, 0)
    return _chosen(_best(tried), cell, bench)


def _by_name(name: str) -> Baseline:
    def choose(_cell: Cell, bench: Bench, _seed: int) -> Choice:
        row = bench.entry.named(name)
        return Choice(Candidate(row, row.streams), None, bench.cost)

    return choose


def best_of_hints(cell: Cell, bench: Bench, _seed: int) -> Choice:
    """Run benchmark_app with both hints for 20 s; take the faster one whose median is in time."""

    def trials() -> Iterator[_Tried]:
        for hint in ("LATENCY", "THROUGHPUT"):
            row = bench.entry.named(hint)
            run = bench.run(row, row.streams, BENCHMARK_APP_S)
            yield _Tried(Candidate(row, row.streams), run, _late(run.median_s, cell))

    return _or_default(_try_all(trials()), cell, bench)


def greedy_fps(cell: Cell, bench: Bench, _seed: int) -> Choice:
    """Search batch, then requests, keeping whatever measured faster once, as DL Streamer's optimizer does."""
    streams = bench.entry.named("THROUGHPUT").streams

    def trials() -> Iterator[_Tried]:
        best: _Tried | None = None
        for batch in _batches(bench):
            row = bench.entry.find(streams, bench.cpus, batch)
            if row is not None and bench.cost.seconds < GREEDY_TOTAL_S:
                one = _Tried(_candidate(row, streams), bench.run(row, streams, GREEDY_SAMPLE_S), 0.0)
                best = one if best is None or one.run.per_s > best.run.per_s else best
                yield one
        for requests in GREEDY_REQUESTS:
            if best is not None and bench.cost.seconds < GREEDY_TOTAL_S:
                row = best.candidate.row
                yield _Tried(_candidate(row, requests), bench.run(row, requests, GREEDY_SAMPLE_S), 0.0)

    tried = _try_all(trials())
    if not tried:
        return _or_default(tried, cell, bench)
    fastest = max(tried, key=lambda one: one.run.per_s)
    return Choice(fastest.candidate, fastest.run.per_s >= cell.rate_per_s, bench.cost)


def workbench_grid(cell: Cell, bench: Bench, _seed: int) -> Choice:
    """Run each cell of batch x streams for 20 s; take the highest throughput whose median is under the slider."""

    def trials() -> Iterator[_Tried]:
        for batch, streams in itertools.product(_batches(bench), range(1, bench.cpus + 1)):
            row = bench.entry.find(streams, bench.cpus, batch)
            if row is not None:
                run = bench.run(row, streams, WORKBENCH_S)
                yield _Tried(Candidate(row, streams), run, _late(run.median_s, cell))

    return _or_default(_try_all(trials()), cell, bench)


class _Climb:
    """Model Analyzer's quick search over (log2 batch, instances), instances being streams here."""

    def __init__(self, cell: Cell, bench: Bench) -> None:
        self._cell = cell
        self._bench = bench
        self.tried: dict[tuple[int, int], _Tried] = {}
        most = max(_batches(bench))
        self._space = set(itertools.product(range(int(log2(most)) + 1), range(1, bench.cpus + 1)))

    def row(self, at: tuple[int, int]) -> Row | None:
        return self._bench.entry.find(at[1], self._bench.cpus, 2 ** at[0])

    def measure(self, at: tuple[int, int]) -> float:
        """Return how good it is there: 1 is the start."""
        row = self.row(at)
        if row is None:
            return 0.0
        if at not in self.tried:
            # Quick mode measures at concurrency 2 x batch x instances: every slot full, as much again waiting.
            run = self._bench.run(row, 2 * row.streams, ANALYZER_S)
            self.tried[at] = _Tried(Candidate(row, row.streams), run, _late(run.p99_s, self._cell))
        one, start = self.tried[at], self.tried[0, 1]
        return (one.run.per_s / start.run.per_s) * (1.0 if one.late == 0 else 0.5 / (1 + one.late))

    def climb(self) -> None:
        """Walk from the smallest configuration until nothing around is better."""
        home = (0, 1)
        self.measure(home)
        while True:
            around = sorted(self._near(home, ANALYZER_RADIUS), key=lambda at: (_distance(home, at), at))
            for at in around[:ANALYZER_FIRST]:
                self.measure(at)
            target = self._step(home)
            if target == home or self.measure(target) <= self.measure(home):
                target = max([home, *self._near(home, 1)], key=self.measure)  # the slow mode
            if target == home:
                return
            home = target

    def _near(self, home: tuple[int, int], radius: int) -> list[tuple[int, int]]:
        return [at for at in self._space if at != home and _distance(home, at) <= radius]

    def _step(self, home: tuple[int, int]) -> tuple[int, int]:
        here = self.measure(home)
        pull = [0.0, 0.0]
        for at in self._near(home, ANALYZER_RADIUS):
            if at in self.tried:
                gain = self.measure(at) / here - 1
                for axis in (0, 1):
                    pull[axis] += gain * (at[axis] - home[axis]) / _distance(home, at)
        moved = [home[axis] + _steps(pull[axis]) for axis in (0, 1)]
        return min(self._space, key=lambda at: _distance((moved[0], moved[1]), at))


def _distance(one: tuple[int, int], other: tuple[int, int]) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _steps(pull: float) -> int:
    count = sum(abs(pull) >= threshold for threshold in ANALYZER_STEPS)
    return count if pull > 0 else -count


def analyzer_quick(cell: Cell, bench: Bench, _seed: int) -> Choice:
    """Climb as Model Analyzer's quick mode, then sweep the concurrency of the best three."""
    climb = _Climb(cell, bench)
    swept: list[_Tried] = []
    with suppress(OutOfTimeError):
        climb.climb()
        best = sorted(climb.tried.values(), key=lambda one: (one.late, -one.run.per_s))[:ANALYZER_TOP]
        for one in best:
            for in_flight in (1, 2, 4, 8):
                run = bench.run(one.candidate.row, in_flight, ANALYZER_S)
                candidate = _candidate(one.candidate.row, max(in_flight, one.candidate.row.streams))
                swept.append(_Tried(candidate, run, _late(run.p99_s, cell)))
                if swept[-1].late:
                    break
    return _or_default([*climb.tried.values(), *swept], cell, bench)


def _grid(bench: Bench) -> list[tuple[Row, int]]:
    rows = [row for row in bench.entry.rows if row.arm.expression == "explicit"]
    return [(row, requests) for row in rows for requests in row.requests]


def optuna_tpe(cell: Cell, bench: Bench, seed: int) -> Choice:
    """Let Optuna's TPE try 20 configurations, throughput under the constraint that p99 is in time."""
    import optuna  # a development dependency, seconds to import

    tried: list[_Tried] = []
    rows = {(row.streams, row.actual.threads, row.arm.batch): row for row, _ in _grid(bench)}
    layouts = sorted({(streams, threads or 1) for streams, threads, _ in rows})

    def objective(trial: Any) -> float:
        streams, threads = layouts[trial.suggest_int("layout", 0, len(layouts) - 1)]
        batch = trial.suggest_categorical("batch", _batches(bench))
        row = rows[streams, threads, batch]
        requests = streams + trial.suggest_int("extra", 0, 1)
        run = bench.run(row, requests, TRIAL_S)
        tried.append(_Tried(Candidate(row, requests), run, _late(run.p99_s, cell)))
        trial.set_user_attr("late", tried[-1].late)
        return run.per_s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constraints_func is experimental, and says so
        sampler = optuna.samplers.TPESampler(seed=seed, constraints_func=lambda trial: [trial.user_attrs["late"]])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        with suppress(OutOfTimeError):
            for _ in range(OPTUNA_TRIALS):
                trial = study.ask()
                study.tell(trial, objective(trial))
    return _or_default(tried, cell, bench)


def random_search(cell: Cell, bench: Bench, seed: int) -> Choice:
    """Try 10 configurations drawn at random, and take the fastest whose p99 is in time."""
    grid = _grid(bench)
    drawn = random.Random(seed).sample(grid, min(RANDOM_TRIALS, len(grid)))

    def trials() -> Iterator[_Tried]:
        for row, requests in drawn:
            run = bench.run(row, requests, TRIAL_S)
            yield _Tried(Candidate(row, requests), run, _late(run.p99_s, cell))

    return _or_default(_try_all(trials()), cell, bench)


def split(latency_s: Mapping[tuple[int, int], float], threads: int, items: int) -> list[tuple[int, int]]:
    """Return Packrat's optimal (threads, batch) of each instance: opt[T][B] = min max(opt[T-t][B-b], L[t][b])."""
    best: dict[tuple[int, int], tuple[float, list[tuple[int, int]]]] = {(0, 0): (0.0, [])}
    for total, batch in itertools.product(range(1, threads + 1), range(1, items + 1)):
        options = [
            (max(best[total - t, batch - b][0], cost), [*best[total - t, batch - b][1], (t, b)])
            for (t, b), cost in latency_s.items()
            if (total - t, batch - b) in best
        ]
        if options:
            best[total, batch] = min(options, key=lambda option: (option[0], len(option[1])))
    whole = [best[total, items] for total in range(1, threads + 1) if (total, items) in best]
    return min(whole, key=lambda option: option[0])[1] if whole else []


def packrat(cell: Cell, bench: Bench, _seed: int) -> Choice:
    """Profile one instance alone by threads and batch, then split cores and B = rate x L, to a power of two."""
    profile: dict[tuple[int, int], float] = {}
    rows: dict[tuple[int, int], Row] = {}
    for threads, batch in itertools.product(range(1, bench.cpus + 1), _batches(bench)):
        row = bench.entry.find(1, threads, batch)
        if row is not None:
            rows[threads, batch] = row
            profile[threads, batch] = bench.run(row, 1, PACKRAT_S).median_s
    most = bench.cpus * max(batch for _, batch in profile)
    waiting = max(1, min(most, int(cell.rate_per_s * cell.slo.latency_s)))
    parts = split(profile, bench.cpus, 2 ** int(log2(waiting))) or [(bench.cpus, 1)]
    threads = max(t for t, _ in parts)
    batch = max(b for _, b in parts)
    row = bench.entry.find(len(parts), threads * len(parts), batch) or rows[threads, batch]
    slowest = max(profile[part] for part in parts)
    capacity = sum(b for _, b in parts) / slowest
    feasible = slowest <= cell.slo.latency_s and capacity >= cell.rate_per_s
    return Choice(Candidate(row, row.streams), feasible, bench.cost)


def _batches(bench: Bench) -> list[int]:
    return sorted({row.arm.batch for row in bench.entry.rows})


BASELINES: Final[Mapping[str, Baseline]] = {
    "B0 no properties": _by_name("no properties"),
    "B1 LATENCY": _by_name("LATENCY"),
    "B2 THROUGHPUT": _by_name("THROUGHPUT"),
    "B3 best of both hints, 2 x 20 s": best_of_hints,
    "B4 greedy fps (DL Streamer)": greedy_fps,
    "B5 grid (Workbench)": workbench_grid,
    "B6 climb (Model Analyzer quick)": analyzer_quick,
    "B7 Optuna TPE, 20 trials": optuna_tpe,
    "B8 random 10": random_search,
    "B9 Packrat's split": packrat,
}
EQUAL_TIME: Final = ("B4", "B5", "B6", "B7", "B8")


def choose(name: str, cell: Cell, seen: Entry, *, seed: int = 0, budget_s: float | None = None) -> Choice:
    """Return what a baseline chooses for a cell by what it sees, in `budget_s` of live seconds where that is given."""
    return BASELINES[name](cell, Bench(seen, seed, budget_s), seed)


def equal_time_names() -> Iterable[str]:
    """Return the baselines that are also run within our own time."""
    return [name for name in BASELINES if name.split()[0] in EQUAL_TIME]
