"""What an endpoint shows to its clients and asks of them, followed while it serves: certificate, key, tokens."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchError
from orchestrator.manifest.tls_files import Identity, TlsFiles, written
from orchestrator.planner.plan import EndpointPlan, TlsPlan
from orchestrator.serving import tls, token
from orchestrator.serving.watched import LOOK_S, Change, Watched
from orchestrator.telemetry.events import EventType

EXPIRES_SOON = timedelta(days=14)
"""Certificates of three months are renewed a month before; what is left then was missed."""

Tell = Callable[[EventType, str, str], None]
"""Takes kind, reason and message of an event."""


@dataclass(frozen=True, slots=True)
class Note:
    """An event in the making."""

    kind: EventType
    reason: str
    message: str


class Credentials:
    """The certificate and the tokens of one endpoint, either of which it may lack."""

    def __init__(self, endpoint: EndpointPlan, now: Callable[[], float] = time.time) -> None:
        """Read the files; raise OrchError INVALID where they cannot be used."""
        self._now = now
        self._age = ""
        self._tls: Watched[Identity] | None = None
        self._tokens: Watched[tuple[str, ...]] | None = None
        if endpoint.tls is not None:
            files = files_of(endpoint.tls, grpc=endpoint.grpc is not None)
            self._tls = Watched(files.paths, lambda: tls.read(files))
        if endpoint.token_file is not None:
            path = Path(endpoint.token_file)
            self._tokens = Watched([path], lambda: token.load(path))

    @property
    def encrypted(self) -> bool:
        """Tell whether the endpoint speaks TLS."""
        return self._tls is not None

    def identity(self) -> Identity:
        """Return what new connections are answered with, where the endpoint speaks TLS."""
        assert self._tls is not None
        return self._tls.held

    def context(self) -> ssl.SSLContext:
        """Return the same for Python's ssl."""
        return self.identity().context

    def tokens(self) -> tuple[str, ...] | None:
        """Return the tokens of which a request must carry one; None where it need not."""
        return None if self._tokens is None else self._tokens.held

    @property
    def expires_epoch_s(self) -> float | None:
        """Return when the certificate in use expires."""
        return self.identity().not_after.timestamp() if self.encrypted else None

    def status(self) -> dict[str, Any] | None:
        """Return the certificate in use for people and tools: nothing secret."""
        if not self.encrypted:
            return None
        used = self.identity()
        expires = used.not_after.isoformat().replace("+00:00", "Z")
        mutual = used.client_ca is not None
        return {"expires": expires, "sha256": used.chain[0].sha256, "client_certificates": mutual}

    async def follow(self, tell: Tell, on_bug: Callable[[BaseException], None]) -> None:
        """Take up what changes, for ever; files are read off the loop, as the disk may hang."""
        while self._tls is not None or self._tokens is not None:
            try:
                for note in await asyncio.to_thread(lambda: list(self.look())):
                    tell(note.kind, note.reason, note.message)
            except Exception as error:  # noqa: BLE001 - the next look may go well
                on_bug(error)
            await asyncio.sleep(LOOK_S)

    def look(self) -> Iterator[Note]:
        """Look at the files once, and yield what there is to tell."""
        if self._tokens is not None and (change := self._tokens.look()) is not None:
            yield _noted(change, "Token", "what the file holds now is taken, and nothing else")
        if self._tls is None:
            return
        if (change := self._tls.look()) is not None:
            self._age = ""
            until = written(self._tls.held.not_after)
            yield _noted(change, "Certificate", f"new connections get the new certificate, which holds until {until}")
        yield from self._dated(self._tls.held)

    def _dated(self, identity: Identity) -> Iterator[Note]:
        """Tell once that the certificate is about to expire, and once that it has."""
        left = identity.not_after - datetime.fromtimestamp(self._now(), UTC)
        age = "Expired" if left <= timedelta(0) else "ExpiresSoon" if left < EXPIRES_SOON else ""
        if age and age != self._age:
            what = "has expired, and clients refuse it" if age == "Expired" else "expires soon"
            yield Note("Warning", f"Certificate{age}", f"the certificate {what}: {written(identity.not_after)}")
        self._age = age


def files_of(planned: TlsPlan, *, grpc: bool) -> TlsFiles:
    """Return the files that a plan names; `grpc` tells whether gRPC is served with them too."""
    client_ca = None if planned.client_ca_file is None else Path(planned.client_ca_file)
    return TlsFiles(Path(planned.certificate_file), Path(planned.key_file), client_ca, planned.min_version, grpc)


def _noted(change: Change, subject: str, taken: str) -> Note:
    if change.refused is None:
        return Note("Normal", f"{subject}Rotated", taken)
    kept = f"the old one stays in use, as the new one cannot be used: {_said(change.refused)}"
    return Note("Warning", f"{subject}Kept", kept)


def _said(error: OrchError) -> str:
    return "; ".join(f"{problem} ({problem.hint})" if problem.hint else str(problem) for problem in error.problems)
