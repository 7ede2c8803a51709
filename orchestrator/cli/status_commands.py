"""Commands that look: status, describe, events, logs."""

from __future__ import annotations

import enum
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import Name, Names, OutputOption, TextOption, app
from orchestrator.cli.light import LightCommand
from orchestrator.cli.render import Output, Text

WATCH_S = 1.0
EVENTS_MAX = 1000  # in one answer
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is new, until Ctrl-C.")]


@app.command(cls=LightCommand)
def status(
    names: Names = None,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Show it anew each second, until Ctrl-C.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show every model, how it does and how full it is.

    \b
    SYNC      Synced: runs as its manifest says; OutOfSync: not yet, or the
              last apply failed; Unknown: its worker does not answer.
    HEALTH    Healthy: serves; Progressing: starts or changes; Degraded: a
              fallback device, a failed change or a crash loop; Missing:
              nothing serves; Suspended.
    PLAN      2x1 b1 r2: 2 streams of 1 thread, batch 1, 2 infer requests;
              2s b4 r8: streams of a device without threads; THROUGHPUT and
              the like: a hint, OpenVINO decided; inline x64: inferred
              where requests arrive, up to 64 rows together.
    RATE      requests that arrive, in a second.
    P99/SLO   99th percentile of the last seconds against the latency
              promised (p95 or p50 where the SLO names that).
    SAT       how full; 100% is all it can do. BUSY from 70%, SATURATED from
              100%, OVERLOADED: refuses work. The word waits until it is
              sure, two seconds or so; till then the figure is alone.
    HEADROOM  requests a second that it could take on top within the SLO;
              unknown until a plan or orch bench has measured it.
    RESTARTS  of the worker, since the deployment was made; REV: revision;
              AGE: since the worker started.

    Below a row stands why it is not as it should be, and what to do; in a pipe and with -o wide as the last
    column, REASON. slow: inferences take much longer than planned, though few requests come.
    -o wide adds STATE, GOODPUT (answers within the SLO), the saturation's CAUSE, the COMMIT of its source, and
    ENDPOINT. A narrow terminal shows fewer columns; in a pipe rows are separated by tabs.

    \b
    Exit codes: 0 shown; 1 no agent runs, or there is no such deployment.

    \b
    Example: orch status shop-vision -w
    """
    if watch:
        _watch(names, output)
    items = control.status_items(names)
    if not items and output in {Output.TABLE, Output.WIDE}:
        render.talk("nothing is deployed; deploy with: orch apply FILE")
        return
    render.emit(_status_list(items), output, lambda: _status_text(items, output))


def _status_list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "orch/v1", "kind": "StatusList", "items": items}


def _status_text(items: list[dict[str, Any]], output: Output) -> str:
    from orchestrator.cli.status_table import status_table  # JSON does without

    where = render.screen(sys.stdout, os.environ)
    return render.table(status_table(items, datetime.now(UTC)), where, wide=output is Output.WIDE)


def _watch(names: list[str] | None, output: Output) -> None:
    """Show it each second, in place on a terminal; ends with Ctrl-C or an error."""
    in_place = sys.stdout.isatty() and output in {Output.TABLE, Output.WIDE}
    if in_place:
        render.out("\x1b[2J")  # what stood there before would show through
    while True:
        items = control.status_items(names)
        match output:
            case Output.JSON:
                import json  # one document a line, so that a reader can tell where one ends

                text = json.dumps(_status_list(items), ensure_ascii=False) + "\n"
            case Output.YAML:
                text = "---\n" + render.to_yaml(_status_list(items))
            case Output.TABLE | Output.WIDE:
                text = _status_text(items, output)
        render.out(_screenful(text) if in_place else text)
        time.sleep(WATCH_S)


def _screenful(text: str) -> str:
    """Return the text so that it replaces what the terminal shows, cut at its height."""
    import shutil  # only a terminal has a height

    height = max(2, shutil.get_terminal_size().lines - 1)
    lines = text.splitlines()
    if len(lines) > height:
        lines = [*lines[: height - 1], f"and {len(lines) - height + 1} more"]
    return "\x1b[H" + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J\n"


@app.command(cls=LightCommand)
def describe(name: Name, output: TextOption = Text.TEXT) -> None:
    """Tell everything about one deployment.

    Plan and reasons, planned against actual, SLO against observed, saturation, revisions, events, log file.

    \b
    Example: orch describe shop-vision
    """
    answer = control.ask("describe", {"name": name.partition("/")[0]})
    render.emit(answer, output, lambda: _description(answer))


def _description(answer: dict[str, Any]) -> str:
    from orchestrator.cli.description import describe_text  # JSON does without

    return describe_text(answer, render.screen(sys.stdout, os.environ), datetime.now(UTC))


@app.command(cls=LightCommand)
def events(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only of this deployment.")] = None,
    follow: Follow = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=EVENTS_MAX, help="At most this many.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what happened, the newest last.

    \b
    TYPE is Normal or Warning. In a pipe times are RFC 3339 and rows are
    separated by tabs.

    \b
    Example: orch events shop-vision -f
    """
    answer = control.ask("events", {"name": name, "after": 0, "limit": limit})
    if answer["events"] or not follow:
        render.emit(answer["events"], output, lambda: _events_text(answer["events"], output, header=True))
    while follow:
        time.sleep(WATCH_S)
        answer = control.ask("events", {"name": name, "after": answer["last"], "limit": EVENTS_MAX})
        if answer["events"]:
            new = answer["events"]
            render.emit(new, output, lambda new=new: _events_text(new, output, header=False))  # type: ignore[misc]


def _events_text(found: list[dict[str, Any]], output: Output, *, header: bool) -> str:
    from orchestrator.cli.description import events_table  # JSON does without

    where = render.screen(sys.stdout, os.environ)
    text = render.table(events_table(found, datetime.now(UTC), where), where, wide=output is Output.WIDE)
    return text if header else text.partition("\n")[2]


class Requests(enum.StrEnum):
    """What to do with the log of single requests."""

    ON = "on"
    OFF = "off"
    SHOW = "show"


@app.command(cls=LightCommand)
def logs(
    name: Name,
    follow: Follow = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Last lines to begin with.")] = 200,
    requests: Annotated[
        Requests | None,
        typer.Option(help="Switch the log of single requests on or off, or show it.", show_default=False),
    ] = None,
) -> None:
    """Write the last lines of a deployment's log.

    \b
    --requests on makes the worker log each inference request as a line of JSON
    until it is switched off or ends; --requests show writes that log.

    \b
    Example: orch logs shop-vision -f
    """
    from orchestrator.cli.tail import appended, last_lines  # only here

    deployment = name.partition("/")[0]
    if requests in (Requests.ON, Requests.OFF):
        told = control.ask("requests", {"name": deployment, "on": requests is Requests.ON})
        render.talk(f"requests are {'' if told['on'] else 'not '}logged: {told['path']}")
        return
    path = Path(control.ask("describe", {"name": deployment})["requests" if requests is Requests.SHOW else "log"])
    text, position = last_lines(path, lines)
    if text:
        render.out(text)
    if follow:
        _each(appended(path, position), render.out)


def _each(texts: Any, write: Callable[[str], None]) -> None:
    for text in texts:
        write(text)
