"""The arithmetic of affine quantization, r = S (q - Z), in one place.

The definitions follow ONNX QuantizeLinear and DequantizeLinear: q = saturate(round_half_even(r / S) + Z) and
r = (q - Z) S. The real value 0 is always exactly representable, because padding and ReLU depend on it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx.ir import DataType

Float64Array = npt.NDArray[np.float64]

_LIMITS = {
    DataType.UINT8: (0, 255),
    DataType.INT8: (-128, 127),
    DataType.UINT16: (0, 65535),
    DataType.INT16: (-32768, 32767),
    DataType.INT32: (-(2**31), 2**31 - 1),
}

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


def integer_range(dtype: DataType, *, narrow: bool = False, reduce_range: bool = False) -> IntegerRange:
    """Returns the integers of a type.

    Args:
        dtype: UINT8, INT8, UINT16, INT16 or INT32.
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
) -> tuple[Float64Array, npt.NDArray[np.int64]]:
    """Computes scale and zero point so that [low, high], widened to include 0, is covered.

    Args:
        low: Smallest real values; any shape.
        high: Largest real values; same shape.
        integers: The integers to map to.
        symmetric: Zero point 0 for signed types, the middle of the range for unsigned ones.

    Returns:
        Scales (float64, values exactly representable as float32, positive and normal) and zero points (int64).
        An empty range (all zero) has scale 1, so that 0 maps to the zero point and nothing divides by zero.
    """
    low = np.minimum(np.asarray(low, np.float64), 0.0)
    high = np.maximum(np.asarray(high, np.float64), 0.0)
    if symmetric:
        middle = 0 if integers.low < 0 else (integers.low + integers.high + 1) // 2
        reach = min(middle - integers.low, integers.high - middle)
        scale = _as_scale(np.maximum(-low, high) / reach)
        return scale, np.full(scale.shape, middle, np.int64)
    scale = _as_scale((high - low) / integers.steps)
    zero_point = np.clip(np.rint(integers.low - low / scale), integers.low, integers.high)
    return scale, zero_point.astype(np.int64)


def _as_scale(scale: Float64Array) -> Float64Array:
    largest = float(np.finfo(np.float32).max)
    rounded = np.clip(scale, 0.0, largest).astype(np.float32).astype(np.float64)
    return np.where(scale > 0, np.maximum(rounded, SMALLEST_SCALE), 1.0)


def quantize(
    values: npt.NDArray[np.floating], scale: Float64Array, zero_point: npt.NDArray[np.int64], integers: IntegerRange
) -> npt.NDArray[np.int64]:
    """Returns saturate(round_half_even(values / scale) + zero_point); scale and zero_point broadcast.

    The division is made in float32, as runtimes make it, so that weights quantized here equal those that
    QuantizeLinear would give.
    """
    quotient = np.rint(values.astype(np.float32) / scale.astype(np.float32)).astype(np.float64)
    return np.clip(quotient + zero_point, integers.low, integers.high).astype(np.int64)


def dequantize(
    values: npt.NDArray[np.int64], scale: Float64Array, zero_point: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Returns (values - zero_point) * scale as float32; scale and zero_point broadcast."""
    return ((values - zero_point) * scale).astype(np.float32)
