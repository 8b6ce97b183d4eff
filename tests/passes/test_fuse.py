"""The fusion rules: what becomes what, that the function stays, and the reasons for refusing."""

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.errors import PassError, SpecError
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import RULES, Fuse
from sardonyx.passes.rewriting.driver import near_misses, rewrite_model
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule
from tests import models_for_tests as build
from tests.passes import (
    linear_cases,
    test_neutral_rules,
    test_recurrent_rules,
    test_reshape_rules,
    test_slice_rules,
)
from tests.passes.contract import PassContract
from tests.passes.fusion.forms import CANDIDATES
from tests.passes.fusion.golden import FORMS

node = helper.make_node
NOTHING = PassContext()
NORM = ("scale", "bias", "mean", "var")
IMAGE = [1, 3, 16, 16]


def norm_constants(channels: int) -> dict[str, np.ndarray]:
    return {
        "scale": 1 + build.weights(channels, seed=1),
        "bias": build.weights(channels, seed=2),
        "mean": build.weights(channels, seed=3),
        "var": np.abs(build.weights(channels, seed=4)) + 0.5,
    }


def image_model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int = 17) -> onnx.ModelProto:
    return build.proto(nodes, {"image": IMAGE}, {"y": None}, constants, opset)


def channelwise(op: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    constant = np.abs(build.weights(*shape, seed=5)) + 0.5
    nodes = [node("Conv", ["image", "w"], ["c"]), node(op, ["c", "k"], ["y"])]
    return image_model(nodes, {"w": build.weights(4, 3, 3, 3), "k": constant})


GOLDEN: dict[str, tuple[onnx.ModelProto, list[str], str]] = {
    "conv batch norm": (
        image_model(
            [node("Conv", ["image", "w"], ["c"]), node("BatchNormalization", ["c", *NORM], ["y"])],
            {"w": build.weights(4, 3, 3, 3), **norm_constants(4)},
        ),
        ["Conv"],
        "fuse-batch-norm",
    ),
    "transposed conv batch norm": (
        image_model(
            [node("ConvTranspose", ["image", "w"], ["c"]), node("BatchNormalization", ["c", *NORM], ["y"])],
            {"w": build.weights(3, 4, 2, 2), **norm_constants(4)},
        ),
        ["ConvTranspose"],
        "fuse-batch-norm",
    ),
    "gemm batch norm": (
        image_model(
            [
                node("Flatten", ["image"], ["f"]),
                node("Gemm", ["f", "w", "b"], ["g"]),
                node("BatchNormalization", ["g", *NORM], ["y"], epsilon=1e-3),
            ],
            {"w": build.weights(768, 6, scale=0.05), "b": build.weights(6), **norm_constants(6)},
        ),
        ["Flatten", "Gemm"],
        "fuse-batch-norm",
    ),
    **{f"conv {op}": (channelwise(op, (4, 1, 1)), ["Conv"], "fuse-channelwise") for op in ("Add", "Sub", "Mul", "Div")},
    "conv add scalar": (channelwise("Add", (1,)), ["Conv"], "fuse-channelwise"),
    "pad conv": (
        image_model(
            [node("Pad", ["image", "p"], ["padded"]), node("Conv", ["padded", "w"], ["y"], pads=[1, 0, 1, 0])],
            {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64), "w": build.weights(4, 3, 3, 3)},
        ),
        ["Conv"],
        "fuse-pad",
    ),
    "output behind cancelled transposes": (
        image_model(
            [
                node("Transpose", ["image"], ["t"], perm=[0, 2, 3, 1]),
                node("Transpose", ["t"], ["y"], perm=[0, 3, 1, 2]),
            ],
            {},
        ),
        ["Identity"],
        "merge-transposes",
    ),
}


class TestFuse(PassContract):
    instance = Fuse()

    def sources(self) -> list[onnx.ModelProto]:
        return [*super().sources(), *(source for source, _, _ in GOLDEN.values())]

    def feed(self) -> dict[str, np.ndarray]:
        return {"image": build.weights(*IMAGE, scale=1.0)}


@pytest.mark.parametrize("case", GOLDEN)
def test_what_becomes_what(case: str) -> None:
    source, expected, rule = GOLDEN[case]
    model = ir.load(source).model
    result = Fuse().apply(model, NOTHING)
    assert build.operators(model) == expected
    assert result.stats == {rule: 1}


BY_RULE = (
    {rule: source for source, _, rule in GOLDEN.values()}
    | {
        rule: case.source()
        for cases in (test_neutral_rules, test_recurrent_rules, test_reshape_rules, test_slice_rules)
        for case in cases.REWRITTEN.values()
        for rule in case.rules
    }
    | {rule: form.model() for form in FORMS for rule in form.rules}
    | {rule: case.proto() for case in linear_cases.GOLDEN.values() for rule in case.rules}
)


def test_every_rule_has_a_golden_case() -> None:
    assert set(BY_RULE) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_disabled_rule_is_not_applied(rule: str) -> None:
    source = BY_RULE[rule]
    assert rule not in Fuse(disable=(rule,), enable=CANDIDATES).apply(ir.load(source).model, NOTHING).stats


@pytest.mark.parametrize("rule", CANDIDATES)
def test_a_candidate_is_applied_only_where_it_is_enabled(rule: str) -> None:
    source = next(form.model() for form in FORMS if form.rules[0] == rule)
    assert rule not in Fuse().apply(ir.load(source).model, NOTHING).stats
    assert rule in Fuse(enable=(rule,)).apply(ir.load(source).model, NOTHING).stats


