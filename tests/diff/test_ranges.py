"""Ranges of quantizers that leave out what is not needed, and those that leave out too much."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.diff.drift import drift
from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.expectation import Extent, grid_over
from sardonyx.diff.matching import match
from sardonyx.measure import load_samples
from tests.diff.test_drift import by_name, first, place_of, quantized
from tests.models_for_tests import images, model, weights

SIGMOID = helper.make_node("Sigmoid", ["v"], ["s"], name="sigmoid")
SILU = (SIGMOID, helper.make_node("Mul", ["v", "s"], ["y"], name="mul"))
RELU = (helper.make_node("Relu", ["v"], ["y"], name="relu"),)
NEGATION = (helper.make_node("Neg", ["v"], ["y"], name="neg"),)
SEEN = {"x": np.linspace(-20, 4, 1001, dtype=np.float32)}


def after_rounding(readers: Sequence[onnx.NodeProto], low: float, high: float) -> Drift:
    """Compares nodes that read values from -20 to 4 with the same nodes behind a quantizer of some range."""
    step = (high - low) / 255
    grid = {"step": np.float32(step), "zero": np.uint8(round(-low / step))}
    rounded = [
        helper.make_node("Mul", ["x", "one"], ["u"], name="times"),
        helper.make_node("QuantizeLinear", ["u", "step", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["v"], name="dequantize"),
    ]
    plain = [helper.make_node("Mul", ["x", "one"], ["v"], name="times")]
    one = {"one": np.float32(1.0)}
    before = model([*plain, *readers], {"x": [1001]}, {"y": [1001]}, one)
    after = model([*rounded, *readers], {"x": [1001]}, {"y": [1001]}, one | grid)
    return drift(before, after, by_name(before, after), load_samples([SEEN]))


@pytest.mark.parametrize("readers", [SILU, RELU], ids=["silu", "relu"])
def test_a_range_without_what_the_readers_make_nothing_of_is_no_fault(readers: Sequence[onnx.NodeProto]) -> None:
    found = after_rounding(readers, -6.0, 4.0)
    rounded = place_of(found, "v", noise="step")
    assert rounded.allowed is not None
    assert rounded.local is not None
    assert rounded.local.relative is not None
    assert rounded.local.relative > rounded.allowed
    assert "with a grid over all that was seen" in rounded.why
    assert found.first is None


@pytest.mark.parametrize(("readers", "low", "high"), [(NEGATION, -6.0, 4.0), (SILU, -6.0, 2.0), (RELU, -6.0, 2.0)])
def test_a_range_without_what_they_need_is_one(readers: Sequence[onnx.NodeProto], low: float, high: float) -> None:
    found = after_rounding(readers, low, high)
    assert [node.name for node in first(found).after_nodes] == ["quantize", "dequantize"]


def test_the_grid_over_all_that_was_seen() -> None:
    extent = Extent()
    extent.update(np.array([-1.0, 3.0], np.float32))

    def grid(zero: "np.generic | None") -> dict[int, float]:
        inputs = ["q", "step", *([] if zero is None else ["zero"])]
        constants = {"step": np.float32(9)} | ({} if zero is None else {"zero": np.asarray(zero)})
        quantize = helper.make_node("QuantizeLinear", ["x", *inputs[1:]], ["q"])
        nodes = [quantize, helper.make_node("DequantizeLinear", inputs, ["y"])]
        found = grid_over(model(nodes, {"x": [2]}, {"y": [2]}, constants).graph[1], extent)
        return {place: float(ir.read_array(tensor)) for place, tensor in found.items()}

    assert grid(np.uint8(3)) == {1: pytest.approx(4 / 255), 2: 64}
    assert grid(np.int8(3)) == {1: pytest.approx(4 / 255), 2: -64}
    assert grid(np.int8(0)) == {1: pytest.approx(6 / 255), 2: 0}
    assert set(grid(None)) == {1}


def convolutions() -> ir.Model:
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], name="conv3"),
        helper.make_node("GlobalAveragePool", ["c3"], ["scores"], name="pool"),
    ]
    constants = {
        "w1": weights(8, 3, 3, 3, seed=1),
        "w2": weights(8, 8, 3, 3, seed=2),
        "w3": weights(8, 8, 3, 3, seed=3),
    }
    constants["w2"][5] *= np.float32(0.01)
    return model(nodes, {"image": [1, 3, 16, 16]}, {"scores": [1, 8, 1, 1]}, constants)


def test_a_quantizer_of_the_wrong_value_answers_with_what_reads_it() -> None:
    source = convolutions()
    after = quantized(source)
    wired = [node for node in after.graph if node.op_type == "QuantizeLinear"]
    wired[2].replace_input_with(0, wired[1].inputs[0])
    found = drift(source, after, match(source, after), load_samples(images(2)))
    assert [n.op_type for n in first(found).after_nodes] == ["QuantizeLinear", "DequantizeLinear", "Conv"]


def test_an_element_is_measured_with_the_step_of_its_own_channel() -> None:
    source = convolutions()
    after = quantized(source)
    assert drift(source, after, match(source, after), load_samples(images(2))).first is None
    (weight,) = (v for name, v in after.graph.initializers.items() if name.startswith("w2") and "quantized" in name)
    assert weight.const_value is not None
    integers = np.array(ir.read_array(weight.const_value))
    integers[5] = -integers[5]
    weight.const_value = ir.tensor(integers, name=weight.name)
    found = drift(source, after, match(source, after), load_samples(images(2)))
    assert first(found).before == "w2"
    assert "element [5, " in first(found).why
