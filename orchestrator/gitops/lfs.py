"""Fetches the files that Git LFS keeps beside a repository: the Batch API with its basic transfer, or a local store.

Spoken here rather than by the git-lfs program, which many machines lack and which obeys the repository's own .lfsconfig
(docs/adr/0018-git.md). Where the files are is the remote's say alone. Each is checked against its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shlex
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops import failures
from orchestrator.gitops.lfs_pointer import Pointer
from orchestrator.gitops.program import Deadline, Ended
from orchestrator.manifest.git_address import GitAddress, Transport, parse_git_url

MEDIA_TYPE = "application/vnd.git-lfs+json"
BATCH_MAX = 100  # objects asked for at once, as git-lfs does
ANSWER_BYTES_MAX = 8 * 2**20
HEADERS_MAX = 32
PIECE_BYTES = 1024 * 1024
REDIRECTS_MAX = 5

Ssh = Callable[[Sequence[str], Deadline], Ended]


@dataclass(frozen=True, slots=True)
class Server:
    """Where the Batch API is, and what it wants to see."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LfsFiles:
    """The LFS files of one remote."""

    address: GitAddress
    token: tuple[str, str] | None = field(repr=False)
    ssh: Ssh
    deadline: Deadline

    def fetch(self, files: Mapping[Pointer, str]) -> Iterator[tuple[Pointer, Iterator[bytes]]]:
        """Yield each file's content, for errors under the path by which the commit knows it.

        The last piece is only given out when the whole has the digest that it should have.
        """
        pointers = sorted(files, key=lambda each: each.sha256)
        if self.address.transport is Transport.FILE:
            for pointer in pointers:
                yield pointer, self._whole(pointer, files[pointer], self._local(pointer, files[pointer]))
            return
        if not pointers:
            return
        server = self._server()
        for first in range(0, len(pointers), BATCH_MAX):
            batch = pointers[first : first + BATCH_MAX]
            actions = self._ask(server, batch)
            for pointer in batch:
                name = files[pointer]
                yield pointer, self._whole(pointer, name, self._download(pointer, name, actions))

    def _whole(self, pointer: Pointer, name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        digest, size, last = hashlib.sha256(), 0, b""
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            if size > pointer.size:
                break
            if last:
                yield last
            last = piece
        if size != pointer.size or digest.hexdigest() != pointer.sha256:
            what = f"the Git LFS file {name!r} came damaged: {size} bytes of {pointer.size}"
            raise OrchError(Kind.UNAVAILABLE, what, where=self.address.url, hint="the next look tries again")
        yield last

    def _server(self) -> Server:
        if self.address.transport is not Transport.SSH:
            base = self.address.url.rstrip("/")
            url = base + ("" if base.endswith(".git") else ".git") + "/info/lfs"
            return Server(url, {} if self.token is None else {"Authorization": _basic(*self.token)})
        ended = self.ssh(["git-lfs-authenticate", shlex.quote(self.address.path), "download"], self.deadline)
        try:
            said = json.loads(ended.out)
            return Server(str(said["href"]), _headers(said.get("header")))
        except (ValueError, KeyError, TypeError):
            words = failures.last_words(ended.err) or "its answer cannot be read"
            what = f"the host gives no address for Git LFS over ssh: {words}"
            hint = "reach the repository over https, or keep the models in it without LFS"
            raise OrchError(Kind.UNSUPPORTED, what, where=self.address.url, hint=hint) from None

    def _ask(self, server: Server, pointers: Sequence[Pointer]) -> Mapping[str, Mapping[str, Any]]:
        """Return what the server says of each object, by digest."""
        asked = {
            "operation": "download",
            "transfers": ["basic"],
            "hash_algo": "sha256",
            "objects": [{"oid": pointer.sha256, "size": pointer.size} for pointer in pointers],
        }
        headers = {**server.headers, "Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
        with self._open(server.url + "/objects/batch", headers, json.dumps(asked).encode()) as answer:
            data = b"".join(_pieces(answer, self.deadline, ANSWER_BYTES_MAX))
        try:
            return {str(each["oid"]): dict(each) for each in json.loads(data)["objects"]}
        except (ValueError, KeyError, TypeError):
            what = "the remote's answer about Git LFS files cannot be read"
            raise OrchError(Kind.UNAVAILABLE, what, where=self.address.url) from None

    def _download(self, pointer: Pointer, name: str, said: Mapping[str, Mapping[str, Any]]) -> Iterator[bytes]:
        about = said.get(pointer.sha256, {})
        try:
            action = about["actions"]["download"]
            href, headers = str(action["href"]), _headers(action.get("header"))
        except (KeyError, TypeError):
            raise self._absent(name) from None
        with self._open(href, headers, None) as answer:
            yield from _pieces(answer, self.deadline, pointer.size + 1)

    def _local(self, pointer: Pointer, name: str) -> Iterator[bytes]:
        """Yield a file of the store that git-lfs keeps in a repository on this machine."""
        repository = Path(self.address.path)
        kept = Path("lfs", "objects", pointer.sha256[:2], pointer.sha256[2:4], pointer.sha256)
        found = next((path for path in (repository / kept, repository / ".git" / kept) if path.is_file()), None)
        if found is None:
            raise self._absent(name)
        with found.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def _absent(self, name: str) -> OrchError:
        what, hint = f"the remote does not have the Git LFS file {name!r}", "push it: git lfs push --all origin"
        return OrchError(Kind.UNAVAILABLE, what, where=self.address.url, hint=hint)

    def _open(self, url: str, headers: Mapping[str, str], body: bytes | None) -> http.client.HTTPResponse:
        self._let_through(url)
        request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - let through above
        context = ssl.create_default_context(cafile=os.environ.get("GIT_SSL_CAINFO"))  # and SSL_CERT_FILE by itself
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _Redirects(self._let_through)
        )
        try:
            answer: http.client.HTTPResponse = opener.open(request, timeout=self.deadline.left("Git LFS"))
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(error.code) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._gone(error) from None
        return answer

    def _let_through(self, url: str) -> None:
        """Raise INVALID for an address that the remote may not send us to: only https, and http to where http is."""
        try:
            address = parse_git_url(url.partition("?")[0])
        except ValueError:
            address = None
        if address is not None and (
            address.transport is Transport.HTTPS
            or (address.transport is Transport.HTTP and self.address.transport is Transport.HTTP)
        ):
            return
        what = "the remote keeps its Git LFS files where they are not fetched from: only https is"
        raise OrchError(Kind.INVALID, what, where=self.address.url)

    def _refused(self, status: int) -> OrchError:
        where = self.address.url
        match status:
            case 401 | 403:
                hint = "name a file with a token that may read Git LFS files: token_file"
                return OrchError(
                    Kind.UNAUTHORIZED, f"Git LFS: the remote does not let us in ({status})", where=where, hint=hint
                )
            case 404 | 410 | 422:
                hint = "push them: git lfs push --all origin; and check that the remote has LFS switched on"
                return OrchError(
                    Kind.UNAVAILABLE, f"Git LFS: the remote does not have the files ({status})", where=where, hint=hint
                )
            case _:
                hint = "the next look tries again"
                return OrchError(Kind.UNAVAILABLE, f"Git LFS: the remote answers {status}", where=where, hint=hint)

    def _gone(self, error: Exception) -> OrchError:
        self.deadline.left("Git LFS")
        reason = failures.shown(failures.without(str(error), self.token[1:] if self.token else ()))
        what, hint = f"Git LFS: the remote does not answer: {reason}", "the next look tries again"
        return OrchError(Kind.UNAVAILABLE, what, where=self.address.url, hint=hint)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and takes no header along: they were for the host that we were sent away from."""

    max_redirections = REDIRECTS_MAX

    def __init__(self, let_through: Callable[[str], None]) -> None:
        self._let_through = let_through

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        del fp, code, msg, headers
        self._let_through(newurl)
        if req.data is not None:
            return None  # the batch request holds the token: it goes where it was sent, or nowhere
        return urllib.request.Request(newurl)  # noqa: S310 - let through above


def _pieces(answer: http.client.HTTPResponse, deadline: Deadline, most: int) -> Iterator[bytes]:
    """Yield the body as it comes, `most` bytes of it; raise DEADLINE and UNAVAILABLE."""
    while most > 0:
        deadline.left("Git LFS")
        try:
            piece = answer.read1(min(PIECE_BYTES, most))
        except (OSError, http.client.HTTPException) as error:
            deadline.left("Git LFS")
            raise OrchError(Kind.UNAVAILABLE, f"Git LFS: the remote broke off: {failures.shown(str(error))}") from None
        if not piece:
            return
        most -= len(piece)
        yield piece


def _headers(said: Any) -> dict[str, str]:
    """Return the headers that a server wants to see again, few and printable."""
    pairs = [(str(name), str(value)) for name, value in dict(said or {}).items()]
    if len(pairs) > HEADERS_MAX or not all((name + value).isprintable() for name, value in pairs):
        raise TypeError("no headers")
    return dict(pairs)


def _basic(user: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode("ascii")