def test_unknown_rules_are_named() -> None:
    with pytest.raises(SpecError, match="no fusion rule 'magic'"):
        Fuse(disable=("magic",))
    with pytest.raises(SpecError, match="no fusion rule 'magic'"):
        Fuse(enable=("magic",))


def test_new_nodes_say_whence_they_come() -> None:
    model = ir.load(build.cnn()).model
    Fuse(disable=("fuse-pad",)).apply(model, NOTHING)
    conv = next(n for n in model.graph if n.op_type == "Conv")
    assert conv.metadata_props == {"sardonyx.rule": "fuse-batch-norm", "sardonyx.source": "conv1,norm1"}


REFUSED = {
    "pad of channels": (
        [node("Pad", ["image", "p"], ["q"]), node("Conv", ["q", "w"], ["y"])],
        {"p": np.array([0, 1, 0, 0, 0, 0, 0, 0], np.int64), "w": build.weights(2, 4, 3, 3)},
        "batch or channel",
    ),
    "pad with ones": (
        [node("Pad", ["image", "p", "one"], ["q"]), node("Conv", ["q", "w"], ["y"])],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "one": np.float32(1), "w": build.weights(2, 3, 3, 3)},
        "is not 0",
    ),
    "pad by reflection": (
        [node("Pad", ["image", "p"], ["q"], mode="reflect"), node("Conv", ["q", "w"], ["y"])],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "w": build.weights(2, 3, 3, 3)},
        "is reflect, not constant",
    ),
    "pad that crops": (
        [node("Pad", ["image", "p"], ["q"]), node("Conv", ["q", "w"], ["y"])],
        {"p": np.array([0, 0, -1, 0, 0, 0, 0, 0], np.int64), "w": build.weights(2, 3, 3, 3)},
        "crops",
    ),
    "one per column": (
        [node("Conv", ["image", "w"], ["c"]), node("Add", ["c", "k"], ["y"])],
        {"w": build.weights(4, 3, 1, 1), "k": build.weights(16)},
        "varies over axis 3, the channels are axis 1",
    ),
    "division by zero": (
        [node("Conv", ["image", "w"], ["c"]), node("Div", ["c", "k"], ["y"])],
        {"w": build.weights(4, 3, 1, 1), "k": np.float32(0)},
        "divides by zero",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    nodes, constants, reason = REFUSED[case]
    result = Fuse().apply(ir.load(image_model(nodes, constants)).model, NOTHING)
    assert not result.modified
    assert any(reason in refusal.reason for refusal in result.refusals)
    assert all(refusal.nodes for refusal in result.refusals)


def test_a_value_that_others_read_is_not_fused_away() -> None:
    source = build.proto(
        [
            node("Conv", ["image", "w"], ["c"]),
            node("BatchNormalization", ["c", *NORM], ["y"]),
            node("Exp", ["c"], ["z"]),
        ],
        {"image": IMAGE},
        {"y": None, "z": None},
        {"w": build.weights(4, 3, 3, 3), **norm_constants(4)},
    )
    model = ir.load(source).model
    assert not Fuse().apply(model, NOTHING).modified
    root = next(n.name for n in model.graph if n.op_type == "BatchNormalization")
    reasons = {rule.name: reason for rule, reason in near_misses(model, RULES, root or "")}
    assert reasons["fuse-batch-norm"] == "c is used outside the pattern too"


def test_shared_weights_keep_their_value() -> None:
    source = build.proto(
        [
            node("Conv", ["image", "w"], ["c"]),
            node("BatchNormalization", ["c", *NORM], ["y"]),
            node("Conv", ["image", "w"], ["z"]),
        ],
        {"image": IMAGE},
        {"y": None, "z": None},
        {"w": build.weights(4, 3, 3, 3), **norm_constants(4)},
    )
    model = ir.load(source).model
    assert Fuse().apply(model, NOTHING).modified
    feed = {"image": build.weights(*IMAGE, scale=1.0)}
    for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_rules_reach_into_branches() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [node("Relu", ["x"], [f"{name}_r"]), node("Relu", [f"{name}_r"], [name])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2])])

    source = build.proto(
        [
            node("ReduceSum", ["x"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["flag"]),
            node("If", ["flag"], ["y"], then_branch=branch("t"), else_branch=branch("e")),
        ],
        {"x": [2]},
        {"y": [2]},
        {"zero": np.float32(0)},
    )
    model = ir.load(source).model
    assert Fuse().apply(model, NOTHING).stats == {"remove-clip": 2}
    assert ir.verify(model) == ()


class ExpToSin(Rule):
    name = "exp-to-sin"
    summary = "for tests"
    pattern = Op("Exp", Var("x"))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        return editor.op("Sin", [found.values["x"]])


class SinToExp(Rule):
    name = "sin-to-exp"
    summary = "for tests"
    pattern = Op("Sin", Var("x"))

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        return editor.op("Exp", [found.values["x"]])


def test_rules_that_undo_each_other_are_stopped_and_named() -> None:
    model = build.model([node("Exp", ["x"], ["y"])], {"x": [1]}, {"y": [1]})
    with pytest.raises(PassError, match="exp-to-sin, sin-to-exp undo each other"):
        rewrite_model(model, [ExpToSin(), SinToExp()])
