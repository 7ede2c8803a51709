"""The files that belong to a model: also those that an ONNX model says it keeps outside, wherever it says so."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from orchestrator.errors import Kind, OrchError
from orchestrator.gitops.companions import companions


def outside(location: str) -> TensorProto:
    """Return a tensor whose data stand in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def a_model(tmp_path: Path) -> Path:
    """Write a model with an external tensor in each place where onnx.proto has room for one."""
    branch = helper.make_graph([], "branch", [], [], initializer=[outside("branch.data")])
    deeper = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    constant = helper.make_node("Constant", [], ["k"], value=outside("constant.data"))
    listed = helper.make_node("Custom", [], ["l"], domain="x", many=[outside("list.data")])
    graphs = helper.make_node("Custom", [], ["g"], domain="x", graphs=[branch])
    sparse = helper.make_sparse_tensor(outside("values.data"), outside("../indices.data"), [1])
    weights = helper.make_tensor("v", TensorProto.FLOAT, [1000], [1.0] * 1000)
    graph = helper.make_graph([deeper, constant, listed, graphs], "g", [], [], [outside("/etc/passwd"), weights])
    graph.sparse_initializer.append(sparse)
    model = helper.make_model(graph)
    function = helper.make_function("x", "F", [], [], [constant], [helper.make_opsetid("", 18)])
    function.attribute_proto.append(helper.make_attribute("a", outside("function.data")))
    model.functions.append(function)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_every_file_that_an_onnx_model_names_is_found(tmp_path: Path) -> None:
    assert companions(a_model(tmp_path)) == (
        *("../indices.data", "/etc/passwd", "branch.data", "constant.data"),
        *("function.data", "list.data", "values.data"),
    )


@pytest.mark.parametrize("name", ["model.pb", "model.xml", "model"])
def test_an_onnx_model_by_another_name_is_looked_through_too(tmp_path: Path, name: str) -> None:
    named = a_model(tmp_path).rename(tmp_path / name)
    assert {"/etc/passwd", "../indices.data"} < set(companions(named))


def test_a_group_hides_nothing(tmp_path: Path) -> None:
    """Protobuf's oldest way to nest, which its readers pass over."""
    path = a_model(tmp_path)
    path.write_bytes(b"\x0b\x10\x01\x0c" + path.read_bytes())
    assert "/etc/passwd" in companions(path)


def test_what_is_no_protobuf_is_no_onnx_model(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text("<?xml version='1.0'?><net/>")
    (tmp_path / "x.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(range(256)))
    assert companions(tmp_path / "x.xml") == ("x.bin",)
    assert companions(tmp_path / "x.tflite") == ()


def test_a_model_that_keeps_everything_inside_needs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = helper.make_tensor("v", TensorProto.FLOAT, [1000], [1.0] * 1000)
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [weights])), path)
    assert companions(path) == ()


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("x.xml", ("x.bin",)),
        ("x.y.xml", ("x.y.bin",)),
        ("x.pdmodel", ("x.pdiparams",)),
        ("x.tflite", ()),
        ("x.pb", ()),
    ],
)
def test_other_formats_have_their_weights_beside(tmp_path: Path, name: str, beside: tuple[str, ...]) -> None:
    (tmp_path / name).write_bytes(b"")
    assert companions(tmp_path / name) == beside


def test_an_empty_file_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    assert companions(tmp_path / "model.onnx") == ()


def test_a_model_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = a_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(OrchError, match="cannot be read as an ONNX model"):
        companions(path)


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_answered(data: bytes) -> None:
    """No bytes make it wait or fail in another way."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.onnx")
        model.write_bytes(data)
        try:
            companions(model)
        except OrchError as error:
            assert error.kind is Kind.INVALID  # noqa: PT017 - either answer is right
