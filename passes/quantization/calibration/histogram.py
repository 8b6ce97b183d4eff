"""The histogram of a value: bins read off the bits of float32, so that counting is fast and growth is exact.

A bin holds the magnitudes that share sign, exponent and the 9 leading bits of the mantissa: 512 bins in each octave,
each at most 1/512 of its own magnitude wide. The 16 octaves up to the largest magnitude seen are kept, and what is
smaller (below 2^-15 of the largest) counts as zero. A larger value moves that window; bins keep their edges, those that
fall out of it are added to the bin of zero. So the counts depend on the values alone and not on their order, and
histograms merge exactly.

Counting is a few vectorised integer operations and one increment an element. The increments of the bin of zero, which
ReLU makes by the million, would wait for one another: they are spread over `LANES` counters.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.extremes import Extremes, ObservedRange, as_float32
from sardonyx.passes.quantization.distribution import Distribution

OCTAVES = 16
"""Powers of two, below the largest magnitude, that have bins of their own."""
OCTAVE_BINS = 512
"""Bins an octave."""
SIDE = OCTAVES * OCTAVE_BINS
"""Bins on each side of zero."""
LANES = 8
"""The lowest bins on each side that together count zeros."""

_SHIFT = 14  # float32 has 23 mantissa bits, of which 9 tell the bins of an octave apart
_SMALLEST_TOP = OCTAVES  # exponents are biased by 127; lower windows would reach into denormals
_CHUNK = 1 << 15  # elements binned at a time: their indices stay in the cache
_PENDING = 1 << 15  # elements of small samples that are collected before they are binned
_LANE_OF = np.arange(_CHUNK, dtype=np.int32) % LANES


class Histogram:
    """Counts of a value's elements, its exact extremes, and nothing else that grows.

    Samples that are small are collected first, so that binning costs the same an element for any shape.

    Attributes:
        extremes: The exact smallest and largest value.
    """

    def __init__(self) -> None:
        self.extremes = Extremes()
        self._top = _SMALLEST_TOP
        self._counts = np.zeros(2 * SIDE, np.int64)
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
        top = max(self._top, other._top)
        self._counts = _moved(self._counts, top - self._top) + _moved(other._counts, top - other._top)
        self._top = top
        self._drop_if_not_finite()

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what `restore` makes an equal histogram of."""
        self._flush()
        (bins,) = np.nonzero(self._counts)
        return {
            "top": np.array(self._top),
            "bins": bins.astype(np.int32),
            "counts": self._counts[bins],
            **self.extremes.state(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes a histogram from what `state` returned."""
        histogram = cls()
        histogram.extremes = Extremes.restore(state)
        histogram._top = int(state["top"])
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
        negative = self._counts[: SIDE - LANES][::-1]
        positive = self._counts[SIDE + LANES :]
        edges = _magnitudes(self._top)
        below, above = np.flatnonzero(negative)[::-1], np.flatnonzero(positive)
        left = np.concatenate([-edges[below + 1], edges[above]])
        right = np.concatenate([-edges[below], edges[above + 1]])
        mass = np.concatenate([negative[below], positive[above]]).astype(np.float64)
        zeros = float(self._counts[SIDE])
        return Distribution.of_bins(
            np.clip(left, seen.low, seen.high), np.clip(right, seen.low, seen.high), mass, zeros
        )

    def _flush(self) -> None:
        if self._pending is not None and self._filled:
            filled, self._filled = self._filled, 0
            self._count(self._pending[:filled])

    def _count(self, flat: npt.NDArray[np.floating]) -> None:
        scratch = _Scratch(min(flat.size, _CHUNK))
        for start in range(0, flat.size, _CHUNK):
            chunk = as_float32(flat[start : start + _CHUNK])
            self.extremes.observe(chunk, 0)
            seen = self.extremes.range()
            if self._drop_if_not_finite():
                return
            self._cover(seen)
            np.add.at(self._counts, scratch.bins(chunk, self._top, signed=seen.low < 0), 1)
        _gather_zeros(self._counts)

    def _drop_if_not_finite(self) -> bool:
        """Counts mean nothing once a NaN or infinity was seen: the same state in whatever order it came."""
        if self.extremes.range().finite:
            return False
        self._counts[:] = 0
        self._top = _SMALLEST_TOP
        return True

    def _cover(self, seen: ObservedRange) -> None:
        largest = np.float32(max(-seen.low, seen.high))
        top = max(int(largest.view(np.int32)) >> 23, _SMALLEST_TOP)
        if top > self._top:
            self._counts = _moved(self._counts, top - self._top)
            self._top = top


class _Scratch:
    """Memory for the indices of one chunk, so that chunks after the first cost no allocation."""

    def __init__(self, size: int) -> None:
        self._index = np.empty(size, np.int32)
        self._sign = np.empty(size, np.int32)
        self._result = np.empty(size, np.int64)

    def bins(self, chunk: npt.NDArray[np.float32], top: int, *, signed: bool) -> npt.NDArray[np.int64]:
        """Index of each element: ascending with the value, zeros spread over the bins within LANES of SIDE."""
        bits, index, sign = chunk.view(np.int32), self._index[: chunk.size], self._sign[: chunk.size]
        if signed:
            np.bitwise_and(bits, 0x7FFFFFFF, out=index)
            np.right_shift(index, _SHIFT, out=index)
        else:
            np.right_shift(bits, _SHIFT, out=index)  # -0, the only one with a sign, is far below the window
        np.subtract(index, _base(top), out=index)
        np.maximum(index, _LANE_OF[: chunk.size], out=index)
        if signed:
            np.right_shift(bits, 31, out=sign)
            np.bitwise_xor(index, sign, out=index)  # ~index = -1 - index where negative
        return np.add(index, SIDE, out=self._result[: chunk.size])


def _base(top: int) -> int:
    """The leading bits of the smallest magnitude in the window whose highest octave has the exponent `top`."""
    return (top - OCTAVES + 1) * OCTAVE_BINS


def _magnitudes(top: int) -> npt.NDArray[np.float64]:
    """The SIDE - LANES + 1 edges of the bins of one side, ascending."""
    # The upper edge of the last bin may be 2^128, beyond float32: exponent and mantissa are put together in float64.
    leading = _base(top) + np.arange(LANES, SIDE + 1)
    exponent, mantissa = np.divmod(leading, OCTAVE_BINS)
    edges: npt.NDArray[np.float64] = np.ldexp(1.0 + mantissa / OCTAVE_BINS, exponent - 127)
    return edges


def _gather_zeros(counts: npt.NDArray[np.int64]) -> None:
    """Moves the counts of all lanes of zero to the bin SIDE, in place."""
    lanes = counts[SIDE - LANES : SIDE + LANES]
    zeros = lanes.sum()
    lanes[:] = 0
    counts[SIDE] = zeros


def _moved(counts: npt.NDArray[np.int64], octaves: int) -> npt.NDArray[np.int64]:
    """Returns counts for a window that lies some octaves higher."""
    if not octaves:
        return counts
    shift = min(octaves, OCTAVES) * OCTAVE_BINS
    moved = np.zeros_like(counts)
    moved[SIDE : 2 * SIDE - shift] = counts[SIDE + shift :]
    moved[shift:SIDE] = counts[: SIDE - shift]
    moved[SIDE] += counts[SIDE - shift : SIDE + shift].sum()
    _gather_zeros(moved)
    return moved
