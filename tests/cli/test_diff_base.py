"""`orch diff --base` and `orch plan --check --fleet`: in a real Git repository, without an agent or a device."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from manifest_repository import HINT, SLO, commit, lock, two_deployments, write
from stand_in import orch

from orchestrator.cli.comparing import compared
from orchestrator.cli.trees import digest
from orchestrator.errors import Kind, OrchError
from orchestrator.inventory.text import inventory_to_yaml
from tests.builders import an_inventory


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the manifests of a repository with one commit, and be in the repository."""
    folder = two_deployments(tmp_path / "repository")
    monkeypatch.chdir(folder.parent)
    return folder


def changes(*files: str, base: str = "main") -> list[str]:
    found = compared(files or ["deployments"], base, None)
    return [f"{each.change.symbol} {each.deployment}/{each.change.model}" for each in found.differences]


def test_nothing_differs_from_the_revision_that_is_checked_out(sites: Path) -> None:
    assert changes() == changes(base="HEAD") == []


def test_what_was_changed_added_and_removed_since_a_revision_is_told(sites: Path) -> None:
    write(sites, "new", HINT, 8001)
    write(sites, "shop", SLO.replace("25/s", "50/s"), 8000)
    (sites / "door.yaml").unlink()
    assert changes() == ["- door/digits", "+ new/digits", "~ shop/digits"]


def test_another_model_file_in_the_working_tree_is_another_compiled_model(sites: Path) -> None:
    with (sites / "models/digits.onnx").open("ab") as file:
        file.write(b"\0")
    assert changes() == ["± door/digits", "± shop/digits"]


def test_a_pointer_of_git_lfs_stands_for_the_file_that_it_names(sites: Path, tmp_path: Path) -> None:
    model = sites / "models/digits.onnx"
    sha256 = digest([model.read_bytes()])
    model.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {1234}\n")
    assert changes() == []
    assert (
        digest([b"version https://git-lfs.github.com/spec/v1\n", b"oid sha256:" + b"0" * 64 + b"\nsize 1\n"])
        == "0" * 64
    )


def test_what_cannot_be_read_in_the_base_is_noted_and_told_as_new(sites: Path) -> None:
    good = (sites / "door.yaml").read_text()
    (sites / "door.yaml").write_text(good.replace("spec:", "spce:"))
    commit(sites.parent)
    (sites / "door.yaml").write_text(good)
    found = compared(["deployments"], "main", None)
    assert [each.deployment for each in found.differences] == ["door"]
    assert any(note.startswith("main:deployments/door.yaml:4:1: ") for note in found.notes)


def test_a_link_to_a_model_within_the_repository_is_followed(sites: Path) -> None:
    (sites / "models/digits.onnx").rename(sites / "models/v1.onnx")
    (sites / "models/digits.onnx").symlink_to("v1.onnx")
    commit(sites.parent)
    assert changes() == changes(base="HEAD~1") == []


def test_a_folder_is_compared_with_the_same_in_another_checkout_or_with_itself(sites: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(sites.parent, other)
    write(other / "deployments", "door", "compile: {hint: THROUGHPUT}", 9000)
    assert changes(base=str(other)) == ["± door/digits"]
    assert changes(base=str(other / "deployments")) == ["± door/digits"]
    assert changes("deployments/shop.yaml", base=str(other)) == []


def test_folders_of_sites_may_have_deployments_of_one_name(sites: Path) -> None:
    shutil.copytree(sites, sites.parent / "berlin")
    assert changes("deployments", "berlin") == ["+ berlin/door/digits", "+ berlin/shop/digits"]


def test_an_inventory_narrows_the_comparison_to_its_machine(sites: Path, tmp_path: Path) -> None:
    lock(sites / "shop.yaml", an_inventory(cpus=4))
    inventory = tmp_path / "four.inventory"
    inventory.write_text(inventory_to_yaml(an_inventory(cpus=4)))
    (found,) = [each for each in compared(["deployments"], "main", str(inventory)).differences if each.change.model]
    assert [words.split(",")[0] for words in found.machines] == ["4 x Intel(R) Xeon(R) Processor"]


@pytest.mark.parametrize("base", ["nowhere", "--upload-pack=evil", "main:deployments"])
def test_a_base_that_is_neither_folder_nor_revision_is_refused_with_what_to_do(sites: Path, base: str) -> None:
    with pytest.raises(OrchError) as refused:
        changes(base=base)
    assert refused.value.kind is Kind.NOT_FOUND
    assert "fetch" in (refused.value.problems[0].hint or "")


def test_an_empty_base_is_refused_and_not_taken_for_what_runs(sites: Path, tmp_path: Path) -> None:
    ran = orch(tmp_path / "state", "diff", "--base", "", str(sites))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: --base: the base to compare with is empty\nhint: name a Git revision")


def test_a_base_outside_of_any_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(OrchError, match="in no Git repository"):
        changes(base="main")


def test_the_command_writes_a_comment_and_exits_as_diff_does(sites: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return orch(tmp_path / "state", "diff", *arguments, str(sites))

    ran = run("--base", str(sites), "-o", "markdown")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("### orch: nothing changes against ")
    other = tmp_path / "other"
    shutil.copytree(sites, other)
    write(sites, "door", "compile: {hint: THROUGHPUT}", 9000)
    ran = run("--base", str(other), "-o", "json")
    assert ran.returncode == 1
    (item,) = json.loads(ran.stdout)["items"]
    assert (item["deployment"], item["symbol"], item["model"]) == ("door", "±", "digits")
    ran = run("--base", "nowhere")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(
        "error: nowhere: is neither a folder nor a revision of this Git repository\nhint: fetch"
    )


def test_the_fleet_is_checked_by_locks_alone(sites: Path, tmp_path: Path) -> None:
    ran = orch(tmp_path / "state", "plan", "--check", "--fleet", str(sites))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "door: planned by rule, needs no lock\nshop: the lock fits 1 machine\n"
    write(sites, "shop", SLO.replace("25/s", "50/s"), 8000)
    ran = orch(tmp_path / "state", "plan", "--check", "--fleet", str(sites))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: shop/digits: slo was latency 200ms, percentile 99.0, rate 25/s and is ")


def test_a_fleet_goes_with_a_check_alone(sites: Path, tmp_path: Path) -> None:
    ran = orch(tmp_path / "state", "plan", "--fleet", str(sites))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "--fleet goes with --check" in ran.stderr
