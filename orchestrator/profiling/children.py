"""The processes of a measurement as their parent sees them: started, told, heard within a deadline, ended for sure."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.measurement import Arm, ArmProfile, Block
from orchestrator.profiling.wire import BenchAnswer, BenchOrder, LoadOrder, LoadReport, Outcome, ToCompile, ToRun

START_TIMEOUT_S = 30.0  # of Python itself, on a machine that is busy
LINE_MAX = 8 * 2**20  # a block has 2,000 samples of ten characters
END_S = 2.0  # for a child to end by itself when its input has ended
POLL_S = 0.1  # how often it is asked whether the measurement was cancelled
LOG_LINES = 5
LOG_BYTES = 4096
Cancelled = Callable[[], bool]


def never() -> bool:
    """Tell that nobody cancels."""
    return False


def environment() -> Mapping[str, str]:
    """Return what a child needs to find this very package, with OpenVINO's telemetry off (trap 31)."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "CI": "true", "PYTHONPATH": os.pathsep.join(paths)}


class Child:
    """A process that is told lines and answers lines; a context manager that ends it, whatever happens."""

    def __init__(self, command: Sequence[str], cancelled: Cancelled = never) -> None:
        self._command = [sys.executable, "-m", *command]
        self._cancelled = cancelled
        self._process: subprocess.Popen[bytes]
        self._log: IO[bytes]
        self._buffer = bytearray()

    def __enter__(self) -> Child:
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment(),
                bufsize=0,
                start_new_session=True,  # Ctrl-C comes to us alone; we end it
            )
        except OSError as error:
            self._log.close()
            raise OrchError(Kind.FAILED, f"cannot start {self._command[2]}: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _end(self._process, END_S if kind is None else 0.0)
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._log.close()

    @property
    def pid(self) -> int:
        """Return the process's number."""
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """Send one line (without its end); raise FAILED when the process is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
        except OSError:
            raise self._ended() from None

    def hear(self, timeout_s: float) -> bytes:
        """Return the next line; raise DEADLINE when none comes in time, FAILED when the process ended, CANCELLED."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if self._cancelled():
                raise OrchError(Kind.CANCELLED, "the measurement was cancelled")
            left = deadline - time.monotonic()
            if left <= 0:
                raise OrchError(Kind.DEADLINE, f"{self._command[2]} did not answer within {timeout_s:.0f} s")
            if len(self._buffer) > LINE_MAX:
                raise OrchError(Kind.FAILED, f"{self._command[2]} answered with a line of over {LINE_MAX} bytes")
            self._read(min(POLL_S, left))
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return bytes(line)

    def _read(self, wait_s: float) -> None:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(wait_s):
                return
        data = os.read(self._process.stdout.fileno(), 2**20)
        if not data:
            raise self._ended()
        self._buffer += data

    def _ended(self) -> OrchError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.returncode
        how = f"the signal {-code}" if code is not None and code < 0 else f"status {code}"
        return OrchError(Kind.FAILED, f"{self._command[2]} ended with {how}{self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LOG_BYTES))
        lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return ": " + " | ".join(lines[-LOG_LINES:]) if lines else ""


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """End a child: by the end of its input, else by force."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


class BenchChild(Child):
    """A process that measures one arm."""

    def __init__(self, cores: Sequence[int] | None = None, cancelled: Cancelled = never) -> None:
        arguments = ["--parent", str(os.getpid())]
        if cores is not None:
            arguments += ["--cores", ",".join(map(str, cores))]
        super().__init__(["orchestrator.profiling.bench", *arguments], cancelled)

    def __enter__(self) -> BenchChild:
        super().__enter__()
        return self

    def compile(
        self, arm: Arm, path: str, shapes: Mapping[str, list[int | str]], name: str, timeout_s: float
    ) -> ArmProfile:
        """Compile and warm up; raise the OrchError that says why it cannot."""
        order = ToCompile(arm=arm, path=path, shapes=dict(shapes), name=name)
        compiled = self._ask(BenchOrder(compile=order), timeout_s).compiled
        assert compiled is not None, "a compile is answered by what was compiled"
        return ArmProfile(
            arm=arm, actual=compiled.actual, compile_s=compiled.compile_s, memory_bytes=compiled.memory_bytes
        )

    def block(self, order: ToRun, timeout_s: float) -> Block:
        """Run one block; raise the OrchError that says why it cannot."""
        block = self._ask(BenchOrder(block=order), timeout_s).block
        assert block is not None, "a block is answered by a block"
        return block

    def _ask(self, order: BenchOrder, timeout_s: float) -> BenchAnswer:
        self.tell(order.model_dump_json(exclude_none=True).encode())
        answer = BenchAnswer.model_validate_json(self.hear(timeout_s))
        if answer.error is not None:
            raise OrchError(answer.error.kind, answer.error.what)
        return answer


class LoadGenerator(Child):
    """A process that loads an endpoint, one order after another."""

    def __init__(self, cancelled: Cancelled = never) -> None:
        super().__init__(["orchestrator.profiling.load", "--parent", str(os.getpid())], cancelled)

    def __enter__(self) -> LoadGenerator:
        super().__enter__()
        return self

    def load(self, order: LoadOrder) -> Iterator[list[Outcome] | LoadReport]:
        """Start a load and yield outcomes as they come, in the order of the schedule, and the report last."""
        self.tell(order.model_dump_json().encode())
        return self._heard(order)

    def _heard(self, order: LoadOrder) -> Iterator[list[Outcome] | LoadReport]:
        limit_s = START_TIMEOUT_S + order.seconds + 2 * order.timeout_s
        while True:
            said = json.loads(self.hear(limit_s))
            if "report" in said:
                yield LoadReport.model_validate(said["report"])
                return
            yield [Outcome(*outcome) for outcome in said["outcomes"]]

    def stop(self) -> None:
        """Ask for an early end of the load: what is under way is still answered, and the report comes."""
        self.tell(b"stop")


class LoadChild(LoadGenerator):
    """A process that loads an endpoint once."""

    def __init__(self, order: LoadOrder, cancelled: Cancelled = never, *, at_once: bool = True) -> None:
        """Take the order; without `at_once` the process starts and waits for `begin`."""
        super().__init__(cancelled)
        self._order = order
        self._at_once = at_once

    def __enter__(self) -> LoadChild:
        super().__enter__()
        if self._at_once:
            try:
                self.begin()
            except BaseException as error:
                self.__exit__(type(error), error, error.__traceback__)
                raise
        return self

    def begin(self) -> None:
        """Start the load."""
        self.tell(self._order.model_dump_json().encode())

    def outcomes(self) -> Iterator[list[Outcome] | LoadReport]:
        """Yield outcomes as they come, in the order of the schedule, and the report last."""
        return self._heard(self._order)
