"""Scales of weights with the least squared error, channel by channel."""

import numpy as np

from sardonyx.passes.quantization.arithmetic import IntegerRange
from sardonyx.passes.quantization.methods.channels import FloatArray

SHARES = np.linspace(1.0, 0.5, 51)
"""Shares of a channel's largest weight that are tried as its range."""


def search_weight_reach(matrix: FloatArray, integers: IntegerRange, importance: FloatArray | None = None) -> FloatArray:
    """Searches the range of each output channel of a weight.

    Args:
        matrix: The weight, shape (groups, outputs / groups, K).
        integers: The integers of the weight's type; symmetric, zero point 0.
        importance: Mean squares of the columns, shape (groups, K), which weigh the errors; None: all alike.

    Returns:
        The absolute value that the largest integer stands for, shape (groups, outputs / groups).
    """
    largest = np.abs(matrix).max(axis=2)
    weights = np.ones((matrix.shape[0], matrix.shape[2])) if importance is None else importance
    best: FloatArray = largest
    least = np.full(largest.shape, np.inf)
    for share in SHARES:
        steps = np.where(largest > 0, share * largest / integers.high, 1.0)[..., None]
        error = (np.clip(np.rint(matrix / steps), integers.low, integers.high) * steps - matrix) ** 2
        summed = np.matmul(error, weights[:, :, None])[..., 0]
        best, least = np.where(summed < least, share * largest, best), np.minimum(summed, least)
    return best
