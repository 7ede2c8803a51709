"""backup, restore and agent downgrade from outside."""

from __future__ import annotations

from pathlib import Path

from stand_in import orch

from orchestrator.agent import state_file
from orchestrator.agent.paths import Layout, create
from orchestrator.agent.store import MIGRATIONS, Origin, Store
from orchestrator.planner.plan import DeploymentPlan, EndpointPlan


def a_home(path: Path) -> Layout:
    """Make a state folder as an agent that has ended leaves it, with one deployment."""
    layout = create(path)
    store = Store(layout.database)
    store.open()
    endpoint = EndpointPlan(http=None, grpc=None, token_file="/etc/orch/token")
    plan = DeploymentPlan(name="shop", endpoint=endpoint, cpus=1, cores=None, models=(), fingerprint="f")
    store.applied(store.propose("shop", Origin("text", "/d/shop.yaml", "/d", {}), plan, 1.0))
    store.close()
    return layout


def test_a_state_is_backed_up_and_brought_back_elsewhere(tmp_path: Path) -> None:
    layout, archive = a_home(tmp_path / "old"), str(tmp_path / "orch.tar.gz")
    ran = orch(layout.root, "backup", archive)
    assert ran.returncode == 0
    assert ran.stdout.startswith(f"wrote {archive}: 1 deployment, 1 file, state version {len(MIGRATIONS)}, made 20")
    assert ran.stderr == "left out, to be kept by other means:\n  /etc/orch/token (shop: token_file)\n"
    ran = orch(tmp_path / "new", "restore", archive)
    assert (ran.returncode, ran.stderr.splitlines()) == (
        0,
        [
            "not on this machine, and needed:",
            "  /etc/orch/token (shop: token_file)",
            "start the deployments with: orch agent start",
        ],
    )
    assert state_file.checked(tmp_path / "new" / "state.db") == len(MIGRATIONS)
    ran = orch(tmp_path / "new", "restore", archive, "--force")
    assert (ran.returncode, "the state before lies in" in ran.stdout) == (0, True)


def test_a_state_is_written_for_an_older_orch(tmp_path: Path) -> None:
    layout = a_home(tmp_path / "home")
    ran = orch(layout.root, "agent", "downgrade", "--to", "1")
    kept = layout.root / f"state.db.version-{len(MIGRATIONS)}"
    assert (ran.returncode, ran.stdout) == (0, f"the state is version 1 now; as it was, it lies in {kept}\n")
    assert (state_file.checked(layout.database), state_file.checked(kept)) == (1, len(MIGRATIONS))
