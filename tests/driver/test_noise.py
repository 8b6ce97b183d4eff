"""Noise that quantized nodes add: it is that of the node alone, and it tells which node is the worst."""

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.driver.give_back import Quantizer
from sardonyx.driver.noise import Noise, NoiseOptions, decibels, measure_noise
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import PassContext, no_progress
from sardonyx.pipeline import available_passes, parse_pipeline
from tests import models_for_tests as build
from tests.driver.test_give_back import images, with_an_outlier_channel

node = helper.make_node
STATIC = "quantize-static{calibrator=minmax,methods=[]}"


def quantizer(
    source: onnx.ModelProto, data: list[dict[str, np.ndarray]], passes: str, target: str = "onnxruntime"
) -> Quantizer:
    table = backend(target).capabilities(describe_machine())
    context = PassContext(table, load_samples(data), no_progress, 1)
    return Quantizer(ir.load(source).model, parse_pipeline(passes, available_passes()), context)


def measured(
    source: onnx.ModelProto, data: list[dict[str, np.ndarray]], passes: str, seconds: float = 60.0
) -> dict[str, Noise]:
    made = quantizer(source, data, passes)
    variant = made.variant()
    noises = measure_noise(made.pair(variant), variant.compute_nodes, data[:4], NoiseOptions(seconds))
    assert [noise.output for noise in noises] == sorted((noise.output for noise in noises), reverse=True)
    return {noise.node: noise for noise in noises}


def power(source: onnx.ModelProto, model: ir.Model, data: list[dict[str, np.ndarray]]) -> float:
    pairs = [(build.run(source, feed)[0], build.run(ir.to_proto(model), feed)[0]) for feed in data]
    noise = sum(float(np.square(r.astype(np.float64) - c).sum()) for r, c in pairs)
    return noise / sum(float(np.square(r.astype(np.float64)).sum()) for r, _ in pairs)


def perceptron() -> onnx.ModelProto:
    """Three products of one width, with a sum past the second."""
    nodes = [
        node("MatMul", ["x", "w0"], ["h0"], name="first"),
        node("Tanh", ["h0"], ["t0"], name="tanh"),
        node("MatMul", ["t0", "w1"], ["h1"], name="second"),
        node("Add", ["h1", "t0"], ["sum"], name="sum"),
        node("MatMul", ["sum", "w2"], ["y"], name="third"),
    ]
    constants = {f"w{number}": build.weights(32, 32, seed=number) for number in range(3)}
    return build.proto(nodes, {"x": ["N", 32]}, {"y": ["N", 32]}, constants)


def rows(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2 + number % 3, 32)).astype(np.float32)} for number in range(count)]


@pytest.mark.parametrize(
    ("source", "data", "target", "passes", "tolerance"),
    [
        (with_an_outlier_channel(), images(8), "onnxruntime", STATIC, 1e-3),
        (with_an_outlier_channel(), images(8), "tensorrt", STATIC, 1e-3),
        # The sum reads the integers of its other operand, which are rounded with that and not with this node: 5 % here.
        (perceptron(), rows(8), "tensorrt", STATIC, 0.06),
        (perceptron(), rows(8), "onnxruntime", "quantize-dynamic", 1e-3),
    ],
)
def test_noise_is_that_of_the_node_quantized_alone(
    source: onnx.ModelProto, data: list[dict[str, np.ndarray]], target: str, passes: str, tolerance: float
) -> None:
    made = quantizer(source, data, passes, target)
    variant = made.variant()
    assert len(variant.compute_nodes) == 3
    for noise in measure_noise(made.pair(variant), variant.compute_nodes, data[:4], NoiseOptions(60.0)):
        alone = made.variant([other for other in variant.compute_nodes if other != noise.node])
        assert noise.output == pytest.approx(power(source, alone.model, data[:4]), rel=tolerance)
        assert noise.neighbours == 1


def test_rescaled_channels_are_no_noise() -> None:
    plain = measured(with_an_outlier_channel(), images(8), STATIC)
    even = measured(with_an_outlier_channel(), images(8), "equalize, quantize-static{calibrator=minmax,methods=[]}")
    assert even["conv_b"].own is not None
    assert plain["conv_b"].own is not None
    assert even["conv_b"].own < plain["conv_b"].own / 100


def test_without_time_neighbours_share_what_they_add() -> None:
    source, data = with_an_outlier_channel(), images(8)
    noises = measured(source, data, STATIC, seconds=0.0)
    assert {noise.neighbours for noise in noises.values()} == {3}
    assert max(noises, key=lambda name: noises[name].output) == "conv_b"


def test_a_product_in_a_body_is_taken_for_usual() -> None:
    body = helper.make_graph(
        [node("MatMul", ["x", "w2"], ["inner"], name="in_body")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [2, 4])],
    )
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="in_main"),
        node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"], name="greater"),
        node("If", ["positive"], ["b"], name="if", then_branch=body, else_branch=_named(body, "else_product")),
        node("Add", ["a", "b"], ["y"], name="add"),
    ]
    constants = {"w1": build.weights(4, 4), "w2": build.weights(4, 4, seed=1), "zero": np.float32(0.0)}
    source = build.proto(nodes, {"x": [2, 4]}, {"y": [2, 4]}, constants)
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((2, 4)).astype(np.float32)} for _ in range(8)]
    noises = measured(source, data, "quantize-static{methods=[]}")
    assert noises["in_body"].own is None
    assert noises["in_body"].output == noises["in_main"].output > 0


def _named(body: onnx.GraphProto, name: str) -> onnx.GraphProto:
    copy = onnx.GraphProto()
    copy.CopyFrom(body)
    copy.node[0].name, copy.node[0].output[0], copy.output[0].name = name, name, name
    return copy


@pytest.mark.parametrize(
    ("noise", "text"), [(0.1, "10 dB"), (0.0, "no noise"), (float("inf"), "no finite signal"), (10.0, "-10 dB")]
)
def test_power_is_told_as_a_ratio(noise: float, text: str) -> None:
    assert decibels(noise) == text
