"""Round to nearest with the scales of least squared error, from the weights alone.

For integers q and zero point Z the best scale of a block has a closed form: with d = q - Z and importances h,
S = sum(h w d) / sum(h d^2), which leaves an error of sum(h w^2) - sum(h w d)^2 / sum(h d^2). So it suffices to try
several roundings, each made with one candidate for S and Z, and to keep the one with the largest second term. Where
blocks have offsets, a linear regression takes the place of that formula.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.weight_only.grid import SMALLEST, BlockGrid, BlockWeight, Float32Array

SHRINKS = (0.7, 0.76, 0.82, 0.87, 0.91, 0.95, 0.98, 1.01, 1.04)
"""Candidates for a symmetric block's range, relative to its largest magnitude: what lies outside saturates."""
RANGES = tuple((below, above) for below in (0.75, 0.85, 0.93, 1.0) for above in (0.75, 0.85, 0.93, 1.0))
"""Candidates for the two ends of an asymmetric block's range, relative to its smallest and largest value."""
REFINEMENTS = 2
"""How often the best candidate is rounded and fitted again."""
CHUNK = 1 << 18
"""Weights that are worked on at a time, so that temporaries stay in the processor's cache."""


def fit(
    blocks: Float32Array, grid: BlockGrid, importance: Float32Array | None = None
) -> tuple[Float32Array, Float32Array]:
    """Chooses scale and zero point of each block so that the squared error is least among the candidates.

    Args:
        blocks: Finite real values (R, B, block).
        grid: The integers.
        importance: Weights of the squared errors, not negative, that broadcast against `blocks`; None for all 1.

    Returns:
        Scales (R, B), float32 and none of them 0, and zero points (R, B), integers as float32. A block of zeros has
        scale 1.
    """
    reach = np.abs(blocks).max(axis=-1, initial=0.0)
    zeros = reach < SMALLEST * grid.highest
    unit = np.where(zeros, np.float32(1), reach).astype(np.float32)
    normal = np.where(zeros[..., None], np.float32(0), blocks / unit[..., None])  # no square overflows or vanishes
    if importance is not None:
        importance = np.broadcast_to(importance, normal.shape)
    best = _Best(normal, grid, importance)
    for step, zero in _candidates(normal, grid):
        best.offer(step, zero)
    for _ in range(REFINEMENTS):
        best.offer(best.step, best.zero_point)
    scale = np.where(zeros, np.float32(1), best.step * unit).astype(np.float32)
    return np.where(np.abs(scale) < SMALLEST, np.float32(SMALLEST), scale), best.zero_point


class _Best:
    """The best scale and zero point of each block so far."""

    def __init__(self, values: Float32Array, grid: BlockGrid, importance: Float32Array | None) -> None:
        self.values, self.grid, self.importance = values, grid, importance
        self.gain = np.full(values.shape[:-1], -1, np.float32)
        self.step, self.zero_point = np.ones_like(self.gain), np.full_like(self.gain, grid.middle)

    def offer(self, step: Float32Array, zero_point: Float32Array) -> None:
        """Rounds with given parameters, fits parameters to the integers, and keeps them where they are better."""
        levels = self.grid.round(self.values, step, zero_point)
        found = least_squares(self.values, levels, zero_point, self.grid, self.importance)
        better = (found.gain > self.gain) & (np.abs(found.step) >= SMALLEST)
        self.gain = np.where(better, found.gain, self.gain)
        self.step = np.where(better, found.step, self.step)
        self.zero_point = np.where(better, found.zero_point, self.zero_point)


@dataclass(frozen=True)
class Solution:
    """The best scale, and real zero point where blocks have offsets, for integers that are given.

    Attributes:
        gain: By how much the squared error is less than that of zeros.
        step: The scale; 0 where the integers say nothing about it.
        zero_point: The zero point.
    """

    gain: Float32Array
    step: Float32Array
    zero_point: Float32Array


