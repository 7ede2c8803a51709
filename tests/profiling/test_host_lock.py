"""One planner measures at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import Kind, OrchError
from orchestrator.profiling.host_lock import host_lock


def never() -> bool:
    return False


def test_a_second_planner_waits_says_so_and_gives_up_in_time(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "lock"
    with host_lock(path, told.append, never):
        with pytest.raises(OrchError) as raised, host_lock(path, told.append, never, wait_s=0.2):
            pass
        assert raised.value.kind is Kind.CONFLICT
    assert [line.partition(" (")[0] for line in told] == ["another planner is measuring"]


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        host_lock(path, print, never),
        pytest.raises(OrchError) as raised,
        host_lock(path, lambda _: None, lambda: True, wait_s=60.0),
    ):
        pass
    assert raised.value.kind is Kind.CANCELLED


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), host_lock(path, print, never):
        raise ZeroDivisionError
    with host_lock(path, print, never, wait_s=0.0):
        pass


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OrchError), host_lock(tmp_path / "lock", print, never):
        pass
    assert not (tmp_path / "elsewhere").exists()
