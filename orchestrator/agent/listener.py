"""The HTTP listening sockets: made by the agent, lent to workers, and got back from them after the agent was killed."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError

BACKLOG = 4096  # connections that wait while a worker is started again; the kernel's somaxconn bounds it further
RECEIVE_TIMEOUT_S = 2.0
_LISTEN_STATE = "0A"  # of /proc/net/tcp


def bind(address: str, field: str = "spec.endpoint.http") -> socket.socket:
    """Return a socket that listens on HOST:PORT; raise OrchError naming who holds the port, or what is wrong.

    It listens at once: two sockets with SO_REUSEADDR may be bound to one port, only listening claims it.
    """
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        hint = f"change {field}"
        raise OrchError(Kind.FAILED, f"{host} is no address of this machine: {error.strerror}", hint=hint) from None
    family, kind, protocol, _, target = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _refused(error, address, field) from None
    return listener


def check_free(address: str, field: str) -> None:
    """Raise OrchError when HOST:PORT cannot be listened on now."""
    if not address.endswith(":0"):
        bind(address, field).close()


def _refused(error: OSError, address: str, field: str) -> OrchError:
    port = int(address.rpartition(":")[2])
    if error.errno == errno.EADDRINUSE:
        hint = f"free it, or change {field}"
        return OrchError(Kind.CONFLICT, f"port {port} is taken by {holder(port) or Holder()}", where=address, hint=hint)
    hint = f"change {field}"
    if error.errno == errno.EACCES:
        hint = f"ports below 1024 need a privilege; change {field}"
    return OrchError(Kind.FAILED, f"cannot listen: {error.strerror}", where=address, hint=hint)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port; its pid and name are None where this user may not see them."""

    pid: int | None = None
    name: str | None = None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"pid {self.pid} ({self.name})"


def holder(port: int) -> Holder | None:
    """Return who listens on the port, None where nobody does."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(Path("/proc/net") / table, port)}
    if not inodes:
        return None
    with os.scandir("/proc") as processes:
        for entry in processes:
            if entry.name.isdigit() and _holds(Path(entry.path), inodes):
                with suppress(OSError):  # it ended meanwhile
                    return Holder(int(entry.name), Path(entry.path, "comm").read_text().strip())
    return Holder()


def _listening(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [
        f"socket:[{row[9]}]" for row in rows if row[3] == _LISTEN_STATE and int(row[1].rpartition(":")[2], 16) == port
    ]


def _holds(process: Path, inodes: set[str]) -> bool:
    with suppress(OSError), os.scandir(process / "fd") as descriptors:  # it ended, or belongs to somebody else
        for descriptor in descriptors:
            with suppress(OSError):
                if str(Path(descriptor.path).readlink()) in inodes:
                    return True
    return False


def receive(path: Path) -> socket.socket | None:
    """Return the listening socket that the worker behind `path` hands out, None where it hands out none."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(RECEIVE_TIMEOUT_S)
            connection.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(connection, 16, 1)
    except OSError:
        return None
    if not descriptors:
        return None
    listener = socket.socket(fileno=descriptors[0])
    listener.set_inheritable(False)
    return listener
