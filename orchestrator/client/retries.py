"""When a refused call may be sent again, and when it had better not be sent at all: decisions only, told the time.

Three rules keep clients from making an overload worse. A call is tried at most three times, and never before the
server's hint or after its own deadline. Tries beyond the first come out of a budget of a tenth of the calls. And a
client whose calls are mostly refused sends only twice of what is accepted (adaptive throttling, "Handling Overload" in
the SRE book), the rest it refuses itself, at no cost to the server.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Hashable
from random import Random

TRIES_MAX = 3
CALLS_PER_RETRY = 10
RETRIES_AT_START = TRIES_MAX - 1  # so that the single call of a script may be tried again
RETRIES_SAVED_MAX = 10  # after a long calm; a burst of more would itself be a storm
SENT_PER_ACCEPTED = 2.0  # K of the SRE book: enough that a server that is well again is found out at once
PADDING = 8  # calls that say nothing yet, as in gRPC's adaptive throttler
WINDOW_S = 1.0  # the SRE book's two minutes are for fleets; one host is well again within a second
STEP_S = 0.125
SPREAD_MIN_S = 0.001
KEYS_MAX = 256  # models and priorities whose refusals are remembered apart

# The same rules in gRPC's own words, for `channel_args=[("grpc.service_config", GRPC_SERVICE_CONFIG)]`: its library
# obeys `grpc-retry-pushback-ms`, and keeps a budget by itself (gRFC A6).
GRPC_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": TRIES_MAX,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
                },
            }
        ],
        # gRPC starts full and retries while more than half is left; a refusal takes 1, a success gives a tenth back.
        "retryThrottling": {"maxTokens": 2 * RETRIES_AT_START, "tokenRatio": 1 / CALLS_PER_RETRY},
    }
)


class Budget:
    """Retries that may still be made: one for each ten calls, counted in tenths."""

    def __init__(self) -> None:
        self._tenths = CALLS_PER_RETRY * RETRIES_AT_START

    def called(self) -> None:
        """Count a call, whatever becomes of it."""
        self._tenths = min(self._tenths + 1, CALLS_PER_RETRY * RETRIES_SAVED_MAX)

    def take(self) -> bool:
        """Take one retry out; False where none is left."""
        if self._tenths < CALLS_PER_RETRY:
            return False
        self._tenths -= CALLS_PER_RETRY
        return True


class Throttle:
    """How many of the last tries were accepted, and from that how many are better not sent."""

    def __init__(self) -> None:
        self._steps: deque[list[float]] = deque()  # begin, tries, accepted
        self._tries = 0.0
        self._accepted = 0.0
        self.retry_after_s: float | None = None
        """The server's last hint."""

    def held_back(self, now: float) -> float:
        """Return the share of tries that are not to be sent, 0 to 1."""
        self._forget(now)
        return max(0.0, (self._tries - SENT_PER_ACCEPTED * self._accepted) / (self._tries + PADDING))

    def tried(self, now: float, *, accepted: bool) -> None:
        """Count a try: one that was answered, or one that was refused by the server or held back here."""
        self._forget(now)
        if not self._steps or now - self._steps[-1][0] >= STEP_S:
            self._steps.append([now, 0.0, 0.0])
        self._steps[-1][1] += 1
        self._tries += 1
        if accepted:
            self._steps[-1][2] += 1
            self._accepted += 1

    def _forget(self, now: float) -> None:
        while self._steps and now - self._steps[0][0] >= WINDOW_S:
            _, tries, accepted = self._steps.popleft()
            self._tries -= tries
            self._accepted -= accepted


class Retries:
    """What all calls of one client know together of the server; not thread-safe: its owner holds a lock.

    `key` tells apart what is full on its own: a model, and the priority of the calls. Times are seconds of one
    monotonic clock.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._budget = Budget()
        self._throttles: OrderedDict[Hashable, Throttle] = OrderedDict()

    def called(self) -> None:
        """Count a call, which earns a tenth of a retry."""
        self._budget.called()

    def may_send(self, key: Hashable, now: float) -> bool:
        """Tell whether to send this try; False for the part that is held back while most are refused."""
        throttle = self._throttle(key)
        share = throttle.held_back(now)
        if share == 0.0 or self._chance.random() >= share:
            return True
        throttle.tried(now, accepted=False)
        return False

    def answered(self, key: Hashable, now: float) -> None:
        """Count a try that the server took, however it answered."""
        self._throttle(key).tried(now, accepted=True)

    def refused(self, key: Hashable, now: float, retry_after_s: float | None) -> None:
        """Count a try that the server refused because it was full."""
        throttle = self._throttle(key)
        throttle.tried(now, accepted=False)
        throttle.retry_after_s = retry_after_s

    def retry_after_s(self, key: Hashable) -> float | None:
        """Return the server's last hint."""
        return self._throttle(key).retry_after_s

    def wait_s(self, retry_after_s: float | None, tries: int, left_s: float) -> float | None:
        """Return how long to wait before the next try of a call that was refused `tries` times; None: give up.

        Never less than the hint and up to twice that (four times after the second refusal), evenly spread, so that
        those who were refused together do not come back together.
        """
        if retry_after_s is None or tries >= TRIES_MAX:
            return None
        spread = max(SPREAD_MIN_S, retry_after_s) * 2 ** (tries - 1)
        wait_s = retry_after_s + self._chance.uniform(0.0, spread)
        return wait_s if wait_s < left_s and self._budget.take() else None

    def _throttle(self, key: Hashable) -> Throttle:
        throttle = self._throttles.get(key)
        if throttle is None:
            throttle = self._throttles[key] = Throttle()
            if len(self._throttles) > KEYS_MAX:
                self._throttles.popitem(last=False)
        return throttle
