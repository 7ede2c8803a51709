"""The manifest of a source: what it may say, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import OrchError, render
from orchestrator.manifest.files import Text
from orchestrator.manifest.load import SourceDocument, load, load_text, load_texts
from orchestrator.manifest.model_file import check_named_files

HEAD = "apiVersion: orch/v1\nkind: Source\nmetadata: {name: shop}\nspec:\n"


def read(spec: str) -> SourceDocument:
    text = HEAD + "".join(f"  {line}\n" for line in spec.splitlines())
    return load_texts([Text("s.yaml", text, None, Path("/d"))]).sources[0]


def test_little_is_needed_and_the_rest_has_defaults() -> None:
    spec = read("git: {url: https://git.example.com/shop.git}").manifest.spec
    assert (spec.path, spec.interval, spec.timeout, spec.prune, spec.prune_all) == (".", 60.0, 60.0, True, False)
    assert (spec.locks, spec.model_roots, spec.webhook, spec.suspend) == ("measure", [], None, False)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("interval: 5s", "s.yaml:5:3: spec: names no place"),
        ("git: {url: /srv/shop.git}\nfolder: /srv/shop", "s.yaml:6:11: spec.folder: stands beside git"),
        ("folder: /srv\nwebhook: {secret_file: s}", "s.yaml:6:12: spec.webhook: stands beside folder"),
        ("folder: /srv\ninterval: 10ms", "s.yaml:6:13: spec.interval: must be at least 1s"),
        ("folder: /srv\npath: ../other", "s.yaml:6:9: spec.path: must lie in the repository"),
        ("git: {url: /srv/shop.git, branch: --upload-pack=x}", "s.yaml:5:37: spec.git.branch: is not the name"),
        ("git: {url: 'ext::sh -c id'}", "s.yaml:5:14: spec.git.url: names a program that git would start"),
        ("git: {url: http://h/x.git}", "s.yaml:5:14: spec.git.url: over http:// anybody on the way can change"),
        (
            "git: {url: http://h/x.git, token_file: t, allowed_signers_file: s}",
            "s.yaml:5:42: spec.git.token_file: stands beside an http:// address",
        ),
        ("folder: /srv\nlocks: refused", "hint: did you mean 'refuse'?"),
        ("git: {url: /srv/shop.git, tokenfile: x}", "hint: did you mean 'token_file'?"),
        ("git: {branch: main}", "spec.git: the key 'url' is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_what_to_do(spec: str, expected: str) -> None:
    with pytest.raises(OrchError) as caught:
        read(spec)
    assert expected in render(caught.value)


@pytest.mark.parametrize("more", ["http://127.0.0.1:3000/x.git", "http://h/x.git, allowed_signers_file: s"])
def test_plain_http_is_for_this_machine_and_for_signed_commits(more: str) -> None:
    assert read(f"git: {{url: {more}}}").manifest.spec.git is not None


@pytest.mark.parametrize(
    "url", ["https://ada:hush@example.com/x.git", "https://hush@example.com/x", "ssh://a:hush@h/x"]
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(OrchError) as caught:
        read(f"git: {{url: '{url}'}}")
    text = render(caught.value)
    assert "hush" not in text
    assert "hint: " in text


def test_a_folder_may_hold_deployments_and_sources(tmp_path: Path) -> None:
    (tmp_path / "source.yaml").write_text(HEAD + "  folder: /srv\n")
    deployment = (
        "apiVersion: orch/v1\nkind: Deployment\nmetadata: {name: shop}\nspec: {models: [{name: m, source: m.onnx}]}\n"
    )
    (tmp_path / "shop.yaml").write_text(deployment)
    found = load([str(tmp_path)])
    assert [len(found.documents), len(found.sources)] == [1, 1]
    (tmp_path / "again.yaml").write_text(HEAD + "  folder: /opt\n")
    with pytest.raises(OrchError, match="the source name 'shop' is taken, first at"):
        load([str(tmp_path)])


def test_where_only_deployments_are_taken_a_source_is_refused() -> None:
    with pytest.raises(OrchError, match="must be 'Deployment' here, got 'Source'"):
        load_text(HEAD + "  folder: /srv\n", name="s.yaml", base=Path("/d"))


def test_files_that_are_not_there_are_named_with_their_place() -> None:
    document = read("git: {url: https://h/x.git, token_file: t}\nwebhook: {secret_file: s}")
    assert [str(problem).split(" (")[0] for problem in check_named_files(document)] == [
        "s.yaml:5:43: spec.git.token_file: there is no file /d/t",
        "s.yaml:6:26: spec.webhook.secret_file: there is no file /d/s",
    ]
