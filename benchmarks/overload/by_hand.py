"""Find the best limit for each peer as a person would, by trying: `python -m benchmarks.overload.by_hand --peers DIR`.

Every candidate is run at 1.5 and 5 times the peer's capacity; the one with the largest goodput over them wins. The
answer is written to benchmarks/peers/by_hand.json. It holds for one model, one SLO and one machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.overload.measure import Course, measure
from benchmarks.peers import install, subject
from benchmarks.peers.closed import check_programs
from benchmarks.peers.contenders import AS_INSTALLED, Contender, Place
from benchmarks.peers.process import Server, end_in_order

FOUND: Final = Path(__file__).parents[1] / "peers" / "by_hand.json"
MODEL, SLO_S = "mobilenet_v2", 0.06
PORT: Final = 19_200
Limits = Mapping[str, str]


def _in_flight(*limits: int) -> tuple[Limits, ...]:
    return tuple({"BENCH_LIMIT": str(limit)} for limit in limits)


CANDIDATES: Final[Mapping[str, Sequence[Limits]]] = {
    "FastAPI": _in_flight(8, 12, 16),
    "granian": _in_flight(8, 12, 16),
    "MLServer": _in_flight(2, 4),
    "PyTriton": tuple(
        {"BENCH_LIMIT": str(limit), "BENCH_TIMEOUT_US": str(1000 * milliseconds)}
        for limit, milliseconds in ((8, 0), (12, 0), (16, 35))
    ),
}
"""Requests in flight beyond which 503 is answered; of PyTriton Triton's queue: its length, the longest time in it."""


def all_found() -> dict[str, Any]:
    """Return what was found, with what was tried; empty before."""
    return json.loads(FOUND.read_text()) if FOUND.exists() else {}


def found(name: str) -> Limits:
    """Return the best limits of a peer; empty when none were looked for."""
    limits: Limits = all_found().get(name, {}).get("best", {})
    return limits


def goodput(record: Mapping[str, Any]) -> float:
    """Return the goodput over all steps, as a share of the capacity."""
    steps = record["steps"]
    return float(sum(step["score"]["in_time_per_s"] for step in steps) / len(steps) / record["capacity"]["per_s"])


def look_for(peer: Contender, one: subject.Subject, peers: Path, seconds: float) -> dict[str, Any]:
    """Return the best limits of a peer, and all that were tried."""
    course = Course(SLO_S, multiples=(1.5, 5.0), closed_s=1, step_s=seconds, fall_s=0.2)
    tried = []
    for number, limits in enumerate(CANDIDATES[peer.name]):
        with tempfile.TemporaryDirectory(prefix="orch-by-hand-") as folder:
            port = PORT + 2 * number
            place = Place(one, peers, Path(folder), port, port + 1)
            print(f"{peer.name} {dict(limits)}", file=sys.stderr)
            with Server(replace(peer, by_hand=limits), place) as server:
                record = measure(server, course, 1, lambda text: print(f"  {text}", file=sys.stderr))
        shares = [round(step["score"]["in_time_per_s"] / record["capacity"]["per_s"], 3) for step in record["steps"]]
        tried.append({"limits": limits, "goodput": round(goodput(record), 3), "at 1.5, 5": shares})
    best = max(tried, key=lambda one: one["goodput"])
    return {"best": best["limits"], "tried": tried}


def main() -> None:
    """Look, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload.by_hand", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CANDIDATES), help=f"any of {', '.join(CANDIDATES)}")
    parser.add_argument("--peers", type=Path, default=install.default_folder())
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load")
    options = parser.parse_args()
    check_programs()
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="orch-by-hand-") as folder:
        one = subject.save(MODEL, Path(folder))
        for peer in AS_INSTALLED:
            if peer.name in options.names and peer.there(options.peers):
                answer = {**all_found(), peer.name: look_for(peer, one, options.peers, options.seconds)}
                FOUND.write_text(json.dumps(answer, indent=1) + "\n")
                print(peer.name, answer[peer.name]["best"])


if __name__ == "__main__":
    main()
