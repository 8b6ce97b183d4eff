"""The grid of a weight, and rounding to it that is better than rounding each weight by itself.

All methods minimize the error of the layer's output, tr(E H E^T) with E the error of the matrix and H the second
moments of its columns (about their mean, where a bias takes the error of the mean back), over the integers of a fixed
grid. They return weights that lie on the grid, so that writing the model rounds each to exactly the integer that was
chosen.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.arithmetic import IntegerRange
from sardonyx.passes.quantization.methods.channels import FloatArray

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, so that it is invertible and moderately trusted."""
BLOCK = 128
"""Columns whose errors are propagated together."""


@dataclass(frozen=True)
class Grid:
    """The reals that a weight may take.

    Attributes:
        steps: Scale of each row, shape (groups, outputs / groups), or that of all rows, shape (1, 1).
        integers: The integers; the zero point is 0.
    """

    steps: FloatArray
    integers: IntegerRange

    def nearest(self, matrix: FloatArray) -> FloatArray:
        """Returns the grid's nearest numbers to a matrix of shape (groups, outputs / groups, K)."""
        return self.round(matrix, self.steps[..., None])

    def round(self, values: FloatArray, steps: FloatArray) -> FloatArray:
        """Returns the grid's nearest numbers to values, whose steps broadcast."""
        return np.clip(np.rint(values / steps), self.integers.low, self.integers.high) * steps


def output_error(error: FloatArray, second: FloatArray) -> float:
    """Returns tr(E H E^T), summed over groups."""
    return float(np.sum(np.matmul(error, second) * error))


def round_compensated(matrix: FloatArray, second: FloatArray, grid: Grid) -> FloatArray:
    """Rounds column after column, and lets the later columns make up for the error of each.

    The result is that of GPTQ (Frantar et al., 2022, arXiv:2210.17323), computed as LDLQ (Chee et al., 2023,
    arXiv:2307.13304, which shows that both are the same): with H = (I + U) D (I + U)^T and U strictly upper triangular,
    the error e of column j adds e U[j, k] to what column k is rounded from; nothing is inverted. Columns come in the
    order of falling H[k, k]. Where the nearest integers are better, they are kept. Coordinate descent behind it lowers
    the error on calibration samples further, but not that on others.

    Raises:
        numpy.linalg.LinAlgError: If H is not positive definite, as rounding may leave it.
    """
    damped = _damped(second)
    order = np.argsort(-np.mean(np.diagonal(damped, axis1=1, axis2=2), axis=0), kind="stable")
    back = np.argsort(order)
    rounded = _propagate(matrix[:, :, order], _feedback(damped, order), grid)[:, :, back]
    return min((grid.nearest(matrix), rounded), key=lambda each: output_error(each - matrix, damped))


def _damped(second: FloatArray) -> FloatArray:
    """H with its diagonal raised; columns that never differ from zero get a 1."""
    damped = second.copy()
    places = np.arange(second.shape[1])
    diagonal = second[:, places, places]
    added = DAMPING * diagonal.mean(axis=1, keepdims=True)
    damped[:, places, places] += np.where(diagonal + added > 0, added, 1.0)
    return damped


def _feedback(second: FloatArray, order: npt.NDArray[np.intp]) -> FloatArray:
    """I + U of each group's H, in an order of its columns.

    The Cholesky factor of H with its columns in reverse, reversed itself, is (I + U) D^(1/2).
    """
    reverse = order[::-1]
    factor: FloatArray = np.linalg.cholesky(second[:, reverse[:, None], reverse]).astype(np.float64, copy=False)
    factor = factor[:, ::-1, ::-1]
    return factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :]


def _propagate(matrix: FloatArray, feedback: FloatArray, grid: Grid) -> FloatArray:
    wanted = matrix.copy()
    rounded = np.empty_like(matrix)
    size = matrix.shape[2]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        for k in range(start, stop):
            rounded[:, :, k] = grid.round(wanted[:, :, k], grid.steps)
            error = matrix[:, :, k] - rounded[:, :, k]
            wanted[:, :, k + 1 : stop] += error[:, :, None] * feedback[:, k, None, k + 1 : stop]
        errors = matrix[:, :, start:stop] - rounded[:, :, start:stop]
        wanted[:, :, stop:] += np.matmul(errors, feedback[:, start:stop, stop:])
    return rounded
