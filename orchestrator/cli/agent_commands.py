"""Commands that are, or look after, the agent: agent run, start, stop, status, install, uninstall and downgrade."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import control, render
from orchestrator.cli.app import TextOption, app
from orchestrator.cli.light import LightCommand, LightGroup
from orchestrator.cli.render import Text

STOP_S = 60.0
System = Annotated[
    bool, typer.Option("--system", help="For the machine, as the user orch; needs root.", show_default=False)
]
User = Annotated[bool, typer.Option("--user", help="For this user alone.", show_default=False)]

agent_app = typer.Typer(
    name="agent",
    cls=LightGroup,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Run, start, stop or find the agent.\n\nThe process that keeps deployments as their manifests say.",
)
app.add_typer(agent_app)


@agent_app.command("run", cls=LightCommand)
def agent_run(
    metrics: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Tell Prometheus at this loopback address, such as 127.0.0.1:9464."),
    ] = None,
) -> None:
    """Be the agent, in the foreground.

    Until SIGTERM or Ctrl-C; for systemd and containers. Deployments go on serving when it ends; the next agent
    finds them.

    \b
    Example: orch agent run
    """
    from orchestrator.agent.__main__ import main  # brings asyncio and the store
    from orchestrator.agent.scrape import ADDRESS  # as above

    if metrics is not None:
        os.environ[ADDRESS] = metrics

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


@agent_app.command("metrics", cls=LightCommand)
def agent_metrics(
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write to this file, whole or not at all, instead of stdout."),
    ] = None,
) -> None:
    """Print what the agent tells Prometheus.

    Of deployments, workers and sources. With --output for the textfile collector of node_exporter, called by a timer;
    `orch agent run --metrics ADDRESS` is asked by Prometheus itself.

    \b
    Example: orch agent metrics
    """
    page = control.ask("metrics")["page"]
    if output is None:
        render.out(page.rstrip("\n"))
    else:
        from orchestrator.runner.staging import write_whole  # only who writes a file needs it

        write_whole(output, page)


def _agent_text(answer: dict[str, Any]) -> str:
    lines = (
        f"agent {answer['version']}",
        f"process {answer['pid']}",
        f"started {answer['started']}",
        f"state {answer['state_dir']}",
    )
    return "\n".join(lines)


@agent_app.command("install", cls=LightCommand)
def agent_install(
    system: System = False,
    user: User = False,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The state folder; default /var/lib/orch, or where it is for this user."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the unit to stdout and nothing else.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Also run the commands that bring it into effect.")] = False,
) -> None:
    """Write a systemd unit for the agent, and say how to start it.

    Without --system or --user: for the machine when root asks, else for this user. Running it again writes the unit
    anew; the environment file is left as it is. Deployments go on serving when the unit is stopped or restarted.

    \b
    Example: orch agent install --user --dry-run
    """
    from orchestrator.cli import agent_unit  # only these two need it

    wanted = agent_unit.Asked(agent_unit.for_system(system=system, user=user), state)
    if dry_run:
        render.out(agent_unit.text(wanted))
        return
    for line in agent_unit.install(wanted, now=now):
        render.out(line)


@agent_app.command("uninstall", cls=LightCommand)
def agent_uninstall(
    system: System = False,
    user: User = False,
    now: Annotated[bool, typer.Option("--now", help="Also stop the agent that systemd runs.")] = False,
) -> None:
    """Remove the systemd unit; state and deployments stay.

    `orch agent stop --workers`, before, ends the deployments too.

    \b
    Example: orch agent uninstall --user
    """
    from orchestrator.cli import agent_unit  # as above

    for line in agent_unit.uninstall(system=agent_unit.for_system(system=system, user=user), now=now):
        render.out(line)


@agent_app.command("downgrade", cls=LightCommand)
def agent_downgrade(
    to: Annotated[int, typer.Option("--to", metavar="N", help="Version of the state that the older orch reads.")],
) -> None:
    """Write the state as an older orch reads it.

    That orch names the version when it refuses a newer state. The agent must not run; deployments go on serving. The
    state as it is now is kept beside it.

    \b
    Example: orch agent downgrade --to 1
    """
    from orchestrator.agent import paths, state_file  # bring SQLite and the plans
    from orchestrator.agent.paths import Layout
    from orchestrator.errors import Kind, OrchError

    layout = Layout(paths.state_dir(os.environ))
    if not layout.database.exists():
        raise OrchError(Kind.NOT_FOUND, "there is no state", where=str(layout.root), hint="set ORCH_HOME to its folder")
    with state_file.alone(layout):
        kept, lost = state_file.downgrade(layout, to)
        paths.retire(layout)
    render.out(f"the state is version {to} now; as it was, it lies in {kept}")
    for what in lost:
        render.out(f"left out, which that orch does not know: {what}")
    render.talk("now install the older orch, and start its agent: orch agent start")
