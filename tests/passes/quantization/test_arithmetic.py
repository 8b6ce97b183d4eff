"""The arithmetic of single parameters; `test_scheme.py` holds whole tensors against ONNX's reference."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sardonyx.ir import DataType
from sardonyx.passes.quantization.arithmetic import (
    SMALLEST_SCALE,
    affine_parameters,
    dequantize,
    integer_range,
    quantize,
)

TYPES = [DataType.UINT8, DataType.INT8, DataType.UINT16, DataType.INT16]
finite = st.floats(-1e4, 1e4, width=32)


@given(low=finite, high=finite, dtype=st.sampled_from(TYPES), symmetric=st.booleans())
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


def test_reduced_and_narrow_ranges() -> None:
    narrow = integer_range(DataType.INT8, narrow=True)
    reduced = integer_range(DataType.INT8, narrow=True, reduce_range=True)
    assert (narrow.low, narrow.high) == (-127, 127)
    assert (reduced.low, reduced.high) == (-63, 63)
    assert reduced.high * 255 * 2 <= 32767, "two products must fit 16 bits"
