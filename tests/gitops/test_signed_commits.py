"""Only commits that an allowed signer signed are taken, with git's own ssh signatures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.remote import GitRemote, Repository
from tests.gitops.upstream import Upstream

FILES = {"shop.yaml": "kind: Deployment\n"}
KEYGEN = shutil.which("ssh-keygen")


def a_key(folder: Path, name: str) -> Path:
    """Make a key; on a machine without ssh-keygen one that nobody will look at."""
    key = folder / name
    if KEYGEN is None:
        return key
    command = [KEYGEN, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)]
    subprocess.run(command, check=True, timeout=20, stdin=subprocess.DEVNULL)
    return key


def allowed(folder: Path, *keys: Path) -> Path:
    file = folder / "allowed_signers"
    public = [key.with_suffix(".pub").read_text().strip() if KEYGEN else "none" for key in keys]
    file.write_text("".join(f"{key.name}@example.com {text}\n" for key, text in zip(keys, public, strict=True)))
    return file


def take(tmp_path: Path, upstream: Upstream, made: str, signers: Path) -> None:
    Repository(tmp_path / "state", GitRemote(str(upstream.path), allowed_signers_file=signers)).fetch(made)


def refused(tmp_path: Path, upstream: Upstream, made: str, signers: Path, words: str) -> None:
    """Check that the commit is not taken, and why; a machine that cannot check signatures says what to install."""
    with pytest.raises(OrchError) as error:
        take(tmp_path, upstream, made, signers)
    assert error.value.kind is (Kind.INVALID if KEYGEN else Kind.UNSUPPORTED)
    assert (words if KEYGEN else "ssh-keygen is not installed") in str(error.value)
    assert error.value.problems[0].hint
    assert not (tmp_path / "state" / "commits").exists()


def test_a_commit_of_an_allowed_signer_is_taken(tmp_path: Path, upstream: Upstream) -> None:
    ada = a_key(tmp_path, "ada")
    made = upstream.commit(FILES, signed_with=ada if KEYGEN else None)
    if KEYGEN is None:
        refused(tmp_path, upstream, made, allowed(tmp_path, ada), "")
    else:
        take(tmp_path, upstream, made, allowed(tmp_path, ada))


def test_a_commit_without_a_signature_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    refused(tmp_path, upstream, upstream.commit(FILES), allowed(tmp_path, a_key(tmp_path, "ada")), "is not signed")


def test_a_stranger_s_signature_is_refused_and_his_key_named(tmp_path: Path, upstream: Upstream) -> None:
    ada, eve = a_key(tmp_path, "ada"), a_key(tmp_path, "eve")
    made = upstream.commit(FILES, signed_with=eve if KEYGEN else None)
    refused(tmp_path, upstream, made, allowed(tmp_path, ada), "is signed with the ED25519 key SHA256:")


def test_a_signature_of_another_commit_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    """A signed commit with its tree exchanged."""
    ada = a_key(tmp_path, "ada")
    signed = upstream.commit(FILES, signed_with=ada if KEYGEN else None)
    other = upstream.commit({"shop.yaml": "kind: Evil\n"}, branch="other")
    made = upstream.forged(signed, other)
    refused(tmp_path, upstream, made, allowed(tmp_path, ada), "no signature that can be trusted")


def test_a_key_that_is_removed_from_the_list_is_believed_no_more(tmp_path: Path, upstream: Upstream) -> None:
    ada, bob = a_key(tmp_path, "ada"), a_key(tmp_path, "bob")
    made = upstream.commit(FILES, signed_with=ada if KEYGEN else None)
    remote = GitRemote(str(upstream.path), allowed_signers_file=allowed(tmp_path, ada, bob))
    repository = Repository(tmp_path / "state", remote)
    if KEYGEN is not None:
        repository.fetch(made)
    allowed(tmp_path, bob)
    with pytest.raises(OrchError):
        repository.fetch(made)


def test_a_commit_that_was_checked_needs_no_remote_to_be_used_again(tmp_path: Path, upstream: Upstream) -> None:
    ada = a_key(tmp_path, "ada")
    made = upstream.commit(FILES, signed_with=ada if KEYGEN else None)
    remote = GitRemote(str(upstream.path), allowed_signers_file=allowed(tmp_path, ada))
    repository = Repository(tmp_path / "state", remote)
    if KEYGEN is None:
        refused(tmp_path, upstream, made, tmp_path / "allowed_signers", "")
    else:
        checkout = repository.fetch(made)
        upstream.path.rename(tmp_path / "gone")
        assert repository.fetch(made) == checkout


def test_a_list_of_signers_that_is_not_there_stops_before_anybody_is_asked(tmp_path: Path) -> None:
    remote = GitRemote("/nowhere", allowed_signers_file=tmp_path / "none")
    with pytest.raises(OrchError) as error:
        Repository(tmp_path / "state", remote).head()
    assert (error.value.kind, error.value.problems[0].where) == (Kind.UNAUTHORIZED, str(tmp_path / "none"))
