"""What a repository, or the server it comes from, could try against the machine; each attempt fails."""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Kind, OrchError, render
from orchestrator.gitops import failures
from orchestrator.gitops.gathering import Limits
from orchestrator.gitops.remote import Checkout, GitRemote, Repository
from orchestrator.gitops.tree import LINK_MODE, Entry, Tree
from tests.gitops.upstream import Server, Upstream, git, pointer

SECRET = "s3cr3t-t0ken"
MANIFEST = {"shop.yaml": "kind: Deployment\n"}
PROGRAM = "#!/bin/sh\ntouch {}\n"


def a_repository(tmp_path: Path, url: str | Path, *, limits: Limits | None = None, **changes: object) -> Repository:
    return Repository(tmp_path / "state", GitRemote(str(url), **changes), limits)  # type: ignore[arg-type]


def refused(tmp_path: Path, upstream: Upstream, made: str, limits: Limits | None = None) -> OrchError:
    """Return why the commit is refused; nothing of it is left as a checkout."""
    with pytest.raises(OrchError) as error:
        a_repository(tmp_path, upstream.path, limits=limits).fetch(made)
    assert not (tmp_path / "state" / "commits" / made).exists()
    return error.value


def entries(root: Path) -> dict[str, str]:
    """Return every path of a checkout with what it is."""
    return {
        path.relative_to(root).as_posix(): "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        for path in sorted(root.rglob("*"))
    }


# Paths outside, and links


@pytest.mark.parametrize("name", [b"..", b".git", b"a/b", b".g\xe2\x80\x8cit"])
def test_a_name_that_leads_out_or_into_git_is_refused(tmp_path: Path, upstream: Upstream, name: bytes) -> None:
    inner = upstream.raw_tree(("100644", b"config", upstream.blob("[core]\n\tfsmonitor = touch x\n")))
    tree = upstream.raw_tree(("40000", name, inner))
    error = refused(tmp_path, upstream, upstream.commit_tree(tree))
    assert error.kind is Kind.INVALID
    assert not (tmp_path / "config").exists()


@pytest.mark.parametrize(
    ("links", "named"),
    [
        ({"model.onnx": "/etc/passwd"}, "model.onnx"),
        ({"model.onnx": "../outside"}, "model.onnx"),
        ({"a": "b", "b": "c", "c": "../../outside"}, "c"),
        ({"deep/link": "../.."}, "deep/link"),
        ({"folder": ".", "model.onnx": "folder/folder/../../x"}, "model.onnx"),
    ],
)
def test_a_link_that_leads_out_is_refused_by_name(
    tmp_path: Path, upstream: Upstream, links: dict[str, str], named: str
) -> None:
    (tmp_path / "outside").write_text("private")
    error = refused(tmp_path, upstream, upstream.commit(MANIFEST, links=links))
    assert error.kind is Kind.INVALID
    assert f"the link {named!r} leads out of the repository" in str(error)


def test_links_round_in_circles_are_refused(tmp_path: Path, upstream: Upstream) -> None:
    error = refused(tmp_path, upstream, upstream.commit(MANIFEST, links={"a": "b", "b": "a"}))
    assert "leads round in circles" in str(error)


