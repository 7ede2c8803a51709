"""Send requests on a schedule, whatever becomes of them: `python -m benchmarks.overload.client < order.json`.

Open loop: a request is sent when it is due, on an idle connection or a new one, and its latency counts from when it was
due. After `give_up_s` the caller goes away, as people do. The client shares the cores with what it measures, so it
costs as little as it can: one thread on epoll that sleeps on a kernel timer, and bodies that the kernel takes from a
file in memory (sendfile) without a copy. It runs at real-time priority where it may, since a client on another
machine would not wait for the server's threads either, and it tells how late it was and what it used.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.overload.grpc_calls import GrpcConnection
from benchmarks.overload.http_calls import HttpConnection
from benchmarks.overload.order import GAVE_UP, Order, Outcome, Request, Told
from benchmarks.overload.payload import Payload
from orchestrator.profiling.timer import Timer
from orchestrator.scheduling.arrivals import arrivals

LATE_S: Final = 0.002
LATE_SHARE_MAX: Final = 0.05  # of the sends; more late ones and the schedule was not kept
CPU_MAX: Final = 0.9  # cores; above it the one thread is full
LOOK_S: Final = 0.01  # how often those who have waited too long are looked for
PRIORITY: Final = 1  # of SCHED_RR: before every thread that is not of real time
EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
Connection = HttpConnection | GrpcConnection


class Poller:
    """An epoll that calls back; has the part of an event loop that Timer asks for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._called: dict[int, Callable[[int], None]] = {}

    def add(self, fd: int, called: Callable[[int], None], events: int = EVENTS) -> None:
        """Call with the events of `fd`."""
        self._called[fd] = called
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Call no more."""
        del self._called[fd]
        self._epoll.unregister(fd)

    def add_reader(self, fd: int, called: Callable[[], None]) -> None:
        """Call when `fd` can be read."""
        self.add(fd, lambda _events: called(), select.EPOLLIN)

    def remove_reader(self, fd: int) -> None:
        """Call no more."""
        self.remove(fd)

    def turn(self, timeout_s: float) -> None:
        """Wait for events and call for each."""
        for fd, events in self._epoll.poll(timeout_s, 64):
            called = self._called.get(fd)
            if called is not None:  # its connection may have been closed by an earlier event of this turn
                called(events)


class Client:
    """Keeps the schedule, the connections, and who waits for what."""

    def __init__(self, order: Order, payload: Payload) -> None:
        self._order = order
        self._payload = payload
        self._kind = GrpcConnection if order.request.protocol == "grpc" else HttpConnection
        self._poller = Poller()
        self._idle: list[Connection] = []  # the last used first: few stay warm
        self._open = 0
        self._open_max = 0
        self._waiting: deque[int] = deque()  # due, but no connection may be opened
        self._due = schedule(order)
        self._next = 0
        self._awaited = -1  # whose arrival the timer rings for
        self._outcomes: list[Outcome | None] = [None] * len(self._due)
        self._carriers: list[Connection | None] = [None] * len(self._due)
        self._oldest = 0  # whose patience is looked at next
        self._left = len(self._due)
        self._late = 0
        self._latest_s = 0.0
        self._began = 0.0

    def run(self) -> Told:
        """Send everything and wait for the answers or for the end of patience."""
        timer = Timer(self._poller, self._send_due)  # type: ignore[arg-type]  # of the loop it needs two methods
        self._idle = [self._connect() for _ in range(self._order.connections_first)]
        for _ in range(20):  # let them be established, and of HTTP/2 be greeted
            self._poller.turn(LOOK_S)
        gc.collect()
        gc.disable()  # a collection in the middle would be taken for the server's latency
        cpu, self._began = time.process_time(), time.monotonic()
        look = self._began
        self._timer = timer
        self._send_due()
        while self._left:
            self._poller.turn(LOOK_S)
            now = time.monotonic()
            self._send_due()
            if now > look:
                look = now + LOOK_S
                self._give_up(now)
        seconds = time.monotonic() - self._began
        return self._told(seconds, (time.process_time() - cpu) / seconds)

    def _send_due(self) -> None:
        now = time.monotonic() - self._began
        due, number = self._due, self._next
        while number < len(due) and due[number] <= now:
            self._next = number + 1
            self._arrive(number)
            number = self._next
            now = time.monotonic() - self._began
        if number < len(due) and number != self._awaited:
            self._awaited = number
            self._timer.set(self._began + due[number])

    def _arrive(self, number: int) -> None:
        if self._idle:
            connection = self._idle.pop()
        elif self._open < self._order.connections_max:
            connection = self._connect()
        else:
            self._waiting.append(number)
            return
        self._send(connection, number)

    def _send(self, connection: Connection, number: int) -> None:
        late = time.monotonic() - self._began - self._due[number]
        self._late += late > LATE_S
        self._latest_s = max(self._latest_s, late)
        self._carriers[number] = connection
        connection.send(number)

    def _connect(self) -> Connection:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.connect_ex((self._order.host, self._order.port))  # what comes of it the first write tells
        connection = self._kind(opened, self._payload, self._ended, self._free)
        self._poller.add(opened.fileno(), connection.on_events)
        self._open += 1
        self._open_max = max(self._open_max, self._open)
        return connection

    def _ended(self, number: int, status: int) -> None:
        """Note how a request ended; called by its connection, or for it."""
        if self._outcomes[number] is None:
            latency = time.monotonic() - self._began - self._due[number]
            self._outcomes[number] = Outcome(round(self._due[number], 6), round(latency, 6), status)
            self._left -= 1

    def _free(self, connection: Connection) -> None:
        """Take a connection back, for the next request or for good."""
        if connection.closed:
            if connection in self._idle:
                self._idle.remove(connection)
            self._drop(connection)
        elif (number := self._next_waiting()) is not None:
            self._send(connection, number)
        else:
            self._idle.append(connection)

    def _next_waiting(self) -> int | None:
        while self._waiting:
            number = self._waiting.popleft()
            if self._outcomes[number] is None:
                return number
        return None

    def _drop(self, connection: Connection) -> None:
        self._poller.remove(connection.socket.fileno())
        connection.socket.close()
        self._open -= 1

    def _give_up(self, now: float) -> None:
        before = now - self._began - self._order.give_up_s
        while self._oldest < self._next:
            number = self._oldest
            connection = self._carriers[number]
            busy = connection is not None and connection.number == number  # or sends what a refusal left of the body
            ended = self._outcomes[number] is not None
            if self._due[number] > before and (busy or not ended):
                return
            self._oldest += 1
            self._carriers[number] = None
            if not ended:
                self._ended(number, GAVE_UP)
            if busy and connection is not None:
                connection.close()
                self._drop(connection)

    def _told(self, seconds: float, cpu: float) -> Told:
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        return Told(
            outcomes=outcomes,
            seconds=round(seconds, 3),
            cpu=round(cpu, 4),
            late_sends=self._late,
            latest_send_s=round(self._latest_s, 6),
            connections=self._open_max,
            bottleneck=self._bottleneck(len(outcomes), cpu),
        )

    def _bottleneck(self, sent: int, cpu: float) -> str | None:
        if self._open_max >= self._order.connections_max:
            return f"all {self._open_max} connections were in use"
        if cpu > CPU_MAX:
            return f"the client used {cpu:.2f} of one core"
        if self._late > LATE_SHARE_MAX * sent:
            return f"{self._late} of {sent} requests were sent more than {LATE_S * 1000:g} ms late"
        return None


def schedule(order: Order) -> list[float]:
    """Return when requests are due, in seconds from the start."""
    due: list[float] = []
    ends = [0.0]
    for phase in order.phases:
        ends.append(ends[-1] + phase.seconds)
    for number, (phase, (begin, end)) in enumerate(zip(order.phases, pairwise(ends), strict=True)):
        most = int(2 * phase.rate_per_s * phase.seconds) + 64  # far more than chance would have in that time
        drawn = arrivals("poisson", phase.rate_per_s, most, 1000 * order.seed + number)
        due += [begin + at for at in drawn if begin + at < end]
    return due


def request_body(request: Request) -> bytes:
    """Return the body of each request."""
    return Path(request.body).read_bytes()


def main() -> None:
    """Load as ordered, and tell."""
    order = Order.from_json(sys.stdin.read())
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
    payload = Payload(order.request, f"{order.host}:{order.port}", request_body(order.request))
    sys.stdout.write(Client(order, payload).run().to_json() + "\n")


if __name__ == "__main__":
    main()
