"""The distribution of real values, exact or binned, and what quantizing it costs.

Quantization maps each interval between two rounding boundaries to one level. With cumulative sums of the mass and its
first two moments, what an interval contributes is a difference of two of them, so the squared error of a candidate
costs as much as it has levels, however many values there are, and candidates are evaluated together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.arithmetic import Float64Array, Int64Array

MANY_LEVELS = 256
"""With more levels than this, rounding errors are taken as uniform: their mean square is S^2 / 12 (Bennett, 1948)."""

_NO_MASS = 1e-12  # share of all values, below which a difference of sums is rounding
_MASS, _FIRST, _SECOND, _SPREAD, _WIDTH = range(5)  # rows of the cumulative sums


class Moments:
    """Sums over the intervals that boundaries separate, each computed when it is asked for.

    All have shape (..., n + 1): below the first of n boundaries, between each two, above the last.

    Args:
        values: The distribution.
        boundaries: Ascending along the last axis, shape (..., n).
    """

    def __init__(self, values: "Distribution", boundaries: Float64Array) -> None:
        self._values = values
        self._shape = boundaries.shape
        if values.mass.size:
            index = np.searchsorted(values.left, boundaries, side="right") - 1
            self._bin = np.maximum(index, 0)
            self._left = values.left[self._bin]
            width = (values.right - values.left)[self._bin]
            part = np.where(width > 0, np.clip((boundaries - self._left) / np.where(width > 0, width, 1.0), 0, 1), 1.0)
            self._part = np.where(index < 0, 0.0, part)
            self._reach = self._part * width

    @cached_property
    def mass(self) -> Float64Array:
        """Number of values."""
        return self._sums(_MASS, lambda: self._mass_below)

    @cached_property
    def first(self) -> Float64Array:
        """Sum of the values."""
        return self._sums(_FIRST, lambda: self._mass_below * (self._left + self._reach / 2))

    @cached_property
    def second(self) -> Float64Array:
        """Sum of their squares."""
        left, reach = self._left, self._reach
        return self._sums(_SECOND, lambda: self._mass_below * (left * (left + reach) + reach**2 / 3))

    @cached_property
    def spread(self) -> Float64Array:
        """Sum of mass log(mass / width) over the bins."""
        sums = self._values.cumulative[_SPREAD]
        return self._sums(_SPREAD, lambda: self._part * (sums[self._bin + 1] - sums[self._bin]))

    @cached_property
    def width(self) -> Float64Array:
        """Width of the bins that are not empty."""
        return self._sums(_WIDTH, lambda: self._reach)

    @cached_property
    def _mass_below(self) -> Float64Array:
        """Number of values of a boundary's own bin that lie below it."""
        mass: Float64Array = self._part * self._values.mass[self._bin]
        return mass

    def _sums(self, row: int, within: Callable[[], Float64Array]) -> Float64Array:
        """Differences of the sums below boundaries: those of whole bins, and those within a boundary's own bin."""
        if not self._values.mass.size:
            return np.zeros((*self._shape[:-1], self._shape[-1] + 1))
        sums = self._values.cumulative[row]
        below = np.empty((*self._shape[:-1], self._shape[-1] + 2))
        below[..., 0], below[..., -1] = 0.0, sums[-1]
        np.add(sums[self._bin], within(), out=below[..., 1:-1])
        differences: Float64Array = below[..., 1:] - below[..., :-1]
        return differences


