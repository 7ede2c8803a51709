"""Pools whose inferences fail or hang are built anew: one at a time, at once, then later and later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import OrchError
from orchestrator.runner.pool import Pool

DELAY_S = 1.0  # before the second try; twice as long before each one after it,
DELAY_MAX_S = 60.0  # and never longer
FORGET_S = 60.0  # a pool that was well for so long did not fail because of how it was built
LEFT_MAX = 3  # pools whose inferences never ended: each keeps its model's memory for as long as the process lives
log = logging.getLogger("orch.repair")

Told = Callable[[str, str, str], None]
"""Takes model, phase (rebuilding, rebuilt, rebuild-failed) and a message."""


@dataclass(frozen=True, slots=True)
class Course:
    """What was done for one model, as times of the clock that its owner reads."""

    tries: int = 0
    """Since it was last well for a while."""
    last: float = 0.0
    rebuilt: int = 0
    """Times that another pool took the place of a bad one."""
    left: int = 0
    """Bad pools whose inferences never ended."""
    error: str | None = None
    """Why the last try failed."""

    @property
    def delay_s(self) -> float:
        """Return how long to wait after the last try: nothing at first, then 1, 2, 4 ... 60 s."""
        return 0.0 if self.tries == 0 else min(DELAY_MAX_S, DELAY_S * 2.0 ** min(self.tries - 1, 10))

    def due(self, now: float) -> bool:
        """Tell whether a bad pool is to be built anew now."""
        return self.left < LEFT_MAX and now >= self.last + self.delay_s

    def tried(self, now: float, error: str | None, *, hung: bool = False) -> Course:
        """Return the course after one more try, which ended well where there is no error."""
        good = error is None
        return Course(self.tries + 1, now, self.rebuilt + good, self.left + (good and hung), error)

    def forgiven(self, now: float) -> Course:
        """Return the course of a pool that is well now."""
        if self.tries and now - self.last >= FORGET_S:
            return Course(0, self.last, self.rebuilt, self.left)
        return self

    def said(self, now: float) -> str:
        """Say what is done about a bad pool."""
        if self.left >= LEFT_MAX:
            return f"built anew {self.rebuilt} times, and inferences still hang: end the worker to start it afresh"
        if self.error is None:
            return "it is built anew"
        wait_s = max(0.0, self.last + self.delay_s - now)
        return f"building it anew failed, the next try is in {wait_s:.0f} s: {self.error}"


class Repairs:
    """Follows pools, and has the bad ones built anew on a thread that lives only meanwhile."""

    def __init__(
        self, rebuild: Callable[[str, Pool], bool], told: Told, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Store the parts; `rebuild` returns False where nothing is to be done any more, and raises OrchError."""
        self._rebuild = rebuild
        self._told = told
        self._clock = clock
        self._courses: dict[str, Course] = {}
        self._thread: threading.Thread | None = None

    @property
    def under_way(self) -> bool:
        """Tell whether a pool is being built."""
        return self._thread is not None and self._thread.is_alive()

    def course(self, name: str) -> Course:
        """Return what was done for the model."""
        return self._courses.get(name, Course())

    def said(self, name: str) -> str:
        """Say what is done about a bad pool."""
        return self.course(name).said(self._clock())

    def look(self, pools: Mapping[str, Pool]) -> None:
        """Begin what is due; called with each tick, and returns at once."""
        now = self._clock()
        for name in self._courses.keys() - pools.keys():
            del self._courses[name]
        for name, pool in pools.items():
            course = self.course(name)
            if pool.healthy or pool.draining:
                if name in self._courses:
                    self._courses[name] = course.forgiven(now)
            elif course.due(now) and not self.under_way:
                self._begin(name, pool)

    def _begin(self, name: str, pool: Pool) -> None:
        self._thread = threading.Thread(target=self._run, args=(name, pool), name=f"orch-repair-{name}", daemon=True)
        self._thread.start()

    def _run(self, name: str, pool: Pool) -> None:
        hung = pool.wedged
        self._told(name, "rebuilding", "its inferences hang" if hung else "its inferences fail")
        course = self.course(name)
        try:
            if not self._rebuild(name, pool):
                return
            course = course.tried(self._clock(), None, hung=hung)
        except OrchError as error:
            course = course.tried(self._clock(), str(error))
        except Exception as error:
            log.exception("our bug, please report it: building %s anew", name)
            course = course.tried(self._clock(), f"our bug: {error}")
        self._courses[name] = course
        if course.error is None:
            self._told(name, "rebuilt", "compiled anew and checked; the old pool has gone")
        else:
            self._told(name, "rebuild-failed", course.error)

    def end(self, timeout_s: float) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)
