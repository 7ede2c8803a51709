"""Commands about what was applied before: history and rollback."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import Name, OutputOption, TextOption, app, duration
from orchestrator.cli.apply_commands import GRACE_S, change_line
from orchestrator.cli.light import LightCommand
from orchestrator.cli.render import NONE, Cell, Colour, Column, Output, Screen, Table, Text

RESULTS = {"applied": None, "failed": Colour.BAD, "applying": Colour.WARN, "deleted": None}
SHORT = 12  # digits that tell commits apart for people


@app.command(cls=LightCommand)
def history(name: Name, output: OutputOption = Output.TABLE) -> None:
    """List what was applied to a deployment, the newest last.

    \b
    RESULT    current: serves now; applied: served once; failed: never did,
              REASON says why; applying: is on its way; deleted.
    PLAN      digest of the plan: the same plan has the same.
    SOURCE    with COMMIT where it came from; - for orch apply.

    The last 100 revisions are kept, also of a deployment that was deleted.

    \b
    Example: orch history shop-vision
    """
    answer = control.ask("history", {"name": name})
    render.emit(answer, output, lambda: _history_text(answer["items"], output))


def _history_text(items: Sequence[Mapping[str, Any]], output: Output) -> str:
    where = render.screen(sys.stdout, os.environ)
    return render.table(history_table(items, datetime.now(UTC), where), where, wide=output is Output.WIDE)


def history_table(items: Sequence[Mapping[str, Any]], now: datetime, where: Screen) -> Table:
    """Return one row for each revision; how long ago for people, the time itself in a pipe."""
    columns = (
        Column("REVISION", right=True),
        Column("AGE" if where.width is not None else "TIME", right=where.width is not None),
        Column("RESULT"),
        Column("PLAN", drop_rank=1),
        Column("SOURCE"),
        Column("COMMIT", shorten_rank=1),
        Column("AUTHOR", wide_only=True),
        Column("REASON", cut_end=True),
    )
    return Table(columns, tuple(_row(each, now, where) for each in items))


def _row(item: Mapping[str, Any], now: datetime, where: Screen) -> tuple[Cell, ...]:
    from orchestrator.cli.status_table import age  # JSON does without

    commit = item.get("commit") or NONE
    result = Cell("current", Colour.GOOD) if item["current"] else Cell(item["result"], RESULTS.get(item["result"]))
    return (
        Cell(str(item["revision"])),
        Cell(item["time"] if where.width is None else age(item["time"], now)),
        result,
        Cell(item["digest"]),
        Cell(item.get("source") or NONE),
        Cell(commit, short=commit[:SHORT]),
        Cell(item.get("author") or NONE),
        Cell(item.get("reason") or NONE),
    )


@app.command(cls=LightCommand)
def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option("--to", metavar="N", min=1, help="Revision, as orch history lists.")] = None,
    timeout: Annotated[str, typer.Option(help="Give up after this long, such as 90s or 10m.")] = "10m",
    no_trial: Annotated[
        bool, typer.Option("--no-trial", help="Do not try under load whether the SLO holds before it stays.")
    ] = False,
    output: TextOption = Text.TEXT,
) -> None:
    """Go back to an earlier revision.

    By default to the last one applied before the current one whose plan is another. That plan is brought about as it
    was, without planning or measuring, as a new revision. Refused where a model file is gone or has another content,
    where the machine is another, or its cores are taken. What runs goes on until the earlier one serves, was checked,
    and held its SLO under load; see docs/safe-changes.md.

    A deployment that belongs to a source is let be by it until `orch source resume`.

    \b
    Exit codes: 0 it serves; 1 it was refused or failed, and what ran goes on.

    \b
    Example: orch rollback shop-vision
    """
    from orchestrator.cli.progress import progress  # only long work shows any

    timeout_s = duration(timeout, "--timeout")
    params: dict[str, Any] = {"name": name, "to": to, "timeout_s": timeout_s}
    params |= {"trial": False} if no_trial else {}
    result: Mapping[str, Any] = {}
    with progress() as show:
        for kind, value in control.follow(control.agent(), "rollback", params, timeout_s=timeout_s + GRACE_S):
            if kind == "result":
                result = value
            elif "phase" in value:
                show(value)
    render.emit(result, output, lambda: _rolled_back(name, result))
    if source := result.get("held_from"):
        render.talk(f"hint: the source {source!r} leaves {name} alone until: orch source resume {source}")


def _rolled_back(name: str, result: Mapping[str, Any]) -> str:
    (deployment,) = result["deployments"]
    lines = [change_line(name, change) for change in deployment["changes"]]
    lines.append(f"{name} is at revision {deployment['revision']}: rollback to {result['to']}")
    return "".join(f"{line}\n" for line in lines)
