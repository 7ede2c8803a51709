"""What git, ssh and curl say, as kinds of errors: their texts as they were seen."""

from __future__ import annotations

import pytest

from orchestrator.errors import Kind
from orchestrator.gitops.failures import Failure, last_words, understand

SAID = [
    ("fatal: unable to access 'https://x/': Could not resolve host: x", Kind.UNAVAILABLE),
    ("fatal: unable to access 'https://x/': Failed to connect to x port 443 after 2 ms", Kind.UNAVAILABLE),
    (
        "ssh: connect to host x port 22: Connection refused\nfatal: Could not read from remote repository.",
        Kind.UNAVAILABLE,
    ),
    ("fatal: the remote end hung up unexpectedly", Kind.UNAVAILABLE),
    ("error: RPC failed; HTTP 500 curl 22 The requested URL returned error: 500", Kind.UNAVAILABLE),
    ("fatal: unable to access 'https://x/': Operation too slow. Less than 1000 bytes/sec", Kind.UNAVAILABLE),
    ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed certificate", Kind.UNAVAILABLE),
    ("fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output", Kind.UNAVAILABLE),
    ("fatal: Authentication failed for 'https://x/'", Kind.UNAUTHORIZED),
    ("fatal: could not read Username for 'https://x': terminal prompts disabled", Kind.UNAUTHORIZED),
    ("fatal: unable to access 'https://x/': The requested URL returned error: 403", Kind.UNAUTHORIZED),
    (
        "git@x: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\n"
        "Please make sure you have the correct access rights\nand the repository exists.",
        Kind.UNAUTHORIZED,
    ),
    ("Host key verification failed.\nfatal: Could not read from remote repository.", Kind.UNAUTHORIZED),
    ("fatal: detected dubious ownership in repository at '/srv/x'", Kind.UNAUTHORIZED),
    ("remote: Repository not found.\nfatal: repository 'https://x/y/' not found", Kind.NOT_FOUND),
    ("fatal: '/srv/x' does not appear to be a git repository\nfatal: Could not read from", Kind.NOT_FOUND),
    ("fatal: remote error: upload-pack: not our ref 1212", Kind.NOT_FOUND),
    ("fatal: couldn't find remote ref refs/heads/x", Kind.NOT_FOUND),
    ("fatal: 'origin' does not appear to be a git repository", Kind.UNSUPPORTED),
    ("fatal: dumb http transport does not support shallow capabilities", Kind.UNSUPPORTED),
    ("fatal: write error: File too large\nfatal: fetch-pack: invalid index-pack output", Kind.TOO_LARGE),
    ("fatal: Out of memory, malloc failed\nerror: index-pack died: out of memory", Kind.TOO_LARGE),
    (f"error: object {'a' * 40}: hasDotdot: contains '..'\nfatal: fsck error in packed object", Kind.INVALID),
    ("fatal: unable to access 'https://x/': The requested URL returned error: 302", Kind.INVALID),
    ("fatal: bad object HEAD", None),
    ("error: inflate: data stream error (incorrect header check)\nfatal: loose object is corrupt", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "kind"), SAID, ids=[text[:40] for text, _ in SAID])
def test_a_text_of_git_s_is_a_kind_of_error(text: str, kind: Kind | None) -> None:
    assert understand(text).kind is kind


def test_the_error_quotes_the_line_that_says_why() -> None:
    said = "hint: use --foo\nwarning: x\nfatal: Authentication failed for 'https://x/'\n"
    assert understand(said) == Failure(
        Kind.UNAUTHORIZED,
        "the remote does not let us in: fatal: Authentication failed for 'https://x/'",
        "name a file with a token that may read the repository: token_file",
    )
    assert last_words("remote: Counting objects: 3\nfatal: it broke\n") == "fatal: it broke"
