"""The command that serves one manifest in the foreground: run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import render
from orchestrator.cli.app import app
from orchestrator.cli.light import LightCommand
from orchestrator.cli.manifests import read

if TYPE_CHECKING:
    from orchestrator.planner.plan import DeploymentPlan

PROBE_S = 120.0  # OpenVINO's plugins load, and models are read, in a child process


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
