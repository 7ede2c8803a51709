"""Kills the agent, then the worker, again and again under load: whose requests fail, and how soon it serves again."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("CI", "true")

import numpy as np
import tritonclient.grpc

from benchmarks.home import MODELS, WAIT_S, Home

CALLERS = 2  # of each protocol, each with one request in flight
PAUSE_S = 0.002  # between a caller's requests: the cores have room to start a worker
CALL_TIMEOUT_S = 20.0
BETWEEN_S = 0.5  # of good service between two kills
GOAL_S = 2.0
BODY = (MODELS / "digits-sample.json").read_bytes()
SAMPLE = np.load(MODELS / "digits-sample.npy")
DIGIT = 8


@dataclass
class Tally:
    """What the callers of one protocol saw."""

    good: int = 0
    failures: list[str] = field(default_factory=list)
    refused: int = 0
    """Calls begun while nobody listened: gRPC has a port of its own, which ends with the worker."""


class HttpCaller:
    """One connection over HTTP, made again when it breaks."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=CALL_TIMEOUT_S)

    def __call__(self) -> None:
        """Infer once; raise whatever goes wrong."""
        try:
            self._connection.request("POST", "/v2/models/digits/infer", BODY, {"Content-Type": "application/json"})
            reply = self._connection.getresponse()
            text = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{reply.status} {text[:200]!r}")
            outputs = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
            if int(np.argmax(outputs["probabilities"])) != DIGIT:
                raise RuntimeError("a wrong answer")
        except BaseException:
            self._connection.close()
            raise


class GrpcCaller:
    """One channel over gRPC, which connects again by itself."""

    def __init__(self, address: str) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        self._client = tritonclient.grpc.InferenceServerClient(address, channel_args=options)
        self._given = tritonclient.grpc.InferInput("image", list(SAMPLE.shape), "FP32")
        self._given.set_data_from_numpy(SAMPLE)

    def __call__(self) -> None:
        """Infer once; raise whatever goes wrong."""
        answer = self._client.infer("digits", [self._given], client_timeout=CALL_TIMEOUT_S)
        if int(answer.as_numpy("probabilities").argmax()) != DIGIT:
            raise RuntimeError("a wrong answer")


class Load:
    """Callers that ask one after the other until told to stop; a context manager."""

    def __init__(self, endpoint: dict[str, str]) -> None:
        address = endpoint["http"].removeprefix("http://")
        self.tallies = {"http": Tally(), "grpc": Tally()}
        self._stop = threading.Event()
        calls: list[tuple[str, Callable[[], None]]] = []
        for _ in range(CALLERS):
            calls += [("http", HttpCaller(address)), ("grpc", GrpcCaller(endpoint["grpc"]))]
        self._threads = [threading.Thread(target=self._ask, args=each, daemon=True) for each in calls]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT_S)

    def _ask(self, protocol: str, call: Callable[[], None]) -> None:
        tally = self.tallies[protocol]
        while not self._stop.wait(PAUSE_S):
            try:
                call()
                tally.good += 1
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                if protocol == "grpc" and _nobody_listens(error):
                    tally.refused += 1
                    self._stop.wait(0.05)
                else:
                    tally.failures.append(f"{type(error).__name__}: {error}")

    def until_good(self, count: int) -> None:
        """Wait until so many more were answered over each protocol."""
        goals = {name: tally.good + count for name, tally in self.tallies.items()}
        deadline = time.monotonic() + WAIT_S
        while any(self.tallies[name].good < goal for name, goal in goals.items()):
            if time.monotonic() > deadline:
                raise TimeoutError("no answers")
            self._stop.wait(0.005)


def _nobody_listens(error: Exception) -> bool:
    text = str(error)
    return "failed to connect" in text or "Connection refused" in text


@dataclass
class Outcome:
    """What the kills of one kind of process did."""

    kills: int
    seconds: list[float]
    failures: dict[str, int]
    refused: int
    examples: list[str]


def kills(home: Home, count: int, kill: Callable[[], float]) -> Outcome:
    """Call `kill` so often under load; it returns the seconds until all is well again."""
    seconds = []
    with Load(home.serving()["endpoint"]) as load:
        for _ in range(count):
            load.until_good(20)
            seconds.append(kill())
            time.sleep(BETWEEN_S)
        load.until_good(20)
    failures = {name: len(tally.failures) for name, tally in load.tallies.items()}
    examples = [f"{name}: {text}"[:300] for name, tally in load.tallies.items() for text in tally.failures[:3]]
    return Outcome(count, seconds, failures, load.tallies["grpc"].refused, examples)


def kill_agent(home: Home) -> float:
    """Kill the agent; return the seconds until the next command finds everything healthy."""
    pid = home.agent_pid()
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    home.serving()
    assert home.agent_pid() != pid
    return time.monotonic() - began


class WorkerKills:
    """Kills the worker that serves, and never the same twice."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._killed = 0

    def __call__(self) -> float:
        """Kill it; return the seconds until a new client has its answer."""
        status = self._home.serving(after=self._killed)
        self._killed = int(status["worker"]["pid"])
        call = HttpCaller(status["endpoint"]["http"].removeprefix("http://"))
        os.kill(self._killed, signal.SIGKILL)
        return _until_answered(call)


def _until_answered(call: Callable[[], None]) -> float:
    began = time.monotonic()
    while time.monotonic() - began < WAIT_S:
        with contextlib.suppress(OSError, http.client.HTTPException):
            call()
            return time.monotonic() - began
        time.sleep(0.005)
    raise TimeoutError("the worker did not come back")


def _show(name: str, outcome: Outcome) -> None:
    median, most = statistics.median(outcome.seconds), max(outcome.seconds)
    failed = ", ".join(f"{count} over {protocol}" for protocol, count in outcome.failures.items())
    print(f"{outcome.kills} kills of the {name}: failed {failed}; well again after {median:.2f} s (most {most:.2f} s)")
    if outcome.refused:
        print(f"  {outcome.refused} gRPC calls found nobody listening, and were told UNAVAILABLE")
    for text in outcome.examples:
        print(f"  {text}")


def held(agent: Outcome, worker: Outcome) -> bool:
    """Tell whether the goals were met: nothing fails with the agent, with a worker only what was in flight."""
    most = CALLERS * worker.kills
    good = not any(agent.failures.values()) and not agent.refused
    good &= all(failed <= most for failed in worker.failures.values())
    return good and max(worker.seconds, default=0.0) <= GOAL_S


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--agent", type=int, default=20, help="kills of the agent")
    parser.add_argument("--worker", type=int, default=20, help="kills of the worker")
    options: Any = parser.parse_args(arguments)
    with Home() as home:
        home.apply()
        agent = kills(home, options.agent, lambda: kill_agent(home))
        worker = kills(home, options.worker, WorkerKills(home))
        bugs = home.worker_log().count("Traceback")
    _show("agent", agent)
    _show("worker", worker)
    print(f"tracebacks in the workers' logs: {bugs}")
    return 0 if held(agent, worker) and not bugs else 1


if __name__ == "__main__":
    sys.exit(main())
