"""The generated topologies are what they are called, run on CPU, and come out the same each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from benchmarks import topologies

FREE = 3  # what a dynamic dimension is set to

OUTPUTS = {
    "mobilenet_v2": {"logits": (1, 1000)},
    "resnet50": {"logits": (1, 1000)},
    "detector": {"boxes": (1, 1950, 4), "scores": (1, 1950, 91)},
    "bert_small": {"pooled": (1, 256)},
    "tiny_mlp": {"scores": (1, 8)},
    "dynamic_mlp": {"scores": (FREE, 8)},
    "dynamic_seq": {"attended": (1, FREE, 32), "attention": (1, FREE, FREE), "pooled": (1, 32)},
    "two_in_two_out": {"scores": (FREE, 8), "best": (FREE,)},
    "int8_cnn": {"logits": (1, 10)},
    "passthrough": {"data": (FREE, FREE)},
}

INT32 = np.iinfo(np.int32)
FLOAT32 = np.finfo(np.float32)
# Extremes of each datatype, of those that OpenVINO computes in 32 bits the extremes of these.
VALUES = {
    "bool": np.array([[True, False]]),
    "uint64": np.array([[0, INT32.max]], np.uint64),
    "int64": np.array([[INT32.min, INT32.max]], np.int64),
    "fp64": np.array([[FLOAT32.min, FLOAT32.tiny]], np.float64),
    "bytes": np.array([["", "Straße 東京 🚀"]]),
    **{
        name: np.array([[np.iinfo(kind).min, np.iinfo(kind).max]], kind)
        for name, kind in (
            ("uint8", np.uint8),
            ("uint16", np.uint16),
            ("uint32", np.uint32),
            ("int8", np.int8),
            ("int16", np.int16),
            ("int32", np.int32),
        )
    },
    "fp16": np.array([[np.nan, np.finfo(np.float16).tiny]], np.float16),
    "fp32": np.array([[np.nan, FLOAT32.max]], np.float32),
}


@pytest.fixture(scope="module")
def core() -> ov.Core:
    return ov.Core()


def inputs_for(model: ov.CompiledModel) -> dict[str, np.ndarray]:
    """Return noise for float inputs and zeros or ones, valid as ids, masks and groups, for the others."""
    generator = np.random.default_rng(0)
    feed = {}
    for port in model.inputs:
        shape = [FREE if dimension.is_dynamic else dimension.get_length() for dimension in port.partial_shape]
        noise = generator.standard_normal(shape) if port.element_type.is_real() else generator.integers(0, 2, shape)
        feed[port.any_name] = noise.astype(port.element_type.to_dtype())
    return feed


def constants(model: ov.Model) -> list[np.ndarray]:
    return [node.get_data() for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]


def digest(model: ov.Model) -> str:
    names = "\n".join(node.get_friendly_name() for node in model.get_ordered_ops())
    return hashlib.sha256(b"".join([names.encode(), *(array.tobytes() for array in constants(model))])).hexdigest()


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_finite_and_of_the_shape_promised(name: str, core: ov.Core) -> None:
    model = core.compile_model(topologies.build(name), "CPU")
    answers = model(inputs_for(model))
    assert {port.any_name: array.shape for port, array in answers.items()} == OUTPUTS[name]
    assert all(np.isfinite(array).all() for array in answers.values())


@pytest.mark.parametrize("datatype", VALUES)
def test_identity_returns_the_bits_it_was_given(datatype: str, core: ov.Core) -> None:
    request = core.compile_model(topologies.build(f"identity_{datatype}"), "CPU").create_infer_request()
    given = VALUES[datatype]
    request.infer({"data": given})
    answer = request.get_output_tensor()
    returned = answer.str_data if datatype == "bytes" else answer.data
    assert (returned.dtype, returned.tobytes()) == (given.dtype, given.tobytes())


def test_identity_returns_bf16_bits(core: ov.Core) -> None:
    request = core.compile_model(topologies.build("identity_bf16"), "CPU").create_infer_request()
    given = ov.Tensor(ov.Type.bf16, ov.Shape([1, 2]))
    given.data.view(np.uint16)[:] = [[0x3F80, 0x7FC0]]  # 1 and not-a-number
    request.set_input_tensor(given)
    request.infer()
    assert request.get_output_tensor().data.view(np.uint16).tolist() == [[0x3F80, 0x7FC0]]


def test_passthrough_leaves_a_given_output_tensor_unwritten(core: ov.Core) -> None:
    """Pin what OpenVINO 2026.4 does; once this fails, the warning at ``passthrough`` can go."""
    request = core.compile_model(topologies.build("passthrough"), "CPU").create_infer_request()
    given, output = ov.Tensor(np.ones((1, 2), np.float32)), ov.Tensor(np.zeros((1, 2), np.float32))
    request.set_input_tensor(given)
    request.set_output_tensor(output)
    request.infer()
    assert output.data.tolist() == [[0, 0]]


def test_every_topology_has_a_case_here() -> None:
    identities = {f"identity_{datatype}" for datatype in (*VALUES, "bf16")}
    assert set(topologies.NAMES) == set(OUTPUTS) | identities


@pytest.mark.parametrize("name", topologies.NAMES)
def test_two_builds_have_the_same_nodes_and_weights(name: str) -> None:
    assert digest(topologies.build(name)) == digest(topologies.build(name))


# The published counts (3.50 and 25.56 million) less the second number per channel of the folded normalisations.
@pytest.mark.parametrize(("name", "millions"), [("mobilenet_v2", 3.49), ("resnet50", 25.53)])
def test_weights_are_as_many_as_published(name: str, millions: float) -> None:
    floats = sum(array.size for array in constants(topologies.build(name)) if array.dtype == np.float32)
    assert round(floats / 1e6, 2) == millions


def test_sequence_length_is_an_option() -> None:
    model = topologies.build("bert_small", sequence_length=16)
    assert [list(port.shape) for port in model.inputs] == [[1, 16], [1, 16]]


@pytest.mark.parametrize("name", ["mobilenet_v2", "detector", "bert_small", "int8_cnn", "tiny_mlp"])
def test_static_models_can_be_reshaped_to_a_batch(name: str) -> None:
    model = topologies.build(name)
    model.reshape({port.any_name: [2, *list(port.shape)[1:]] for port in model.inputs})
    assert model.output(0).shape[0] == 2


def test_int8_cnn_runs_its_convolutions_in_8_bits(core: ov.Core) -> None:
    graph = core.compile_model(topologies.build("int8_cnn"), "CPU").get_runtime_model()
    infos = [node.get_rt_info() for node in graph.get_ordered_ops()]
    precisions = [i["runtimePrecision"].astype(str) for i in infos if i["layerType"].astype(str) == "Convolution"]
    assert len(precisions) == 3
    assert set(precisions) <= {"u8", "i8"}


def test_a_saved_model_is_full_precision_and_not_written_twice(tmp_path: Path, core: ov.Core) -> None:
    path = topologies.save("tiny_mlp", tmp_path)
    assert digest(core.read_model(path)) == digest(topologies.build("tiny_mlp"))
    path.write_text("kept")
    assert topologies.save("tiny_mlp", tmp_path).read_text() == "kept"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny_mlp.bin", "tiny_mlp.xml"]


def test_the_command_saves_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    topologies.main(["--out", str(tmp_path), "passthrough", "identity_bytes"])
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{n}.xml") for n in ("passthrough", "identity_bytes")]


def test_the_command_refuses_an_unknown_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        topologies.main(["--out", str(tmp_path), "resnet51"])
    assert refusal.value.code == 2
    assert "no topology is called resnet51" in capsys.readouterr().err
