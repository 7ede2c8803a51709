"""How long a push takes to serve, by webhook and by polling: from `git push` to the first answer of the new plan."""

from __future__ import annotations

import statistics
import time
from functools import partial

from benchmarks.gitops.site import Site

GOAL_WEBHOOK_S = 5.0
GRACE_POLLING_S = 2.0  # beyond one interval
TIMEOUT_S = 60.0
INTERVAL_S = 10.0
FOR_WEBHOOKS = "10m"  # so that no poll helps


def measure(pushes: int, *, webhook: bool) -> list[float]:
    """Return the seconds of each push, each of which has the model compiled anew; `push` itself is counted."""
    seconds = []
    with Site(FOR_WEBHOOKS if webhook else f"{INTERVAL_S:g}s", webhook=webhook) as site:
        for number in range(pushes):
            site.good()
            wanted = str(site.version)
            begin = time.monotonic()
            commit = site.push(f"good {number}")
            site.until(partial(_serves, site, wanted), TIMEOUT_S)
            seconds.append(time.monotonic() - begin)
            site.until(partial(_applied, site, commit), TIMEOUT_S)
            if not webhook:
                time.sleep(INTERVAL_S * 0.37)  # pushes come at other times than polls
    return seconds


def _serves(site: Site, version: str) -> bool:
    return site.served("changing") == version


def _applied(site: Site, commit: str) -> bool:
    applied = site.source()["applied"]
    return applied is not None and applied["commit"] == commit


def report(pushes: int) -> bool:
    """Print both ways with median and maximum; tell whether both hold their goals."""
    held = True
    for name, webhook, goal in (
        ("webhook", True, GOAL_WEBHOOK_S),
        (f"polling every {INTERVAL_S:g} s", False, INTERVAL_S + GRACE_POLLING_S),
    ):
        seconds = measure(pushes, webhook=webhook)
        good = max(seconds) <= goal
        held = held and good
        median, most = statistics.median(seconds), max(seconds)
        verdict = "within" if good else "OVER"
        print(
            f"{name:<22} {pushes} pushes: median {median:.2f} s, max {most:.2f} s; goal {goal:g} s  {verdict}",
            flush=True,
        )
    return held
