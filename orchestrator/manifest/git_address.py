"""Where a Git repository is: the addresses, branches and folders that are let through to the git program.

What stands here is checked by shape and not by trying: git takes a URL such as `ext::sh -c ...` for a program to run,
and a branch such as `--upload-pack=...` for an option of its own.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

URL_MAX = 2048
BRANCH_MAX = 255
FOLDER_MAX = 1024
PORT_MAX = 65535


class Transport(enum.StrEnum):
    """How a repository is reached, as git's `protocol.<name>.allow` calls it."""

    HTTPS = "https"
    HTTP = "http"
    SSH = "ssh"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class GitAddress:
    """An address that may be given to git; it holds no secret."""

    transport: Transport
    url: str
    path: str
    """On the host; for FILE the folder on this machine."""
    host: str | None = None
    port: int | None = None
    user: str | None = None
    """Of ssh."""

    @property
    def site(self) -> str:
        """Return `https://HOST[:PORT]`, to which a credential belongs."""
        return f"{self.transport}://{self.host}" + (f":{self.port}" if self.port else "")

    @property
    def loopback(self) -> bool:
        """Return whether the host is this machine."""
        host = (self.host or "").lower()
        return host in {"localhost", "[::1]"} or re.fullmatch(r"127(?:\.[0-9]{1,3}){3}", host) is not None


FORMS = "https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH or /PATH"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
_USER = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,63})"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_WEB = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?(/[^?#\s]+)")
_SSH = re.compile(rf"(?:({_USER})@)?({_HOST})(?::([0-9]{{1,5}}))?(/[^\s]+)")
_SCP = re.compile(rf"(?:({_USER})@)?({_HOST}):([^-\s:][^\s]*)")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def parse_git_url(text: object) -> GitAddress:
    """Return the address in `text`; raise ValueError, which never repeats what might be a secret."""
    if not isinstance(text, str) or not text:
        raise ValueError(f"must be the address of a repository: {FORMS}")
    if len(text) > URL_MAX or _PRINTABLE.fullmatch(text) is None:
        raise ValueError(f"must be {URL_MAX} printable characters at most")
    if text.startswith("/"):
        return GitAddress(Transport.FILE, text, text)
    scheme = _SCHEME.fullmatch(text)
    if scheme is None:
        return _scp_like(text)
    name, rest = scheme[1], scheme[2]
    match name:
        case "https" | "http":
            return _web(Transport(name), text, rest)
        case "ssh":
            return _ssh(text, rest)
        case "file":
            return _file(text, rest)
        case _:
            raise ValueError(f"{name[:20]}:// is not spoken here; write {FORMS}")


def _web(transport: Transport, url: str, rest: str) -> GitAddress:
    if "@" in rest.partition("/")[0]:
        raise ValueError("holds a user name or a secret before the @; drop it, and name a file: token_file: FILE")
    if "?" in rest or "#" in rest:
        raise ValueError("holds a query or a fragment, where secrets may stand; drop it, and name a file: token_file")
    match = _WEB.fullmatch(rest)
    if match is None:
        raise ValueError(f"names no repository: write {transport}://HOST/PATH")
    return GitAddress(transport, url, match[3], match[1], _port(match[2]))


def _ssh(url: str, rest: str) -> GitAddress:
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise ValueError("holds a password before the @; drop it, and name a key: ssh_key_file: FILE")
    match = _SSH.fullmatch(rest)
    if match is None:
        raise ValueError("names no repository: write ssh://USER@HOST/PATH")
    return GitAddress(Transport.SSH, url, match[4], match[2], _port(match[3]), match[1])


def _file(url: str, rest: str) -> GitAddress:
    if not rest.startswith("/") or "%" in rest:
        raise ValueError("names no folder of this machine: write file:///PATH, or /PATH")
    return GitAddress(Transport.FILE, url, rest)


def _scp_like(url: str) -> GitAddress:
    if "::" in url.partition("/")[0].replace("[::", "["):
        raise ValueError(f"names a program that git would start; write {FORMS}")
    if "@" in url and ":" in url.partition("@")[0]:
        raise ValueError("holds a password before the @; drop it, and name a key: ssh_key_file: FILE")
    match = _SCP.fullmatch(url)
    if match is None:
        raise ValueError(f"is not the address of a repository; write {FORMS}")
    return GitAddress(Transport.SSH, url, match[3], match[2], None, match[1])


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if not 1 <= int(text) <= PORT_MAX:
        raise ValueError(f"the port must be 1 to {PORT_MAX}, got {text}")
    return int(text)


# git-check-ref-format(1), and no leading hyphen.
_NOT_IN_A_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|\.$|/$|^[-/.]|^@$|^HEAD$")


def parse_branch(text: object) -> str:
    """Return the branch's name unchanged; raise ValueError for what git does not take for one."""
    if not isinstance(text, str) or not text or len(text) > BRANCH_MAX or _PRINTABLE.fullmatch(text) is None:
        raise ValueError(f"must be the name of a branch, {BRANCH_MAX} printable characters at most")
    if _NOT_IN_A_BRANCH.search(text):
        raise ValueError(f"is not the name of a branch: {text[:60]!r}")
    return text


def parse_folder(text: object) -> str:
    """Return a folder inside a repository without `.` and doubled slashes; raise ValueError for one outside."""
    if not isinstance(text, str) or len(text) > FOLDER_MAX or (text and _PRINTABLE.fullmatch(text) is None):
        raise ValueError(f"must be a folder in the repository, {FOLDER_MAX} printable characters at most")
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if text.startswith("/") or ".." in parts:
        raise ValueError(
            f"must lie in the repository, got {text[:60]!r}; write it from the repository's root, such as sites/berlin"
        )
    if any(part.lower() == ".git" for part in parts):
        raise ValueError(f"may not be part of .git, got {text[:60]!r}")
    return "/".join(parts) or "."
