"""TLS of an endpoint: the context that new connections are wrapped by, and what gRPC's core is given."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable
from typing import Any

from orchestrator.errors import Kind, OrchError
from orchestrator.manifest.tls_files import Identity, TlsFiles, UnusableError, load

HANDSHAKE_S = 10.0
"""For a client to finish its handshake, as for the head of a request."""
SHUTDOWN_S = 600.0
"""At most, for the last answer to be taken; the sweep cuts those that take nothing."""


def read(files: TlsFiles) -> Identity:
    """Return what the files hold; raise OrchError INVALID with the file at fault."""
    try:
        return load(files)
    except UnusableError as error:
        raise OrchError(Kind.INVALID, error.what, where=f"spec.endpoint.tls.{error.key}", hint=error.hint) from None


class Door(ssl.SSLContext):
    """The context that a server keeps: wraps each connection by whichever is current, and only so many at a time.

    A context of its own for each certificate, rather than a live one that is changed: connections are never between
    two, authorities that were removed are gone, and sessions of before are not resumed.
    """

    current: Callable[[], ssl.SSLContext]
    most: int
    wrapped: weakref.WeakSet[ssl.SSLObject]

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Wrap a new connection; raise ConnectionRefusedError beyond the limit, handshakes counted too."""
        if len(self.wrapped) >= self.most:
            raise ConnectionRefusedError("too many connections")
        wrapped = self.current().wrap_bio(*arguments, **named)
        self.wrapped.add(wrapped)
        return wrapped


def door(current: Callable[[], ssl.SSLContext], most: int) -> Door:
    """Return the context for a server of at most `most` connections."""
    made = Door(ssl.PROTOCOL_TLS_SERVER)
    made.current, made.most, made.wrapped = current, most, weakref.WeakSet()
    return made
