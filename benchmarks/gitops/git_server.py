"""A Git server over HTTP: git's own http-backend behind a small CGI server, with webhooks, and a switch to be gone."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

GIT_TIMEOUT_S = 60.0
HOOK_TIMEOUT_S = 5.0
WHO = ("-c", "user.name=Ann Ops", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false")
ENVIRON = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}


def git(folder: Path, *arguments: str) -> str:
    """Run git and return what it prints; raise CalledProcessError with its words."""
    ran = subprocess.run(
        ["git", *WHO, *arguments],
        cwd=folder,
        env=os.environ | ENVIRON,
        capture_output=True,
        text=True,
        timeout=GIT_TIMEOUT_S,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout.strip()


class GitServer:
    """A bare repository served over HTTP at a port of its own; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.bare = folder / "site.git"
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--bare", "--initial-branch", "main", str(self.bare))
        # As the large servers have it: any commit may be fetched by its id, and trees without their blobs.
        for key in ("uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"):
            git(self.bare, "config", key, "true")
        self.gone = False
        """While true every connection is ended without an answer."""
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Return where the repository is."""
        return f"http://127.0.0.1:{self._server.server_port}/site.git"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Hands each request to git http-backend."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._run()

        def do_POST(self) -> None:
            self._run()

        def _run(self) -> None:
            server.requests += 1
            if server.gone:
                self.close_connection = True
                return
            status, headers, body = _cgi(server.bare.parent, self)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def _cgi(root: Path, request: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
    path, _, query = request.path.partition("?")
    body = _body(request)
    environ = os.environ | ENVIRON
    environ |= {"GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {"REQUEST_METHOD": request.command, "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "127.0.0.1"}
    for name, key in (
        ("Content-Type", "CONTENT_TYPE"),
        ("Content-Encoding", "HTTP_CONTENT_ENCODING"),
        ("Git-Protocol", "HTTP_GIT_PROTOCOL"),
    ):
        if request.headers.get(name):
            environ[key] = request.headers[name]
    ran = subprocess.run(
        ["git", "http-backend"], input=body, env=environ, capture_output=True, timeout=GIT_TIMEOUT_S, check=False
    )
    head, _, answer = ran.stdout.partition(b"\r\n\r\n")
    headers = [(name, value) for line in head.decode().splitlines() for name, _, value in [line.partition(": ")]]
    status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
    return status, [header for header in headers if header[0] not in {"Status", "Content-Length"}], answer


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline().split(b";")[0], 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def tell_of_push(address: str, name: str, secret: bytes, commit: str) -> int:
    """Post to a webhook as GitHub does, and return the status of the answer."""
    body = json.dumps({"ref": "refs/heads/main", "after": commit}).encode()
    signature = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-GitHub-Event": "push", "X-Hub-Signature-256": signature}
    connection = http.client.HTTPConnection(address, timeout=HOOK_TIMEOUT_S)
    try:
        connection.request("POST", f"/hooks/{name}", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()
