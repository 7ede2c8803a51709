"""Check the table's verdicts on the machine: what `orch plan` chooses now, the oracle's arm and both hints, served.

For each model and SLO the planner measures as it would for a user; then every contender serves behind HTTP in a worker
of its own, all of them idle but one. A round gives each contender a ladder of rates, open loop, and reads its capacity
off where the misses cross what the SLO allows. Rounds run in ABBA order, so that drift of the machine hits all alike;
where no two contenders are the same one the oracle's arm takes part twice, and how far the same ones are apart is the
resolution. Hints are pinned, as OpenVINO has them by itself, and the planner plans for cores of its own, so that it
may pin too. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from benchmarks.planner import table as tables
from benchmarks.planner.grid import SUBJECTS, save
from benchmarks.planner.live_serve import Seen, Target, Worker, load, manifest, write_body
from benchmarks.planner.oracle import Cell, cells_under
from benchmarks.planner.table import Table
from orchestrator.backend.openvino_backend import OpenVinoBackend
from orchestrator.manifest.load import load_text
from orchestrator.planner import evidence
from orchestrator.planner.capacity import Need, latency_at
from orchestrator.planner.decision import Decision
from orchestrator.profiling.measurement import Arm, ArmProfile, ReadBack
from orchestrator.runner.measure import Around, Subject, measure_arms

# Of milliseconds: below, what is served is the front end more than the model.
CASES: Final = tuple(
    f"{model}:{factor:g}"
    for factor in (10.0, 5.0)
    for model in ("mobilenet_v2", "detector", "bert_small_32", "bert_small_128")
)
RATE: Final = 0.5  # of the oracle's capacity in the table: what the planner is asked for
BUDGET_S: Final = 60.0
PORT: Final = 18_260
STEP_S: Final = 2.5
SETTLE_S: Final = 0.2
LADDER: Final = (0.5, 0.7, 0.85, 1.0, 1.2)  # times what the contender is expected to carry
LOWER: Final = 1.5
LOWER_MAX: Final = 4
ROUNDS: Final = 2
ORCH, ORACLE, AGAIN = "orch", "oracle", "oracle again"
HINTS: Final = ("LATENCY", "THROUGHPUT")
LOAD_MAX: Final = 0.8  # of the throughput: up to there predicted p99 are compared with observed ones


@dataclass(frozen=True)
class Contender:
    """An arm that is served, and what OpenVINO makes of it."""

    arm: Arm
    actual: ReadBack

    @property
    def how(self) -> str:
        """Return what decides the speed, for people; equal for contenders that are the same one."""
        pinned = self.actual.properties.get("ENABLE_CPU_PINNING", "").upper() in {"YES", "TRUE"}
        requests = self.arm.requests or self.actual.requests
        layout = f"{self.actual.streams} x {(self.actual.threads or 1) // (self.actual.streams or 1)}"
        batch = f", batch {self.arm.batch}" if self.arm.batch > 1 else ""
        return f"{layout}{batch}, {requests} requests{', pinned' if pinned else ''}"


@dataclass(frozen=True)
class Checked:
    """One model under one SLO: the plan, and the ladders that every contender was loaded by, round by round."""

    cell: Cell
    decision: Decision
    profile: ArmProfile
    """Of the arm that was chosen."""
    contenders: Mapping[str, Contender]
    ladders: Mapping[str, Sequence[Sequence[Seen]]]

    def capacities(self, name: str) -> list[float]:
        """Return what a contender carried in each round; contenders that are the same one share their rounds."""
        allowed = self.cell.slo.miss_max
        return [crossing(*_steps(ladder), allowed) for ladder in self.ladders[name]]

    def apart(self) -> list[float]:
        """Return how far contenders that are the same one were apart in a round, as shares."""
        how = {name: contender.how for name, contender in self.contenders.items()}
        pairs = [pair for pair in combinations(how, 2) if how[pair[0]] == how[pair[1]]]
        return [
            max(one, other) / min(one, other) - 1
            for pair in pairs
            for one, other in zip(*map(self.capacities, pair), strict=True)
        ]

    def predicted_p99_s(self, rate_per_s: float) -> float:
        """Return the p99 that the planner's own simulation gives for its choice."""
        decision, slo = self.decision, self.cell.slo
        cpus = decision.arm.threads or 1
        service = evidence.service_of(
            self.profile,
            cpus=cpus,
            front_end_s=decision.front_end_s,
            inflation=decision.inflation,
            stretch=decision.stretch,
        )
        need = Need(slo.latency_s, slo.percentile, slo.arrivals, timeout_s=slo.latency_s)
        return latency_at(service, need, rate_per_s, 99.0)

    def calibration(self) -> list[float]:
        """Return predicted over observed p99 at each rate up to 80 % of the throughput at which the SLO held."""
        most = LOAD_MAX * self.decision.per_s
        seen = [step for ladder in self.ladders[ORCH] for step in ladder if step.rate_per_s <= most]
        held = [step for step in seen if step.missed <= self.cell.slo.miss_max]
        return [self.predicted_p99_s(step.rate_per_s) / step.p99_s for step in held]


