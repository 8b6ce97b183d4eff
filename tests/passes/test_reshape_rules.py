"""Rules for reshapes, expansions and transposes."""

import pytest

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build
from tests.passes.rule_cases import RuleCase, check_refused, check_rewritten, ints, node

BATCHES = ({"N": 1}, {"N": 3})
DYNAMIC = {"x": ("N", 3, 4, 6)}
TWO_DYNAMIC = {"x": ("N", "T", 4, 6)}
TWO_SIZES = ({"N": 1, "T": 5}, {"N": 3, "T": 2})


def chain(*steps: tuple[str, tuple[int, ...]], end: str = "Exp") -> tuple[list, dict]:
    """Nodes that each take a list of integers, and an operator behind them."""
    nodes, constants, value = [], {}, "x"
    for index, (op, numbers) in enumerate(steps):
        if op == "Flatten":
            nodes.append(node(op, [value], [f"v{index}"], axis=numbers[0]))
        elif op == "Transpose":
            nodes.append(node(op, [value], [f"v{index}"], **({"perm": numbers} if numbers else {})))
        else:
            constants[f"c{index}"] = ints(*numbers)
            nodes.append(node(op, [value, f"c{index}"], [f"v{index}"]))
        value = f"v{index}"
    nodes.append(node(end, [value], ["y"]))
    return nodes, constants


def reshapes(*steps: tuple[str, tuple[int, ...]], to: tuple[str, ...], rule: str = "merge-reshapes", **kw) -> RuleCase:
    return RuleCase(*chain(*steps), (*to, "Exp"), {rule: 1}, **kw)


