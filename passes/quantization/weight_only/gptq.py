"""GPTQ: rounding one column after the other, each error compensated in the columns that are still to come.

After Frantar, Ashkboos, Hoefler and Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023). With the Hessian H = X^T X of the inputs X of a layer, and the upper factor U of its inverse
(H^-1 = U^T U), rounding column j to q_j moves the later columns by -(w_j - q_j) / U_jj * U_j,j+1:.

The scales of a block are fitted when its columns are reached, to the weights as they have become by then, and with the
importances 1 / U_jj^2, which is what an error of column j costs. With `act_order` the columns are taken in the order of
falling H_jj, and the scales of all blocks are fitted before. Scales and zero points may also be given: then only the
integers are chosen here.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from sardonyx.errors import PassError
from sardonyx.passes.quantization.weight_only.grid import BlockGrid, BlockWeight, Float32Array
from sardonyx.passes.quantization.weight_only.rounding import Choose, fit, row_chunks

CHUNK = 1 << 20
"""Weights that are rounded at a time."""
BATCH = 128
"""Columns after which errors are passed on to all later ones, where columns are not taken block by block."""
STRONGEST_DAMPING = 10.0


@dataclass(frozen=True)
class Compensation:
    """What GPTQ needs to know of a layer's inputs.

    Attributes:
        order: The columns in the order in which they are rounded, (K,).
        factor: U for that order, float32 (K, K), upper triangular.
        by_block: Whether the order is that of the columns, so that blocks are fitted when they are reached.
    """

    order: npt.NDArray[np.intp]
    factor: Float32Array
    by_block: bool


def compensation(gram: npt.NDArray[np.floating], *, damping: float, act_order: bool) -> Compensation:
    """Factorizes the inverse Hessian.

    Columns that no sample ever used are rounded to nearest and compensate nothing.

    Args:
        gram: X^T X (K, K).
        damping: Added to the diagonal, relative to its mean; raised tenfold until the matrix is positive definite.
        act_order: Take columns with large inputs first.

    Raises:
        PassError: If the matrix has values that are not finite, or cannot be factorized.
    """
    hessian = gram.astype(np.float64)
    diagonal = hessian.diagonal().copy()
    if not np.isfinite(hessian).all():
        raise PassError("The layer's inputs are not finite on the calibration samples.")
    unused = diagonal <= 0
    hessian[unused, :] = hessian[:, unused] = 0
    mean = float(diagonal[~unused].mean()) if not unused.all() else 1.0
    hessian[unused, unused] = mean
    order = np.argsort(-hessian.diagonal(), kind="stable") if act_order else np.arange(len(hessian))
    hessian = hessian[np.ix_(order, order)]
    while damping <= STRONGEST_DAMPING:
        damped = hessian.copy()
        damped[np.diag_indices_from(damped)] += damping * mean
        try:
            return Compensation(order, _inverse_factor(damped).astype(np.float32), not act_order)
        except np.linalg.LinAlgError:
            damping *= 10
    raise PassError("The Hessian of the layer's inputs cannot be factorized.")


def _inverse_factor(hessian: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns upper triangular U with H^-1 = U^T U.

    Reversing rows and columns of the Cholesky factor of the reversed matrix gives upper triangular M with H = M M^T, so
    that U = M^-1 needs no inverse of H.
    """
    upper = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    return np.triu(np.linalg.inv(upper))


def compensated_rounding(
    weight: Float32Array, grid: BlockGrid, known: Compensation, choose: Choose | None = None
) -> BlockWeight:
    """Quantizes finite weights (R, K), the rows independently of one another.

    Args:
        weight: The weights.
        grid: The integers.
        known: What is known of the layer's inputs.
        choose: Chooses scales and zero points of blocks from the weights alone, like `rounding.fit`; None to fit them
            for the errors that the inputs make count.
    """
    parts = [_Rounding(rows, grid, known, choose).run() for rows in row_chunks(weight, CHUNK)]
    return BlockWeight.concatenate(parts)


class _Rounding:
    """Rounds some rows. Columns are kept as rows of `self.left`, so that each is contiguous."""

    def __init__(self, weight: Float32Array, grid: BlockGrid, known: Compensation, choose: Choose | None) -> None:
        self.grid, self.known = grid, known
        self.by_block = known.by_block and choose is None
        self.rows, self.columns = weight.shape
        blocks = grid.blocks_of(self.columns)
        self.left = np.ascontiguousarray(weight.T[known.order])
        self.levels = np.full((self.columns, self.rows), grid.middle, np.uint8)
        self.importance = (1 / np.square(known.factor.diagonal())).astype(np.float32)
        self.scale = np.ones((blocks, self.rows), np.float32)
        self.zero_point = np.full((blocks, self.rows), grid.middle, np.float32)
        if not self.by_block:
            importance = np.empty_like(self.importance)
            importance[known.order] = self.importance
            fitted = choose or partial(fit, importance=self._split_importance(importance))
            scale, zero_point = fitted(grid.split(weight), grid)
            self.scale, self.zero_point = np.ascontiguousarray(scale.T), np.ascontiguousarray(zero_point.T)

    def run(self) -> BlockWeight:
        batch = self.grid.block if self.by_block else BATCH
        for start in range(0, self.columns, batch):
            stop = min(start + batch, self.columns)
            if self.by_block:
                self._fit_block(start, stop)
            errors = self._round_batch(start, stop)
            self.left[stop:] -= self.known.factor[start:stop, stop:].T @ errors
        return self._result()

    def _fit_block(self, start: int, stop: int) -> None:
        values = np.ascontiguousarray(self.left[start:stop].T)
        importance = self._split_importance(self.importance[start:stop])
        scale, zero_point = fit(self.grid.split(values), self.grid, importance)
        self.scale[start // self.grid.block], self.zero_point[start // self.grid.block] = scale[:, 0], zero_point[:, 0]

    def _round_batch(self, start: int, stop: int) -> Float32Array:
        """Rounds columns and compensates within the batch; returns the errors over U_jj, (columns, R)."""
        errors = np.empty((stop - start, self.rows), np.float32)
        factor = self.known.factor
        for j in range(start, stop):
            block = self.known.order[j] // self.grid.block
            scale, zero_point = self.scale[block], self.zero_point[block]
            values = self.left[j]
            levels = np.clip(np.rint(values / scale + zero_point), 0, self.grid.highest)
            self.levels[self.known.order[j]] = levels
            error = (values - (levels - zero_point) * scale) / factor[j, j]
            errors[j - start] = error
            self.left[j + 1 : stop] -= factor[j, j + 1 : stop, None] * error
        return errors

    def _split_importance(self, importance: Float32Array) -> Float32Array:
        return self.grid.split(importance[None])

    def _result(self) -> BlockWeight:
        padding = -self.columns % self.grid.block
        zeros = np.broadcast_to(np.clip(np.rint(self.zero_point[-1]), 0, self.grid.highest), (padding, self.rows))
        levels = np.concatenate([self.levels, zeros.astype(np.uint8)]).T.reshape(self.rows, -1, self.grid.block)
        parameters = np.ascontiguousarray(self.scale.T), np.ascontiguousarray(self.zero_point.T)
        return BlockWeight.of(self.grid, self.columns, np.ascontiguousarray(levels), parameters)
