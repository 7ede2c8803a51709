"""What git said, as kinds of errors: a table, because git tells failures apart only in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.errors import Kind

TEXT_MAX = 300
FULL = "this machine's disk is full"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a text of git's means; `kind` None: git itself does not understand its own folder here."""

    kind: Kind | None
    what: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the words that git, ssh or curl has for it, and ours."""

    words: str
    kind: Kind
    what: str
    hint: str | None = None


# The first row that is found decides. Texts of git 2.30 to 2.50, OpenSSH 8 to 9 and curl, in the C locale.
RULES = (
    Rule(
        r"No space left on device|Disk quota exceeded",
        Kind.UNAVAILABLE,
        FULL,
        "free some space; what was fetched before goes on being used",
    ),
    Rule(
        r"File too large|died of signal 25|Cannot allocate memory|out of memory|mmap failed",
        Kind.TOO_LARGE,
        "what the remote sends is over the limit",
        "keep large files in Git LFS, or let the remote send parts: git config uploadpack.allowFilter true",
    ),
    Rule(
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED|host key is known",
        Kind.UNAUTHORIZED,
        "the host's key is not among the known ones",
        "add it to the known hosts file after comparing its fingerprint: ssh-keyscan HOST",
    ),
    Rule(
        r"Permission denied \(|invalid format|error in libcrypto|UNPROTECTED PRIVATE KEY|incorrect passphrase",
        Kind.UNAUTHORIZED,
        "the remote does not let this ssh key in",
        "name the key with ssh_key_file (no passphrase, mode 0600) and register its .pub at the remote",
    ),
    Rule(
        r"Authentication failed|could not read (?:Username|Password)|terminal prompts disabled|error: 40[13]\b",
        Kind.UNAUTHORIZED,
        "the remote does not let us in",
        "name a file with a token that may read the repository: token_file",
    ),
    Rule(
        # The name stands in the configuration that older ones do not read: so none of them ever runs without it.
        r"'origin' does not appear to be a git repository",
        Kind.UNSUPPORTED,
        "this machine's git is too old",
        "install git 2.34 or later",
    ),
    Rule(
        r"dubious ownership",
        Kind.UNAUTHORIZED,
        "the repository belongs to another user",
        "let the agent's user own it, or fetch it over ssh or https",
    ),
    Rule(
        r"couldn't find remote ref|[Rr]emote branch \S+ not found",
        Kind.NOT_FOUND,
        "the remote has no such branch",
    ),
    Rule(
        r"not our ref|unadvertised object|Server does not allow request",
        Kind.NOT_FOUND,
        "the remote does not have this commit any more",
        "it was overwritten there; the next look finds the new one",
    ),
    Rule(
        r"epository (?:'[^']*' )?not found|does not appear to be a git repository|error: 404\b|not found: did you run",
        Kind.NOT_FOUND,
        "there is no such repository",
        "check the address; hosts also answer so where the token or key may not read it",
    ),
    Rule(
        r"redirect|unable to update url base|error: 3\d\d\b",
        Kind.INVALID,
        "the remote sends us to another address",
        "write the address that it ends at; redirects are not followed",
    ),
    Rule(
        r"dumb http transport|does not support (?:shallow|--depth)",
        Kind.UNSUPPORTED,
        "the remote speaks only git's oldest protocol",
        "serve it with git http-backend, or over ssh",
    ),
    Rule(
        r"fsck error|error: object [0-9a-f]{40,64}:|malformed object|bad pack header",
        Kind.INVALID,
        "the commit holds an object that git refuses",
        "git fsck --strict names it in a clone of the repository",
    ),
    Rule(
        r"certificate|SSL|TLS|GnuTLS",
        Kind.UNAVAILABLE,
        "the remote's certificate is not trusted",
        "add its authority to the system's, or name it to the agent: SSL_CERT_FILE",
    ),
    Rule(
        r"Could not resolve host|Connection refused|Failed to connect|Couldn't connect|timed out|Timeout"
        r"|peration too slow|unreachable|No route to host|early EOF|error: 5\d\d\b|error: 429\b|hung up"
        r"|Connection (?:reset|closed)|unexpected disconnect|Empty reply|Could not read from remote|kex_exchange",
        Kind.UNAVAILABLE,
        "the remote does not answer",
        "what runs goes on; the next look tries again",
    ),
)
_COMPILED = tuple((re.compile(rule.words), rule) for rule in RULES)
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_CHATTER = re.compile(r"^(?:hint|warning)\b|^remote: (?:Enumerating|Counting|Compressing|Total)|^From ")
_REASON = re.compile(r"^(?:fatal|error|ssh|remote|Host key)\b", re.IGNORECASE)


def understand(stderr: str, secrets: Iterable[str] = ()) -> Failure:
    """Return what git's messages mean, git's own words appended and all secrets blotted out."""
    text = without(stderr, secrets)
    for words, rule in _COMPILED:
        if words.search(text):
            line = next((line for line in text.splitlines() if words.search(line)), text)
            return Failure(rule.kind, f"{rule.what}: {shown(line)}", rule.hint)
    return Failure(None, last_words(text) or "git failed without a word")


def last_words(stderr: str) -> str:
    """Return the line that says why, as it may be shown."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not _CHATTER.match(line)]
    reasons = [line for line in lines if _REASON.match(line)]
    return shown((reasons or lines or [""])[-1])


def shown(text: str, most: int = TEXT_MAX) -> str:
    """Return a stranger's text as it may stand in a terminal or a log: one line, no control characters, cut."""
    clean = _UNSHOWN.sub(" ", text).strip()
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def without(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret blotted out."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
