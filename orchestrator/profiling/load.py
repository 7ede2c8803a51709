"""Load an HTTP endpoint on a schedule, open loop, in a process of its own: `python -m orchestrator.profiling.load`.

Each line of standard input is a `LoadOrder`. Standard output has `{"outcomes": [...]}` lines, in the order of the
schedule, while it runs, and one `{"report": ...}` line at the end; then the next order is read, and the end of the
input ends the process. A line `stop` in between, or the end of the input, stops a load early. Latency counts from the
scheduled arrival, also of what could not be sent in time (as in wrk2); the process sleeps on a kernel timer between
arrivals and never spins: on two cores a spinning generator multiplies the p99 that it measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop

from orchestrator.profiling.measurement import GIVEN_UP
from orchestrator.profiling.tied import die_with_parent
from orchestrator.profiling.timer import Timer
from orchestrator.profiling.trust import context
from orchestrator.profiling.wire import FAILED, LoadOrder, LoadReport, Outcome
from orchestrator.scheduling.arrivals import arrivals

LATE_S = 0.002  # a send later than this after its arrival was due is counted
FLUSH_S = 0.05  # how often outcomes are told and time-outs looked for
WAITING_MAX = 10_000  # arrivals that may wait for a connection; more are failures of the generator
OUTCOMES_MAX = 10_000  # of one line
LATE_SHARE_MAX = 0.01  # of the sends; more late ones and the figures are the generator's own
CPU_MAX = 0.9  # cores; above it the one thread is full
CPU_OVER_S = 0.1  # at least: a run that ends at once, as none is due in its time, computes all the while
STOP = b"stop\n"


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with at most one request under way."""

    def __init__(self, over: Callable[[Connection, int], None]) -> None:
        self._over = over
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._keep = True
        self.number: int | None = None
        """Of the arrival that is under way."""
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def send(self, request: bytes, number: int) -> None:
        """Send the request of an arrival."""
        self.number = number
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Parse; a broken answer is a failure."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_message_complete(self) -> None:
        """Tell how the request ended (called by the parser)."""
        if not self._parser.should_keep_alive():
            self.closed = True
            self._transport.close()
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._end(status)

    def close(self, status: int = FAILED) -> None:
        """End what is under way as `status`."""
        if not self.closed:
            self.closed = True
            self._transport.abort()
        self._end(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was under way as failed."""
        del exc
        self.closed = True
        self._end(FAILED)

    def _end(self, status: int) -> None:
        if self.number is not None:
            self._over(self, status)


class Load:
    """Sends requests as they come due, and remembers what became of each until it is told."""

    def __init__(self, order: LoadOrder, tell: Callable[[list[Outcome]], None]) -> None:
        self._order = order
        self._tell = tell
        self._request = _request(order)
        self._tls = None if order.trust is None else context(order.trust)
        self._idle: list[Connection] = []  # the last used first: fewest stay warm
        self._busy: dict[int, Connection] = {}  # by number of the arrival, oldest first
        self._opening = 0
        self._connections = 0
        self._waiting: deque[int] = deque()
        self._due: dict[int, float] = {}  # not told yet, by number
        self._woken_late: dict[int, float] = {}  # of those not told yet, by number; seconds
        self._late_wakes = 0
        self._ended: dict[int, Outcome] = {}
        self._told = 0
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._statuses: dict[int, int] = {}
        self._late = 0
        self._latest_s = 0.0
        self._overrun = 0
        self._all_ended = asyncio.Event()  # after the stop
        self.stopping = asyncio.Event()

    async def run(self) -> LoadReport:
        """Send until the time, the requests or the caller's patience are over, and wait for the answers."""
        first = self._order.callers or self._order.connections_first
        await asyncio.gather(*(self._open() for _ in range(min(first, self._order.connections_max))))
        gc.collect()
        gc.disable()  # a collection in the middle would be taken for the server's latency
        cpu, began = time.process_time(), time.monotonic()
        self._began = began
        telling = asyncio.create_task(self._keep_telling())
        if self._order.arrivals == "closed":
            await self._closed()
        else:
            await self._open_loop()
        await self._last_answers()
        telling.cancel()
        self._flush()
        seconds = time.monotonic() - began
        return self._report(seconds, (time.process_time() - cpu) / max(CPU_OVER_S, seconds))

    async def _open_loop(self) -> None:
        """Send each request when it is due."""
        schedule = _schedule(self._order)
        timer = Timer(asyncio.get_running_loop(), lambda: self._send_due(schedule, timer))
        try:
            self._send_due(schedule, timer)
            await self.stopping.wait()
        finally:
            timer.close()

    def _send_due(self, schedule: deque[float], timer: Timer) -> None:
        now = time.monotonic()
        while schedule and self._began + schedule[0] <= now:
            self._arrive(self._began + schedule.popleft())
        if schedule:
            timer.set(self._began + schedule[0])
        else:
            self.stopping.set()

    async def _closed(self) -> None:
        """Send the next request of a caller when the last is answered, in `_over`."""
        assert self._order.callers is not None, "a closed loop has callers"
        for _ in range(self._order.callers):
            self._arrive(time.monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), self._order.seconds)
        self.stopping.set()

    async def _last_answers(self) -> None:
        if len(self._ended) < len(self._due):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), self._order.timeout_s + 2 * FLUSH_S)
        self._waiting.clear()
        for task in self._tasks:  # what would still connect
            task.cancel()
        for connection in [*self._busy.values(), *self._idle]:
            connection.close(GIVEN_UP)
        for number in [number for number in self._due if number not in self._ended]:
            self._end(number, GIVEN_UP)

    def _arrive(self, at: float) -> None:
        number, self._number = self._number, self._number + 1
        self._due[number] = at
        if (late := time.monotonic() - at) > LATE_S:
            self._woken_late[number] = late
            self._late_wakes += 1
        if self._idle:
            self._send(self._idle.pop(), number)
        elif len(self._waiting) >= WAITING_MAX:
            self._overrun += 1
            self._end(number, GIVEN_UP)
        else:
            self._waiting.append(number)
            if self._connections + self._opening < self._order.connections_max:
                task = asyncio.ensure_future(self._open())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _send(self, connection: Connection, number: int) -> None:
        late = time.monotonic() - self._due[number]
        self._late += late > LATE_S
        self._latest_s = max(self._latest_s, late)
        self._busy[number] = connection
        connection.send(self._request, number)

    async def _open(self) -> None:
        self._opening += 1
        try:
            loop = asyncio.get_running_loop()
            target = (self._order.host, self._order.port)
            async with asyncio.timeout(self._order.timeout_s):
                _, connection = await loop.create_connection(lambda: Connection(self._over), *target, ssl=self._tls)
        except OSError as error:
            if self._waiting:
                self._end(self._waiting.popleft(), GIVEN_UP if isinstance(error, TimeoutError) else FAILED)
            return
        finally:
            self._opening -= 1
        self._connections += 1
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if connection.closed:
            self._connections -= 1
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _over(self, connection: Connection, status: int) -> None:
        """Take the end of a request."""
        number, connection.number = connection.number, None
        assert number is not None
        del self._busy[number]
        self._end(number, status)
        self._free(connection)
        if self._order.callers is not None:
            if not self._finished():
                self._arrive(time.monotonic())
            elif not self._busy:
                self.stopping.set()

    def _finished(self) -> bool:
        most = self._order.requests_max
        return self.stopping.is_set() or (most is not None and self._number >= most)

    def _end(self, number: int, status: int) -> None:
        due = self._due[number]
        latency = time.monotonic() - due
        late = round(self._woken_late.pop(number, 0.0), 7)
        self._ended[number] = Outcome(round(due - self._began, 6), round(latency, 7), status, late)
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if self.stopping.is_set() and len(self._ended) == len(self._due):
            self._all_ended.set()

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._give_up_late()
            self._flush()

    def _give_up_late(self) -> None:
        before = time.monotonic() - self._order.timeout_s
        for number, connection in list(self._busy.items()):
            if self._due[number] > before:
                break
            connection.close(GIVEN_UP)

    def _flush(self) -> None:
        """Tell what has ended, in the order of the schedule, up to the first that has not."""
        outcomes = []
        while self._told in self._ended:
            outcomes.append(self._ended.pop(self._told))
            del self._due[self._told]
            self._told += 1
        if outcomes:
            self._tell(outcomes)

    def _report(self, seconds: float, cpu: float) -> LoadReport:
        counted = {status: self._statuses.get(status, 0) for status in (200, 503, 504, GIVEN_UP)}
        sent = sum(self._statuses.values())
        return LoadReport(
            sent=sent,
            answered=counted[200],
            refused=counted[503],
            expired=counted[504],
            failed=sent - sum(counted.values()),
            given_up=counted[GIVEN_UP],
            seconds=seconds,
            cpu=round(cpu, 4),
            late_sends=self._late,
            latest_send_s=round(self._latest_s, 6),
            late_wakes=self._late_wakes,
            connections=self._connections,
            bottleneck=self._full(cpu) or self._mostly_late(sent),
            full=self._full(cpu),
        )

    def _full(self, cpu: float) -> str | None:
        if self._overrun:
            return f"{self._overrun} requests found {WAITING_MAX} waiting for a connection"
        if cpu > CPU_MAX:
            return f"the generator used {cpu:.2f} of one core"
        return None

    def _mostly_late(self, sent: int) -> str | None:
        if self._order.callers is None and self._late > LATE_SHARE_MAX * sent:
            return f"{self._late} of {sent} requests were sent more than {LATE_S * 1000:g} ms late"
        return None


