"""Reads the certificate, key and client authorities of an endpoint; what cannot be used is said of the file at fault.

`orch validate` and a worker read them alike, so what the one accepts the other can serve with.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from orchestrator.manifest import certificate as x509

BYTES_MAX = 2**20  # of one file; a bundle of all public authorities has a quarter of that
Version = Literal["TLSv1.2", "TLSv1.3"]
_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of an endpoint, absolute."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    min_version: Version = "TLSv1.2"
    grpc: bool = False
    """Whether gRPC is served with them too, whose library speaks less."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the files that there are."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


@dataclass(frozen=True, slots=True)
class Identity:
    """What an endpoint shows to its clients, and whom of them it takes; equal where the files' bytes are."""

    context: ssl.SSLContext = field(repr=False, compare=False)
    """For servers; never changed afterwards."""
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(repr=False)
    chain: tuple[x509.Certificate, ...]

    @property
    def not_before(self) -> datetime:
        """Return from when on the whole chain holds."""
        return max(each.not_before for each in self.chain)

    @property
    def not_after(self) -> datetime:
        """Return until when the whole chain holds."""
        return min(each.not_after for each in self.chain)


class UnusableError(Exception):
    """A file that cannot be used: the manifest's key that names it, what is wrong, and what to do."""

    def __init__(self, key: str, what: str, hint: str | None = None) -> None:
        self.key = key
        self.what = what
        self.hint = hint
        super().__init__(what)


def load(files: TlsFiles) -> Identity:
    """Return what the files hold; raise UnusableError for the first that cannot be used."""
    certificate = _read("certificate_file", files.certificate)
    chain = _chain("certificate_file", files.certificate, certificate)
    if files.grpc and chain[0].edwards is not None:
        what = f"{files.certificate} has an {chain[0].edwards} key, which gRPC does not speak"
        raise UnusableError("certificate_file", what, "take an ECDSA key (P-256) or an RSA one, or state grpc: null")
    _guard(files.key)
    key = _read("key_file", files.key)
    client_ca = None if files.client_ca is None else _read("client_ca_file", files.client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[files.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files, key)
    if files.client_ca is not None:
        assert client_ca is not None
        _chain("client_ca_file", files.client_ca, client_ca)
        _require_clients(context, files.client_ca)
    return Identity(context, certificate, key, client_ca, chain)


def faults(identity: Identity, files: TlsFiles, now: datetime) -> Iterator[UnusableError]:
    """Yield what is wrong with the dates of a certificate that can be read: clients would refuse it."""
    if identity.not_after <= now:
        what = f"{files.certificate} has expired on {written(identity.not_after)}"
        yield UnusableError("certificate_file", what, "renew it; a worker that runs takes the new one up by itself")
    elif identity.not_before > now:
        what = f"{files.certificate} holds from {written(identity.not_before)} on only"
        yield UnusableError("certificate_file", what, f"is this machine's clock right? It says {written(now)}")


def written(time: datetime) -> str:
    """Return a date as people read it."""
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _read(key: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise UnusableError(key, f"{path} cannot be read: {error.strerror}") from None
    if len(data) > BYTES_MAX:
        raise UnusableError(key, f"{path} is larger than {BYTES_MAX} bytes", "name a PEM file")
    return data


def _chain(key: str, path: Path, data: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return x509.read(data)
    except ValueError as error:
        raise UnusableError(key, f"{path} {error}", "name a PEM file with the certificate first") from None


def _guard(path: Path) -> None:
    """Refuse a key that every user of the machine may read, as OpenSSH and PostgreSQL do."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UnusableError("key_file", f"{path} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        what = f"{path} is open to every user of this machine (mode {stat.S_IMODE(mode):04o})"
        raise UnusableError("key_file", what, f"take that away: chmod o= {path}")


def _load_pair(context: ssl.SSLContext, files: TlsFiles, key: bytes) -> None:
    if b"ENCRYPTED" in key:
        hint = "write it without: openssl pkey -in KEY -out NEW, and keep it to the user that runs orch"
        raise UnusableError("key_file", f"{files.key} has a pass phrase, which nobody is there to type", hint)
    try:
        # Without a pass phrase of our own OpenSSL would ask on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{files.key} is not the key of the certificate in {files.certificate}"
            raise UnusableError("key_file", what, "name the key that the certificate was made for") from None
        if b"PRIVATE KEY-----" not in key:
            raise UnusableError("key_file", f"{files.key} holds no private key in PEM form") from None
        what = f"{files.key} and {files.certificate} cannot be used: {_reason(error)}"
        raise UnusableError("key_file", what, "are both whole, in PEM form?") from None
    except OSError as error:  # the files were there a moment ago
        raise UnusableError("key_file", f"{files.key} cannot be read: {error.strerror}") from None


def _require_clients(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:  # SSLError is one
        raise UnusableError("client_ca_file", f"{path} cannot be used: {_reason(error)}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    # Resumed, a session would outlive the authority that let its client in.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not readable as PEM").replace("_", " ").lower()
    return error.strerror or type(error).__name__
