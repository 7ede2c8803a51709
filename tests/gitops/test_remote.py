"""A repository as an agent sees it, against the real git program and a real server."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.checkouts import RESERVE_BYTES
from orchestrator.gitops.gathering import Limits
from orchestrator.gitops.remote import GitRemote, Repository
from tests.gitops.upstream import Server, Upstream, git, served

FILES = {
    "sites/berlin/shop.yaml": "kind: Deployment\n",
    "sites/berlin/models/own.onnx": b"own",
    "sites/hamburg/shop.yaml": "kind: Deployment\n",
    "models/detector.xml": "<net/>",
    "models/detector.bin": b"\0" * 1000,
}
BERLIN = ["sites/berlin/models/own.onnx", "sites/berlin/shop.yaml"]
LARGE = 4 * 2**20


def fetched(root: Path) -> list[str]:
    """Return the files of a checkout."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def a_repository(tmp_path: Path, url: str | Path, *, limits: Limits | None = None, **changes: object) -> Repository:
    remote = GitRemote(str(url), **{"path": "sites/berlin", **changes})  # type: ignore[arg-type]
    return Repository(tmp_path / "state", remote, limits)


def refusal(kind: Kind, call: object, *arguments: object) -> OrchError:
    """Return the error, which has this kind and something to do about it."""
    with pytest.raises(OrchError) as refused:
        call(*arguments)  # type: ignore[operator]
    assert refused.value.kind is kind, str(refused.value)
    return refused.value


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_commit_of_a_local_path_becomes_a_folder_with_what_is_wanted(
    tmp_path: Path, upstream: Upstream, form: str
) -> None:
    made = upstream.commit(FILES, subject="open the shop")
    repository = a_repository(tmp_path, form.format(upstream.path), branch="main")
    assert repository.head() == made
    checkout = repository.fetch(made)
    assert fetched(checkout.root) == BERLIN
    assert checkout.folder == checkout.root / "sites/berlin"
    assert (checkout.commit.id, checkout.commit.author, checkout.commit.subject) == (
        *(made, "Ada <ada@example.com>"),
        "open the shop",
    )
    assert abs(checkout.commit.time - time.time()) < 60
    assert repository.authored(checkout, checkout.folder / "shop.yaml", 1) == checkout.commit


