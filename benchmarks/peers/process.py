"""A contender's server as a process tree: started, asked until it answers, watched, and ended for sure."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil

from benchmarks.overload.order import Request
from benchmarks.peers.contenders import Contender, Place

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 90.0
END_S: Final = 5.0
CALL_TIMEOUT_S: Final = 5.0


class Server:
    """A server that runs while the `with` lasts."""

    def __init__(self, contender: Contender, place: Place) -> None:
        self.contender = contender
        self.place = place
        self.request: Request = place.subject.requests[contender.form]
        self.port = place.grpc if self.request.protocol == "grpc" else place.http
        self.log = place.folder / "server.log"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers a request; raise RuntimeError when it does not."""
        self.place.folder.mkdir(parents=True, exist_ok=True)
        launch = self.contender.launch(self.place, self.contender.by_hand)
        environment = {**os.environ, "CI": "true", **launch.environment}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                launch.command, stdout=log, stderr=log, env=environment, cwd=launch.folder, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.ask() == 200:
                return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"{self.contender.key} did not begin to serve: {tail(self.log)}")

    def stop(self) -> None:
        """End the whole session of processes: politely, then by force."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)

    @property
    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """Return the pids of the process and of all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its processes that live."""
        spent = 0.0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                spent += times.user + times.system
        return spent

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes; what they share counts more than once."""
        held = 0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                held += psutil.Process(pid).memory_info().rss
        return held

    def ask(self, timeout_s: float = CALL_TIMEOUT_S) -> int | None:
        """Send one request over HTTP and return its status; None when there is no answer."""
        request = self.place.subject.requests[self.contender.ready_form]
        connection = http.client.HTTPConnection(HOST, self.place.http, timeout=timeout_s)
        try:
            connection.request("POST", request.path, Path(request.body).read_bytes(), dict(request.headers))
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return None
        else:
            return answer.status
        finally:
            connection.close()


def end_in_order() -> None:
    """Have SIGTERM unwind the stack, so that no server outlives its run."""
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(143))


def tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(text.splitlines()[-lines:])
