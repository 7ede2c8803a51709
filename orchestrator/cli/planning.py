"""Plans for commands: by which locks and profiles, whether anything is measured, and how that is shown."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli import control, render
from orchestrator.errors import Kind, OrchError

if TYPE_CHECKING:
    from orchestrator.inventory.device import Inventory
    from orchestrator.manifest.load import Manifests
    from orchestrator.planner.diff import Change
    from orchestrator.planner.modes import Mode
    from orchestrator.planner.plan import DeploymentPlan
    from orchestrator.runner.assemble import Assembled
    from orchestrator.runner.decide import Policy, Tell

PROBE_S = 120.0  # OpenVINO's plugins load, and models are read, in a child process
INVENTORY_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a command asks of planning."""

    inventory: Path | None = None
    """Plan for the machine of this file."""
    profiles: tuple[Path, ...] = ()
    """Predict from these files, and measure nothing."""
    mode: Mode | None = None
    budget_s: float | None = None
    locked: bool = False
    replan: bool = False
    measures: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One deployment: what is wanted and what it was made of, and what that changes."""

    assembled: Assembled
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """Return the deployment's name."""
        return self.assembled.plan.name

    @property
    def plan(self) -> DeploymentPlan:
        """Return the plan."""
        return self.assembled.plan

    @property
    def acts(self) -> bool:
        """Tell whether anything changes."""
        return any(change.action != "unchanged" for change in self.changes)


def steps(manifests: Manifests, wishes: Wishes) -> list[Step]:
    """Plan all documents, here or for the machine of an inventory file, and compare with what runs here."""
    from orchestrator.planner.diff import diff as compare  # the planner brings pydantic: only planning pays for it
    from orchestrator.runner.assemble import assemble_all, claims_of, cores_of

    inventory = None if wishes.inventory is None else read_inventory(wishes.inventory)
    # What runs here says nothing about another machine.
    running = running_plans() if inventory is None else {}
    wanted = {document.deployment.metadata.name for document in manifests.documents}
    others = {name: plan for name, plan in running.items() if name not in wanted}
    with telling() as tell:
        found = assemble_all(
            manifests.documents,
            inventory=inventory,
            timeout_s=PROBE_S,
            keep=cores_of(running),
            others=claims_of(others),
            policy=policy(manifests, wishes, tell),
        )
    return [Step(each, compare(running.get(each.plan.name), each.plan)) for each in found]


def policy(manifests: Manifests, wishes: Wishes, tell: Tell) -> Policy:
    """Return how decisions are found for a command of this process."""
    from orchestrator.agent.paths import state_dir  # as above
    from orchestrator.runner.decide import Policy, unmeasured
    from orchestrator.runner.locks import Memory, read_beside
    from orchestrator.runner.measuring import measuring
    from orchestrator.runner.profiles import from_profiles, lacking, read_profiles

    here = wishes.inventory is None and not wishes.profiles
    state = state_dir(os.environ)
    profiles = [profile for path in wishes.profiles for profile in read_profiles(path)]
    measure = measuring(state, fresh=wishes.replan) if here else from_profiles(profiles)
    return Policy(
        locks=read_beside(manifests.documents),
        memory=Memory(state / "decisions") if here else None,
        measure=measure if wishes.measures else None,
        locked=wishes.locked,
        replan=wishes.replan,
        mode=wishes.mode,
        budget_s=wishes.budget_s,
        tell=tell,
        lacks=unmeasured if here else lacking(profiles),
    )


@contextlib.contextmanager
def telling() -> Iterator[Tell]:
    """Yield what shows on standard error what is being tried; nothing is started until there is something to show."""
    from orchestrator.cli.progress import Show, progress  # as above

    with contextlib.ExitStack() as stack:
        shows: list[Show] = []

        def tell(deployment: str, model: str | None, phase: str, message: str) -> None:
            if not shows:
                shows.append(stack.enter_context(progress()))
            shows[0]({"deployment": deployment, "model": model, "phase": phase, "message": message})

        yield tell


def write_locks(found: Sequence[Step]) -> None:
    """Write the decisions of all steps into the locks beside their manifests; raise OrchError for what has none."""
    by_file: dict[Path, list[Assembled]] = {}
    for step in found:
        if step.assembled.found.wanted:
            by_file.setdefault(_lock_of(step.assembled), []).append(step.assembled)
    if not by_file:
        render.talk("nothing to lock: everything is planned by rule")
    for path, each in by_file.items():
        _write_lock(path, each)


def _lock_of(assembled: Assembled) -> Path:
    from orchestrator.runner.locks import lock_path  # as above

    name = assembled.plan.name
    if assembled.document.path is None:
        raise OrchError(Kind.INVALID, "came from standard input, and a lock stands beside a file", where=name)
    if assembled.found.missing:
        missing = ", ".join(assembled.found.missing)
        what = f"nothing was measured of {missing}, so there is nothing to lock"
        for warning in assembled.plan.warnings:
            render.talk(f"warning: {name}: {warning}")
        raise OrchError(Kind.FAILED, what, where=name, hint="the warnings above say why")
    return lock_path(assembled.document.path)


def _write_lock(path: Path, found: Sequence[Assembled]) -> None:
    from orchestrator.planner.lock import locked  # as above
    from orchestrator.runner.locks import read_lock, write_lock

    lock = read_lock(path)
    for each in found:
        deployment, inventory = each.document.deployment, each.facts.inventory
        weights = {model.name: model.weights_sha256 for model in each.plan.models}
        lock = locked(lock, deployment, inventory, each.plan.cpus, each.found.decisions, weights)
    if lock is not None:
        render.talk(f"wrote {path}" if write_lock(path, lock) else f"{path} is as it should be")


def write_profiles(found: Sequence[Step], path: Path) -> None:
    """Write what this machine has stored of the steps' models; raise OrchError where there is nothing."""
    from orchestrator.agent.paths import state_dir  # as above
    from orchestrator.runner.measuring import stored_profiles
    from orchestrator.runner.profiles import write_profiles as write

    state = state_dir(os.environ)
    models = {(model.sha256, step.plan.fingerprint) for step in found for model in step.plan.models}
    profiles = [profile for sha256, here in sorted(models) for profile in stored_profiles(state, sha256, here)]
    if not profiles:
        hint = "measure them first: orch plan --mode measure"
        raise OrchError(Kind.FAILED, "nothing was measured of these models on this machine", hint=hint)
    write(path, profiles)
    render.talk(f"wrote {path}")


def running_plans() -> dict[str, DeploymentPlan]:
    """Return the plans that run; none where no agent does."""
    from orchestrator.planner.plan import DeploymentPlan  # as above

    try:
        answer = control.ask("plans", {"names": None})
    except OrchError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        if control.workers_serve():
            render.talk("no agent runs, so what serves now is not compared: orch agent start")
        return {}
    return {name: DeploymentPlan.model_validate(plan) for name, plan in answer.items()}


def read_inventory(path: Path) -> Inventory:
    """Return the inventory in a file; raise OrchError for one that cannot be read."""
    from orchestrator.inventory.text import inventory_from_yaml  # as above

    try:
        with path.open("rb") as file:
            data = file.read(INVENTORY_MAX_BYTES + 1)
        if len(data) > INVENTORY_MAX_BYTES:
            raise OrchError(Kind.TOO_LARGE, f"is larger than {INVENTORY_MAX_BYTES} bytes", where=str(path))
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise OrchError(Kind.INVALID, what, where=str(path), hint="write one with: orch devices -o yaml") from None
    return inventory_from_yaml(text, str(path))
