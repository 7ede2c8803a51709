"""Compare planning several models together with planning each as if it were alone, both served and loaded for real.

Every model is measured alone once. From that its rate and SLO are made: a stated share of the cores on one thread, and
a stated multiple of one inference. Then one worker serves all models of a case, first by independent plans, then by the
joint plan, in ABBA order, and all are loaded at their declared rates at once. Run it on a quiet machine:

    python -m benchmarks.joint            # about five minutes
    python -m benchmarks.joint --quick    # shows that it works
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

os.environ.setdefault("CI", "true")  # before openvino is imported: its telemetry stays off

from benchmarks.planner import grid
from orchestrator.backend.probe import ModelQuery, probe
from orchestrator.errors import OrchError, render
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment, ModelSpec
from orchestrator.planner.capacity import quantile
from orchestrator.planner.decision import Decision
from orchestrator.planner.joint import options_of
from orchestrator.planner.steps import Verify, question_of
from orchestrator.planner.verdict import the_test
from orchestrator.profiling.measurement import Host, Profile
from orchestrator.profiling.store import ProfileStore
from orchestrator.runner.decide import Ask, never, silent
from orchestrator.runner.jointly import measure_together, plan_of
from orchestrator.runner.measure import Around, Subject, measure_arms
from orchestrator.runner.profiles import from_profiles
from orchestrator.runner.proof import Stage
from orchestrator.runner.together import loaded_together


@dataclass(frozen=True)
class Role:
    """A model's part in a case."""

    model: str
    share: float
    """Of one core, that it keeps busy on one thread."""
    patience: float
    """The SLO's latency as a multiple of one inference on one thread."""
    priority: str = "default"


SUBJECTS: Final = {
    "resnet50": grid.Subject("resnet50", "resnet50"),
    "bert_1024": grid.Subject("bert_1024", "bert_small", {"sequence_length": 1024}),
    "detector": grid.Subject("detector", "detector"),
}
CASES: Final[Mapping[str, Sequence[Role]]] = {
    "two": (Role("resnet50", 0.12, 2.6, "critical"), Role("bert_1024", 0.75, 14.0)),
    "three": (
        Role("resnet50", 0.1, 2.6, "critical"),
        Role("bert_1024", 0.6, 16.0),
        Role("detector", 0.1, 12.0, "sheddable"),
    ),
}
PERCENTILE: Final = 99.0
LOOSE: Final = "10s"  # an SLO that no arm breaks, for measuring


@dataclass
class Total:
    """What was seen of one model in all runs of one kind of plan."""

    sent: int = 0
    misses: int = 0
    latency_s: list[float] = field(default_factory=list)

    def line(self, role: Role, spec: ModelSpec, arm: str, seconds: float) -> str:
        """Return the table's row."""
        assert spec.slo is not None
        slo_s = spec.slo.latency
        share = 1 - self.misses / max(1, self.sent)
        held = "holds" if share >= PERCENTILE / 100 else "MISSES"
        usual_s, tail_s = (quantile(self.latency_s or [float("inf")], each) for each in (0.5, PERCENTILE / 100))
        asked = f"{role.model:<10} {arm:<22} {spec.slo.rate or 0:6.1f}/s  SLO {1e3 * slo_s:6.1f} ms"
        latency = f"p50 {1e3 * usual_s:6.1f} ms  p99 {1e3 * tail_s:6.1f} ms"
        seen = f"{latency}  in time {100 * share:6.2f} %  {self.misses / seconds:5.2f} misses/s"
        return f"  {asked}  {seen}  {held}"


@dataclass
class Bench:
    """The machine, the models, and what was measured of them."""

    inventory: Inventory
    infos: Mapping[str, ModelInfo]
    store: ProfileStore
    cpus: int
    budget_s: float
    profiles: dict[str, Profile] = field(default_factory=dict)
    thread_s: dict[str, float] = field(default_factory=dict)

    def measure(self, name: str) -> None:
        """Measure one model alone."""
        spec = _spec(Role(name, 0, 0), self.infos[name], {"latency": LOOSE, "rate": "1/s"})
        subject = Subject(spec, self.infos[name], self.inventory, self.cpus, None, self.budget_s, predict=True)
        measure_arms(subject, Around(self.store))
        profile = self.store.load(subject.key)
        assert profile is not None, "it was measured and kept"
        self.profiles[name] = profile
        options = options_of(
            spec, self.infos[name], self.inventory, profile.arms, cpus=self.cpus, cpu_models=2, own_cores=False
        )
        single = min(options, key=lambda option: (option.stream.threads, option.stream.streams)).stream
        self.thread_s[name] = single.threads * quantile(single.alone_s, 0.5)
        print(f"{name}: {1e3 * self.thread_s[name]:.2f} ms on one thread, {single.beside:.2f} times beside another")

    def ask(self, roles: Sequence[Role], mode: str) -> Ask:
        """Return the deployment of a case."""
        models = []
        for role in roles:
            thread_s = self.thread_s[role.model]
            slo = {"latency": f"{1e3 * role.patience * thread_s:.3f}ms", "rate": f"{role.share / thread_s:.3f}/s"}
            models.append(_spec(role, self.infos[role.model], slo))
        deployment = Deployment.model_validate(
            {
                "apiVersion": "orch/v1",
                "kind": "Deployment",
                "metadata": {"name": "joint"},
                "spec": {"endpoint": {"http": "127.0.0.1:0", "grpc": None}, "models": models},
            }
        )
        infos = {role.model: self.infos[role.model] for role in roles}
        modes = dict.fromkeys(infos, "measure" if mode == "measure" else "predict")
        return Ask(deployment, infos, self.inventory, self.cpus, None, modes, self.budget_s)

    def run(
        self, ask: Ask, decisions: Mapping[str, Decision], seconds: float, totals: Mapping[str, Total], seed: int
    ) -> Host:
        """Serve and load all models at once, and add what is seen to the totals."""
        steps = {}
        for spec in ask.deployment.spec.models:
            need = question_of(spec, ask.infos[spec.name], cpus=ask.cpus).need
            assert need is not None
            assert spec.slo is not None
            rate = spec.slo.rate or 0.0
            test = the_test(PERCENTILE, decisions[spec.name].service_s)
            steps[spec.name] = Verify(decisions[spec.name].arm, rate, need, test, seed, seconds, 0.0)
        allowed = self.inventory.host.cores.allowed
        stage = Stage(plan_of(ask, decisions), next(iter(ask.infos.values())), None, allowed, lambda _: None, never)
        seen, host = loaded_together(steps, stage, ask.infos, seconds)
        for name, each in seen.items():
            totals[name].sent += each.state.answered
            totals[name].misses += each.state.misses
            totals[name].latency_s += each.latency_s
        return host


