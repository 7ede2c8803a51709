"""Fixtures of the repository tests: an upstream, and a server in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gitops.upstream import Server, Upstream, served


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    """An empty repository in the folder that `server` serves."""
    return Upstream.at(tmp_path / "srv" / "site.git")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Git server on loopback over `srv`."""
    with served(tmp_path / "srv") as running:
        yield running
