"""Loops with a constant trip count become their iterations."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.folding.loops import UnrollLoops
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
info = helper.make_tensor_value_info
FEED = {"x": np.array([0.5, -1.0], np.float32)}


def body(nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
    inputs = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("s", TensorProto.FLOAT, [2])]
    return helper.make_graph(nodes, "body", inputs, outputs, [helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])])


def looping(trips: int | None = 3, condition: str = "pass", *, opset: int = 17, scan: bool = True) -> onnx.ModelProto:
    """A state that doubles and adds the iteration's number, and collects what it was; `condition` says when it ends."""
    nodes = [
        node("Mul", ["s", "two"], ["doubled"]),
        node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
        node("Add", ["doubled", "number"], ["next"]),
    ]
    nodes += [node("Neg", ["next"], ["row"])] if scan else []
    conditions = {
        "pass": [node("Identity", ["go"], ["on"])],
        "true": [node("Constant", [], ["on"], value=helper.make_tensor("v", TensorProto.BOOL, [], [True]))],
        "computed": [node("ReduceMax", ["s"], ["top"], keepdims=0), node("Less", ["top", "two"], ["on"])],
    }
    outputs = [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [2])]
    outputs += [info("row", TensorProto.FLOAT, [2])] if scan else []
    loop = node(
        "Loop",
        ["trips" if trips is not None else "", "start", "x"],
        ["y", "rows"] if scan else ["y"],
        name="loop",
        body=body([*nodes, *conditions[condition]], outputs),
    )
    constants = {"start": np.array(True)} | ({} if trips is None else {"trips": np.array(trips, np.int64)})
    return build.proto([loop], {"x": [2]}, {"y": None} | ({"rows": None} if scan else {}), constants, opset)


class TestUnrollLoops(PassContract):
    instance = UnrollLoops()

    def sources(self) -> list[onnx.ModelProto]:
        kinds = [looping(3), looping(1, "computed"), looping(0), looping(2, "true"), looping(3, scan=False)]
        return [*kinds, looping(2, opset=12), looping(2, "computed")]

    def feed(self) -> dict[str, np.ndarray]:
        return FEED


def test_iterations_stand_in_a_row() -> None:
    model = ir.load(looping(2, scan=False)).model
    result = UnrollLoops().apply(model, PassContext())
    assert result.stats == {"unroll-loops": 1}
    assert build.operators(model) == ["Mul", "Cast", "Add", "Mul", "Cast", "Add"]
    assert len({value.name for value in ir.graph_values(model.graph)}) == sum(1 for _ in ir.graph_values(model.graph))


def test_a_loop_that_never_runs_leaves_its_initial_state_and_collects_nothing() -> None:
    model = ir.load(looping(0)).model
    UnrollLoops().apply(model, PassContext())
    assert build.operators(model) == ["Identity", "Identity"]
    y, rows = build.run(model, FEED)
    np.testing.assert_array_equal(y, FEED["x"])
    assert rows.shape == (0, 2)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (looping(3, "computed"), "computes in 'on' whether it goes on"),
        (looping(1000), "above the budget of 64"),
        (looping(None, "computed"), "computed when the model runs"),
    ],
)
def test_refusals(source: onnx.ModelProto, reason: str) -> None:
    model = ir.load(source).model
    result = UnrollLoops().apply(model, PassContext())
    assert not result.modified
    assert [reason in refusal.reason for refusal in result.refusals] == [True]
    assert result.refusals[0].nodes == ("loop",)


def test_a_trip_count_that_is_an_input_is_refused() -> None:
    source = looping(3)
    source.graph.input.append(info("trips", TensorProto.INT64, []))
    model = ir.load(source).model
    assert "computed when the model runs" in UnrollLoops().apply(model, PassContext()).refusals[0].reason


def test_a_loop_inside_a_loop() -> None:
    inner = looping(2, scan=False).graph.node[0]
    inner.input[2], inner.output[0], inner.name = "s", "next", "inner"
    outer = body(
        [inner, node("Identity", ["go"], ["on"])],
        [info("on", TensorProto.BOOL, []), info("next", TensorProto.FLOAT, [2])],
    )
    for graph in (inner.attribute[0].g,):  # names of the inner body are its own
        for value in graph.input:
            value.name = f"inner_{value.name}"
        for inner_node in graph.node:
            names = [f"inner_{name}" for name in inner_node.input], [f"inner_{name}" for name in inner_node.output]
            inner_node.input[:], inner_node.output[:] = names
        for value in (*graph.output, *graph.initializer):
            value.name = f"inner_{value.name}"
    loop = node("Loop", ["trips", "start", "x"], ["y"], name="outer", body=outer)
    constants = {"start": np.array(True), "trips": np.array(2, np.int64)}
    source = build.proto([loop], {"x": [2]}, {"y": None}, constants)
    model = ir.load(source).model
    assert UnrollLoops().apply(model, PassContext()).stats == {"unroll-loops": 2}
    assert build.operators(model).count("Add") == 4
    np.testing.assert_array_equal(build.run(model, FEED)[0], build.run(source, FEED)[0])
