"""What patterns find: alternatives at the root, operands in either order, values by what computes them."""

import numpy as np
import pytest
from onnx import parser

from sardonyx import ir
from sardonyx.passes.fusion.fuse import RULES
from sardonyx.passes.rewriting.driver import near_misses
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Mismatch, Op, Var, match, operators, roots, starts
from tests import models_for_tests as build

X = Var("x")
EITHER = AnyOf(Op("Mul", X, Const("two", 2.0)), Op("Add", X, X))


def root(text: str) -> ir.Node:
    nodes = [parser.parse_node(line.strip()) for line in text.split(";")]
    model = build.model(nodes, {"x": [2]}, {"y": [2]}, {"two": np.float32(2)})
    return model.graph[-1]


@pytest.mark.parametrize("text", ["y = Mul(x, two)", "y = Mul(two, x)", "y = Add(x, x)"])
def test_any_root_may_match(text: str) -> None:
    found = match(EITHER, root(text))
    assert isinstance(found, Match)
    assert found.values["x"].name == "x"


def test_what_no_root_matches_is_named() -> None:
    found = match(EITHER, root("y = Sub(x, two)"))
    assert isinstance(found, Mismatch)
    assert "is Sub, not Mul" in found.reason


def test_the_roots_are_the_alternatives() -> None:
    assert [part.op_types for part in roots(EITHER)] == [("Mul",), ("Add",)]
    assert list(operators(EITHER)) == [{"Mul", "Add"}]


def test_what_all_alternatives_need_is_needed() -> None:
    needed = set(operators(AnyOf(Op("Mul", X, Op("Erf", X)), Op("Div", Op("Mul", Op("Erf", X), X), X))))
    assert needed == {frozenset({"Mul", "Div"}), frozenset({"Mul"}), frozenset({"Erf"})}


def test_what_a_root_shows_is_told_for_each_alternative() -> None:
    clip = AnyOf(Op("Clip", X), AnyOf(Op("Relu", X), Op("Max", X, Const("floor"))))
    first, second = starts(AnyOf(Op("Mul", clip, Const("two", 2.0)), Op(("Add", "Sub"), Var("a", ("Exp",)), X)))
    assert (first.op_types, first.producers, first.constants) == (("Mul",), (frozenset({"Clip", "Relu", "Max"}),), 1)
    assert (second.op_types, second.producers, second.constants) == (("Add", "Sub"), (frozenset({"Exp"}),), 0)
    assert starts(Op("Mul", AnyOf(X, Op("Clip", X)), X))[0].producers == (), "it may be computed by none"
    assert first.admits({"Relu"}, 1)
    assert not first.admits({"Relu"}, 0)
    assert not first.admits({"Exp"}, 1)


@pytest.mark.parametrize("text", ["y = Max(x, two)", "y = Max(two, x)", "y = Min(two, x)"])
def test_the_operands_of_max_and_min_come_in_any_order(text: str) -> None:
    assert isinstance(match(Op(("Max", "Min"), X, Const("two", 2.0)), root(text)), Match)


def test_a_value_may_be_asked_for_by_what_computes_it() -> None:
    pattern = Op("Relu", Var("x", ("Exp", "Abs")))
    assert list(operators(pattern)) == [{"Relu"}, {"Exp", "Abs"}]
    found = match(pattern, root("e = Exp(x); z = Neg(e); y = Relu(e)"))
    assert isinstance(found, Match), "another reader of the value is no obstacle"
    assert [node.op_type for node in found.nodes] == ["Relu"]
    missed = match(pattern, root("e = Neg(x); y = Relu(e)"))
    assert isinstance(missed, Mismatch)
    assert missed.reason == "e is not computed by Exp or Abs"


def test_near_misses_reach_every_root() -> None:
    nodes = [parser.parse_node(line) for line in ("p = Greater(x, two)", "y = Where(p, x, x)")]
    model = build.model(nodes, {"x": [2]}, {"y": [2]}, {"two": np.float32(2)})
    reasons = {rule.name: reason for rule, reason in near_misses(model, RULES, model.graph[-1].name or "")}
    assert reasons["leaky-relu"] == "the constant two is not 0.0"
    assert {"elu", "prelu", "thresholded-relu"} < reasons.keys()


def test_a_candidate_that_would_apply_is_told_from_a_rule_that_does() -> None:
    model = build.model([parser.parse_node("l = Softmax(x)"), parser.parse_node("y = Log(l)")], {"x": [2]}, {"y": [2]})
    reasons = {rule.name: reason for rule, reason in near_misses(model, RULES, model.graph[-1].name or "")}
    assert reasons["log-of-softmax"] == "nothing: it applies where it is enabled"
