"""Build standard topologies with seeded random weights as OpenVINO IR, for tests and benchmarks.

The graphs have the shapes and the arithmetic of the published networks, so that their speed is representative; the
weights are noise, so that nothing needs downloading and the outputs mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset1
from openvino import opset13 as ops

Array = npt.NDArray[np.generic]
Activation = Literal["relu", "relu6", "none"]

# MobileNetV2 (Sandler et al. 2018, table 2): expansion, output channels, repeats, first stride.
MOBILENET_V2_STAGES: Final = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# ResNet-50 (He et al. 2015, table 1): inner channels, blocks, first stride; outer channels are four times inner.
RESNET50_STAGES: Final = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
IMAGENET_CLASSES: Final = 1000
# SSDLite at 320 x 320 (Sandler et al. 2018, section 6.2), cut to three scales: anchors at each place of 20, 10, 5.
DETECTOR_SIZE: Final = 320
DETECTOR_ANCHORS: Final = (3, 6, 6)
COCO_CLASSES: Final = 91
# The size published as BERT-Mini (Turc et al. 2019, arXiv 1908.08962), with the vocabulary of BERT-base-uncased.
BERT_LAYERS: Final = 4
BERT_HIDDEN: Final = 256
BERT_HEADS: Final = 4
BERT_WORDS: Final = 30522
INT8_LEVELS: Final = 256
# The datatypes of the Open Inference Protocol; BYTES is OpenVINO's string: any bytes, but numpy drops NULs at the end.
IDENTITY_TYPES: Final[Mapping[str, ov.Type]] = {
    "bool": ov.Type.boolean,
    "uint8": ov.Type.u8,
    "uint16": ov.Type.u16,
    "uint32": ov.Type.u32,
    "uint64": ov.Type.u64,
    "int8": ov.Type.i8,
    "int16": ov.Type.i16,
    "int32": ov.Type.i32,
    "int64": ov.Type.i64,
    "fp16": ov.Type.f16,
    "bf16": ov.Type.bf16,
    "fp32": ov.Type.f32,
    "fp64": ov.Type.f64,
    "bytes": ov.Type.string,
}

# A residual sum of n equal branches grows as sqrt(n); a small last layer keeps deep activations near one.
RESIDUAL_GAIN: Final = 0.2


@dataclass(frozen=True)
class Weights:
    """Draws layers with He-initialised weights from one generator, in the order of the calls."""

    generator: np.random.Generator

    def draw(self, shape: tuple[int, ...], fan_in: int, gain: float = 1.0) -> Array:
        """Return float32 normal noise of variance ``gain**2 * 2 / fan_in`` (He et al., arXiv 1502.01852, eq. 10)."""
        scale = np.float32(gain * np.sqrt(2.0 / fan_in))
        return self.generator.standard_normal(shape, dtype=np.float32) * scale

    def convolution(
        self, data: ov.Node, channels: int, kernel: int, stride: int = 1, act: Activation = "relu", gain: float = 1.0
    ) -> ov.Node:
        """Add a padded convolution, its bias, and an activation."""
        inputs = _channels(data)
        kernels = ops.constant(self.draw((channels, inputs, kernel, kernel), inputs * kernel * kernel, gain))
        pads = [kernel // 2] * 2
        output = ops.convolution(data, kernels, [stride] * 2, pads, pads, [1, 1])
        return _activate(self.bias(output, channels), act)

    def depthwise(self, data: ov.Node, kernel: int, stride: int, act: Activation) -> ov.Node:
        """Add a convolution with one kernel per channel."""
        channels = _channels(data)
        kernels = ops.constant(self.draw((channels, 1, 1, kernel, kernel), kernel * kernel))
        pads = [kernel // 2] * 2
        output = ops.group_convolution(data, kernels, [stride] * 2, pads, pads, [1, 1])
        return _activate(self.bias(output, channels), act)

    def linear(self, data: ov.Node, inputs: int, outputs: int, gain: float = 1.0) -> ov.Node:
        """Add ``data @ weights.T + bias`` over the last dimension."""
        product = ops.matmul(data, ops.constant(self.draw((outputs, inputs), inputs, gain)), False, True)
        return ops.add(product, ops.constant(self.draw((outputs,), outputs)))

    def bias(self, data: ov.Node, channels: int) -> ov.Node:
        """Add a number per channel of an image, as a folded batch normalisation leaves behind."""
        return ops.add(data, ops.constant(self.draw((1, channels, 1, 1), channels)))

    def normalisation(self, data: ov.Node, width: int) -> ov.Node:
        """Add a layer normalisation over the last dimension with its scale and shift."""
        centred = ops.mvn(data, _integers(-1), True, 1e-12, "inside_sqrt")
        scale = ops.constant(1 + self.draw((width,), width))
        return ops.add(ops.multiply(centred, scale), ops.constant(self.draw((width,), width)))


def _activate(data: ov.Node, act: Activation) -> ov.Node:
    match act:
        case "relu":
            return ops.relu(data)
        case "relu6":
            return ops.clamp(data, 0.0, 6.0)
        case "none":
            return data


def _integers(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))


def _integer(value: int) -> ov.Node:
    return ops.constant(np.int64(value))


def _float(value: float) -> ov.Node:
    return ops.constant(np.float32(value))


def _channels(data: ov.Node) -> int:
    return int(data.output(0).partial_shape[1].get_length())


def _input(name: str, shape: list[int], kind: ov.Type = ov.Type.f32) -> ov.Node:
    parameter = ops.parameter(shape, kind, name=name)
    parameter.output(0).set_names({name})
    return parameter


def _model(name: str, inputs: list[ov.Node], outputs: Mapping[str, ov.Output]) -> ov.Model:
    """Close a graph, and name every node by its place in it so that two builds give the same bytes."""
    for output_name, output in outputs.items():
        output.add_names({output_name})
    model = ov.Model([ops.result(output) for output in outputs.values()], inputs, name)
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    return model


def _classify(weights: Weights, features: ov.Node, classes: int) -> ov.Node:
    """Average over the image, drop its two dimensions, and score the classes."""
    averages = ops.reduce_mean(features, _integers(2, 3), keep_dims=False)
    return weights.linear(averages, _channels(features), classes)


def _inverted_residual(weights: Weights, data: ov.Node, expansion: int, channels: int, stride: int) -> ov.Node:
    inputs = _channels(data)
    wide = data if expansion == 1 else weights.convolution(data, inputs * expansion, 1, act="relu6")
    filtered = weights.depthwise(wide, 3, stride, act="relu6")
    has_shortcut = stride == 1 and inputs == channels
    narrow = weights.convolution(filtered, channels, 1, act="none", gain=RESIDUAL_GAIN if has_shortcut else 1.0)
    return ops.add(data, narrow) if has_shortcut else narrow


def _mobilenet_stages(weights: Weights, image: ov.Node) -> list[ov.Node]:
    """Add MobileNetV2 up to its last 1x1 convolution; return what each stage gives, that convolution's output last."""
    outputs = [weights.convolution(image, 32, 3, stride=2, act="relu6")]
    for expansion, channels, repeats, stride in MOBILENET_V2_STAGES:
        data = outputs[-1]
        for repeat in range(repeats):
            data = _inverted_residual(weights, data, expansion, channels, stride if repeat == 0 else 1)
        outputs.append(data)
    return [*outputs, weights.convolution(outputs[-1], 1280, 1, act="relu6")]


