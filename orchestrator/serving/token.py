"""The bearer tokens of an endpoint: read from a file, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import Kind, OrchError

TOKENS_MAX = 16  # each is compared with at every request
BYTES_MAX = 64 * 1024


def load(path: Path) -> tuple[str, ...]:
    """Return the tokens in a file, one a line, any of which is taken; raise OrchError where there is none.

    The second line is for the time of a change: clients move from the old token to the new one while both are taken.
    """
    try:
        with path.open("rb") as file:
            text = file.read(BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise OrchError(Kind.INVALID, f"cannot read the token: {reason}", where=str(path)) from None
    tokens = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not tokens:
        raise OrchError(Kind.INVALID, "holds no token", where=str(path), hint="write one line of random text")
    if len(tokens) > TOKENS_MAX:
        what = f"holds {len(tokens)} tokens, at most {TOKENS_MAX}"
        raise OrchError(Kind.INVALID, what, where=str(path), hint="write one a line, mostly one, two during a change")
    return tokens


def carries(authorization: bytes, tokens: Sequence[str]) -> bool:
    """Tell whether the header `Bearer TOKEN` names one of the tokens, in a time that tells nothing of which or how."""
    scheme, _, given = authorization.partition(b" ")
    found = False
    for token in tokens:
        found |= hmac.compare_digest(given.strip(), token.encode())
    return found and scheme.lower() == b"bearer"
