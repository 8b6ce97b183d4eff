"""Small quantized graphs, as TensorRT wants them or nearly so."""

import numpy as np
import onnx
from onnx import helper

from tests import models_for_tests as build


def convolutions(batch: int | str = 1, *, weight_only: bool = False) -> onnx.ModelProto:
    """Two convolutions between INT8 pairs; with `weight_only` the second one's activation stays in float."""
    generator = np.random.default_rng(0)
    node = helper.make_node
    constants = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w0": generator.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8),
        "s0": np.full(16, 0.01, np.float32),
        "z0": np.zeros(16, np.int8),
        "w1": generator.integers(-127, 128, (8, 16, 3, 3)).astype(np.int8),
        "s1": np.full(8, 0.01, np.float32),
        "z1": np.zeros(8, np.int8),
    }
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="quantize_x"),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="dequantize_x"),
        node("DequantizeLinear", ["w0", "s0", "z0"], ["wd0"], name="dequantize_w0", axis=0),
        node("Conv", ["xd", "wd0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu0"),
        node("QuantizeLinear", ["r0", "s", "z"], ["rq"], name="quantize_r"),
        node("DequantizeLinear", ["rq", "s", "z"], ["rd"], name="dequantize_r"),
        node("DequantizeLinear", ["w1", "s1", "z1"], ["wd1"], name="dequantize_w1", axis=0),
        node("Conv", ["r0" if weight_only else "rd", "wd1"], ["y"], name="conv1", pads=[1, 1, 1, 1]),
    ]
    if weight_only:
        nodes = [each for each in nodes if each.name not in ("quantize_r", "dequantize_r")]
    return build.proto(nodes, {"x": [batch, 8, 16, 16]}, {"y": [batch, 8, 16, 16]}, constants)
