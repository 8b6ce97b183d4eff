"""ResNet-50 with random weights: a convolutional network of realistic size, where no trained one is at hand.

    python -m benchmarks.resnet resnet50.onnx        writes it; `benchmarks.engines --resnet50` compiles it

He et al., Deep Residual Learning for Image Recognition (2015), table 1, with the stride in the 3x3 convolutions and
batch normalization folded. Weights are drawn so that activations keep their size from layer to layer.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from benchmarks.static_int8 import Task
from sardonyx.measure import Metric, Session
from sardonyx.measure.metric import Runner

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
IMAGE = (1, 3, 224, 224)
BRANCH_GAIN = 0.3
"""Standard deviation that a residual branch adds to a block's input of about 1."""

Array = npt.NDArray[np.float32]


class _Graph:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, **attributes: int | list[int]) -> str:
        output = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: Array) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, source: str, channels: tuple[int, int], kernel: int, stride: int = 1, gain: float = 2**0.5) -> str:
        inputs, outputs = channels
        deviation = gain / (inputs * kernel * kernel) ** 0.5
        weight = self.constant(self.rng.normal(0, deviation, (outputs, inputs, kernel, kernel)))
        bias = self.constant(self.rng.normal(0, 0.05, outputs))
        return self.op("Conv", source, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def bottleneck(self, source: str, inputs: int, width: int, stride: int) -> str:
        outputs = width * EXPANSION
        branch = self.op("Relu", self.conv(source, (inputs, width), 1))
        branch = self.op("Relu", self.conv(branch, (width, width), 3, stride))
        branch = self.conv(branch, (width, outputs), 1, gain=BRANCH_GAIN)
        skip = source if inputs == outputs else self.conv(source, (inputs, outputs), 1, stride, gain=1.0)
        return self.op("Relu", self.op("Add", branch, skip))


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """Returns the model: image [1, 3, 224, 224] to logits [1, 1000], 25.5 million FP32 weights."""
    graph = _Graph(seed)
    value = graph.op("Relu", graph.conv("image", (3, 64), 7, 2))
    value = graph.op("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for block in range(count):
            value = graph.bottleneck(value, channels, width, 2 if stage and not block else 1)
            channels = width * EXPANSION
    value = graph.op("Flatten", graph.op("GlobalAveragePool", value))
    weight = graph.constant(graph.rng.normal(0, channels**-0.5, (1000, channels)))
    logits = graph.op("Gemm", value, weight, graph.constant(np.zeros(1000, np.float32)), transB=1)
    made = helper.make_graph(
        graph.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, [1, 1000])],
        graph.weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def resnet50_task(folder: Path, samples: int = 12) -> Task:
    """Writes the model; its metric is the cosine of its logits with those of FP32, on samples of its own."""
    path = folder / "resnet50.onnx"
    onnx.save(resnet50(), path)
    rng = np.random.default_rng(1)
    feeds = [{"image": rng.standard_normal(IMAGE, np.float32)} for _ in range(2 * samples)]
    with Session(path) as original:
        expected = [original.run(feed)[0] for feed in feeds[samples:]]
    return Task("resnet50", path, feeds[:samples], _cosine(feeds[samples:], expected))


def _cosine(feeds: list[dict[str, Array]], expected: list[Array]) -> Metric:
    """The mean cosine: that sizes and quantization work out, not what a trained network would lose."""

    def evaluate(run: Runner) -> float:
        pairs = ((run(feed)[0], each) for feed, each in zip(feeds, expected, strict=True))
        return float(np.mean([np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]))

    return evaluate


def main() -> None:
    """Writes the model to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    onnx.save(resnet50(arguments.seed), arguments.path)


if __name__ == "__main__":
    main()
