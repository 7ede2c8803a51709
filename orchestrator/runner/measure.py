"""Measure models on this machine: do what the planner's search asks for, and end every process that it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.device import Inventory
from orchestrator.inventory.fingerprint import fingerprint
from orchestrator.inventory.model import ModelInfo
from orchestrator.manifest.spec import Deployment, ModelSpec
from orchestrator.planner.arms import by_key, candidates
from orchestrator.planner.decision import Decision
from orchestrator.planner.evidence import ambient
from orchestrator.planner.explain import duration, rate
from orchestrator.planner.plan import DeploymentPlan
from orchestrator.planner.resolve import resolve
from orchestrator.planner.search import Search
from orchestrator.planner.steps import Failed, Finish, Measure, Measured, Result, Verify, question_of
from orchestrator.profiling.children import BenchChild
from orchestrator.profiling.host_lock import default_path, host_lock
from orchestrator.profiling.measurement import Arm, ArmProfile, Profile
from orchestrator.profiling.store import Key, ProfileStore
from orchestrator.profiling.wire import ToRun
from orchestrator.runner import decide
from orchestrator.runner.proof import Stage, prove

COMPILE_TIMEOUT_S = 180.0  # of the first arm: serving would have to wait for it as well
COMPILE_LEAST_S = 10.0  # of a further one, when the budget is nearly spent
BLOCK_TIMEOUT_S = 40.0  # beyond a block's own seconds; the bench itself gives up hung inferences before
NAME = "orch-measure"


def silent(_message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured, where, and for how long."""

    spec: ModelSpec
    info: ModelInfo
    inventory: Inventory
    cpus: int
    """Cores that the model may use."""
    cores: tuple[int, ...] | None = None
    """Logical processors of its own; None where it shares the machine's."""
    budget_s: float = 60.0
    predict: bool = False
    """Prove nothing; with a stored profile measure nothing either."""
    strict: bool = False
    seed: int = 1

    @property
    def key(self) -> Key:
        """Return under which key its profile is stored."""
        inventory = self.inventory
        return Key(self.info.sha256, fingerprint(inventory), inventory.openvino, self.cpus, self.spec.shapes)

    @property
    def allowed(self) -> tuple[int, ...]:
        """Return the logical processors it may run on."""
        return self.cores or self.inventory.host.cores.allowed


@dataclass(frozen=True, slots=True)
class Around:
    """What measuring needs beside its subject."""

    store: ProfileStore | None = None
    progress: Callable[[str], None] = silent
    cancelled: Callable[[], bool] = decide.never
    lock: Path = field(default_factory=default_path)
    fresh: bool = False
    """Measure although there is a stored profile."""


def measure(subject: Subject, around: Around | None = None) -> Decision:
    """Return what measuring decides for one model.

    Raise OrchError: CANCELLED, CONFLICT where another planner goes on measuring, INVALID or UNSUPPORTED where the
    model has no place on this machine, FAILED where no arm works. Whatever happens, no process is left, and what was
    measured is kept.
    """
    return measure_arms(subject, around)[0]


def measure_arms(subject: Subject, around: Around | None = None) -> tuple[Decision, tuple[ArmProfile, ...]]:
    """Do what `measure` does, and return with the decision all that was measured."""
    around = around or Around()
    with host_lock(around.lock, around.progress, around.cancelled), _Measuring(subject, around) as measuring:
        return measuring.run(), measuring.profiles


def measuring(store: ProfileStore, *, fresh: bool = False) -> decide.Measure:
    """Return what measures the models of a deployment one after the other, each as if it were alone."""

    def run(ask: decide.Ask, tell: decide.Tell, cancelled: Callable[[], bool]) -> Mapping[str, Decision]:
        specs = {model.name: model for model in ask.deployment.spec.models}
        deployment, found = ask.deployment.metadata.name, {}
        for name, mode in ask.modes.items():

            def progress(message: str, name: str = name) -> None:
                tell(deployment, name, "measuring", message)

            subject = Subject(
                specs[name],
                ask.infos[name],
                ask.inventory,
                ask.cpus,
                ask.cores,
                ask.budget_s,
                predict=mode == "predict",
            )
            found[name] = measure(subject, Around(store, progress, cancelled, fresh=fresh))
        return found

    return run


