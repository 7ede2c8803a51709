"""The commands that keep the agent's state in a file, and bring it back: backup and restore."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import render
from orchestrator.cli.app import app
from orchestrator.cli.light import LightCommand

if TYPE_CHECKING:
    from orchestrator.agent.backup import Index, Reference

NAMED_MAX = 20


@app.command(cls=LightCommand)
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write, such as orch.tar.gz.")],
) -> None:
    """Write the agent's state into one file.

    Deployments with their manifests, revisions, plans and events, sources, and what was measured and decided; also
    while the agent runs. Left out are models, for their size, and keys and tokens, which are secret: they are named.

    \b
    Example: orch backup orch.tar.gz
    """
    from orchestrator.agent import backup as archive  # brings SQLite
    from orchestrator.agent import paths
    from orchestrator.agent.paths import Layout

    layout = Layout(paths.state_dir(os.environ))
    index = archive.write(layout, file, archive.Made(_version(), _stamp("%Y-%m-%dT%H:%M:%SZ"), platform.node()))
    render.out(f"wrote {file}: {_summary(index)}")
    _name(index.references, "left out, to be kept by other means")


@app.command(cls=LightCommand)
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that orch backup wrote.")],
    force: Annotated[bool, typer.Option("--force", help="Put a state that is there aside.")] = False,
) -> None:
    """Bring the agent's state back from a backup.

    Neither agent nor deployments may run: `orch agent stop --workers`. The archive is checked whole before anything
    is touched. The next agent starts the deployments, with plans made anew for the machine it is on.

    \b
    Example: orch restore orch.tar.gz
    """
    from orchestrator.agent import backup as archive  # bring SQLite, and the agent
    from orchestrator.agent import paths, state_file
    from orchestrator.agent import restore as restoring

    layout = paths.create(paths.state_dir(os.environ))
    with state_file.alone(layout, "end it first, with its deployments: orch agent stop --workers"):
        found = restoring.restore(layout, file, _stamp("%Y%m%dT%H%M%S"), time.time(), force=force)
        paths.retire(layout)
    render.out(f"restored into {layout.root}: {_summary(found.index)}")
    if found.aside is not None:
        render.out(f"the state before lies in {found.aside}")
    _name(archive.missing(found.index.references), "not on this machine, and needed")
    render.talk("start the deployments with: orch agent start")


def _version() -> str:
    from importlib.metadata import version  # only these two tell it

    return version("orch-openvino")


def _stamp(form: str) -> str:
    return time.strftime(form, time.gmtime())


def _summary(index: Index) -> str:
    deployments, files = len(index.deployments), len(index.files)
    counted = f"{deployments} deployment{'' if deployments == 1 else 's'}, {files} file{'' if files == 1 else 's'}"
    return f"{counted}, state version {index.state}, made {index.created} on {index.host}"


def _name(references: Sequence[Reference], what: str) -> None:
    """Tell of files that the archive does not hold."""
    if not references:
        return
    render.talk(f"{what}:")
    for one in references[:NAMED_MAX]:
        render.talk(f"  {one.path} ({one.deployment}: {one.what})")
    if len(references) > NAMED_MAX:
        render.talk(f"  and {len(references) - NAMED_MAX} more")
