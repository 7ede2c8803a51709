"""Commands that look at the machine and decide, without changing anything: devices, plan, diff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import Files, TextOption, app
from orchestrator.cli.boundary import USAGE, trouble_exits
from orchestrator.cli.light import LightCommand
from orchestrator.cli.manifests import read
from orchestrator.cli.render import Text
from orchestrator.errors import Kind, OrchError

if TYPE_CHECKING:
    from orchestrator.inventory.device import Inventory
    from orchestrator.manifest.load import Manifests
    from orchestrator.planner.diff import Change
    from orchestrator.planner.plan import DeploymentPlan

PROBE_S = 120.0  # OpenVINO's plugins load, and models are read, in a child process
INVENTORY_MAX_BYTES = 2**20
InventoryOption = Annotated[
    Path | None,
    typer.Option("--inventory", metavar="FILE", help="Plan for the machine that `orch devices -o yaml` described."),
]


@dataclass(frozen=True, slots=True)
class Step:
    """One deployment: what runs, what is wanted, and what that changes."""

    name: str
    plan: DeploymentPlan
    changes: tuple[Change, ...]


@app.command(cls=LightCommand)
def devices(output: TextOption = Text.TEXT) -> None:
    """Show what OpenVINO can use of this machine.

    Devices, and the cores and memory that are left after affinity and the limits of the cgroup.

    -o yaml is an inventory file, from which `orch plan --inventory` plans on another machine.

    \b
    Example: orch devices -o yaml > shop.inventory.yaml
    """
    from orchestrator.backend.probe import probe  # pydantic's models and a child process: only here
    from orchestrator.inventory.text import inventory_to_text, inventory_to_yaml

    inventory, _ = probe((), timeout_s=PROBE_S)
    match output:
        case Text.YAML:
            render.out(inventory_to_yaml(inventory))
        case Text.JSON:
            render.out(render.to_json(inventory.model_dump(mode="json")))
        case Text.TEXT:
            render.out(inventory_to_text(inventory))


@app.command(cls=LightCommand)
def plan(files: Files, inventory: InventoryOption = None, output: TextOption = Text.TEXT) -> None:
    """Show how every model would be run, and why.

    And what applying that would change. Changes nothing; the same manifests on the same machine give the same
    text. Signs: + create, ~ update in place, ± replace by a new compiled model, - delete, = unchanged.
    --inventory plans for another machine; the model files are read here.

    \b
    Exit codes: 0 there is a plan; 1 there is none, and standard error says why.

    \b
    Example: orch plan deployments/quickstart.yaml
    """
    steps = _steps(read(files), inventory)
    render.emit(_as_json(steps), output, lambda: _plans_text(steps, files))


@app.command(cls=LightCommand)
def diff(
    files: Files,
    inventory: InventoryOption = None,
    output: TextOption = Text.TEXT,
) -> None:
    """Show only what applying the files would change.

    Nothing when all runs as they say.

    Signs: + create, ~ update in place, ± replace by a new compiled model, - delete.

    \b
    Exit codes: 0 nothing differs; 1 something does; 2 or 3 trouble.

    \b
    Example: orch diff deployments/
    """
    with trouble_exits(USAGE):
        steps = _steps(read(files), inventory)
    render.emit(_as_json(steps), output, lambda: _changes_text(steps, files))
    if any(_acts(step) for step in steps):
        raise typer.Exit(1)


def show_changes(manifests: Manifests, files: Sequence[str], *, output: Text) -> None:
    """Write what applying would change (`orch apply --dry-run`)."""
    steps = _steps(manifests, None)
    render.emit(_as_json(steps), output, lambda: _changes_text(steps, files) or "nothing changes\n")


def _steps(manifests: Manifests, inventory_file: Path | None) -> list[Step]:
    """Plan all documents, here or for the machine of an inventory file, and compare with what runs here."""
    from orchestrator.planner.diff import diff as compare  # the planner brings pydantic: only planning pays for it
    from orchestrator.runner.assemble import assemble, claims_of, cores_of

    inventory = None if inventory_file is None else _inventory(inventory_file)
    # What runs here says nothing about another machine.
    running = _running() if inventory is None else {}
    wanted = {document.deployment.metadata.name for document in manifests.documents}
    others = {name: plan for name, plan in running.items() if name not in wanted}
    plans = assemble(
        manifests.documents,
        inventory=inventory,
        timeout_s=PROBE_S,
        keep=cores_of(running),
        others=claims_of(others),
    )
    return [Step(plan.name, plan, compare(running.get(plan.name), plan)) for plan in plans]


def _inventory(path: Path) -> Inventory:
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


def _running() -> dict[str, DeploymentPlan]:
    """Return the plans that run; none where no agent does."""
    from orchestrator.planner.plan import DeploymentPlan  # as above

    try:
        answer = control.ask("plans", {"names": None})
    except OrchError as error:
        if error.kind is not Kind.UNAVAILABLE:
            raise
        return {}
    return {name: DeploymentPlan.model_validate(plan) for name, plan in answer.items()}


def _acts(step: Step) -> bool:
    return any(change.action != "unchanged" for change in step.changes)


def _as_json(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "apiVersion": "orch/v1",
        "kind": "PlanList",
        "digest": _digest(steps),
        "items": [
            {
                "name": step.name,
                "digest": step.plan.digest(),
                "changes": [_change_json(change) for change in step.changes],
                "plan": step.plan.model_dump(mode="json"),
            }
            for step in steps
        ],
    }


def _change_json(change: Change) -> Mapping[str, Any]:
    return asdict(change) | {"symbol": change.symbol, "details": list(change.details)}


def _digest(steps: Sequence[Step]) -> str:
    """Return what names all plans together, and what `orch apply --plan` compares with."""
    from orchestrator.agent.planning import together  # the agent's own, so that the two cannot differ

    return together([step.plan for step in steps])


def _plans_text(steps: Sequence[Step], files: Sequence[str]) -> str:
    from orchestrator.planner.text import plan_to_text  # as above

    named = " ".join(files)
    return "\n".join(plan_to_text(step.plan, step.changes, file=named) for step in steps)


def _changes_text(steps: Sequence[Step], files: Sequence[str]) -> str:
    """Return one line for each change, and at the end how to apply exactly this."""
    from orchestrator.planner.text import changes_to_text, summary  # as above

    changes = [replace(change, model=_full_name(step.name, change)) for step in steps for change in step.changes]
    if not any(_acts(step) for step in steps):
        return ""
    counts = summary(change for step in steps for change in step.changes)
    apply = f"Apply with: orch apply {' '.join(files)} --plan {_digest(steps)}"
    return f"{changes_to_text(changes, unchanged=False)}Plan {_digest(steps)}: {counts}. {apply}\n"


def _full_name(deployment: str, change: Change) -> str:
    return f"{deployment}/{change.model}" if change.model else deployment