def mobilenet_v2(weights: Weights) -> ov.Model:
    """Build MobileNetV2 1.0: ``image`` [1,3,224,224] -> ``logits`` [1,1000], 0.3 G multiply-adds."""
    image = _input("image", [1, 3, 224, 224])
    data = _mobilenet_stages(weights, image)[-1]
    return _model("mobilenet_v2", [image], {"logits": _classify(weights, data, IMAGENET_CLASSES).output(0)})


def _predict_at(weights: Weights, data: ov.Node, anchors: int, values: int) -> ov.Node:
    """Predict ``values`` for each anchor at each place of a feature map: [batch, places * anchors, values]."""
    filtered = weights.depthwise(data, 3, 1, act="relu6")
    scored = ops.transpose(weights.convolution(filtered, anchors * values, 1, act="none"), _integers(0, 2, 3, 1))
    return ops.reshape(scored, _integers(0, -1, values), special_zero=True)


def detector(weights: Weights) -> ov.Model:
    """Build an SSDLite: ``image`` [1,3,320,320] -> ``boxes`` [1,1950,4], ``scores`` [1,1950,91]; no suppression."""
    image = _input("image", [1, 3, DETECTOR_SIZE, DETECTOR_SIZE])
    stages = _mobilenet_stages(weights, image)
    narrow = weights.convolution(stages[-1], 256, 1, act="relu6")
    extra = weights.convolution(weights.depthwise(narrow, 3, 2, act="relu6"), 512, 1, act="relu6")
    maps = list(zip((stages[5], stages[-1], extra), DETECTOR_ANCHORS, strict=True))
    boxes = [_predict_at(weights, data, anchors, 4) for data, anchors in maps]
    scores = [_predict_at(weights, data, anchors, COCO_CLASSES) for data, anchors in maps]
    outputs = {"boxes": ops.concat(boxes, 1), "scores": ops.sigmoid(ops.concat(scores, 1))}
    return _model("detector", [image], {name: node.output(0) for name, node in outputs.items()})


