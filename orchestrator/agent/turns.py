"""Lets changes of one deployment come one after the other, and those of different ones pass each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Kind, OrchError

Report = Callable[[dict[str, Any]], None]


@dataclass(slots=True, eq=False)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Who may change which deployment now; lives on one event loop."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def taken(self, name: str) -> bool:
        """Tell whether somebody has the turn of the name."""
        return name in self._turns and self._turns[name].lock.locked()

    @asynccontextmanager
    async def take(self, names: Iterable[str], report: Report, deadline: float) -> AsyncIterator[None]:
        """Have the turn of all names, waiting until `deadline` on the loop's clock at most; raise DEADLINE."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):  # in one order, so that no two wait for each other
                await stack.enter_async_context(self._one(name, report, deadline))
            yield

    @asynccontextmanager
    async def _one(self, name: str, report: Report, deadline: float) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, _Turn())
        turn.users += 1
        try:
            await _acquire(turn.lock, report, deadline)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[name]


async def _acquire(lock: asyncio.Lock, report: Report, deadline: float) -> None:
    if lock.locked():
        report({"deployment": None, "model": None, "phase": "waiting", "message": "another change is being made"})
    try:
        async with asyncio.timeout_at(deadline):
            await lock.acquire()
    except TimeoutError:
        hint = "repeat the command when the other one has ended"
        raise OrchError(Kind.DEADLINE, "another change is still being made", hint=hint) from None
