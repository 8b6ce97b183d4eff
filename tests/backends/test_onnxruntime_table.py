"""Every row of the table, on the runtime itself: between Q/DQ pairs, does an integer kernel take the node's place?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx.backends.onnxruntime import table
from sardonyx.capabilities import Role

X = (1, 8, 16, 16)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """How to build one node: shapes of its activations, further constant inputs, attributes."""

    shapes: Sequence[Sequence[int]] = (X,)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "Add": Case((X, X)),
    "Mul": Case((X, X)),
    "Concat": Case((X, X), attributes={"axis": 1}),
    "AveragePool": Case(attributes={"kernel_shape": [2, 2]}),
    "GlobalAveragePool": Case(),
    "LeakyRelu": Case(),
    "Sigmoid": Case(),
    "DepthToSpace": Case(attributes={"blocksize": 2}),
    "Expand": Case(((1, 8, 1, 1),), {"s": ints(1, 8, 4, 4)}),
    "Flatten": Case(),
    "Gather": Case(constants={"i": ints(0)}),
    "MaxPool": Case(attributes={"kernel_shape": [2, 2]}),
    "Reshape": Case(constants={"s": ints(1, -1)}),
    "Slice": Case(constants={"a": ints(0), "b": ints(4), "c": ints(1)}),
    "Squeeze": Case(constants={"a": ints(0)}),
    "Tile": Case(constants={"r": ints(1, 2, 1, 1)}),
    "Transpose": Case(attributes={"perm": [0, 2, 3, 1]}),
    "Unsqueeze": Case(constants={"a": ints(0)}),
    "Resize": Case(
        constants={"roi": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        attributes={"mode": "nearest"},
    ),
}
NOT_LISTED = {
    "Sub": Case((X, X)),
    "Tanh": Case(),
    "HardSigmoid": Case(),
    "ReduceMean": Case(attributes={"axes": [2, 3]}),
    "GlobalMaxPool": Case(),
    "SpaceToDepth": Case(attributes={"blocksize": 2}),
}


def between_pairs(op: str, case: Case, dtype: type, opset: int = 17) -> onnx.ModelProto:
    """The node with a Q/DQ pair on each activation and on its output, all of one scale."""
    constants = {"scale": np.float32(0.05), "zero": dtype(3), **case.constants}
    nodes, operands = [], []

    def pair(source: str, name: str) -> None:
        nodes.append(helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [name]))

    inputs = []
    for index, shape in enumerate(case.shapes):
        inputs.append(helper.make_tensor_value_info(f"x{index}", TensorProto.FLOAT, shape))
        pair(f"x{index}", f"x{index}_d")
        operands.append(f"x{index}_d")
    nodes.append(helper.make_node(op, [*operands, *case.constants], ["y"], **case.attributes))
    pair("y", "y_d")
    output = helper.make_tensor_value_info("y_d", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def optimized_operators(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("opset", [17, 20])  # 20: to which the optimizer raises
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("op", sorted(CASES))
def test_row_runs_as_integers(op: str, dtype: type, opset: int, tmp_path: Path) -> None:
    found = optimized_operators(between_pairs(op, CASES[op], dtype, opset), tmp_path)
    assert found["DequantizeLinear"] == 1, f"only the output is restored, found {dict(found)}"
    assert found["QuantizeLinear"] == len(CASES[op].shapes)


@pytest.mark.parametrize("op", sorted(NOT_LISTED))
def test_operators_left_out_stay_in_float(op: str, tmp_path: Path) -> None:
    found = optimized_operators(between_pairs(op, NOT_LISTED[op], np.uint8), tmp_path)
    assert found["DequantizeLinear"] > 1


def test_pairs_around_pad_are_kept_so_it_is_written_on_integers(tmp_path: Path) -> None:
    case = Case(constants={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)})
    assert optimized_operators(between_pairs("Pad", case, np.uint8), tmp_path)["DequantizeLinear"] == 2
    pad = next(row for row in table.TRANSPARENT if row.op_type == "Pad")
    assert pad.on_integers


def test_every_row_is_tried() -> None:
    rows = (*table.FOLLOWERS, *table.TRANSPARENT)
    assert {row.op_type for row in rows} - set(CASES) == {"Pad"}
    assert {row.op_type for row in table.COMPUTE} == {"Conv", "MatMul", "Gemm"}  # tried in tests/passes/quantization
    assert {row.role for row in table.ACTIVATIONS} == {Role.ACTIVATION}


def test_newest_opset_loads(tmp_path: Path) -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"])], "g", info[:1], info[1:])
    imports = [helper.make_opsetid("", table.NEWEST_OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    assert optimized_operators(model, tmp_path)["Gelu"] == 1
