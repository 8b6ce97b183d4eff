"""Which types a schema accepts at the inputs and outputs of a node."""

from sardonyx import ir

FLOAT, FLOAT16, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16


def formal(op_type: str, inputs: int, outputs: int = 1, opset: int = 17, domain: str = "") -> ir.NodeTypes | None:
    values = [ir.val(f"x{index}") for index in range(inputs)]
    node = ir.Node(domain, op_type, values, num_outputs=outputs)
    return ir.formal_types(node, {"": opset})


def test_inputs_that_share_a_variable_share_a_type() -> None:
    types = formal("Add", 2)
    assert types is not None
    assert types.inputs[0] == types.inputs[1] == types.outputs[0]
    assert {FLOAT, FLOAT16, BFLOAT16} <= types.inputs[0].dtypes


def test_variadic_inputs_and_outputs_repeat() -> None:
    concat, split = formal("Concat", 5), formal("Split", 1, outputs=3)
    assert concat is not None
    assert split is not None
    assert [t.variable for t in concat.inputs] == ["T"] * 5
    assert [t.variable for t in split.outputs] == ["T"] * 3


def test_a_fixed_type_is_its_own_variable() -> None:
    types = formal("Resize", 3)
    assert types is not None
    assert types.inputs[2] == ir.FormalType("tensor(float)", frozenset({FLOAT}))


def test_types_depend_on_the_opset() -> None:
    old, new = formal("Conv", 2), formal("Conv", 2, opset=22)
    assert old is not None
    assert new is not None
    assert BFLOAT16 not in old.inputs[0].dtypes
    assert BFLOAT16 in new.inputs[0].dtypes


def test_sequences_are_no_element_type() -> None:
    types = formal("ConcatFromSequence", 1)
    assert types is not None
    assert types.inputs[0].dtypes == frozenset()
    assert FLOAT in types.outputs[0].dtypes


def test_unknown_operators_and_domains_have_no_types() -> None:
    assert formal("Gelu", 1, opset=17) is None
    assert formal("Gelu", 1, domain="com.microsoft") is None
