"""A Git server for tests: repositories made with the real git program, served as paths and over HTTP with a token."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TIMEOUT_S = 20
AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
}
ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}


def git(cwd: Path, *words: str, text: bytes = b"", more: Mapping[str, str] | None = None) -> str:
    """Run git for a test, without the configuration of whoever runs the test."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), **ALONE, **AUTHOR, **(more or {})}
    ran = subprocess.run(
        ["git", *words], cwd=cwd, input=text, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert ran.returncode == 0, f"git {' '.join(words)}: {ran.stderr.decode()}"
    return ran.stdout.decode().strip()


@dataclass(frozen=True)
class Upstream:
    """A repository that somebody pushes to."""

    path: Path
    """Bare."""

    @classmethod
    def at(cls, path: Path) -> Upstream:
        path.mkdir(parents=True)
        git(path, "init", "--quiet", "--bare", "--template=", "-b", "main", ".")
        with (path / "config").open("a") as file:
            file.write("[uploadpack]\n\tallowFilter = true\n")
        return cls(path)

    def commit(
        self,
        files: Mapping[str, bytes | str],
        *,
        branch: str = "main",
        links: Mapping[str, str] | None = None,
        subject: str = "a change",
        parent: str | None = None,
        signed_with: Path | None = None,
    ) -> str:
        """Commit exactly these files; return the id."""
        head = f"commit refs/heads/{branch}\nmark :1\ncommitter Ada <ada@example.com> {int(time.time())} +0000\n"
        stream = [head.encode(), _data(subject), b"from " + parent.encode() + b"\n" if parent else b"", b"deleteall\n"]
        if parent is None:
            stream.insert(0, f"reset refs/heads/{branch}\n".encode())
        for mode, entries in (("100644", files), ("120000", links or {})):
            for path, data in entries.items():
                stream += [f"M {mode} inline {path}\n".encode(), _data(data)]
        made = git(self.path, "fast-import", "--quiet", "--force", text=b"".join([*stream, b"get-mark :1\n"]))
        if signed_with is None:
            return made
        tree = git(self.path, "rev-parse", made + "^{tree}")
        return self.commit_tree(tree, branch=branch, subject=subject, parent=parent, signed_with=signed_with)

    def commit_tree(
        self,
        tree: str,
        *,
        branch: str = "main",
        subject: str = "a change",
        parent: str | None = None,
        signed_with: Path | None = None,
    ) -> str:
        """Commit a tree as it is; return the id."""
        sign = [] if signed_with is None else ["-S"]
        config = [] if signed_with is None else ["-c", "gpg.format=ssh", "-c", f"user.signingkey={signed_with}"]
        parents = [] if parent is None else ["-p", parent]
        made = git(self.path, *config, "commit-tree", *sign, *parents, "-m", subject, tree)
        git(self.path, "update-ref", f"refs/heads/{branch}", made)
        return made

    def forged(self, signed: str, other: str) -> str:
        """Return a commit with the signature of one commit and the tree of another."""
        text = git(self.path, "cat-file", "commit", signed)
        tree = git(self.path, "rev-parse", other + "^{tree}")
        changed = "\n".join([f"tree {tree}", *text.split("\n")[1:]]) + "\n"
        made = git(self.path, "hash-object", "-w", "-t", "commit", "--stdin", text=changed.encode())
        git(self.path, "update-ref", "refs/heads/forged", made)
        return made

    def blob(self, data: bytes | str) -> str:
        return git(self.path, "hash-object", "-w", "--stdin", text=data.encode() if isinstance(data, str) else data)

    def raw_tree(self, *entries: tuple[str, bytes, str]) -> str:
        """Write a tree that git itself would refuse: mode, name and id of each entry."""
        data = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(each) for mode, name, each in entries)
        return git(self.path, "hash-object", "-w", "--literally", "-t", "tree", "--stdin", text=data)

    def lfs(self, content: bytes) -> str:
        """Keep content as git-lfs does in a repository; return the pointer that stands for it."""
        digest = hashlib.sha256(content).hexdigest()
        kept = self.path / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        return pointer(digest, len(content))


def _data(data: bytes | str) -> bytes:
    """Return content as git fast-import reads it."""
    raw = data.encode() if isinstance(data, str) else data
    return f"data {len(raw)}\n".encode() + raw + b"\n"


def pointer(digest: str, size: int) -> str:
    """Return the text that stands in a commit for a file of Git LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"


@dataclass
class Server:
    """What a test says to the server, and what that heard."""

    root: Path
    url: str = ""
    token: str | None = None
    protocol: bool = True
    """Whether git's protocol 2 is spoken."""
    redirect: str | None = None
    """Where every request is sent on to."""
    lfs_href: str | None = None
    """Where LFS files are said to be, in place of this server; ends in a slash."""
    heard: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Authorization of each request."""


@contextlib.contextmanager
def served(root: Path, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve the repositories in a folder over smart HTTP by git's own http-backend, and their LFS files."""
    server = Server(root)

    class Handler(_Handler):
        about = server

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    if tls is not None:
        listening.socket = tls.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
    server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(TIMEOUT_S)


class _Handler(BaseHTTPRequestHandler):
    about: Server
    protocol_version = "HTTP/1.0"

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        about, given = self.about, self.headers.get("Authorization")
        about.heard.append((self.path, given))
        path, _, query = self.path.partition("?")
        if about.redirect is not None:
            self._say(302, b"", {"Location": about.redirect + self.path})
        elif path.startswith("/lfs-moved/"):
            # Where it now is needs no ticket, as with an address that is signed itself.
            self._say(302, b"", {"Location": f"{about.url}/lfs-open/{path.rpartition('/')[2]}"})
        elif path.startswith(("/lfs-files/", "/lfs-open/")):
            self._lfs_file(path.rpartition("/")[2])
        elif about.token is not None and given != "Basic " + base64.b64encode(about.token.encode()).decode():
            self._say(401, b"no", {"WWW-Authenticate": 'Basic realm="git"'})
        elif path.endswith("/info/lfs/objects/batch"):
            self._lfs_batch(body)
        else:
            self._backend(path, query, body)

    def _say(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _lfs_batch(self, body: bytes) -> None:
        base = self.about.lfs_href or f"{self.about.url}/lfs-files/"
        objects = [
            {**each, "actions": {"download": {"href": base + each["oid"], "header": {"X-Ticket": "7"}}}}
            for each in json.loads(body)["objects"]
        ]
        answer = json.dumps({"transfer": "basic", "objects": objects}).encode()
        self._say(200, answer, {"Content-Type": "application/vnd.git-lfs+json"})

    def _lfs_file(self, digest: str) -> None:
        found = next(iter(self.about.root.glob(f"*/lfs/objects/{digest[:2]}/{digest[2:4]}/{digest}")), None)
        ticket = None if "/lfs-open/" in self.path else "7"
        if found is None or self.headers.get("X-Ticket") != ticket:
            self._say(404, b"", {})
        else:
            self._say(200, found.read_bytes(), {})

    def _backend(self, path: str, query: str, body: bytes) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.about.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            **ALONE,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", "") if self.about.protocol else "",
            "REMOTE_ADDR": "127.0.0.1",
        }
        ran = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        head, _, answer = ran.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self._say(int(headers.pop("Status", "200").split(" ")[0]), answer, headers)