def test_links_that_stay_inside_are_followed(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit(
        {"models/v3/x.onnx": b"three", "sites/shop.yaml": "y"},
        links={"models/now": "v3", "sites/x.onnx": "../models/now/x.onnx"},
    )
    repository = a_repository(tmp_path, upstream.path, path="sites")
    checkout = repository.fetch(made)
    assert (checkout.folder / "x.onnx").read_bytes() == b"three"
    assert repository.bring(checkout, ["models/now/x.onnx"]) == ("models/now/x.onnx",)


def test_nothing_is_written_through_a_link(tmp_path: Path, upstream: Upstream) -> None:
    """The symlink checkout: one name as a link to a folder and as a folder with a file in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    inner = upstream.raw_tree(("100644", b"pwned", upstream.blob("pwned")))
    tree = upstream.raw_tree(("120000", b"a", upstream.blob(str(outside))), ("40000", b"a", inner))
    refused(tmp_path, upstream, upstream.commit_tree(tree))
    assert list(outside.iterdir()) == []


def test_a_folder_of_the_state_that_is_swapped_for_a_link_is_not_followed_by_a_commit(
    tmp_path: Path, upstream: Upstream
) -> None:
    repository = a_repository(tmp_path, upstream.path)
    checkout = repository.fetch(upstream.commit({**MANIFEST, "models/a": "a"}, links={"out": "models"}))
    assert entries(checkout.root)["out"] == "link"
    with pytest.raises(OrchError, match="must lie in the repository"):
        repository.bring(checkout, ["../../../x"])


HELD = ("a", "d/a", "d/e/a", "e/a")
TARGETS = ("d/e", "d", "..", "../..", "../e", "/d", "l", "e/m/..")
WANTED = [
    "/".join(parts) for length in (1, 2, 3) for parts in itertools.product(["a", "e", "l", "m", ".."], repeat=length)
]


def test_links_are_followed_as_the_kernel_follows_them_and_none_leads_out(tmp_path: Path) -> None:
    """Every path of three steps over every two of these links. Seen to fail when `..` was resolved before the links."""
    compared = 0
    for number, (first, second) in enumerate(itertools.product(TARGETS, repeat=2)):
        links = {"l": first, "e/m": second}
        root = tmp_path / f"{number}" / "root"
        for path in HELD:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("x")
        for path, target in links.items():
            (root / path).symlink_to(target)
        listed = [*(Entry(path, "100644", "1") for path in HELD), *(Entry(path, LINK_MODE, "2") for path in links)]
        for wanted in WANTED:
            compared += follows_the_kernel(Tree(listed, links), root, wanted)
    assert compared > 1000


def follows_the_kernel(tree: Tree, root: Path, wanted: str) -> bool:
    """Compare what is taken with what the path is on the disk; return whether it was taken."""
    try:
        taken = tree.take([wanted])
    except OrchError:
        return False
    real = Path(os.path.realpath(root / wanted))
    assert real.is_relative_to(root), wanted
    assert not real.is_file() or real.relative_to(root).as_posix() in taken.files, wanted
    for path in taken.links:
        assert Path(os.path.realpath(root / path)).is_relative_to(root), path
    return True


# Huge files, and many


def test_a_file_over_the_limit_is_refused_by_name_and_not_written(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit({**MANIFEST, "models/huge.bin": b"\0" * 3_000_000})
    error = refused(tmp_path, upstream, made, Limits(file_bytes=1_000_000))
    assert error.kind is Kind.TOO_LARGE
    assert "'models/huge.bin' has 2.9MiB, more than 976.6KiB" in str(error)
    assert list((tmp_path / "state" / "blobs").iterdir()) == []


def test_files_that_are_too_large_together_are_refused(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit({f"{name}.bin": name * 600_000 for name in "abc"})
    error = refused(tmp_path, upstream, made, Limits(total_bytes=1_000_000))
    assert error.kind is Kind.TOO_LARGE
    assert "together" in str(error)


def test_what_does_not_compress_is_cut_off_while_it_comes(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit({**MANIFEST, "noise.bin": os.urandom(3_000_000)})
    error = refused(tmp_path, upstream, made, Limits(total_bytes=1_000_000))
    assert error.kind is Kind.TOO_LARGE
    assert "over the limit" in str(error)
    assert sum(path.stat().st_size for path in (tmp_path / "state").rglob("*") if path.is_file()) < 1_500_000


def test_too_many_files_are_refused(tmp_path: Path, upstream: Upstream) -> None:
    same = upstream.blob("x")
    tree = upstream.raw_tree(*(("100644", b"%05d" % number, same) for number in range(300)))
    error = refused(tmp_path, upstream, upstream.commit_tree(tree), Limits(files=200))
    assert error.kind is Kind.TOO_LARGE
    assert "300 files" in str(error)


def test_folders_that_hold_themselves_many_times_over_are_refused(tmp_path: Path, upstream: Upstream) -> None:
    """A tree of 10 folders, each of them the same 10 folders, 6 deep: a million files in a few hundred bytes."""
    tree = upstream.raw_tree(*(("100644", b"%d" % number, upstream.blob("x")) for number in range(10)))
    for _ in range(6):
        tree = upstream.raw_tree(*(("40000", b"%d" % number, tree) for number in range(10)))
    error = refused(tmp_path, upstream, upstream.commit_tree(tree))
    assert error.kind is Kind.TOO_LARGE


def test_a_link_with_a_huge_target_is_refused(tmp_path: Path, upstream: Upstream) -> None:
    error = refused(tmp_path, upstream, upstream.commit(MANIFEST, links={"a": "x/" * 10_000}))
    assert error.kind is Kind.TOO_LARGE


def test_a_git_lfs_file_over_the_limit_is_refused_before_it_is_asked_for(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit({**MANIFEST, "model.onnx": pointer("12" * 32, 2**50)})
    error = refused(tmp_path, upstream, made)
    assert (error.kind, "'model.onnx' has 1024TiB" in str(error)) == (Kind.TOO_LARGE, True)


# What git would run


def test_nothing_of_a_commit_is_run_and_no_submodule_is_fetched(tmp_path: Path, upstream: Upstream) -> None:
    mark = tmp_path / "ran"
    run = f"touch {mark}"
    inner = upstream.commit({"x": "x"}, branch="inner")
    index = {"GIT_INDEX_FILE": str(tmp_path / "index")}
    files = {
        **MANIFEST,
        ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = {upstream.path}\n',
        ".gitattributes": "* filter=evil diff=evil merge=evil text eol=crlf ident working-tree-encoding=UTF-16\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = {run}\n[core]\n\tfsmonitor = {run}\n',
        ".lfsconfig": f"[lfs]\n\turl = {upstream.path}\n\tcustomtransfer.x.path = {run}\n",
        "hooks/post-checkout": PROGRAM.format(mark),
        "line-ends.txt": "$Id$\none\n",
    }
    lines = [f"100755 {upstream.blob(text)}\t{path}" for path, text in files.items()]
    lines.append(f"160000 {inner}\ts")
    git(upstream.path, "update-index", "--add", "--index-info", text="\n".join(lines).encode(), more=index)
    checkout = a_repository(tmp_path, upstream.path).fetch(
        upstream.commit_tree(git(upstream.path, "write-tree", more=index))
    )
    assert not mark.exists()
    assert "s" not in entries(checkout.root)
    assert (checkout.root / "line-ends.txt").read_text() == "$Id$\none\n"
    assert not any(path.stat().st_mode & 0o111 for path in checkout.root.rglob("*") if path.is_file())


@pytest.mark.parametrize("url", ["-oProxyCommand=touch x", "--upload-pack=touch x"])
def test_a_submodule_made_to_look_like_an_option_is_refused(tmp_path: Path, upstream: Upstream, url: str) -> None:
    made = upstream.commit({**MANIFEST, ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = {url}\n'})
    checkout = _fetched_or_none(tmp_path, upstream, made)
    assert checkout is None or "s" not in entries(checkout.root)


def _fetched_or_none(tmp_path: Path, upstream: Upstream, made: str) -> Checkout | None:
    try:
        return a_repository(tmp_path, upstream.path).fetch(made)
    except OrchError as error:
        if error.kind is not Kind.INVALID:
            raise
        return None


def test_hooks_and_configuration_of_a_local_repository_are_not_run(tmp_path: Path, upstream: Upstream) -> None:
    """A path as the remote: its own configuration must not run anything as the agent."""
    mark, program = tmp_path / "ran", upstream.path / "program"
    program.write_text(PROGRAM.format(mark))
    program.chmod(0o755)
    made = upstream.commit(MANIFEST)
    for key in (
        "uploadpack.packObjectsHook",
        "core.fsmonitor",
        "core.alternateRefsCommand",
        "remote.origin.uploadpack",
    ):
        git(upstream.path, "config", key, str(program))
    git(upstream.path, "config", "core.hooksPath", str(upstream.path))
    for hook in ("post-upload-pack", "post-checkout", "reference-transaction", "fsmonitor-watchman"):
        for folder in (upstream.path, upstream.path / "hooks"):
            folder.mkdir(exist_ok=True)
            (folder / hook).write_text(PROGRAM.format(mark))
            (folder / hook).chmod(0o755)
    repository = a_repository(tmp_path, upstream.path)
    assert repository.head() == made
    repository.fetch(made)
    assert not mark.exists()


def test_the_user_s_own_git_configuration_is_not_obeyed(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(f'[core]\n\tfsmonitor = touch {mark}\n[url "/nowhere"]\n\tinsteadOf = /\n')
    made = upstream.commit(MANIFEST)
    for name, value in {
        "HOME": str(home),
        "GIT_DIR": "/nowhere",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "protocol.allow",
        "GIT_CONFIG_VALUE_0": "never",
        "GIT_SSH_COMMAND": f"touch {mark}",
        "GIT_EXTERNAL_DIFF": f"touch {mark}",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/nowhere",
        "GIT_TRACE": str(tmp_path / "trace"),
    }.items():
        monkeypatch.setenv(name, value)
    assert entries(a_repository(tmp_path, upstream.path).fetch(made).root) == {"shop.yaml": "file"}
    assert not mark.exists()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("branch", ["--upload-pack=touch x", "-x", "a..b", "main:refs/heads/other", "+main"])
def test_a_branch_cannot_be_an_option_or_a_refspec(tmp_path: Path, upstream: Upstream, branch: str) -> None:
    upstream.commit(MANIFEST)
    with pytest.raises(OrchError) as error:
        a_repository(tmp_path, upstream.path, branch=branch).head()
    assert error.value.kind in {Kind.INVALID, Kind.NOT_FOUND}


@pytest.mark.parametrize("commit_id", ["--help", "HEAD", "main", "abc", "1" * 39, "1" * 41, "g" * 40, "1" * 40 + "\n"])
def test_a_commit_is_named_by_its_whole_id_only(tmp_path: Path, upstream: Upstream, commit_id: str) -> None:
    upstream.commit(MANIFEST)
    with pytest.raises(OrchError, match="not the id of a commit"):
        a_repository(tmp_path, upstream.path).fetch(commit_id)


def test_a_url_that_starts_a_program_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(OrchError) as error:
        a_repository(tmp_path, f"ext::touch {mark}").head()
    assert error.value.kind is Kind.INVALID
    assert not mark.exists()


@pytest.mark.parametrize("mode", ["160000", "060000"])
def test_no_device_pipe_or_submodule_is_made(tmp_path: Path, upstream: Upstream, mode: str) -> None:
    inner = upstream.commit(MANIFEST, branch="inner")
    odd = inner if mode == "160000" else upstream.blob("x")
    tree = upstream.raw_tree((mode, b"odd", odd), ("100644", b"shop.yaml", upstream.blob("y")))
    checkout = _fetched_or_none(tmp_path, upstream, upstream.commit_tree(tree))
    assert checkout is None or entries(checkout.root) == {"shop.yaml": "file"}


# Where the server sends us


def test_a_redirect_is_not_followed_and_gets_no_token(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    upstream.commit(MANIFEST)
    server.redirect = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(OrchError) as error:
        a_repository(tmp_path, f"{server.url}/site.git", token_file=token).head()
    assert error.value.kind is Kind.INVALID
    assert "another address" in str(error.value)
    assert [given for _, given in server.heard if given] == []


@pytest.mark.parametrize("href", ["file:///etc/", "ftp://127.0.0.1/"])
def test_git_lfs_files_are_not_fetched_from_anywhere_but_the_web(
    tmp_path: Path, upstream: Upstream, server: Server, href: str
) -> None:
    server.lfs_href = href
    made = upstream.commit({**MANIFEST, "model.onnx": upstream.lfs(b"weights")})
    with pytest.raises(OrchError, match="not fetched from"):
        a_repository(tmp_path, f"{server.url}/site.git").fetch(made)


def test_lfsconfig_of_a_repository_moves_nothing(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    config = "[lfs]\n\turl = http://127.0.0.1:1/evil\n"
    made = upstream.commit({".lfsconfig": config, "model.onnx": upstream.lfs(b"weights")})
    checkout = a_repository(tmp_path, f"{server.url}/site.git").fetch(made)
    assert (checkout.root / "model.onnx").read_bytes() == b"weights"


def test_a_git_lfs_file_with_other_content_is_refused(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    text = upstream.lfs(b"weights")
    digest = text.split("sha256:")[1][:64]
    (upstream.path / "lfs" / "objects" / digest[:2] / digest[2:4] / digest).write_bytes(b"WEIGHTS")
    made = upstream.commit({"model.onnx": text})
    for url in (upstream.path, f"{server.url}/site.git"):
        with pytest.raises(OrchError, match="came damaged"):
            a_repository(tmp_path, url).fetch(made)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token_file": "token"}, "clear text"),
        ({}, "anybody on the way"),
    ],
)
def test_plain_http_beyond_this_machine_is_refused(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    (tmp_path / "token").write_text(SECRET)
    files = {key: tmp_path / value for key, value in changes.items()}
    with pytest.raises(OrchError, match=words):
        a_repository(tmp_path, "http://git.example.com/site.git", **files).head()


# Secrets


def test_a_secret_is_in_no_file_argument_environment_or_error(
    tmp_path: Path, upstream: Upstream, server: Server
) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    server.token = f"git:{SECRET}"
    made = upstream.commit({**MANIFEST, "model.onnx": upstream.lfs(b"weights")})
    url = f"{server.url}/site.git"
    code = f"""
import sys
said = []
sys.addaudithook(lambda event, arguments: said.append(repr(arguments)) if event == "subprocess.Popen" else None)
from pathlib import Path
from orchestrator.gitops.remote import GitRemote, Repository
repository = Repository(Path({str(tmp_path / "state")!r}), GitRemote({url!r}, token_file=Path({str(token)!r})))
assert repository.head() == {made!r}
repository.fetch({made!r})
print(len(said), any({SECRET!r} in each for each in said))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    started, seen = ran.stdout.split()
    assert int(started) > 5
    assert seen == "False"
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data
            assert base64.b64encode(f"git:{SECRET}".encode()) not in data


def test_a_secret_that_git_repeats_is_blotted_out() -> None:
    said = f"remote: you sent {SECRET}, which is wrong\nfatal: Authentication failed for 'https://x/{SECRET}'\n"
    failure = failures.understand(said, ("git", SECRET))
    assert SECRET not in failure.what
    assert "***" in failure.what


def test_a_secret_in_a_url_is_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(OrchError) as error:
        a_repository(tmp_path, f"https://ada:{SECRET}@git.example.com/site.git").head()
    assert SECRET not in render(error.value)
    assert not (tmp_path / "state").exists()


def test_what_strangers_write_cannot_steer_a_terminal(tmp_path: Path, upstream: Upstream) -> None:
    subject = "\x1b]0;pwned\x07 \x1b[2J clear\u202e " + "x" * 5000
    commit = a_repository(tmp_path, upstream.path).fetch(upstream.commit(MANIFEST, subject=subject)).commit
    assert commit.subject.isprintable()
    assert len(commit.subject) == failures.TEXT_MAX


@pytest.mark.parametrize("name", [b"\x1b[2J.yaml", b"line\nend.yaml", b"\xff.yaml", b"a\xe2\x80\xaelmay.yaml"])
def test_a_file_name_that_could_steer_a_terminal_is_refused(tmp_path: Path, upstream: Upstream, name: bytes) -> None:
    """It would stand in the errors about the file, and in logs."""
    tree = upstream.raw_tree(("100644", name, upstream.blob("x")))
    error = refused(tmp_path, upstream, upstream.commit_tree(tree))
    assert error.kind is Kind.INVALID
    assert str(error).isprintable()


@given(st.text(max_size=40))
def test_no_text_of_git_s_steers_a_terminal(text: str) -> None:
    assert failures.shown(text).replace("…", "").isprintable() or not failures.shown(text).isascii()
    assert "\n" not in failures.understand(text).what
