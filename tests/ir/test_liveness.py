"""Peak memory of activations, by hand."""

from onnx import TensorProto, helper

from sardonyx import ir
from tests import models_for_tests as build


def test_a_value_is_needed_until_its_last_use() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], name="exp"),  # x and a: 80 bytes
        helper.make_node("Concat", ["a", "a", "a"], ["b"], axis=0, name="concat"),  # a and b: 160
        helper.make_node("Add", ["b", "b"], ["c"], name="add"),  # b and c: 240
        helper.make_node("ReduceSum", ["c"], ["y"], keepdims=0, name="sum"),  # c and y: 124
    ]
    model = build.model(nodes, {"x": [10]}, {"y": []})
    ir.ensure_shapes(model)
    assert ir.peak_activations(model) == ir.Peak(240, "add", 0)


def test_inputs_and_skipped_values_stay() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], name="exp"),
        helper.make_node("Neg", ["a"], ["b"], name="neg"),  # x, a and b: 120
        helper.make_node("Add", ["b", "x"], ["y"], name="add"),  # b, x and y: 120
    ]
    model = build.model(nodes, {"x": [10]}, {"y": [10]})
    ir.ensure_shapes(model)
    assert ir.peak_activations(model) == ir.Peak(120, "neg", 0)


def test_bodies_count_while_their_node_runs() -> None:
    def branch(name: str, op: str) -> object:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [10])
        inner = [helper.make_node(op, ["x"], [f"{name}_i"]), helper.make_node("Abs", [f"{name}_i"], [name])]
        return helper.make_graph(inner, name, [], [out])

    nodes = [
        helper.make_node("Cast", ["p"], ["q"], to=TensorProto.BOOL),
        helper.make_node("If", ["q"], ["y"], then_branch=branch("t", "Exp"), else_branch=branch("e", "Neg"), name="if"),
    ]
    model = build.model(nodes, {"x": [10], "p": []}, {"y": [10]})
    ir.ensure_shapes(model)
    assert ir.peak_activations(model).nbytes == 40 + 1 + 40 + 80, "x, q, y, and both values of a branch"


def test_sizes_are_given_to_symbolic_dimensions() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="exp")]
    model = build.model(nodes, {"x": ["N", 10]}, {"y": ["N", 10]})
    assert ir.set_dims(model, {"N": 4, "M": 2}) == ("M",)
    ir.ensure_shapes(model)
    assert ir.peak_activations(model).nbytes == 2 * 160
    assert ir.describe_type(model.graph.outputs[0]) == "FLOAT[4x10]"


def test_what_is_not_known_is_counted() -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["a"], domain="none"), helper.make_node("Exp", ["a"], ["y"])]
    model = build.model(nodes, {"x": [10]}, {"y": [10]})
    ir.ensure_shapes(model)
    assert ir.peak_activations(model).unknown == 1
