"""The agent's page of metrics: made of what it knows when asked, and told over loopback HTTP where that is wanted."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from orchestrator.agent.source_state import SourceRecord
from orchestrator.agent.source_store import SourceStore
from orchestrator.agent.status import Json
from orchestrator.errors import Kind, OrchError

if TYPE_CHECKING:  # an idle agent that nobody scrapes needs no Prometheus
    from orchestrator.agent.api import Api
    from orchestrator.telemetry.agent_page import AgentReport, DeploymentReport, SourceReport

ADDRESS = "ORCH_AGENT_METRICS"
HEAD_BYTES = 8192
TIMEOUT_S = 5.0  # for a head to come, and for the page to be made and taken
CALLERS_MAX = 8

Page = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Takes the Accept header; returns the page and its content type."""


async def page(api: Api, accept: str = "") -> tuple[bytes, str]:
    """Return the page and its content type; raise OrchError where the state cannot be read."""
    from orchestrator.telemetry.agent_page import agent_registry  # see above
    from orchestrator.telemetry.prometheus import render

    return render(agent_registry(await report(api)), accept)


async def report(api: Api) -> AgentReport:
    """Return what the agent knows, having asked its workers."""
    from orchestrator.telemetry.agent_page import AgentReport  # see above

    items = await api.monitor.items(None)
    return AgentReport(
        version=api.version,
        started_epoch_s=api.started,
        deployments=tuple(_deployment(api, item) for item in items),
        sources=tuple(map(_source, SourceStore(api.store).all())),
    )


def _deployment(api: Api, item: Json) -> DeploymentReport:
    from orchestrator.telemetry.agent_page import DeploymentReport  # see above

    name = item["metadata"]["name"]
    last = api.store.last_revision(name)
    revision = item["revision"]
    return DeploymentReport(
        name=name,
        health=item["health"],
        sync=item["sync"],
        worker_state=api.supervisor.unit(name).state.name.lower(),
        restarts=item["worker"]["restarts"],
        source=revision.get("from") or "",
        commit=revision.get("commit") or "",
        applied_revision=revision["number"],
        attempted_revision=None if last is None else last.number,
        attempted_epoch_s=None if last is None else last.time,
        revision_failed=last is not None and last.result == "failed",
    )


def _source(record: SourceRecord) -> SourceReport:
    from orchestrator.telemetry.agent_page import SourceReport  # see above

    state = record.state
    attempted, applied = state.attempted, state.applied
    ready = attempted is not None and applied is not None and attempted.result == "applied"
    return SourceReport(
        name=record.name,
        interval_s=record.plan.interval_s,
        suspended=record.plan.suspend,
        ready=ready,
        held=len(state.held),
        silent_since_epoch_s=None if state.trouble is None else state.trouble.since,
        attempted_epoch_s=None if attempted is None else attempted.began,
        applied_epoch_s=None if applied is None else applied.began,
        attempted="" if attempted is None else attempted.commit,
        applied="" if applied is None else applied.commit,
    )


async def serve(address: str, told: Page) -> asyncio.Server:
    """Answer GET /metrics on a loopback address; raise OrchError for another, or for one that cannot be had."""
    host, port = split(address)
    callers = asyncio.Semaphore(CALLERS_MAX)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not callers.locked():
                async with callers, asyncio.timeout(TIMEOUT_S):
                    await _answer(reader, writer, told)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the caller went away, or said nothing that can be answered
        finally:
            writer.close()

    try:
        return await asyncio.start_server(connected, host, port, limit=HEAD_BYTES)
    except OSError as error:
        hint = f"choose another port by --metrics or {ADDRESS}"
        raise OrchError(Kind.CONFLICT, f"cannot listen: {error.strerror or error}", where=address, hint=hint) from None


def split(address: str) -> tuple[str, int]:
    """Return host and port; raise INVALID unless they are those of this machine alone: nobody shows who asks."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        if not loopback or not 0 <= int(port) < 2**16:
            raise ValueError
    except ValueError:
        hint = "such as 127.0.0.1:9464; for another machine's Prometheus: orch agent metrics --output FILE.prom"
        what = f"must be a loopback address with its port, got {address[:60]!r}"
        raise OrchError(Kind.INVALID, what, where=ADDRESS, hint=hint) from None
    return host, int(port)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Page) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, _, rest = first.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status, kind, body = "200 OK", "text/plain", b""
    if method not in ("GET", "HEAD"):
        status, body = "405 Method Not Allowed", b"use GET\n"
    elif path != "/metrics":
        status, body = "404 Not Found", b"the metrics are at /metrics\n"
    else:
        try:
            body, kind = await told(fields.get("accept", ""))
        except OrchError as error:
            status, body = "503 Service Unavailable", f"{error}\n".encode()
    top = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(top.encode("latin-1") + (b"" if method == "HEAD" else body))
    await writer.drain()
