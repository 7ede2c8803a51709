"""The log of single inference requests: switched while the worker runs, a line of JSON each, bounded in every way.

Off, it costs the request's path one look at `on`. On, the event loop makes a tuple and appends it; a thread writes.
What is beyond the rate is counted and told, and two files of bounded size are all that it ever takes of the disk.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from orchestrator.scheduling.ticket import Batch
from orchestrator.serving import log_file

LINES_PER_S = 500  # of the answered requests, and as many of the others: neither crowds the other out
FILE_BYTES = 16 * 2**20
FILES_KEPT = 1  # full ones beside the one that is written to
FLUSH_S = 0.2
STOP_TIMEOUT_S = 2.0  # for the last lines; a disk that hangs is not waited for
WAITING_MAX = 4 * LINES_PER_S  # lines in memory while the disk is slow

log = logging.getLogger("orch.requests")


class Caller(NamedTuple):
    """Who asked for what."""

    protocol: str
    model: str
    request_id: str
    id: str | None
    """The one in the body, which the protocol echoes."""
    trace_id: str | None
    client: str
    traceparent: str | None = None
    """The whole of what names the caller's span, for the spans of the request."""


class Ended(NamedTuple):
    """How a request ended; times in seconds, None where it did not come so far."""

    status: str
    code: str | None
    """Why it was not answered; None when it was."""
    queue_s: float | None = None
    service_s: float | None = None
    receive_s: float | None = None
    """Of the wait what the body took to come; None where that is not known."""
    batch: Batch | None = None
    """With whom it was inferred."""


class Entry(NamedTuple):
    """One request of the log; `total_s` from its head to its answer."""

    time: float
    caller: Caller
    nbytes: int
    ended: Ended
    total_s: float


class RequestLog:
    """Notes requests on the event loop's thread; `switch` may be called from any."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.on = False
        """Whether anybody wants to know of requests."""
        self.writing = False
        self._traces: Callable[[Entry], None] | None = None
        self.path = path
        self._clock = clock
        self._ids = itertools.count(1)
        self._series = os.urandom(4).hex()
        self._waiting: deque[Entry] = deque()
        self._second = 0
        self._noted = {True: 0, False: 0}  # in this second, by whether they were answered
        self._dropped = 0
        self._failing = False
        self._switching = threading.Lock()
        self._stop = threading.Event()
        self._writer: threading.Thread | None = None

    def new_id(self) -> str:
        """Return an id for a request that came without one, unique to this process."""
        return f"{self._series}-{next(self._ids)}"

    def follow(self, traces: Callable[[Entry], None]) -> None:
        """Have `traces` told of every request from now on, whether or not they are written."""
        self._traces = traces
        self.on = True

    def note(self, caller: Caller, nbytes: int, ended: Ended, total_s: float) -> None:
        """Keep the request for the writer, or count it where there are too many."""
        now = self._clock()
        entry = Entry(now, caller, nbytes, ended, total_s)
        if self._traces is not None:
            self._traces(entry)
        if self.writing or self._traces is None:
            self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        now = entry.time
        if int(now) != self._second:
            self._second = int(now)
            self._noted = {True: 0, False: 0}
        answered = entry.ended.code is None
        if self._noted[answered] >= LINES_PER_S or len(self._waiting) >= WAITING_MAX:
            self._dropped += 1
            return
        self._noted[answered] += 1
        self._waiting.append(entry)

    def switch(self, on: bool) -> None:
        """Begin or end; ending waits, bounded, for the last lines. No effect without a path."""
        with self._switching:
            if on == self.writing or self.path is None:
                return
            self.writing = on
            self.on = on or self._traces is not None
            if on:
                self._stop = threading.Event()
                self._writer = threading.Thread(target=self._write_on, name="orch-requests", daemon=True)
                self._writer.start()
            elif self._writer is not None:
                self._stop.set()
                self._writer.join(STOP_TIMEOUT_S)

    def _write_on(self) -> None:
        stop = self._stop
        while not stop.wait(FLUSH_S):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits; called by the writer."""
        entries = _drained(self._waiting)
        lines = [_line(entry) for entry in entries]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(orjson.dumps({"time": _time(self._clock()), "dropped": dropped}))
        if not lines or self.path is None:
            return
        try:
            _append(self.path, b"\n".join(lines) + b"\n")
        except OSError as error:
            self._dropped += dropped + len(entries)
            if not self._failing:  # once, or a full disk would be told of five times a second
                log.warning("%s: %s; requests go on, unlogged", self.path, error.strerror)
            self._failing = True
        else:
            self._failing = False


def _drained(waiting: deque[Entry]) -> list[Entry]:
    found: list[Entry] = []
    with contextlib.suppress(IndexError):
        for _ in range(WAITING_MAX):
            found.append(waiting.popleft())  # noqa: PERF401 - the other thread appends meanwhile
    return found


def _append(path: Path, data: bytes) -> None:
    """Append to the file; the full one is put aside."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size + len(data) > FILE_BYTES:
            log_file.shift(path, FILES_KEPT)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _line(entry: Entry) -> bytes:
    ended = entry.ended
    line: dict[str, Any] = {"time": _time(entry.time), **entry.caller._asdict(), "traceparent": None}
    line |= {"status": ended.status, "code": ended.code, "bytes": entry.nbytes}
    line |= {"queue_ms": _ms(ended.queue_s), "service_ms": _ms(ended.service_s), "total_ms": _ms(entry.total_s)}
    return orjson.dumps({name: value for name, value in line.items() if value is not None})


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
