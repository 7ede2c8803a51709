"""Commands that change what runs: apply, delete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import Files, app, duration
from orchestrator.cli.light import LightCommand
from orchestrator.cli.manifests import check_files, read
from orchestrator.cli.render import Text
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.manifest.load import Document, Manifests, SourceDocument

GRACE_S = 30.0  # beyond the time the agent is given, for its own answer
DELETE_S = 120.0  # workers finish what is in flight before they end
DONE_WORDS = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "delete": "deleted",
    "unchanged": "unchanged",
}


@app.command(cls=LightCommand)
def apply(
    files: Files,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Delete what came from these files and is no longer in them, and, of the folders they are in, "
            "each deployment whose manifest file is gone.",
        ),
    ] = False,
    timeout: Annotated[str, typer.Option(help="Give up after this long, such as 90s or 10m.")] = "10m",
    plan: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Refuse unless the plan still is the one `orch plan` showed.")
    ] = None,
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse what the lock beside the manifest does not hold; measure nothing.")
    ] = False,
    no_trial: Annotated[
        bool, typer.Option("--no-trial", help="Do not try under load whether the SLO holds before a change stays.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and change nothing.")] = False,
    output: Annotated[Text, typer.Option("-o", "--output", help="How the answer is written.")] = Text.TEXT,
) -> None:
    """Make what runs as the manifests say.

    Plans, starts or changes, and waits until all serve and are checked. Starts the agent where none runs.
    A model with an SLO that states a rate is measured first, for at most a minute, unless its lock fits or
    planning.mode says otherwise; what runs already goes on serving meanwhile. What the plan warns of, such as an SLO
    that this machine cannot hold, is told on standard error. Writes one line for each model:

    \b
    created    no pool was running
    updated    changed in place, without compiling
    replaced   a new compiled model took over
    deleted    no longer in the manifest, or pruned
    unchanged  nothing was touched

    A change stays once each changed model has compiled, has answered, and has held its SLO for some seconds under the
    load that there is, or was no worse than before. When something fails, what ran before goes on serving.

    \b
    Exit codes: 0 all serve as planned; 1 something failed or was refused.

    \b
    Example: orch apply deployments/quickstart.yaml
    """
    timeout_s = duration(timeout, "--timeout")
    if dry_run and prune:
        raise typer.BadParameter("--dry-run does not show what --prune would delete; leave one of them out")
    manifests = read(files)
    check_files(manifests)
    if dry_run:
        from orchestrator.cli.plan_commands import show_changes  # plans are made only here

        if manifests.documents:
            show_changes(manifests, files, locked=locked, output=output)
        if manifests.sources:
            render.talk("".join(f"dry run: {_source_line(each)}" for each in _put_sources(manifests, dry=True)))
        return
    params = {"documents": _documents(manifests), "prune": prune, "timeout_s": timeout_s, "plan": plan}
    params |= ({"locked": True} if locked else {}) | ({"trial": False} if no_trial else {})
    applying = Applying()
    try:
        nothing: dict[str, Any] = {"deployments": [], "pruned": []}
        result = _applied(params, timeout_s + GRACE_S, applying) if manifests.documents else nothing
    except OrchError as error:
        if output is Text.TEXT:
            render.out("".join(applying.done_lines(error)))
        raise
    if manifests.sources:
        result["sources"] = _put_sources(manifests, dry=False)
    for warning in applying.warnings:
        render.talk(warning)
    render.emit(result, output, lambda: "".join(_result_lines(result)))


@dataclass(slots=True)
class Applying:
    """What the agent has told of an apply: the changes it began, and the deployments in which one failed."""

    changes: list[Mapping[str, Any]] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def told(self, message: Mapping[str, Any]) -> None:
        """Take one progress message."""
        if "change" in message:
            self.changes.append(message["change"])
        elif message["phase"] == "failed":
            self.failed.add(message["deployment"])
        elif message["phase"] == "warning":
            self.warnings.append(_warning(message))

    def done_lines(self, error: OrchError) -> Iterable[str]:
        """Yield a line for each change of the deployments that did not fail; none where their end is not known."""
        if self.failed and error.kind is not Kind.UNAVAILABLE:
            for change in self.changes:
                if change["deployment"] not in self.failed:
                    yield change_line(change["deployment"], change) + "\n"


def _documents(manifests: Manifests) -> list[dict[str, Any]]:
    return [_text(document) for document in manifests.documents]


def _text(document: Document | SourceDocument) -> dict[str, Any]:
    name = "-" if document.path is None else str(document.path)
    return {"name": name, "base": str(document.base), "text": document.source}


def _put_sources(manifests: Manifests, *, dry: bool) -> list[dict[str, Any]]:
    """Have the agent follow the sources in the manifests, or tell what that would change."""
    control.agent(start=True)
    params = {"documents": [_text(document) for document in manifests.sources], "dry": dry}
    return list(control.ask("source_put", params)["sources"])


def _source_line(done: Mapping[str, Any]) -> str:
    return f"source {done['name']} {DONE_WORDS.get(done['action'], done['action'])}\n"


def _applied(params: Mapping[str, Any], silence_s: float, applying: Applying) -> Any:
    """Have the agent apply, showing how far it is, and return its result."""
    from orchestrator.cli.progress import progress  # only long work shows any

    socket = control.agent(start=True)
    _warn_of_another_version(socket)
    try:
        with progress() as show:
            for kind, value in control.follow(socket, "apply", params, timeout_s=silence_s):
                if kind == "result":
                    return value
                applying.told(value)
                if value.get("phase", "warning") != "warning":
                    show(value)
    except KeyboardInterrupt:
        render.talk("the agent goes on with it; orch status shows how far it is")
        raise
    raise AssertionError("follow() ends in a result or raises")


def _warn_of_another_version(socket: Path) -> None:
    """Tell when the agent that will plan is not of this version: it runs on after an upgrade."""
    from importlib.metadata import version  # only what takes long anyhow pays for it

    told = admin.call(socket, "version", timeout_s=control.ANSWER_S)
    own, agents = version("orch-openvino"), told["version"]
    if own != agents:
        render.talk(f"warning: the agent is of version {agents}, this command of {own}")
        render.talk("hint: end it with orch agent stop, deployments go on serving; the next apply starts this version")


def _result_lines(result: Mapping[str, Any]) -> Iterable[str]:
    for deployment in result["deployments"]:
        for change in deployment["changes"]:
            yield change_line(deployment["name"], change) + "\n"
    for name in result.get("pruned") or ():
        yield f"{name} deleted (no file names it)\n"
    yield from map(_source_line, result.get("sources") or ())


def change_line(deployment: str, change: Mapping[str, Any]) -> str:
    """Return what happened to one model: `shop-vision/detector created (no pool is running)`."""
    name = f"{deployment}/{change['model']}" if change.get("model") else deployment
    cause = f" ({change['cause']})" if change.get("cause") else ""
    return f"{name} {DONE_WORDS.get(change['action'], change['action'])}{cause}"


def _warning(message: Mapping[str, Any]) -> str:
    name = "/".join(message[key] for key in ("deployment", "model") if message[key])
    return f"warning: {name}: {message['message']}"


@app.command(cls=LightCommand)
def delete(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Deployments to delete.")],
) -> None:
    """Stop deployments and forget them.

    What is in flight is finished first; the manifests are not touched. It does not ask.

    \b
    Exit codes: 0 deleted; 1 no agent runs, or there is no such deployment.

    \b
    Example: orch delete shop-vision
    """
    from orchestrator.cli.progress import progress  # as above

    socket = control.agent()
    deleted: list[str] = []
    try:
        with progress() as show:
            for kind, value in control.follow(socket, "delete", {"names": names}, timeout_s=DELETE_S):
                if kind == "result":
                    deleted = value["deleted"]
                elif value.get("phase") == "warning":
                    render.talk(_warning(value))
                elif "phase" in value:
                    show(value)
    except OrchError as error:
        if error.kind is Kind.NOT_FOUND and len(names) > 1:
            render.talk("nothing was deleted")
        raise
    render.out("".join(f"{name} deleted\n" for name in deleted))
