"""How much error nodes may add although nothing is wrong with them.

- Rounding: eps^(2/3), where eps is the spacing of floats at 1 of the narrowest type: 2.4e-5 for float32, 1e-2 for
  float16. It lies between the square root of many additions' rounding and what any change of weights makes.
- One quantizer: noise of a uniform grid over the range seen is step^2 / 12 (Widrow and Kollar, Quantization Noise,
  2008, chapter 4). A scale is called wrong when the noise has `STEP_MARGIN` times that power.
- Integer arithmetic in the midst of other nodes: what is usual among such places of the same pair of models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from sardonyx import ir
from sardonyx.diff.dequantize import spread_over, stored_tensors
from sardonyx.measure import Array

STEP_MARGIN = 16.0
"""Power over that of the ideal grid: a scale that is four times too large has just this."""
CONSTANT_MARGIN = 12.0
"""The same for constants, relative to their own grid: AdaRound and GPTQ move a value by more than half a step."""
CONSTANT_STEPS = 8.0
"""Largest distance of an element of a quantized constant from its original, in steps."""
MIXED_FACTOR, MIXED_LEAST, MIXED_FEW, MIXED_ALONE = 4.0, 0.05, 5, 0.3
"""Of relative errors where integers compute: times the median, at least, and the bound where there are few of them."""


@dataclass
class Extent:
    """Range and power of a value over samples."""

    low: float = 0.0
    high: float = 0.0
    power: float = 0.0
    count: int = 0

    def update(self, array: Array) -> None:
        """Takes in the value for one sample; what is not finite is left out."""
        finite = array[np.isfinite(array)]
        if finite.size:
            self.low = min(self.low, float(finite.min()))
            self.high = max(self.high, float(finite.max()))
            self.power += float(np.square(finite, dtype=np.float64).sum())
            self.count += finite.size

    @property
    def rms(self) -> float:
        """Root mean square; 0 where nothing was seen."""
        return math.sqrt(self.power / self.count) if self.count else 0.0


def root_mean_square(array: Array) -> float:
    """Returns the root mean square of an array; 0 of an empty one."""
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def rounding_error(dtypes: Sequence[ir.DataType]) -> float:
    """Returns the relative error that rounding explains; 0 where no floats are computed."""
    floats = [dtype for dtype in dtypes if dtype.is_floating_point()]
    return max((float(dtype.eps) ** (2 / 3) for dtype in floats), default=0.0)


def step_error(quantizer: ir.Node, extent: Extent) -> float:
    """Returns the relative error that a good grid of a quantizer's type explains, for a value of some extent.

    Args:
        quantizer: A DequantizeLinear.
        extent: Of the value in floats.
    """
    integers = quantizer.inputs[0]
    if integers is None or integers.dtype is None or not extent.rms:
        return math.inf
    if integers.dtype.is_floating_point():
        return math.sqrt(STEP_MARGIN) * float(integers.dtype.eps)
    return math.sqrt(STEP_MARGIN / 12) * _step_over(quantizer, integers.dtype, extent) / extent.rms


def grid_over(quantizer: ir.Node, extent: Extent) -> dict[int, ir.TensorProtocol]:
    """Returns the scale and zero point of the grid over all that was seen of a value, by the input that takes them.

    Args:
        quantizer: A DequantizeLinear.
        extent: Of the value in floats.

    Returns:
        Tensors of the types and shapes of those that they replace; none where the grid is not one of integers with one
        constant scale, or where nothing but 0 was seen.
    """
    integers = quantizer.inputs[0]
    stored = stored_tensors(quantizer)[1:]
    if None in stored or any(tensor is not None and tensor.size != 1 for tensor in stored) or not extent.rms:
        return {}
    if integers is None or integers.dtype is None or not integers.dtype.is_integer():
        return {}
    arrays = [ir.read_array(tensor) for tensor in stored if tensor is not None]
    step = _step_over(quantizer, integers.dtype, extent)
    found = [np.full_like(arrays[0], step)]
    if len(arrays) > 1:
        least, most = float(integers.dtype.min), float(integers.dtype.max)
        symmetric = _is_symmetric(quantizer, integers.dtype)
        zero = 0.0 if symmetric else min(max(round(least - extent.low / step), least), most)
        found.append(np.full_like(arrays[1], zero))
    return {place: ir.tensor(array) for place, array in enumerate(found, start=1)}


def _step_over(quantizer: ir.Node, dtype: ir.DataType, extent: Extent) -> float:
    """Distance of neighbours on the grid of a quantizer's type over all that was seen."""
    span = extent.high - extent.low
    if _is_symmetric(quantizer, dtype):
        span = 2 * max(extent.high, -extent.low)
    return span / (2.0**dtype.bitwidth - 1)


def mixed_error(relatives: Sequence[float]) -> float:
    """Returns the relative error that is usual where integers compute.

    Args:
        relatives: The local errors of all such places.
    """
    if len(relatives) < MIXED_FEW:
        return MIXED_ALONE
    return max(MIXED_FACTOR * median(relatives), MIXED_LEAST)


def constant_bounds(restored_by: ir.Node | None, constant: Array, dtype: ir.DataType | None) -> tuple[float, Array]:
    """Returns the relative error of a constant that its form explains, and the absolute one of its elements.

    Args:
        restored_by: The DequantizeLinear that restores the second model's constant from integers, if one does.
        constant: The first model's.
        dtype: Type of both.

    Returns:
        The relative error of the whole, and the largest of an element, float64, broadcasting over the constant.
    """
    rms = root_mean_square(constant)
    rounding = 4 * float(dtype.eps) if dtype is not None and dtype.is_floating_point() else 0.0
    scale = None if restored_by is None else stored_tensors(restored_by)[1]
    if restored_by is None or scale is None or not rms:
        return rounding, np.asarray(math.inf)
    steps = np.abs(ir.read_array(scale).astype(np.float64))
    usual = math.sqrt(CONSTANT_MARGIN * float(np.square(steps).mean()) / 12) / rms
    apart = CONSTANT_STEPS * spread_over(restored_by, steps, constant.shape)
    return usual, apart + rounding * float(max(constant.max(initial=0.0), -constant.min(initial=0.0)))


def _is_symmetric(quantizer: ir.Node, dtype: ir.DataType) -> bool:
    if not dtype.is_signed():
        return False
    if len(quantizer.inputs) < 3 or quantizer.inputs[2] is None:
        return True
    zero_point = stored_tensors(quantizer)[2]
    return zero_point is not None and not ir.read_array(zero_point).any()
