"""Long work on the loop: steps take turns with each other and with everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import pairwise

from orchestrator.serving.turns import Turns


def run(scenario: Callable[[Turns, list[str]], None], ends: int) -> list[str]:
    """Return what happened on a loop until so many pieces of work had ended."""
    happened: list[str] = []

    async def main() -> None:
        scenario(Turns(), happened)
        for _ in range(1000):
            if sum(entry.endswith("ended") for entry in happened) >= ends:
                return
            await asyncio.sleep(0)
        raise AssertionError(happened)

    asyncio.run(main())
    return happened


def work(name: str, steps: int, happened: list[str]) -> Iterator[None]:
    for _ in range(steps):
        happened.append(name)
        yield


def ended(name: str, happened: list[str]) -> Callable[[Exception | None], None]:
    return lambda error: happened.append(f"{name} {error or 'well'} ended")


def test_works_take_turns_and_the_loop_serves_others_between_any_two_steps() -> None:
    def scenario(turns: Turns, happened: list[str]) -> None:
        turns.start(work("a", 3, happened), ended("a", happened), lambda: True)
        turns.start(work("b", 2, happened), ended("b", happened), lambda: True)

        def others(left: int) -> None:
            happened.append("-")
            if left:
                asyncio.get_running_loop().call_soon(others, left - 1)

        asyncio.get_running_loop().call_soon(others, 6)

    happened = run(scenario, ends=2)
    assert [entry for entry in happened if entry != "-"] == ["a", "b", "a", "b", "a", "b well ended", "a well ended"]
    assert all("-" in pair for pair in pairwise(happened) if "ended" not in "".join(pair))


def test_an_error_is_told_to_whom_the_work_belongs_and_the_others_go_on() -> None:
    def failing() -> Iterator[None]:
        yield
        raise ValueError("bad")

    def scenario(turns: Turns, happened: list[str]) -> None:
        turns.start(failing(), ended("a", happened), lambda: True)
        turns.start(work("b", 3, happened), ended("b", happened), lambda: True)

    assert run(scenario, ends=2) == ["b", "a bad ended", "b", "b", "b well ended"]


def test_work_that_nobody_wants_any_more_ends_unfinished_and_untold() -> None:
    def scenario(turns: Turns, happened: list[str]) -> None:
        turns.start(work("a", 50, happened), ended("a", happened), lambda: happened.count("a") < 2)
        turns.start(work("b", 4, happened), ended("b", happened), lambda: True)

    assert run(scenario, ends=1) == ["a", "b", "a", "b", "b", "b", "b well ended"]


def test_work_begun_when_all_has_ended_is_done() -> None:
    def scenario(turns: Turns, happened: list[str]) -> None:
        def again(_error: Exception | None) -> None:
            happened.append("a ended")
            turns.start(work("b", 1, happened), ended("b", happened), lambda: True)

        turns.start(work("a", 1, happened), again, lambda: True)

    assert run(scenario, ends=2) == ["a", "a ended", "b", "b well ended"]
