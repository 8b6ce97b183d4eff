"""Half-quadratic quantization: scales and zero points from the weights alone, under a norm that tolerates outliers.

After Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (Mobius Labs, 2023): instead of
the squared error, sum |w - w_q|^p with p < 1 is minimized, by splitting off an error term e and alternating

    e <- shrink(w - w_q),   shrink(x) = sign(x) max(0, |x| - |x|^(p-1) / beta)
    S, Z <- least squares between w - e and the integers

with beta growing. Differences from the paper: without offsets the zero point is kept an integer, because kernels take
it so; the scale is fitted too; errors are measured in steps of the block's first scale, so that beta means the same for
every weight. Each block keeps the best of all its iterations.
"""

import numpy as np

from sardonyx.passes.quantization.weight_only.grid import SMALLEST, BlockGrid, BlockWeight, Float32Array
from sardonyx.passes.quantization.weight_only.rounding import fit, least_squares, quantize_rows

NORM = 0.7
"""The exponent p, as in the paper."""
BETA, GROWTH = 10.0, 1.05
"""First value of beta, and its factor from one iteration to the next."""
ITERATIONS = 20


def half_quadratic(weight: Float32Array, grid: BlockGrid) -> BlockWeight:
    """Quantizes finite weights (R, K)."""
    return quantize_rows(weight, grid, fit_half_quadratic)


def fit_half_quadratic(blocks: Float32Array, grid: BlockGrid) -> tuple[Float32Array, Float32Array]:
    """Chooses scales and zero points (R, B) of finite blocks (R, B, block), like `rounding.fit`."""
    unit, zero = fit(blocks, grid)
    values = blocks / unit[..., None]  # in steps
    step, beta = np.ones_like(unit), BETA
    best = np.full(unit.shape, np.inf, np.float32)
    best_step, best_zero = step, zero
    for _ in range(ITERATIONS):
        levels = grid.round(values, step, zero)
        error = values - (levels - zero[..., None]) * step[..., None]
        size = np.abs(error)
        loss = np.power(size, NORM).sum(axis=-1)
        better = loss < best
        best = np.where(better, loss, best)
        best_step, best_zero = np.where(better, step, best_step), np.where(better, zero, best_zero)
        target = values - _shrink(error, size, beta)
        step, zero = _next(target, levels, step, zero, grid)
        beta *= GROWTH
    return _usable(best_step * unit), best_zero


def _shrink(error: Float32Array, size: Float32Array, beta: float) -> Float32Array:
    """The proximal step of |e|^p: 0 for small errors, nearly the error itself for large ones."""
    threshold = np.power(np.maximum(size, np.float32(1e-6)), np.float32(NORM - 1)) / np.float32(beta)
    return np.copysign(np.maximum(size - threshold, 0), error)


def _next(
    target: Float32Array, levels: Float32Array, step: Float32Array, zero: Float32Array, grid: BlockGrid
) -> tuple[Float32Array, Float32Array]:
    """Fits zero point, then scale, of the given integers to the target; a block without information keeps its own."""
    if not grid.symmetric:
        zero = grid.zero_points((levels - target / step[..., None]).mean(axis=-1))
    found = least_squares(target, levels, zero, grid)
    usable = np.abs(found.step) > np.float32(1e-3)
    return np.where(usable, found.step, step), np.where(usable, found.zero_point, zero)


def _usable(scale: Float32Array) -> Float32Array:
    return np.where(np.abs(scale) < SMALLEST, np.float32(SMALLEST), scale).astype(np.float32)
