"""What a call to a server may raise, each with what went wrong, where, and what to do."""

# ruff: noqa: N818 - the names are what is read after `except client.`; Error at the end of each would say nothing

from __future__ import annotations

from typing import ClassVar

from orchestrator.errors import Kind, OrchError


class ClientError(OrchError):
    """A call that was not answered with outputs. Its text ends in what to do about it."""

    KIND: ClassVar[Kind] = Kind.FAILED

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
        kind: Kind | None = None,
    ) -> None:
        super().__init__(kind or self.KIND, what, where=where, hint=hint, retry_after_s=retry_after_s)

    def __str__(self) -> str:
        return "; ".join(f"{problem} ({problem.hint})" if problem.hint else str(problem) for problem in self.problems)


class Overloaded(ClientError):
    """The server is full, or this client holds back because it was; `retry_after_s` is when to try again, if known."""

    KIND = Kind.OVERLOADED


class DeadlineExceeded(ClientError):
    """No answer within the call's `timeout_s`, or none that the server could still give."""

    KIND = Kind.DEADLINE


class NotFound(ClientError):
    """The server has no such model."""

    KIND = Kind.NOT_FOUND


class Invalid(ClientError):
    """The inputs do not fit the model, or are no tensors."""

    KIND = Kind.INVALID


class Unreachable(ClientError):
    """Nothing answers there, or the connection broke before the answer."""

    KIND = Kind.UNAVAILABLE


class Failed(ClientError):
    """The server could not do it: the inference failed, the token is wrong, the body too large; see `kind`."""
