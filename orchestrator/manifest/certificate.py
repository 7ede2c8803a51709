"""The dates of X.509 certificates, and the kind of their keys, read out of their PEM text.

Python's ssl tells them only of certificates that a handshake has verified, so never of one that has expired. The dates
are two fields near the beginning of the certificate (RFC 5280 section 4.1): a library for all of X.509 is not needed.
The kind of key stands right behind them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

_BLOCK = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END ", re.DOTALL)
_SEQUENCE, _OBJECT, _VERSION, _UTC_TIME, _GENERAL_TIME = 0x30, 0x06, 0xA0, 0x17, 0x18
_BEFORE_VALIDITY = 3  # serial number, signature algorithm, issuer
_LENGTH_BYTES_MAX = 4
_EDWARDS = {bytes.fromhex("2b6570"): "Ed25519", bytes.fromhex("2b6571"): "Ed448"}  # RFC 8410 section 3
_CENTURY = 50  # RFC 5280 section 4.1.2.5.1: two digits from here on are of the last one


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate: its bytes, and from when until when it holds."""

    der: bytes = field(repr=False)
    not_before: datetime
    not_after: datetime
    edwards: str | None = None
    """Name of the key's algorithm where that is one of the Edwards curves, which not every library speaks."""

    @property
    def sha256(self) -> str:
        """Return the fingerprint as hex, by which clients and people tell certificates apart."""
        return hashlib.sha256(self.der).hexdigest()


def read(pem: bytes) -> tuple[Certificate, ...]:
    """Return the certificates of a PEM text in its order; raise ValueError where one is none, or there is none."""
    found = tuple(_certificate(base64.b64decode(block)) for block in _BLOCK.findall(pem))
    if not found:
        raise ValueError("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    return found


def _certificate(der: bytes) -> Certificate:
    try:
        at, _ = _inside(der, 0, _SEQUENCE)
        at, end = _inside(der, at, _SEQUENCE)
        if der[at] == _VERSION:
            at = _after(der, at)
        for _ in range(_BEFORE_VALIDITY):
            at = _after(der, at)
        validity, subject = _inside(der, at, _SEQUENCE)
        not_before, not_after = _time(der, validity), _time(der, _after(der, validity))
        algorithm = _algorithm(der, _after(der, subject))
    except (IndexError, binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("holds a certificate that is cut or damaged") from error
    if end > len(der):
        raise ValueError("holds a certificate that is cut or damaged")
    return Certificate(der, not_before, not_after, _EDWARDS.get(algorithm))


def _algorithm(der: bytes, at: int) -> bytes:
    """Return the object identifier at the beginning of a public key."""
    for _ in range(2):
        at, _ = _inside(der, at, _SEQUENCE)
    begin, end = _inside(der, at, _OBJECT)
    return der[begin:end]


def _element(der: bytes, at: int) -> tuple[int, int]:
    """Return where the contents of a DER element begin and end (X.690 section 8.1)."""
    length, at = der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= _LENGTH_BYTES_MAX:
            raise ValueError("holds a certificate that is cut or damaged")
        length, at = int.from_bytes(der[at : at + count]), at + count
    return at, at + length


def _inside(der: bytes, at: int, tag: int) -> tuple[int, int]:
    if der[at] != tag:
        raise ValueError("holds a certificate that is cut or damaged")
    return _element(der, at)


def _after(der: bytes, at: int) -> int:
    return _element(der, at)[1]


def _time(der: bytes, at: int) -> datetime:
    tag, (begin, end) = der[at], _element(der, at)
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _CENTURY else "20") + text
    elif tag != _GENERAL_TIME:
        raise ValueError("holds a certificate without dates")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
