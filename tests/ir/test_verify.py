"""The verifier, rule by rule: one model that breaks each."""

from collections.abc import Callable

import numpy as np
import pytest

from sardonyx import ir
from sardonyx.errors import VerifyError
from sardonyx.ir import rules

SOUND = """
<ir_version: 10, opset_import: ["" : 17, "custom" : 1, "local" : 1]>
g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}>
{
  h = MatMul(x, w)
  k = custom.Anything <whatever = 1> (h)
  y = local.twice(k)
  z = If(c) <
    then_branch = t () => (float[N, 4] a) { a = Relu(h) },
    else_branch = e () => (float[N, 4] a) { b = Neg(h) a = Abs(b) }
  >
}
<domain: "local", opset_import: ["" : 17]>
twice (v) => (r) { r = Add(v, v) }
"""


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for graph in ir.all_graphs(model) for n in graph if n.op_type == op_type)


def w(model: ir.Model) -> ir.Value:
    return model.graph.initializers["w"]


def two_definitions(model: ir.Model) -> None:
    model.graph.inputs.append(model.graph.inputs[0])


def same_value_name(model: ir.Model) -> None:
    node(model, "Neg").outputs[0].name = "h"


def dangling(model: ir.Model) -> None:
    node(model, "Relu").replace_input_with(0, ir.Value(name="lost"))


def out_of_order(model: ir.Model) -> None:
    first = node(model, "MatMul")
    model.graph.remove(first)
    model.graph.append(first)


def leak(model: ir.Model) -> None:
    node(model, "Relu").replace_input_with(0, node(model, "Neg").outputs[0])


def removed_producer(model: ir.Model) -> None:
    model.graph.remove(node(model, "MatMul"))


def same_node_name(model: ir.Model) -> None:
    node(model, "Neg").name = node(model, "MatMul").name


def no_import(model: ir.Model) -> None:
    del model.opset_imports["custom"]


def unknown_operator(model: ir.Model) -> None:
    node(model, "Relu").op_type = "Relv"


def operator_of_a_later_opset(model: ir.Model) -> None:
    node(model, "Relu").op_type = "Gelu"


def deprecated_operator(model: ir.Model) -> None:
    node(model, "Abs").op_type = "Upsample"


def no_function(model: ir.Model) -> None:
    node(model, "twice").op_type = "thrice"


def too_few_inputs(model: ir.Model) -> None:
    node(model, "MatMul").resize_inputs(1)


def required_input_left_out(model: ir.Model) -> None:
    node(model, "MatMul").replace_input_with(1, None)


def too_many_inputs(model: ir.Model) -> None:
    node(model, "Abs").resize_inputs(2)


def unknown_attribute(model: ir.Model) -> None:
    node(model, "Abs").attributes.add(ir.AttrInt64("axis", 1))


def missing_attribute(model: ir.Model) -> None:
    node(model, "Abs").op_type = "Cast"


def no_data(model: ir.Model) -> None:
    w(model).const_value = None


def wrong_type(model: ir.Model) -> None:
    w(model).const_value = ir.tensor(np.zeros((4, 4), np.int8))


def wrong_shape(model: ir.Model) -> None:
    w(model).const_value = ir.tensor(np.zeros((4, 5), np.float32))


def output_of_nowhere(model: ir.Model) -> None:
    model.graph.outputs.append(ir.Value(name="nowhere"))


def outer_value_as_output(model: ir.Model) -> None:
    branch = node(model, "If").attributes["then_branch"].as_graph()
    branch.outputs[0] = node(model, "MatMul").outputs[0]


