"""Long work on the event loop, a step at a time: between two steps the loop serves whoever waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

Steps = Iterator[None]
Ended = Callable[[Exception | None], None]
Wanted = Callable[[], bool]


class Turns:
    """Takes one step of one piece of work in each turn of the loop; the pieces of work take turns.

    There is no bound of its own: each piece of work belongs to a request that a pool has admitted.
    """

    def __init__(self) -> None:
        self._work: deque[tuple[Steps, Ended, Wanted]] = deque()

    def start(self, steps: Steps, ended: Ended, wanted: Wanted) -> None:
        """Begin; `ended` is told of the end or of the error, nobody once the work is not `wanted` any more."""
        self._work.append((steps, ended, wanted))
        if len(self._work) == 1:
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        steps, ended, wanted = self._work[0]
        over, error = True, None
        try:
            if wanted():
                next(steps)
                over = False
        except StopIteration:
            pass
        except Exception as failure:  # noqa: BLE001 - told to whom the work belongs
            error = failure
        self._work.rotate(-1)
        if over:
            self._work.pop()
        if self._work:
            asyncio.get_running_loop().call_soon(self._step)
        if over and wanted():
            ended(error)
