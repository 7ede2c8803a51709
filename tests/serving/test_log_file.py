"""A log that is full makes room, and no line that its process writes is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.serving.log_file import KEPT, older, rotate_own, shift

WRITER = """
import os, sys
from pathlib import Path
from orchestrator.serving.log_file import rotate_own
for number in range(200):
    (print if number % 2 else lambda text: os.write(2, text.encode() + b"\\n"))(f"line {number:03}")
    sys.stdout.flush()
    rotate_own(Path(sys.argv[1]), max_bytes=500)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Return a log and a descriptor that leads to it."""
    log = tmp_path / "worker.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    yield log, descriptor
    os.close(descriptor)


def test_a_process_that_writes_through_every_rotation_loses_no_line(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", WRITER, str(log)], stdout=file, stderr=file, timeout=60, check=True)
    files = [log, *(older(log, number) for number in range(1, KEPT + 1))]
    assert [file.name for file in sorted(tmp_path.iterdir())] == sorted(file.name for file in files)
    lines = "".join(file.read_text() for file in reversed(files)).splitlines()
    assert lines == [f"line {number:03}" for number in range(200)]
    assert all(file.stat().st_size < 500 + len("line 000\n") for file in files)


def test_the_oldest_file_makes_room(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for text in ("one", "two", "three", "four", "five"):
        log.write_text(text)
        shift(log, kept=3)
    assert not log.exists()
    assert [older(log, number).read_text() for number in (1, 2, 3)] == ["five", "four", "three"]
    assert not older(log, 4).exists()


def test_a_log_that_is_not_full_is_left_alone(own: tuple[Path, int]) -> None:
    log, descriptor = own
    os.write(descriptor, b"short\n")
    assert not rotate_own(log, max_bytes=7, descriptors=(descriptor,))
    assert rotate_own(log, max_bytes=6, descriptors=(descriptor,))
    assert (log.read_text(), older(log, 1).read_text()) == ("", "short\n")


def test_a_log_that_somebody_removed_is_begun_anew(own: tuple[Path, int]) -> None:
    log, descriptor = own
    log.unlink()
    assert rotate_own(log, descriptors=(descriptor,))
    os.write(descriptor, b"here again\n")
    assert log.read_text() == "here again\n"


def test_what_leads_elsewhere_is_not_rotated(tmp_path: Path, own: tuple[Path, int]) -> None:
    log, descriptor = own
    os.write(descriptor, b"full\n")
    other = tmp_path / "agent.log"
    other.write_text("not of this process\n")
    assert not rotate_own(other, max_bytes=1, descriptors=(descriptor,))
    readable, writable = os.pipe()
    assert not rotate_own(log, max_bytes=1, descriptors=(writable,))
    os.close(readable)
    os.close(writable)


def test_a_folder_in_which_nothing_can_be_made_leaves_the_log_as_it_is(own: tuple[Path, int]) -> None:
    log, descriptor = own
    os.write(descriptor, b"full\n")
    log.with_name(log.name + ".new").mkdir()  # stands in for a disk on which no file can be made
    assert not rotate_own(log, max_bytes=1, descriptors=(descriptor,))
    assert log.read_text() == "full\n"
