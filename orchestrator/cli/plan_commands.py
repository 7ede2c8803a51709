"""Commands that look at the machine and decide, without changing anything that runs: devices, plan, diff."""

from __future__ import annotations

import enum
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import checking, comparing, plan_report, planning, render
from orchestrator.cli.app import Files, TextOption, app, duration
from orchestrator.cli.boundary import USAGE, trouble_exits
from orchestrator.cli.light import LightCommand
from orchestrator.cli.manifests import read
from orchestrator.cli.planning import PROBE_S, Step, Wishes
from orchestrator.cli.render import Text

if TYPE_CHECKING:
    from orchestrator.manifest.load import Manifests
    from orchestrator.planner.diff import Change

InventoryOption = Annotated[
    str | None,
    typer.Option("--inventory", metavar="FILE", help="Plan for the machine that `orch devices -o yaml` described."),
]
InventoriesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--inventory",
        metavar="FILE",
        help="Plan for the machine that `orch devices -o yaml` described; --check takes several, and folders.",
    ),
]
ProfileOption = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="FILE", help="Predict from profiles that --write-profile wrote."),
]


class ModeChoice(enum.StrEnum):
    """How plans are found."""

    MEASURE = "measure"
    PREDICT = "predict"
    HINT = "hint"


class DiffOutput(enum.StrEnum):
    """How differences are written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"
    YAML = "yaml"


ModeOption = Annotated[ModeChoice | None, typer.Option("--mode", help="Goes before planning.mode of the manifest.")]


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
def plan(
    files: Files,
    inventory: InventoriesOption = None,
    profile: ProfileOption = None,
    mode: ModeOption = None,
    budget: Annotated[str | None, typer.Option(help="Longest time to measure one model, such as 30s.")] = None,
    replan: Annotated[bool, typer.Option("--replan", help="Measure anew although a lock fits.")] = False,
    write_lock: Annotated[
        bool, typer.Option("--write-lock", help="Write what was decided to NAME.lock.yaml beside each manifest.")
    ] = False,
    locked: Annotated[bool, typer.Option("--locked", help="Refuse what the lock does not hold.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only tell whether the locks fit; measures nothing.")] = False,
    fleet: Annotated[
        bool, typer.Option("--fleet", help="With --check: on every machine that the locks know; asks no device.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say in sentences why, and what would change it.")] = False,
    write_profile: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write what was measured, to plan with on another machine.")
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page: latency against rate of every arm, and why.")
    ] = None,
    output: TextOption = Text.TEXT,
) -> None:
    """Show how every model would be run, and why.

    And what applying that would change. Changes nothing that runs. A model with
    an SLO that states a rate is measured, unless its lock fits or planning.mode
    says otherwise; what was measured once is remembered. Signs: + create,
    ~ update in place, ± replace by a new compiled model, - delete, = unchanged.
    --inventory plans for another machine, from its --profile files; the model
    files are read here. --check --fleet is for CI: it needs locks alone.

    \b
    verified    an open-loop run held the SLO
    rejected    an open-loop run missed it
    infeasible  this machine cannot hold it
    unverified  predicted, not proven

    \b
    Exit codes: 0 there is a plan, or all locks fit and all SLOs hold; 1 not so,
    see standard error.

    \b
    Example: orch plan deployments/quickstart.yaml
    """
    recorded = checking.recorded(inventory or ())
    _check_options(check=check, fleet=fleet, locked=locked, replan=replan, mode=mode, recorded=recorded)
    if check and (write_lock or write_profile or report):
        raise typer.BadParameter("--check writes nothing; leave it or --write-lock, --write-profile, --report out")
    if report:
        plan_report.check(Path(report))  # before a minute is spent on measuring
    if write_profile:
        plan_report.check(Path(write_profile), "profiles.json", "--write-profile")
    manifests = read(files)
    wishes = Wishes(
        inventory=recorded[0] if recorded else None,
        profiles=tuple(map(Path, profile or ())),
        mode=mode.value if mode else None,
        budget_s=duration(budget, "--budget") if budget else None,
        locked=locked or check,
        replan=replan,
        measures=not check,
    )
    if check:
        render.out(checking.check_fleet(manifests) if fleet else checking.check(manifests, wishes, recorded))
        return
    steps = planning.steps(manifests, wishes)
    if write_lock:
        planning.write_locks(steps)
    if write_profile:
        planning.write_profiles(steps, Path(write_profile))
    if report:
        plan_report.write_report(steps, Path(report), wishes.profiles)
    text = _explained if explain else _plans_text
    render.emit(_as_json(steps), output, lambda: text(steps, files))


def _check_options(
    *, check: bool, fleet: bool, locked: bool, replan: bool, mode: ModeChoice | None, recorded: Sequence[Path]
) -> None:
    """Raise wrong usage for options that contradict each other."""
    if replan and (locked or check):
        raise typer.BadParameter("--replan measures anew and --locked and --check forbid it; leave one of them out")
    if fleet and (not check or recorded):
        raise typer.BadParameter("--fleet goes with --check, and takes the machines from the locks: no --inventory")
    if len(recorded) > 1 and not check:
        raise typer.BadParameter("a plan is for one machine; several go with --check")
    for option, measures in (("--replan", replan), ("--mode measure", mode is ModeChoice.MEASURE and not check)):
        if recorded and measures:
            raise typer.BadParameter(f"another machine cannot be measured from here; leave {option} or --inventory out")


@app.command(cls=LightCommand)
def diff(
    files: Files,
    inventory: InventoryOption = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Compare with this Git revision or folder, and not with what runs."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="N[..M]", help="Compare what runs with a revision of the deployment named, or two."),
    ] = None,
    output: Annotated[DiffOutput, typer.Option("-o", "--output", help="How it is written.")] = DiffOutput.TEXT,
) -> None:
    """Show only what applying the files would change.

    Nothing when all runs as they say. Measures nothing: what neither a lock nor an earlier plan has decided is
    compared as planned by rule, and standard error says so.

    Signs: + create, ~ update in place, ± replace by a new compiled model, - delete.

    --base compares manifests and locks with those of a Git revision or folder, for
    every machine that the locks know; it asks neither an agent nor a device. With
    -o markdown that is the comment for a pull request.

    --revision 3 NAME shows what orch rollback NAME --to 3 would change, --revision 3..5
    what led from one to the other.

    \b
    Exit codes: 0 nothing differs; 1 something does; 2 or 3 trouble.

    \b
    Example: orch diff deployments/ --base main -o markdown
    """
    with trouble_exits(USAGE):
        if revision is not None:
            differs = _differs_between(files, revision, output, alone=base is None and inventory is None)
        elif base is not None:
            differs = _differs_from_base(files, base, inventory, output)
        else:
            differs = _differs(files, inventory, output)
    if differs:
        raise typer.Exit(1)


def _differs(files: list[str], inventory: str | None, output: DiffOutput) -> bool:
    """Write what differs from what runs; tell whether anything does."""
    steps = _unmeasured(read(files), inventory)
    if output is DiffOutput.MARKDOWN:
        render.out(comparing.as_markdown(comparing.of_steps(steps)))
    else:
        render.emit(_as_json(steps), Text(output.value), lambda: _changes_text(steps, files))
    return any(step.acts for step in steps)


def _differs_from_base(files: list[str], base: str, inventory: str | None, output: DiffOutput) -> bool:
    """Write what differs from another revision of the manifests; tell whether anything does."""
    found = comparing.compared(files, base, inventory)
    if output is DiffOutput.MARKDOWN:
        render.out(comparing.as_markdown(found))
    else:
        render.emit(comparing.as_json(found), Text(output.value), lambda: comparing.as_text(found))
    return bool(found.differences)


def _differs_between(names: list[str], revision: str, output: DiffOutput, *, alone: bool) -> bool:
    """Write what differs between revisions; tell whether anything does."""
    from orchestrator.cli import revisions  # nothing else compares them

    if not alone or output is DiffOutput.MARKDOWN:
        raise typer.BadParameter("--revision compares what was applied: without --base, --inventory and markdown")
    return revisions.differs(names, revision, Text(output.value))


def show_changes(manifests: Manifests, files: Sequence[str], *, locked: bool, output: Text) -> None:
    """Write what applying would change (`orch apply --dry-run`)."""
    steps = _unmeasured(manifests, None, locked=locked)
    render.emit(_as_json(steps), output, lambda: _changes_text(steps, files) or "nothing changes\n")


def _unmeasured(manifests: Manifests, inventory: str | None, *, locked: bool = False) -> list[Step]:
    """Plan without measuring, and say of which models that is not all there is to say."""
    wishes = Wishes(inventory=Path(inventory) if inventory else None, measures=False, locked=locked)
    steps = planning.steps(manifests, wishes)
    missing = [f"{step.name}/{model}" for step in steps for model in step.assembled.found.missing]
    if missing:
        render.talk(f"not measured yet, shown as planned by rule: {', '.join(missing)}; orch apply measures first")
    return steps


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
                "origin": step.assembled.found.origin,
                "decisions": {
                    model: decision.model_dump(mode="json")
                    for model, decision in step.assembled.found.decisions.items()
                },
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

    named = shlex.join(files)
    text = "\n".join(plan_to_text(step.plan, step.changes, file=named) for step in steps)
    return text if len(steps) == 1 else f"{text}\n{_closing(steps, files)}"


def _explained(steps: Sequence[Step], _files: Sequence[str]) -> str:
    """Return for each model its name and why it runs so, one sentence a line."""
    from orchestrator.planner.text import sentences_to_text  # as above

    blocks = []
    for step in steps:
        decisions = step.assembled.found.decisions
        for model in step.plan.models:
            decision = decisions.get(model.name)
            why = decision.sentences if decision else tuple(f"{each.subject}: {each.text}" for each in model.reasons)
            title = f"{step.name}/{model.name} ({_ORIGINS[_origin(step, model.name)]})"
            blocks.append(sentences_to_text(title, (*why, *model.warnings)))
        if step.plan.warnings:
            blocks.append(sentences_to_text(step.name, (f"warning: {each}" for each in step.plan.warnings)))
    return "\n".join(blocks)


def _origin(step: Step, name: str) -> str:
    """Return where the decision for a model comes from, by its word in _ORIGINS."""
    found = step.assembled.found
    if name not in found.decisions:
        return "rule"
    predicted = found.origin == "measured" and not found.decisions[name].seconds
    return "predicted" if predicted else found.origin


_ORIGINS = {
    "predicted": "predicted from what was measured before",
    "rule": "planned by rule",
    "lock": "as locked",
    "memory": "as measured before",
    "measured": "measured now",
}


def _changes_text(steps: Sequence[Step], files: Sequence[str]) -> str:
    """Return one line for each change, and at the end how to apply exactly this."""
    from orchestrator.planner.text import changes_to_text  # as above

    changes = [replace(change, model=_full_name(step.name, change)) for step in steps for change in step.changes]
    if not any(step.acts for step in steps):
        return ""
    return f"{changes_to_text(changes, unchanged=False)}{_closing(steps, files)}"


def _closing(steps: Sequence[Step], files: Sequence[str]) -> str:
    """Return what names all plans together, what happens, and how to apply exactly this where anything does."""
    from orchestrator.planner.text import summary  # as above

    line = f"Plan {_digest(steps)}: {summary(change for step in steps for change in step.changes)}."
    if not any(step.acts for step in steps):
        return f"{line}\n"
    # What is still to be measured has another plan afterwards.
    sure = not any(step.assembled.found.missing for step in steps)
    return f"{line} Apply with: orch apply {shlex.join(files)}" + (f" --plan {_digest(steps)}\n" if sure else "\n")


def _full_name(deployment: str, change: Change) -> str:
    return f"{deployment}/{change.model}" if change.model else deployment
