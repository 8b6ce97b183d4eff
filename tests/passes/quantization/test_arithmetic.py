"""The arithmetic, against ONNX's reference implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sardonyx.ir import DataType
from sardonyx.passes.quantization.arithmetic import (
    SMALLEST_SCALE,
    affine_parameters,
    dequantize,
    integer_range,
    quantize,
)
from tests import models_for_tests as build

TYPES = {DataType.UINT8: np.uint8, DataType.INT8: np.int8, DataType.UINT16: np.uint16, DataType.INT16: np.int16}
finite = st.floats(-1e4, 1e4, width=32)


@given(
    values=hnp.arrays(np.float32, st.integers(1, 20), elements=finite),
    dtype=st.sampled_from(sorted(TYPES)),
    symmetric=st.booleans(),
)
def test_equals_the_reference(values: np.ndarray, dtype: DataType, symmetric: bool) -> None:
    integers = integer_range(dtype)
    scale, zero = affine_parameters(values.min(), values.max(), integers, symmetric=symmetric)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    model = build.proto([node], {"x": values.shape}, {}, opset=21)
    model.graph.input.extend(
        [
            helper.make_tensor_value_info("s", 1, []),
            helper.make_tensor_value_info("z", helper.np_dtype_to_tensor_dtype(np.dtype(TYPES[dtype])), []),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("y", dtype.value, values.shape))
    feed = {"x": values, "s": np.float32(scale), "z": np.asarray(zero, TYPES[dtype])}
    (expected,) = ReferenceEvaluator(model).run(None, feed)
    np.testing.assert_array_equal(quantize(values, scale, zero, integers), expected)


@given(low=finite, high=finite, dtype=st.sampled_from(sorted(TYPES)), symmetric=st.booleans())
def test_zero_is_exact_and_the_range_is_covered(low: float, high: float, dtype: DataType, symmetric: bool) -> None:
    low, high = min(low, high), max(low, high)
    integers = integer_range(dtype)
    scale, zero = affine_parameters(low, high, integers, symmetric=symmetric)
    assert integers.low <= zero <= integers.high
    assert float(np.float32(scale)) == scale >= SMALLEST_SCALE
    ends = np.array([low, 0.0, high], np.float32)
    restored = dequantize(quantize(ends, scale, zero, integers), scale, zero)
    assert restored[1] == 0.0
    # Half a step of rounding, and half a step more because the zero point is rounded too.
    np.testing.assert_allclose(restored, ends, atol=float(scale) * 1.001, rtol=1e-5)


def test_rounds_half_to_even_and_saturates() -> None:
    integers = integer_range(DataType.INT8)
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 200.0, -200.0], np.float32)
    result = quantize(values, np.float64(1.0), np.int64(0), integers)
    assert result.tolist() == [0, 2, 2, 0, -2, 127, -128]


@pytest.mark.parametrize("symmetric", [True, False])
def test_degenerate_ranges(symmetric: bool) -> None:
    integers = integer_range(DataType.UINT8)
    lows, highs = np.array([0.0, -1e-45, -3e38]), np.array([0.0, 1e-45, 3e38])
    scale, zero = affine_parameters(lows, highs, integers, symmetric=symmetric)
    assert scale[0] == 1.0
    assert np.all(np.isfinite(scale.astype(np.float32)))
    assert np.all(scale >= SMALLEST_SCALE)
    assert np.all((zero >= 0) & (zero <= 255))


def test_reduced_and_narrow_ranges() -> None:
    narrow = integer_range(DataType.INT8, narrow=True)
    reduced = integer_range(DataType.INT8, narrow=True, reduce_range=True)
    assert (narrow.low, narrow.high) == (-127, 127)
    assert (reduced.low, reduced.high) == (-63, 63)
    assert reduced.high * 255 * 2 <= 32767, "two products must fit 16 bits"
