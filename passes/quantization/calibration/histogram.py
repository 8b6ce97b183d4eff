"""The histogram of a value: bins read off the bits of float32, so that counting is fast and nothing has to grow.

A bin holds the values that share sign, exponent and the 8 leading bits of the mantissa: 256 bins in each octave, each
at most 1/256 of its own magnitude wide, for every magnitude that float32 has. Bins are the same for every tensor: no
range is chosen, none is outgrown, no count is ever moved, and histograms merge by adding. Outliers cost the rest of the
values no precision. Denormals count as zero.

Counting is a shift and an increment an element, of those elements that are counted (see `batch`). Of the counters (half
a megabyte) only the pages of the octaves that occur are touched.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.batch import ValueBatch
from sardonyx.passes.quantization.calibration.extremes import Extremes, ObservedRange, Observer
from sardonyx.passes.quantization.distribution import Distribution

OCTAVE_BINS = 256
"""Bins in an octave, from one power of two to the next."""
SIDE = 256 * OCTAVE_BINS
"""Bins of one sign: as many octaves as float32 has exponents. The first octave is that of zero and the denormals."""

_SHIFT = 15  # float32 has 23 mantissa bits, of which 8 tell the bins of an octave apart
_TOGETHER = 1 << 16  # elements that are counted together, or few more: their bins stay in the cache
_MOST_32_BITS = 2**32 - 1

Counts = npt.NDArray[np.uint32] | npt.NDArray[np.int64]


class Histogram(Observer):
    """Counts of a value's elements, or of one in several with its weight, and the exact extremes of all.

    Attributes:
        extremes: The exact smallest and largest value.
    """

    def __init__(self) -> None:
        self.extremes = Extremes()
        self._counts: Counts = np.zeros(2 * SIDE, np.uint32)  # magnitudes of positive values, then of negative ones
        self._total = 0

    def observe_batch(self, batch: ValueBatch) -> None:
        """Adds samples. See `Observer.observe_batch`."""
        counted: dict[int, list[npt.NDArray[np.float32]]] = {}
        waiting = 0
        for piece in batch.pieces():
            self.extremes.widen(*piece.extremes())
            counted.setdefault(piece.weight, []).append(piece.counted)
            waiting += piece.counted.size
            if waiting >= _TOGETHER:
                self._count(counted)
                counted, waiting = {}, 0
        self._count(counted)
        if not self.extremes.finite:
            self._drop()

    def merge(self, other: Self) -> None:
        """Adds what another histogram has counted; the result equals one histogram of all samples."""
        self.extremes.merge(other.extremes)
        self._expect(other._total)
        np.add(self._counts, other._counts, out=self._counts, casting="unsafe")
        if not self.extremes.finite:
            self._drop()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what `restore` makes an equal histogram of."""
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
        return self.extremes.range()

    def distribution(self) -> Distribution:
        """Returns the distribution of the values: uniform within a bin, and a point mass at zero."""
        seen = self.extremes.range()
        counts = self._with_extremes(seen)
        positive, negative = counts[OCTAVE_BINS:SIDE], counts[SIDE + OCTAVE_BINS :]
        above, below = np.flatnonzero(positive), np.flatnonzero(negative)[::-1]
        left = np.concatenate([-_magnitude(below + 1), _magnitude(above)])
        right = np.concatenate([-_magnitude(below), _magnitude(above + 1)])
        mass = np.concatenate([negative[below], positive[above]]).astype(np.float64)
        zeros = float(counts[:OCTAVE_BINS].sum() + counts[SIDE : SIDE + OCTAVE_BINS].sum())
        left, right = np.clip(left, seen.low, seen.high), np.clip(right, seen.low, seen.high)
        return Distribution(left, right, mass, zeros)

    def _count(self, by_weight: Mapping[int, Sequence[npt.NDArray[np.float32]]]) -> None:
        if not self.extremes.finite:
            return
        for weight, values in by_weight.items():
            joined = values[0] if len(values) == 1 else np.concatenate(values)
            bins = (joined.view(np.uint32) >> _SHIFT).astype(np.int64)
            self._expect(weight * bins.size)
            np.add.at(self._counts, bins, self._counts.dtype.type(weight))

    def _expect(self, more: int) -> None:
        """Makes room for more counts: 32 bits a bin, so that the cache holds more of them, unless one may overflow."""
        self._total += more
        if self._total > _MOST_32_BITS and self._counts.dtype == np.uint32:
            self._counts = self._counts.astype(np.int64)

    def _drop(self) -> None:
        """Counts mean nothing once a NaN or infinity was seen: the same state in whatever order it came."""
        self._counts = np.zeros(2 * SIDE, np.uint32)
        self._total = 0

    def _with_extremes(self, seen: ObservedRange) -> Counts:
        """The counts, and one for an extreme that was not counted: it is known to be there."""
        counts = self._counts.copy()
        ends = np.array([seen.low, seen.high], np.float32)
        bins = ends[np.abs(ends) >= np.finfo(np.float32).tiny].view(np.uint32) >> _SHIFT
        if self._total:
            counts[bins] = np.maximum(counts[bins], 1)
        return counts


def _magnitude(index: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Returns the lower edges of bins, counted from the first normal magnitude.

    In float64, because the upper edge of the last bin is 2^128, beyond float32.
    """
    exponent, mantissa = np.divmod(index, OCTAVE_BINS)
    edges: npt.NDArray[np.float64] = np.ldexp(1.0 + mantissa / OCTAVE_BINS, exponent - 126)
    return edges
