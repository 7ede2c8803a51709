"""The files for CI that users copy: the hooks run, and the steps of the workflows do as they say in a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_repository import SLO, commit, git, two_deployments, write
from stand_in import ROOT

CI = ROOT / "deployments" / "ci"
STAND_INS = {
    "pip": 'echo "pip $*" >> "$CALLS"',
    "gh": 'echo "gh $*" >> "$CALLS"; cat diff.md >> "$CALLS"',
    "curl": 'echo "curl $*" >> "$CALLS"',
    "orch": f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m orchestrator.cli "$@"',
}
"""The programs that the steps call: ours, and others that only write down how they were called."""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the steps find the programs that they call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(tmp_path), "ORCH_HOME": str(tmp_path / "state")}
    return environ | {"CI": "true", "CALLS": str(tmp_path / "calls"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    """Return a repository of manifests with two commits: the second one asks for another hint at the door."""
    root = two_deployments(tmp_path / "repository").parent
    write(root / "deployments", "door", "compile: {hint: THROUGHPUT}", 9000)
    commit(root)
    return root


def run(script: str, where: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub and GitLab do: bash that ends at the first error."""
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(shell, cwd=where, env=environ, capture_output=True, text=True, timeout=60, check=False)


def read(name: str) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load((CI / name).read_text(encoding="utf-8"))
    return found


def steps() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read("github-workflow.yaml")["jobs"]["manifests"]["steps"]
    return found


def github(where: Path, programs: Mapping[str, str]) -> list[int]:
    """Run the workflow's own steps one after the other and return their exit codes."""
    environ = {**programs, **read("github-workflow.yaml")["env"], "PULL_REQUEST": "7"}
    return [run(step["run"], where, environ).returncode for step in steps() if "run" in step]


def test_the_workflow_validates_checks_and_comments_what_changes(sites: Path, programs: dict[str, str]) -> None:
    assert github(sites, programs) == [0, 0, 0, 0, 0]
    pip, gh, *comment = Path(programs["CALLS"]).read_text().splitlines()
    assert pip == "pip install --quiet orch-openvino"
    assert gh == "gh pr comment 7 --body-file diff.md --edit-last --create-if-none"
    assert comment[0] == "### orch: what changes against `HEAD^1`"
    assert (
        "| ± | `door/digits` | `replace: PERFORMANCE_HINT LATENCY -> THROUGHPUT needs a new compiled model` |  |"
        in comment
    )
    assert Path(programs["GITHUB_STEP_SUMMARY"]).read_text() == "\n".join(comment) + "\n"


def test_the_workflow_fails_at_the_step_that_finds_the_mistake(sites: Path, programs: dict[str, str]) -> None:
    write(sites / "deployments", "shop", SLO.replace("25/s", "50/s"), 8000)
    assert github(sites, programs) == [0, 0, 1, 0, 0]
    write(sites / "deployments", "shop", SLO.replace("200ms", "200"), 8000)
    assert github(sites, programs)[1:4] == [1, 1, 1]


def test_the_workflow_gives_code_of_others_no_secret_and_no_text_of_theirs_to_a_shell() -> None:
    workflow = read("github-workflow.yaml")
    # YAML 1.1 reads the key `on` as true.
    assert list(workflow[True]) == ["pull_request"]
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert not any("${{" in step.get("run", "") for step in steps())
    checkout = next(step for step in steps() if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"]["persist-credentials"] is False


def test_the_job_for_gitlab_does_the_same(sites: Path, programs: dict[str, str]) -> None:
    job = read("gitlab-ci.yaml")["orch"]
    environ = {**programs, **job["variables"], "CI_MERGE_REQUEST_DIFF_BASE_SHA": git(sites, "rev-parse", "HEAD^1")}
    environ |= {"CI_API_V4_URL": "API", "CI_PROJECT_ID": "1", "CI_MERGE_REQUEST_IID": "7"}
    assert run("\n".join(job["script"]), sites, environ).returncode == 0
    assert run("\n".join(job["after_script"]), sites, environ).returncode == 0
    assert "`door/digits`" in (sites / "diff.md").read_text()
    assert "curl" not in Path(programs["CALLS"]).read_text()
    assert run("\n".join(job["after_script"]), sites, {**environ, "ORCH_NOTE_TOKEN": "secret"}).returncode == 0
    assert "API/projects/1/merge_requests/7/notes" in Path(programs["CALLS"]).read_text()


def hooks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    return found


def test_the_hooks_run_when_a_manifest_a_lock_or_a_model_changes() -> None:
    for hook in hooks():
        for name in ("deployments/shop.yaml", "deployments/shop.lock.yaml", "deployments/models/digits.onnx", "m.bin"):
            assert re.search(hook["files"], name)
        assert not re.search(hook["files"], "README.md")


def pre_commit(sites: Path, environ: Mapping[str, str], hook: str) -> subprocess.CompletedProcess[str]:
    """Run a hook with pre-commit itself over all files, out of a repository that holds our hooks."""
    return run(f"{shlex.quote(sys.executable)} -m pre_commit run --all-files --verbose {hook}", sites, environ)


def test_pre_commit_runs_the_hooks_over_the_folders(sites: Path, programs: dict[str, str], tmp_path: Path) -> None:
    ours = tmp_path / "orch"
    ours.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", ours)
    git(ours, "init", "--quiet", "--initial-branch", "main")
    # What they install, orch itself, is here already.
    hooks = [{"id": name, "language": "system"} for name in ("orch-validate", "orch-plan-check")]
    config = {"repos": [{"repo": str(ours), "rev": commit(ours), "hooks": hooks}]}
    (sites / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    environ = {**programs, "PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}
    valid, checked = (pre_commit(sites, environ, name) for name in ("orch-validate", "orch-plan-check"))
    assert (valid.returncode, checked.returncode) == (0, 0)
    assert "deployments/shop.yaml: ok (1 deployment, 1 model)" in valid.stdout
    assert "shop: the lock fits 1 machine" in checked.stdout
    write(sites / "deployments", "shop", SLO.replace("25/s", "50/s"), 8000)
    stale = pre_commit(sites, environ, "orch-plan-check")
    assert stale.returncode == 1
    assert "error: shop/digits: slo was latency 200ms, percentile 99.0, rate 25/s and is " in stale.stdout
