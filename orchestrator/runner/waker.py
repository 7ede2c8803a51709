"""A thread that calls back at a given time: for pools that hold batches back, more exactly than the worker's clockwork.

Only such pools have one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf

JOIN_S = 5.0


class Waker:
    """Calls `wake` once the time is there; a new time replaces the one before."""

    def __init__(self, wake: Callable[[], None], clock: Callable[[], float], name: str) -> None:
        self._wake = wake
        self._clock = clock
        self._changed = threading.Condition()
        self._at = inf
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def at(self, when: float) -> None:
        """Call back then; infinite: not at all."""
        if when == self._at:
            return
        with self._changed:
            earlier, self._at = when < self._at, when
            if earlier:  # else it wakes up early once, and waits on
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (left := self._at - self._clock()) > 0:
                    self._changed.wait(None if left == inf else left)
                if self._stopped:
                    return
                self._at = inf
            self._wake()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)
