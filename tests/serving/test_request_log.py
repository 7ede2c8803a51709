"""The log of single requests: lines, bounds, and what a broken disk does to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.serving import request_log
from orchestrator.serving.request_log import LINES_PER_S, Caller, Ended, RequestLog

WHO = Caller("http", "detector", "a-1", None, "4bf92f3577b34da6a3ce929d0e0e4736", "10.0.0.7")
WELL = Ended("200", None, 0.0012, 0.0104)
FULL = Ended("503", "QUEUE_FULL")


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> RequestLog:
    return RequestLog(tmp_path / "requests.log", Clock())


def test_a_request_is_one_line_that_says_all_that_is_known(log: RequestLog) -> None:
    log.note(WHO, 602_112, WELL, 0.0131)
    log.note(WHO._replace(trace_id=None, id="7"), 10, FULL, 0.0)
    log.flush()
    assert log.path is not None
    assert lines(log.path) == [
        {
            "time": "2023-11-14T22:13:20.250Z",
            "protocol": "http",
            "model": "detector",
            "request_id": "a-1",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "client": "10.0.0.7",
            "status": "200",
            "bytes": 602112,
            "queue_ms": 1.2,
            "service_ms": 10.4,
            "total_ms": 13.1,
        },
        {
            "time": "2023-11-14T22:13:20.250Z",
            "protocol": "http",
            "model": "detector",
            "request_id": "a-1",
            "id": "7",
            "client": "10.0.0.7",
            "status": "503",
            "code": "QUEUE_FULL",
            "bytes": 10,
            "total_ms": 0.0,
        },
    ]


def test_beyond_the_rate_requests_are_counted_and_failures_keep_their_own_share(log: RequestLog) -> None:
    for _ in range(LINES_PER_S + 40):
        log.note(WHO, 1, WELL, 0.01)
    log.note(WHO, 1, FULL, 0.0)
    log.flush()
    assert log.path is not None
    written = lines(log.path)
    assert len(written) == LINES_PER_S + 2
    assert written[-2]["code"] == "QUEUE_FULL"
    assert written[-1] == {"time": "2023-11-14T22:13:20.250Z", "dropped": 40}


def test_the_next_second_has_room_again(log: RequestLog) -> None:
    clock = log._clock
    assert isinstance(clock, Clock)
    for _ in range(2):
        for _ in range(LINES_PER_S):
            log.note(WHO, 1, WELL, 0.01)
        clock.now += 1
    log.flush()
    assert log.path is not None
    assert len(lines(log.path)) == 2 * LINES_PER_S


def test_lines_that_wait_for_a_slow_disk_are_bounded(log: RequestLog) -> None:
    clock = log._clock
    assert isinstance(clock, Clock)
    for _ in range(20 * LINES_PER_S):
        log.note(WHO, 1, WELL, 0.01)
        clock.now += 1
    assert len(log._waiting) == request_log.WAITING_MAX


def test_two_files_of_bounded_size_are_all_that_it_takes(log: RequestLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "FILE_BYTES", 2000)
    for number in range(40):
        log.note(WHO._replace(request_id=f"r-{number}"), 1, WELL, 0.01)
        log.flush()
    assert log.path is not None
    files = sorted(log.path.parent.iterdir())
    assert [file.name for file in files] == ["requests.log", "requests.log.1"]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert lines(log.path)[-1]["request_id"] == "r-39"
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_disk_that_refuses_is_told_of_once_and_the_lost_lines_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RequestLog(tmp_path / "absent" / "requests.log", Clock())
    for _ in range(3):
        log.note(WHO, 1, WELL, 0.01)
        log.flush()
    assert len([record for record in caplog.records if record.name == "orch.requests"]) == 1
    (tmp_path / "absent").mkdir()
    log.note(WHO, 1, WELL, 0.01)
    log.flush()
    assert log.path is not None
    assert [line.get("dropped") for line in lines(log.path)] == [None, 3]


def test_switching_it_off_writes_what_waits(log: RequestLog) -> None:
    assert not log.on
    log.switch(True)
    log.switch(True)
    assert log.on
    log.note(WHO, 1, WELL, 0.01)
    log.switch(False)
    assert not log.on
    assert log.path is not None
    assert len(lines(log.path)) == 1


def test_without_a_place_it_stays_off() -> None:
    log = RequestLog(None)
    log.switch(True)
    assert not log.on


def test_new_ids_differ() -> None:
    log = RequestLog(None)
    assert len({log.new_id() for _ in range(100)}) == 100
