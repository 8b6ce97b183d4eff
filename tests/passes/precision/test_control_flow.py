"""Types across the boundary of If, Loop and Scan bodies."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.passes.precision.convert import ConvertFloat
from tests import models_for_tests as build
from tests.passes.precision.precision_models import assert_close, convert, counts, reasons, types

node, info = helper.make_node, helper.make_tensor_value_info
FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
WIDE = [4, 64]
WEIGHT = build.weights(64, 64, scale=0.1)


def wide(seed: int = 3) -> dict[str, np.ndarray]:
    return {"x": build.weights(*WIDE, seed=seed, scale=1.0)}


def branch(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    weight = numpy_helper.from_array(build.weights(64, 64, seed=5, scale=0.1), f"{name}_w")
    return helper.make_graph(nodes, name, [], [info(output, TensorProto.FLOAT, WIDE)], [weight])


def conditional(else_nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """MatMul, an If on the sum of its input whose branches read the MatMul's output, MatMul."""
    then_branch = branch("then", [node("MatMul", ["h", "then_w"], ["then_y"], name="then_matmul")], "then_y")
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["flag"]),
        node("If", ["flag"], ["i"], then_branch=then_branch, else_branch=branch("else", else_nodes, "else_y")),
        node("MatMul", ["i", "w"], ["y"]),
    ]
    return build.proto(nodes, {"x": WIDE}, {"y": WIDE}, {"w": WEIGHT, "zero": np.float32(0)})


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_and_what_they_capture_are_converted(sign: int) -> None:
    source = conditional([node("MatMul", ["h", "else_w"], ["else_y"])])
    model, _ = convert(source)
    assert types(model, "If") == [FLOAT16]
    assert types(model, "MatMul") == [FLOAT16] * 4
    assert counts(model)["Cast"] == 2
    assert_close(source, model, {"x": sign * np.abs(wide()["x"])})


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_of_two_types_agree_by_a_cast_inside(sign: int) -> None:
    source = conditional([node("Exp", ["h"], ["else_y"], name="exp")])
    model, result = convert(source)
    assert set(reasons(result)) >= {"exp"}
    assert types(model, "If") == [FLOAT16]
    body = next(graph for graph in ir.all_graphs(model) if graph.name == "else")
    assert body.outputs[0].dtype == FLOAT16
    assert body.outputs[0].name == "else_y"
    assert_close(source, model, {"x": sign * np.abs(wide()["x"])})


def test_a_branch_that_returns_a_constant() -> None:
    source = conditional([node("Constant", [], ["else_y"], value=numpy_helper.from_array(np.ones(WIDE, np.float32)))])
    model, _ = convert(source)
    assert types(model, "If") == [FLOAT16]
    assert_close(source, model, {"x": -np.abs(wide()["x"])})


def loop(body_nodes: list[onnx.NodeProto], state: str, keep: str = "ok") -> onnx.ModelProto:
    """A MatMul, a Loop of three iterations over a state that also stacks it, and a MatMul."""
    body = helper.make_graph(
        [*body_nodes, node("Identity", ["going"], ["ok"], name="keep_going")],
        "body",
        [
            info("number", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("s", TensorProto.FLOAT, WIDE),
        ],
        [info(keep, TensorProto.BOOL, []), info(state, TensorProto.FLOAT, WIDE), info("seen", TensorProto.FLOAT, WIDE)],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Loop", ["times", "", "h"], ["last", "all"], body=body),
        node("MatMul", ["last", "w"], ["y"]),
        node("MatMul", ["all", "w"], ["z"]),
    ]
    return build.proto(
        nodes, {"x": WIDE}, {"y": WIDE, "z": ["n", *WIDE]}, {"w": WEIGHT, "times": np.array(3, np.int64)}
    )


def test_a_loop_carries_its_state_in_16_bits() -> None:
    nodes = [node("MatMul", ["s", "w"], ["m"]), node("Tanh", ["m"], ["next"]), node("Relu", ["next"], ["seen"])]
    source = loop(nodes, "next")
    model, _ = convert(source)
    assert types(model, "Loop") == [FLOAT16]
    body = next(graph for graph in ir.all_graphs(model) if graph.name == "body")
    assert [v.dtype for v in (*body.inputs[2:], *body.outputs[1:])] == [FLOAT16] * 3
    assert counts(model)["Cast"] == 3
    assert_close(source, model, wide())


def test_a_sum_over_iterations_stays_in_fp32() -> None:
    nodes = [
        node("MatMul", ["h", "w"], ["m"]),
        node("Add", ["s", "m"], ["next"], name="sum"),
        node("Relu", ["m"], ["seen"]),
    ]
    source = loop(nodes, "next")
    model, result = convert(source)
    assert reasons(result)["sum"] == "next accumulates s over iterations"
    assert types(model, "Add") == [FLOAT]
    assert_close(source, model, wide())


def test_a_scan_over_states_and_slices() -> None:
    body = helper.make_graph(
        [
            node("MatMul", ["slice", "w"], ["a"]),
            node("MatMul", ["s", "w"], ["b"]),
            node("Add", ["a", "b"], ["c"]),
            node("Tanh", ["c"], ["next"]),
            node("Sigmoid", ["c"], ["gate"]),
        ],
        "step",
        [info("s", TensorProto.FLOAT, [4, 64]), info("slice", TensorProto.FLOAT, [4, 64])],
        [info("next", TensorProto.FLOAT, [4, 64]), info("gate", TensorProto.FLOAT, [4, 64])],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("ReduceMax", ["h"], ["first"], axes=[0], keepdims=0),
        node("Scan", ["first", "h"], ["last", "gates"], body=body, num_scan_inputs=1),
        node("MatMul", ["gates", "w"], ["y"]),
        node("MatMul", ["last", "w"], ["z"]),
    ]
    source = build.proto(nodes, {"x": [6, 4, 64]}, {"y": None, "z": None}, {"w": WEIGHT})
    model, _ = convert(source)
    assert types(model, "Scan") == [FLOAT16]
    body_graph = next(graph for graph in ir.all_graphs(model) if graph.name == "step")
    assert {v.dtype for v in (*body_graph.inputs, *body_graph.outputs)} == {FLOAT16}
    assert_close(source, model, {"x": build.weights(6, 4, 64, scale=1.0)})


def test_twice_is_once_with_bodies() -> None:
    for source in (
        conditional([node("Exp", ["h"], ["else_y"])]),
        loop([node("MatMul", ["s", "w"], ["next"]), node("Exp", ["s"], ["seen"])], "next"),
    ):
        model, first = convert(source)
        digest = ir.digest(model)
        again = ConvertFloat()(model)
        assert (first.modified, again.modified) == (True, False)
        assert ir.digest(model) == digest
