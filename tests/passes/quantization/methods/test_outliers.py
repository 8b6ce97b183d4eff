"""Splitting outlier channels: the float model stays the same, and the others get their integers back."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sardonyx import ir
from sardonyx.backends.onnxruntime.table import capabilities
from sardonyx.errors import PassError
from sardonyx.measure import describe_machine, load_samples
from sardonyx.passes.base import Pass, PassContext, PassResult
from sardonyx.passes.quantization.methods.outliers import SplitOutliers
from sardonyx.passes.quantization.static import QuantizeStatic
from tests import models_for_tests as build
from tests.passes.contract import PassContract

node = helper.make_node
VNNI = capabilities(dataclasses.replace(describe_machine(), architecture="x86_64", features=("avx2", "avx512_vnni")))
C = 100
SPREAD = np.ones(C, np.float32)
SPREAD[[7, 42]] = 300.0


def outlying(op: str = "MatMul", *, activation: str = "Gelu", trans_b: int = 0, users: int = 1) -> onnx.ModelProto:
    """Products of an activation with two channels of far greater range, whose weights are small."""
    weight = build.weights(C, 8, seed=1) / SPREAD[:, None] ** 0.5
    attributes = {"transB": trans_b} if op == "Gemm" else {}
    nodes = [node(activation, ["x"], ["a"], name="activation")]
    constants: dict[str, np.ndarray] = {}
    for index in range(users):
        constants[f"w{index}"] = np.ascontiguousarray(weight.T if trans_b else weight) * np.float32(1 + index)
        bias = [f"b{index}"] if op == "Gemm" else []
        constants |= {name: build.weights(8, seed=5) for name in bias}
        nodes.append(node(op, ["a", f"w{index}", *bias], [f"y{index}"], name=f"p{index}", **attributes))
    shape = ["N", C] if op == "Gemm" else ["N", "T", C]
    return build.proto(nodes, {"x": shape}, {f"y{i}": None for i in range(users)}, constants, opset=20)


def feeds(*shape: int, count: int = 4) -> list[dict[str, Any]]:
    return [{"x": build.weights(*shape, C, seed=seed) * SPREAD} for seed in range(count)]


def apply(source: onnx.ModelProto, samples: list[dict[str, Any]], split: Pass | None = None) -> tuple[Any, PassResult]:
    model = ir.load(source).model
    ir.ensure_shapes(model)
    result = (split or SplitOutliers()).apply(model, PassContext(VNNI, load_samples(samples)))
    assert ir.verify(model) == ()
    return model, result


class TestGraph:
    def test_golden(self) -> None:
        model, result = apply(outlying(), feeds(3, 5))
        assert [each.op_type for each in model.graph] == ["Gelu", "Where", "Gather", "MatMul", "MatMul", "Add"]
        assert model.graph.initializers["a_outliers"].const_value.numpy().tolist() == [7, 42]
        assert model.graph.initializers["w0_outliers"].const_value.numpy().shape == (2, 8)
        assert (model.graph.initializers["w0_ordinary"].const_value.numpy()[[7, 42]] == 0).all()
        assert "w0" not in model.graph.initializers
        assert result.stats == {"split": 1}

    @pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 0)])
    @pytest.mark.parametrize("users", [1, 3])
    def test_function_of_matmul(self, shape: tuple[int, ...], users: int) -> None:
        source = outlying(users=users)
        model, result = apply(source, feeds(3, 5))
        assert result.stats == {"split": users}
        feed = feeds(*shape, count=1)[0]
        for expected, actual in zip(build.run(source, feed), build.run(model, feed), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)  # sums of 100 products of up to 300

    @pytest.mark.parametrize("trans_b", [0, 1])
    def test_function_of_gemm(self, trans_b: int) -> None:
        source = outlying("Gemm", trans_b=trans_b)
        model, result = apply(source, feeds(6))
        assert result.stats == {"split": 1}
        for rows in (1, 9):
            feed = feeds(rows, count=1)[0]
            np.testing.assert_allclose(build.run(model, feed)[0], build.run(source, feed)[0], rtol=1e-4, atol=1e-4)

    def test_infinite_outliers_stay_infinite(self) -> None:
        model, _ = apply(outlying(activation="Ceil"), feeds(3, 5))
        source = outlying(activation="Ceil")
        feed = feeds(1, 1, count=1)[0]
        feed["x"][..., 7] = np.inf
        np.testing.assert_array_equal(np.isinf(build.run(model, feed)[0]), np.isinf(build.run(source, feed)[0]))

    @settings(max_examples=10, deadline=None)
    @given(st.sets(st.integers(0, C - 1), min_size=1, max_size=2), st.integers(0, 1000))
    def test_any_channels(self, outliers: set[int], seed: int) -> None:
        scale = np.ones(C, np.float32)
        scale[list(outliers)] = 1000.0
        samples = [{"x": build.weights(2, 6, C, seed=seed) * scale}]
        model, result = apply(outlying(), samples, SplitOutliers(least_gain=1.01))
        assert result.modified
        expected, actual = build.run(outlying(), samples[0])[0], build.run(model, samples[0])[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


class TestQuantized:
    def error(self, *, split: bool) -> float:
        source, samples = outlying(), feeds(4, 16)
        context = PassContext(VNNI, load_samples(samples))
        model = ir.load(source).model
        ir.ensure_shapes(model)
        if split:
            SplitOutliers().apply(model, context)
        result = QuantizeStatic(calibrator="minmax", methods=()).apply(model, context)
        points = {point["value"]: point for point in result.details["plan"]["points"]}
        assert len([point for point in points.values() if point["kind"] == "weight"]) == 1 + split
        expected, actual = build.run(source, samples[0])[0], build.run(model, samples[0])[0]
        return float(np.square(expected - actual).mean())

    def test_the_error_falls(self) -> None:
        assert self.error(split=True) < 0.1 * self.error(split=False)


class TestRefusals:
    def refused(self, source: onnx.ModelProto, samples: list[dict[str, Any]]) -> str:
        _, result = apply(source, samples)
        assert not result.modified
        return " ".join(refusal.reason for refusal in result.refusals)

    def test_like_ranges(self) -> None:
        samples = [{"x": build.weights(3, 5, C)}]
        assert "splitting outlier channels of a would lower the error" in self.refused(outlying(), samples)

    def test_what_is_computed_with_integers(self) -> None:
        reason = self.refused(outlying(activation="Sigmoid"), feeds(3, 5))
        assert "a may be computed with integers by activation" in reason

    def test_values_that_are_not_finite(self) -> None:
        samples = feeds(3, 5)
        samples[0]["x"][0, 0, 0] = np.inf
        assert "a has no finite range on the samples" in self.refused(outlying(), samples)

    def test_shared_weights(self) -> None:
        source = outlying(users=2)
        source.graph.node[2].input[1] = "w0"
        assert "the weight w0 of p0 has further users" in self.refused(source, feeds(3, 5))

    @pytest.mark.parametrize(
        ("context", "message"),
        [(PassContext(samples=load_samples([])), "needs a target's table"), (PassContext(VNNI), "needs samples")],
    )
    def test_what_is_needed(self, context: PassContext, message: str) -> None:
        with pytest.raises(PassError, match=message):
            SplitOutliers().apply(ir.load(outlying()).model, context)


class TestContract(PassContract):
    instance = SplitOutliers()
    context = PassContext(VNNI, samples=load_samples(build.images(4)))

    def test_twice_is_once(self) -> None:
        model, result = apply(outlying(users=2), feeds(3, 5))
        assert result.modified
        once = ir.digest(model)
        assert not SplitOutliers().apply(model, PassContext(VNNI, load_samples(feeds(3, 5)))).modified
        assert ir.digest(model) == once
