"""Calls that are tried again as `client.retries` decides: the one loop that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from random import Random
from typing import TypeVar

from orchestrator.client.failures import Overloaded
from orchestrator.client.retries import Retries

Result = TypeVar("Result")


class Retrying:
    """Calls whatever raises Overloaded, again when the server says; one for all calls to a server. Thread-safe.

    `Client` has one. With another client library: let `ask` make the call, and raise Overloaded with the server's
    `retry_after_s` in place of what that library raises for a 503.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Random | None = None,
    ) -> None:
        """Store the parts, which tests replace; `chance` spreads the waits."""
        self._clock = clock
        self._sleep = sleep
        self._retries = Retries(chance or Random())
        self._lock = threading.Lock()

    def call(self, ask: Callable[[float], Result], *, timeout_s: float, key: Hashable = None) -> Result:
        """Return what `ask(seconds that are left)` returns; raise the last Overloaded when it is not asked again.

        Refusals of one `key` (a model, a priority) say nothing of another's.
        """
        deadline = self._clock() + timeout_s
        left_s, tries, refusal = timeout_s, 0, None
        while True:
            self._may_send(key, refusal, first=tries == 0)
            tries += 1
            try:
                result = ask(left_s)
            except Overloaded as error:
                refusal = error
                wait_s = self._wait_s(key, error, tries, deadline)
            except Exception:
                self._answered(key)  # it did not refuse for being full
                raise
            else:
                self._answered(key)
                return result
            if wait_s is None:
                raise refusal
            self._sleep(wait_s)
            left_s = deadline - self._clock()
            if left_s <= 0:  # a sleep may take longer than it was asked to
                raise refusal

    def _may_send(self, key: Hashable, refusal: Overloaded | None, *, first: bool) -> None:
        with self._lock:
            if first:
                self._retries.called()
            if self._retries.may_send(key, self._clock()):
                return
            retry_after_s = self._retries.retry_after_s(key)
        if refusal is not None:
            raise refusal
        hint = "send less, or call again later; this ends by itself when the server accepts again"
        what = "not sent: the server refused most of this client's last calls"
        raise Overloaded(what, where=_where(key), hint=hint, retry_after_s=retry_after_s)

    def _wait_s(self, key: Hashable, error: Overloaded, tries: int, deadline: float) -> float | None:
        with self._lock:
            now = self._clock()
            self._retries.refused(key, now, error.retry_after_s)
            return self._retries.wait_s(error.retry_after_s, tries, deadline - now)

    def _answered(self, key: Hashable) -> None:
        with self._lock:
            self._retries.answered(key, self._clock())


def _where(key: Hashable) -> str | None:
    return None if key is None else str(key)
