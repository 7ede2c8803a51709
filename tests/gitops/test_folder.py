"""A plain folder as a source: its changes are commits, and what is applied is a copy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.folder import Folder
from orchestrator.gitops.gathering import Limits


def a_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "models").mkdir(parents=True)
    (folder / "shop.yaml").write_text("one")
    (folder / "models" / "x.onnx").write_bytes(b"x" * 100)
    (folder / "models" / "now.onnx").symlink_to("x.onnx")
    return folder


def test_each_change_is_another_commit_and_no_change_is_none(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    source = Folder(folder, tmp_path / "kept")
    seen = [source.head(), source.head()]
    assert seen[0] == seen[1]
    for change in (
        lambda: (folder / "shop.yaml").write_text("three"),
        lambda: os.utime(folder / "shop.yaml", (1, 1)),
        lambda: (folder / "new.yaml").write_text(""),
        lambda: (folder / "new.yaml").rename(folder / "newer.yaml"),
        (folder / "models" / "now.onnx").unlink,
        lambda: (folder / "models" / "now.onnx").symlink_to("y.onnx"),
    ):
        change()
        seen.append(source.head())
    assert len(set(seen)) == len(seen) - 1


def test_what_begins_with_a_dot_is_not_looked_at(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    source = Folder(folder, tmp_path / "kept")
    before = source.head()
    (folder / ".shop.yaml.swp").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    os.mkfifo(folder / "pipe")
    assert source.head() == before


def test_a_copy_stays_as_it_is_when_the_folder_is_written_to(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    source = Folder(folder, tmp_path / "kept")
    first = source.fetch(source.head())
    (folder / "shop.yaml").write_text("other")
    second = source.fetch(source.head())
    assert (first.root / "shop.yaml").read_text() == "one"
    assert (second.root / "shop.yaml").read_text() == "other"
    assert (first.root / "models" / "x.onnx").samefile(second.root / "models" / "now.onnx")
    assert not (first.root / "models" / "x.onnx").samefile(folder / "models" / "x.onnx")
    assert source.bring(second, ["models/x.onnx", "models/none"]) == ("models/x.onnx",)
    assert (second.commit.author, source.authored(second, second.folder, 1)) == ("", second.commit)
    source.keep([second.commit.id])
    assert not first.root.exists()


def test_manifests_may_be_in_a_folder_of_it(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    source = Folder(folder, tmp_path / "kept", "models")
    checkout = source.fetch(source.head())
    assert checkout.folder == checkout.root / "models"
    absent = Folder(folder, tmp_path / "kept", "none")
    with pytest.raises(OrchError, match="has no folder 'none'"):
        absent.fetch(absent.head())


def test_a_folder_that_changes_while_it_is_read_is_not_taken(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    source = Folder(folder, tmp_path / "kept")
    before = source.head()
    (folder / "shop.yaml").write_text("changed")
    with pytest.raises(OrchError, match="changed while it was read") as error:
        source.fetch(before)
    assert error.value.kind is Kind.UNAVAILABLE


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    (folder / "evil.yaml").symlink_to("/etc/passwd")
    source = Folder(folder, tmp_path / "kept")
    with pytest.raises(OrchError, match=r"the link 'evil\.yaml' leads out"):
        source.fetch(source.head())


@pytest.mark.parametrize("limits", [Limits(files=2), Limits(file_bytes=50), Limits(total_bytes=50)])
def test_a_folder_over_a_limit_is_refused(tmp_path: Path, limits: Limits) -> None:
    source = Folder(a_folder(tmp_path), tmp_path / "kept", limits=limits)
    with pytest.raises(OrchError) as error:
        source.fetch(source.head())
    assert error.value.kind is Kind.TOO_LARGE


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(OrchError) as error:
            Folder(path, tmp_path / "kept").head()
        assert (error.value.kind, error.value.problems[0].where) == (Kind.NOT_FOUND, str(path))
