"""Fixtures of the repository tests: an upstream, and a server in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gitops.upstream import Server, Upstream, served


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is reached directly, also on a machine that reaches the world through a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    """An empty repository in the folder that `server` serves."""
    return Upstream.at(tmp_path / "srv" / "site.git")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Git server on loopback over `srv`."""
    with served(tmp_path / "srv") as running:
        yield running
