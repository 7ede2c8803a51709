"""Renders the page of metrics off the event loop: a pool costs half a millisecond, and there may be many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Page = tuple[bytes, str]
"""The page and its content type."""
Metrics = Callable[[str], Page]
"""Takes the Accept header."""
Done = Callable[[Page | BaseException], None]


class Scrapes:
    """Has one page rendered at a time for each Accept header; whoever asks meanwhile gets the same."""

    def __init__(self, render: Metrics) -> None:
        self._render = render
        self._waiting: dict[str, list[Done]] = {}

    def ask(self, accept: str, done: Done) -> None:
        """Have the page rendered; `done` is called on the loop, with the page or with the error."""
        waiting = self._waiting.setdefault(accept, [])
        waiting.append(done)
        if len(waiting) == 1:
            rendering = asyncio.get_running_loop().run_in_executor(None, self._render, accept)
            rendering.add_done_callback(lambda future: self._rendered(accept, future))

    def _rendered(self, accept: str, future: asyncio.Future[Page]) -> None:
        waiting = self._waiting.pop(accept)
        if future.cancelled():
            return  # the loop ends, and its connections with it
        error = future.exception()
        for done in waiting:
            done(future.result() if error is None else error)
