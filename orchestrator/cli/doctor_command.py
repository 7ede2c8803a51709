"""The command that looks for what is wrong with this machine or the state: doctor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from orchestrator.cli import render
from orchestrator.cli.app import OutputOption, app
from orchestrator.cli.light import LightCommand
from orchestrator.cli.render import Cell, Colour, Column, Output, Screen, Table

if TYPE_CHECKING:
    from orchestrator.agent.doctor_check import Check

STATUS_WIDTH = 6
MESSAGE_MIN = 30  # a narrower terminal wraps by itself
COLOURS = {"OK": Colour.GOOD, "WARN": Colour.WARN, "FAIL": Colour.BAD}


@app.command(cls=LightCommand)
def doctor(output: OutputOption = Output.TABLE) -> None:
    """Find what is wrong here, and name the command that mends it.

    Looks at software, devices, processors, memory, clock, disk, the state folder, agent, workers, ports, sources
    and certificates; works without an agent, takes some seconds, and changes nothing.

    \b
    STATUS    OK; WARN: works, but look at it; FAIL: mend it. Below a row
              stands the command that does; in a pipe and with -o wide it is
              the last column, COMMAND.

    \b
    Exit codes: 0 nothing fails, there may be warnings; 1 something fails.

    \b
    Example: orch doctor
    """
    # These bring the engine's probe and psutil, which no other command needs at its start.
    from orchestrator.agent.doctor import judge
    from orchestrator.agent.doctor_check import Level
    from orchestrator.agent.doctor_look import look

    checks = judge(look(os.environ))
    failed = [check for check in checks if check.level is Level.FAIL]
    render.emit(_report(checks), output, lambda: _text(checks, output))
    if failed:
        render.talk(f"{len(failed)} of {len(checks)} checks fail")
        raise typer.Exit(1)


def _report(checks: Sequence[Check]) -> dict[str, object]:
    items = [
        {"check": one.name, "status": one.level.value, "message": one.message, "command": one.command} for one in checks
    ]
    return {"apiVersion": "orch/v1", "kind": "DoctorReport", "items": items}


def _text(checks: Sequence[Check], output: Output) -> str:
    where = render.screen(sys.stdout, os.environ)
    if where.width is not None and output is Output.TABLE:
        return _for_people(checks, where)
    columns = (Column("STATUS"), Column("CHECK"), Column("FOUND"), Column("COMMAND"))
    rows = tuple(
        (Cell(one.level.value, COLOURS[one.level.value]), Cell(one.name), Cell(one.message), Cell(one.command or ""))
        for one in checks
    )
    return render.table(Table(columns, rows), where, wide=True)


def _for_people(checks: Sequence[Check], where: Screen) -> str:
    """Return the findings with nothing cut: a command is there to be copied."""
    import textwrap  # only a terminal has a width

    assert where.width is not None, "it is a terminal"
    margin = STATUS_WIDTH + max(len(one.name) for one in checks) + 2
    lines = []
    for one in checks:
        text = textwrap.wrap(one.message, max(MESSAGE_MIN, where.width - margin)) or [""]
        status = render.paint(one.level.value.ljust(STATUS_WIDTH), COLOURS[one.level.value] if where.colour else None)
        lines.append(status + one.name.ljust(margin - STATUS_WIDTH) + text[0])
        lines += [" " * margin + line for line in text[1:]]
        if one.command:
            lines.append(" " * margin + f"$ {one.command}")
    return "\n".join(lines)
