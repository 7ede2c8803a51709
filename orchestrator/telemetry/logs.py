"""How our processes write their logs: lines of text, or of JSON where ORCH_LOG_FORMAT says so."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.errors import Kind, OrchError

FORMAT = "ORCH_LOG_FORMAT"
FORMATS = ("text", "json")
MARKS = ("deployment", "model", "request_id", "trace_id")
"""What a record may say beside its text, by `extra`; programs look for lines by these."""


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON: time, level, logger, message, `always`, and which of MARKS it has."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._always,
        }
        line |= {name: getattr(record, name) for name in MARKS if getattr(record, name, None) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def mark(error: BaseException, marks: Mapping[str, str]) -> None:
    """Keep with an error which request it befell, for who will log it."""
    error.__dict__["orch_marks"] = dict(marks)


def marks(error: BaseException) -> dict[str, str]:
    """Return what was kept with the error, for `extra`."""
    kept: dict[str, str] = error.__dict__.get("orch_marks", {})
    return kept


def begin(environ: Mapping[str, str], text: logging.Formatter, **always: str) -> None:
    """Log to stderr from now on, as `text` or as JSON with `always` in each line; raise INVALID for another format."""
    wanted = environ.get(FORMAT) or "text"
    if wanted not in FORMATS:
        what = f"must be one of {', '.join(FORMATS)}, got {wanted[:40]!r}"
        raise OrchError(Kind.INVALID, what, where=FORMAT, hint=f"unset {FORMAT}, or set it to json")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always) if wanted == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