BROKEN: list[tuple[str, Callable[[ir.Model], None], str]] = [
    ("single-producer", two_definitions, "'x'"),
    ("unique-value-names", same_value_name, "'h'"),
    ("no-dangling-inputs", dangling, "'lost'"),
    ("defined-before-use", out_of_order, "'h'"),
    ("no-scope-leaks", leak, "'b'"),
    ("no-scope-leaks", removed_producer, "'h'"),
    ("unique-node-names", same_node_name, "MatMul"),
    ("opset-import", no_import, "'custom'"),
    ("known-operator", unknown_operator, "Relv"),
    ("known-operator", operator_of_a_later_opset, "Gelu is not an operator of opset 17"),
    ("known-operator", deprecated_operator, "deprecated"),
    ("function-calls", no_function, "local::thrice"),
    ("arity", too_few_inputs, "1 inputs"),
    ("arity", required_input_left_out, "number 1"),
    ("arity", too_many_inputs, "2 inputs"),
    ("attributes", unknown_attribute, "'axis'"),
    ("attributes", missing_attribute, "'to'"),
    ("initializer-data", no_data, "'w'"),
    ("initializer-type", wrong_type, "INT8"),
    ("initializer-type", wrong_shape, "5"),
    ("graph-outputs", output_of_nowhere, "'nowhere'"),
    ("graph-outputs", outer_value_as_output, "'h'"),
]


def test_sound_model_breaks_no_rule() -> None:
    model = ir.from_text(SOUND)
    assert ir.verify(model) == ()
    ir.require_valid(model)


@pytest.mark.parametrize(("rule", "damage", "message"), BROKEN, ids=[case[1].__name__ for case in BROKEN])
def test_each_rule(rule: str, damage: Callable[[ir.Model], None], message: str) -> None:
    model = ir.from_text(SOUND)
    damage(model)
    found = [violation for violation in ir.verify(model) if violation.rule == rule]
    assert found
    assert any(message in violation.message for violation in found)
    assert all(violation.where and violation.hint for violation in found)
    with pytest.raises(VerifyError, match=r"not valid"):
        ir.require_valid(model)


def quantized(scale: str, zero_point: str, axis: int = 0) -> ir.Model:
    return ir.from_text(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (int8[3, 2] q, {scale} s, {zero_point} z) => (y)
        {{ y = DequantizeLinear <axis = {axis}> (q, s, z) }}""")


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis", "message"),
    [
        ("float[3]", "int8[3]", 0, None),
        ("float", "int8", 5, None),
        ("float[2]", "int8[2]", 1, None),
        ("float[2]", "int8[2]", 0, "2 scales for 3 channels"),
        ("float[3]", "uint8[3]", 0, "type UINT8"),
        ("float[3]", "int8", 0, "shape"),
        ("float[3]", "int8[3]", 2, "axis 2"),
    ],
)
def test_quantization_rule(scale: str, zero_point: str, axis: int, message: str | None) -> None:
    found = ir.verify(quantized(scale, zero_point, axis))
    if message is None:
        assert found == ()
    else:
        assert [violation.rule for violation in found] == ["quantization"]
        assert message in found[0].message


def test_every_rule_has_a_test() -> None:
    tables = (
        rules.VALUE_RULES,
        rules.INPUT_RULES,
        rules.OPERATOR_RULES,
        rules.NODE_RULES,
        rules.INITIALIZER_RULES,
        rules.GRAPH_RULES,
    )
    names = [rule.name for table in tables for rule in table]
    assert len(set(names)) == len(names)
    assert set(names) == {case[0] for case in BROKEN} | {"quantization"}


def test_message_names_the_first_three() -> None:
    model = ir.from_text(SOUND)
    for damage in (unknown_operator, no_import, no_data, unknown_attribute):
        damage(model)
    with pytest.raises(VerifyError, match=r"\[initializer-data\].* and 1 more") as caught:
        ir.require_valid(model)
    assert caught.value.remedy


def test_all_nodes_of_a_broken_operator_are_named() -> None:
    model = ir.from_text(SOUND)
    for node in list(model.graph)[:2]:
        node.op_type, node.domain = "Nonsense", ""
    found = [violation for violation in ir.verify(model) if violation.rule == "known-operator"]
    assert [violation.where for violation in found] == [node.name or "" for node in list(model.graph)[:2]]
