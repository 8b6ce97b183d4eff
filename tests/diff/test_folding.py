"""What was folded into weights: the arithmetic that tells which values around two weighted nodes are the same."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto, helper, numpy_helper

from benchmarks.diff_editors import renamed
from sardonyx import ir
from sardonyx.diff import compare, match
from tests import models_for_tests as build

WEIGHT, BIAS = build.weights(6, 4, 1, 1), build.weights(6)
SCALE, SHIFT = build.weights(4, 1, 1) + 3, build.weights(4, 1, 1, seed=1)
OUTER, OFFSET = build.weights(6, 1, 1, seed=2) + 3, np.float32([0.25])


def conv_model(nodes: Sequence[NodeProto], constants: dict[str, np.ndarray]) -> ir.Model:
    ends = helper.make_node("Sigmoid", ["x"], ["g"], name="gate"), helper.make_node("Tanh", ["c"], ["y"], name="end")
    return build.model([ends[0], *nodes, ends[1]], {"x": ["N", 4, "H", 8]}, {"y": ["N", 6, None, None]}, constants)


def mapped_conv() -> ir.Model:
    nodes = [
        helper.make_node("Neg", ["g"], ["a"], name="neg"),
        helper.make_node("Mul", ["s", "a"], ["m"], name="scale"),
        helper.make_node("Sub", ["m", "d"], ["v"], name="shift"),
        helper.make_node("Conv", ["v", "w", "b"], ["k"], name="conv"),
        helper.make_node("Div", ["k", "t"], ["q"], name="outer"),
        helper.make_node("Add", ["q", "u"], ["c"], name="offset"),
    ]
    return conv_model(nodes, {"s": SCALE, "d": SHIFT, "w": WEIGHT, "b": BIAS, "t": OUTER, "u": OFFSET})


def folded_conv(*, scale: np.ndarray, shift: np.ndarray, outer: np.ndarray, offset: np.ndarray) -> ir.Model:
    """The convolution with maps folded into it, behind other operators than the first model has."""
    factor = 1 / outer.reshape(-1, 1, 1, 1)
    weight = WEIGHT * scale.reshape(1, -1, 1, 1) * factor
    moved = (WEIGHT * -shift.reshape(1, -1, 1, 1)).sum((1, 2, 3))
    bias = (BIAS + moved) * factor.reshape(-1) + offset
    nodes = [
        helper.make_node("Abs", ["g"], ["n0"], name="node0"),
        helper.make_node("Conv", ["n0", "n1", "n2"], ["c"], name="node1"),
    ]
    return conv_model(nodes, {"n1": weight.astype(np.float32), "n2": bias.astype(np.float32)})


@pytest.mark.parametrize("turned", [False, True], ids=["folded", "taken apart"])
def test_weights_tell_which_maps_are_part_of_them(turned: bool) -> None:
    models = [mapped_conv(), folded_conv(scale=SCALE, shift=SHIFT, outer=OUTER, offset=OFFSET)]
    values = match(*reversed(models) if turned else models).values
    found = {b: a for a, b in values.items()} if turned else values
    assert found["a"] == "n0"
    assert found["c"] == "c"
    assert "v" not in found, "what only one of the models computes"


def test_of_equal_shapes_the_one_is_taken_that_the_weights_tell() -> None:
    before = mapped_conv()
    nothing = np.zeros((4, 1, 1), np.float32)
    after = folded_conv(scale=np.ones_like(SCALE), shift=nothing, outer=OUTER, offset=OFFSET)
    assert match(before, after).values["v"] == "n0"
    after = folded_conv(scale=np.ones_like(SCALE), shift=SHIFT, outer=OUTER, offset=OFFSET)
    assert match(before, after).values["m"] == "n0"


def padded_conv(pads: list[int], *, fused: bool, filled: float = 0.0) -> ir.Model:
    weight = build.weights(6, 4, 3, 3)
    conv = helper.make_node("Conv", ["g" if fused else "p", "w"], ["c"], name="conv", pads=pads)
    pad = helper.make_node("Pad", ["g", "pads", "zero"], ["p"], name="pad")
    constants = {"pads": np.array([0, 0, 1, 2, 0, 0, 3, 4], np.int64), "zero": np.float32(filled)}
    return conv_model([conv] if fused else [pad, conv], {"w": weight} | ({} if fused else constants))


def test_a_pad_is_part_of_a_convolution_that_pads_as_much_more() -> None:
    before, after = padded_conv([1, 1, 1, 1], fused=False), padded_conv([2, 3, 4, 5], fused=True)
    values = match(before, after).values
    assert values["g"] == "g"
    assert "p" not in values


def chain(*, folded: bool, layers: int = 6) -> ir.Model:
    """Convolutions of one shape behind each other with normalizations, an activation that a rule fuses, and scales."""
    nodes, constants, value = [], {}, "x"
    for i in range(layers):
        weight, factor = build.weights(4, 4, 1, 1, seed=i), np.float32([1.5 + i])
        scale = build.weights(4, seed=100 + i) ** 2 + 0.5
        gate, result = f"r{i}", f"h{i}"
        norm = {"s": scale, "o": scale, "m": scale, "v": scale}
        if folded:
            spread = scale / np.sqrt(scale + 1e-5)
            constants |= {f"w{i}": weight * spread.reshape(-1, 1, 1, 1) * (factor if i else 1)}
            constants |= {f"b{i}": scale - scale * spread}
            nodes.append(helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [gate], name=f"n{i}"))
            nodes.append(helper.make_node("HardSwish", [gate], [result], name=f"m{i}"))
            value = result
            continue
        constants |= {f"w{i}": weight} | {f"{name}{i}": array for name, array in norm.items()}
        constants |= {f"f{i}": factor, "three": np.float32(3), "six": np.float32(6), "nil": np.float32(0)}
        if i:
            nodes.append(helper.make_node("Mul", [value, f"f{i}"], [f"f{i}o"], name=f"factor{i}"))
            value = f"f{i}o"
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], name=f"conv{i}"),
            helper.make_node("BatchNormalization", [f"c{i}", *(f"{n}{i}" for n in norm)], [gate], name=f"norm{i}"),
            helper.make_node("Add", [gate, "three"], [f"a{i}"], name=f"add{i}"),
            helper.make_node("Clip", [f"a{i}", "nil", "six"], [f"k{i}"], name=f"clip{i}"),
            helper.make_node("Mul", [gate, f"k{i}"], [f"t{i}"], name=f"times{i}"),
            helper.make_node("Div", [f"t{i}", "six"], [result], name=f"divide{i}"),
        ]
        value = result
    nodes.append(helper.make_node("Tanh", [value], ["y"], name="end"))
    return build.model(nodes, {"x": ["N", 4, 8, 8]}, {"y": ["N", 4, 8, 8]}, constants)


def test_scales_between_fused_activations_and_weights_do_not_shift_the_matching() -> None:
    values = match(chain(folded=False), chain(folded=True)).values
    wanted = {f"{kind}{i}": f"{kind}{i}" for kind in "rh" for i in range(6)}
    assert {name: values.get(name) for name in wanted} == wanted
    assert not [name for name in values if name.endswith("o")], "scaled values that the second model has not"


def carried(*, activation: bool) -> ir.Model:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"], name="sigmoid"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("Identity", ["r" if activation else "s"], ["i"], name="identity"),
        helper.make_node("Tanh", ["i"], ["y"], name="tanh"),
    ]
    kept = nodes if activation else [node for node in nodes if node.name != "relu"]
    return build.model(kept, {"x": ["N", 4]}, {"y": ["N", 4]})


def test_an_identity_behind_a_deleted_node_is_still_the_same_one() -> None:
    groups = match(carried(activation=True), carried(activation=False)).groups
    assert [(g.how, g.before[0].name) for g in groups if g.how not in ("same", "renamed")] == [("removed", "relu")]


def test_a_cast_to_the_type_that_a_value_has_only_carries_it_on() -> None:
    def model(*, cast: bool) -> ir.Model:
        nodes = [
            helper.make_node("Cast", ["x"], ["b"], name="bool", to=9),
            helper.make_node("Not", ["b"], ["n"], name="not"),
            *([helper.make_node("Cast", ["n"], ["k"], name="again", to=9)] if cast else []),
            helper.make_node("Cast", ["k" if cast else "n"], ["y"], name="float", to=1),
        ]
        return build.model(nodes, {"x": ["N"]}, {"y": ["N"]})

    before, (after, _) = model(cast=True), renamed(model(cast=False))
    changed = [(g.how, g.before[0].name) for g in match(before, after).groups if g.how not in ("same", "renamed")]
    assert changed == [("removed", "again")]


def test_a_quantized_weight_goes_by_the_name_that_a_constant_node_gave_it() -> None:
    weight = build.weights(8, 8)
    stored = helper.make_node("Constant", [], ["w"], name="stored", value=numpy_helper.from_array(weight))
    first = [stored, helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")]
    second = [
        helper.make_node("DequantizeLinear", ["integers", "scale"], ["d"], name="restore"),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="matmul"),
    ]
    constants = {"integers": np.round(weight / 0.01).astype(np.int8), "scale": np.float32(0.01)}
    before = build.model(first, {"x": ["N", 8]}, {"y": ["N", 8]})
    after = build.model(second, {"x": ["N", 8]}, {"y": ["N", 8]}, constants)
    assert [change.value for change in compare(before, after, match(before, after)).quantizers] == ["w"]
