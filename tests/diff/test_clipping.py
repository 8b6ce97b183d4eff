"""Activations that a quantizer absorbs: both what they read and what they compute have a partner."""

import numpy as np
import pytest
from onnx import helper

from benchmarks.diff_editors import renamed
from sardonyx import ir
from sardonyx.diff import Matching, compare, match
from tests import models_for_tests as build

WEIGHTS = {"w": build.weights(4, 3, 3, 3), "u": build.weights(4, 4, 1, 1, seed=1)}
SIX = {"zero": np.float32(0), "six": np.float32(6)}


def block(activation: str | None, quantized: bool, *, zero_point: int = 0, scale: float = 6 / 255) -> ir.Model:
    """Conv, perhaps an activation, perhaps Q/DQ, Conv."""
    limits = {"Clip": ["zero", "six"], "Relu": [], None: []}[activation]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv")]
    if activation:
        nodes.append(helper.make_node(activation, ["c", *limits], ["a"], name="activation"))
    source = "a" if activation else "c"
    grid = {"s": np.float32(scale), "z": np.uint8(zero_point)} if quantized else {}
    if quantized:
        nodes += [
            helper.make_node("QuantizeLinear", [source, "s", "z"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dequantize"),
        ]
    nodes.append(helper.make_node("Conv", ["d" if quantized else source, "u"], ["y"], name="last"))
    constants = WEIGHTS | grid | (SIX if limits else {})
    return build.model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]}, constants)


def reported(matching: Matching) -> set[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return {
        (g.how, tuple(n.op_type for n in g.before), tuple(n.op_type for n in g.after))
        for g in matching.groups
        if g.how not in ("same", "renamed")
    }


@pytest.mark.parametrize("activation", ["Relu", "Clip"])
@pytest.mark.parametrize("other_names", [False, True])
def test_an_absorbed_activation_became_the_quantizer(activation: str, other_names: bool) -> None:
    before, after = block(activation, quantized=False), block(None, quantized=True)
    names = {"c": "c", "d": "d"}
    if other_names:
        after, names = renamed(after)
    matching = match(before, after)
    assert (matching.values["c"], matching.values["a"]) == (names["c"], names["d"])
    assert reported(matching) == {
        ("replaced", (activation,), ("QuantizeLinear",)),
        ("added", (), ("DequantizeLinear",)),
    }
    group = next(g for g in matching.groups if g.how == "replaced")
    assert group.evidence == "the quantizer clips as the activation does"
    diff = compare(before, after, matching)
    assert [change.value for change in diff.quantizers] == ["a"]
    assert not any(region.inputs for region in diff.regions), "the readers read what corresponds"


def test_the_opposite_is_told_as_well() -> None:
    matching = match(block(None, quantized=True), renamed(block("Relu", quantized=False))[0])
    assert ("replaced", ("QuantizeLinear",), ("Relu",)) in reported(matching)


@pytest.mark.parametrize(
    ("activation", "zero_point", "scale"),
    [("Relu", 128, 6 / 255), ("Clip", 0, 8 / 255)],
    ids=["reaches below zero", "reaches above six"],
)
def test_a_grid_beyond_the_limits_clips_nothing(activation: str, zero_point: int, scale: float) -> None:
    before = block(activation, quantized=False)
    matching = match(before, block(None, quantized=True, zero_point=zero_point, scale=scale))
    assert ("replaced", (activation,), ("QuantizeLinear",)) not in reported(matching)
    assert any(activation in nodes for _, nodes, _ in reported(matching)), "the activation is gone"


def test_an_activation_that_stays_absorbs_nothing() -> None:
    matching = match(block("Relu", quantized=False), renamed(block("Relu", quantized=True))[0])
    assert reported(matching) == {("added", (), ("QuantizeLinear",)), ("added", (), ("DequantizeLinear",))}


def test_several_quantizers_of_one_value_are_one_activation() -> None:
    def fork(quantized: bool) -> ir.Model:
        nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv")]
        if not quantized:
            nodes.append(helper.make_node("Relu", ["c"], ["a"], name="relu"))
        for branch in "lr":
            if quantized:
                nodes += [
                    helper.make_node("QuantizeLinear", ["c", "s", "z"], [f"q{branch}"], name=f"quantize_{branch}"),
                    helper.make_node("DequantizeLinear", [f"q{branch}", "s", "z"], [f"d{branch}"], name=f"de_{branch}"),
                ]
            read = f"d{branch}" if quantized else "a"
            nodes.append(helper.make_node("Conv", [read, f"u{branch}"], [branch], name=f"conv_{branch}"))
        constants = {"w": WEIGHTS["w"], "ul": WEIGHTS["u"], "ur": build.weights(4, 4, 1, 1, seed=2)}
        grid = {"s": np.float32(0.02), "z": np.uint8(0)} if quantized else {}
        return build.model(nodes, {"x": [1, 3, 8, 8]}, {"l": [1, 4, 6, 6], "r": [1, 4, 6, 6]}, constants | grid)

    matching = match(fork(False), renamed(fork(True))[0])
    assert reported(matching) == {
        ("replaced", ("Relu",), ("QuantizeLinear",)),
        ("added", (), ("QuantizeLinear",)),
        ("added", (), ("DequantizeLinear",)),
    }
    assert {"c", "a"} <= matching.values.keys()


def test_integers_that_are_dequantized_stand_for_floats() -> None:
    def padded(quantized: bool) -> ir.Model:
        inner = "q" if quantized else "c"
        value = {"v": np.uint8(3) if quantized else np.float32(0)}
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("Pad", [inner, "pads", "v"], ["p"], name="pad"),
            helper.make_node("Conv", ["d" if quantized else "p", "u"], ["y"], name="last"),
        ]
        if quantized:
            nodes.insert(1, helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"], name="quantize"))
            nodes.insert(3, helper.make_node("DequantizeLinear", ["p", "s", "z"], ["d"], name="dequantize"))
        grid = {"s": np.float32(0.02), "z": np.uint8(3)} if quantized else {}
        pads = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
        return build.model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}, WEIGHTS | value | grid | pads)

    after, names = renamed(padded(True))
    assert match(padded(False), after).values["p"] == names["d"]
