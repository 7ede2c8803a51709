"""Addresses of repositories: what may be given to git, and what never is."""

from __future__ import annotations

import itertools
import os.path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.manifest.git_address import GitAddress, Transport, parse_branch, parse_folder, parse_git_url

SECRET = "s3cr3t-t0ken"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (
            "https://git.example.com/shop/site.git",
            GitAddress(
                Transport.HTTPS, "https://git.example.com/shop/site.git", "/shop/site.git", host="git.example.com"
            ),
        ),
        (
            "https://git.example.com:8443/site",
            GitAddress(
                Transport.HTTPS, "https://git.example.com:8443/site", "/site", host="git.example.com", port=8443
            ),
        ),
        (
            "ssh://git@git.example.com:2222/site.git",
            GitAddress(
                *(Transport.SSH, "ssh://git@git.example.com:2222/site.git", "/site.git"),
                *("git.example.com", 2222, "git"),
            ),
        ),
        (
            "git@git.example.com:shop/site.git",
            GitAddress(
                *(Transport.SSH, "git@git.example.com:shop/site.git", "shop/site.git", "git.example.com", None, "git")
            ),
        ),
        ("/srv/my site.git", GitAddress(Transport.FILE, "/srv/my site.git", "/srv/my site.git")),
        ("file:///srv/site.git", GitAddress(Transport.FILE, "file:///srv/site.git", "/srv/site.git")),
        (
            "http://[::1]:3000/site",
            GitAddress(Transport.HTTP, "http://[::1]:3000/site", "/site", host="[::1]", port=3000),
        ),
    ],
)
def test_an_address_is_taken_apart(url: str, address: GitAddress) -> None:
    assert parse_git_url(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"https://ada:{SECRET}@git.example.com/site", "token_file"),
        (f"https://{SECRET}@git.example.com/site", "token_file"),
        (f"https://git.example.com/site?private_token={SECRET}", "token_file"),
        (f"https://git.example.com/site#{SECRET}", "token_file"),
        (f"ssh://git:{SECRET}@git.example.com/site", "ssh_key_file"),
        (f"git:{SECRET}@git.example.com:site", "ssh_key_file"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        parse_git_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'touch /tmp/pwned'",
        "ext::sh",
        "fd::17/foo",
        "file::/srv/x",
        "git://git.example.com/site",
        "ftp://git.example.com/site",
        "http+unix://x/y",
        "-oProxyCommand=touch:x",
        "--upload-pack=touch",
        "ssh://-oProxyCommand=touch/site",
        "ssh://git@-oProxyCommand=touch/site",
        "-oProxyCommand=x@host:site",
        "git@host:-upload-pack",
        "site.git",
        "../site.git",
        "~/site.git",
        "file://server/share",
        "file:///srv/%2e%2e",
        "https://git.example.com",
        "https:///site",
        "https://git.example.com:0/site",
        "https://git.example.com:70000/site",
        "https://git.example.com/a b",
        "/srv/\nsite",
        "https://git.example.com/\x1b[31m",
        "",
        "/" + "x" * 5000,
    ],
)
def test_what_could_start_a_program_or_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_git_url(url)
    assert "\x1b" not in str(refused.value)


PIECES = (
    ("", "ssh://", "https://", "file://", "ext::"),
    ("", "git@", "-oX=y@", "git:pw@"),
    ("host", "-host", "", "::1", "[::1]", "."),
    (":", "::", "/", ":/", ":22/", "/-"),
    ("path", "-path", "--upload-pack=x", "", "/", "a b", "a\nb"),
)


def test_no_address_that_is_let_through_can_be_an_option_or_a_program() -> None:
    """Every address of these pieces. Seen to fail when `_SCP` allowed a leading hyphen in the path."""
    passed = 0
    for text in map("".join, itertools.product(*PIECES)):
        try:
            address = parse_git_url(text)
        except ValueError:
            continue
        passed += 1
        assert not text.startswith("-"), text
        assert "::" not in text.partition("/")[0].replace("[::", "["), text
        assert not (address.host or "").startswith("-"), text
        assert not (address.user or "").startswith("-"), text
        assert not address.path.startswith("-"), text
        assert "\n" not in text
        assert "pw" not in text, text
    assert passed > 20


@pytest.mark.parametrize("branch", ["main", "release/1.0", "fix_42", "übung", "a-b"])
def test_a_branch_keeps_its_name(branch: str) -> None:
    assert parse_branch(branch) == branch


@pytest.mark.parametrize(
    "branch",
    [
        *(
            "",
            "-x",
            "--upload-pack=touch /tmp/x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "refs/heads/*",
            "a?",
            "[a",
            "a\\b",
        ),
        *("a@{1}", "@", "HEAD", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "a\nb", "a\0", "x" * 300),
    ],
)
def test_what_git_does_not_take_for_a_branch_is_refused(branch: str) -> None:
    with pytest.raises(ValueError, match="branch"):
        parse_branch(branch)


@pytest.mark.parametrize(
    ("folder", "clean"),
    [(".", "."), ("", "."), ("sites/berlin", "sites/berlin"), ("./sites//berlin/", "sites/berlin"), ("a/./b", "a/b")],
)
def test_a_folder_is_written_in_one_way(folder: str, clean: str) -> None:
    assert parse_folder(folder) == clean


@pytest.mark.parametrize("folder", ["..", "a/../..", "/etc", "a/../../b", ".git", "a/.GIT/hooks", "a\0b", "a\nb", 7])
def test_a_folder_outside_of_the_repository_is_refused(folder: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_folder(folder)


@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "~", "...", "-"]), max_size=8).map("/".join))
def test_no_folder_that_is_let_through_leads_out(folder: str) -> None:
    """Seen to fail when only a leading `..` was refused."""
    try:
        clean = parse_folder(folder)
    except ValueError:
        return
    assert os.path.normpath(os.path.join("/root", clean)).startswith("/root")  # noqa: PTH118 - as text