@dataclass(frozen=True)
class Distribution:
    """Where values are: uniform within bins that ascend and do not overlap, and some that are exactly zero.

    Attributes:
        left: Lower edges, float64.
        right: Upper edges; equal to the lower one for a point mass.
        mass: Number of values in each bin, positive.
        zeros: Number of values that are zero, which every scheme represents exactly: moments leave them out.
    """

    left: Float64Array
    right: Float64Array
    mass: Float64Array
    zeros: float = 0.0

    @classmethod
    def of_values(cls, values: npt.ArrayLike) -> Self:
        """Makes the exact distribution of finite values of any shape."""
        points, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
        nonzero = points != 0.0
        zeros = float(counts[~nonzero].sum())
        return cls(points[nonzero], points[nonzero], counts[nonzero].astype(np.float64), zeros)

    @property
    def low(self) -> float:
        """The smallest value, at most 0."""
        return min(0.0, float(self.left[0])) if self.left.size else 0.0

    @property
    def high(self) -> float:
        """The largest value, at least 0."""
        return max(0.0, float(self.right[-1])) if self.right.size else 0.0

    @cached_property
    def energy(self) -> float:
        """Sum of all squared values."""
        return float(self.cumulative[_SECOND, -1])

    def between(self, boundaries: Float64Array) -> Moments:
        """Returns sums over the intervals that boundaries separate.

        Args:
            boundaries: Ascending along the last axis, shape (..., n).

        Returns:
            Moments of shape (..., n + 1): below the first boundary, between each two, above the last.
        """
        return Moments(self, boundaries)

    def quantile(self, share: float) -> float:
        """Returns the value below which a share of all values lies, zeros included.

        Args:
            share: In [0, 1].
        """
        negative = int(np.searchsorted(self.left, 0.0))
        total = float(self.mass.sum()) + self.zeros
        wanted, below = share * total, float(self.mass[:negative].sum())
        if below <= wanted <= below + self.zeros or not self.mass.size:
            return 0.0
        if wanted > below:
            wanted -= self.zeros
        ends = self.cumulative[_MASS, 1:]
        bin_ = min(int(np.searchsorted(ends, wanted)), ends.size - 1)
        part = (wanted - self.cumulative[_MASS, bin_]) / self.mass[bin_]
        return float(self.left[bin_] + part * (self.right[bin_] - self.left[bin_]))

    def rebinned(self, bins: int) -> Self:
        """Returns the distribution with bins of equal width over its range, empty ones left out."""
        edges = np.linspace(self.low, self.high, bins + 1)
        mass = self.between(edges[1:-1]).mass
        kept = mass > _NO_MASS * mass.sum()
        return type(self)(edges[:-1][kept], edges[1:][kept], mass[kept], self.zeros)

    @cached_property
    def cumulative(self) -> Float64Array:
        """The quantities of `Moments`, summed over the bins below each edge: shape (5, bins + 1)."""
        width = self.right - self.left
        middle = (self.left + self.right) / 2
        density = np.log(self.mass / np.where(width > 0, width, 1.0))
        columns = (
            self.mass,
            self.mass * middle,
            self.mass * (middle**2 + width**2 / 12),
            self.mass * density,
            width,
        )
        sums = np.zeros((len(columns), self.mass.size + 1))
        np.cumsum(columns, axis=1, out=sums[:, 1:])
        return sums


@dataclass(frozen=True)
class Products:
    """What the real values r and their quantized values v = S (q - Z) have in common; arrays of one a candidate.

    Attributes:
        energy: Sum of r^2.
        cross: Sum of r v.
        quantized: Sum of v^2.
    """

    energy: float
    cross: Float64Array
    quantized: Float64Array

    @property
    def squared_error(self) -> Float64Array:
        """Sum of (r - v)^2."""
        return np.maximum(self.energy - 2 * self.cross + self.quantized, 0.0)

    @property
    def cosine(self) -> Float64Array:
        """Cosine of the angle between r and v; 0 where v is all zero."""
        norm = np.sqrt(self.energy * self.quantized)
        return np.divide(self.cross, norm, out=np.zeros_like(norm), where=norm > 0)


def products(values: Distribution, levels: Float64Array, scale: Float64Array, zero_point: Int64Array) -> Products:
    """Returns sums of squares and products over the values, rounded to the nearest level, for each candidate.

    Args:
        values: The real values.
        levels: The numbers that may be used, ascending, shape (n,).
        scale: Scales, shape (candidates,).
        zero_point: Zero points, same shape.
    """
    offset = zero_point[:, None].astype(np.float64)
    if levels.size > MANY_LEVELS:
        return _with_uniform_noise(values, scale[:, None] * (levels[[0, -1]] - offset), scale)
    reals = scale[:, None] * (levels - offset)
    moments = values.between((reals[:, 1:] + reals[:, :-1]) / 2)
    cross = (reals * moments.first).sum(axis=1)
    return Products(values.energy, cross, (reals**2 * moments.mass).sum(axis=1))


def _with_uniform_noise(values: Distribution, ends: Float64Array, scale: Float64Array) -> Products:
    """The same where levels are so many that rounding is noise which does not depend on the value."""
    moments = values.between(ends)
    outside = [0, 2]
    cross = moments.second[:, 1] + (ends * moments.first[:, outside]).sum(axis=1)
    noise = moments.mass[:, 1] * scale**2 / 12
    quantized = moments.second[:, 1] + noise + (ends**2 * moments.mass[:, outside]).sum(axis=1)
    return Products(values.energy, cross, quantized)
