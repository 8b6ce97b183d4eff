from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper


def build(nodes, inputs, outputs, initializers=()) -> bytes:
    """Serializes a model from nodes and (name, type, shape) triples."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model.SerializeToString()


def scale_model(factor: float = 2.0) -> bytes:
    """x: float32[N, 3] -> y = factor * x."""
    constant = onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor")
    return build(
        [helper.make_node("Mul", ["x", "factor"], ["y"], name="scale")],
        [("x", TensorProto.FLOAT, ["N", 3])],
        [("y", TensorProto.FLOAT, ["N", 3])],
        [constant],
    )


def matmul_chain(count: int, size: int = 64) -> bytes:
    """x: float32[size, size] through `count` matrix products."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((size, size), np.float32) / size, "w")
    names = ["x", *(f"t{i}" for i in range(count))]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    shape = [size, size]
    return build(nodes, [("x", TensorProto.FLOAT, shape)], [(names[-1], TensorProto.FLOAT, shape)], [weight])
