"""A client's side of TLS: which servers it trusts, and the certificate that it shows them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest import certificate as x509


@dataclass(frozen=True, slots=True)
class Trust:
    """Paths of PEM files; the system's authorities where neither of the first two is given."""

    ca: str | None = None
    """Authorities, one of which must have signed the server's certificate."""
    pinned: str | None = None
    """The server's own certificate: nothing else is taken, whatever the name that it is called by."""
    certificate: str | None = None
    """Shown to servers that ask for one; its key where that is in a file of its own."""
    key: str | None = None


def context(trust: Trust) -> ssl.SSLContext:
    """Return the context for connections; raise OrchError INVALID for a file that cannot be used."""
    made = ssl.create_default_context(cafile=_readable(trust.ca)) if trust.pinned is None else _pinning(trust.pinned)
    made.set_alpn_protocols(["http/1.1"])
    if trust.certificate is not None:
        _readable(trust.certificate)
        _readable(trust.key)
        try:
            made.load_cert_chain(trust.certificate, trust.key, password=lambda: "")
        except ssl.SSLError as error:
            what = f"the client's certificate cannot be used: {_reason(error) or 'it or its key is no PEM text'}"
            hint = "give the certificate and its own key, in PEM form and without a pass phrase"
            raise OrchError(Kind.INVALID, what, where=trust.certificate, hint=hint) from None
    return made


def _pinning(path: str) -> ssl.SSLContext:
    """Return a context that takes the one certificate: whoever answers has its key, so its names do not matter."""
    try:
        chain = x509.read(Path(path).read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise OrchError(Kind.INVALID, str(error), where=path) from None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(cadata=chain[0].der)
    return made


def _readable(path: str | None) -> str | None:
    if path is not None:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from None
        if b"-----BEGIN " not in data:
            raise OrchError(Kind.INVALID, "is no PEM file (-----BEGIN ...-----)", where=path)
    return path


def _unreadable(path: str, error: OSError) -> OrchError:
    return OrchError(Kind.INVALID, f"cannot be read: {error.strerror}", where=path)


def refusal(error: ssl.SSLError) -> tuple[str, str]:
    """Return what is wrong with a handshake that failed, and the hint."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "name the authority that signed it (--ca FILE, ca_file=...), or renew the certificate if it has expired"
        return f"the server's certificate is not trusted: {error.verify_message}", hint
    if error.reason in _NOT_TLS:
        return "does not speak TLS", "write http:// instead of https://"
    reason = _reason(error) or "it broke off"
    hint = "servers that know their clients by certificates want one: --cert FILE --key FILE, client_certificate=..."
    return f"the TLS connection failed: {reason}", hint


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "").replace("_", " ").lower()


_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})
