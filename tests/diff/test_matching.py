"""What corresponds: fusions, quantization, bodies, functions, operands that change places."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks.diff_editors import renamed
from sardonyx import ir
from sardonyx.diff import Group, Matching, compare, match
from sardonyx.diff.alignment import common_subsequence
from sardonyx.diff.dequantize import restored_constant
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse
from tests import models_for_tests as build

LARGE = build.weights(8, 8)


def operators(group: Group) -> tuple[list[str], list[str]]:
    return [node.op_type for node in group.before], [node.op_type for node in group.after]


def changed(matching: Matching) -> list[tuple[str, list[str], list[str]]]:
    return [(g.how, *operators(g)) for g in matching.groups if g.how not in ("same", "renamed")]


def conv_block(fused: bool) -> ir.Model:
    weights = {"w": build.weights(4, 3, 3, 3), "b": build.weights(4)}
    norm = {"s": build.weights(4) ** 2 + 0.5, "o": build.weights(4), "m": build.weights(4), "v": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="pool"),
    ]
    model = build.model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 1, 1]}, weights | norm)
    if fused:
        assert Fuse().apply(model, PassContext()).stats == {"fuse-batch-norm": 1}
    return model


@pytest.mark.parametrize("provenance", [True, False])
def test_a_fused_batch_norm_is_one_group_with_its_convolution(provenance: bool) -> None:
    before, (after, _) = conv_block(False), renamed(conv_block(True))
    matching = match(before, after, provenance=provenance)
    assert changed(matching) == [("fused", ["Conv", "BatchNormalization"], ["Conv"])]
    assert matching.initializers["w"] != "w", "the folded weight took the place of the old one"
    diff = compare(before, after, matching)
    weight = next(change for change in diff.initializers if change.before == "w")
    assert weight.how == "values"
    assert weight.sqnr_db is not None


def test_the_opposite_is_a_decomposition() -> None:
    matching = match(conv_block(True), renamed(conv_block(False))[0], provenance=False)
    assert changed(matching) == [("decomposed", ["Conv"], ["Conv", "BatchNormalization"])]


def test_an_erf_chain_that_became_gelu_is_one_group() -> None:
    chain = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="up"),
        helper.make_node("Div", ["h", "root"], ["d"], name="div"),
        helper.make_node("Erf", ["d"], ["e"], name="erf"),
        helper.make_node("Add", ["e", "one"], ["p"], name="plus"),
        helper.make_node("Mul", ["h", "p"], ["q"], name="times"),
        helper.make_node("Mul", ["q", "half"], ["g"], name="halve"),
        helper.make_node("MatMul", ["g", "v"], ["y"], name="down"),
    ]
    scalars = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    weights = {"w": LARGE, "v": build.weights(8, 8, seed=1)}
    before = build.model(chain, {"x": ["N", 8]}, {"y": ["N", 8]}, weights | scalars, opset=20)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h2"], name="n0"),
        helper.make_node("Gelu", ["h2"], ["g2"], name="n1"),
        helper.make_node("MatMul", ["g2", "v"], ["y"], name="n2"),
    ]
    after = build.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, weights, opset=20)
    matching = match(before, after)
    assert changed(matching) == [("fused", ["Div", "Erf", "Add", "Mul", "Mul"], ["Gelu"])]
    assert (matching.values["h"], matching.values["g"]) == ("h2", "g2")


def test_operands_of_a_sum_may_change_places_those_of_a_difference_not() -> None:
    for operator, differ in (("Add", 0), ("Sub", 1)):
        models = []
        for operands in (["a", "b"], ["b", "a"]):
            nodes = [
                helper.make_node("Relu", ["x"], ["a"], name="relu"),
                helper.make_node("Tanh", ["x"], ["b"], name="tanh"),
                helper.make_node(operator, operands, ["y"], name="join"),
            ]
            models.append(build.model(nodes, {"x": [4]}, {"y": [4]}))
        diff = compare(*models, match(*models))
        assert [len(region.inputs) for region in diff.regions] == [2] * differ
        assert diff.identical is not bool(differ)


def quantized(scale: float) -> ir.Model:
    grid = {
        "s": np.float32(scale),
        "z": np.int8(0),
        "ws": np.float32(0.01),
        "w8": np.round(LARGE / 0.01).astype(np.int8),
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w8", "ws"], ["wd"], name="weight"),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="matmul"),
    ]
    return build.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, grid)


def test_quantizers_are_seen_through() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="matmul"),
    ]
    before, after = build.model(nodes, {"x": ["N", 8]}, {"y": ["N", 8]}, {"w": LARGE}), quantized(0.05)
    matching = match(before, after)
    assert sorted(how for how, *_ in changed(matching)) == ["added"] * 3
    assert matching.values == {"x": "x", "r": "r", "y": "y"}
    assert matching.initializers == {"w": "w8"}
    diff = compare(before, after, matching)
    assert [(q.value, q.before is None, q.after is None) for q in diff.quantizers] == [
        ("r", True, False),
        ("w", True, False),
    ]
    (weight,) = diff.initializers
    assert weight.how == "quantized"
    assert weight.max_abs is not None
    assert weight.max_abs <= 0.005 + 1e-6, "half a step of the grid"


def test_another_scale_is_the_only_change() -> None:
    before, after = quantized(0.05), quantized(0.06)
    diff = compare(before, after, match(before, after))
    assert not diff.regions
    (change,) = diff.quantizers
    assert (change.value, change.before and change.before.scale_min, change.after and change.after.scale_min) == (
        "r", pytest.approx(0.05), pytest.approx(0.06),
    )  # fmt: skip
    assert not diff.same


def branching(name: str, slope: float) -> ir.Model:
    def branch(label: str, node: object) -> object:
        out = helper.make_tensor_value_info(f"{name}_{label}", TensorProto.FLOAT, None)
        return helper.make_graph([node], label, [], [out])

    leaky = helper.make_node("LeakyRelu", ["h"], [f"{name}_then"], name=f"{name}_leaky", alpha=slope)
    tanh = helper.make_node("Tanh", ["h"], [f"{name}_else"], name=f"{name}_tanh")
    nodes = [
        helper.make_node("Exp", ["x"], ["h"], name="exp"),
        helper.make_node("ReduceSum", ["h"], ["s"], name="sum", keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], name="cast", to=TensorProto.BOOL),
        helper.make_node(
            "If", ["c"], ["y"], name=name, then_branch=branch("then", leaky), else_branch=branch("else", tanh)
        ),
    ]
    return build.model(nodes, {"x": ["N"]}, {"y": ["N"]})


def test_nodes_of_branches_are_matched_although_the_if_has_another_name() -> None:
    before, after = branching("a", 0.1), branching("b", 0.2)
    matching = match(before, after)
    assert not changed(matching)
    scopes = {g.before[0].name: (g.before[0].scope, g.after[0].scope) for g in matching.groups}
    assert scopes["a_leaky"] == (("a.then_branch",), ("b.then_branch",))
    diff = compare(before, after, matching)
    (region,) = diff.regions
    assert [(c.name, c.before, c.after) for c in region.attributes] == [
        ("alpha", *map(repr, map(float, np.float32([0.1, 0.2]))))
    ]


def test_what_a_branch_hands_through_stays_where_its_maker_is_gone() -> None:
    def choice(of: str) -> ir.Model:
        def branch(label: str, op_type: str, operand: str) -> object:
            node = helper.make_node(op_type, [operand], [label], name=op_type.lower())
            out = helper.make_tensor_value_info(label, TensorProto.FLOAT, None)
            return helper.make_graph([node], f"{label}_branch", [], [out])

        nodes = [
            helper.make_node("Exp", ["x"], ["h"], name="exp"),
            helper.make_node("Cast", ["s"], ["c"], name="cast", to=TensorProto.BOOL),
            helper.make_node(
                "If", ["c"], ["y"], then_branch=branch("i", "Identity", of), else_branch=branch("n", "Neg", "x")
            ),
        ]
        return build.model(nodes[of == "x" :], {"x": ["N"], "s": []}, {"y": ["N"]})

    assert changed(match(choice("h"), renamed(choice("x"))[0])) == [("removed", ["Exp"], [])]


def test_an_if_that_stands_for_an_inner_one_says_nothing_of_the_outer_condition() -> None:
    def branch(label: str, node: object) -> object:
        return helper.make_graph([node], label, [], [helper.make_tensor_value_info(label, TensorProto.FLOAT, None)])

    def choice(condition: str, result: str, prefix: str) -> object:
        exp = helper.make_node("Exp", ["x"], [f"{prefix}t"], name=f"{prefix}exp")
        tanh = helper.make_node("Tanh", ["x"], [f"{prefix}e"], name=f"{prefix}tanh")
        bodies = {"then_branch": branch(f"{prefix}t", exp), "else_branch": branch(f"{prefix}e", tanh)}
        return helper.make_node("If", [condition], [result], name=f"{prefix}if", **bodies)

    neg = helper.make_node("Neg", ["x"], ["n"], name="neg")
    bodies = {"then_branch": branch("i", choice("inner", "i", "i_")), "else_branch": branch("n", neg)}
    nested = [
        helper.make_node("Less", ["s", "one"], ["outer"], name="less"),
        helper.make_node("Greater", ["s", "two"], ["inner"], name="greater"),
        helper.make_node("If", ["outer"], ["y"], name="if", **bodies),
    ]
    alone = [helper.make_node("Greater", ["s", "four"], ["only"], name="greater_2"), choice("only", "y", "o_")]
    scalars = {"one": np.float32(1), "two": np.float32(2)}
    before = build.model(nested, {"x": ["N"], "s": []}, {"y": ["N"]}, scalars)
    after = build.model(alone, {"x": ["N"], "s": []}, {"y": ["N"]}, {"four": np.float32(4)})
    values = match(before, after).values
    assert (values.get("outer"), values.get("inner")) == (None, "only")


def test_what_is_computed_twice_before_and_once_after_is_named() -> None:
    def exps(twice: bool) -> ir.Model:
        nodes = [
            helper.make_node("Exp", ["x"], ["a"], name="first"),
            helper.make_node("Exp", ["x"], ["b"], name="second"),
            helper.make_node("Add", ["a", "b" if twice else "a"], ["y"], name="add"),
        ]
        return build.model(nodes if twice else [nodes[0], nodes[2]], {"x": [4]}, {"y": [4]})

    matching = match(exps(True), exps(False))
    (removed,) = [g for g in matching.groups if g.how == "removed"]
    assert removed.evidence == "the same is computed once, as 'a'"
    assert matching.values["b"] == "a"


def test_every_node_is_in_one_group(tmp_path: Path) -> None:
    for before, after in ((quantized(0.05), conv_block(True)), (branching("a", 0.1), quantized(0.1))):
        matching = match(before, after)
        for side, model in (("before", before), ("after", after)):
            names = sorted(node.name for group in matching.groups for node in getattr(group, side))
            assert names == sorted(node.name or "" for graph in ir.all_graphs(model) for node in graph)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [("abcde", "xbdxe", 3), ("", "abc", 0), ("aaaa", "aa", 2), ("abcabba", "cbabac", 4), ("abc", "xyz", 0)],
)
def test_common_subsequences_are_longest_and_grow(first: str, second: str, length: int) -> None:
    found = common_subsequence(first, second)
    assert len(found) == length
    assert all(first[i] == second[j] for i, j in found)
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(found))


def loops(inputs: list[str]) -> ir.Model:
    """A loop for each input, all with the same body: three times its double."""

    def body(i: int) -> object:
        values = {
            name: helper.make_tensor_value_info(f"{name}{i}", kind, None)
            for name, kind in (("n", 7), ("c", 9), ("v", 1))
        }
        out = [helper.make_tensor_value_info(f"{name}{i}", kind, None) for name, kind in (("d", 9), ("w", 1))]
        nodes = [
            helper.make_node("Identity", [f"c{i}"], [f"d{i}"], name=f"go{i}"),
            helper.make_node("Add", [f"v{i}", f"v{i}"], [f"w{i}"], name=f"double{i}"),
        ]
        return helper.make_graph(nodes, "body", list(values.values()), out)

    nodes = [
        helper.make_node("Loop", ["three", "", name], [f"l_{name}"], name=f"loop_{name}", body=body(i))
        for i, name in enumerate(inputs)
    ]
    nodes.append(helper.make_node("Concat", [f"l_{name}" for name in inputs], ["y"], name="all", axis=0))
    shapes = {name: [4] for name in ("a", "b")}
    return build.model(nodes, shapes, {"y": None}, {"three": np.int64(3)})


def test_equal_bodies_are_told_apart_by_what_their_loops_read() -> None:
    before, after = loops(["a", "b"]), loops(["b"])
    matching = match(before, renamed(after)[0])
    removed = {node.name for group in matching.groups if group.how == "removed" for node in group.before}
    assert removed == {"loop_a", "go0", "double0"}


def reshaped_weight(seed: int) -> ir.Model:
    nodes = [
        helper.make_node("Reshape", ["b", "to"], ["rows"], name="reshape"),
        helper.make_node("MatMul", ["x", "rows"], ["y"], name="product"),
    ]
    weights = {"b": build.weights(24, seed=seed), "to": np.array([4, 6])}
    return build.model(nodes, {"x": [2, 4]}, {"y": [2, 6]}, weights)


def test_only_dequantizing_restores_a_weight() -> None:
    """A weight that another operator makes of constants has no scale to be multiplied with."""
    models = [reshaped_weight(0), reshaped_weight(3)]
    product = models[0].graph[1].inputs[1]
    assert product is not None
    assert restored_constant(product) is None
    assert {group.how for group in match(*models).groups} == {"same"}


def attention(*, scaled: bool, seed: int = 0) -> ir.Model:
    """Scaled products and what they are used for; the scaling stays where nothing reads it."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Transpose", ["h"], ["t"], name="transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["h", "t"], ["s"], name="products"),
        helper.make_node("Div", ["s", "root"], ["d"], name="scaling"),
        helper.make_node("Softmax", ["d" if scaled else "s"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "b"], ["y"], name="last"),
    ]
    constants = {"a": build.weights(8, 8, seed=seed), "b": build.weights(8, 8, seed=seed + 1)}
    return build.model(nodes, {"x": [8, 8]}, {"y": [8, 8]}, {**constants, "root": np.float32(3)})


def test_a_node_that_reads_the_wrong_value_does_not_make_it_the_right_one() -> None:
    after, names = renamed(attention(scaled=False, seed=7))
    found = match(attention(scaled=True), after).values
    assert {old: new for old, new in found.items() if old in "sdp"} == {old: names[old] for old in "sdp"}


def test_of_values_computed_alike_the_one_used_alike_is_meant() -> None:
    def difference(of: str) -> ir.Model:
        nodes = [
            helper.make_node("Relu", [of], ["r"], name="left"),
            helper.make_node("Relu", ["b"], ["q"], name="right"),
            helper.make_node("Sub", ["r", "q"], ["y"], name="sub"),
        ]
        return build.model(nodes, {"a": [4], "b": [4]}, {"y": [4]})

    after, names = renamed(difference("b"))
    assert match(difference("a"), after).values["q"] == names["q"]
