"""What the git program may do for us: its whole environment and its whole configuration, nothing of the user's.

docs/adr/0018-git.md says of each line why.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.git_address import GitAddress, Transport, parse_branch, parse_folder, parse_git_url

TOKEN_BYTES_MAX = 8192
TOKEN_VARIABLE = "ORCH_GIT_TOKEN_FILE"  # noqa: S105 - names the variable
CONNECT_S = 15
STALLED_S = 30  # without a thousand bytes a second
# What of the agent's environment git needs: where programs are, proxies, and authorities of certificates.
PASSED_ON = (
    *("PATH", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)
# The token goes from its file through a pipe to git: it is in no environment, argument, URL or file of ours.
_HELPER = (
    '!f() { test "$1" = get || exit 0; '
    't=$(head -n 1 "$ORCH_GIT_TOKEN_FILE" | tr -d "\\r\\t "); '
    'case "$t" in *:*) u="${t%%:*}"; t="${t#*:}";; *) u=git;; esac; '
    'printf "username=%s\\npassword=%s\\n" "$u" "$t"; }; f'
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files that open a remote, and those that say whom to believe."""

    token_file: Path | None = None
    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    allowed_signers_file: Path | None = None


def checked_address(url: str) -> GitAddress:
    """Return the address; raise INVALID, which never repeats the URL, for one that is not let through."""
    try:
        return parse_git_url(url)
    except ValueError as error:
        raise OrchError(Kind.INVALID, str(error), where="url") from None


def checked_branch(branch: str) -> str:
    """Return the branch; raise INVALID for what is none."""
    try:
        return parse_branch(branch)
    except ValueError as error:
        raise OrchError(Kind.INVALID, str(error), where="branch") from None


def checked_folder(path: str) -> str:
    """Return the folder in the repository; raise INVALID for one outside."""
    try:
        return parse_folder(path)
    except ValueError as error:
        raise OrchError(Kind.INVALID, str(error), where="path") from None


def check(address: GitAddress, credentials: Credentials) -> None:
    """Raise INVALID where content or token would pass unprotected, and for files that are not there."""
    if address.transport is Transport.HTTP and not address.loopback:
        if credentials.token_file is not None:
            what = "a token would be sent in clear text"
            raise OrchError(Kind.INVALID, what, where="url", hint="write https:// instead of http://")
        if credentials.allowed_signers_file is None:
            what = "over http:// anybody on the way can change what this machine runs"
            hint = "write https://, or accept only signed commits: allowed_signers_file"
            raise OrchError(Kind.INVALID, what, where="url", hint=hint)
    if credentials.token_file is not None and address.transport not in {Transport.HTTPS, Transport.HTTP}:
        what = f"a token is of no use over {address.transport}"
        raise OrchError(Kind.INVALID, what, where="token_file", hint="drop it, or write the https:// address")
    for path in (credentials.ssh_key_file, credentials.known_hosts_file, credentials.allowed_signers_file):
        with reading(path):
            if path is not None:
                path.open("rb").close()


@contextlib.contextmanager
def reading(path: Path | None) -> Iterator[None]:
    """Raise UNAUTHORIZED for a file of the operator's that cannot be read."""
    try:
        yield
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        hint = "the source names it; put it there, readable for the agent's user"
        raise OrchError(Kind.UNAUTHORIZED, what, where=str(path), hint=hint) from None


def read_token(path: Path | None) -> tuple[str, str] | None:
    """Return user and token of a file's one line, TOKEN or USER:TOKEN; raise UNAUTHORIZED, which never shows them."""
    if path is None:
        return None
    with reading(path), path.open("rb") as file:
        line = file.read(TOKEN_BYTES_MAX).decode("latin-1").strip()
    user, _, token = line.partition(":") if ":" in line else ("git", "", line)
    if not token or not line.isascii() or not line.isprintable() or " " in line:
        hint = "write one line: TOKEN, or USER:TOKEN"
        raise OrchError(Kind.UNAUTHORIZED, "the file holds no token", where=str(path), hint=hint)
    return user, token


