"""The histogram of a value: bins read off the bits of float32, so that counting is fast and nothing has to grow.

A bin holds the values that share sign, exponent and the 8 leading bits of the mantissa: 256 bins in each octave, each
at most 1/256 of its own magnitude wide, for every magnitude that float32 has. Bins are the same for every tensor: no
range is chosen, none is outgrown, no count is ever moved, and histograms merge by adding. Outliers cost the rest of the
values no precision. Denormals count as zero.

Counting is a shift and an increment an element. Of the counters (half a megabyte) only the pages of the octaves that
occur are touched.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.extremes import Extremes, ObservedRange, as_float32
from sardonyx.passes.quantization.distribution import Distribution

OCTAVE_BINS = 256
"""Bins in an octave, from one power of two to the next."""
SIDE = 256 * OCTAVE_BINS
"""Bins of one sign: as many octaves as float32 has exponents. The first octave is that of zero and the denormals."""

_SHIFT = 15  # float32 has 23 mantissa bits, of which 8 tell the bins of an octave apart
_CHUNK = 1 << 15  # elements binned at a time: their indices stay in the cache
_PENDING = 1 << 15  # elements of small samples that are collected before they are binned
_MOST_32_BITS = 2**32 - 1

Counts = npt.NDArray[np.uint32] | npt.NDArray[np.int64]


class Histogram:
    """Counts of a value's elements and its exact extremes.

    Samples that are small are collected first, so that binning costs the same an element for any shape.

    Attributes:
        extremes: The exact smallest and largest value.
    """

    def __init__(self) -> None:
        self.extremes = Extremes()
        self._counts: Counts = np.zeros(2 * SIDE, np.uint32)  # magnitudes of positive values, then of negative ones
        self._total = 0
        self._pending: npt.NDArray[np.float32] | None = None
        self._filled = 0

    def observe(self, values: npt.NDArray[np.floating], sample: int) -> None:
        """Adds one sample of any shape; the array is not kept. See `Observer.observe`."""
        flat = values.reshape(-1)
        if flat.size > _PENDING // 2:
            self._count(flat)
            return
        if self._pending is None:
            self._pending = np.empty(_PENDING, np.float32)
        if self._filled + flat.size > _PENDING:
            self._flush()
        self._pending[self._filled : self._filled + flat.size] = as_float32(flat)
        self._filled += flat.size

    def merge(self, other: Self) -> None:
        """Adds what another histogram has counted; the result equals one histogram of all samples."""
        self._flush()
        other._flush()
        self.extremes.merge(other.extremes)
        self._expect(other._total)
        np.add(self._counts, other._counts, out=self._counts, casting="unsafe")
        self._drop_if_not_finite()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what `restore` makes an equal histogram of."""
        self._flush()
        (bins,) = np.nonzero(self._counts)
        return {
            "bins": bins.astype(np.int32),
            "counts": self._counts[bins].astype(np.int64),
            **self.extremes.state(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes a histogram from what `state` returned."""
        histogram = cls()
        histogram.extremes = Extremes.restore(state)
        histogram._expect(int(state["counts"].sum()))
        histogram._counts[state["bins"]] = state["counts"]
        return histogram

    def range(self) -> ObservedRange:
        """Returns the exact extremes; (0, 0) when nothing was seen, not finite where a value was not."""
        self._flush()
        return self.extremes.range()

    def distribution(self) -> Distribution:
        """Returns the distribution of the values: uniform within a bin, and a point mass at zero."""
        self._flush()
        seen = self.extremes.range()
        positive, negative = self._counts[OCTAVE_BINS:SIDE], self._counts[SIDE + OCTAVE_BINS :]
        above, below = np.flatnonzero(positive), np.flatnonzero(negative)[::-1]
        left = np.concatenate([-_magnitude(below + 1), _magnitude(above)])
        right = np.concatenate([-_magnitude(below), _magnitude(above + 1)])
        mass = np.concatenate([negative[below], positive[above]]).astype(np.float64)
        zeros = float(self._counts[:OCTAVE_BINS].sum() + self._counts[SIDE : SIDE + OCTAVE_BINS].sum())
        left, right = np.clip(left, seen.low, seen.high), np.clip(right, seen.low, seen.high)
        return Distribution(left, right, mass, zeros)

    def _flush(self) -> None:
        if self._pending is not None and self._filled:
            filled, self._filled = self._filled, 0
            self._count(self._pending[:filled])

    def _count(self, flat: npt.NDArray[np.floating]) -> None:
        self._expect(flat.size)
        one = self._counts.dtype.type(1)
        bins = np.empty(min(flat.size, _CHUNK), np.int64)
        for start in range(0, flat.size, _CHUNK):
            chunk = as_float32(flat[start : start + _CHUNK])
            self.extremes.observe(chunk, 0)
            if self.extremes.finite:
                np.add.at(self._counts, np.right_shift(chunk.view(np.uint32), _SHIFT, out=bins[: chunk.size]), one)
        self._drop_if_not_finite()

    def _expect(self, more: int) -> None:
        """Makes room for more counts: 32 bits a bin, so that the cache holds more of them, unless one may overflow."""
        self._total += more
        if self._total > _MOST_32_BITS and self._counts.dtype == np.uint32:
            self._counts = self._counts.astype(np.int64)

    def _drop_if_not_finite(self) -> None:
        """Counts mean nothing once a NaN or infinity was seen: the same state in whatever order it came."""
        if not self.extremes.finite:
            self._counts = np.zeros(2 * SIDE, np.uint32)
            self._total = 0


def _magnitude(index: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Returns the lower edges of bins, counted from the first normal magnitude.

    In float64, because the upper edge of the last bin is 2^128, beyond float32.
    """
    exponent, mantissa = np.divmod(index, OCTAVE_BINS)
    edges: npt.NDArray[np.float64] = np.ldexp(1.0 + mantissa / OCTAVE_BINS, exponent - 126)
    return edges