def test_what_manifests_name_elsewhere_is_brought(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    checkout = repository.fetch(upstream.commit(FILES))
    assert repository.bring(checkout, ["models/detector.xml", "models/absent.onnx"]) == ("models/detector.xml",)
    assert fetched(checkout.root) == ["models/detector.xml", *BERLIN]
    assert repository.bring(checkout, ["models"]) == ("models",)
    assert (checkout.root / "models/detector.bin").read_bytes() == b"\0" * 1000


def test_only_the_blobs_that_are_wanted_are_fetched(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    repository.fetch(upstream.commit(FILES))
    present = git(tmp_path / "state" / "git", "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)")
    assert present.split().count("blob") == len(BERLIN)


def test_a_remote_that_cannot_leave_blobs_out_is_fetched_all_the_same(tmp_path: Path, upstream: Upstream) -> None:
    git(upstream.path, "config", "uploadpack.allowFilter", "false")
    repository = a_repository(tmp_path, upstream.path)
    assert fetched(repository.fetch(upstream.commit(FILES)).root) == BERLIN


def test_a_remote_that_leaves_blobs_out_and_does_not_send_them_later_is_fetched_all_the_same(
    tmp_path: Path, upstream: Upstream, server: Server
) -> None:
    """Protocol 0, as behind an sshd that passes on no GIT_PROTOCOL."""
    server.protocol = False
    repository = a_repository(tmp_path, f"{server.url}/site.git")
    checkout = repository.fetch(upstream.commit(FILES))
    assert repository.bring(checkout, ["models"]) == ("models",)
    assert fetched(repository.fetch(upstream.commit({**FILES, "new": "new"})).root) == BERLIN


def test_only_the_newest_commit_is_fetched(tmp_path: Path, upstream: Upstream) -> None:
    first = upstream.commit({"sites/berlin/old.yaml": "old"})
    repository = a_repository(tmp_path, upstream.path)
    repository.fetch(upstream.commit(FILES, parent=first))
    assert git(tmp_path / "state" / "git", "rev-list", "--count", "--all") == "1"


def test_a_token_from_a_file_opens_a_server(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    made = upstream.commit(FILES)
    token = tmp_path / "token"
    token.write_text("tok-1\n")
    server.token = "git:tok-1"
    repository = a_repository(tmp_path, f"{server.url}/site.git", token_file=token)
    assert repository.head() == made
    assert fetched(repository.fetch(made).root) == BERLIN
    server.token = "ada:tok-2"
    assert "token_file" in str(refusal(Kind.UNAUTHORIZED, repository.head).problems[0].hint)
    token.write_text("ada:tok-2")  # rotated, without a line's end and with a user
    assert repository.head() == made


def test_https_is_spoken_by_the_authority_s_certificate_and_refused_without(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    (tmp_path / "token").write_text("tok")
    made = upstream.commit({**FILES, "sites/berlin/large.onnx": upstream.lfs(b"weights")})
    with served(upstream.path.parent, context) as server:
        server.token = "git:tok"
        repository = a_repository(tmp_path, f"{server.url}/site.git", token_file=tmp_path / "token")
        error = refusal(Kind.UNAVAILABLE, repository.head)
        assert "certificate is not trusted" in str(error)
        assert [given for _, given in server.heard if given] == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert repository.head() == made
        assert (repository.fetch(made).folder / "large.onnx").read_bytes() == b"weights"


def test_a_server_that_wants_a_token_is_named_so(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    upstream.commit(FILES)
    server.token = "git:tok"
    error = refusal(Kind.UNAUTHORIZED, a_repository(tmp_path, f"{server.url}/site.git").head)
    assert error.problems[0].where == f"{server.url}/site.git"


@pytest.mark.parametrize("content", [None, "", "two words", "\x00", "ü"])
def test_a_token_file_without_a_token_is_refused_before_anybody_is_asked(
    tmp_path: Path, upstream: Upstream, server: Server, content: str | None
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
    error = refusal(Kind.UNAUTHORIZED, a_repository(tmp_path, f"{server.url}/site.git", token_file=token).head)
    assert error.problems[0].where == str(token)
    assert server.heard == []


def test_a_changed_commit_shares_the_files_that_did_not_change(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    first = repository.fetch(upstream.commit(FILES))
    second = repository.fetch(upstream.commit({**FILES, "sites/berlin/shop.yaml": "changed"}))
    own = "sites/berlin/models/own.onnx"
    assert (first.root / own).samefile(second.root / own)
    assert (first.root / "sites/berlin/shop.yaml").read_text() == "kind: Deployment\n"
    assert (second.root / "sites/berlin/shop.yaml").read_text() == "changed"


def test_a_checkout_is_read_only(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    checkout = repository.fetch(upstream.commit(FILES))
    repository.bring(checkout, ["models"])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [checkout.root, *checkout.root.rglob("*")]}
    assert modes == {0o444, 0o555}


def test_a_force_push_is_followed_and_the_old_commit_stays_as_it_is(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    old = repository.fetch(upstream.commit(FILES))
    new = upstream.commit({"sites/berlin/other.yaml": "other"})
    git(upstream.path, "reflog", "expire", "--expire=now", "--all")
    git(upstream.path, "gc", "--quiet", "--prune=now")
    assert repository.head() == new
    assert fetched(repository.fetch(new).root) == ["sites/berlin/other.yaml"]
    assert fetched(repository.fetch(old.commit.id).root) == BERLIN


def test_a_commit_that_is_refused_has_an_author_all_the_same(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit(FILES, links={"sites/berlin/out": "/etc"}, subject="bad")
    repository = a_repository(tmp_path, upstream.path)
    refusal(Kind.INVALID, repository.fetch, made)
    upstream.path.rename(tmp_path / "gone")
    assert (repository.known(made).author, repository.known(made).subject) == ("Ada <ada@example.com>", "bad")
    assert repository.known("12" * 20).author == ""


def test_a_commit_that_the_remote_lost_meanwhile_is_named(tmp_path: Path, upstream: Upstream) -> None:
    upstream.commit(FILES)
    error = refusal(Kind.NOT_FOUND, a_repository(tmp_path, upstream.path).fetch, "12" * 20)
    assert "does not have this commit any more" in str(error)


@pytest.mark.parametrize(("branch", "words"), [("gone", "no branch 'gone'"), (None, "the remote is empty")])
def test_a_branch_that_is_gone_is_named(tmp_path: Path, upstream: Upstream, branch: str | None, words: str) -> None:
    if branch is not None:
        upstream.commit(FILES)
    assert words in str(refusal(Kind.NOT_FOUND, a_repository(tmp_path, upstream.path, branch=branch).head))


def test_a_folder_that_is_gone_is_named(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path, path="sites/rome")
    assert "no folder 'sites/rome'" in str(refusal(Kind.NOT_FOUND, repository.fetch, upstream.commit(FILES)))


def test_the_folder_that_is_wanted_may_change(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit(FILES)
    a_repository(tmp_path, upstream.path).fetch(made)
    other = a_repository(tmp_path, upstream.path, path="sites/hamburg").fetch(made)
    assert (other.folder / "shop.yaml").read_text() == "kind: Deployment\n"


def test_a_repository_that_is_not_there_is_named(tmp_path: Path, upstream: Upstream, server: Server) -> None:
    for url in (tmp_path / "none.git", f"{server.url}/none.git"):
        error = refusal(Kind.NOT_FOUND, a_repository(tmp_path, url).head)
        assert error.problems[0].hint


def test_a_remote_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = refusal(Kind.UNAVAILABLE, a_repository(tmp_path, f"http://127.0.0.1:{port}/site.git").head)
    assert error.problems[0].hint == "what runs goes on; the next look tries again"


def test_ssh_says_why_it_cannot_connect(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    key, hosts = tmp_path / "key with space", tmp_path / "known 100%"
    key.write_text("none")
    hosts.write_text("")
    url = f"ssh://git@127.0.0.1:{port}/site.git"
    repository = a_repository(tmp_path, url, ssh_key_file=key, known_hosts_file=hosts)
    installed = shutil.which("ssh") is not None  # a machine without ssh is told what to install
    error = refusal(Kind.UNAVAILABLE if installed else Kind.UNSUPPORTED, repository.head)
    assert ("refused" if installed else "ssh is not installed") in str(error)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    repository = a_repository(tmp_path, "git@127.0.0.1:site.git", ssh_key_file=tmp_path / "key")
    assert refusal(Kind.UNAUTHORIZED, repository.head).problems[0].where == str(tmp_path / "key")


def test_a_remote_that_never_answers_costs_its_time_limit_and_leaves_nothing_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/site.git"
        repository = a_repository(tmp_path, url, timeout_s=0.5)
        assert "longer than 0.5 s" in str(refusal(Kind.DEADLINE, repository.head))
    assert running(tmp_path / "state") == []


def test_what_a_killed_agent_left_running_is_ended_before_the_next_one_writes(
    tmp_path: Path, upstream: Upstream
) -> None:
    """Seen to fail without the lock: the one before made the folder anew that had been put aside."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/site.git"
        code = (
            "from pathlib import Path; from orchestrator.gitops.remote import GitRemote, Repository; "
            f"Repository(Path({str(tmp_path / 'state')!r}), GitRemote({url!r})).head()"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        agent = subprocess.Popen([sys.executable, "-c", code], env=environment)
        connection, _ = silent.accept()  # git asks
        agent.kill()
        agent.wait()
        assert running(tmp_path / "state") != []
        repository = a_repository(tmp_path, upstream.path)
        assert fetched(repository.fetch(upstream.commit(FILES)).root) == BERLIN
        assert running(tmp_path / "state") == []
        connection.close()


def running(home: Path) -> list[Path]:
    """Return the processes that were started for a repository."""
    return [pid for pid in Path("/proc").glob("[0-9]*") if f"HOME={home}".encode() in _environment(pid)]


def _environment(pid: Path) -> bytes:
    try:
        return (pid / "environ").read_bytes()
    except OSError:
        return b""


def test_the_checkouts_of_other_commits_are_removed(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    old = repository.fetch(upstream.commit(FILES))
    new = repository.fetch(upstream.commit({**FILES, "sites/berlin/shop.yaml": "changed"}))
    repository.keep([new.commit.id])
    assert not old.root.exists()
    assert (new.folder / "shop.yaml").read_text() == "changed"
    kept = {path.read_bytes() for path in (tmp_path / "state" / "blobs").iterdir()}
    assert kept == {b"changed", b"own"}
    assert fetched(repository.fetch(old.commit.id).root) == BERLIN


def test_git_s_own_store_is_thrown_away_when_it_has_many_packs(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    made = repository.fetch(upstream.commit(FILES)).commit.id
    packs = tmp_path / "state" / "git" / "objects" / "pack"
    repository.keep([made])
    assert packs.is_dir()
    for number in range(100):
        (packs / f"pack-{number:040x}.pack").write_bytes(b"")
    repository.keep([made])
    assert not packs.exists()
    assert fetched(repository.fetch(upstream.commit({**FILES, "new": "new"})).root) == BERLIN


@pytest.mark.parametrize("damage", ["emptied", "cut", "locked", "head"])
def test_a_damaged_store_is_fetched_anew(tmp_path: Path, upstream: Upstream, damage: str) -> None:
    repository = a_repository(tmp_path, upstream.path)
    repository.fetch(upstream.commit(FILES))
    store = tmp_path / "state" / "git"
    match damage:
        case "emptied":
            shutil.rmtree(store / "objects")
        case "cut":
            for pack in (store / "objects" / "pack").iterdir():
                pack.chmod(0o600)
                os.truncate(pack, pack.stat().st_size // 2)
        case "locked":
            (store / "shallow.lock").write_text("")
        case "head":
            (store / "HEAD").write_text("nonsense")
    changed = repository.fetch(upstream.commit({**FILES, "sites/berlin/shop.yaml": "changed"}))
    assert (changed.folder / "shop.yaml").read_text() == "changed"


@pytest.mark.parametrize("damage", ["removed", "cut", "record"])
def test_a_damaged_checkout_is_made_anew(tmp_path: Path, upstream: Upstream, damage: str) -> None:
    repository = a_repository(tmp_path, upstream.path)
    checkout = repository.fetch(upstream.commit(FILES))
    victim = checkout.folder / "models" / "own.onnx"
    match damage:
        case "removed":
            victim.parent.chmod(0o755)
            victim.unlink()
        case "cut":
            victim.chmod(0o600)
            os.truncate(victim, 1)  # the kept content is the same file
        case "record":
            checkout.root.with_suffix(".json").write_text("{")
    assert (repository.fetch(checkout.commit.id).folder / "models" / "own.onnx").read_bytes() == b"own"


def test_what_a_crash_left_half_done_is_not_taken_for_a_checkout(tmp_path: Path, upstream: Upstream) -> None:
    made = upstream.commit(FILES)
    state = tmp_path / "state"
    (state / "commits" / made / "sites").mkdir(parents=True)  # without its record
    (state / "commits" / f".new-{made}").mkdir()
    (state / "blobs").mkdir()
    (state / "blobs" / "new-1234").write_text("half")
    (state / "git").mkdir()
    repository = a_repository(tmp_path, upstream.path)
    assert fetched(repository.fetch(made).root) == BERLIN
    repository.keep([made])
    assert sorted(path.name for path in (state / "commits").iterdir()) == [made, f"{made}.json"]


def test_a_disk_without_room_is_told_before_it_is_filled(tmp_path: Path, upstream: Upstream) -> None:
    repository = a_repository(tmp_path, upstream.path)
    made = upstream.commit({**FILES, "sites/berlin/large.bin": upstream.lfs(b"x").replace("size 1", f"size {2**59}")})
    limited = a_repository(tmp_path, upstream.path, limits=Limits(file_bytes=2**60, total_bytes=2**61))
    said = str(refusal(Kind.UNAVAILABLE, limited.fetch, made))
    assert "the disk has no room: 524288TiB to be fetched, 64MiB to be left free, and " in said
    assert refusal(Kind.TOO_LARGE, repository.fetch, made)


@pytest.mark.parametrize(
    ("content", "room", "said"),
    [
        (os.urandom(LARGE), 2**20, "more than 1MiB to be fetched"),
        (b"\0" * LARGE, 2**20, "4MiB to be fetched"),  # once it is known how large it is
        (b"\0" * LARGE, 0, "a commit to be fetched"),
    ],
    ids=["cut off", "known", "full"],
)
def test_no_more_is_fetched_than_the_disk_has_room_for_and_nothing_of_it_stays(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, content: bytes, room: int, said: str
) -> None:
    made = upstream.commit({"sites/berlin/large.bin": content})
    repository = a_repository(tmp_path, upstream.path)
    with monkeypatch.context() as disk:
        disk.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=RESERVE_BYTES + room))
        assert f"the disk has no room: {said}" in str(refusal(Kind.UNAVAILABLE, repository.fetch, made))
    assert not (tmp_path / "state" / "git").exists()
    assert (repository.fetch(made).folder / "large.bin").read_bytes() == content


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path, upstream: Upstream) -> None:
    (tmp_path / "state").write_text("a file")
    error = refusal(Kind.UNAVAILABLE, a_repository(tmp_path, upstream.path).head)
    assert error.problems[0].where == str(tmp_path / "state")


def test_a_repository_of_sha256_commits_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "srv" / "new.git"
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--bare", "--object-format=sha256", "-b", "main", ".")
    made = Upstream(path).commit(FILES)
    assert len(made) == 64
    assert fetched(a_repository(tmp_path, path).fetch(made).root) == BERLIN
