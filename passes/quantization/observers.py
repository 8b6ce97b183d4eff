"""Observers: what calibration remembers of a value. Their state does not grow with the number of samples.

Every observer merges with another of its kind, and the merged state is exactly the one that a single
observer of all samples would have: bins have widths that are powers of two, so growing a histogram only
adds neighbouring bins and loses no count.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

BINS = 4096
"""Bins on each side of zero. A range that just outgrew a power of two still uses half of them."""


@dataclass(frozen=True)
class ObservedRange:
    """A closed interval of real values; with NaN or infinite ends where such values were seen."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        """Whether both ends are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


class Observer(Protocol):
    """Accumulates statistics of one value over samples of any shape."""

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Adds one sample; the array is not kept."""

    def merge(self, other: Self) -> None:
        """Adds what another observer of the same kind has seen."""

    def range(self) -> ObservedRange:
        """Returns the range to represent; (0, 0) when nothing was seen."""


class MinMaxObserver:
    """Remembers the smallest and the largest value."""

    def __init__(self) -> None:
        self.low = float("inf")
        self.high = float("-inf")

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Adds one sample; the array is not kept."""
        if values.size:
            self.low = float(np.minimum(self.low, values.min()))  # a NaN stays, and is reported
            self.high = float(np.maximum(self.high, values.max()))

    def merge(self, other: Self) -> None:
        """Adds what another observer has seen."""
        self.low = float(np.minimum(self.low, other.low))
        self.high = float(np.maximum(self.high, other.high))

    def range(self) -> ObservedRange:
        """Returns the observed extremes, or (0, 0) when nothing was seen."""
        return ObservedRange(0.0, 0.0) if self.low > self.high else ObservedRange(self.low, self.high)


class PercentileObserver:
    """A histogram around zero whose range cuts the same share of values off either tail.

    Args:
        percentile: Share of values to represent, in percent, in (50, 100]. Each tail loses at most half of
            the rest, and a tail without values loses nothing.
    """

    def __init__(self, percentile: float = 99.99) -> None:
        self.percentile = percentile
        self.extremes = MinMaxObserver()
        self.exponent: int | None = None
        self.counts = np.zeros(2 * BINS, np.int64)

    def observe(self, values: npt.NDArray[np.floating]) -> None:
        """Adds one sample; the array is not kept."""
        if not values.size:
            return
        sample = MinMaxObserver()
        sample.observe(values)
        self.extremes.merge(sample)
        if not sample.range().finite:
            return
        self._cover(_exponent_of(max(abs(sample.low), abs(sample.high))))
        if self.exponent is None:  # nothing but zeros so far
            self.counts[BINS] += values.size
            return
        width = np.float32(2.0**self.exponent / BINS)
        bins = np.floor(values.ravel() / width).astype(np.int32)
        bins += BINS
        np.clip(bins, 0, 2 * BINS - 1, out=bins)
        self.counts += np.bincount(bins, minlength=2 * BINS)

    def merge(self, other: Self) -> None:
        """Adds what another observer has seen; the result equals one observer of all samples."""
        self.extremes.merge(other.extremes)
        self._cover(other.exponent)
        growth = 0 if self.exponent is None or other.exponent is None else self.exponent - other.exponent
        self.counts += _halve(other.counts, growth)

    def range(self) -> ObservedRange:
        """Returns the range that holds the percentile, never wider than the observed extremes."""
        extremes = self.extremes.range()
        total = int(self.counts.sum())
        if self.exponent is None or not extremes.finite or self.percentile == 100.0:
            return extremes
        tail = total * (100.0 - self.percentile) / 200.0
        cumulative = np.cumsum(self.counts)
        first = int(np.searchsorted(cumulative, tail, side="right"))
        last = int(np.searchsorted(cumulative, total - tail, side="left"))
        width = 2.0**self.exponent / BINS
        low, high = (first - BINS) * width, (last + 1 - BINS) * width
        return ObservedRange(max(low, extremes.low), min(high, extremes.high))

    def _cover(self, exponent: int | None) -> None:
        """Widens the histogram to [-2^exponent, 2^exponent]."""
        if exponent is None or (self.exponent is not None and exponent <= self.exponent):
            return
        if self.exponent is not None:
            self.counts = _halve(self.counts, exponent - self.exponent)
        self.exponent = exponent


def _exponent_of(largest: float) -> int | None:
    """Smallest e with largest <= 2^e, bounded to what float32 bin widths can express."""
    if largest == 0.0:
        return None
    return int(np.clip(np.ceil(np.log2(largest)), -100, 127))


def _halve(counts: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64]:
    """Doubles the bin width `times` times: each new bin is the sum of two neighbours, around the centre."""
    for _ in range(min(times, BINS.bit_length())):
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.zeros_like(counts)
        counts[BINS // 2 : BINS // 2 + pairs.size] = pairs
    return counts
