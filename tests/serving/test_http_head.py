"""Heads of HTTP requests."""

from __future__ import annotations

import pytest

from orchestrator.serving.http_head import parse_head


@pytest.mark.parametrize("request_line", ["GET /v2 HTTP/1.1", "POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 0"])
@pytest.mark.parametrize(
    ("connection", "stays"),
    [("", True), ("Connection: close\r\n", False), ("Connection: TE, Close\r\n", False), ("Connection: TE\r\n", True)],
)
def test_a_request_without_a_body_may_ask_for_the_connection_to_be_closed(
    request_line: str, connection: str, stays: bool
) -> None:
    # Fails when llhttp is asked: it forgets `close` with the end of the message, which here is that of the head.
    assert parse_head(f"{request_line}\r\nHost: h\r\n{connection}\r\n".encode()).keep_alive is stays