def _bottleneck(weights: Weights, data: ov.Node, inner: int, stride: int) -> ov.Node:
    """Add a bottleneck block; the stride sits on the 3x3 convolution, as in the common v1.5 variant."""
    outer = inner * 4
    branch = weights.convolution(data, inner, 1)
    branch = weights.convolution(branch, inner, 3, stride)
    branch = weights.convolution(branch, outer, 1, act="none", gain=RESIDUAL_GAIN)
    if _channels(data) != outer:
        data = weights.convolution(data, outer, 1, stride, act="none")
    return ops.relu(ops.add(data, branch))


def resnet50(weights: Weights) -> ov.Model:
    """Build ResNet-50 v1.5: ``image`` [1,3,224,224] -> ``logits`` [1,1000], 4.1 G multiply-adds."""
    image = _input("image", [1, 3, 224, 224])
    data = weights.convolution(image, 64, 7, stride=2)
    data = opset1.max_pool(data, [2, 2], [1, 1], [1, 1], [3, 3])  # opset 8 and later add an output of indices
    for inner, blocks, stride in RESNET50_STAGES:
        for block in range(blocks):
            data = _bottleneck(weights, data, inner, stride if block == 0 else 1)
    return _model("resnet50", [image], {"logits": _classify(weights, data, IMAGENET_CLASSES).output(0)})


def _mlp(weights: Weights, name: str, batch: int) -> ov.Model:
    features = _input("features", [batch, 16])
    data = ops.relu(weights.linear(features, 16, 32))
    data = ops.relu(weights.linear(data, 32, 32))
    return _model(name, [features], {"scores": weights.linear(data, 32, 8).output(0)})


def tiny_mlp(weights: Weights) -> ov.Model:
    """Build a network of microseconds: ``features`` [1,16] -> 32 -> 32 -> ``scores`` [1,8]."""
    return _mlp(weights, "tiny_mlp", 1)


def dynamic_mlp(weights: Weights) -> ov.Model:
    """Build ``tiny_mlp`` with a dynamic batch: ``features`` [?,16] -> ``scores`` [?,8]."""
    return _mlp(weights, "dynamic_mlp", -1)


def _heads(data: ov.Node, heads: int, width: int) -> ov.Node:
    """Split the last dimension: [batch, tokens, heads * width] -> [batch, heads, tokens, width]."""
    split = ops.reshape(data, _integers(0, 0, heads, width), special_zero=True)
    return ops.transpose(split, _integers(0, 2, 1, 3))


