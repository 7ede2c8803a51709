"""How the command line finds the agent, starts it where none runs, and calls it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.agent import paths, systemd
from orchestrator.agent.paths import Layout
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import admin

ANSWER_TIMEOUT_S = 5.0  # an agent answers at once; a machine whose cores compile takes longer
START_TIMEOUT_S = 10.0
START_POLL_S = 0.02


def ensure_agent(environ: Mapping[str, str], *, start: bool) -> Path:
    """Return the socket of the running agent; start one if asked, or if the last one did not end of its own will.

    Raise OrchError: UNAUTHORIZED where the state is another user's, UNAVAILABLE when none runs and none is to be
    started, FAILED with the end of its log when it does not come up within START_TIMEOUT_S.
    """
    layout = Layout(paths.state_dir(environ))
    if _answers(layout):
        return layout.socket
    _check_allowed(layout)
    check_own(layout, os.geteuid())
    if not start and not _was_killed(layout):
        hint = "orch apply starts it, and so does orch agent start"
        raise OrchError(Kind.UNAVAILABLE, "no agent runs", where=str(layout.root), hint=hint)
    _start(paths.create(layout.root), environ)
    return layout.socket


def agent_call(
    environ: Mapping[str, str], method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float
) -> Any:
    """Return the running agent's answer; raise its OrchError, or UNAVAILABLE when none runs."""
    return admin.call(ensure_agent(environ, start=False), method, dict(params or {}), timeout_s=timeout_s)


def stop_agent(environ: Mapping[str, str], *, workers: bool, timeout_s: float) -> int:
    """Stop the running agent, with its workers if asked, and return its pid once the process is gone.

    Raise OrchError: UNAVAILABLE when none runs, DEADLINE when it still runs after `timeout_s`.
    """
    from orchestrator.agent.process import identify  # only who stops it needs it

    deadline = time.monotonic() + timeout_s
    answer = agent_call(environ, "stop", {"workers": workers}, timeout_s=timeout_s)
    pid = int(answer["pid"])
    ending = identify(pid)
    while ending is not None and identify(pid) == ending:
        if time.monotonic() > deadline:
            hint = "it finishes a change; orch agent status says whether it runs"
            raise OrchError(Kind.DEADLINE, f"the agent (pid {pid}) has not ended within {timeout_s:g} s", hint=hint)
        time.sleep(START_POLL_S)
    return pid


def workers_serve(environ: Mapping[str, str]) -> bool:
    """Tell whether a worker answers, whether or not an agent runs."""
    return any(_listens(control) for control in Layout(paths.state_dir(environ)).workers.glob("*/control.sock"))


def _listens(path: Path) -> bool:
    import socket  # only who stops everything asks

    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWER_TIMEOUT_S)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _answers(layout: Layout) -> bool:
    try:
        admin.call(layout.socket, "version", timeout_s=ANSWER_TIMEOUT_S)
    except OrchError as error:
        if error.kind is Kind.DEADLINE:
            hint = f"see {layout.log}; kill -9 the agent if it stays so, its deployments go on serving"
            raise OrchError(Kind.UNAVAILABLE, "the agent does not answer", where=str(layout.root), hint=hint) from None
        return False
    return True


def _check_allowed(layout: Layout) -> None:
    """Raise UNAUTHORIZED where this user may not ask whether an agent runs."""
    try:
        layout.socket.stat()
        if os.access(layout.socket, os.R_OK | os.W_OK):
            return
    except PermissionError:
        pass
    except OSError:  # there is none
        return
    hint = "it may be another user's: ask as that user, or set ORCH_HOME to a folder of your own"
    raise OrchError(Kind.UNAUTHORIZED, "this user may not use the state there", where=str(layout.root), hint=hint)


def check_own(layout: Layout, user: int) -> None:
    """Raise UNAUTHORIZED for the state of another user: root could start an agent, whose files that user cannot use."""
    try:
        owner = layout.database.stat().st_uid
    except OSError:  # there is none, or it is not for us to see
        return
    if owner != user:
        what = f"the state there belongs to another user (uid {owner}), whose agent does not run"
        hint = f"start it as that user: sudo systemctl start orch-agent, or sudo -u '#{owner}' orch agent start"
        raise OrchError(Kind.UNAUTHORIZED, what, where=str(layout.root), hint=hint)


def _was_killed(layout: Layout) -> bool:
    """Tell whether an agent ended without being asked to: it would have emptied its lock file."""
    try:
        return layout.lock.stat().st_size > 0
    except OSError:
        return False


def _start(layout: Layout, environ: Mapping[str, str]) -> None:
    # Only who starts the agent needs these.
    import subprocess
    import sys

    from orchestrator.agent.process import rotate, tail

    try:
        rotate(layout.log)
        log = os.open(layout.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise paths.state_error(error, layout.log) from None
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.agent"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=layout.root,
            env=worker_environ(environ) | {"ORCH_HOME": str(layout.root)},  # a relative one means another folder there
            start_new_session=True,
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _answers(layout):
            child.returncode = 0  # it outlives this process on purpose
            return
        # One that ended with 1 may have found another that came first: that one answers soon.
        if child.poll() not in {None, 1}:
            break
        time.sleep(START_POLL_S)
    child.returncode = child.returncode or 0
    what = "the agent did not start" + (f"; its log ends:\n{tail(layout.log)}" if tail(layout.log) else "")
    raise OrchError(Kind.FAILED, what, where=str(layout.log), hint="orch agent run shows it in the foreground")


def worker_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which our processes find this package wherever they run."""
    environ = systemd.without(environ)
    package = source_tree()
    if package is None:
        return environ
    known = environ.get("PYTHONPATH", "").split(os.pathsep)
    search = [str(package), *(path for path in known if path and path != str(package))]
    return {**environ, "PYTHONPATH": os.pathsep.join(search)}


def source_tree() -> Path | None:
    """Return the folder that holds this package where it is not installed as a copy; None where it is."""
    folder = Path(__file__).parents[2]
    return None if folder.name in {"site-packages", "dist-packages"} else folder
