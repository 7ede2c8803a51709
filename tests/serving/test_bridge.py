"""The way of outcomes to the event loop, and what is known of how long it takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from orchestrator.runner.pool import Outcome
from orchestrator.serving.dataplane import Bridge


class Turns:
    """A clock that the test moves, and the lags that were told."""

    def __init__(self) -> None:
        self.now = 10.0
        self.lags: list[float] = []

    def clock(self) -> float:
        return self.now


def test_outcomes_of_one_turn_share_a_wake_up_and_its_lag_is_told() -> None:
    turns, taken = Turns(), []

    async def scenario() -> None:
        bridge = Bridge(asyncio.get_running_loop(), turns.lags.append, turns.clock)
        posts: list[Callable[[Outcome], None]] = [bridge.to_loop(taken.append) for _ in range(3)]
        for post in posts:
            thread = threading.Thread(target=post, args=(Outcome(),))
            thread.start()
            thread.join(10)
        turns.now += 0.25  # the loop is busy meanwhile
        await asyncio.sleep(0)
        posts[0](Outcome())
        turns.now += 0.5
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert len(taken) == 4
    assert turns.lags == [0.25, 0.5]
