"""The opset rises where a later operator takes the place of what is written out, and to the first that has it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.errors import SpecError
from sardonyx.measure import describe_machine
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.fuse import Fuse
from sardonyx.passes.fusion.raise_opset import RaiseOpset
from sardonyx.passes.provenance import mark, sources
from tests import models_for_tests as build
from tests.passes.contract import PassContract

Nodes = list[onnx.NodeProto]
SHAPE = ("n", 4, 8)
CONSTANTS: Mapping[str, np.ndarray] = {
    "two": np.float32(2),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "root_two": np.float32(2**0.5),
    "epsilon": np.float32(1e-5),
    "scale": build.weights(8, seed=1),
    "bias": build.weights(8, seed=2),
}


def gelu(x: str = "x", y: str = "y") -> Nodes:
    """x / 2 * (1 + erf(x / sqrt(2)))."""
    return [
        helper.make_node("Div", [x, "root_two"], ["g0"], name="gelu_div"),
        helper.make_node("Erf", ["g0"], ["g1"], name="gelu_erf"),
        helper.make_node("Add", ["g1", "one"], ["g2"], name="gelu_add"),
        helper.make_node("Mul", [x, "g2"], ["g3"], name="gelu_gate"),
        helper.make_node("Mul", ["g3", "half"], [y], name="gelu"),
    ]


def layer_norm(x: str = "x", y: str = "y") -> Nodes:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias, axes as attributes."""
    return [
        helper.make_node("ReduceMean", [x], ["l0"], axes=[-1], name="mean"),
        helper.make_node("Sub", [x, "l0"], ["l1"], name="centre"),
        helper.make_node("Pow", ["l1", "two"], ["l2"], name="square"),
        helper.make_node("ReduceMean", ["l2"], ["l3"], axes=[-1], name="variance"),
        helper.make_node("Add", ["l3", "epsilon"], ["l4"], name="shift"),
        helper.make_node("Sqrt", ["l4"], ["l5"], name="deviation"),
        helper.make_node("Div", ["l1", "l5"], ["l6"], name="norm"),
        helper.make_node("Mul", ["l6", "scale"], ["l7"], name="norm_scale"),
        helper.make_node("Add", ["l7", "bias"], [y], name="norm_bias"),
    ]


def source(nodes: Nodes, opset: int = 14) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in CONSTANTS.items() if name in used}
    return build.proto(nodes, {"x": SHAPE}, {"y": None}, constants, opset)


def raised(proto: onnx.ModelProto, newest: int = 20, context: PassContext | None = None) -> tuple[ir.Model, PassResult]:
    model = ir.load(proto).model
    return model, RaiseOpset(newest).apply(model, context or PassContext())


class TestRaiseOpset(PassContract):
    instance = RaiseOpset()

    def sources(self) -> list[onnx.ModelProto]:
        return [source(gelu()), source(layer_norm()), source(gelu(), 20)]

    def feed(self) -> dict[str, np.ndarray]:
        return {"x": build.weights(3, 4, 8, seed=3)}


GOLDEN = {
    "gelu": (gelu(), 17, 20, ["Gelu"]),
    "layer normalization": (layer_norm(), 14, 17, ["LayerNormalization"]),
    "both": ([*layer_norm(y="h"), *gelu("h")], 14, 20, ["LayerNormalization", "Gelu"]),
    "neither": ([helper.make_node("Erf", ["x"], ["y"], name="erf")], 14, 14, ["Erf"]),
    "new enough": (gelu(), 21, 21, ["Gelu"]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name: str) -> None:
    nodes, before, after, operators = GOLDEN[name]
    proto = source(nodes, before)
    model, result = raised(proto)
    assert model.opset_imports[""] == after
    assert result.modified is (after > before)
    Fuse().apply(model, PassContext())
    assert build.operators(model) == operators
    for batch in (0, 1, 3):
        feed = {"x": build.weights(batch, 4, 8, seed=batch)}
        for old, new in zip(build.run(proto, feed), build.run(model, feed), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)  # the mean is summed in another order


def test_conversion_alone_is_exact() -> None:
    proto = source([*layer_norm(y="h"), *gelu("h")])
    model, _ = raised(proto)
    feed = {"x": build.weights(3, 4, 8, seed=5)}
    np.testing.assert_array_equal(build.run(model, feed)[0], build.run(proto, feed)[0])


def refused() -> Iterator[tuple[str, Nodes]]:
    yield "another number", [*gelu()[:-1], helper.make_node("Mul", ["g3", "two"], ["y"])]
    yield "computed scale", [*gelu()[:-1], helper.make_node("Mul", ["g3", "x"], ["y"])]
    yield "read in mid-pattern", [*gelu(y="z"), helper.make_node("Add", ["z", "g2"], ["y"])]


@pytest.mark.parametrize(("nodes"), [nodes for _, nodes in refused()], ids=[name for name, _ in refused()])
def test_stays_where_nothing_would_fuse(nodes: Nodes) -> None:
    model, result = raised(source(nodes))
    assert model.opset_imports[""] == 14
    assert not result.modified


def test_stops_at_the_newest_asked_for() -> None:
    model, _ = raised(source([*layer_norm(y="h"), *gelu("h")]), newest=17)
    assert model.opset_imports[""] == 17
    with pytest.raises(SpecError, match="no opset 99"):
        RaiseOpset(99)


def test_stops_at_the_newest_that_the_target_takes() -> None:
    table = backend("onnxruntime").capabilities(describe_machine())
    context = PassContext(replace(table, newest_opset=19))
    model, result = raised(source(gelu(), 17), context=context)
    assert model.opset_imports[""] == 17
    assert not result.modified


def test_says_why_a_model_stays() -> None:
    proto = source(gelu("h"))
    proto.graph.node.insert(0, helper.make_node("Twice", ["x"], ["h"], domain="f", name="twice"))
    proto.opset_import.add(domain="f", version=1)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("f", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 14)]))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, SHAPE))
    model, result = raised(proto)
    assert model.opset_imports[""] == 14
    assert not result.modified
    (refusal,) = result.refusals
    assert refusal.reason == (
        "The standard opset stays at 14: the model defines functions, which ONNX's converter would lose."
    )
    assert refusal.nodes == ("gelu",)


def test_keeps_provenance_types_and_weights_in_branches_too() -> None:
    inner = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["r"], axes=[-1], name="inner")],
        "then",
        [],
        [helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, None)],
    )
    branch = helper.make_node("If", ["yes"], ["b"], name="if", then_branch=inner, else_branch=inner)
    proto = source([*gelu(y="z"), branch, helper.make_node("Add", ["z", "b"], ["y"], name="end")])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model = ir.load(proto).model
    for graph in ir.all_graphs(model):
        for node in graph:
            mark(node, "rule", f"from_{node.name}")
    shapes = {value.name: value.shape for value in ir.graph_values(model.graph)}
    assert RaiseOpset().apply(model, PassContext()).modified
    marked = {name for graph in ir.all_graphs(model) for node in graph for name in sources(node)}
    assert marked == {f"from_{node.name}" for node in (*gelu(), branch)} | {"from_end", "from_inner", "from_inner_1"}
    kept = {value.name: value.shape for value in ir.graph_values(model.graph) if value.name in shapes}
    assert kept == shapes
    feed = {"x": build.weights(2, 4, 8, seed=5)}
    np.testing.assert_array_equal(build.run(model, feed)[0], build.run(proto, feed)[0])
