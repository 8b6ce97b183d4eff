"""Every operator of the table's 16-bit types, on the runtime itself: does it run as it is, or between Casts?"""

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

from sardonyx import ir
from sardonyx.backends.onnxruntime import table

X = (2, 8, 16, 16)
TYPES = {"FLOAT16": TensorProto.FLOAT16, "BFLOAT16": TensorProto.BFLOAT16}


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """How to build one node: shapes of its 16-bit inputs, further constant inputs, attributes, outputs."""

    shapes: Sequence[Sequence[int]] = (X,)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1


NATIVE = {
    "Clip": Case((X, (), ())),
    "Concat": Case((X, X), attributes={"axis": 1}),
    "Expand": Case(constants={"s": ints(2, 8, 16, 16)}),
    "Flatten": Case(),
    "Gather": Case(constants={"i": ints(0)}),
    "GatherElements": Case(constants={"i": np.zeros(X, np.int64)}),
    "GatherND": Case(constants={"i": ints(0)}),
    "Identity": Case(),
    "IsInf": Case(),
    "IsNaN": Case(),
    "LayerNormalization": Case((X, (16,), (16,))),
    "Max": Case((X, X)),
    "Min": Case((X, X)),
    "Mod": Case((X, X), attributes={"fmod": 1}),
    "QuantizeLinear": Case((X, ()), {"z": np.array(3, np.uint8)}),
    "Reshape": Case(constants={"s": ints(2, -1)}),
    "Round": Case(),
    "ScatterND": Case((X,), {"i": ints(0)[None]}),
    "Shape": Case(),
    "Sign": Case(),
    "Slice": Case(constants={"a": ints(0), "b": ints(1), "c": ints(0)}),
    "Split": Case(attributes={"axis": 0, "num_outputs": 2}, outputs=2),
    "Squeeze": Case(((1, 8),), {"a": ints(0)}),
    "Transpose": Case(attributes={"perm": [0, 2, 3, 1]}),
    "Unsqueeze": Case(constants={"a": ints(0)}),
}
WRAPPED = {
    "Add": Case((X, X)),
    "Conv": Case((X, (4, 8, 3, 3))),
    "Div": Case((X, X)),
    "Erf": Case(),
    "Exp": Case(),
    "Gemm": Case(((4, 8), (8, 4))),
    "MatMul": Case((X, X)),
    "MaxPool": Case(attributes={"kernel_shape": [2, 2]}),
    "Mul": Case((X, X)),
    "Pad": Case(constants={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "ReduceMean": Case(constants={"a": ints(-1)}),
    "Relu": Case(),
    "Sigmoid": Case(),
    "Softmax": Case(),
    "Sqrt": Case(),
    "Tanh": Case(),
}


def alone(op: str, case: Case, dtype: int) -> onnx.ModelProto:
    """A model of the one node, all floats of the type."""
    inputs = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i, shape in enumerate(case.shapes)]
    names = [value.name for value in inputs]
    outputs = [f"y{i}" for i in range(case.outputs)]
    if op == "ScatterND":
        inputs.append(helper.make_tensor_value_info("updates", dtype, (1, *X[1:])))
    operands = [*names, *case.constants, *(["updates"] if op == "ScatterND" else [])]
    constants = [numpy_helper.from_array(array, name) for name, array in case.constants.items()]
    node = helper.make_node(op, operands, outputs, **case.attributes)
    given = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "g", inputs, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def operators_that_run(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "prepared.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "prepared.onnx").graph.node)


ROWS = sorted((dtype.name, op) for dtype, support in table.FLOATS.items() for _, op in support.native)


@pytest.mark.parametrize(("dtype", "op"), ROWS)
def test_native_operators_run_as_they_are(dtype: str, op: str, tmp_path: Path) -> None:
    assert operators_that_run(alone(op, NATIVE[op], TYPES[dtype]), tmp_path)["Cast"] == 0


@pytest.mark.parametrize("op", sorted(WRAPPED))
def test_other_operators_run_between_casts_in_float16(op: str, tmp_path: Path) -> None:
    support = table.FLOATS[ir.DataType.FLOAT16]
    assert ("", op) not in support.native
    assert support.wraps_others
    assert operators_that_run(alone(op, WRAPPED[op], TensorProto.FLOAT16), tmp_path)["Cast"] >= 2


@pytest.mark.parametrize("op", sorted(WRAPPED))
def test_other_operators_do_not_load_in_bfloat16(op: str, tmp_path: Path) -> None:
    support = table.FLOATS[ir.DataType.BFLOAT16]
    assert not support.loads("", op)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|INVALID_GRAPH"):
        operators_that_run(alone(op, WRAPPED[op], TensorProto.BFLOAT16), tmp_path)