def _steps(ladder: Sequence[Seen]) -> tuple[list[float], list[float]]:
    ordered = sorted(ladder, key=lambda step: step.rate_per_s)
    return [step.rate_per_s for step in ordered], [step.missed for step in ordered]


def crossing(rates: Sequence[float], missed: Sequence[float], allowed: float) -> float:
    """Return the rate at which the misses cross `allowed`, between steps by the logarithms, beyond them the end.

    Misses are made monotone first: a step that did better than a slower one says no more than that one.
    """
    worst = 0.0
    below: tuple[float, float] | None = None
    for rate, share in zip(rates, missed, strict=True):
        worst = max(worst, share)
        if worst > allowed:
            if below is None:
                return rate
            low = math.log(max(below[1], allowed / 10))
            part: float = (math.log(allowed) - low) / (math.log(worst) - low)
            return below[0] * math.exp(part * math.log(rate / below[0]))
        below = (rate, worst)
    return rates[-1]


def ladder(target: Target, cell: Cell, expected_per_s: float, seed: int) -> list[Seen]:
    """Return what a contender did on one ladder of rates.

    Steps above the first overload are not sent; where the lowest step is too high, lower ones are put before it.
    """
    seen: list[Seen] = []
    for step, share in enumerate(LADDER):
        seen.append(load(target, share * expected_per_s, cell.slo, seed * 10 + step, STEP_S))
        time.sleep(SETTLE_S)
        if seen[-1].missed > 10 * cell.slo.miss_max:
            break
    for step in range(LOWER_MAX):
        lowest = min(seen, key=lambda one: one.rate_per_s)
        if lowest.missed <= cell.slo.miss_max:
            break
        seen.append(load(target, lowest.rate_per_s / LOWER, cell.slo, seed * 10 + 5 + step, STEP_S))
    return seen


def find_expected(target: Target, cell: Cell, start_per_s: float) -> float:
    """Return about what the contender carries: from the table's figure down until it holds."""
    rate = start_per_s
    while rate > start_per_s / 32:
        if load(target, rate, cell.slo, 1, 1.5).missed <= 5 * cell.slo.miss_max:
            return rate
        rate /= 1.5
    return rate


def bootstrap(ratios: Sequence[float], seed: int = 1, draws: int = 2000) -> tuple[float, float, float]:
    """Return the median ratio with its 95 % interval, whole rounds drawn again."""
    dice = Random(seed)
    medians = sorted(median(dice.choices(ratios, k=len(ratios))) for _ in range(draws))
    return median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def plan(cell: Cell, model: Path, folder: Path) -> tuple[Decision, ArmProfile]:
    """Plan as for a user who has the machine to himself, with nothing stored."""
    text = manifest(model, cell.slo, cell.rate_per_s, PORT)
    (document,) = load_text(text, name="live.yaml", base=model.parent)
    backend = OpenVinoBackend(())
    (spec,) = document.deployment.spec.models
    inventory = backend.inventory()
    cores = inventory.host.cores.allowed
    info = backend.inspect(str(model), {}, ())
    subject = Subject(spec, info, inventory, len(cores), cores, budget_s=BUDGET_S)
    decision, profiles = measure_arms(subject, Around(lock=folder / "lock"))
    return decision, next(profile for profile in profiles if profile.arm.key == decision.arm.key)


def check_cell(cell: Cell, folder: Path, rounds: int) -> Checked:
    """Return how every contender did, round by round."""
    subject = next(subject for subject in SUBJECTS if subject.name == cell.entry.name)
    model = save(subject, folder.parent / "models")
    folder.mkdir()
    decision, profile = plan(cell, model, folder)
    oracle = cell.oracle.row.arm.model_copy(update={"requests": cell.oracle.requests})
    contenders = {
        ORACLE: Contender(oracle, cell.oracle.row.actual),
        ORCH: Contender(decision.arm, decision.actual),
        **{hint: Contender(cell.entry.named(hint).arm, cell.entry.named(hint).actual) for hint in HINTS},
    }
    if len({contender.how for contender in contenders.values()}) == len(contenders):
        contenders[AGAIN] = contenders[ORACLE]
    print(f"\n{cell.name}: {decision.verdict}, {contenders[ORCH].how}", file=sys.stderr)
    ladders: dict[str, list[list[Seen]]] = {name: [] for name in contenders}
    with ExitStack() as stack:
        targets = []
        for number, (name, contender) in enumerate(contenders.items()):
            where = folder / f"worker-{number}"
            stack.enter_context(Worker(where, model, contender.arm, cell.slo, cell.rate_per_s, PORT + number))
            body, headers = write_body(model, where)
            targets.append(Target(name, PORT + number, "/v2/models/model/infer", headers, body))
        expected = {target.name: find_expected(target, cell, cell.oracle_per_s) for target in targets}
        for number in range(rounds):
            for target in targets if number % 4 in {0, 3} else targets[::-1]:
                ladders[target.name].append(ladder(target, cell, expected[target.name], seed=number + 1))
    return Checked(cell, decision, profile, contenders, ladders)


