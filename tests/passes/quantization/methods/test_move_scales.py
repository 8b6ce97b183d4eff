"""Cross-layer equalization and SmoothQuant: the float model stays the same, its channels come closer."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.errors import PassError
from sardonyx.measure import load_samples
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.methods.equalize import Equalize
from sardonyx.passes.quantization.methods.smooth import SmoothQuant
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
C = 8
SPREAD = np.exp2(np.linspace(-5, 5, C)).astype(np.float32)
"""Channels whose ranges differ a thousandfold."""
NARROW = SPREAD / SPREAD.max()
EAGER = Equalize(least_gain=1.01, least_gain_gated=1.01)

ACTIVATIONS: dict[str, list[onnx.NodeProto]] = {
    "none": [node("Identity", ["z"], ["a"])],
    "relu": [node("Relu", ["z"], ["a"])],
    "leaky": [node("LeakyRelu", ["z"], ["a"], alpha=0.1)],
    "prelu": [node("PRelu", ["z", "slope"], ["a"])],
    "pool": [node("Relu", ["z"], ["r"]), node("MaxPool", ["r"], ["a"], kernel_shape=[2, 2])],
    "silu": [node("Sigmoid", ["z"], ["s"]), node("Mul", ["z", "s"], ["a"])],
}


def two_convs(activation: str, *, depthwise: bool = False, batch: int | str = 1) -> onnx.ModelProto:
    """A Conv whose channels differ in range, an activation, and a Conv that makes up for it."""
    second = build.weights(C, 1 if depthwise else C, 3, 3, seed=3)
    second = second / (SPREAD.reshape(-1, 1, 1, 1) if depthwise else SPREAD.reshape(1, -1, 1, 1))
    constants = {
        "w1": build.weights(C, 3, 3, 3, seed=1) * SPREAD.reshape(-1, 1, 1, 1),
        "b1": build.weights(C, seed=2) * SPREAD,
        "w2": second.astype(np.float32),
    }
    if activation == "prelu":
        constants["slope"] = np.abs(build.weights(C, 1, 1, seed=4))
    middle = ACTIVATIONS[activation]
    if activation == "none":
        middle = []
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["z"], name="first"),
        *middle,
        node("Conv", ["a" if middle else "z", "w2"], ["y"], name="second", group=C if depthwise else 1),
    ]
    return build.proto(nodes, {"x": [batch, 3, "H", "H"]}, {"y": None}, constants)


def feeds(count: int = 6, size: int = 12, batch: int = 1) -> list[dict[str, Any]]:
    return [{"x": build.weights(batch, 3, size, size, seed=seed, scale=1.0)} for seed in range(count)]


def apply(source: onnx.ModelProto, instance: Pass, samples: list[dict[str, Any]]) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    return model, instance.apply(model, PassContext(samples=load_samples(samples)))


def spread(model: ir.Model, value: str, axis: int = 1) -> float:
    """How far apart the ranges of a value's channels lie."""
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.ValueInfoProto(name=value))
    array = build.run(proto, feeds(1)[0])[-1]
    reach = np.abs(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)).max(axis=1)
    return float(reach.max() / reach.min())


