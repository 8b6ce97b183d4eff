"""Rules for casts and for operators that do nothing."""

import numpy as np
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build
from tests.passes.rule_cases import RuleCase, check_refused, check_rewritten, ints, node

DYNAMIC = {"x": ("N", 3)}
SIZES = ({"N": 1}, {"N": 4})
FLOAT, INT8, INT32, INT64, BOOL, HALF, DOUBLE = 1, 3, 6, 7, 9, 10, 11


def casts(*types: int, to: int, rules: int = 1) -> RuleCase:
    """Casts through types and back to FLOAT, of which some remain."""
    steps = [*types, FLOAT]
    nodes = [node("Cast", [f"c{i}" if i else "x"], [f"c{i + 1}"], to=dtype) for i, dtype in enumerate(steps)]
    nodes.append(node("Exp", [f"c{len(steps)}"], ["y"]))
    return RuleCase(nodes, {}, [*["Cast"] * to, "Exp"], {"merge-casts": rules} if rules else {})


def neutral(op: str, constant: np.ndarray | float, *, first: bool = False, **kw) -> RuleCase:
    inputs = ["k", "x"] if first else ["x", "k"]
    nodes = [node(op, inputs, ["m"]), node("Exp", ["m"], ["y"])]
    kw = {"inputs": DYNAMIC, "at": SIZES} | kw
    return RuleCase(nodes, {"k": np.asarray(constant, np.float32)}, ["Exp"], {"remove-neutral": 1}, **kw)


def zero(op: str, constant: float, *readers: str, first: bool = False) -> RuleCase:
    """x + 0 or the like, read by operators in a row; the output stays as `becomes` says."""
    steps = [node(op, ["k", "x"] if first else ["x", "k"], ["v0"])]
    for step, reader in enumerate(readers):
        inputs = [f"v{step}", *{"Pow": ["power"], "Add": ["half"]}.get(reader, [])]
        inputs = ["half", f"v{step}"] if reader == "Div" else inputs
        steps.append(node(reader, inputs, [f"v{step + 1}"]))
    constants = {"k": np.float32(constant), "half": np.full((1, 3), 0.5, np.float32), "power": np.float32(3)}
    read = {name for step in steps for name in step.input}
    constants = {name: array for name, array in constants.items() if name in read}
    return RuleCase(steps, constants, readers, {"remove-zero": 1}, DYNAMIC, SIZES)


def idle(op: str, numbers: np.ndarray) -> RuleCase:
    nodes = [node(op, ["x", "k"], ["m"]), node("Exp", ["m"], ["y"])]
    return RuleCase(nodes, {"k": numbers}, ["Exp"], {"remove-idle": 1}, DYNAMIC, SIZES)


def where(condition: np.ndarray) -> RuleCase:
    nodes = [node("Where", ["k", "x", "z"], ["m"]), node("Exp", ["m"], ["y"])]
    inputs = {"x": ("N", 3), "z": ("N", 3)}
    return RuleCase(nodes, {"k": condition}, ["Exp"], {"remove-where": 1}, inputs, SIZES)


REWRITTEN = {
    "cast to the same": RuleCase(
        [node("Cast", ["x"], ["c"], to=FLOAT), node("Exp", ["c"], ["y"])], {}, ["Exp"], {"remove-cast": 1}
    ),
    "float through double": casts(DOUBLE, to=0),
    "half through float": casts(HALF, FLOAT, HALF, to=2, rules=1),
    "integers through wider ones": casts(INT32, INT64, INT32, to=2, rules=1),
    "integers through floats": casts(INT8, FLOAT, INT32, to=2, rules=2),
    "bools through integers": casts(BOOL, INT8, BOOL, INT32, to=2, rules=2),
    "times 1": neutral("Mul", np.ones((1, 3))),
    "1 times": neutral("Mul", 1.0, first=True),
    "by 1": neutral("Div", 1.0),
    "to the power of 1": neutral("Pow", [1.0]),
    "minus 0": neutral("Sub", 0.0),
    "plus -0": neutral("Add", -0.0),
    "plus 0": zero("Add", 0.0, "Tanh"),
    "0 plus": zero("Add", 0.0, "Relu", first=True),
    "minus -0": zero("Sub", -0.0, "Pow"),
    "plus 0, a division behind a sum with a number": zero("Add", 0.0, "Tanh", "Add", "Div"),
    "plus 0, a division behind an exponential": zero("Add", 0.0, "Exp", "Div"),
    "pad by nothing": idle("Pad", ints(0, 0, 0, 0)),
    "tile by ones": idle("Tile", ints(1, 1)),
    "dropout": RuleCase(
        [node("Dropout", ["x"], ["d", "mask"]), node("Exp", ["d"], ["y"])],
        {},
        ["Exp"],
        {"remove-idle": 1},
        DYNAMIC,
        SIZES,
    ),
    "sum of one": RuleCase(
        [
            node("Sum", ["x"], ["s"]),
            node("Max", ["s"], ["m"]),
            node("Concat", ["m"], ["c"], axis=0),
            node("Exp", ["c"], ["y"]),
        ],
        {},
        ["Exp"],
        {"remove-single": 3},
    ),
    "where all are true": where(np.array([True])),
    "where all are false": where(np.zeros((1, 3), bool)),
    "integers plus 0": RuleCase(
        [node("Cast", ["x"], ["i"], to=INT32), node("Add", ["k", "i"], ["a"]), node("Cast", ["a"], ["y"], to=FLOAT)],
        {"k": np.array(0, np.int32)},
        ["Cast", "Cast"],
        {"remove-neutral": 1},
    ),
}