def _attention(weights: Weights, data: ov.Node, mask: ov.Node) -> ov.Node:
    width = BERT_HIDDEN // BERT_HEADS
    query, key, value = (_heads(weights.linear(data, BERT_HIDDEN, BERT_HIDDEN), BERT_HEADS, width) for _ in range(3))
    scores = ops.multiply(ops.matmul(query, key, False, True), _float(width**-0.5))
    context = ops.matmul(ops.softmax(ops.add(scores, mask), -1), value, False, False)
    joined = ops.reshape(ops.transpose(context, _integers(0, 2, 1, 3)), _integers(0, 0, BERT_HIDDEN), special_zero=True)
    return weights.linear(joined, BERT_HIDDEN, BERT_HIDDEN)


def _encoder_layer(weights: Weights, data: ov.Node, mask: ov.Node) -> ov.Node:
    """Add attention and a feed-forward pair, each with a shortcut and a normalisation behind it."""
    data = weights.normalisation(ops.add(data, _attention(weights, data, mask)), BERT_HIDDEN)
    wide = ops.gelu(weights.linear(data, BERT_HIDDEN, 4 * BERT_HIDDEN), "erf")
    return weights.normalisation(ops.add(data, weights.linear(wide, 4 * BERT_HIDDEN, BERT_HIDDEN)), BERT_HIDDEN)


def bert_small(weights: Weights, sequence_length: int = 128) -> ov.Model:
    """Build a BERT of 4 layers: int64 ``input_ids``, ``attention_mask`` [1,sequence_length] -> ``pooled`` [1,256]."""
    ids = _input("input_ids", [1, sequence_length], ov.Type.i64)
    mask = _input("attention_mask", [1, sequence_length], ov.Type.i64)
    hidden_positions = ops.multiply(ops.subtract(_float(1.0), ops.convert(mask, "f32")), _float(-10000.0))
    bias = ops.unsqueeze(hidden_positions, _integers(1, 2))
    words = ops.gather(ops.constant(weights.draw((BERT_WORDS, BERT_HIDDEN), 2)), ids, _integer(0))
    positions = ops.constant(weights.draw((1, sequence_length, BERT_HIDDEN), 2))
    data = weights.normalisation(ops.add(words, positions), BERT_HIDDEN)
    for _ in range(BERT_LAYERS):
        data = _encoder_layer(weights, data, bias)
    first_token = ops.gather(data, _integer(0), _integer(1))
    pooled = ops.tanh(weights.linear(first_token, BERT_HIDDEN, BERT_HIDDEN))
    return _model("bert_small", [ids, mask], {"pooled": pooled.output(0)})


def dynamic_seq(weights: Weights) -> ov.Model:
    """Build one attention with two free lengths.

    ``queries`` [1,q,32], ``memory`` [1,m,32] -> ``attended`` [1,q,32], ``attention`` [1,q,m], ``pooled`` [1,32].
    """
    queries, memory = _input("queries", [1, -1, 32]), _input("memory", [1, -1, 32])
    scores = ops.matmul(weights.linear(queries, 32, 32), weights.linear(memory, 32, 32), False, True)
    attention = ops.softmax(ops.multiply(scores, _float(32**-0.5)), -1)
    attended = ops.matmul(attention, weights.linear(memory, 32, 32), False, False)
    pooled = ops.reduce_mean(attended, _integers(1), keep_dims=False)
    outputs = {"attended": attended.output(0), "attention": attention.output(0), "pooled": pooled.output(0)}
    return _model("dynamic_seq", [queries, memory], outputs)


def two_in_two_out(weights: Weights) -> ov.Model:
    """Build a scorer that mixes datatypes.

    FP32 ``features`` [?,16], INT64 ``group`` [?] within 0..9 -> FP32 ``scores`` [?,8], INT64 ``best`` [?].
    """
    features, group = _input("features", [-1, 16]), _input("group", [-1], ov.Type.i64)
    offsets = ops.gather(ops.constant(weights.draw((10, 8), 2)), group, _integer(0))
    scores = ops.add(weights.linear(features, 16, 8), offsets)
    top = ops.topk(scores, _integer(1), -1, "max", "value", "i64")
    best = ops.squeeze(top.output(1), _integers(1))
    return _model("two_in_two_out", [features, group], {"scores": scores.output(0), "best": best.output(0)})


