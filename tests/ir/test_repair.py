"""Each repair: the broken model, what is reported, and that the function stays."""

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sardonyx import ir
from sardonyx.errors import LoadError
from tests.ir.models import linear, model


def kinds(loaded: ir.LoadedModel) -> list[str]:
    return [repair.kind for repair in loaded.repairs]


def run(loaded: ir.LoadedModel, **feeds: np.ndarray) -> list[np.ndarray]:
    assert ir.verify(loaded.model) == ()
    return ReferenceEvaluator(ir.to_proto(loaded.model)).run(None, feeds)


def duplicate() -> onnx.ModelProto:
    """The name `embedding` is an inner value and an output; the output is 10 * relu(x) + 1."""
    return model(
        [
            helper.make_node("Relu", ["x"], ["embedding"], name="inner"),
            helper.make_node("Mul", ["embedding", "ten"], ["scaled"], name="mul"),
            helper.make_node("Add", ["scaled", "one"], ["embedding"], name="outer"),
            helper.make_node("Neg", ["embedding"], ["negative"], name="after"),
        ],
        {"x": [2]},
        {"embedding": [2], "negative": [2]},
        {"ten": np.float32([10]), "one": np.float32([1])},
    )


def test_value_defined_twice() -> None:
    loaded = ir.load(duplicate())
    assert kinds(loaded) == ["duplicate-value"]
    assert loaded.repairs[0].names == ("embedding",)
    assert [value.name for value in loaded.model.graph.outputs] == ["embedding", "negative"]
    result, negative = run(loaded, x=np.float32([1, -1]))
    np.testing.assert_array_equal(result, [11, 1])
    np.testing.assert_array_equal(negative, [-11, -1])


def test_value_defined_twice_captured_by_a_subgraph() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["b", "x"], ["a"]),
    ]
    loaded = ir.load(model(nodes, {"x": [2]}, {"a": [2]}))
    np.testing.assert_array_equal(run(loaded, x=np.float32([3, -1]))[0], [0, -1])


def test_initializer_and_node_of_one_name() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["w"]), helper.make_node("Relu", ["w"], ["y"])]
    loaded = ir.load(model(nodes, {"x": [1]}, {"y": [1]}, {"w": np.float32([2])}))
    assert run(loaded, x=np.float32([1]))[0] == 3


def test_input_keeps_its_name() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["x"]), helper.make_node("Relu", ["x"], ["y"])]
    loaded = ir.load(model(nodes, {"x": [1]}, {"y": [1]}))
    assert run(loaded, x=np.float32([-4]))[0] == 4


def test_name_that_is_input_and_computed_output() -> None:
    with pytest.raises(LoadError, match="'x' is an input"):
        ir.load(model([helper.make_node("Neg", ["x"], ["x"])], {"x": [1]}, {"x": [1]}))


def test_values_of_a_graph_that_share_a_name() -> None:
    graph = onnx_ir.from_proto(linear())
    graph.graph[0].outputs[0].name = "y"
    loaded = ir.load(graph)
    assert kinds(loaded) == ["duplicate-value"]
    assert loaded.model.graph.outputs[0].name == "y"
    assert loaded.model.graph[0].outputs[0].name != "y"
    assert ir.verify(loaded.model) == ()


def test_inner_value_that_hides_an_outer_one() -> None:
    then_graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["c"], then_branch=then_graph, else_branch=then_graph),
        helper.make_node("Add", ["h", "c"], ["y"]),
    ]
    loaded = ir.load(model(nodes, {"x": [2]}, {"y": [2]}))
    assert "duplicate-value" in kinds(loaded)
    np.testing.assert_array_equal(run(loaded, x=np.float32([3, -1]))[0], [6, -1])


@pytest.mark.parametrize("as_graph", [False, True])
def test_unsorted_nodes(as_graph: bool) -> None:
    proto = linear(np.ones((4, 3), np.float32))
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    loaded = ir.load(onnx_ir.from_proto(proto) if as_graph else proto)
    assert kinds(loaded) == ["unsorted-nodes"]
    assert loaded.repairs[0].names == ("relu",)
    assert [node.name for node in loaded.model.graph] == ["matmul", "relu"]


