"""The README's session shows what its commands really print."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

from conftest import ORCH, ROOT, Home

COLUMNS = 99  # with one more there is room for P50 where all figures are short


def session() -> list[tuple[str, str]]:
    """Return the README's commands with the output shown for each."""
    text = (ROOT / "README.md").read_text()
    block = text.split("<!-- session -->")[1].split("<!-- /session -->")[0]
    lines = block.strip().removeprefix("```console\n").removesuffix("```")
    parts = re.split(r"^\$ ", lines, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def masked(text: str) -> list[str]:
    """Return the lines with what differs from run to run made equal: numbers and the width of columns."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
    text = re.sub(r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?", "#", text)
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines() if line.strip()]


def on_a_terminal(home: Home, command: str) -> str:
    """Return what the command prints to standard output on a terminal of COLUMNS columns."""
    environ = os.environ | {"ORCH_HOME": str(home.folder / "home"), "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    terminal, inside = pty.openpty()
    # What it says on standard error while it works is not part of the session.
    with subprocess.Popen(
        [str(ORCH), *command.split()[1:]], stdout=inside, stderr=subprocess.DEVNULL, env=environ, cwd=home.folder
    ) as process:
        os.close(inside)
        text = _read(terminal)
        assert process.wait(60) == 0
    return text


def _read(terminal: int) -> str:
    pieces = []
    while select.select([terminal], [], [], 60)[0]:
        try:
            pieces.append(os.read(terminal, 65536))
        except OSError:  # Linux's way to say that the other side is closed
            break
    os.close(terminal)
    return b"".join(pieces).decode()


def own_ports(path: Path) -> None:
    """Let the manifest ask for free ports, so that nothing else on the machine is in its way."""
    path.write_text(path.read_text().replace("127.0.0.1:8000", "127.0.0.1:0").replace("127.0.0.1:8001", "127.0.0.1:0"))


def test_the_session_in_the_readme_is_what_its_commands_print(home: Home) -> None:
    shutil.copytree(ROOT / "deployments", home.folder / "deployments")
    own_ports(home.folder / "deployments/quickstart.yaml")
    for command, shown in session():
        assert masked(on_a_terminal(home, command)) == masked(shown), command
