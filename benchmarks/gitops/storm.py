"""Commits in a row under load, good and bad mixed: what they change, what they must not, and what reason is named.

After each commit `orch source describe -o json` must show it: applied where it is good; attempted, failed and with its
reason where it is bad, while the last good one is applied and serves. Requests to a deployment that no commit changes
run all the while, and not one may fail.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gitops.git_server import git
from benchmarks.gitops.site import MANIFEST, STREAMS, Site

INTERVAL_S = 5.0
SETTLE_S = 120.0
MANY = 1000
GONE_S, GONE_LONG_S = 3.0, 60.0
LONG_EVERY = 50  # commits between two remotes that are gone for a minute


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to the repository, and what must come of it."""

    name: str
    act: Callable[[Site], str]
    """Pushes, and returns the commit that the source must have attempted in the end."""
    reason: str | None = None
    """Pattern of the reason that is named; None: it is applied."""
    spoils: bool = False
    """Requests to the deployment that changes may fail: it is the new one's SLO that lets them."""


@dataclass
class Kind:
    """What came of all steps of one name."""

    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    example: str = ""


def good(site: Site) -> str:
    site.good()
    return site.push("good")


def bad_yaml(site: Site) -> str:
    path = site.tree / "deployments" / "changing.yaml"
    path.write_text(path.read_text().replace("models:", "models: [", 1))
    return site.push("bad YAML")


def wrong_device(site: Site) -> str:
    site.write("changing", str(site.version), "      device: GPU.7")
    return site.push("wrong device")


def truncated_model(site: Site) -> str:
    path = site.tree / "deployments" / "models" / "changing.onnx"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return site.push("truncated model")


def impossible_slo(site: Site) -> str:
    more = f"{STREAMS.format(streams=1)}\n      slo: {{latency: 0.05ms, percentile: 99, rate: 100/s}}"
    site.write("changing", str(site.version + 1), more)
    return site.push("an SLO that cannot hold")


def force_push(site: Site) -> str:
    site.good()
    git(site.tree, "add", "--all")
    git(site.tree, "commit", "--quiet", "--amend", "--message", "amended")
    return site.push("on top of what was amended")


def rewritten_history(site: Site) -> str:
    site.good()
    git(site.tree, "checkout", "--quiet", "--orphan", "again")
    commit = site.push("all anew")
    git(site.tree, "branch", "--quiet", "--force", "--move", "main")
    return commit


def deleted_branch(site: Site) -> str:
    commit = git(site.tree, "rev-parse", "HEAD")
    git(site.tree, "push", "--quiet", "origin", ":refs/heads/main")
    site.tell(commit)
    site.until(lambda: not site.source()["remote"]["answers"], SETTLE_S)
    said = site.source()["remote"]["message"]
    assert "'main'" in said, f"does not name the branch: {said}"
    site.good()
    return site.push("the branch is back")


def remote_gone(site: Site, seconds: float = GONE_S) -> str:
    site.server.gone = True
    site.good()
    commit = site.push("while the remote is gone")
    until = time.monotonic() + seconds
    try:
        site.until(lambda: not site.source()["remote"]["answers"], SETTLE_S)
        site.until(lambda: time.monotonic() > until, seconds + 1)
    finally:
        site.server.gone = False
    return commit


def remote_gone_long(site: Site) -> str:
    return remote_gone(site, GONE_LONG_S)


def many_elsewhere(site: Site) -> str:
    _write_many(site, "elsewhere")
    site.good()
    return site.push(f"{MANY} manifests in a folder that is not followed")


def many_here(site: Site) -> str:
    _write_many(site, "deployments")
    return site.push(f"{MANY} manifests in the folder that is followed")


def _write_many(site: Site, folder: str) -> None:
    (site.tree / folder).mkdir(exist_ok=True)
    for number in range(MANY):
        text = MANIFEST.format(name=f"many-{number}", port=20_000 + number, model="steady", version="1", more="")
        (site.tree / folder / f"many-{number:04d}.yaml").write_text(text)


STEPS = (
    Step("good", good),
    Step("bad YAML", bad_yaml, r"changing\.yaml:\d+:\d+"),
    Step("wrong device", wrong_device, r"GPU\.7"),
    Step("force-push", force_push),
    Step("truncated model", truncated_model, r"changing"),
    Step("good", good),
    Step("SLO that cannot hold", impossible_slo, r"(?i)\bslo\b", spoils=True),
    Step("deleted branch", deleted_branch),
    Step("1,000 manifests here", many_here, r"1[,0]*\d* (manifests|deployments)"),
    Step("rewritten history", rewritten_history),
    Step("remote gone", remote_gone),
    Step("1,000 manifests elsewhere", many_elsewhere),
)
LONG = Step("remote gone for a minute", remote_gone_long)


