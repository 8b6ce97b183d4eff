"""Every row of the table of dynamically quantized operators, on the runtime itself."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime import table
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.errors import BackendError
from sardonyx.measure import Session, describe_machine
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.dynamic.quantize import QuantizeDynamic
from tests import models_for_tests as build
from tests.backends.test_onnxruntime_table import optimized_operators

node = helper.make_node
FORMS = {
    "MatMul": (
        build.proto([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 8]}, {"y": None}, {"w": build.weights(8, 4)}),
        {"DynamicQuantizeMatMul"},
    ),
    "Gemm": (
        build.proto(
            [node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5)],
            {"x": ["N", 8]},
            {"y": None},
            {"w": build.weights(4, 8), "b": build.weights(4)},
        ),
        {"DynamicQuantizeMatMul"},
    ),
    "LSTM": (
        build.proto(
            [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
            {"x": ["T", 1, 8]},
            {"y": None},
            {"w": build.weights(1, 16, 8), "r": build.weights(1, 16, 4)},
        ),
        {"DynamicQuantizeLSTM"},
    ),
}


@pytest.mark.parametrize("op", FORMS)
def test_a_row_runs_as_one_kernel(op: str, tmp_path: Path) -> None:
    source, expected = FORMS[op]
    model = ir.load(source).model
    QuantizeDynamic().apply(model, PassContext(capabilities(describe_machine())))
    found = optimized_operators(onnx.load_from_string(ir.serialize(model)), tmp_path)
    assert set(found) == expected
    assert sum(found.values()) == 1


def test_every_row_is_tried() -> None:
    assert {row.op_type for row in table.DYNAMIC} == set(FORMS)
    assert all(not row.domain for row in table.DYNAMIC)


@pytest.mark.parametrize("op", ["DynamicQuantizeGRU", "DynamicQuantizeRNN", "QuantizeGRU"])
def test_the_runtime_has_no_other_recurrent_operators(op: str) -> None:
    constants = {"w": np.zeros((1, 8, 12), np.int8), "r": np.zeros((1, 4, 12), np.int8)}
    made = node(op, ["x", "w", "r"], ["y"], hidden_size=4, domain="com.microsoft")
    source = build.proto([made], {"x": [3, 1, 8]}, {"y": None}, constants)
    source.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(BackendError, match=f"{op}"):
        Session(source.SerializeToString())