class TestEqualize:
    @pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_keeps_every_bit_and_brings_channels_together(self, activation: str, depthwise: bool) -> None:
        source = two_convs(activation, depthwise=depthwise, batch="N")
        model, result = apply(source, EAGER, feeds())
        assert result.modified
        assert result.stats == {"gated" if activation == "silu" else "folded": 1}
        assert ir.verify(model) == ()
        for size, batch in ((12, 1), (9, 3)):
            for feed in feeds(2, size, batch):
                before, after = build.run(source, feed)[0], build.run(model, feed)[0]
                np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * np.abs(before).max())
        value = "a" if activation != "none" else "z"
        assert spread(model, value) < 0.1 * spread(ir.load(source).model, value)

    def test_a_chain_is_equalized_link_by_link(self) -> None:
        weights = [
            build.weights(C, C, 3, 3, seed=seed) * np.roll(SPREAD, seed).reshape(-1, 1, 1, 1) for seed in range(4)
        ]
        nodes = [node("Conv", ["x", "w0"], ["z0"])]
        for i in range(1, 4):
            nodes += [node("Relu", [f"z{i - 1}"], [f"a{i}"]), node("Conv", [f"a{i}", f"w{i}"], [f"z{i}"], group=1)]
        constants = {f"w{i}": weight.astype(np.float32) for i, weight in enumerate(weights)}
        source = build.proto(nodes, {"x": [1, C, 16, 16]}, {"z3": None}, constants)
        samples = [{"x": build.weights(1, C, 16, 16, seed=seed)} for seed in range(3)]
        model, result = apply(source, EAGER, samples)
        assert result.stats["folded"] >= 2
        before, after = build.run(source, samples[0])[0], build.run(model, samples[0])[0]
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * np.abs(before).max())

    def test_golden_silu(self) -> None:
        model, _ = apply(two_convs("silu", depthwise=True), EAGER, feeds())
        assert build.operators(model) == ["Conv", "Mul", "Sigmoid", "Mul", "Conv"]
        unscale = next(n for n in model.graph if n.name == "Sigmoid_unscale" or n.name.endswith("_unscale"))
        factors = ir.constant_tensor(unscale.inputs[1]).numpy()  # type: ignore[arg-type,union-attr]
        np.testing.assert_array_equal(np.exp2(np.rint(np.log2(factors))), factors)
        assert factors.shape == (1, C, 1, 1)

    def test_scales_cost_more_where_a_gate_is_to_be_undone(self) -> None:
        _, result = apply(two_convs("silu"), Equalize(least_gain=1.01, least_gain_gated=1e6), feeds())
        assert not result.modified
        assert any("times only" in refusal.reason for refusal in result.refusals)

    def test_memory_gives_copies_the_same_tensors(self) -> None:
        context = PassContext(samples=load_samples(feeds()))
        source = ir.load(two_convs("relu")).model
        copies = [ir.clone(source) for _ in range(2)]
        for copy in copies:
            EAGER.apply(copy, context)
        first, second = ([v.const_value for v in copy.graph.initializers.values()] for copy in copies)
        assert all(a is b for a, b in zip(first, second, strict=True))

    @pytest.mark.parametrize(
        ("middle", "constants", "reason"),
        [
            ([node("Clip", ["z", "zero", "six"], ["a"], name="clip")], {}, "x has no known bounds"),
            ([node("Tanh", ["z"], ["a"], name="tanh")], {}, "bends at a fixed value"),
            ([node("Softmax", ["z"], ["a"], axis=1, name="softmax")], {}, "Softmax .softmax. lets no scale pass"),
            ([node("Relu", ["z"], ["a"]), node("Neg", ["a"], ["more"])], {}, "a is also taken by Neg"),
            ([node("Relu", ["z"], ["a"]), node("Neg", ["z"], ["more"])], {}, "z is also taken by others"),
        ],
        ids=["clip", "tanh", "softmax", "taken", "taken before"],
    )
    def test_refusals(self, middle: list[onnx.NodeProto], constants: dict[str, Any], reason: str) -> None:
        source = two_convs("relu")
        made = {name: helper.make_tensor(name, 1, [], [value]) for name, value in (("zero", 0.0), ("six", 6.0))}
        source.graph.initializer.extend(made.values())
        relu = next(n for n in source.graph.node if n.op_type == "Relu")
        source.graph.node.remove(relu)
        for position, each in enumerate(middle):
            source.graph.node.insert(1 + position, each)
        if any("more" in n.output for n in middle):
            source.graph.output.append(helper.make_tensor_value_info("more", 1, None))
        digest = ir.digest(ir.load(source).model)
        model, result = apply(source, EAGER, feeds())
        assert not result.modified
        assert ir.digest(model) == digest
        assert any(re.search(reason, refusal.reason) for refusal in result.refusals)

    def test_shared_weights_are_left_alone(self) -> None:
        constants = {"w": build.weights(C, C, seed=1) * SPREAD}
        nodes = [
            node("MatMul", ["x", "w"], ["z"], name="first"),
            node("Relu", ["z"], ["a"]),
            node("MatMul", ["a", "w"], ["y"], name="second"),
        ]
        source = build.proto(nodes, {"x": [4, C]}, {"y": None}, constants)
        _, result = apply(source, EAGER, [{"x": build.weights(4, C)}])
        assert not result.modified
        assert any("further users" in refusal.reason for refusal in result.refusals)

    def test_no_samples(self) -> None:
        with pytest.raises(PassError, match="equalize needs samples"):
            Equalize().apply(ir.load(two_convs("relu")).model, PassContext())

    def test_values_that_are_not_finite_are_left_alone(self) -> None:
        samples = feeds(2)
        samples[1]["x"][0, 0, 0, 0] = np.inf
        _, result = apply(two_convs("none"), EAGER, samples)
        assert not result.modified
        assert any("no finite range" in refusal.reason for refusal in result.refusals)


def transformer(*, bias: bool = True) -> onnx.ModelProto:
    """LayerNormalization with outlier channels, taken by two matrix products; dynamic batch and length."""
    constants = {
        "gamma": SPREAD,
        "q": build.weights(C, 16, seed=1) / SPREAD[:, None],
        "k": build.weights(C, 16, seed=2) / SPREAD[:, None],
    }
    nodes = [
        node("LayerNormalization", ["x", "gamma", *(["beta"] if bias else [])], ["n"], name="norm"),
        node("MatMul", ["n", "q"], ["yq"], name="to_q"),
        node("MatMul", ["n", "k"], ["yk"], name="to_k"),
    ]
    if bias:
        constants["beta"] = build.weights(C, seed=3) * SPREAD
    return build.proto(nodes, {"x": ["N", "T", C]}, {"yq": None, "yk": None}, constants)