@pytest.mark.parametrize("case", REWRITTEN)
def test_what_becomes_what(case: str) -> None:
    check_rewritten(REWRITTEN[case])


REFUSED: dict[str, tuple[RuleCase, str, str]] = {
    "through integers": (casts(INT64, to=2, rules=0), "merge-casts", "INT64 does not hold every FLOAT of x exactly"),
    "through narrower integers": (
        casts(INT64, INT32, to=3, rules=0),
        "merge-casts",
        "INT32 does not hold every INT64",
    ),
    "through floats too short": (casts(INT32, FLOAT, INT32, to=4, rules=0), "merge-casts", "FLOAT does not hold every"),
    "floats to integers": (
        casts(DOUBLE, INT32, to=3, rules=0),
        "merge-casts",
        "what FLOAT above the range of INT32 becomes is left open",
    ),
    "a cast that is needed": (casts(DOUBLE, to=2, rules=0), "remove-cast", "changes the type"),
    "plus 0": (neutral("Add", 0.0), "remove-neutral", "no operand of"),
    "minus -0": (neutral("Sub", -0.0), "remove-neutral", "no operand of"),
    "0 minus": (neutral("Sub", 0.0, first=True), "remove-neutral", "no operand of"),
    "plus 0, a division": (zero("Add", 0.0, "Div"), "remove-zero", "can tell 0 from -0 in v0"),
    "plus 0, a division in the end": (zero("Add", 0.0, "Tanh", "Neg", "Reciprocal"), "remove-zero", "can tell 0"),
    "plus 0, not known": (zero("Add", 0.0, "Atan"), "remove-zero", "can tell 0 from -0 in v0"),
    "plus some 0": (neutral("Add", np.array([0, 0, 1])), "remove-zero", "is known to be 0"),
    "plus 0, more often": (neutral("Add", np.zeros((2, 1, 1))), "remove-zero", "is known to be 0"),
    "times 1, more often": (neutral("Mul", np.ones((2, 1, 1))), "remove-neutral", "neither values nor shape"),
    "times nothing": (neutral("Mul", np.ones((0, 1, 1))), "remove-neutral", "no operand of"),
    "pad by one": (idle("Pad", ints(0, 1, 0, 0)), "remove-idle", "changes something, or may"),
    "tile by two": (idle("Tile", ints(1, 2)), "remove-idle", "changes something, or may"),
    "where some are true": (where(np.array([True, False, True])), "remove-where", "may choose from both"),
    "where it repeats": (where(np.ones((2, 1, 1), bool)), "remove-where", "repeats what it chooses"),
    "a used mask": (
        RuleCase([node("Dropout", ["x"], ["d", "m"]), node("Cast", ["m"], ["y"], to=FLOAT)], outputs=("d", "y")),
        "remove-idle",
        "changes something, or may",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    check_refused(*REFUSED[case])


@pytest.mark.parametrize(("zero", "rules"), [(-0.0, {"remove-neutral": 1}), (0.0, {"remove-zero": 1})])
def test_halves_are_compared_with_their_sign(zero: float, rules: dict[str, int]) -> None:
    half = [node("Cast", ["x"], ["h"], to=HALF), node("Add", ["h", "k"], ["a"]), node("Cast", ["a"], ["y"], to=FLOAT)]
    model = ir.load(RuleCase(half, {"k": np.float16(zero)}).source()).model
    assert Fuse().apply(model, PassContext()).stats == rules


def test_a_zero_in_a_branch_that_others_read_stays() -> None:
    branches = {
        name: helper.make_graph(
            [node("Add", ["x", "k"], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, None)]
        )
        for name in ("then_branch", "else_branch")
    }
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "k"], ["c"]),
        node("If", ["c"], ["m"], **branches),
        node("Reciprocal", ["m"], ["y"]),
    ]
    case = RuleCase(nodes, {"k": np.float32(0)}, inputs=DYNAMIC)
    result = Fuse().apply(ir.load(case.source()).model, PassContext())
    assert not result.modified
    assert "can tell 0 from -0" in result.refusals[0].reason


def test_the_division_that_a_sum_with_zero_decides() -> None:
    """1 / (-0.0 + 0.0) is inf, 1 / -0.0 is -inf."""
    case = zero("Add", 0.0, "Neg", "Reciprocal")
    model = ir.load(case.source()).model
    Fuse().apply(model, PassContext())
    (result,) = build.run(model, {"x": np.full((1, 3), -0.0, np.float32)})
    assert np.array_equal(result, np.full((1, 3), -np.inf))
