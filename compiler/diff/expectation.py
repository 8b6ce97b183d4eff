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
from sardonyx.diff.dequantize import stored_tensors
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
    levels = 2.0**integers.dtype.bitwidth - 1
    span = extent.high - extent.low
    if _is_symmetric(quantizer, integers.dtype):
        span = 2 * max(extent.high, -extent.low)
    return math.sqrt(STEP_MARGIN / 12) * span / levels / extent.rms


def mixed_error(relatives: Sequence[float]) -> float:
    """Returns the relative error that is usual where integers compute.

    Args:
        relatives: The local errors of all such places.
    """
    if len(relatives) < MIXED_FEW:
        return MIXED_ALONE
    return max(MIXED_FACTOR * median(relatives), MIXED_LEAST)


def constant_bounds(restored_by: ir.Node | None, rms: float, dtype: ir.DataType | None) -> tuple[float, float]:
    """Returns the relative and the absolute error of a constant that its form explains.

    Args:
        restored_by: The DequantizeLinear that restores the second model's constant from integers, if one does.
        rms: Root mean square of the first model's constant.
        dtype: Type of both.
    """
    scale = None if restored_by is None else stored_tensors(restored_by)[1]
    if scale is None or not rms:
        return (4 * float(dtype.eps) if dtype is not None and dtype.is_floating_point() else 0.0), math.inf
    steps = np.abs(ir.read_array(scale).astype(np.float64))
    usual = math.sqrt(CONSTANT_MARGIN * float(np.square(steps).mean()) / 12) / rms
    return usual, CONSTANT_STEPS * float(steps.max(initial=0.0))


def _is_symmetric(quantizer: ir.Node, dtype: ir.DataType) -> bool:
    if not dtype.is_signed():
        return False
    if len(quantizer.inputs) < 3 or quantizer.inputs[2] is None:
        return True
    zero_point = stored_tensors(quantizer)[2]
    return zero_point is not None and not ir.read_array(zero_point).any()
