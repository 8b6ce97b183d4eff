"""The grid of a weight, and rounding to it that is better than rounding each weight by itself.

All methods minimize the error of the layer's output, tr(E H E^T) with E the error of the matrix and H the second
moments of its columns (about their mean, where a bias takes the error of the mean back), over the integers of a fixed
grid. They return weights that lie on the grid, so that writing the model rounds each to exactly the integer that was
chosen.
"""

from dataclasses import dataclass

import numpy as np

from sardonyx.passes.quantization.arithmetic import IntegerRange
from sardonyx.passes.quantization.methods.channels import FloatArray

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it, so that it is invertible and moderately trusted."""
BLOCK = 128
"""Columns whose errors are propagated together."""
SWEEPS = 4
"""Sweeps of coordinate descent at most."""


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

    The algorithm is that of GPTQ (Frantar et al., 2022, arXiv:2210.17323): with U the upper Cholesky factor of the
    inverse of H, the error e of column k, divided by U[k, k], is taken from the later columns times U[k]. Columns come
    in the order of falling H[k, k]. Coordinate descent follows (QuantEase: Behdin et al., 2023, arXiv:2309.01885): it
    takes each column to its best integers given all others and never raises the error.
    """
    damped = _damped(second)
    order = np.argsort(-np.mean(np.diagonal(damped, axis1=1, axis2=2), axis=0), kind="stable")
    back = np.argsort(order)
    factor = _inverse_factor(damped[:, order][:, :, order])
    rounded = _propagate(matrix[:, :, order], factor, grid)[:, :, back]
    best = min((grid.nearest(matrix), rounded), key=lambda each: output_error(each - matrix, second))
    return _descend(matrix, damped, best, grid)


def _damped(second: FloatArray) -> FloatArray:
    """H with its diagonal raised; columns that never differ from zero get a 1."""
    size = second.shape[1]
    diagonal = np.diagonal(second, axis1=1, axis2=2)
    added = DAMPING * diagonal.mean(axis=1, keepdims=True)
    added = np.where(diagonal + added > 0, added, 1.0)
    damped: FloatArray = second + added[:, :, None] * np.eye(size)
    return damped


def _inverse_factor(second: FloatArray) -> FloatArray:
    """The upper Cholesky factor of the inverse of each group's H."""
    inverse = np.linalg.inv(second)
    symmetric = (inverse + inverse.transpose(0, 2, 1)) / 2
    lower: FloatArray = np.linalg.cholesky(symmetric).astype(np.float64)
    return lower.transpose(0, 2, 1)


def _propagate(matrix: FloatArray, factor: FloatArray, grid: Grid) -> FloatArray:
    left = matrix.copy()
    rounded = np.empty_like(left)
    size = left.shape[2]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.empty((*left.shape[:2], stop - start))
        for k in range(start, stop):
            rounded[:, :, k] = grid.round(left[:, :, k], grid.steps)
            error = (left[:, :, k] - rounded[:, :, k]) / factor[:, k, k, None]
            left[:, :, k + 1 : stop] -= error[:, :, None] * factor[:, k, None, k + 1 : stop]
            errors[:, :, k - start] = error
        left[:, :, stop:] -= np.matmul(errors, factor[:, start:stop, stop:])
    return rounded


def _descend(matrix: FloatArray, second: FloatArray, start: FloatArray, grid: Grid) -> FloatArray:
    """Coordinate descent over columns, all rows at once; what a block changes reaches the later ones in one product."""
    rounded = start.copy()
    size = matrix.shape[2]
    for _ in range(SWEEPS):
        slope = np.matmul(rounded - matrix, second)
        changed = False
        for first in range(0, size, BLOCK):
            block = slice(first, min(first + BLOCK, size))
            change = _descend_block(rounded[:, :, block], slope[:, :, block], second[:, block, block], grid)
            if change.any():
                changed = True
                rounded[:, :, block] += change
                slope[:, :, block.stop :] += np.matmul(change, second[:, block, block.stop :])
        if not changed:
            break
    return grid.nearest(rounded)


def _descend_block(rounded: FloatArray, slope: FloatArray, second: FloatArray, grid: Grid) -> FloatArray:
    """Returns what one sweep over the columns of a block adds to them, all of shape (groups, outputs / groups, block).

    Args:
        rounded: The columns as they are.
        slope: Half the gradient of the output error by them.
        second: H among them, shape (groups, block, block).
        grid: The reals that they may take.
    """
    columns, slopes = (np.ascontiguousarray(np.moveaxis(each, 2, 0)) for each in (rounded, slope))
    products = np.ascontiguousarray(second.transpose(1, 2, 0))[..., None]  # (block, block, groups, 1)
    changes = np.zeros_like(columns)
    for k, column in enumerate(columns):
        changes[k] = grid.round(column - slopes[k] / products[k, k], grid.steps) - column
        slopes[k + 1 :] += changes[k] * products[k, k + 1 :]
    return np.moveaxis(changes, 0, 2)
