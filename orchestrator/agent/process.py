"""Worker processes as the kernel knows them: started, found again, watched, ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.agent.paths import WorkerPaths, state_error
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import log_file

LOG_TAIL_LINES = 10
LOG_TAIL_BYTES = 8192
STATE_FLAG = "--state"  # what follows it on a worker's command line is its folder
LISTEN_FD = 3  # number of the listening socket in the worker
_RESET_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process beyond doubt: pids are used again, a pid with its start time in one boot is not."""

    pid: int
    ticks: int
    """Start of the process in clock ticks since boot."""


def boot_id() -> str:
    """Return what tells this boot of the machine from others; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process, None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def find(workers: Path) -> dict[Path, list[Identity]]:
    """Return this user's worker processes whose folder lies in `workers`, by folder."""
    found: dict[Path, list[Identity]] = {}
    for pid in _own_pids():
        folder = _worker_folder(pid)
        if folder is not None and folder.parent == workers:
            identity = identify(pid)
            if identity is not None:
                found.setdefault(folder, []).append(identity)
    return found


def _own_pids() -> Iterator[int]:
    user = os.getuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.stat().st_uid == user and int(entry.name) != os.getpid():
                    yield int(entry.name)


def _worker_folder(pid: int) -> Path | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    flag = STATE_FLAG.encode()
    # A shell that was handed the same words as one string is no worker: the flag must stand alone.
    return Path(os.fsdecode(arguments[arguments.index(flag) + 1])) if flag in arguments[:-1] else None


def spawn(command: Sequence[str], environ: Mapping[str, str], log: Path, listen: int | None) -> int:
    """Start a process in a session of its own and return its pid; it has `listen` as its descriptor LISTEN_FD.

    stdin is /dev/null, stdout and stderr are appended to `log`. Raise OrchError when it cannot be started.
    """
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise state_error(error, log) from None
    actions: list[tuple[int, int] | tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    if listen is not None:
        actions.append((os.POSIX_SPAWN_DUP2, listen, LISTEN_FD))  # last: `output` may have this number here
    try:
        return os.posix_spawn(
            command[0],
            [*command],
            {**environ},
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET_SIGNALS,
        )
    except OSError as error:
        hint = "the machine may be out of memory or processes"
        raise OrchError(Kind.FAILED, f"cannot start {command[0]}: {error.strerror}", hint=hint) from None
    finally:
        os.close(output)


def rotate(log: Path) -> int:
    """Put a log that is full aside before a process begins to write, and return where its first line will begin."""
    try:
        size = log.stat().st_size
        if size < log_file.MAX_BYTES:
            return size
        log_file.shift(log)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise state_error(error, log) from None
    return 0


def tail(log: Path, lines: int = LOG_TAIL_LINES, *, offset: int = 0) -> str:
    """Return the last lines of a log that begin at or after `offset`, empty when there are none.

    A log that is shorter than that has been begun anew meanwhile: all of it counts.
    """
    try:
        with log.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(offset if offset <= size else 0, size - LOG_TAIL_BYTES))
            text = file.read(LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def open_pidfd(identity: Identity) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None when it has gone already."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return None
    now = identify(identity.pid)
    if now is not None and now != identity:  # somebody else has the pid by now; None is our own zombie
        os.close(descriptor)
        return None
    return descriptor


def reap(pid: int) -> int | None:
    """Return the exit code of a child that has ended, negative for a signal; None when it is not our child."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None


def kill(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to the process, if it is still there; `pidfd` must be open."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def clear(paths: WorkerPaths) -> None:
    """Remove what an earlier worker left that could be taken for the new one's."""
    for path in (paths.control, paths.fds, paths.failure):
        path.unlink(missing_ok=True)


def close(pidfd: int) -> None:
    """Close the descriptor of a process."""
    os.close(pidfd)
