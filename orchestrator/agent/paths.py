"""Where the agent keeps its state: the folder, and the files and sockets in it."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError

SOCKET_PATH_MAX_BYTES = 107  # unix(7): 108 with the closing zero; asyncio binds by the whole path
_LONGEST_FILE = "/control.sock"


@dataclass(frozen=True, slots=True)
class WorkerPaths:
    """The folder of one worker process."""

    folder: Path

    @property
    def control(self) -> Path:
        """Return the socket that the worker answers on."""
        return self.folder / "control.sock"

    @property
    def fds(self) -> Path:
        """Return the socket that hands out the worker's listening socket."""
        return self.folder / "fds.sock"

    @property
    def plan(self) -> Path:
        """Return the plan that the worker starts with."""
        return self.folder / "plan.json"

    @property
    def record(self) -> Path:
        """Return what the store knew of the deployment, from which a damaged store is rebuilt."""
        return self.folder / "record.json"

    @property
    def log(self) -> Path:
        """Return the file of the worker's stdout and stderr."""
        return self.folder / "worker.log"

    @property
    def requests(self) -> Path:
        """Return the log of single requests, where that is switched on."""
        return self.folder / "requests.log"

    @property
    def failure(self) -> Path:
        """Return the file in which a worker says why its plan cannot run."""
        return self.folder / "failure.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one state folder."""

    root: Path

    @property
    def socket(self) -> Path:
        """Return the socket that the agent answers on."""
        return self.root / "agent.sock"

    @property
    def lock(self) -> Path:
        """Return the file whose lock says that an agent runs."""
        return self.root / "agent.lock"

    @property
    def log(self) -> Path:
        """Return the agent's log."""
        return self.root / "agent.log"

    @property
    def database(self) -> Path:
        """Return the SQLite file."""
        return self.root / "state.db"

    @property
    def workers(self) -> Path:
        """Return the folder that holds a folder for each worker."""
        return self.root / "workers"

    @property
    def sources(self) -> Path:
        """Return the folder that holds a folder for each source."""
        return self.root / "sources"

    def worker(self, deployment: str, slot: int = 0) -> WorkerPaths:
        """Return the folder of a deployment's worker; slot 1 is for one that is about to replace the one in slot 0.

        A long name is shortened, with a digest, where the control socket's path would become too long.
        """
        suffix = ".b" if slot else ""
        room = SOCKET_PATH_MAX_BYTES - len(os.fsencode(self.workers)) - len("/.b") - len(_LONGEST_FILE)
        if len(deployment) > room:
            digest = hashlib.sha256(deployment.encode()).hexdigest()[:8]
            deployment = f"{deployment[: max(0, room - 9)]}-{digest}"
        return WorkerPaths(self.workers / (deployment + suffix))

    def regions(self, deployment: str) -> Path:
        """Return the file in which the workers of a deployment keep which shared memory clients have registered."""
        folder = self.worker(deployment).folder
        return folder.with_name(folder.name + ".regions.json")


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the state folder: ORCH_HOME, else `orch` under XDG_STATE_HOME or ~/.local/state; nothing is created."""
    if environ.get("ORCH_HOME"):
        return Path(environ["ORCH_HOME"]).expanduser().absolute()
    if environ.get("XDG_STATE_HOME", "").startswith("/"):  # relative ones are to be ignored, says the XDG specification
        return Path(environ["XDG_STATE_HOME"]) / "orch"
    return Path(environ.get("HOME") or Path.home()).absolute() / ".local" / "state" / "orch"


def config_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of this user's settings, as the XDG specification has it."""
    if environ.get("XDG_CONFIG_HOME", "").startswith("/"):
        return Path(environ["XDG_CONFIG_HOME"])
    return Path(environ.get("HOME") or Path.home()).absolute() / ".config"


def create(root: Path) -> Layout:
    """Create the state folder (0700) and return its layout; raise OrchError where that cannot be."""
    layout = Layout(root)
    if too_long(layout):
        hint = "set ORCH_HOME to a folder with a shorter path"
        raise OrchError(Kind.UNSUPPORTED, "the path is too long for the sockets in it", where=str(root), hint=hint)
    try:
        for folder in (root, layout.workers):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        root.chmod(0o700)
    except OSError as error:
        raise state_error(error, root) from None
    return layout


def too_long(layout: Layout) -> bool:
    """Tell whether the path leaves no room for the sockets of a worker."""
    return len(os.fsencode(layout.workers)) + len("/12345678.b") + len(_LONGEST_FILE) > SOCKET_PATH_MAX_BYTES


def state_error(error: OSError, path: Path) -> OrchError:
    """Return the OrchError for a failure to write state."""
    hint = "set ORCH_HOME to a folder that this user may write"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = "free some space, then repeat the command; nothing was lost"
    return OrchError(Kind.FAILED, f"cannot write the state: {error.strerror or error}", where=str(path), hint=hint)


def retire(layout: Layout) -> None:
    """Leave word that the agent ends of its own will: nobody finds its socket, and its lock file is empty."""
    layout.socket.unlink(missing_ok=True)
    with suppress(OSError):
        os.truncate(layout.lock, 0)


def write(path: Path, text: str) -> None:
    """Write a state file by staging and replacing it; raise OrchError, and leave the old one, when that fails."""
    staged = path.with_name(path.name + ".new")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    except OSError as error:
        raise state_error(error, path) from None
