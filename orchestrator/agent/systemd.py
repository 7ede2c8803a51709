"""Tells systemd how the agent does: ready, alive, ending (sd_notify(3)); without systemd nobody is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  # of the agent alone, never of its workers
READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"
SEND_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Notifier:
    """Where systemd listens, and how often it wants to hear from the agent."""

    address: str | None = None
    watchdog_s: float | None = None
    """After this long without a word the agent is ended and started again."""

    def tell(self, *words: str) -> None:
        """Send one message; one that cannot be sent is lost, and the watchdog will tell."""
        if self.address is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(SEND_TIMEOUT_S)
            channel.sendto("\n".join(words).encode(), self.address)


def notifier(environ: Mapping[str, str], pid: int | None = None) -> Notifier:
    """Return whom the environment names; nobody where this process was not started by systemd."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return Notifier()
    asked = environ.get("WATCHDOG_USEC", "")
    own = environ.get("WATCHDOG_PID", "") in {"", str(os.getpid() if pid is None else pid)}
    period_s = int(asked) / 1e6 if asked.isdecimal() and own else None
    return Notifier(address.replace("@", "\0", 1) if address.startswith("@") else address, period_s or None)


def without(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for other processes: what is said there would be taken for the agent's own word."""
    return {name: value for name, value in environ.items() if name not in VARIABLES}
