"""Commands that are, or look after, long-running processes: run and agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import TextOption, app
from orchestrator.cli.light import LightCommand, LightGroup
from orchestrator.cli.manifests import read
from orchestrator.cli.render import Text

if TYPE_CHECKING:
    from orchestrator.planner.plan import DeploymentPlan

PROBE_S = 120.0  # OpenVINO's plugins load, and models are read, in a child process
STOP_S = 60.0

agent_app = typer.Typer(
    name="agent",
    cls=LightGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Run, start, stop or find the agent.\n\nThe process that keeps deployments as their manifests say.",
)
app.add_typer(agent_app)


@app.command("run", cls=LightCommand)
def run_file(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Manifest file with one deployment, or - for stdin.")],
    locked: Annotated[
        bool, typer.Option("--locked", help="Refuse what the lock beside the manifest does not hold; measure nothing.")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the control socket; a temporary one by default.")
    ] = None,
) -> None:
    """Serve one manifest in the foreground.

    Without an agent: for containers and for finding faults. SIGTERM and Ctrl-C finish what is in flight, then end it.
    What is to be measured is measured before it serves; with a lock that fits, nothing is.

    \b
    Example: orch run deployments/quickstart.yaml
    """
    from orchestrator.errors import Kind, OrchError  # beside its use: only a wrong file needs it

    manifests = read([file])
    documents = manifests.documents
    if len(documents) != 1:
        what = f"holds {len(documents)} deployments, and a process serves one"
        raise OrchError(Kind.INVALID, what, where=file, hint="use orch apply, or split the file")
    # The plan brings pydantic and the planner with it; commands that only ask do without.
    from orchestrator.cli import planning
    from orchestrator.runner.assemble import assemble

    render.talk(f"{documents[0].deployment.metadata.name}: looking at the machine and the models")
    with planning.telling() as tell:
        policy = planning.policy(manifests, planning.Wishes(locked=locked), tell)
        (plan,) = assemble(documents, inventory=None, timeout_s=PROBE_S, policy=policy)
    raise typer.Exit(_serve(plan, state))


def _serve(plan: DeploymentPlan, state: Path | None) -> int:
    import tempfile  # only this command needs it

    if plan.cores:  # before openvino is imported, whose threads inherit it
        os.sched_setaffinity(0, plan.cores)
    from orchestrator.serving.__main__ import serve  # brings openvino

    if state is not None:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return serve(plan, state=state, generation=1)
    with tempfile.TemporaryDirectory(prefix="orch-run-") as folder:
        return serve(plan, state=Path(folder), generation=1)


@agent_app.command("run", cls=LightCommand)
def agent_run() -> None:
    """Be the agent, in the foreground.

    Until SIGTERM or Ctrl-C; for systemd and containers. Deployments go on serving when it ends; the next agent
    finds them.

    \b
    Example: orch agent run
    """
    from orchestrator.agent.__main__ import main  # brings asyncio and the store

    raise typer.Exit(main([]))


@agent_app.command("start", cls=LightCommand)
def agent_start() -> None:
    """Start the agent in the background where none runs.

    `orch apply` does so by itself.

    \b
    Example: orch agent start
    """
    socket = control.agent(start=True)
    answer = control.ask("version")
    render.out(f"agent runs (process {answer['pid']}, socket {socket})")


@agent_app.command("stop", cls=LightCommand)
def agent_stop(
    workers: Annotated[
        bool,
        typer.Option(
            "--workers",
            help="Stop all deployments too. They stay wanted: the next agent, which any apply starts, "
            "starts them again; orch delete ends one for good.",
        ),
    ] = False,
) -> None:
    """Stop the agent; deployments go on serving unless --workers is given.

    It ends when the agent has: nothing is touched any more.

    \b
    Example: orch agent stop
    """
    if workers and control.workers_serve():
        control.agent(start=True)  # only an agent knows how to end what an earlier one has left
    control.stop(workers=workers, timeout_s=STOP_S)
    render.out("agent stopped" + (", and all deployments" if workers else "; deployments go on serving"))


@agent_app.command("status", cls=LightCommand)
def agent_status(output: TextOption = Text.TEXT) -> None:
    """Say whether the agent runs, and where its state is.

    \b
    Exit codes: 0 it runs; 1 it does not.

    \b
    Example: orch agent status
    """
    answer = control.ask("version")
    render.emit(answer, output, lambda: _agent_text(answer))


def _agent_text(answer: dict[str, Any]) -> str:
    lines = (
        f"agent {answer['version']}",
        f"process {answer['pid']}",
        f"started {answer['started']}",
        f"state {answer['state_dir']}",
    )
    return "\n".join(lines)