DYNAMIC_AT = {"inputs": DYNAMIC, "at": BATCHES}
REWRITTEN = {
    "reshape reshape": reshapes(("Reshape", (0, -1)), ("Reshape", (12, 12)), to=("Reshape",)),
    "a copied batch": reshapes(("Reshape", (0, 12, 6)), ("Reshape", (0, 72)), to=("Reshape",), **DYNAMIC_AT),
    "a batch that moves": reshapes(("Reshape", (-1, 6)), ("Unsqueeze", (0,)), to=("Reshape",), **DYNAMIC_AT),
    "back to the start": reshapes(("Reshape", (0, -1)), ("Reshape", (-1, 3, 4, 6)), to=(), **DYNAMIC_AT),
    "flatten and unsqueeze": reshapes(("Flatten", (1,)), ("Unsqueeze", (1,)), to=("Reshape",), **DYNAMIC_AT),
    "unsqueezes": reshapes(
        ("Unsqueeze", (0,)), ("Unsqueeze", (-1,)), to=("Unsqueeze",), inputs=TWO_DYNAMIC, at=TWO_SIZES
    ),
    "squeezes": reshapes(
        ("Squeeze", (1,)), ("Squeeze", (-1,)), to=("Squeeze",), inputs={"x": ("N", 1, "T", 1)}, at=TWO_SIZES
    ),
    "unsqueeze and squeeze": reshapes(("Unsqueeze", (2,)), ("Squeeze", (2,)), to=(), inputs=TWO_DYNAMIC, at=TWO_SIZES),
    "a -1 beside a copy, as before": reshapes(
        ("Reshape", (0, -1)), ("Unsqueeze", (2,)), to=("Reshape",), inputs=TWO_DYNAMIC, at=TWO_SIZES
    ),
    "a shared inner reshape": RuleCase(
        [
            node("Reshape", ["x", "a"], ["r"]),
            node("Exp", ["r"], ["e"]),
            node("Reshape", ["r", "b"], ["s"]),
            node("Exp", ["s"], ["y"]),
        ],
        {"a": ints(6, 24), "b": ints(2, 3, 4, 6)},
        ["Reshape", "Exp", "Exp"],
        {"merge-reshapes": 1},
        outputs=("e", "y"),
    ),
    "reshape to itself": reshapes(("Reshape", (-1, 3, 4, 6)), to=(), rule="remove-reshape", **DYNAMIC_AT),
    "expand by ones": reshapes(("Expand", (1, 1, 4, 1)), to=(), rule="remove-reshape", **DYNAMIC_AT),
    "expand before add": RuleCase(
        [node("Expand", ["b", "to"], ["e"]), node("Add", ["x", "e"], ["y"])],
        {"to": ints(2, 3, 4, 6)},
        ["Add"],
        {"remove-expand": 1},
        inputs={"x": (2, 3, 4, 6), "b": (3, 1, 6)},
    ),
    "axes put in front": RuleCase(
        [node("Unsqueeze", ["b", "a"], ["u"]), node("Add", ["u", "x"], ["y"])],
        {"a": ints(0, 1)},
        ["Add"],
        {"remove-expand": 1},
        inputs={"x": ("N", 3, "T", 6), "b": ("T", 6)},
        at=TWO_SIZES,
    ),
    "transposes that cancel": reshapes(
        ("Transpose", (0, 2, 3, 1)), ("Transpose", (0, 3, 1, 2)), to=(), rule="merge-transposes"
    ),
    "a transpose without perm": reshapes(
        ("Transpose", ()), ("Transpose", (3, 1, 2, 0)), to=("Transpose",), rule="merge-transposes"
    ),
    "a transpose that moves nothing": reshapes(("Transpose", (0, 1, 2, 3)), to=(), rule="transpose-to-reshape"),
    "a transpose of axes of size 1": reshapes(
        ("Transpose", (0, 3, 1, 2)),
        to=("Reshape",),
        rule="transpose-to-reshape",
        inputs={"x": ("N", 4, 6, 1)},
        at=BATCHES,
    ),
    "matmul of transposed": RuleCase(
        [
            node("Transpose", ["x"], ["a"]),
            node("Transpose", ["b"], ["c"], perm=[1, 0]),
            node("MatMul", ["a", "c"], ["y"]),
        ],
        {},
        ["Gemm"],
        {"transpose-into-gemm": 1},
        inputs={"x": (4, "N"), "b": (5, 4)},
        at=BATCHES,
    ),
    "gemm of transposed twice": RuleCase(
        [node("Transpose", ["b"], ["c"], perm=[1, 0]), node("Gemm", ["x", "c", "k"], ["y"], transB=1, alpha=2.0)],
        {"k": ints(3).astype("float32")},
        ["Gemm"],
        {"transpose-into-gemm": 1},
        inputs={"x": (2, 4), "b": (4, 5)},
    ),
    "transposed product": RuleCase(
        [node("MatMul", ["x", "b"], ["m"]), node("Transpose", ["m"], ["y"], perm=[1, 0])],
        {},
        ["Gemm"],
        {"transpose-of-product": 1},
        inputs={"x": ("N", 4), "b": (4, 5)},
        at=BATCHES,
    ),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_becomes_what(case: str) -> None:
    check_rewritten(REWRITTEN[case])


def refused(*steps: tuple[str, tuple[int, ...]], **kw) -> RuleCase:
    return RuleCase(*chain(*steps), **kw)


REFUSED: dict[str, tuple[RuleCase, str, str]] = {
    "empty tensors": (
        refused(("Unsqueeze", (1,)), ("Flatten", (2,)), inputs=TWO_DYNAMIC),
        "merge-reshapes",
        "on an empty tensor a Reshape would fail",
    ),
    "two sizes that move": (
        refused(("Unsqueeze", (0,)), ("Reshape", (1, 0, 0, 24)), inputs=TWO_DYNAMIC),
        "merge-reshapes",
        "2 dynamic dimensions change their place",
    ),
    "a size of 0": (
        refused(("Unsqueeze", (0,)), ("Flatten", (1,)), inputs={"x": (0, 3)}),
        "merge-reshapes",
        "a dimension is 0",
    ),
    "squeeze of what may be 1": (
        RuleCase([node("Unsqueeze", ["x", "a"], ["u"]), node("Squeeze", ["u"], ["y"])], {"a": ints(0)}, inputs=DYNAMIC),
        "merge-reshapes",
        "removes the axes of size 1, and not all sizes are known",
    ),
    "a computed shape": (
        RuleCase(
            [
                node("Shape", ["b"], ["s"]),
                node("Reshape", ["x", "a"], ["r"]),
                node("Reshape", ["r", "s"], ["y"]),
            ],
            {"a": ints(-1)},
            inputs={"x": (2, 3), "b": ("N", "T")},
        ),
        "merge-reshapes",
        "is not constant",
    ),
    "a reshape to something else": (
        refused(("Reshape", (0, 4, 3, 6)), inputs=DYNAMIC),
        "remove-reshape",
        "changes the shape, or may",
    ),
    "an expand of what may be 1": (
        refused(("Expand", (5, 3, 4, 6)), inputs=DYNAMIC),
        "remove-reshape",
        "changes the shape, or may",
    ),
    "an expand that is needed": (
        RuleCase(
            [node("Expand", ["b", "to"], ["e"]), node("Add", ["x", "e"], ["y"])],
            {"to": ints(2, 3, 4)},
            inputs={"x": (1, 3, 4), "b": (3, 1)},
        ),
        "remove-expand",
        "reads no Expand that it can do without",
    ),
    "an axis put elsewhere": (
        RuleCase(
            [node("Unsqueeze", ["b", "a"], ["u"]), node("Add", ["u", "x"], ["y"])],
            {"a": ints(1)},
            inputs={"x": (3, 3, 3), "b": (3, 3)},
        ),
        "remove-expand",
        "reads no Expand that it can do without",
    ),
    "axes that nothing else has": (
        RuleCase(
            [node("Unsqueeze", ["b", "a"], ["u"]), node("Add", ["u", "x"], ["y"])],
            {"a": ints(0)},
            inputs={"x": (3,), "b": (3,)},
        ),
        "remove-expand",
        "reads no Expand that it can do without",
    ),
    "a transpose of long axes": (
        refused(("Transpose", (0, 2, 1, 3)), inputs=DYNAMIC),
        "transpose-to-reshape",
        "moves axes whose size is not 1",
    ),
    "a transpose of two dynamic axes": (
        refused(("Transpose", (2, 0, 1, 3)), inputs={"x": ("N", "T", 1, 6)}),
        "transpose-to-reshape",
        "2 dynamic dimensions change their place",
    ),
    "a product of stacks": (
        RuleCase(
            [node("Transpose", ["b"], ["c"], perm=[1, 0]), node("MatMul", ["x", "c"], ["y"])],
            inputs={"x": (2, 3, 4), "b": (5, 4)},
        ),
        "transpose-into-gemm",
        "x or c is not known to be a matrix",
    ),
    "a transposed product of stacks": (
        RuleCase(
            [node("MatMul", ["x", "b"], ["m"]), node("Transpose", ["m"], ["y"], perm=[0, 2, 1])],
            inputs={"x": (2, 3, 4), "b": (4, 5)},
        ),
        "transpose-of-product",
        "x or b is not known to be a matrix",
    ),
    "a product of integers": (
        RuleCase(
            [
                node("Cast", ["x"], ["i"], to=6),
                node("Transpose", ["i"], ["t"], perm=[1, 0]),
                node("MatMul", ["t", "i"], ["m"]),
                node("Cast", ["m"], ["y"], to=1),
            ],
            inputs={"x": (3, 4)},
        ),
        "transpose-into-gemm",
        "which not every Gemm takes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(*REFUSED[case])


def test_a_squeeze_of_an_old_opset_keeps_its_axes_as_an_attribute() -> None:
    source = build.model([node("Relu", ["x"], ["y"])], {"x": (2, 1, 1)}, {"y": None})
    relu = source.graph[0]
    names = ir.NameAuthority(source)
    value = relu.outputs[0]
    for index in range(2):
        squeeze = ir.Node("", "Squeeze", [value], [ir.AttrInt64s("axes", [1])], name=names.node(f"squeeze{index}"))
        squeeze.outputs[0].name = names.value(f"s{index}")
        source.graph.append(squeeze)
        value = squeeze.outputs[0]
    source.graph.outputs[0] = value
    source.opset_imports[""] = 11
    assert Fuse().apply(source, PassContext()).stats == {"merge-reshapes": 1}
    assert [(n.op_type, len(n.inputs)) for n in source.graph] == [("Relu", 1), ("Squeeze", 1)]
    assert ir.attribute(source.graph[1], "axes", (0,)) == (1, 2)