# --- the report ---


def report(checked: Checked) -> str:
    """Return Markdown: each contender's ratio to the oracle's arm within rounds, and the plan's own claims."""
    cell, decision = checked.cell, checked.decision
    lines = [
        f"\n### {cell.entry.name}, SLO {cell.slo.latency_s * 1000:.2f} ms ({cell.slo_factor:g} x floor), "
        f"{cell.rate_per_s:.0f}/s asked for\n",
        "| contender | streams x threads | capacity/s | ratio to the oracle's | 95 % |",
        "|---|---|---|---|---|",
    ]
    base = checked.capacities(ORACLE)
    for name, contender in checked.contenders.items():
        values = checked.capacities(name)
        middle, low, high = bootstrap([value / one for value, one in zip(values, base, strict=True)])
        lines.append(f"| {name} | {contender.how} | {median(values):.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    said = f"{decision.capacity.per_s:.0f}/s" if decision.capacity else "nothing"
    ratios = " ".join(f"{ratio:.2f}" for ratio in checked.calibration()) or "no rate to compare at"
    lines.append(
        f"\nPlanned in {decision.seconds:.0f} s, {decision.compiled} arms compiled: {decision.arm.name}, "
        f"{decision.verdict}, predicted to carry {said}. Predicted over observed p99: {ratios}."
    )
    return "\n".join(lines)


def summary(all_checked: Sequence[Checked]) -> str:
    """Return the figures over all cases."""

    def carried(checked: Checked, *names: str) -> float:
        return max(median(checked.capacities(name)) for name in names)

    etas = [carried(one, ORCH) / carried(one, ORACLE) for one in all_checked]
    hints = [carried(one, ORCH) / carried(one, *HINTS) for one in all_checked]
    apart = [gap for one in all_checked for gap in one.apart()]
    yes = [one for one in all_checked if one.decision.verdict == "verified"]
    wrong = sum(carried(one, ORCH) < one.cell.rate_per_s for one in yes)
    ratios = [ratio for one in all_checked for ratio in one.calibration()]
    within = sum(0.9 <= ratio <= 1.2 for ratio in ratios)
    seconds = [one.decision.seconds for one in all_checked]
    return "\n".join(
        [
            "\n| over all | |",
            "|---|---|",
            f"| orch over the oracle's arm: median, least | {median(etas):.3f}, {min(etas):.3f} |",
            f"| orch over the better hint: median, least | {median(hints):.3f}, {min(hints):.3f} |",
            f"| the same arm twice in a round: median difference, most | {median(apart):.1%}, {max(apart):.1%} |",
            f"| verified, of these wrongly | {len(yes)} of {len(all_checked)}, {wrong} |",
            f"| p99 predicted within -10/+20 % | {within} of {len(ratios)} |",
            f"| planning seconds: median, most | {median(seconds):.0f}, {max(seconds):.0f} |",
        ]
    )


def cell_named(table: Table, text: str) -> Cell:
    """Return the cell of `model:factor`; raise ValueError where there is none."""
    model, _, factor = text.partition(":")
    if model not in {entry.name for entry in table.entries}:
        raise ValueError(f"no model {model!r} in the table")
    return next(cells_under(table.entry(model), float(factor), "poisson", [RATE]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Check some cases, and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planner.live", description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help="model:SLO as a multiple of the floor latency")
    parser.add_argument("--table", type=Path, default=tables.TABLE)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--minutes", type=float, default=40.0, help="no case begins after so many")
    parser.add_argument("--raw", type=Path, help="write every step of every ladder here, as JSON")
    options = parser.parse_args(arguments)
    table = tables.load(options.table)
    try:
        cells = [cell_named(table, text) for text in options.cases]
    except ValueError as error:
        parser.error(str(error))
    began, done = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="orch-live-") as folder:
        for number, cell in enumerate(cells):
            if time.monotonic() > began + 60 * options.minutes:
                print(f"the time is over after {number} cases", file=sys.stderr)
                break
            done.append(check_cell(cell, Path(folder) / f"case-{number}", options.rounds))
            print(report(done[-1]), flush=True)
            if options.raw:
                raw = {
                    one.cell.name: {
                        name: [[asdict(step) for step in run] for run in runs] for name, runs in one.ladders.items()
                    }
                    for one in done
                }
                options.raw.write_text(json.dumps(raw))
    print(summary(done))


if __name__ == "__main__":
    main()
