"""Closed loops against a server: wrk over HTTP, h2load over gRPC, with the server's CPU time."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.process import HOST, Server

PROGRAMS: Final = ("wrk", "h2load")
WARM_S: Final = 1


@dataclass(frozen=True, slots=True)
class Rate:
    """What a closed loop found."""

    per_s: float
    """Answers with status 200 a second."""
    cpu_ms: float
    """CPU time of the server's processes for each."""
    refused_per_s: float


def check_programs() -> None:
    """Exit where a load generator is missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"{' and '.join(missing)} needed: apt-get install wrk nghttp2-client")


def closed_loop(server: Server, connections: int, seconds: int) -> Rate:
    """Keep `connections` requests under way for `seconds`, after a short warm-up."""
    load = _h2load if server.request.protocol == "grpc" else _wrk
    load(server, connections, WARM_S)
    before = server.cpu_s()
    per_s, refused_per_s = load(server, connections, seconds)
    cpu_s = server.cpu_s() - before
    return Rate(round(per_s, 1), round(1000 * cpu_s / max(1.0, per_s * seconds), 4), round(refused_per_s, 1))


def _wrk(server: Server, connections: int, seconds: int) -> tuple[float, float]:
    """Return answers and refusals a second over HTTP."""
    request, script = server.request, server.place.folder / "wrk.lua"
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.headers.items())
    script.write_text(
        f'local f = io.open("{request.body}", "rb"); wrk.body = f:read("*a"); f:close()\nwrk.method = "POST"\n{headers}'
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    text = _run([*command, f"http://{HOST}:{server.port}{request.path}"])
    done, spent = _number(r"([0-9]+) requests in", text), _number(r"requests in ([0-9.]+)", text)
    refused = _number(r"Non-2xx or 3xx responses: ([0-9]+)", text, 0.0)
    return (done - refused) / spent, refused / spent


def _h2load(server: Server, connections: int, seconds: int) -> tuple[float, float]:
    """Return answers and other ends a second over gRPC; a refusal counts as an answer there, so nothing may refuse."""
    command = ["h2load", f"-c{connections}", "-m1", "-t1", f"-D{seconds}", "-d", server.request.body]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    text = _run([*command, *headers, f"http://{HOST}:{server.port}{server.request.path}"])
    return _number(r"([0-9]+) succeeded", text) / seconds, _number(r"([0-9]+) failed", text) / seconds


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def _number(pattern: str, text: str, otherwise: float | None = None) -> float:
    match = re.search(pattern, text)
    if match is None:
        if otherwise is None:
            raise RuntimeError(f"no {pattern!r} in: {text}")
        return otherwise
    return float(match[1])
