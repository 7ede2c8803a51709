"""Listens for Git servers that tell of a push: one server for each address that sources state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.agent.source_round import Site
from orchestrator.agent.source_state import SourceRecord
from orchestrator.errors import OrchError

SECRET_BYTES_MAX = 4096


class Hooks:
    """The servers that are told of pushes."""

    def __init__(self, site: Site, pushed: Callable[[str], None]) -> None:
        self._site, self._pushed = site, pushed
        self._servers: dict[str, asyncio.Server] = {}
        self._failures: dict[str, str] = {}

    async def listen(self, records: Sequence[SourceRecord]) -> None:
        """Listen on the addresses that the sources state, and on no others; what cannot be is told as an event."""
        wanted = {record.plan.webhook: record.name for record in records if record.plan.webhook is not None}
        for address in [address for address in self._servers if address not in wanted]:
            self._servers.pop(address).close()
        self._failures = {address: why for address, why in self._failures.items() if address in wanted}
        for address in sorted(wanted.keys() - self._servers.keys()):
            await self._serve(address, wanted[address])

    async def _serve(self, address: str, name: str) -> None:
        from orchestrator.gitops.webhook import serve  # an agent without webhooks does without

        try:
            self._servers[address] = await serve(address, lambda each: self._secret(each, address), self._pushed)
            self._failures.pop(address, None)
        except (OrchError, OSError) as error:
            self._failures[address] = str(error)
            what = f"nobody can tell of a push, so it is polled: {error}; it is tried again"
            self._site.note(name, "Warning", "WebhookFailed", what)

    def failure(self, address: str | None) -> str | None:
        """Return why nothing listens on an address that a source states, None where something does."""
        return None if address is None else self._failures.get(address)

    def _secret(self, name: str, address: str) -> bytes | None:
        """Return the secret of a source that is told of pushes there; read each time, so that it may be changed."""
        record = self._site.sources.one(name)
        if record is None or record.plan.webhook != address or record.plan.webhook_secret_file is None:
            return None
        try:
            with Path(record.plan.webhook_secret_file).open("rb") as file:
                secret = file.read(SECRET_BYTES_MAX).strip()
        except OSError as error:
            what = f"the webhook's secret cannot be read: {error.strerror}"
            self._site.note(name, "Warning", "WebhookFailed", what)
            return None
        if not secret:
            self._site.note(name, "Warning", "WebhookFailed", "the webhook's secret is empty, so no push is believed")
        return secret or None

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()
