"""Every row for weights in blocks, on the runtime itself: does it run, and does it compute what the integers say?"""

import dataclasses
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.backends.onnxruntime import table
from sardonyx.capabilities import BlockSupport
from sardonyx.measure import Session, describe_machine
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.weight_only.grid import BlockGrid
from sardonyx.passes.quantization.weight_only.quantize import QuantizeWeights
from sardonyx.passes.quantization.weight_only.rounding import round_to_nearest
from tests import models_for_tests as build

CAPABILITIES = table.capabilities(describe_machine())
ROWS, COLUMNS = 24, 512
WEIGHT = build.weights(ROWS, COLUMNS)
CASES = [(row, bits, block) for row in table.BLOCKS for bits, block in product(row.bits, row.blocks)]


def model_of(op_type: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    if op_type == "Gather":
        indices = helper.make_tensor_value_info("i", TensorProto.INT64, ["N", "T"])
        source = build.proto([helper.make_node("Gather", ["w", "i"], ["y"])], {}, {"y": None}, {"w": WEIGHT})
        source.graph.input.append(indices)
        return source, {"i": np.array([[3, 0, 23], [5, 5, 1]])}
    attributes = {"transB": 1} if op_type == "Gemm" else {}
    weight = WEIGHT if op_type == "Gemm" else np.ascontiguousarray(WEIGHT.T)
    node = helper.make_node(op_type, ["x", "w"], ["y"], **attributes)
    return build.proto([node], {"x": ["N", COLUMNS]}, {"y": None}, {"w": weight}), {"x": build.weights(5, COLUMNS)}


def expected(op_type: str, weight: np.ndarray, feed: dict[str, np.ndarray]) -> np.ndarray:
    return weight[feed["i"]] if op_type == "Gather" else feed["x"] @ weight.T


@pytest.mark.parametrize(("row", "bits", "block"), CASES, ids=[f"{r.op_type}-{bits}-{n}" for r, bits, n in CASES])
@pytest.mark.parametrize("fast", [True, False])
def test_row_runs(row: BlockSupport, bits: int, block: int, fast: bool) -> None:
    if row.op_type == "Gather" and bits == 4:
        bits = 8  # the pass stores tables with 8 bits
    source, feed = model_of(row.op_type)
    model = ir.load(source).model
    activations = "int8" if fast else "float"
    options = QuantizeWeights(bits=bits, block=block, method="rtn", activations=activations)
    options.apply(model, PassContext(CAPABILITIES))
    assert row.kernel in {(node.domain, node.op_type) for node in model.graph}
    with Session(ir.serialize(model)) as session:
        actual = session.run(feed)[0]
    symmetric = row.op_type == "Gather"
    wanted = expected(row.op_type, round_to_nearest(WEIGHT, BlockGrid(bits, block, symmetric)).dequantize(), feed)
    # rounding activations to 8 bits a block: an error of about half a percent
    limit = 0.02 if fast and row.attributes else 1e-5
    assert np.linalg.norm(actual - wanted) <= limit * np.linalg.norm(wanted)


def test_the_fast_attributes_do_what_their_note_says() -> None:
    row = CAPABILITIES.blocks["MatMul"]
    assert row.attributes == {"accuracy_level": 4}
    source, feed = model_of("MatMul")
    outputs = []
    for level in (row.attributes, {}):
        blocks = {"MatMul": dataclasses.replace(row, attributes=level)}
        model = ir.load(source).model
        QuantizeWeights(method="rtn").apply(model, PassContext(dataclasses.replace(CAPABILITIES, blocks=blocks)))
        with Session(ir.serialize(model)) as session:
            outputs.append(session.run(feed)[0])
    assert 0 < np.linalg.norm(outputs[0] - outputs[1]) < 0.02 * np.linalg.norm(outputs[1])
