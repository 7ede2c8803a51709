"""The end of a log file, and what comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli.tail import BLOCK_BYTES, appended, last_lines
from orchestrator.errors import Kind, OrchError
from orchestrator.serving.log_file import shift


def test_the_last_lines_are_found_across_blocks(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(5000)))
    assert log.stat().st_size > 2 * BLOCK_BYTES
    text, position = last_lines(log, 3000)
    assert text.splitlines()[0].startswith("line 2000 ")
    assert text.count("\n") == 3000
    assert position.offset == log.stat().st_size


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "two\n"), (2, "one\ntwo\n"), (9, "one\ntwo\n")])
def test_no_more_lines_than_asked_for_or_there(tmp_path: Path, count: int, text: str) -> None:
    log = tmp_path / "worker.log"
    log.write_text("one\ntwo\n")
    assert last_lines(log, count)[0] == text


def test_a_log_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(OrchError, match="there is no log yet") as caught:
        last_lines(tmp_path / "worker.log", 5)
    assert caught.value.kind is Kind.NOT_FOUND


def test_following_yields_whole_lines_and_begins_anew_in_a_new_file(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("old\n")
    _, position = last_lines(log, 0)
    new = appended(log, position)
    with log.open("a") as file:
        file.write("first\nhalf a li")
    assert next(new) == "first\n"
    with log.open("a") as file:
        file.write("ne\n")
    assert next(new) == "half a line\n"
    log.rename(tmp_path / "worker.log.1")
    log.write_text("after rotation, and longer than the file before it\n")
    assert next(new) == "after rotation, and longer than the file before it\n"


def test_following_reads_what_was_written_before_and_after_each_rotation(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("old\n")
    _, position = last_lines(log, 0)
    new = appended(log, position)
    for number in (1, 2):
        with log.open("a") as file:
            file.write(f"the last of file {number}\n")
        shift(log)
        log.write_text(f"the first after rotation {number}\n")
    assert [next(new) for _ in range(3)] == [
        "the last of file 1\n",
        "the first after rotation 1\nthe last of file 2\n",
        "the first after rotation 2\n",
    ]


def test_the_last_lines_go_back_into_the_files_before(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    for text in ("one\ntwo\n", "three\n", "four\n"):
        log.write_text(text)
        shift(log)
    log.write_text("")
    assert last_lines(log, 3)[0] == "two\nthree\nfour\n"
    assert last_lines(log, 9)[0] == "one\ntwo\nthree\nfour\n"
