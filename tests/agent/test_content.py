"""Files of commits at paths that only their content decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.content import address, keep, sweep
from orchestrator.errors import OrchError
from orchestrator.manifest.load import Document, load_text

MANIFEST = """
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  endpoint: {token_file: token}
  models: [{name: m, source: ../models/m.xml}, {name: outside, source: /opt/models/big.onnx}]
"""


def checkout(folder: Path, weights: bytes = b"weights") -> Document:
    """Return the document of a commit that lies in this folder."""
    for name, content in {"models/m.xml": b"<net/>", "models/m.bin": weights, "site/token": b"t"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return load_text(MANIFEST, name="shop.yaml", base=folder / "site")[0]


def sources(folder: Path, kept: Path, weights: bytes = b"weights") -> list[str]:
    document = checkout(folder, weights)
    addressed = address(document, folder, kept, [[folder / "models/m.bin"], []])
    spec = addressed.deployment.spec
    return [*(model.source for model in spec.models), str(spec.endpoint.token_file)]


def test_the_same_content_is_at_the_same_path_in_every_commit(tmp_path: Path) -> None:
    first, second = (sources(tmp_path / commit, tmp_path / "kept") for commit in ("c1", "c2"))
    assert first == second
    assert first[1] == "/opt/models/big.onnx", "what lies outside stays where it is"
    assert Path(first[0]).with_suffix(".bin").read_bytes() == b"weights"
    assert Path(first[2]).read_bytes() == b"t"


def test_other_weights_make_it_another_model(tmp_path: Path) -> None:
    first, second = sources(tmp_path / "c1", tmp_path / "kept"), sources(tmp_path / "c2", tmp_path / "kept", b"new")
    assert first[0] != second[0]
    assert [Path(each).with_suffix(".bin").read_bytes() for each in (first[0], second[0])] == [b"weights", b"new"]


def test_what_is_kept_outlives_its_checkout(tmp_path: Path) -> None:
    (kept, *_) = sources(tmp_path / "c1", tmp_path / "kept")
    for path in (tmp_path / "c1/models").iterdir():
        path.unlink()
    assert Path(kept).read_bytes() == b"<net/>"


def test_what_no_plan_names_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    kept = [keep([tmp_path / name], tmp_path / "kept") for name in "ab"]
    sweep(tmp_path / "kept", [f'{{"source": "{kept[0]}"}}'])
    assert [path.exists() for path in kept] == [True, False]
    sweep(tmp_path / "nothing", [])


def test_a_half_filled_place_of_an_agent_that_was_killed_is_filled_anew(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    home = keep([tmp_path / "a"], tmp_path / "kept").parent
    home.rename(home.with_name(home.name + ".new"))
    assert keep([tmp_path / "a"], tmp_path / "kept").read_bytes() == b"a"


def test_what_somebody_took_out_of_a_place_is_put_back(tmp_path: Path) -> None:
    for name in ("m.xml", "m.bin"):
        (tmp_path / name).write_text(name)
    files = [tmp_path / "m.xml", tmp_path / "m.bin"]
    model = keep(files, tmp_path / "kept")
    model.with_suffix(".bin").unlink()
    assert keep(files, tmp_path / "kept") == model
    assert model.with_suffix(".bin").read_text() == "m.bin"


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "kept").write_bytes(b"a file where a folder should be")
    with pytest.raises(OrchError, match="cannot be kept"):
        keep([tmp_path / "a"], tmp_path / "kept")
