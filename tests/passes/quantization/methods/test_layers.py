"""Linear layers as products of columns with a matrix."""

import numpy as np
import onnx
import pytest
from onnx import helper

from sardonyx import ir
from sardonyx.measure import load_samples
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.methods.layers import Layer, linear_layers
from sardonyx.passes.quantization.methods.moments import observe_moments
from tests import models_for_tests as build

node = helper.make_node

CONV = {"name": "layer"}
CASES = {
    "conv": ((node("Conv", ["x", "w"], ["y"], **CONV, pads=[1, 2, 1, 0])), (5, 4, 3, 3), (2, 4, 8, 9)),
    "strided": (
        (node("Conv", ["x", "w"], ["y"], **CONV, strides=[2, 3], dilations=[2, 1])),
        (5, 4, 3, 2),
        (2, 4, 9, 11),
    ),
    "grouped": ((node("Conv", ["x", "w"], ["y"], **CONV, group=2, pads=[1, 1, 1, 1])), (6, 2, 3, 3), (1, 4, 5, 5)),
    "depthwise": ((node("Conv", ["x", "w"], ["y"], **CONV, group=4)), (8, 1, 3, 3), (1, 4, 5, 5)),
    "one dimension": ((node("Conv", ["x", "w"], ["y"], **CONV, strides=[2])), (6, 4, 3), (2, 4, 10)),
    "gemm": ((node("Gemm", ["x", "w"], ["y"], **CONV)), (4, 6), (3, 4)),
    "transposed gemm": ((node("Gemm", ["x", "w"], ["y"], **CONV, transB=1)), (6, 4), (3, 4)),
    "matmul": ((node("MatMul", ["x", "w"], ["y"], **CONV)), (4, 6), (2, 3, 4)),
}


def only_layer(spec: onnx.NodeProto, weight: tuple[int, ...], shape: tuple[int, ...]) -> tuple[ir.Model, Layer]:
    model = build.model([spec], {"x": shape}, {"y": None}, {"w": build.weights(*weight)})
    (layer,) = linear_layers(model.graph)
    return model, layer


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestForms:
    def test_columns_times_matrix_are_the_outputs(
        self, case: tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...]]
    ) -> None:
        model, layer = only_layer(*case)
        x = build.weights(*case[2], seed=1)
        columns = layer.columns(x, 10**6)
        product = np.matmul(columns, layer.matrix().transpose(0, 2, 1))  # groups, rows, outputs of the group
        expected = np.moveaxis(build.run(model, {"x": x})[0], layer.channel_axis, 0).reshape(layer.outputs, -1)
        actual = product.transpose(0, 2, 1).reshape(layer.outputs, -1)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)  # float32 sums in another order

    def test_matrix_and_weight_are_the_same_numbers(
        self, case: tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...]]
    ) -> None:
        _, layer = only_layer(*case)
        np.testing.assert_array_equal(layer.weight_of(layer.matrix()), layer.tensor.numpy())
        assert layer.matrix().shape == layer.matrix_shape

    def test_norms_are_those_of_input_channels(
        self, case: tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...]]
    ) -> None:
        _, layer = only_layer(*case)
        norms = layer.channel_norms()
        assert norms.shape == (layer.channels,)
        assert norms.sum() == pytest.approx(np.square(layer.tensor.numpy().astype(np.float64)).sum())

    def test_rows_are_spread_where_there_are_too_many(
        self, case: tuple[onnx.NodeProto, tuple[int, ...], tuple[int, ...]]
    ) -> None:
        _, layer = only_layer(*case)
        x = build.weights(*case[2], seed=1)
        every, some = layer.columns(x, 10**6), layer.columns(x, 3)
        assert some.shape == (every.shape[0], min(3, every.shape[1]), every.shape[2])
        np.testing.assert_array_equal(some[:, [0, -1]], every[:, [0, -1]])


@pytest.mark.parametrize(
    "spec",
    [
        node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"),
        node("Gemm", ["x", "g"], ["y"], alpha=2.0),
        node("MatMul", ["x", "x"], ["y"]),
        node("Relu", ["x"], ["y"]),
    ],
    ids=lambda spec: spec.op_type,
)
def test_other_forms_are_left_out(spec: onnx.NodeProto) -> None:
    shape = [1, 4, 8, 8] if spec.op_type != "Gemm" else [4, 4]
    constants = {"w": build.weights(4, 4, 3, 3), "g": build.weights(4, 4)}
    model = build.model([spec], {"x": shape}, {"y": None}, {k: constants[k] for k in spec.input if k in constants})
    assert list(linear_layers(model.graph)) == []


def test_moments_are_means_over_all_samples() -> None:
    model, layer = only_layer(*CASES["matmul"])
    samples = [build.weights(2, 3, 4, seed=seed) for seed in range(5)]
    (found,) = observe_moments(model, [layer], PassContext(samples=load_samples([{"x": x} for x in samples])))
    rows = np.concatenate(samples).reshape(-1, 4)
    np.testing.assert_allclose(found[1].mean[0], rows.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found[1].second[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-7)
