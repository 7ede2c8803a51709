"""A stand-in agent: the real control server with scripted methods, in a thread, for tests of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchError
from orchestrator.serving import admin

ROOT = Path(__file__).parents[2]
Script = Mapping[str, Any]
"""By method: the result, an OrchError, a ConnectionError (the agent ends), `...` for never, or a list of progress
messages with one of these at its end."""
VERSION = {"version": version("orch-openvino"), "pid": 1, "started": "2026-03-01T09:00:00Z", "state_dir": "/state"}


class StandIn:
    """What was asked of the agent, and how commands are run against it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.calls: list[tuple[str, Any]] = []

    def asked(self, method: str) -> list[Any]:
        """Return the parameters of each call of a method."""
        return [params for name, params in self.calls if name == method]

    def methods(self, script: Script) -> dict[str, admin.Method]:
        """Return methods that follow the script."""
        return {name: self._method(name, answer) for name, answer in ({"version": VERSION} | dict(script)).items()}

    def _method(self, name: str, answer: Any) -> admin.Method:
        async def method(params: admin.Json, progress: admin.Progress) -> Any:
            self.calls.append((name, params))
            messages = answer if isinstance(answer, list) else [answer]
            for message in messages[:-1]:
                await progress(message)
            if messages[-1] is ...:
                await asyncio.Event().wait()
            if isinstance(messages[-1], OrchError | ConnectionError):
                raise messages[-1]
            return messages[-1]

        return method

    def orch(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return orch(self.home, *arguments, stdin=stdin, **environ)


def orch(home: Path, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `orch` in a process of its own, in the repository's root, with its state in `home`."""
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "ORCH_HOME": str(home), "CI": "true", **environ},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def stand_in(home: Path, script: Script) -> Iterator[StandIn]:
    """Serve the script at the agent's socket of a state folder."""
    home.mkdir(parents=True, exist_ok=True)
    agent = StandIn(home)
    bugs: list[BaseException] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        server = await admin.serve(home / "agent.sock", agent.methods(script), on_bug=bugs.append)
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        ready.set()
        await ended.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=[serve()], name="stand-in agent")
    thread.start()
    try:
        assert ready.wait(10)
        yield agent
    finally:
        stop[0]()
        thread.join(10)
        (home / "agent.sock").unlink()
    assert not bugs, bugs


def as_json(text: str) -> Any:
    """Return the JSON value that a command wrote."""
    return json.loads(text)
