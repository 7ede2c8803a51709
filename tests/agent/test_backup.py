"""A backup brings the state back whole, elsewhere too; what is not whole, or not of orch, changes nothing."""

from __future__ import annotations

import gzip
import io
import json
import signal
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest_agent import Agent, eventually, manifest, pid_that_serves
from test_decisions import NOW, a_plan

from orchestrator.agent import backup, restore
from orchestrator.agent.backup import Made, Reference
from orchestrator.agent.paths import Layout, create
from orchestrator.agent.store import Origin, Store
from orchestrator.errors import Kind, OrchError

MADE = Made("0.1.0", "2026-03-01T09:00:00Z", "berlin-03")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a state folder with one deployment, a decision and a profile."""
    made = create(tmp_path / "old")
    fill(made)
    (made.root / "decisions").mkdir()
    (made.root / "decisions" / "shop.lock.yaml").write_text("a: 1\n")
    (made.root / "profiles").mkdir()
    (made.root / "profiles" / "abc-1.json").write_text("{}")
    (made.root / "profiles" / "link.json").symlink_to("/etc/passwd")
    return made


def fill(layout: Layout, name: str = "shop") -> None:
    store = Store(layout.database)
    store.open()
    store.applied(store.propose(name, Origin("text", "/d/shop.yaml", "/d", {}), a_plan(), NOW))
    store.close()


def names(layout: Layout) -> list[str]:
    store = Store(layout.database)
    store.open()
    found = [record.name for record in store.deployments()]
    store.close()
    return found


def bring_back(layout: Layout, source: Path, *, force: bool = False) -> restore.Restored:
    return restore.restore(layout, source, "now", NOW, force=force)


def test_what_was_backed_up_is_brought_back(tmp_path: Path, layout: Layout) -> None:
    archive = tmp_path / "orch.tar.gz"
    index = backup.write(layout, archive, MADE)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in index.files] == ["state.db", "decisions/shop.lock.yaml", "profiles/abc-1.json"]
    elsewhere = create(tmp_path / "new")
    restored = bring_back(elsewhere, archive)
    assert (restored.index, restored.aside) == (index, None)
    assert names(elsewhere) == ["shop"]
    assert (elsewhere.root / "decisions" / "shop.lock.yaml").read_text() == "a: 1\n"
    assert sorted(path.name for path in elsewhere.root.iterdir() if path.suffix != ".sock") == [
        "decisions",
        "profiles",
        "state.db",
        "workers",
    ]


def test_files_that_are_left_out_are_named(tmp_path: Path, layout: Layout) -> None:
    plan = a_plan().model_dump(mode="json")
    plan["endpoint"] |= {"token_file": "/etc/orch/token", "tls": {"key_file": "/etc/orch/key.pem"}}
    plan["models"][0] |= {"source": "/models/m.xml", "weights_sha256": "abc"}
    plan["models"].append(plan["models"][0] | {"source": f"{layout.sources}/site/models/a/n.onnx"})
    with closing(sqlite3.connect(layout.database)) as connection, connection:
        connection.execute("UPDATE deployments SET desired = ?, applied = NULL", (json.dumps(plan),))
        connection.execute(
            "INSERT INTO sources (name, manifest, origin, base, labels, spec, generation, created)"
            """ VALUES ('site', '', '', '', '{}', '{"token_file": "/etc/orch/git"}', 1, 0)"""
        )
    index = backup.write(layout, tmp_path / "b.tar.gz", MADE)
    assert set(index.references) == {
        Reference("shop", "source", "/models/m.xml"),
        Reference("shop", "source", "/models/m.bin"),  # of n.onnx none: its source fetches it again
        Reference("shop", "token_file", "/etc/orch/token"),
        Reference("shop", "key_file", "/etc/orch/key.pem"),
        Reference("source/site", "token_file", "/etc/orch/git"),
    }
    assert backup.missing([Reference("shop", "source", str(tmp_path)), *index.references[:1]]) == index.references[:1]


def test_a_state_that_is_there_is_replaced_only_by_force_and_put_aside(tmp_path: Path, layout: Layout) -> None:
    archive = tmp_path / "orch.tar.gz"
    backup.write(layout, archive, MADE)
    other = create(tmp_path / "other")
    fill(other, "precious")
    with pytest.raises(OrchError, match="there is a state already") as caught:
        bring_back(other, archive)
    assert (caught.value.kind, names(other)) == (Kind.CONFLICT, ["precious"])
    restored = bring_back(other, archive, force=True)
    assert names(other) == ["shop"]
    assert restored.aside == other.root / "before-restore-now"
    assert names(Layout(restored.aside)) == ["precious"]


def repacked(source: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> None:
    """Unpack an archive, change its members, and pack it again."""
    with tarfile.open(source) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(source, "w:gz") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def a_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def edited(name: str, change: Callable[[bytes], bytes]) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]:
    def edit(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[:] = [(member, change(data) if member.name == name else data) for member, data in members]

    return edit


def of_index(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | changes).encode()


EVIL = {
    "a path outside": (lambda members: members.append(a_member("../evil")), "nothing that a backup"),
    "an absolute path": (lambda members: members.append(a_member("/etc/evil")), "nothing that a backup"),
    "a folder too deep": (lambda members: members.append(a_member("decisions/a/b")), "nothing that a backup"),
    "a symbolic link": (lambda members: members.append(a_member("profiles/x", tarfile.SYMTYPE, "/etc")), "a link"),
    "a hard link": (lambda members: members.append(a_member("profiles/x", tarfile.LNKTYPE, "state.db")), "a link"),
    "a device": (lambda members: members.append(a_member("profiles/x", tarfile.CHRTYPE)), "a link or no file"),
    "the same twice": (lambda members: members.append(a_member("state.db")), "there twice"),
    "one that is not listed": (lambda members: members.append(a_member("profiles/x")), "not as it was"),
    "one that is missing": (lambda members: members.pop(), "not as it was"),
    "no index": (lambda members: members.pop(0), "no orch-backup.json"),
    "another decision": (edited("decisions/shop.lock.yaml", lambda data: data + b"#"), "not as it was"),
    "an index that is no JSON": (edited("orch-backup.json", lambda data: data[:-9]), "no whole backup"),
    "an index of other fields": (edited("orch-backup.json", of_index(files=[{"n": 1}])), "files.0"),
    "an index of other types": (edited("orch-backup.json", of_index(host=7)), "its orch-backup.json is none: host"),
    "escape sequences": (edited("orch-backup.json", of_index(host="\x1b[2J")), "no terminal should be shown"),
    "an index that is a list": (edited("orch-backup.json", lambda data: b"[]"), "its orch-backup.json is none"),
    "a newer format": (edited("orch-backup.json", of_index(format=2)), "a newer orch made this backup"),
    "a newer state": (edited("orch-backup.json", of_index(state=99)), "it holds a state of version"),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_is_not_as_orch_made_it_changes_nothing(name: str, tmp_path: Path, layout: Layout) -> None:
    change, why = EVIL[name]
    archive = tmp_path / "orch.tar.gz"
    backup.write(layout, archive, MADE)
    repacked(archive, change)
    refused(tmp_path, archive, why)


def refused(tmp_path: Path, archive: Path, why: str) -> None:
    target = create(tmp_path / "new")
    before = sorted(path.name for path in target.root.rglob("*"))
    with pytest.raises(OrchError, match=why):
        bring_back(target, archive)
    assert sorted(path.name for path in target.root.rglob("*")) == before
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 0.999])
def test_an_archive_that_is_cut_off_changes_nothing(share: float, tmp_path: Path, layout: Layout) -> None:
    archive = tmp_path / "orch.tar.gz"
    backup.write(layout, archive, MADE)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    refused(tmp_path, archive, "no whole backup|is no backup|not as it was")


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "zipped").write_bytes(gzip.compress(b"hello"))
    for name, why in (("text", "no whole backup"), ("zipped", "no whole backup"), ("none", "there is no such file")):
        refused(tmp_path, tmp_path / name, why)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "orch.tar.gz"
    backup.write(layout, archive, MADE)
    monkeypatch.setattr(restore, "BYTES_MAX", 10_000)
    refused(tmp_path, archive, "unpacks to more than")


def test_a_header_that_would_fill_the_memory_is_refused(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "orch.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as made:
        member = tarfile.TarInfo("state.db")
        member.pax_headers = {"comment": "x" * 5000}
        made.addfile(member)
    monkeypatch.setattr(restore, "READ_BYTES_MAX", 4096)
    refused(tmp_path, archive, "no whole backup")


def test_a_state_with_something_of_others_in_it_is_refused(tmp_path: Path, layout: Layout) -> None:
    with closing(sqlite3.connect(layout.database)) as connection, connection:
        connection.execute("CREATE TRIGGER evil AFTER INSERT ON events BEGIN DELETE FROM deployments; END")
    backup.write(layout, tmp_path / "orch.tar.gz", MADE)
    refused(tmp_path, tmp_path / "orch.tar.gz", "none that orch made")


def test_a_plan_of_a_newer_orch_is_refused(tmp_path: Path, layout: Layout) -> None:
    with closing(sqlite3.connect(layout.database)) as connection, connection:
        connection.execute("UPDATE deployments SET desired = json_set(desired, '$.models[0].warp', 9)")
    backup.write(layout, tmp_path / "orch.tar.gz", MADE)
    refused(tmp_path, tmp_path / "orch.tar.gz", r"probably a newer one: models.0.warp: Extra inputs")
    with pytest.raises(OrchError, match=r"models\.0\.warp") as caught:
        names(layout)
    assert caught.value.kind is Kind.CONFLICT


def test_without_a_state_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(OrchError, match="no state to back up"):
        backup.write(create(tmp_path / "empty"), tmp_path / "b.tar.gz", MADE)


def test_a_folder_that_is_not_there_is_said_so_and_leaves_nothing(tmp_path: Path, layout: Layout) -> None:
    with pytest.raises(OrchError, match="cannot be written: No such file"):
        backup.write(layout, tmp_path / "none" / "b.tar.gz", MADE)
    assert not list(layout.root.glob("backup-*"))


def test_a_backup_of_a_running_agent_serves_again_elsewhere_by_a_plan_for_that_machine(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    archive = tmp_path / "orch.tar.gz"
    try:
        agent.start()
        agent.apply(manifest())
        backup.write(agent.layout, archive, MADE)
        with pytest.raises(OrchError, match="deployments serve here: shop"):
            bring_back(agent.layout, archive, force=True)
        agent.call("stop", {"workers": True})
        assert agent.child is not None
        assert agent.child.wait(20) == 0
        agent.layout = create(tmp_path / "elsewhere")
        bring_back(agent.layout, archive)
        agent.start(STAND_IN_MACHINE="another machine")
        item = eventually(lambda: _healthy(agent), "it serves")
        assert pid_that_serves(item["endpoint"]["http"]) in agent.workers()
        described = agent.call("describe", {"name": "shop"})
        assert described["plan"]["fingerprint"] == "another machine"
        assert [event["reason"] for event in described["events"]].count("Restored") == 1
        assert agent.end(signal.SIGTERM) == 0
    finally:
        agent.clean_up()


def _healthy(agent: Agent) -> dict[str, object] | None:
    item = agent.item()
    return item if item["health"] == "Healthy" else None