class _Measuring:
    """One search and the processes that serve it; a context manager that ends them."""

    def __init__(self, subject: Subject, around: Around) -> None:
        self._subject = subject
        self._around = around
        self._benches: dict[str, tuple[BenchChild, ArmProfile]] = {}
        self._compiled = 0
        self._stack = contextlib.ExitStack()
        self._search: Search | None = None
        self._known: tuple[Arm, ...] = ()
        self._ended = False
        self._began = 0.0

    def __enter__(self) -> _Measuring:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._end_benches()
        finally:
            self._keep()

    def run(self) -> Decision:
        """Do what the search asks for until it has decided."""
        subject = self._subject
        self._began = time.monotonic()
        question = question_of(
            subject.spec,
            subject.info,
            cpus=subject.cpus,
            budget_s=subject.budget_s,
            predict=subject.predict,
            strict=subject.strict,
            seed=subject.seed,
        )
        found = candidates(
            subject.spec, subject.info, subject.inventory, cpus=subject.cpus, own_cores=subject.cores is not None
        )
        self._known = tuple(by_key(found).values())
        stored = self._stored()
        arms, stretch = ((), None) if stored is None else (stored.arms, stored.stretch)
        search = self._search = Search(question, found, arms, stretch)
        while True:
            if self._around.cancelled():
                raise OrchError(Kind.CANCELLED, "the measurement was cancelled")
            step = search.next()
            if isinstance(step, Finish):
                self._ended = True
                return step.decision
            search.feed(self._do(step), seconds=self._seconds)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def profiles(self) -> tuple[ArmProfile, ...]:
        """Return all that was measured, stored profiles included."""
        return self._search.profiles if self._search is not None else ()

    def _stored(self) -> Profile | None:
        """Return what is stored of the model; to build on, only what was not measured beside others' work."""
        store = self._around.store
        profile = None if store is None or self._around.fresh else store.load(self._subject.key)
        if profile is None or (ambient(profile.arms) and not self._subject.predict):
            return None
        return profile

    def _do(self, step: Measure | Verify) -> Result:
        """Return the result of a step, or why there is none; raise only when all must end."""
        try:
            return self._block(step) if isinstance(step, Measure) else self._prove(step)
        except OrchError as error:
            if error.kind is Kind.CANCELLED:
                raise
            self._around.progress(f"{step.arm.name}: {error}")
            self._drop(step.arm)
            return Failed(str(error))

    def _block(self, step: Measure) -> Measured:
        bench, profile = self._benches.get(step.arm.compiled_key) or self._compile(step.arm)
        order = ToRun(concurrency=step.concurrency, seconds=step.seconds, round=step.round, paced=step.paced)
        block = bench.block(order, step.seconds + BLOCK_TIMEOUT_S)
        seen = rate(block.per_s * step.arm.batch)
        if step.paced and block.service_s:
            seen = duration(median(block.service_s))
        self._around.progress(f"{step.arm.name}: {seen} {step.load} (round {step.round + 1})")
        block = block.model_copy(update={"arm": step.arm.key})
        return Measured(block, profile.actual, profile.compile_s, profile.memory_bytes)

    def _compile(self, arm: Arm) -> tuple[BenchChild, ArmProfile]:
        subject = self._subject
        left = max(COMPILE_LEAST_S, subject.budget_s - self._seconds) if self._compiled else COMPILE_TIMEOUT_S
        self._compiled += 1
        self._around.progress(f"arm {self._compiled}: compiling {arm.name}")
        bench = BenchChild(subject.cores, self._around.cancelled)
        bench.__enter__()
        self._stack.push(bench.__exit__)
        profile = bench.compile(arm, subject.info.path, subject.spec.shapes, subject.spec.name, left)
        self._benches[arm.compiled_key] = (bench, profile)
        return bench, profile

    def _prove(self, step: Verify) -> Result:
        self._end_benches()  # their memory is the worker's now
        self._around.progress(f"proving {step.arm.name} at {rate(step.rate_per_s)}")
        subject = self._subject
        stage = Stage(
            plan=plan_by_rule(subject),
            info=subject.info,
            cores=subject.cores,
            allowed=subject.allowed,
            progress=self._around.progress,
            cancelled=self._around.cancelled,
        )
        return prove(step, stage)

    def _drop(self, arm: Arm) -> None:
        """End the process of an arm that failed; the stack would end it too, but later."""
        bench = self._benches.pop(arm.compiled_key, None)
        if bench is not None:
            bench[0].__exit__(OrchError, None, None)

    def _end_benches(self) -> None:
        self._benches.clear()
        self._stack.close()

    def _keep(self) -> None:
        """Store what was measured, also when the search was cut short."""
        store, search, subject = self._around.store, self._search, self._subject
        if store is None or search is None or not search.profiles:
            return
        key = subject.key
        anew = not search.builds_on_stored
        if anew and not self._ended and store.load(key) is not None:
            return  # half of a profile does not take the place of a whole one
        store.save(
            Profile(
                model_sha256=key.model_sha256,
                fingerprint=key.fingerprint,
                openvino=key.openvino,
                cpus=key.cpus,
                shapes={name: tuple(dims) for name, dims in key.shapes.items()},
                resolution=search.notes.resolution,
                stretch=search.notes.stretch,
                arms=search.profiles,
                measured=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            ),
            instead_of={arm.compiled_key for arm in self._known} if anew else (),
        )


def plan_by_rule(subject: Subject) -> DeploymentPlan:
    """Return the plan of a deployment of this model alone, served on a port of its own on loopback."""
    deployment = Deployment.model_validate(
        {
            "apiVersion": "orch/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {
                "endpoint": {"http": "127.0.0.1:0", "grpc": None},
                "resources": {"cpus": subject.cpus},
                "models": [subject.spec],
            },
        }
    )
    return resolve(deployment, subject.inventory, {subject.spec.name: subject.info}, cores=subject.cores)
