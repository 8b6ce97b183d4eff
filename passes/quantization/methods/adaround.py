"""AdaRound (Nagel et al., 2020, arXiv:2004.10568): rounding up or down, learnt by gradient descent.

Each weight is floor(w / step) + h(v) with h a rectified sigmoid of a variable v that starts where h is the weight's
own fraction. Adam lowers tr(E H E^T), relative to what rounding to nearest gives, plus a term that drives h to 0 or 1
as its exponent falls. The second moments H hold all that the data say, so that no data are looked at again.
"""

import numpy as np

from sardonyx.passes.quantization.methods.channels import FloatArray
from sardonyx.passes.quantization.methods.rounding import Grid, output_error

STEPS = 250
"""Steps of Adam."""
RATE = 0.05
"""Learning rate of v."""
WARM_UP = 0.2
"""Share of the steps without the term that makes h decide."""
STRENGTH = 3.0
"""Weight of that term."""
EXPONENTS = (20.0, 2.0)
"""Its exponent at first and at last."""
STRETCH = 1.2
"""The sigmoid is stretched to [-0.1, 1.1] and cut to [0, 1]."""
DECAYS = (0.9, 0.999)
"""Adam's decays of the mean and of the square of the gradient."""
MOST_PRODUCTS = 4e10
"""Multiplications that one layer may take; beyond, it is too large for gradient descent here."""


def affordable(groups: int, outputs: int, size: int) -> bool:
    """Whether a layer's matrix of shape (groups, outputs, size) is small enough."""
    return float(groups) * outputs * size * size * STEPS <= MOST_PRODUCTS


def round_adaptively(matrix: FloatArray, second: FloatArray, grid: Grid) -> FloatArray:
    """Rounds a matrix of shape (groups, outputs / groups, K) up or down, for least output error.

    Returns:
        The learnt rounding, or the nearest where that is better.
    """
    steps = grid.steps[..., None]
    nearest = grid.nearest(matrix)
    reference = output_error(nearest - matrix, second)
    if reference <= 0:
        return nearest
    floor = np.floor(matrix / steps)
    learnt = _learn(matrix, second * (matrix.size / reference), floor, steps)
    rounded = np.clip(floor + (learnt > 0), grid.integers.low, grid.integers.high) * steps
    return rounded if output_error(rounded - matrix, second) < reference else nearest


def _learn(matrix: FloatArray, second: FloatArray, floor: FloatArray, steps: FloatArray) -> FloatArray:
    fraction = np.clip(matrix / steps - floor, 0.01, 0.99)
    v = -np.log(STRETCH / (fraction + (STRETCH - 1) / 2) - 1)
    mean, square = np.zeros_like(v), np.zeros_like(v)
    for step in range(1, STEPS + 1):
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = sigmoid * STRETCH - (STRETCH - 1) / 2
        h = np.clip(stretched, 0.0, 1.0)
        gradient = 2 * np.matmul((floor + h) * steps - matrix, second) * steps
        gradient += _decide(h, step / STEPS)
        gradient *= STRETCH * sigmoid * (1 - sigmoid) * ((stretched > 0) & (stretched < 1))
        mean += (1 - DECAYS[0]) * (gradient - mean)
        square += (1 - DECAYS[1]) * (gradient**2 - square)
        unbiased = mean / (1 - DECAYS[0] ** step), square / (1 - DECAYS[1] ** step)
        v -= RATE * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return v


def _decide(h: FloatArray, progress: float) -> FloatArray | float:
    """The gradient of STRENGTH * (1 - |2h - 1|^b)."""
    if progress <= WARM_UP:
        return 0.0
    share = (progress - WARM_UP) / (1 - WARM_UP)
    exponent = EXPONENTS[1] + (EXPONENTS[0] - EXPONENTS[1]) * 0.5 * (1 + np.cos(np.pi * share))
    centred = 2 * h - 1
    gradient: FloatArray = -STRENGTH * 2 * exponent * np.sign(centred) * np.abs(centred) ** (exponent - 1)
    return gradient
