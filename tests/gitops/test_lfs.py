"""Files of Git LFS: fetched from where the remote keeps them, without the git-lfs program."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.lfs_pointer import Pointer, parse_pointer
from orchestrator.gitops.remote import GitRemote, Repository
from tests.gitops.upstream import Server, Upstream, pointer

WEIGHTS = bytes(range(256)) * 5000


@pytest.mark.parametrize("kept", ["lfs", ".git/lfs"])
def test_a_file_is_taken_from_a_local_repository_s_own_store(tmp_path: Path, upstream: Upstream, kept: str) -> None:
    made = upstream.commit({"model.onnx": upstream.lfs(WEIGHTS)})
    if kept != "lfs":
        (upstream.path / ".git").mkdir()
        (upstream.path / "lfs").rename(upstream.path / kept)
    checkout = Repository(tmp_path / "state", GitRemote(str(upstream.path))).fetch(made)
    assert (checkout.root / "model.onnx").read_bytes() == WEIGHTS


def test_a_file_is_downloaded_with_the_token_and_only_once(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    token = tmp_path / "token"
    token.write_text("ada:tok")
    server.token = "ada:tok"
    text = upstream.lfs(WEIGHTS)
    first = upstream.commit({"a.onnx": text, "copy.onnx": text, "empty": upstream.lfs(b"")})
    repository = Repository(tmp_path / "state", GitRemote(f"{server.url}/site.git", token_file=token))
    checkout = repository.fetch(first)
    assert (checkout.root / "a.onnx").read_bytes() == WEIGHTS
    assert (checkout.root / "a.onnx").samefile(checkout.root / "copy.onnx")
    assert (checkout.root / "empty").read_bytes() == b""
    second = repository.fetch(upstream.commit({"a.onnx": text, "new": "new"}))
    assert (second.root / "a.onnx").samefile(checkout.root / "a.onnx")
    downloads = [(path, given) for path, given in server.heard if path.startswith("/lfs-files/")]
    assert len(downloads) == 2
    assert {given for _, given in downloads} == {None}, "the token is for the API alone"


def test_a_file_that_was_never_pushed_is_named_with_what_to_do(
    tmp_path: Path, upstream: Upstream, server: Server
) -> None:
    made = upstream.commit({"model.onnx": pointer("12" * 32, 100)})
    for url in (str(upstream.path), f"{server.url}/site.git"):
        with pytest.raises(OrchError) as error:
            Repository(tmp_path / "state", GitRemote(url)).fetch(made)
        assert error.value.kind is Kind.UNAVAILABLE
        assert "git lfs push" in str(error.value.problems[0].hint)


def test_a_redirected_download_is_followed(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    server.lfs_href = f"{server.url}/lfs-moved/"
    made = upstream.commit({"model.onnx": upstream.lfs(WEIGHTS)})
    checkout = Repository(tmp_path / "state", GitRemote(f"{server.url}/site.git")).fetch(made)
    assert (checkout.root / "model.onnx").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"version https://git-lfs.github.com/spec/v2\noid sha256:" + b"1" * 64 + b"\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"G" * 64 + b"\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid md5:" + b"1" * 32 + b"\nsize 1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"1" * 64 + b"\nsize -1\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"1" * 64 + b"\nsize 1\nmore\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"1" * 64 + b"\nsize 1\n" + b" " * 1024,
    ],
)
def test_an_ordinary_file_is_no_pointer(text: bytes) -> None:
    assert parse_pointer(text) is None


@given(content=st.binary(max_size=50), size=st.integers(0, 10**17))
def test_a_pointer_is_read_back(content: bytes, size: int) -> None:
    digest = hashlib.sha256(content).hexdigest()
    assert parse_pointer(pointer(digest, size).encode()) == Pointer(digest, size)