def environment(home: Path, address: GitAddress, credentials: Credentials, own: Mapping[str, str]) -> dict[str, str]:
    """Return git's whole environment; `home` is the folder of our own where its configuration stands."""
    # Distributions build git with GnuTLS, which knows no SSL_CERT_FILE.
    authorities = {"GIT_SSL_CAINFO": own["SSL_CERT_FILE"]} if "SSL_CERT_FILE" in own else {}
    return {
        **authorities,
        **{name: own[name] for name in PASSED_ON if name in own},
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": str(address.transport),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_SSH_COMMAND": shlex.join(ssh_command(credentials)),
        "GIT_SSH_VARIANT": "ssh",
        TOKEN_VARIABLE: str(credentials.token_file or os.devnull),
    }


def ssh_command(credentials: Credentials) -> list[str]:
    """Return how ssh is started: no configuration, no questions, no unknown host, nothing forwarded."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": "15",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ControlPath": "none",
        "IdentityAgent": "none",
    }
    if credentials.known_hosts_file is not None:
        options |= {"UserKnownHostsFile": _ssh_path(credentials.known_hosts_file), "GlobalKnownHostsFile": os.devnull}
    if credentials.ssh_key_file is not None:
        options |= {"IdentityFile": _ssh_path(credentials.ssh_key_file), "IdentitiesOnly": "yes"}
    return [
        "ssh",
        "-F",
        os.devnull,
        "-T",
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]


def _ssh_path(path: Path) -> str:
    """Return a path as ssh_config takes it: quoted, with nothing in it that ssh would expand."""
    text = str(path)
    if any(character in text for character in '"$\\\n') or text.startswith("~"):
        raise OrchError(Kind.INVALID, "ssh takes no path with quotes, $, \\ or a leading ~", where=text)
    return '"' + text.replace("%", "%%") + '"'


def configuration(address: GitAddress, credentials: Credentials, store: Path) -> str:
    """Return git's global configuration; nothing else that it reads is written by anybody but us and git."""
    lines: list[str] = []
    for section, values in _sections(address, credentials, store):
        lines += [f"[{section}]", *(f"\t{key} = {_quoted(value)}" for key, value in values)]
    return "\n".join(lines) + "\n"


Section = tuple[str, Iterable[tuple[str, str]]]


def _sections(address: GitAddress, credentials: Credentials, store: Path) -> Iterator[Section]:
    nothing = os.devnull
    trusted = [str(store), *(_entered(address.path) if address.transport is Transport.FILE else ())]
    yield "safe", [("directory", path) for path in trusted]
    yield "protocol", [("allow", "never"), ("version", "2")]
    yield f'protocol "{address.transport}"', [("allow", "always")]
    yield "transfer", [("fsckObjects", "true"), ("bundleURI", "false"), ("credentialsInUrl", "die")]
    yield "fetch", [("fsckObjects", "true"), ("unpackLimit", "1"), ("recurseSubmodules", "false")]
    yield "submodule", [("recurse", "false")]
    yield (
        "core",
        [
            *[("hooksPath", nothing), ("attributesFile", nothing), ("excludesFile", nothing)],
            *[("fsmonitor", "false"), ("symlinks", "false"), ("protectHFS", "true"), ("protectNTFS", "true")],
            *[("bigFileThreshold", "16m"), ("packedGitWindowSize", "32m"), ("packedGitLimit", "256m")],
        ],
    )
    yield "pack", [("threads", "1")]
    yield "gc", [("auto", "0")]
    yield "maintenance", [("auto", "false")]
    yield "http", [("followRedirects", "false"), ("lowSpeedLimit", "1000"), ("lowSpeedTime", str(STALLED_S))]
    yield "credential", [("helper", "")]
    if credentials.token_file is not None:
        yield f'credential "{address.site}"', [("helper", _HELPER)]
    yield "gpg", [("format", "ssh"), ("program", "false"), ("minTrustLevel", "fully")]
    yield 'gpg "x509"', [("program", "false")]
    if credentials.allowed_signers_file is not None:
        yield 'gpg "ssh"', [("program", "ssh-keygen"), ("allowedSignersFile", str(credentials.allowed_signers_file))]
    yield 'remote "origin"', [("url", address.url)]


def _quoted(value: str) -> str:
    if "\n" in value or "\0" in value:
        raise OrchError(Kind.INVALID, "a file name with a line end cannot be used", where=repr(value)[:80])
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _entered(path: str) -> Iterator[str]:
    """Yield the folders that git enters for a local path: itself, what is bare beside it, the .git inside."""
    for name in (path, path + ".git", path.rstrip("/") + "/.git"):
        yield name
        if os.path.realpath(name) != name:
            yield os.path.realpath(name)