def relu6_chain(
    spread: np.ndarray[Any, Any] = NARROW, bounds: tuple[float, float] = (0.0, 6.0), offset: float = 0.0
) -> onnx.ModelProto:
    """ReLU6, a depthwise Conv whose channels differ in range, a Clip, and a Conv that makes up for it."""
    constants = {
        "low": np.float32(0),
        "six": np.float32(6),
        "bottom": np.float32(bounds[0]),
        "top": np.float32(bounds[1]),
        "w1": build.weights(C, 1, 3, 3, seed=1, scale=4.0) * spread.reshape(-1, 1, 1, 1),
        "b1": build.weights(C, seed=2) * spread + np.float32(offset),
        "w2": (build.weights(4, C, 1, 1, seed=3) / SPREAD.reshape(1, -1, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Clip", ["x", "low", "six"], ["held"], name="relu6"),
        node("Conv", ["held", "w1", "b1"], ["z"], name="depthwise", group=C, pads=[1, 1, 1, 1]),
        node("Clip", ["z", "bottom", "top"], ["a"], name="clip"),
        node("Conv", ["a", "w2"], ["y"], name="pointwise"),
    ]
    constants = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    return build.proto(nodes, {"x": ["N", C, "H", "H"]}, {"y": None}, constants)


def wide_feeds(count: int = 4, size: int = 9) -> list[dict[str, Any]]:
    return [{"x": build.weights(2, C, size, size, seed=seed, scale=2.0)} for seed in range(count)]


class TestEqualizeThroughClip:
    """A Clip is passed in the channels that no input brings to its bounds, and in no other."""

    @pytest.mark.parametrize("bounds", [(0.0, 6.0), (-6.0, 6.0), (-20.0, 0.0)], ids=["relu6", "both", "below"])
    def test_keeps_the_function_beyond_the_samples(self, bounds: tuple[float, float]) -> None:
        source = relu6_chain(bounds=bounds)
        model, result = apply(source, EAGER, wide_feeds())
        assert result.stats == {"folded": 1}
        assert build.operators(model) == ["Clip", "Conv", "Clip", "Conv"]
        extremes = [np.full((1, C, 5, 5), value, np.float32) for value in (-1e9, 3.0, 6.0, 1e9, np.nan)]
        for feed in (*wide_feeds(size=13), *({"x": array} for array in extremes)):
            before, after = build.run(source, feed)[0], build.run(model, feed)[0]
            np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())

    def test_golden(self) -> None:
        source = relu6_chain()
        model, _ = apply(source, EAGER, wide_feeds())
        depthwise = next(n for n in model.graph if n.name == "depthwise")
        new, old = ir.constant_tensor(depthwise.inputs[1]), onnx.numpy_helper.to_array(source.graph.initializer[4])  # type: ignore[arg-type]
        assert new is not None
        scales = (old / new.numpy()).reshape(C, -1)[:, 0]
        highest = np.maximum(old, 0).sum(axis=(1, 2, 3)) * 6
        np.testing.assert_array_equal(np.exp2(np.rint(np.log2(scales))), scales)
        assert (highest > 6.5).any()
        assert (scales[highest > 6.5] == 1).all()
        assert (highest < 0.5).any()
        assert (scales[highest < 0.5] < 1).all()

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (relu6_chain(spread=SPREAD * 100), "clip. bends at a fixed value, which each of its channels may reach"),
            (relu6_chain(bounds=(1.0, 6.0)), "clip. holds its values between 1 and 6, without zero"),
            (relu6_chain(offset=7.0), "each of its channels may reach"),
            (relu6_chain(offset=float("nan")), "each of its channels may reach"),
        ],
        ids=["weights", "bounds", "bias", "nan"],
    )
    def test_refusals(self, source: onnx.ModelProto, reason: str) -> None:
        digest = ir.digest(ir.load(source).model)
        model, result = apply(source, EAGER, wide_feeds())
        assert not result.modified
        assert ir.digest(model) == digest
        assert any(re.search(reason, refusal.reason) for refusal in result.refusals)

    def test_a_relu_between_the_layer_and_the_clip_is_refused(self) -> None:
        source = relu6_chain()
        source.graph.node[1].output[0] = "raw"
        source.graph.node.insert(2, node("Relu", ["raw"], ["z"], name="relu"))
        _, result = apply(source, EAGER, wide_feeds())
        assert not result.modified
        assert any("Relu (relu) stands between clip" in refusal.reason for refusal in result.refusals)

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.floats(-6, 3), min_size=C, max_size=C), st.floats(-2, 2), st.integers(0, 1000))
    def test_random_channels_keep_the_function(self, doublings: list[float], offset: float, seed: int) -> None:
        source = relu6_chain(spread=np.exp2(doublings), offset=offset)
        model, _ = apply(source, EAGER, wide_feeds(2))
        feed = {"x": build.weights(1, C, 9, 9, seed=seed, scale=50.0)}
        before, after = build.run(source, feed)[0], build.run(model, feed)[0]
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


