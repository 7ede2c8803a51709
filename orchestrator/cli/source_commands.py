"""Commands about where deployments come from: source add, list, describe, reconcile, suspend, resume, delete."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import OutputOption, TextOption, app, duration
from orchestrator.cli.light import LightCommand, LightGroup
from orchestrator.cli.render import Output, Text
from orchestrator.errors import OrchError, Problem

GRACE_S = 30.0  # beyond the time the agent is given, for its own answer
DELETE_S = 180.0  # a look under way ends first, then workers finish what is in flight

source_app = typer.Typer(
    name="source",
    cls=LightGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Say where deployments come from.\n\nThe agent follows each Git repository or folder, and keeps to it.",
)
app.add_typer(source_app)

SourceName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the source.")]


@source_app.command("add", cls=LightCommand)
def source_add(
    name: SourceName,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Repository: https, ssh, or a folder; no password in it.")
    ] = None,
    folder: Annotated[str | None, typer.Option(metavar="DIR", help="A plain folder instead, which is watched.")] = None,
    branch: Annotated[str | None, typer.Option(help="Default: the one that the remote's HEAD names.")] = None,
    path: Annotated[str, typer.Option(metavar="DIR", help="Folder of the manifests inside it.")] = ".",
    interval: Annotated[str, typer.Option(help="How often it is looked at.")] = "60s",
    timeout: Annotated[str, typer.Option(help="Longest time that a question to the remote may take.")] = "60s",
    prune: Annotated[bool, typer.Option(help="Delete deployments that are no longer in it.")] = True,
    prune_all: Annotated[bool, typer.Option("--prune-all", help="Also where a commit removes all of them.")] = False,
    locks: Annotated[str, typer.Option(help="What no lock holds: measure, hint or refuse.")] = "measure",
    model_root: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Folder outside in which it may name models; repeatable.")
    ] = None,
    token_file: Annotated[str | None, typer.Option(metavar="FILE", help="Token for https.")] = None,
    ssh_key_file: Annotated[str | None, typer.Option(metavar="FILE", help="Key for ssh.")] = None,
    known_hosts_file: Annotated[str | None, typer.Option(metavar="FILE", help="Hosts to trust, for ssh.")] = None,
    allowed_signers_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take only commits signed by one of these.")
    ] = None,
    webhook_secret_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Be told of pushes, signed with this secret.")
    ] = None,
    webhook_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where; default 127.0.0.1:9292, POST /hooks/NAME.")
    ] = None,
    export: Annotated[bool, typer.Option("--export", help="Write the manifest and change nothing.")] = False,
) -> None:
    """Follow a repository or a folder from now on.

    The same as orch apply of a manifest with kind: Source, which --export writes. Starts the agent where none runs.
    What is in the source is brought about soon after; orch source reconcile waits for that.

    \b
    Example: orch source add shop --url https://git.example.com/shop.git
    """
    files = {
        "token_file": token_file,
        "ssh_key_file": ssh_key_file,
        "known_hosts_file": known_hosts_file,
        "allowed_signers_file": allowed_signers_file,
    }
    git = {"url": url, "branch": branch, **files} if url or any(files.values()) or branch else None
    hook = {"secret_file": webhook_secret_file, "listen": webhook_listen}
    spec = {
        "git": git,
        "folder": folder,
        "path": path if path != "." else None,
        "interval": interval if interval != "60s" else None,
        "timeout": timeout if timeout != "60s" else None,
        "prune": None if prune else False,
        "prune_all": prune_all or None,
        "locks": locks if locks != "measure" else None,
        "model_roots": model_root or None,
        "webhook": hook if any(hook.values()) else None,
    }
    manifest = {"apiVersion": "orch/v1", "kind": "Source", "metadata": {"name": name}, "spec": spec}
    text = render.to_yaml(_stated(manifest))
    if export:
        render.out(text)
        return
    document = {"name": "-", "base": str(Path.cwd()), "text": text}
    control.agent(start=True)
    try:
        answer = control.ask("source_put", {"documents": [document]})
    except OrchError as error:  # lines of a text that nobody has written say nothing
        raise OrchError(error.kind, [Problem(each.what, None, each.hint) for each in error.problems]) from None
    render.out("".join(source_line(each) for each in answer["sources"]))
    render.talk(f"hint: orch source reconcile {name} waits for its first commit; orch source list shows how it is")


def _stated(value: Any) -> Any:
    """Return the value without what is not stated, so that the manifest holds no more than the command line."""
    if isinstance(value, Mapping):
        return {key: _stated(each) for key, each in value.items() if each is not None}
    return value


def source_line(done: Mapping[str, Any]) -> str:
    """Return what became of a source: `source shop created`."""
    words = {"create": "created", "update": "updated"}
    return f"source {done['name']} {words.get(done['action'], done['action'])}\n"


@source_app.command("list", cls=LightCommand)
def source_list(output: OutputOption = Output.TABLE) -> None:
    """List the sources and how each is.

    \b
    HEALTH     Healthy: all runs of the commit; Progressing: it is being
               brought about; Degraded: the last commit failed, or the remote
               does not answer, and what ran before goes on; or one of its
               deployments does not run, or nobody can tell it of a push;
               Suspended.
    APPLIED    the last commit that all runs of.
    ATTEMPTED  the last commit that was tried.
    AGE        since it was tried.

    \b
    Exit codes: 0 shown; 1 no agent runs.

    \b
    Example: orch source list -o wide
    """
    answer = control.ask("sources", {"names": None})
    if not answer["items"] and output in {Output.TABLE, Output.WIDE}:
        render.talk("there is no source; add one with: orch source add NAME --url URL")
        return
    render.emit(answer, output, lambda: _table_text(answer["items"], output))


def _table_text(items: list[dict[str, Any]], output: Output) -> str:
    from orchestrator.cli.source_table import source_table  # JSON does without

    where = render.screen(sys.stdout, os.environ)
    return render.table(source_table(items, datetime.now(UTC)), where, wide=output is Output.WIDE)


@source_app.command("describe", cls=LightCommand)
def source_describe(name: SourceName, output: TextOption = Text.TEXT) -> None:
    """Tell everything about one source.

    Commits applied and attempted, what is wrong with the last, conditions, deployments, events.

    \b
    Example: orch source describe shop
    """
    item = control.ask("sources", {"names": [name]})["items"][0]
    events = control.ask("events", {"name": f"source/{name}", "after": 0, "limit": 50})["events"]
    render.emit({"source": item, "events": events}, output, lambda: _description(item, events))


def _description(item: dict[str, Any], events: list[dict[str, Any]]) -> str:
    from orchestrator.cli.source_table import description  # JSON does without

    return description(item, events, render.screen(sys.stdout, os.environ), datetime.now(UTC))


@source_app.command("reconcile", cls=LightCommand)
def source_reconcile(
    name: SourceName,
    timeout: Annotated[str, typer.Option(help="Wait no longer than this, such as 90s or 10m.")] = "10m",
    prune_all: Annotated[
        bool, typer.Option("--prune-all", help="Allow the commit, this once, to remove all of its deployments.")
    ] = False,
) -> None:
    """Look at a source now, and wait until its commit runs.

    A commit that failed is tried again, which nothing else does until something has changed.

    \b
    Exit codes: 0 all runs of the commit; 1 it failed, or the remote is gone.

    \b
    Example: orch source reconcile shop --timeout 2m
    """
    from orchestrator.cli.progress import progress  # only long work shows any

    timeout_s = duration(timeout, "--timeout")
    params = {"name": name, "timeout_s": timeout_s, "prune_all": prune_all}
    with progress() as show:
        for kind, value in control.follow(control.agent(), "source_reconcile", params, timeout_s=timeout_s + GRACE_S):
            if kind == "result":
                render.out(f"{name}: {value['text']}")
            elif "phase" in value:
                show(value)


@source_app.command("suspend", cls=LightCommand)
def source_suspend(name: SourceName) -> None:
    """Take nothing of a source until it is resumed.

    What runs goes on, and may be changed by hand.

    \b
    Example: orch source suspend shop
    """
    control.ask("source_suspend", {"name": name, "on": True})
    render.out(f"source {name} suspended")


@source_app.command("resume", cls=LightCommand)
def source_resume(name: SourceName) -> None:
    """Follow a source again that was suspended.

    Deployments of it that were rolled back by hand are followed again, too.

    \b
    Example: orch source resume shop
    """
    control.ask("source_suspend", {"name": name, "on": False})
    render.out(f"source {name} resumed")


@source_app.command("delete", cls=LightCommand)
def source_delete(
    name: SourceName,
    keep_deployments: Annotated[
        bool, typer.Option("--keep-deployments", help="Leave what came from it running, as if applied by hand.")
    ] = False,
) -> None:
    """Forget a source, and delete the deployments that came from it.

    It does not ask; the repository is not touched.

    \b
    Exit codes: 0 deleted; 1 there is no such source.

    \b
    Example: orch source delete shop --keep-deployments
    """
    params = {"name": name, "keep_deployments": keep_deployments}
    for kind, value in control.follow(control.agent(), "source_delete", params, timeout_s=DELETE_S):
        if kind == "result":
            render.out("".join(f"{each} deleted\n" for each in value["deployments"]) + f"source {name} deleted\n")
