"""The state folder is found, made private, and its sockets' paths stay short enough."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.agent import listener, paths, process
from orchestrator.agent.client import check_own, worker_environ
from orchestrator.agent.paths import Layout, state_dir
from orchestrator.errors import Kind, OrchError
from orchestrator.serving import log_file


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"ORCH_HOME": "/x/y", "XDG_STATE_HOME": "/s", "HOME": "/h"}, "/x/y"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/orch"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/orch"),
        ({"HOME": "/h"}, "/h/.local/state/orch"),
    ],
)
def test_the_state_folder_is_where_the_environment_says(environ: dict[str, str], folder: str) -> None:
    assert state_dir(environ) == Path(folder)


def test_folders_are_private(tmp_path: Path) -> None:
    layout = paths.create(tmp_path / "state")
    assert [oct(folder.stat().st_mode & 0o777) for folder in (layout.root, layout.workers)] == ["0o700", "0o700"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OrchError, match="cannot write the state"):
        paths.create(tmp_path / "file" / "state")


def test_a_folder_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(OrchError, match="too long") as caught:
        paths.create(Path("/" + "x" * 90))
    assert caught.value.kind is Kind.UNSUPPORTED


def test_long_names_get_short_folders_of_their_own() -> None:
    layout = Layout(Path("/home/somebody/.local/state/orch"))
    names = ["n" * 62 + letter for letter in "ab"]
    places = [layout.worker(name, slot) for name in names for slot in (0, 1)]
    assert len({place.folder for place in places}) == 4
    assert all(len(str(place.control)) <= paths.SOCKET_PATH_MAX_BYTES for place in places)
    assert layout.worker("shop").folder == layout.workers / "shop"
    assert len({layout.regions(name) for name in names}) == 2
    assert layout.regions("shop") == layout.workers / "shop.regions.json"


ASK = """
import os, sys
from orchestrator.agent.client import ensure_agent
from orchestrator.errors import OrchError
if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)  # root may all
try:
    ensure_agent(os.environ, start=sys.argv[1] == "start")
except OrchError as error:
    print(error.kind.name, error)
"""


@pytest.mark.parametrize("start", ["start", "no"])
@pytest.mark.parametrize("closed", [".", "agent.sock"])
def test_the_state_folder_of_another_user_is_told_from_one_without_an_agent(closed: str, start: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # tmp_path lies in a folder that root alone may enter
        Path(folder).chmod(0o755)
        state = Path(folder, "state")
        state.mkdir(mode=0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(state / "agent.sock"))
            listening.listen()
            (state / closed).chmod(0)
            ran = subprocess.run(
                [sys.executable, "-c", ASK, start],
                env=worker_environ({**os.environ, "ORCH_HOME": str(state)}),
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        state.chmod(0o755)
    assert ran.stdout.startswith(f"UNAUTHORIZED {state}: this user may not use the state there")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    paths.write(path, "old")
    (tmp_path / "plan.json.new").mkdir()
    with pytest.raises(OrchError):
        paths.write(path, "new")
    assert path.read_text() == "old"


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(OrchError, match="cannot listen") as caught:
        listener.bind("192.0.2.1:8000")
    assert caught.value.problems[0].hint == "change spec.endpoint.http"


def test_a_free_address_of_ipv6_is_listened_on() -> None:
    with listener.bind("[::1]:0") as listening:
        assert listening.family == socket.AF_INET6


def test_a_long_log_is_put_aside_and_a_tail_begins_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "worker.log"
    assert process.rotate(log) == 0
    log.write_text("old\n")
    offset = process.rotate(log)
    with log.open("a") as file:
        file.write("new\n")
    assert process.tail(log, offset=offset) == "new"
    monkeypatch.setattr(log_file, "MAX_BYTES", 3)
    assert process.rotate(log) == 0
    assert (tmp_path / "worker.log.1").read_text() == "old\nnew\n"


def test_root_starts_no_agent_on_the_state_of_another_user(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    check_own(layout, os.geteuid() + 1)  # there is no state yet
    layout.database.write_bytes(b"")
    check_own(layout, os.geteuid())
    with pytest.raises(OrchError, match="belongs to another user") as caught:
        check_own(layout, os.geteuid() + 1)
    assert caught.value.kind is Kind.UNAUTHORIZED
    assert f"sudo -u '#{os.geteuid()}' orch agent start" in str(caught.value.problems[0].hint)
