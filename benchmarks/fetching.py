"""Times what an agent does with a repository: look at its head, fetch a commit, and fetch one that changes a file.

1,000 manifests and a model of 30 MB in a repository of its own, over a path and over smart HTTP on loopback. Run with
`python -m benchmarks.fetching`. CPU time is that of git and of us together, and over HTTP of the server too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.gitops.remote import Checkout, GitRemote, Repository
from tests.gitops.upstream import Upstream, served

MANIFESTS = 1000
MODEL_BYTES = 30_000_000
HEADS = 20
CHANGES = 5


def timed(what: str, call: Callable[[], object], times: int = 1) -> None:
    """Print how long each of several calls takes."""
    began, before = time.monotonic(), _cpu_s()
    for _ in range(times):
        call()
    wall_s, cpu_s = (time.monotonic() - began) / times, (_cpu_s() - before) / times
    print(f"{what:40} {wall_s * 1e3:8.0f} ms {cpu_s * 1e3:8.0f} ms CPU")


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        upstream = Upstream.at(home / "srv" / "site.git")
        files: dict[str, bytes | str] = {f"site/{number:04}.yaml": f"n: {number}\n" for number in range(MANIFESTS)}
        files["models/x.onnx"] = os.urandom(MODEL_BYTES)
        commits = [upstream.commit({**files, "site/0000.yaml": f"n: {-change}\n"}) for change in range(CHANGES + 1)]
        with served(home / "srv") as server:
            for name, url in (("path", str(upstream.path)), ("http", f"{server.url}/site.git")):
                repository = Repository(home / name, GitRemote(url, path="site"))
                timed(f"{name}: a look at the head", repository.head, HEADS)
                timed(f"{name}: the first commit, with its model", lambda: take(repository, commits[0]))  # noqa: B023
                rest = iter(commits[1:])
                timed(f"{name}: a commit that changes one file", lambda: take(repository, next(rest)), CHANGES)  # noqa: B023


def take(repository: Repository, commit_id: str) -> Checkout:
    """Fetch a commit and its model, and let go of all others."""
    checkout = repository.fetch(commit_id)
    repository.bring(checkout, ["models/x.onnx"])
    repository.keep([commit_id])
    return checkout


if __name__ == "__main__":
    main()
