"""Factors by channel between two forms of a value: whether one is the other times a positive number per channel."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sardonyx.measure import Array

_FEWEST = 2
"""Elements of a channel, over all samples, from which it can be told whether a factor fits."""
_MOST_CHANNELS = 1 << 16
_BLOCK = 1 << 16
"""Elements that are multiplied at a time, in float64."""
_EXPLAINED = 0.5
"""Relative error that may remain, as a share of that without factors, for factors to be what explains it."""
_LEAST, _MOST = 1e-4, 0.3
"""Relative error without factors that asks for an explanation, and that which remains of a value that is the same."""
_ROUNDS, _SETTLED = 100, 1e-7
"""Of a fit along two axes in turns: most rounds, and the relative change after which it has ended."""

_SIMPLER = 2.0
"""Factors along several axes fit at least as well as those along one of them: they have to fit this much better."""

Sums = npt.NDArray[np.float64]
Axes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """The second model's value is the first's times a positive factor for each channel.

    Attributes:
        axes: The axes whose indices number the channels, not negative, growing: one, or those of heads and what is in a
            head, along which the channels of a value lie while attention has them apart.
        factors: One for each channel, float64 of shape [channels].
        error: Root mean square of what remains, over that of the second model's value.
    """

    axes: Axes
    factors: Sums
    error: float

    def of(self, array: Array) -> Array:
        """Returns the first model's value as the second model scales it, in the same shape and type."""
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(array.shape)]
        return (array * self.factors.reshape(shape)).astype(array.dtype)


def spread(factors: Sums, axis: int, rank: int) -> Sums:
    """Gives factors of shape [channels] a shape that broadcasts along an axis of an array of some rank."""
    return factors.reshape([-1 if index == axis else 1 for index in range(rank)])


@dataclass
class _AxisSums:
    """Sums over samples of products of two values, by channel.

    Attributes:
        products: Of the first with itself, of both, and of the second with itself; shape [3, channels of each axis].
        count: Elements of a channel.
    """

    products: Sums
    count: int = 0

    @property
    def first(self) -> Sums:
        """Power of the first value."""
        return np.asarray(self.products[0])

    @property
    def both(self) -> Sums:
        """Product of both."""
        return np.asarray(self.products[1])

    @property
    def second(self) -> Sums:
        """Power of the second."""
        return np.asarray(self.products[2])


@dataclass
class ChannelSums:
    """Streams what is needed to find a `Rescaling`, along the axes on which channels lie, in memory of their channels.

    Samples may differ in shape but for the channels, else those axes are given up.
    """

    _axes: dict[Axes, _AxisSums] | None = field(default=None)
    _rank: int = 0

    def update(self, reference: Array, candidate: Array) -> None:
        """Takes in one sample of the value of either model; what cannot be a rescaling ends the search."""
        if reference.shape != candidate.shape or reference.dtype.kind != "f" or not reference.ndim:
            self._axes = {}
        if self._axes == {} or not reference.size:
            return
        if self._axes is None:
            self._rank = reference.ndim
            self._axes = {
                axes: _AxisSums(np.zeros((3, *_sizes(reference, axes)))) for axes in _candidate_axes(reference.shape)
            }
        elif reference.ndim != self._rank:
            self._axes = {}
        self._axes = {axes: sums for axes, sums in self._axes.items() if _sizes(reference, axes) == sums.first.shape}
        if self._axes:
            _add(self._axes, reference, candidate)

    def rescaling(self) -> Rescaling | None:
        """Returns the factors that explain most of the difference; None where none explain the better part of it."""
        found = [fit for axes, sums in (self._axes or {}).items() if (fit := _fit(axes, sums)) is not None]
        return min(found, key=lambda fit: fit.error * (_SIMPLER if len(fit.axes) > 1 else 1.0), default=None)


def _candidate_axes(shape: Sequence[int]) -> Iterator[Axes]:
    """Yields the second and the last axis; in attention, the heads' with the last, before and behind transposing."""
    rank = len(shape)
    apart: tuple[Axes, ...] = ((1, 3), (2, 3)) if rank == 4 else ()
    for axes in dict.fromkeys(((min(1, rank - 1),), (rank - 1,), *apart)):
        if np.prod([shape[axis] for axis in axes]) <= _MOST_CHANNELS:
            yield axes


def _sizes(array: Array, axes: Axes) -> tuple[int, ...]:
    return tuple(array.shape[axis] for axis in axes)


def _add(found: Mapping[Axes, _AxisSums], reference: Array, candidate: Array) -> None:
    """Adds one sample, a block of its longest axis at a time: every product is made once for all axes."""
    longest = int(np.argmax(reference.shape))
    step = max(1, _BLOCK * reference.shape[longest] // reference.size)
    for sums in found.values():
        sums.count += reference.size // max(sums.first.size, 1)
    for start in range(0, reference.shape[longest], step):
        block = slice(start, start + step)
        part = (*[slice(None)] * longest, block)
        a, b = reference[part].astype(np.float64), candidate[part].astype(np.float64)
        totals = {tuple(range(a.ndim)): np.stack((a * a, a * b, b * b))}
        for axes in sorted(found, key=len, reverse=True):
            wider = next(kept for kept in reversed(totals) if set(axes) <= set(kept))
            others = tuple(index + 1 for index, axis in enumerate(wider) if axis not in axes)
            totals[axes] = totals[wider].sum(others)
            found[axes].products[:, *(block if axis == longest else slice(None) for axis in axes)] += totals[axes]


def _fit(axes: Axes, sums: _AxisSums) -> Rescaling | None:
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
    return Rescaling(axes, factors.reshape(-1), float(np.sqrt(apart / scaled)))


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
