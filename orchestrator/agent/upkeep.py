"""What the agent does for itself every few seconds: it keeps its log bounded and tells systemd that it lives."""

from __future__ import annotations

import asyncio

from orchestrator.agent.paths import Layout
from orchestrator.agent.systemd import ALIVE, Notifier
from orchestrator.serving.log_file import rotate_own

EVERY_S = 2.0
SAFETY = 3.0  # words in each period of the watchdog: one may be lost, and a busy machine may delay another


async def keep_up(layout: Layout, notifier: Notifier, every_s: float = EVERY_S) -> None:
    """Go on until cancelled. It runs on the agent's loop, so a loop that hangs says nothing, and systemd ends it."""
    pause_s = every_s if notifier.watchdog_s is None else min(every_s, notifier.watchdog_s / SAFETY)
    while True:
        if notifier.watchdog_s is not None:
            notifier.tell(ALIVE)
        rotate_own(layout.log)
        await asyncio.sleep(pause_s)
