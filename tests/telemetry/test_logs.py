"""Logs as lines of text or of JSON, one for each record."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.telemetry import logs

PROGRAM = """
import logging, os
from orchestrator.telemetry import logs
logs.begin(os.environ, logging.Formatter("%(levelname)s %(message)s"), deployment="shop")
logging.getLogger("orch.x").warning("two\\nlines of %s", "ü", extra={"request_id": "a-1", "trace_id": None})
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("orch.x").exception("our bug")
"""


def written(format: str | None) -> str:  # noqa: A002 - the variable's word
    environ = {"ORCH_LOG_FORMAT": format} if format else {}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, env=environ
    )
    return ran.stderr


def test_a_record_is_one_line_that_says_which_request_it_is_about() -> None:
    first, second = map(json.loads, written("json").splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "orch.x",
        "message": "two\nlines of ü",
        "deployment": "shop",
        "request_id": "a-1",
    }
    assert second["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("format", [None, "text"])
def test_text_is_the_default(format: str | None) -> None:  # noqa: A002 - as above
    assert written(format).startswith("WARNING two\nlines of ü\nERROR our bug\nTraceback")


def test_another_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(OrchError, match="must be one of text, json, got 'xml'") as caught:
        logs.begin({"ORCH_LOG_FORMAT": "xml"}, logging.Formatter())
    assert caught.value.kind is Kind.INVALID


def test_what_is_no_json_by_itself_is_written_all_the_same() -> None:
    record: Any = logging.makeLogRecord({"name": "x", "msg": "m", "levelname": "INFO", "request_id": b"\xff"})
    assert json.loads(logs.JsonLines().format(record))["request_id"] == "b'\\xff'"


def test_an_error_brings_along_which_request_it_befell(caplog: pytest.LogCaptureFixture) -> None:
    error = MemoryError()
    logs.mark(error, {"request_id": "a-1", "trace_id": "4bf9"})
    logging.getLogger("orch.x").error("our bug", extra=logs.marks(error))
    logging.getLogger("orch.x").error("our bug", extra=logs.marks(ValueError()))
    first, second = (json.loads(logs.JsonLines().format(record)) for record in caplog.records)
    assert (first["request_id"], first["trace_id"]) == ("a-1", "4bf9")
    assert "request_id" not in second
