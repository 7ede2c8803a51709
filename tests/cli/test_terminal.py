"""What only a terminal gets: colours, the width, live progress, a status in place."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stand_in import ROOT, stand_in
from statuses import ITEMS

STATUS_LIST = {"apiVersion": "orch/v1", "kind": "StatusList", "items": ITEMS}
DEADLINE_S = 60.0


class Terminal:
    """A command whose output goes to a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.text = ""
        self._descriptor = descriptor

    def read_until(self, end: str | None) -> None:
        """Read until the text shows, or to the end."""
        deadline = time.monotonic() + DEADLINE_S
        while end is None or end not in self.text:
            assert time.monotonic() < deadline, self.text
            if not select.select([self._descriptor], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # Linux says EIO where the other side is closed
                return
            self.text += data.decode().replace("\r\n", "\n")


@contextmanager
def in_a_terminal(home: Path, *arguments: str, **environ: str) -> Iterator[Terminal]:
    """Run `orch` with a terminal on all its streams."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "ORCH_HOME": str(home), "TERM": "xterm", "COLUMNS": "60", "LINES": "24", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_status_is_fitted_and_coloured(tmp_path: Path) -> None:
    with stand_in(tmp_path, {"status": STATUS_LIST}), in_a_terminal(tmp_path, "status", NO_COLOR="") as terminal:
        terminal.read_until(None)
    assert terminal.text.splitlines()[0] == "NAME                  HEALTH     RATE        P99/SLO  SAT"
    assert "\x1b[31m104%\x1b[0m" in terminal.text


def test_no_color_is_obeyed(tmp_path: Path) -> None:
    with stand_in(tmp_path, {"status": STATUS_LIST}), in_a_terminal(tmp_path, "status", NO_COLOR="1") as terminal:
        terminal.read_until(None)
    assert "104%" in terminal.text
    assert "\x1b" not in terminal.text


def test_watching_shows_the_status_again_in_the_same_place(tmp_path: Path) -> None:
    with stand_in(tmp_path, {"status": STATUS_LIST}) as agent, in_a_terminal(tmp_path, "status", "-w") as terminal:
        terminal.read_until("\x1b[J\n\x1b[H")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("interrupted\n")
    assert terminal.process.returncode == 130
    assert len(agent.asked("status")) >= 2
    first, again = terminal.text.split("\x1b[H")[1:3]
    assert first.count("\n") == again.removesuffix("interrupted\n").count("\n") == 4


def test_an_apply_shows_live_lines_that_are_gone_at_its_end(tmp_path: Path) -> None:
    change = {"deployment": "quickstart", "model": "digits", "action": "create", "cause": "no pool is running"}
    script = [
        {"deployment": None, "model": None, "phase": "planning", "message": ""},
        {"deployment": "quickstart", "model": "digits", "phase": "compiling", "message": "for CPU"},
        {"deployments": [{"name": "quickstart", "changes": [change]}]},
    ]
    with (
        stand_in(tmp_path, {"apply": script}),
        in_a_terminal(tmp_path, "apply", "deployments/quickstart.yaml") as terminal,
    ):
        terminal.read_until(None)
    assert terminal.process.returncode == 0
    assert "quickstart/digits compiling 0s (for CPU)" in terminal.text
    assert terminal.text.endswith("\x1b[2Kquickstart/digits created (no pool is running)\n")
