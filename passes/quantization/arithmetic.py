"""The arithmetic of quantization, r = S (q - Z), in one place: the numbers, without tensors' layouts.

The definitions follow ONNX QuantizeLinear and DequantizeLinear: q = saturate(round_half_even(r / S) + Z) and
r = (q - Z) S for integers, q = saturate(r / S) rounded to the nearest float, ties to even, for 8-bit floats. The real
value 0 is always exactly representable, because padding and ReLU depend on it. How parameters spread over the channels
or blocks of a tensor is the matter of `sardonyx.passes.quantization.scheme`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx.errors import PassError
from sardonyx.ir import DataType

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_LIMITS = {
    DataType.UINT2: (0, 3),
    DataType.INT2: (-2, 1),
    DataType.UINT4: (0, 15),
    DataType.INT4: (-8, 7),
    DataType.UINT8: (0, 255),
    DataType.INT8: (-128, 127),
    DataType.UINT16: (0, 65535),
    DataType.INT16: (-32768, 32767),
    DataType.INT32: (-(2**31), 2**31 - 1),
}

_FLOAT8_LIMITS = {DataType.FLOAT8E4M3FN: 448.0, DataType.FLOAT8E5M2: 57344.0}
"""The largest finite value of each 8-bit float that can be quantized to."""

INTEGER_TYPES = frozenset(_LIMITS)
"""Integer types that the arithmetic knows."""
FLOAT8_TYPES = frozenset(_FLOAT8_LIMITS)
"""8-bit float types that the arithmetic knows; their zero point is always 0."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Scales are stored as float32 and must stay normal: a denormal scale divides to infinity."""


@dataclass(frozen=True)
class IntegerRange:
    """The integers that a quantized tensor may use.

    Attributes:
        low: Smallest allowed integer.
        high: Largest allowed integer.
    """

    low: int
    high: int

    @property
    def steps(self) -> int:
        """Number of intervals between the smallest and the largest integer."""
        return self.high - self.low

    @property
    def middle(self) -> int:
        """The zero point of symmetric quantization: 0 for signed ranges, the middle of unsigned ones."""
        return 0 if self.low < 0 else (self.low + self.high + 1) // 2

    @property
    def reach(self) -> int:
        """Number of steps that both sides of `middle` have."""
        return min(self.middle - self.low, self.high - self.middle)


def integer_range(dtype: DataType, *, narrow: bool = False, reduce_range: bool = False) -> IntegerRange:
    """Returns the integers of a type.

    Args:
        dtype: A type of `INTEGER_TYPES`.
        narrow: Leave out the most negative integer of a signed type, so that the range is symmetric.
        reduce_range: Use one bit less, for kernels whose 16-bit intermediate sums saturate.
    """
    low, high = _LIMITS[dtype]
    if reduce_range:
        low, high = low // 2, high // 2
    if narrow and low < 0:
        low = -high
    return IntegerRange(low, high)


def affine_parameters(
    low: npt.ArrayLike, high: npt.ArrayLike, integers: IntegerRange, *, symmetric: bool
) -> tuple[Float64Array, Int64Array]:
    """Computes scale and zero point so that [low, high], widened to include 0, is covered.

    Args:
        low: Smallest real values; any shape. Infinite ends are taken as the largest float32.
        high: Largest real values; same shape.
        integers: The integers to map to.
        symmetric: Zero point 0 for signed types, the middle of the range for unsigned ones.

    Returns:
        Scales (float64, values exactly representable as float32, positive and normal) and zero points (int64).
        An empty range (all zero) has scale 1, so that 0 maps to the zero point and nothing divides by zero.

    Raises:
        PassError: If an end is NaN.
    """
    low, high = _with_zero(low, high)
    if symmetric:
        scale = _as_scale(np.maximum(-low, high) / integers.reach)
        return scale, np.full(scale.shape, integers.middle, np.int64)
    scale = _as_scale((high - low) / integers.steps)
    zero_point = np.clip(np.rint(integers.low - low / scale), integers.low, integers.high)
    return scale, zero_point.astype(np.int64)


def float8_parameters(low: npt.ArrayLike, high: npt.ArrayLike, dtype: DataType) -> Float64Array:
    """Computes the scale that maps the larger end of [low, high] to the largest finite 8-bit float.

    Args:
        low: Smallest real values; any shape.
        high: Largest real values; same shape.
        dtype: A type of `FLOAT8_TYPES`.

    Returns:
        Scales as `affine_parameters` gives them.

    Raises:
        PassError: If an end is NaN.
    """
    low, high = _with_zero(low, high)
    return _as_scale(np.maximum(-low, high) / _FLOAT8_LIMITS[dtype])


def as_scale(scale: npt.ArrayLike) -> Float64Array:
    """Rounds scales to float32 and keeps them positive, finite and normal; a scale of 0 becomes 1."""
    return _as_scale(np.asarray(scale, np.float64))


def _with_zero(low: npt.ArrayLike, high: npt.ArrayLike) -> tuple[Float64Array, Float64Array]:
    largest = float(np.finfo(np.float32).max)
    low = np.clip(np.asarray(low, np.float64), -largest, 0.0)
    high = np.clip(np.asarray(high, np.float64), 0.0, largest)
    if np.isnan(low).any() or np.isnan(high).any():
        raise PassError(
            "A range to quantize has an end that is not a number.",
            remedy="Leave the value in float: its calibration or its weights hold NaN.",
        )
    return low, high


def _as_scale(scale: Float64Array) -> Float64Array:
    largest = float(np.finfo(np.float32).max)
    rounded = np.clip(scale, 0.0, largest).astype(np.float32).astype(np.float64)
    return np.where(scale > 0, np.maximum(rounded, SMALLEST_SCALE), 1.0)


def quantize(
    values: npt.NDArray[np.floating], scale: Float64Array, zero_point: Int64Array, integers: IntegerRange
) -> Int64Array:
    """Returns saturate(round_half_even(values / scale) + zero_point); scale and zero_point broadcast.

    The division is made in float32, as runtimes make it, so that weights quantized here equal those that
    QuantizeLinear would give. Infinities saturate; NaN has no integer, and callers refuse it before.
    """
    with np.errstate(over="ignore"):  # a quotient beyond float32 saturates, as it should
        quotient = np.rint(values.astype(np.float32) / scale.astype(np.float32)).astype(np.float64)
    return np.clip(quotient + zero_point, integers.low, integers.high).astype(np.int64)


def dequantize(values: Int64Array, scale: Float64Array, zero_point: Int64Array) -> npt.NDArray[np.float32]:
    """Returns (values - zero_point) * scale as float32; scale and zero_point broadcast."""
    return ((values - zero_point) * scale).astype(np.float32)


def quantize_float8(values: npt.NDArray[np.floating], scale: Float64Array, dtype: DataType) -> npt.NDArray[Any]:
    """Returns values / scale saturated to finite 8-bit floats, ties to even, as numpy's dtype for `dtype`."""
    limit = np.float32(_FLOAT8_LIMITS[dtype])
    with np.errstate(over="ignore"):
        quotient = values.astype(np.float32) / scale.astype(np.float32)
    return np.clip(quotient, -limit, limit).astype(dtype.numpy())


def float8_levels(dtype: DataType) -> Float64Array:
    """Returns the finite values of an 8-bit float type in ascending order, 0 once."""
    values = np.arange(256, dtype=np.uint8).view(dtype.numpy()).astype(np.float64)
    return np.unique(values[np.isfinite(values)] + 0.0)
