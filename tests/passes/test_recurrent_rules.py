"""Rules for initial states of recurrent operators, and for parts of shapes."""

import numpy as np
import pytest
from onnx import numpy_helper

from tests import models_for_tests as build
from tests.passes.rule_cases import RuleCase, check_refused, check_rewritten, ints, node

SEQUENCE = {"x": ("T", "N", 3)}
SIZES = ({"T": 2, "N": 1}, {"T": 5, "N": 4})
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(op: str, *states: str, outputs: tuple[str, ...] = ("y",), **constants: np.ndarray) -> tuple[list, dict]:
    """A recurrent operator with hidden size 4, given names of its initial states."""
    rows = 4 * GATES[op]
    weights = {"w": build.weights(1, rows, 3), "r": build.weights(1, rows, 4, seed=1)}
    return [node(op, ["x", "w", "r", "", "", *states], list(outputs), hidden_size=4)], weights | constants


def zeros(value: float = 0.0) -> list:
    """A state of a size that depends on the batch, as exporters write it."""
    filling = numpy_helper.from_array(np.array([value], np.float32))
    return [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "one", "two", "first"], ["batch"]),
        node("Concat", ["one", "batch", "four"], ["size"], axis=0),
        node("ConstantOfShape", ["size"], ["h"], value=filling),
    ]


SIZE = {"one": ints(1), "two": ints(2), "first": ints(0), "four": ints(4)}


def case(op: str, *states: str, value: float = 0.0, rules: tuple[str, ...] = ("remove-zero-state",)) -> RuleCase:
    nodes, constants = recurrent(op, *states)
    return RuleCase([*zeros(value), *nodes], {**constants, **SIZE}, (op,), dict.fromkeys(rules, 1), SEQUENCE, SIZES)


def cut_shape(*then: object, becomes: tuple[str, ...], **constants: np.ndarray) -> RuleCase:
    nodes = [node("Shape", ["x"], ["s"]), *then, node("ConstantOfShape", ["part"], ["y"])]
    return RuleCase(nodes, constants, (*becomes, "ConstantOfShape"), {"shape-of-part": 1}, SEQUENCE, SIZES)


REWRITTEN = {
    "gru from zeros": case("GRU", "h"),
    "rnn from zeros": case("RNN", "h"),
    "lstm from zeros": case("LSTM", "h", "h"),
    "lstm whose cell starts elsewhere": RuleCase(
        [*zeros(), *recurrent("LSTM", "h", "cell", outputs=("", "", "y"))[0]],
        {**recurrent("LSTM")[1], **SIZE},
        ("LSTM",),
        {"remove-zero-state": 1},
        {**SEQUENCE, "cell": (1, "N", 4)},
        SIZES,
    ),
    "part by slice": cut_shape(
        node("Slice", ["s", "one", "far"], ["part"]), becomes=("Shape",), one=ints(1), far=ints(2**63 - 1)
    ),
    "part by gather": cut_shape(node("Gather", ["s", "two"], ["part"]), becomes=("Shape",), two=ints(0, 1)),
    "last by gather": cut_shape(
        node("Gather", ["s", "last"], ["l"]),
        node("Concat", ["l", "l"], ["part"], axis=0),
        becomes=("Shape", "Concat"),
        last=ints(-2),
    ),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_becomes_what(name: str) -> None:
    check_rewritten(REWRITTEN[name])


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        (*(lambda r: ([*zeros(1.0), *r[0]], {**r[1], **SIZE}))(recurrent("GRU", "h")), "known to be zero"),
        (
            [node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["p"]), node("ConstantOfShape", ["p"], ["y"])],
            {"i": ints(0, 2)},
            "no constant, contiguous part",
        ),
        (
            [
                node("Shape", ["x"], ["s"], start=1),
                node("Gather", ["s", "i"], ["p"]),
                node("ConstantOfShape", ["p"], ["y"]),
            ],
            {"i": ints(0)},
            "is a part already",
        ),
    ],
    ids=["ones", "not neighbours", "a part"],
)
def test_what_stays(nodes: list, constants: dict[str, np.ndarray], reason: str) -> None:
    rule = "remove-zero-state" if "zero" in reason else "shape-of-part"
    check_refused(RuleCase(nodes, constants, inputs=SEQUENCE), rule, reason)