def _spec(role: Role, info: ModelInfo, slo: Mapping[str, str]) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": role.model,
            "source": info.path,
            "device": "CPU",
            "slo": {**slo, "percentile": PERCENTILE},
            "priority": role.priority,
        }
    )


def compare(bench: Bench, name: str, roles: Sequence[Role], seconds: float, rounds: int) -> None:
    """Run one case and print its table."""
    ask = bench.ask(roles, "measure")
    modes = dict.fromkeys(ask.modes, "predict")
    alone = from_profiles(list(bench.profiles.values()))(replace(ask, modes=modes), silent, never)
    try:
        joint = measure_together(ask, list(ask.infos), bench.store, _tell, never, fresh=False)
    except OrchError as error:
        print(f"{name}: the joint plan is refused\n{render(error)}")
        return
    plans = {"independent": alone, "joint": joint}
    totals = {kind: {role.model: Total() for role in roles} for kind in plans}
    turns = [
        (number, kind) for number in range(rounds) for kind in (list(plans) if number % 2 == 0 else [*plans][::-1])
    ]
    noise = [bench.run(ask, plans[kind], seconds, totals[kind], number + 1) for number, kind in turns]
    print(f"\n{name} models, {rounds} x {seconds:g} s each, {_disturbance(noise)}")
    specs = {spec.name: spec for spec in ask.deployment.spec.models}
    for kind, decisions in plans.items():
        total = totals[kind]
        held = all(1 - each.misses / max(1, each.sent) >= PERCENTILE / 100 for each in total.values())
        print(f" {kind}: {'all SLOs hold' if held else 'NOT all SLOs hold'}")
        for role in roles:
            spec, arm = specs[role.model], decisions[role.model].arm.name
            print(total[role.model].line(role, spec, arm, rounds * seconds))
    why = joint[roles[0].model].sentences or ("no layout was chosen: a model cannot hold its SLO even alone",)
    print(f" joint: {why[0]}")
    print(
        " proofs: " + "; ".join(f"{model} {decision.verdict} ({decision.reason})" for model, decision in joint.items())
    )


def _disturbance(hosts: Sequence[Host]) -> str:
    foreign, steal = (100 * max(values) for values in zip(*((each.foreign, each.steal) for each in hosts), strict=True))
    return f"others took at most {foreign:.0f} % of the cores, the hypervisor {steal:.0f} %"


def _tell(_deployment: str, model: str | None, phase: str, message: str) -> None:
    print(f"  {phase} {model or 'all'}: {message}")


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"any of {', '.join(CASES)}; all when none is given")
    parser.add_argument("--seconds", type=float, default=15.0, help="of one run with all models loaded")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each plan")
    parser.add_argument("--budget", type=float, default=22.0, help="seconds of planning for each model")
    parser.add_argument("--quick", action="store_true", help="three seconds and one round")
    asked = parser.parse_args()
    cases = {name: CASES[name] for name in asked.cases or CASES}
    seconds, rounds, budget_s = (3.0, 1, 8.0) if asked.quick else (asked.seconds, asked.rounds, asked.budget)
    names = sorted({role.model for roles in cases.values() for role in roles})
    with tempfile.TemporaryDirectory(prefix="orch-joint-") as folder:
        paths = {name: str(grid.save(SUBJECTS[name], Path(folder))) for name in names}
        inventory, answers = probe([ModelQuery(path=path) for path in paths.values()])
        infos = {name: info for name, info in zip(paths, answers, strict=True) if isinstance(info, ModelInfo)}
        store = ProfileStore(Path(folder) / "profiles")
        bench = Bench(inventory, infos, store, inventory.host.effective_cpus, budget_s)
        for name in names:
            bench.measure(name)
        for name, roles in cases.items():
            compare(bench, name, roles, seconds, rounds)


if __name__ == "__main__":
    main()
