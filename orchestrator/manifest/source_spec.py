"""The manifest of a source, from which an agent takes its deployments, as strict pydantic models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.manifest.git_address import (
    BRANCH_MAX,
    FOLDER_MAX,
    URL_MAX,
    Transport,
    parse_branch,
    parse_folder,
    parse_git_url,
)
from orchestrator.manifest.spec import (
    CONTRADICTION,
    Address,
    Contradiction,
    Duration,
    FilePath,
    Metadata,
    Strict,
    refuse,
)

SOURCE = "Source"
INTERVAL_MIN_S = 1.0  # a remote is asked no more often; a webhook is quicker than that
INTERVAL_S = 60.0
TIMEOUT_S = 60.0
WEBHOOK = "127.0.0.1:9292"
MODEL_ROOTS_MAX = 16


def _url(text: object) -> str:
    """Return the address unchanged; the error does not repeat it, because it may hold a secret."""
    try:
        return parse_git_url(text).url
    except ValueError as error:
        what, _, hint = str(error).partition("; ")
        raise PydanticCustomError(CONTRADICTION, "{what}", {"what": what, "hint": hint or None}) from None


class Git(Strict):
    """A repository that the git program reaches."""

    url: Annotated[str, Field(min_length=1, max_length=URL_MAX), BeforeValidator(_url)]
    """https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or a folder of this machine; never with a password."""
    branch: Annotated[str, BeforeValidator(parse_branch), Field(max_length=BRANCH_MAX)] | None = None
    """Branch to follow. Default: the one that the remote's HEAD names."""
    token_file: FilePath | None = None
    """File that holds TOKEN or USER:TOKEN, for https; relative to the manifest."""
    ssh_key_file: FilePath | None = None
    """Private key, for ssh; relative to the manifest."""
    known_hosts_file: FilePath | None = None
    """Hosts to trust, for ssh. Default: ssh's own files; a host in neither is refused."""
    allowed_signers_file: FilePath | None = None
    """Who may sign, as ssh-keygen reads it; with it, only commits signed by one of them are taken."""


class Webhook(Strict):
    """Where a Git server tells of a push: POST /hooks/NAME, signed with a secret that both know."""

    secret_file: FilePath
    """File that holds the secret; relative to the manifest."""
    listen: Address = WEBHOOK
    """HOST:PORT to listen on; sources that state the same share it."""


class SourceSpec(Strict):
    """Where manifests come from, and what is done with them."""

    git: Git | None = None
    """A Git repository; this or `folder`."""
    folder: FilePath | None = None
    """A folder of this machine, relative to the manifest; this or `git`."""
    path: Annotated[str, Field(min_length=1, max_length=FOLDER_MAX), BeforeValidator(parse_folder)] = "."
    """Folder of the manifests inside it; those of folders further in are not read."""
    interval: Duration = INTERVAL_S
    """How often it is asked for what is new, and what runs is compared; from 1s."""
    timeout: Duration = TIMEOUT_S
    """Longest time that one question to the remote, or one fetch, may take."""
    prune: bool = True
    """Delete deployments that came from here and are no longer in it."""
    prune_all: bool = False
    """Allow a commit to remove everything that came from here."""
    locks: Literal["measure", "hint", "refuse"] = "measure"
    """What is done with a model that no lock in the repository holds: `measure` it on this machine, plan it by rule
    (`hint`), or `refuse` the commit."""
    model_roots: Annotated[list[FilePath], Field(max_length=MODEL_ROOTS_MAX)] = []  # noqa: RUF012 - pydantic copies it
    """Folders outside of the repository in which its manifests may name models; relative to the manifest."""
    webhook: Webhook | None = None
    """How a Git server tells of a push."""
    suspend: bool = False
    """Take nothing until it is false again; what runs goes on."""

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        refuse("SourceSpec", _contradictions(self))
        return self


def _contradictions(spec: SourceSpec) -> Iterable[Contradiction]:
    if spec.git is None and spec.folder is None:
        yield Contradiction((), "names no place", "add git: {url: ...}, or folder: PATH")
    if spec.git is not None and spec.folder is not None:
        yield Contradiction(("folder",), "stands beside git: a source is one place", "drop one of them")
    if spec.git is not None:
        yield from _unprotected(spec.git)
    if spec.folder is not None and spec.webhook is not None:
        what = "stands beside folder: nobody pushes to a folder, which is watched"
        yield Contradiction(("webhook",), what, "drop it")
    if spec.interval < INTERVAL_MIN_S:
        yield Contradiction(("interval",), f"must be at least {INTERVAL_MIN_S:g}s", "a webhook is quicker")


def _unprotected(git: Git) -> Iterable[Contradiction]:
    """Say here what is refused again before git is asked, so that nobody learns of it by a source that is Degraded."""
    address = parse_git_url(git.url)
    if address.transport is not Transport.HTTP or address.loopback:
        return
    if git.token_file is not None:
        what = "stands beside an http:// address, to which a token would be sent in clear text"
        yield Contradiction(("git", "token_file"), what, "write https:// instead of http://")
    if git.allowed_signers_file is None:
        what = "over http:// anybody on the way can change what this machine runs"
        hint = "write https://, or accept only signed commits: allowed_signers_file"
        yield Contradiction(("git", "url"), what, hint)


class Source(Strict):
    """One manifest document: a place from which the agent takes deployments, again and again."""

    model_config = ConfigDict(populate_by_name=True)

    api_version: Annotated[Literal["orch/v1"], Field(alias="apiVersion")]
    """Version of this format."""
    kind: Literal["Source"]
    """What the document is."""
    metadata: Metadata
    """Who it is."""
    spec: SourceSpec
    """Where manifests come from, and what is done with them."""
