"""Several samples of one value, as observers look at them.

What observing small arrays costs is calls, not elements: successive samples are therefore fetched end to end and looked
at together, as far as the cache holds them.

All elements count for the extremes. Counting an element in a histogram costs ten times as much as comparing it, more
than a small convolutional network spends on computing it. With `thinning`, histograms are therefore of every so many
elements of all samples of one size laid end to end, with the weight of those that they stand for: it depends on a
sample's index and size alone what is counted of it, not on which samples are looked at together, or by whom. The stride
is coprime to the number of elements and so to every dimension: no channel or column is seen more often than another,
and as many successive samples as the stride is long cover every place. What is rare is then seen by chance, and ranges
that hang on it move (docs/quantization.md has figures), so that everything is counted unless asked otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
Float32Array = npt.NDArray[np.float32]

LEAST_COUNTED = 512
"""About so many elements of a sample are counted at least: smaller values are thinned less, or not."""

_PIECE = 1 << 16  # elements that are looked at together: with their bins 768 KiB, which stay in the cache


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements that are looked at together.

    Attributes:
        values: All of them, contiguous, at least one.
        counted: Those that are counted, a view.
        weight: How many elements each of these stands for.
    """

    values: Float32Array
    counted: Float32Array
    weight: int

    @classmethod
    def of(cls, values: FloatArray, size: int, start: int, thinning: int) -> Self:
        """Makes a piece of all samples of one size laid end to end.

        Args:
            values: Its elements, one-dimensional.
            size: Elements of a sample.
            start: Where in that succession it begins.
            thinning: One element in so many should be counted.
        """
        single, stride = as_float32(values), thinning_stride(size, thinning)
        return cls(single, single[-start % stride :: stride], stride)

    def extremes(self) -> tuple[float, float]:
        """Returns the smallest and the largest element, NaN where one is.

        -0 becomes 0, or the result would depend on the order.
        """
        return float(np.minimum.reduce(self.values)) + 0.0, float(np.maximum.reduce(self.values)) + 0.0


@dataclass(frozen=True)
class Run:
    """Arrays of one value from successive samples that agree in size.

    Attributes:
        first: Index of the first sample in the data.
        arrays: One row a sample, (samples, ...), of any float dtype; they are taken as float32.
    """

    first: int
    arrays: FloatArray

    def rows(self) -> FloatArray:
        """Returns the arrays flat, (samples, elements)."""
        return self.arrays.reshape(len(self.arrays), -1) if self.arrays.size else self.arrays.reshape(0, 0)


@dataclass(frozen=True)
class ValueBatch:
    """Arrays of one value.

    Attributes:
        runs: Of which samples.
        thinning: One element in so many is counted, see above; 1 for all.
    """

    runs: tuple[Run, ...]
    thinning: int = 1

    @classmethod
    def of(cls, array: FloatArray, sample: int) -> Self:
        """Makes a batch of one sample, all of whose elements are counted."""
        return cls((Run(sample, array[None]),))

    def pieces(self) -> Iterator[Piece]:
        """Yields all elements."""
        for run in self.runs:
            rows = run.rows()
            flat, size = rows.reshape(-1), rows.shape[1]
            for at in range(0, flat.size, _PIECE):
                yield Piece.of(flat[at : at + _PIECE], size, run.first * size + at, self.thinning)


@lru_cache(maxsize=1024)
def thinning_stride(size: int, thinning: int) -> int:
    """Returns the stride with which elements of an array are counted.

    It is at least `thinning`, or as much as leaves about `LEAST_COUNTED` elements, and coprime to the size.

    Args:
        size: Number of elements.
        thinning: One element in so many should be counted.
    """
    stride = max(1, min(thinning, size // LEAST_COUNTED))
    while gcd(stride, size) > 1:
        stride += 1
    return stride


def as_float32(values: FloatArray) -> Float32Array:
    """Returns values as contiguous float32; float64 beyond its range becomes infinite, and is so reported."""
    if values.dtype == np.float32:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)
