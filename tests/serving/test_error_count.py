"""Answers that were errors are counted by kind, also those that no pool saw, and nothing else is."""

from __future__ import annotations

from orchestrator.serving.error_count import ErrorCount
from tests.serving.http_serving import Doubler, Running, a_loop, double_request, get, post, serving


def ask_while_full(running: Running, doubler: Doubler) -> None:
    with running.connect() as first, running.connect() as second:
        first.send(double_request())
        running.until(lambda: bool(doubler.backend.compiled[0].running()))
        assert second.ask(double_request()).status == 503
        assert second.ask(post("nobody", b"{}")).status == 404
        assert second.ask(get("/v2/models/nobody")).status == 404
        doubler.finish(running)
        assert first.reply().status == 200
        assert second.ask(post("double", b"no json")).status == 400


def test_each_error_answer_to_an_inference_is_counted_once_by_its_kind() -> None:
    doubler, errors = Doubler.make(queue_limit=0), ErrorCount()
    with a_loop() as loop, serving(loop, {"double": doubler.served}, errors=errors) as running:
        ask_while_full(running, doubler)
    assert {labels: count for labels, count in errors.counts().items() if count} == {
        ("http", "overloaded"): 1,
        ("http", "not-found"): 1,
        ("http", "invalid"): 1,
    }


def test_every_kind_is_there_from_the_start_so_that_the_first_error_is_a_rise() -> None:
    assert set(ErrorCount().counts().values()) == {0}
    assert ("grpc", "unauthorized") in ErrorCount().counts()
