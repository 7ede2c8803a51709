"""What killed measurements left behind goes when the next one begins, and nothing that is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.profiling.host_lock import host_lock
from orchestrator.profiling.leftovers import sweep

LONG_AGO = time.time() - 60


def a_folder(parent: Path, name: str, changed: float = LONG_AGO) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    os.utime(folder, (changed, changed))
    return folder


def measure(parent: Path) -> None:
    """Begin and end a measurement."""
    with host_lock(parent / "orch-measure-0.lock", print, lambda: False):
        pass


@pytest.mark.parametrize("prefix", ["orch-measure-", "orch-together-"])
def test_what_a_killed_measurement_left_is_removed(prefix: str, tmp_path: Path) -> None:
    """Seen to stay for good."""
    folder = a_folder(tmp_path, prefix + "x1y2z3")
    measure(tmp_path)
    assert not folder.exists()


def test_what_is_in_use_new_or_of_others_stays(tmp_path: Path) -> None:
    folder, new = a_folder(tmp_path, "orch-measure-used"), a_folder(tmp_path, "orch-measure-new", time.time())
    other = a_folder(tmp_path, "orch-bench-x")
    aim = a_folder(tmp_path, "kept")
    link = tmp_path / "orch-measure-link"
    link.symlink_to(aim)
    command = [sys.executable, "-c", "input(1)", "--state", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.read(1) == b"1"
        measure(tmp_path)
        assert all(each.exists() for each in (folder, new, other, aim, link))
        worker.communicate(b"\n")
    measure(tmp_path)
    assert not folder.exists()


def test_a_folder_of_somebody_else_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, somebody_else = a_folder(tmp_path, "orch-measure-theirs"), os.getuid() + 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "getuid", lambda: somebody_else)
        sweep(tmp_path)
    assert folder.exists()
    sweep(tmp_path)
    assert not folder.exists(), "its own owner removes it"