def _schedule(order: LoadOrder) -> deque[float]:
    """Return when requests are due, in seconds from the start."""
    assert order.rate_per_s is not None, "an open loop has a rate"
    most = int(2 * order.rate_per_s * order.seconds) + 64  # far more than chance would have in that time
    count = most if order.requests_max is None else min(most, order.requests_max)
    due = arrivals(order.arrivals, order.rate_per_s, count, order.seed)
    return deque(at for at in due if at < order.seconds)


def _request(order: LoadOrder) -> bytes:
    """Return the bytes of one request."""
    body = Path(order.body).read_bytes()
    lines = {"Host": f"{order.host}:{order.port}", "Content-Length": str(len(body)), **order.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {order.path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def _main(channel: Any) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def tell(outcomes: list[Outcome]) -> None:
        for first in range(0, len(outcomes), OUTCOMES_MAX):
            channel.write(json.dumps({"outcomes": outcomes[first : first + OUTCOMES_MAX]}).encode() + b"\n")
        channel.flush()

    while line := await _order(reader):
        load = Load(LoadOrder.model_validate_json(line), tell)
        listening = asyncio.create_task(_listen(reader, load))
        report = await load.run()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening  # two may not read at once
        channel.write(b'{"report":%b}\n' % report.model_dump_json().encode())
        channel.flush()


async def _order(reader: asyncio.StreamReader) -> bytes:
    """Return the next order, empty at the end; a stop that came after its load had ended is none."""
    while (line := await reader.readline()) == STOP:
        pass
    return line


async def _listen(reader: asyncio.StreamReader, load: Load) -> None:
    """Stop the load when told to."""
    await reader.readline()
    load.stopping.set()


def main(arguments: list[str]) -> None:
    """Load as ordered."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.profiling.load")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    with os.fdopen(os.dup(1), "wb") as channel, contextlib.suppress(BrokenPipeError):
        uvloop.run(_main(channel))


if __name__ == "__main__":
    main(sys.argv[1:])
