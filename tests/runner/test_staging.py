"""Files are written whole or not at all, and leave nothing beside them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.runner.staging import write_whole

FULL = Path("/dev/full")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    write_whole(path, "after")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("after", [path])


def test_a_disk_that_fills_leaves_the_file_that_was_there_and_no_other(tmp_path: Path) -> None:
    """Seen to empty a good profile, and to leave the staged part of a lock."""
    path = tmp_path / "x"
    path.write_text("before")
    (tmp_path / f".x.{os.getpid()}").symlink_to(FULL)  # what is staged there finds no space
    with pytest.raises(OrchError, match="x: cannot be written: No space left on device") as caught:
        write_whole(path, "after")
    assert caught.value.kind is Kind.FAILED
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


def test_a_folder_in_which_nothing_can_be_staged_is_told_and_no_bug() -> None:
    with pytest.raises(OrchError, match="/proc/self/x: cannot be written"):
        write_whole(Path("/proc/self/x"), "text")


def test_what_is_no_plain_file_is_written_to_and_stays(tmp_path: Path) -> None:
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    write_whole(device, "text")
    assert device.is_symlink()
    assert stat.S_ISCHR(device.stat().st_mode)