def least_squares(
    values: Float32Array,
    levels: Float32Array,
    zero_point: Float32Array,
    grid: BlockGrid,
    importance: Float32Array | None = None,
) -> Solution:
    """Fits the scales (and real zero points) of blocks whose integers are given.

    Args:
        values: Real values (R, B, block).
        levels: Their integers.
        zero_point: Zero points (R, B); kept where blocks have no offsets.
        grid: The integers.
        importance: Weights of the squared errors, as large as `values`.
    """
    plain = _regression(values, levels - zero_point[..., None], importance)
    if not grid.offsets:
        return Solution(*plain, zero_point)
    total = np.float32(values.shape[-1]) if importance is None else importance.sum(axis=-1)
    mean, center = (_sum(array, importance) / total for array in (levels, values))
    gain, step = _regression(values, levels - mean[..., None], importance)
    real = mean - np.divide(center, step, out=np.zeros_like(step), where=np.abs(step) >= SMALLEST)
    allowed = (np.abs(step) >= SMALLEST) & (grid.zero_points(real) == real)
    return Solution(
        np.where(allowed, gain + total * center * center, plain[0]),
        np.where(allowed, step, plain[1]),
        np.where(allowed, real, zero_point),
    )


def _regression(
    values: Float32Array, distance: Float32Array, importance: Float32Array | None
) -> tuple[Float32Array, Float32Array]:
    """Returns what multiples of distances explain of the values, and the factors; 0 where distances are 0."""
    weighted = distance if importance is None else distance * importance
    product = np.einsum("...i,...i", values, weighted)
    square = np.einsum("...i,...i", distance, weighted)
    factor = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
    return product * factor, factor


def _sum(array: Float32Array, importance: Float32Array | None) -> Float32Array:
    total: Float32Array = array.sum(axis=-1) if importance is None else np.einsum("...i,...i", array, importance)
    return total


def round_to_nearest(weight: Float32Array, grid: BlockGrid) -> BlockWeight:
    """Quantizes finite weights (R, K) to the nearest integers."""
    return quantize_rows(weight, grid, fit)


Choose = Callable[[Float32Array, BlockGrid], tuple[Float32Array, Float32Array]]
"""Chooses scales and zero points (R, B) of blocks (R, B, block), like `fit`."""


def quantize_rows(weight: Float32Array, grid: BlockGrid, choose: Choose) -> BlockWeight:
    """Quantizes finite weights (R, K) to the nearest integers of what `choose` says for blocks, like `fit`."""
    parts = [BlockWeight.quantize(grid, rows, *choose(grid.split(rows), grid)) for rows in row_chunks(weight, CHUNK)]
    return BlockWeight.concatenate(parts)


def row_chunks(weight: Float32Array, elements: int) -> Iterator[Float32Array]:
    """Yields contiguous copies of a weight's rows, so many that they hold about `elements` values."""
    rows = max(1, elements // max(1, weight.shape[1]))
    for start in range(0, len(weight), rows):
        yield np.ascontiguousarray(weight[start : start + rows])


def _candidates(normal: Float32Array, grid: BlockGrid) -> Iterator[tuple[Float32Array, Float32Array]]:
    """Yields scales and zero points to try for blocks whose largest magnitude is 1 (or 0)."""
    low, high = normal.min(axis=-1), normal.max(axis=-1)
    if not grid.offsets:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    if grid.symmetric:
        middle = np.full_like(low, grid.middle)
        for step in _symmetric_steps(high >= -low, grid):
            yield step, middle
        return
    center = np.where(low * high > 0, (low + high) / 2, 0)  # ranges shrink towards 0 where they hold it
    for below, above in RANGES:
        bottom = center + below * (low - center)
        step = np.maximum(center + above * (high - center) - bottom, SMALLEST * grid.highest) / grid.highest
        yield step.astype(np.float32), grid.zero_points(-bottom / step)


def _symmetric_steps(positive: npt.NDArray[np.bool_], grid: BlockGrid) -> Iterator[Float32Array]:
    """Yields scales with which a value of 1 (where `positive`) or -1 lies at either end of the integers."""
    above = grid.highest - grid.middle  # integers above the middle; below it there is one more
    signs = (np.where(positive, 1, -1), np.where(positive, -1, 1)) if grid.negative_scales else (np.ones(()),)
    for sign in signs:
        reach = np.where((sign > 0) == positive, above, grid.middle)
        for shrink in SHRINKS:
            yield (sign * shrink / reach).astype(np.float32)
