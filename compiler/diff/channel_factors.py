"""Factors by channel between two forms of a value: whether one is the other times a positive number per channel."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sardonyx.measure import Array

_FEWEST = 2
"""Elements of a channel, over all samples, from which it can be told whether a factor fits."""
_MOST_CHANNELS = 1 << 16
_EXPLAINED = 0.5
"""Relative error that may remain, as a share of that without factors, for factors to be what explains it."""
_LEAST, _MOST = 1e-4, 0.3
"""Relative error without factors that asks for an explanation, and that which remains of a value that is the same."""
_ROUNDS, _SETTLED = 100, 1e-7
"""Of a fit along two axes in turns: most rounds, and the relative change after which it has ended."""

Sums = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """The second model's value is the first's times a positive factor for each index of one axis.

    Attributes:
        axis: The axis, not negative.
        factors: One for each index, float64 of shape [channels].
        error: Root mean square of what remains, over that of the second model's value.
    """

    axis: int
    factors: Sums
    error: float

    def of(self, array: Array) -> Array:
        """Returns the first model's value as the second model scales it, in the same shape and type."""
        return (array * spread(self.factors, self.axis, array.ndim)).astype(array.dtype)


def spread(factors: Sums, axis: int, rank: int) -> Sums:
    """Gives factors of shape [channels] a shape that broadcasts along an axis of an array of some rank."""
    return factors.reshape([-1 if index == axis else 1 for index in range(rank)])


@dataclass
class _AxisSums:
    """Sums over samples of products of two values, by channel."""

    first: Sums
    both: Sums
    second: Sums
    count: int = 0


@dataclass
class ChannelSums:
    """Streams what is needed to find a `Rescaling`, along the second and the last axis, in memory of their channels.

    Samples may differ in shape but for the channels of an axis, else that axis is given up.
    """

    _axes: dict[int, _AxisSums] | None = field(default=None)
    _rank: int = 0

    def update(self, reference: Array, candidate: Array) -> None:
        """Takes in one sample of the value of either model; what cannot be a rescaling ends the search."""
        if reference.shape != candidate.shape or reference.dtype.kind != "f" or not reference.ndim:
            self._axes = {}
        if self._axes == {} or not reference.size:
            return
        if self._axes is None:
            self._rank = reference.ndim
            self._axes = {axis: _no_sums(reference.shape[axis]) for axis in _candidate_axes(reference.shape)}
        elif reference.ndim != self._rank:
            self._axes = {}
        for axis in list(self._axes):
            if reference.shape[axis] != self._axes[axis].first.size:
                del self._axes[axis]
            else:
                _add(self._axes[axis], axis, reference, candidate)

    def rescaling(self) -> Rescaling | None:
        """Returns the factors that explain most of the difference; None where none explain the better part of it."""
        found = (_fit(axis, sums) for axis, sums in (self._axes or {}).items())
        return min((fit for fit in found if fit is not None), key=lambda fit: fit.error, default=None)


def _candidate_axes(shape: Sequence[int]) -> Iterator[int]:
    for axis in dict.fromkeys((min(1, len(shape) - 1), len(shape) - 1)):
        if shape[axis] <= _MOST_CHANNELS:
            yield axis


def _no_sums(channels: int) -> _AxisSums:
    return _AxisSums(np.zeros(channels), np.zeros(channels), np.zeros(channels))


def _add(sums: _AxisSums, axis: int, reference: Array, candidate: Array) -> None:
    outer, channels = int(np.prod(reference.shape[:axis])), reference.shape[axis]
    x, y = (array.reshape(outer, channels, -1) for array in (reference, candidate))
    sums.count += reference.size // channels
    for total, a, b in ((sums.first, x, x), (sums.both, x, y), (sums.second, y, y)):
        total += np.einsum("ocn,ocn->c", a, b, dtype=np.float64)


def _fit(axis: int, sums: _AxisSums) -> Rescaling | None:
    """Least squares by channel; the degree of freedom that each factor takes is counted."""
    total = float(sums.second.sum())
    if sums.count < _FEWEST or not np.isfinite(total) or not total:
        return None
    factors = np.ones_like(sums.first)
    np.divide(sums.both, sums.first, out=factors, where=(sums.first > 0) & (sums.both > 0))
    apart = np.maximum(_remaining(sums, factors), 0.0).sum() * sums.count / (sums.count - 1)
    plain = np.maximum(_remaining(sums, np.ones_like(factors)), 0.0).sum()
    scaled = float((np.square(factors) * sums.first).sum())
    if not plain > _LEAST**2 * total or not apart <= min(_EXPLAINED**2 * plain, _MOST**2 * scaled):
        return None
    return Rescaling(axis, factors, float(np.sqrt(apart / scaled)))


def _remaining(sums: _AxisSums, factors: Sums) -> Sums:
    """Power by channel of the second value less the first times factors."""
    return np.asarray(sums.second - 2 * factors * sums.both + np.square(factors) * sums.first)


def constant_factors(before: Array, after: Array, made: Rescaling | None, read: Sequence[Rescaling]) -> Sums | None:
    """Returns what a constant was multiplied by, so that its reader takes and makes values of other scales.

    Args:
        before: The first model's constant, as floats.
        after: The second's, of the same shape.
        made: How what the reader computes is rescaled, if it is.
        read: How what it reads is rescaled.

    Returns:
        Factors that broadcast over the constant; None where those of the values do not explain the difference.
    """
    best, least = None, _EXPLAINED**2 * float(np.square(after - before, dtype=np.float64).sum())
    makes = _placed([] if made is None else [made.factors], before.shape)
    takes = _placed([1 / one.factors for one in read], before.shape)
    for parts in itertools.product([None, *makes], [None, *takes]):
        placed = [part for part in parts if part is not None]
        if not placed:
            continue
        factors = np.asarray(np.prod(np.broadcast_arrays(*placed), axis=0))
        if before.ndim > 1:
            factors = _refined(before, after, factors, [part.shape for part in placed])
        apart = float(np.square(after - before * factors).sum())
        if apart < least:
            best, least = factors, apart
    return best


def _placed(factors: Sequence[Sums], shape: Sequence[int]) -> list[Sums]:
    """Factors along each axis of a shape that has as many indices."""
    return [spread(one, axis, len(shape)) for one in factors for axis, size in enumerate(shape) if size == one.size]


def _refined(before: Array, after: Array, factors: Sums, shapes: list[tuple[int, ...]]) -> Sums:
    """Fits factors of some broadcasting shapes to a constant by least squares, in turns.

    A slice of a constant says more of its factor than values can that are small on the samples.
    """
    axes = [(shape, tuple(axis for axis, size in enumerate(shape) if size == 1)) for shape in shapes]
    for _ in range(_ROUNDS if len(axes) > 1 else 1):
        change = 0.0
        for shape, others in axes:
            scaled = before * factors
            both, power = (scaled * after).sum(others, keepdims=True), np.square(scaled).sum(others, keepdims=True)
            step = np.divide(both, power, out=np.ones(shape), where=(power > 0) & (both > 0))
            factors, change = factors * step, max(change, float(np.abs(step - 1).max()))
        if change < _SETTLED:
            break
    return factors