class TestSmoothQuant:
    @pytest.mark.parametrize("bias", [True, False])
    def test_folds_into_the_normalization(self, bias: bool) -> None:
        source = transformer(bias=bias)
        samples = [{"x": build.weights(2, 5, C, seed=seed)} for seed in range(4)]
        model, result = apply(source, SmoothQuant(), samples)
        assert result.stats == {"folded": 1}
        assert build.operators(model) == ["LayerNormalization", "MatMul", "MatMul"]
        for shape in ((2, 5), (1, 9)):
            feed = {"x": build.weights(*shape, C, seed=9)}
            for before, after in zip(build.run(source, feed), build.run(model, feed), strict=True):
                np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6 * np.abs(before).max())
        assert result.details["smooth-quant"]["n"]["gain"] > 4

    def test_a_product_and_a_sum_take_scales_as_well(self) -> None:
        constants = {"gamma": SPREAD, "beta": SPREAD, "w": build.weights(C, 16) / SPREAD[:, None]}
        nodes = [
            node("Softmax", ["x"], ["u"], axis=1),
            node("Mul", ["u", "gamma"], ["m"]),
            node("Add", ["m", "beta"], ["n"]),
            node("MatMul", ["n", "w"], ["y"]),
        ]
        source = build.proto(nodes, {"x": [4, C]}, {"y": None}, constants)
        feed = {"x": build.weights(4, C, seed=1)}
        model, result = apply(source, SmoothQuant(), [feed])
        assert result.stats == {"folded": 1}
        np.testing.assert_allclose(build.run(model, feed)[0], build.run(source, feed)[0], rtol=1e-5, atol=1e-5)

    def test_another_axis_of_normalization_is_refused(self) -> None:
        constants = {"gamma": build.weights(4, C), "w": build.weights(C, 16)}
        nodes = [
            node("LayerNormalization", ["x", "gamma"], ["n"], axis=-2, name="norm"),
            node("MatMul", ["n", "w"], ["y"]),
        ]
        source = build.proto(nodes, {"x": [2, 4, C]}, {"y": None}, constants)
        _, result = apply(source, SmoothQuant(), [{"x": build.weights(2, 4, C)}])
        assert not result.modified
        assert any("norm does not normalize along the channels" in refusal.reason for refusal in result.refusals)


class TestEqualizeContract(PassContract):
    instance = Equalize()
    context = PassContext(samples=load_samples(build.images(4)))

    def test_twice_is_once(self) -> None:
        for source in (two_convs("relu"), two_convs("silu"), two_convs("none", depthwise=True)):
            model = ir.load(source).model
            context = PassContext(samples=load_samples(feeds()))
            assert Equalize().apply(model, context).modified
            once = ir.digest(model)
            assert not Equalize().apply(model, context).modified
            assert ir.digest(model) == once


class TestSmoothQuantContract(TestEqualizeContract):
    instance = SmoothQuant()  # type: ignore[assignment]

    def test_twice_is_once(self) -> None:
        model = ir.load(transformer()).model
        context = PassContext(samples=load_samples([{"x": build.weights(2, 5, C)}]))
        assert SmoothQuant().apply(model, context).modified
        assert not SmoothQuant().apply(model, context).modified


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.lists(st.floats(-8, 8), min_size=C, max_size=C),
    st.integers(0, 1000),
)
def test_random_spreads_keep_the_function(activation: str, depthwise: bool, doublings: list[float], seed: int) -> None:
    source = two_convs(activation, depthwise=depthwise)
    for tensor in source.graph.initializer:
        if tensor.name in ("w1", "b1"):
            array = onnx.numpy_helper.to_array(tensor)
            scaled = array * np.exp2(doublings).reshape(-1, *(1,) * (array.ndim - 1))
            tensor.CopyFrom(onnx.numpy_helper.from_array(scaled.astype(np.float32), tensor.name))
    feed = {"x": build.weights(1, 3, 8, 8, seed=seed)}
    model, _ = apply(source, EAGER, [feed])
    before, after = build.run(source, feed)[0], build.run(model, feed)[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
