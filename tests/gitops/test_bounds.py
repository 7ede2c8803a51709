"""What the documents of a repository may name: what lies inside it and under the model roots, links resolved."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrator.errors import Problem
from orchestrator.gitops import bounds
from orchestrator.manifest import load, spec
from orchestrator.manifest.load import Document

MANIFEST = """\
apiVersion: orch/v1
kind: Deployment
metadata: {name: shop}
spec:
  endpoint: {http: 127.0.0.1:0, grpc: null%s}
  models:
    - name: detector
      source: %s
%s"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository beside things of the machine, and a model root."""
    for folder in ("repository/sites/berlin", "repository/models", "roots/models", "private"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("repository/models/x.onnx", "roots/models/y.onnx", "private/key", "private/z.onnx"):
        (tmp_path / file).write_bytes(b"")
    return tmp_path


def documents(place: Path, source: str, *, endpoint: str = "", more: str = "") -> tuple[Document, ...]:
    path = place / "repository/sites/berlin/shop.yaml"
    path.write_text(MANIFEST % (endpoint, source, more))
    return load.load([str(path)]).documents


def problems(place: Path, source: str, *, endpoint: str = "", more: str = "") -> list[Problem]:
    found = documents(place, source, endpoint=endpoint, more=more)
    return bounds.problems(found, place / "repository", [place / "roots"])


@pytest.mark.parametrize(
    "source", ["../../models/x.onnx", "own.onnx", "{roots}/models/y.onnx", "../../models/absent.onnx"]
)
def test_a_model_inside_or_under_a_model_root_is_allowed(place: Path, source: str) -> None:
    assert problems(place, source.format(roots=place / "roots")) == []


@pytest.mark.parametrize(
    "source",
    ["/etc/passwd", "../../../private/z.onnx", "{place}/private/z.onnx", "../../../repository-2/x.onnx", "../../.."],
)
def test_a_model_outside_is_refused_at_its_place(place: Path, source: str) -> None:
    found = problems(place, source.format(place=place))
    assert len(found) == 1
    assert str(found[0].where).endswith("shop.yaml:8:15")
    assert found[0].what.startswith("spec.models[0].source: names ")
    assert found[0].what.endswith("outside of the repository")
    assert str(place / "roots") in str(found[0].hint)


def test_a_link_that_leads_out_is_followed_and_refused_also_in_a_folder_on_the_way(place: Path) -> None:
    (place / "repository/models/link.onnx").symlink_to(place / "private/z.onnx")
    (place / "repository/folder").symlink_to(place / "private")
    (place / "roots/out").symlink_to(place / "private")
    for source in ("../../models/link.onnx", "../../folder/z.onnx", f"{place}/roots/out/z.onnx"):
        (found,) = problems(place, source)
        assert f"which links lead to '{place}/private/z.onnx'" in found.what


def test_a_repository_that_is_itself_reached_by_a_link_is_inside(place: Path) -> None:
    (place / "by-link").symlink_to(place / "repository")
    found = documents(place, "../../models/x.onnx")
    assert bounds.problems(found, place / "by-link", []) == []


def test_a_hard_link_into_the_repository_is_inside(place: Path) -> None:
    """Git makes none; who may link on this machine may also read."""
    (place / "repository/models/hard.onnx").hardlink_to(place / "private/z.onnx")
    assert problems(place, "../../models/hard.onnx") == []


@pytest.mark.parametrize(
    "endpoint",
    [
        ", token_file: ../../../private/key",
        ", token_file: /etc/shadow",
        ", tls: {certificate_file: c.pem, key_file: ../../../private/key}",
        ", tls: {certificate_file: c.pem, key_file: k.pem, client_ca_file: /etc/ssl/x}",
    ],
)
def test_a_token_or_certificate_outside_is_refused(place: Path, endpoint: str) -> None:
    (found,) = problems(place, "own.onnx", endpoint=endpoint)
    assert found.what.startswith(("spec.endpoint.token_file: ", "spec.endpoint.tls."))


def test_a_token_under_a_model_root_is_allowed(place: Path) -> None:
    assert problems(place, "own.onnx", endpoint=f", token_file: {place}/roots/token") == []


def test_files_that_belong_to_a_model_are_bounded_like_it(place: Path) -> None:
    models = place / "repository/models"
    (models / "ir.xml").write_text("<net/>")
    (models / "ir.bin").symlink_to(place / "private/key")
    (found,) = problems(place, "../../models/ir.xml")
    assert found.what.startswith("spec.models[0].source: the model names ")


def test_an_onnx_model_that_reads_another_file_is_refused(place: Path) -> None:
    location = b"../../private/key"
    entry = b"\x0a\x08location\x12" + bytes([len(location)]) + location
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (place / "repository/models/evil.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    (found,) = problems(place, "../../models/evil.onnx")
    assert "/private/key" in found.what


def test_a_lock_or_a_manifest_that_is_a_link_out_is_refused(place: Path) -> None:
    (place / "repository/sites/berlin/shop.lock.yaml").symlink_to(place / "private/key")
    (found,) = problems(place, "own.onnx")
    assert found.what.startswith("its lock names ")


@pytest.mark.parametrize("key", ["CACHE_DIR", "WEIGHTS_PATH", "SOME_FUTURE_THING"])
def test_a_path_in_a_property_is_bounded(place: Path, key: str) -> None:
    more = f"      properties: {{{key}: %s}}\n"
    (found,) = problems(place, "own.onnx", more=more % "../cache")
    assert found.what.endswith("relative to no known folder")
    (found,) = problems(place, "own.onnx", more=more % "/var/lib/elsewhere")
    assert found.what.startswith(f"spec.models[0].properties.{key}: names ")
    assert problems(place, "own.onnx", more=more % (place / "roots/cache")) == []


def test_every_field_that_is_called_a_file_is_known_for_one() -> None:
    def fields(model: type[BaseModel]) -> list[str]:
        named = [f"{model.__name__}.{name}" for name, field in model.model_fields.items() if bounds._names_file(field)]
        called = [
            f"{model.__name__}.{name}" for name in model.model_fields if name.endswith(("_file", "_path", "_dir"))
        ]
        assert set(called) <= set(named)
        return named

    found = [
        name
        for each in vars(spec).values()
        if isinstance(each, type) and issubclass(each, BaseModel)
        for name in fields(each)
    ]
    assert {"ModelSpec.source", "Endpoint.token_file", "Tls.client_ca_file"} <= set(found)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["..", ".", "a", "out", "in", "roots", "repository"]), min_size=1, max_size=8),
    st.booleans(),
)
def test_whatever_is_let_through_lies_inside(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], absolute: bool
) -> None:
    """Seen to fail with `is_relative_to` on the path as it is written."""
    place = tmp_path_factory.getbasetemp() / "bounded"
    inside, roots = place / "repository", place / "roots"
    if not place.exists():
        inside.mkdir(parents=True)
        roots.mkdir()
        (inside / "out").symlink_to("../..")
        (inside / "in").symlink_to("../roots")
    path = (place if absolute else inside).joinpath(*parts)
    if bounds.Bounds.of(inside, [roots]).fault(path) is None:
        assert any(path.resolve().is_relative_to(each) for each in (inside, roots))
