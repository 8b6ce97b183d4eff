"""Small models for the tests of this room, built by hand with onnx.helper."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)


def linear(weight: np.ndarray | None = None, *, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """y = Relu(x @ w)."""
    if weight is None:
        weight = RNG.standard_normal((4, 3), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"),
            helper.make_node("Relu", ["h"], ["y"], name="relu"),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def model(nodes, inputs, outputs, initializers=(), *, opset=17, ir_version=8, **kwargs) -> onnx.ModelProto:
    """A model of float values: inputs and outputs map names to shapes, initializers names to arrays."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in dict(initializers).items()],
        **kwargs,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def external_linear(folder: Path, *, data_name: str = "model.onnx.data") -> Path:
    """`linear` in a file, with its weight in another."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = linear(np.arange(12, dtype=np.float32).reshape(4, 3))
    weight = proto.graph.initializer[0]
    (folder / data_name).write_bytes(weight.raw_data)
    point_to(weight, data_name, 0, 48)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def point_to(tensor: onnx.TensorProto, location: str, offset: int | None, length: int | None) -> None:
    """Turns an initializer into an external one."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
