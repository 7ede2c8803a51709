"""The page of metrics is made beside the loop, once for all who ask at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.serving.http_serving import DEADLINE_S, a_loop, get, serving


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with a_loop() as loop:
        yield loop


class Slow:
    """Metrics that take as long as a test wants."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.pages = 0

    def __call__(self, accept: str) -> tuple[bytes, str]:
        self.begun.release()
        assert self.go_on.acquire(timeout=DEADLINE_S)
        self.pages += 1
        return f"# page {self.pages}\n".encode(), "text/plain"


def test_others_are_served_while_a_page_is_made_and_those_who_ask_for_it_share_it(
    loop: asyncio.AbstractEventLoop,
) -> None:
    slow = Slow()
    with serving(loop, {}, metrics=slow) as running, running.connect() as one, running.connect() as two:
        one.send(get("/metrics") + get("/v2"))
        assert slow.begun.acquire(timeout=DEADLINE_S)
        two.send(get("/metrics", "X-Request-Id: b", method="HEAD"))
        with running.connect() as other:
            assert other.ask(get("/v2/health/live")).status == 200
        running.until(lambda: len(next(iter(running.http._shared.scrapes._waiting.values()))) == 2)
        slow.go_on.release()
        assert (one.reply().body, one.reply().json["name"]) == (b"# page 1\n", "orch")
        reply = two.reply(head_only=True)
        assert (reply.headers["content-length"], reply.headers["x-request-id"]) == ("9", "b")
        slow.go_on.release()
        assert two.ask(get("/metrics")).body == b"# page 2\n"


def test_a_client_that_goes_away_while_its_page_is_made_costs_nothing_more(loop: asyncio.AbstractEventLoop) -> None:
    slow = Slow()
    with serving(loop, {}, metrics=slow) as running:
        with running.connect() as gone:
            gone.send(get("/metrics"))
            assert slow.begun.acquire(timeout=DEADLINE_S)
        running.until(lambda: running.http.connections == 0)
        slow.go_on.release()
        running.until(lambda: not running.http._shared.scrapes._waiting)


def test_metrics_that_fail_are_our_bug_and_the_server_lives_on(loop: asyncio.AbstractEventLoop) -> None:
    def broken(accept: str) -> tuple[bytes, str]:
        raise RuntimeError("planted")

    with serving(loop, {}, metrics=broken) as running:
        with running.connect() as wire:
            assert wire.ask(get("/metrics")).status == 500
        with running.connect() as wire:
            assert wire.ask(get("/v2/health/live")).status == 200
        assert [str(bug) for bug in running.bugs] == ["planted"]
        running.bugs.clear()