def run(commits: int) -> bool:
    """Do so many steps, print a row for each kind and what failed; tell whether all was as it must be."""
    kinds: dict[str, Kind] = {}
    with Site(f"{INTERVAL_S:g}s", webhook=True) as site:
        git(site.server.bare, "config", "receive.denyDeleteCurrent", "ignore")
        before = _workers(site)
        site.load()
        spoiled = 0
        for number in range(commits):
            step = LONG if number % LONG_EVERY == LONG_EVERY // 2 else STEPS[number % len(STEPS)]
            kind, failed = kinds.setdefault(step.name, Kind()), len(site.tallies["changing"].failures)
            known = len(kind.wrong)
            one_step(site, step, kind)
            if step.spoils:
                spoiled += len(site.tallies["changing"].failures) - failed
            print(
                f"{number + 1:>4} {step.name:<26} {kind.seconds[-1]:6.1f} s  {'; '.join(kind.wrong[known:])}",
                flush=True,
            )
            clean_up(site, step)
        after = _workers(site)
        return _told(site, kinds, spoiled, same=before["steady"] == after["steady"])


def one_step(site: Site, step: Step, kind: Kind) -> None:
    """Do one step, wait until the source settled, and note what is not as it must be."""
    last, begin = site.source()["applied"]["commit"], time.monotonic()
    try:
        commit = step.act(site)
        site.until(lambda: _settled(site.source(), commit, good=step.reason is None), SETTLE_S)
        kind.seconds.append(time.monotonic() - begin)
        kind.wrong += wrong(site, step, commit, last, kind)
    except (TimeoutError, AssertionError, RuntimeError) as error:
        kind.seconds.append(time.monotonic() - begin)
        kind.wrong.append(f"{type(error).__name__}: {error}"[:2000])


def _settled(source: Mapping[str, Any], commit: str, *, good: bool) -> bool:
    attempted = source["attempted"]
    if attempted is None or attempted["commit"] != commit or attempted["result"] == "running":
        return False
    return source["remote"]["answers"] is True or not good


def wrong(site: Site, step: Step, commit: str, last: str, kind: Kind) -> list[str]:
    """Return what the command line and the deployments show that they must not."""
    source = site.described()["source"]
    found = []
    applied, attempted = source["applied"]["commit"], source["attempted"]
    if attempted["commit"] != commit:
        found.append(f"attempted {attempted['commit'][:8]}, pushed {commit[:8]}")
    if applied != (commit if step.reason is None else last):
        found.append(f"applied {applied[:8]}, of {last[:8]} -> {commit[:8]}: {source['message']}")
    said = " ".join(f"{fault['where']}: {fault['what']} ({fault['author']})" for fault in attempted["faults"])
    if step.reason is not None:
        kind.example = said[:200]
        if not re.search(step.reason, said):
            found.append(f"the reason is not named: {said[:300]!r}")
        if "Ann Ops" not in said:
            found.append(f"the author is not named: {said[:300]!r}")
    served = {name: site.served(name) for name in site.ports}
    if served != {"steady": "1", "changing": str(site.version)}:
        found.append(f"serves {served}, of version {site.version}")
    return found


def clean_up(site: Site, step: Step) -> None:
    """Bring the working tree back to what is applied; what a bad commit wrote is not in the next one."""
    if step.reason is None:
        return
    for path in (site.tree / "deployments").glob("many-*.yaml"):
        path.unlink()
    site.version -= 1
    site.reset()


def _workers(site: Site) -> dict[str, int]:
    import json  # beside its use

    items = json.loads(site.home.orch("status", "-o", "json"))["items"]
    return {item["metadata"]["name"]: int(item["worker"]["pid"]) for item in items}


def _told(site: Site, kinds: Mapping[str, Kind], spoiled: int, *, same: bool) -> bool:
    print(f"\n{'step':<26} {'times':>5} {'as it must be':>13} {'median s':>9} {'max s':>7}  reason that was named")
    for name, kind in kinds.items():
        times, right = len(kind.seconds), len(kind.seconds) - len(kind.wrong)
        middle, most = statistics.median(kind.seconds), max(kind.seconds)
        print(f"{name:<26} {times:>5} {right:>13} {middle:>9.1f} {most:>7.1f}  {kind.example[:110]}")
    steady, changing = site.tallies["steady"], site.tallies["changing"]
    other = len(changing.failures) - spoiled
    print(f"untouched deployment: {steady.good:,} answered, {len(steady.failures)} failed; the same worker: {same}")
    print(
        f"changing deployment: {changing.good:,} answered, {other} failed, {spoiled} more by the SLO that cannot hold"
    )
    for text in [
        *steady.failures[:5],
        *changing.failures[:5],
        *(each for kind in kinds.values() for each in kind.wrong),
    ]:
        print(f"  {text}")
    return same and not steady.failures and not any(kind.wrong for kind in kinds.values())
