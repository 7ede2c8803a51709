"""Certificates made for a test, by authorities of its own."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme

from orchestrator.manifest.tls_files import TlsFiles
from orchestrator.planner.plan import TlsPlan

NAMES = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Papers:
    """The files of one endpoint: its certificate, key, and the authority that signed it."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def files(self, client_ca: Path | None = None) -> TlsFiles:
        return TlsFiles(self.certificate, self.key, client_ca)

    def plan(self, client_ca: Path | None = None) -> TlsPlan:
        return TlsPlan(
            certificate_file=str(self.certificate),
            key_file=str(self.key),
            client_ca_file=None if client_ca is None else str(client_ca),
        )

    def client(self, shown: Papers | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts the authority, and shows a certificate if asked."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if shown is not None:
            context.load_cert_chain(shown.certificate, shown.key)
        return context

    def take(self, other: Papers) -> None:
        """Put the other's certificate and key in place, as a tool that renews them does: one after the other."""
        for name in ("tls.crt", "tls.key"):
            shutil.copy(other.folder / name, self.folder / f"{name}.new")
            (self.folder / f"{name}.new").replace(self.folder / name)


def issue(
    folder: Path,
    ca: trustme.CA | None = None,
    *,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Papers:
    """Write a certificate for this machine into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ca = ca or trustme.CA()
    issued = ca.issue_cert(*NAMES, not_before=not_before, not_after=not_after)
    papers = Papers(folder)
    papers.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    papers.key.touch(mode=0o600)
    papers.key.write_bytes(issued.private_key_pem.bytes())
    papers.ca.write_bytes(ca.cert_pem.bytes())
    return papers