def test_unsorted_nodes_in_a_subgraph() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["m"], ["o"]), helper.make_node("Relu", ["late"], ["m"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Abs", ["x"], ["late"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
    ]
    loaded = ir.load(model(nodes, {"x": [2]}, {"y": [2]}))
    assert "unsorted-nodes" in kinds(loaded)
    np.testing.assert_array_equal(run(loaded, x=np.float32([3, -1]))[0], [-3, -1])


def test_long_reversed_chain_needs_no_recursion() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(3000)]
    loaded = ir.load(model(reversed(nodes), {"v0": [1]}, {"v3000": [1]}))
    assert [node.name for node in loaded.model.graph] == [f"n{i}" for i in range(3000)]


def add_weights(ir_version: int, inputs: tuple[str, ...]) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    constants = {"a": np.float32([1]), "b": np.float32([2])}
    return model(nodes, {"x": [1], **{n: [1] for n in inputs}}, {"y": [1]}, constants, opset=13, ir_version=ir_version)


@pytest.mark.parametrize(
    ("ir_version", "listed", "kept"),
    [(3, ("a", "b"), ()), (3, ("a",), ()), (8, ("a", "b"), ()), (8, ("a",), ("a",)), (8, (), ())],
)
def test_initializers_among_inputs(ir_version: int, listed: tuple[str, ...], kept: tuple[str, ...]) -> None:
    loaded = ir.load(add_weights(ir_version, listed))
    assert [value.name for value in loaded.model.graph.inputs] == ["x", *kept]
    assert ("initializer-input" in kinds(loaded)) == (listed != kept)
    assert loaded.model.ir_version >= 4
    constants = [ir.constant_tensor(loaded.model.graph.initializers[n]) is not None for n in ("a", "b")]
    assert constants == [n not in kept for n in ("a", "b")]


def test_node_names() -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"], name="same")],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="same"),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch, name="if"),
        helper.make_node("Add", ["b", "r"], ["y"]),
    ]
    loaded = ir.load(model(nodes, {"x": [2]}, {"y": [2]}))
    names = [node.name for graph in ir.all_graphs(loaded.model) for node in graph]
    assert len(set(names)) == 6
    assert all(names)
    assert "if" in names
    assert "same" in names


@pytest.mark.parametrize(("dtype", "shape"), [(TensorProto.INT64, [2]), (TensorProto.FLOAT, [2, 1]), (1, [9])])
def test_stale_value_info(dtype: int, shape: list[int]) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="a"),
        helper.make_node("Neg", ["h"], ["y"], name="b"),
    ]
    infos = [helper.make_tensor_value_info(n, dtype, shape) for n in ("h", "nothing")]
    loaded = ir.load(model(nodes, {"x": [2]}, {"y": [2]}, value_info=infos))
    assert kinds(loaded) == ["stale-value-info"]
    assert loaded.repairs[0].names == ("h",)
    hidden = loaded.model.graph[0].outputs[0]
    assert (hidden.dtype, hidden.shape) == (ir.DataType.FLOAT, (2,))
    assert "nothing" not in ir.to_text(loaded.model)


def test_domain_alias() -> None:
    proto = linear()
    proto.opset_import[0].domain = "ai.onnx"
    loaded = ir.load(proto)
    assert kinds(loaded) == ["domain-alias"]
    assert loaded.model.opset_imports == {"": 17}


def test_constant_nodes_stay() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], name="c", value_float=2.0),
        helper.make_node("Mul", ["x", "c"], ["y"], name="m"),
    ]
    loaded = ir.load(model(nodes, {"x": [1]}, {"y": [1]}))
    assert ir.operator_counts(loaded.model) == {"Constant": 1, "Mul": 1}
    tensor = ir.constant_tensor(loaded.model.graph[0].outputs[0])
    assert tensor is not None
    assert tensor.numpy() == 2.0