def _quantised(data: ov.Node, low: float, high: float) -> ov.Node:
    bounds = [_float(low), _float(high)]
    return ops.fake_quantize(data, *bounds, *bounds, INT8_LEVELS)


def _quantised_convolution(weights: Weights, data: ov.Node, channels: int) -> ov.Node:
    """Add a 3x3 convolution of stride 2 whose weights are symmetric 8-bit values with a scale per output channel."""
    inputs = _channels(data)
    kernels = weights.draw((channels, inputs, 3, 3), inputs * 9)
    limit = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    bounds = [ops.constant(-limit), ops.constant(limit)]
    # 255 levels: -127..127, so that zero is exact and the range symmetric.
    narrow = ops.fake_quantize(ops.constant(kernels), *bounds, *bounds, INT8_LEVELS - 1)
    return ops.relu(weights.bias(ops.convolution(data, narrow, [2, 2], [1, 1], [1, 1], [1, 1]), channels))


def int8_cnn(weights: Weights) -> ov.Model:
    """Build a CNN that OpenVINO runs in 8-bit integers: ``image`` [1,3,64,64] within -4..4 -> ``logits`` [1,10]."""
    image = _input("image", [1, 3, 64, 64])
    data = _quantised(image, -4.0, 4.0)
    for channels in (16, 32, 64):
        data = _quantised(_quantised_convolution(weights, data, channels), 0.0, 6.0)
    return _model("int8_cnn", [image], {"logits": _classify(weights, data, 10).output(0)})


def identity(_: Weights, datatype: str) -> ov.Model:
    """Build a model that returns its matrix: ``data`` [?,?] -> ``same`` [?,?], of an Open Inference Protocol datatype.

    A reshape to the same shape does the copying; without a node the output *is* the input (see ``passthrough``). On CPU
    (2026.4) every type arrives bit by bit but three, which are computed in 32 bits: INT64 and UINT64 keep what an int32
    holds, FP64 what a float32 holds.
    """
    data = _input("data", [-1, -1], IDENTITY_TYPES[datatype])
    same = ops.reshape(data, _integers(0, 0), special_zero=True)
    return _model(f"identity_{datatype}", [data], {"same": same.output(0)})


def passthrough(_: Weights) -> ov.Model:
    """Build a model without a node: ``data`` [?,?] -> itself, FP32.

    On CPU (2026.4) the output tensor is the input's memory, and one given by ``set_output_tensor`` is never written.
    """
    data = _input("data", [-1, -1])
    return _model("passthrough", [data], {"data": data.output(0)})


BUILDERS: Final[Mapping[str, Callable[..., ov.Model]]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "detector": detector,
    "bert_small": bert_small,
    "tiny_mlp": tiny_mlp,
    "dynamic_mlp": dynamic_mlp,
    "dynamic_seq": dynamic_seq,
    "two_in_two_out": two_in_two_out,
    "int8_cnn": int8_cnn,
    "passthrough": passthrough,
    **{f"identity_{datatype}": partial(identity, datatype=datatype) for datatype in IDENTITY_TYPES},
}
NAMES: Final = tuple(BUILDERS)


def build(name: str, **options: int) -> ov.Model:
    """Build the topology ``name``; the same name and options always give the same weights.

    Raises:
        KeyError: no topology has that name; ``NAMES`` lists them.
    """
    return BUILDERS[name](Weights(np.random.default_rng(list(name.encode()))), **options)


def save(name: str, folder: Path) -> Path:
    """Write ``folder/name.xml`` and ``.bin`` in full precision unless they exist, and return the path of the first."""
    target = folder / f"{name}.xml"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            staged = Path(staging) / target.name
            ov.save_model(build(name), staged, compress_to_fp16=False)
            # The .xml goes last: whoever sees it sees a whole model, also when two processes save at once.
            staged.with_suffix(".bin").replace(target.with_suffix(".bin"))
            staged.replace(target)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the topologies named on the command line, or all of them, and print the paths."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.topologies", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write NAME.xml and NAME.bin to"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(NAMES)}; all when none is given")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no topology is called {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    for name in options.names or NAMES:
        print(save(name, options.out))


if __name__ == "__main__":
    main()
