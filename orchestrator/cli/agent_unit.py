"""Puts the agent's systemd unit in place, and takes it away."""

from __future__ import annotations

import grp
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent import paths, unit
from orchestrator.agent.client import source_tree
from orchestrator.agent.paths import Layout
from orchestrator.agent.unit import Install
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin

STEP_TIMEOUT_S = 90.0  # systemctl waits until the agent says that it is ready
ANSWER_S = 2.0
HOMES = tuple(f"/{folder}/" for folder in ("home", "root"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    system: bool
    state: Path | None = None


def for_system(*, system: bool, user: bool) -> bool:
    """Return whether the unit is the machine's; raise INVALID for both at once."""
    if system and user:
        raise OrchError(Kind.INVALID, "--system and --user exclude each other", hint="leave one of them out")
    return system or (not user and os.geteuid() == 0)


def text(asked: Asked) -> str:
    """Return the text of the unit."""
    return unit.unit(_install(asked, os.environ))


def install(asked: Asked, *, now: bool) -> Iterator[str]:
    """Write the unit and what goes with it, yielding what was done and what is left to do; raise OrchError."""
    found = _install(asked, os.environ)
    path = _unit_path(asked.system, os.environ)
    if asked.system:
        yield from _written(Path(unit.SYSUSERS), unit.SYSUSERS_TEXT)
    if not Path(found.environment_file).exists():
        yield from _written(Path(found.environment_file), unit.ENVIRONMENT_TEXT)
    yield from _written(path, unit.unit(found))
    yield from _remarks(found)
    yield from _brought_about(unit.steps(found), now=now)


def uninstall(*, system: bool, now: bool) -> Iterator[str]:
    """Remove the unit, yielding what was done and what is left to do; raise OrchError."""
    path = _unit_path(system, os.environ)
    if not path.exists():
        hint = "orch agent uninstall --user, or --system"
        raise OrchError(Kind.NOT_FOUND, "there is no unit", where=str(path), hint=hint)
    yield from _brought_about(unit.steps_back(system=system), now=now)
    try:
        path.unlink()
    except OSError as error:
        raise _refused(path, error) from None
    yield f"removed {path}; the state and the environment file stay"


def _install(asked: Asked, environ: Mapping[str, str]) -> Install:
    tree = source_tree()
    state = str(asked.state.absolute()) if asked.state is not None else _state(asked, environ)
    return Install(
        system=asked.system,
        command=(sys.executable, "-m", "orchestrator.cli", "agent", "run"),
        state=state,
        environment_file=unit.SYSTEM_ENVIRONMENT if asked.system else str(paths.config_dir(environ) / "orch/agent.env"),
        groups=tuple(_present(unit.ACCELERATOR_GROUPS)) if asked.system else (),
        python_path=None if tree is None else str(tree),
    )


def _state(asked: Asked, environ: Mapping[str, str]) -> str:
    return unit.SYSTEM_STATE if asked.system else str(paths.state_dir(environ))


def _unit_path(system: bool, environ: Mapping[str, str]) -> Path:
    folder = Path(unit.SYSTEM_FOLDER) if system else paths.config_dir(environ) / unit.USER_FOLDER
    return folder / unit.NAME


def _present(groups: Sequence[str]) -> Iterator[str]:
    """Yield the groups that this machine has: a unit that names another does not start."""
    known = {group.gr_name for group in grp.getgrall()}
    yield from (group for group in groups if group in known)


def _written(path: Path, content: str) -> Iterator[str]:
    staged = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(content, encoding="utf-8")
        staged.chmod(0o644)
        staged.replace(path)
    except OSError as error:
        raise _refused(path, error) from None
    yield f"wrote {path}"


def _refused(path: Path, error: OSError) -> OrchError:
    hint = (
        "run it as root (sudo), or use --user"
        if isinstance(error, PermissionError)
        else "see that the folder can be written"
    )
    return OrchError(Kind.FAILED, f"cannot be changed: {error.strerror}", where=str(path), hint=hint)


def _remarks(found: Install) -> Iterator[str]:
    """Yield what would keep the unit from starting."""
    layout = Layout(Path(found.state))
    if paths.too_long(layout):
        yield f"note: {found.state} is too long a path for the sockets in it; name another with --state"
    if found.system and found.command[0].startswith(HOMES):
        yield f"note: the user {unit.SYSTEM_USER} must be able to run {found.command[0]}; below /opt it can"
    try:
        answer = admin.call(layout.socket, "version", timeout_s=ANSWER_S)
    except OrchError:
        return
    yield f"note: an agent runs there already (process {answer['pid']}); end it first: orch agent stop"


def _brought_about(steps: Sequence[Sequence[str]], *, now: bool) -> Iterator[str]:
    if not now:
        yield "now run:"
        yield from (f"  {shlex.join(step)}" for step in steps)
        return
    for step in steps:
        yield f"running {shlex.join(step)}"
        _run(step)


def _run(step: Sequence[str]) -> None:
    program = shutil.which(step[0])
    if program is None:
        what = f"there is no {step[0]} here: this machine may not run systemd"
        raise OrchError(
            Kind.UNSUPPORTED, what, hint="without systemd: orch agent start, or orch agent run in a container"
        )
    try:
        ran = subprocess.run([program, *step[1:]], capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        hint = f"journalctl -u {unit.NAME} says what it does"
        raise OrchError(
            Kind.DEADLINE, f"{shlex.join(step)} did not end within {STEP_TIMEOUT_S:g} s", hint=hint
        ) from None
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or [f"exit code {ran.returncode}"]
        hint = f"journalctl -u {unit.NAME} may say more; the unit is written"
        raise OrchError(Kind.FAILED, f"{shlex.join(step)}: {said[0]}", hint=hint)
