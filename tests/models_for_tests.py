"""Small models that many tests share, built with onnx.helper so that each test reads what it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.measure import Session

Array = np.ndarray[Any, np.dtype[Any]]


def proto(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str] | None],
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Builds a model of float inputs and outputs."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def model(*args: Any, **kwargs: Any) -> ir.Model:
    """Builds the same as `proto`, loaded."""
    return ir.load(proto(*args, **kwargs)).model


def weights(*shape: int, seed: int = 0, scale: float = 0.3) -> Array:
    """Normally distributed float32 weights."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def cnn(*, batch: int | str = "N", batch_norm: bool = True) -> onnx.ModelProto:
    """Conv-BatchNormalization-Relu, a residual block with Pad, pooling and Gemm: 3x16x16 to 5 scores."""
    node = helper.make_node
    norm = ["bn_scale", "bn_bias", "bn_mean", "bn_var"]
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", *norm], ["n1"], name="norm1")
        if batch_norm
        else node("Identity", ["c1"], ["n1"], name="norm1"),
        node("Relu", ["n1"], ["r1"], name="relu1"),
        node("Pad", ["r1", "pads"], ["p1"], name="pad1"),
        node("Conv", ["p1", "w2"], ["c2"], name="conv2"),
        node("Add", ["c2", "r1"], ["a1"], name="add1"),
        node("Relu", ["a1"], ["r2"], name="relu2"),
        node("MaxPool", ["r2"], ["m1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["m1"], ["g1"], name="gap"),
        node("Flatten", ["g1"], ["f1"], name="flatten"),
        node("Gemm", ["f1", "w3", "b3"], ["scores"], name="gemm", transB=1),
    ]
    constants = {
        "w1": weights(8, 3, 3, 3, seed=1),
        "b1": weights(8, seed=2),
        "w2": weights(8, 8, 3, 3, seed=3),
        "w3": weights(5, 8, seed=4, scale=1.0),
        "b3": weights(5, seed=5),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    }
    if batch_norm:
        constants |= {
            "bn_scale": 1 + weights(8, seed=6),
            "bn_bias": weights(8, seed=7),
            "bn_mean": weights(8, seed=8),
            "bn_var": np.abs(weights(8, seed=9)) + 0.5,
        }
    return proto(nodes, {"image": [batch, 3, 16, 16]}, {"scores": [batch, 5]}, constants)


def images(count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Feeds for `cnn`."""
    generator = np.random.default_rng(seed)
    return [{"image": generator.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def run(source: ir.Model | onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    """Runs a model without the runtime's own optimizations."""
    from sardonyx.measure import SessionOptions

    data = source.SerializeToString() if isinstance(source, onnx.ModelProto) else ir.serialize(source)
    with Session(data, options=SessionOptions(optimization="disabled")) as session:
        return session.run(dict(feed))


def operators(source: ir.Model) -> list[str]:
    """Operator types of the main graph, in order."""
    return [node.op_type for node in source.graph]
