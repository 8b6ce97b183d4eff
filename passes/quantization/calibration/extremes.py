"""Observers of extremes: the smallest and the largest value, and their moving average."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.batch import FloatArray, ValueBatch

MOMENTUM = 0.01
"""Weight of the newest sample in the moving average, as PyTorch's observer of that name has it."""
WINDOW = 1700
"""Samples that the moving average remembers: all older ones together weigh less than 2^-24, a rounding of float32."""


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
    """Accumulates statistics of one value over samples of any shape, in memory that does not grow with them.

    What an observer knows depends on the samples and their indices alone, to the bit: not on their order, nor on which
    of several merged observers has seen which.
    """

    def observe(self, values: FloatArray, sample: int) -> None:
        """Adds one sample and counts all of its elements; the array is not kept.

        Args:
            values: Float values of any shape and float dtype; they are taken as float32.
            sample: Index of the sample in the data, for what depends on order.
        """
        self.observe_batch(ValueBatch.of(values, sample))

    def observe_batch(self, batch: ValueBatch) -> None:
        """Adds samples; their arrays are not kept."""

    def merge(self, other: Self) -> None:
        """Adds what another observer of the same kind has seen of other samples."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns all that is known, as arrays that can be stored."""

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes an observer that knows what `state` returned."""

    def range(self) -> ObservedRange:
        """Returns the range as far as this observer alone decides it; (0, 0) when nothing was seen."""


class Extremes(Observer):
    """Remembers the smallest and the largest value."""

    def __init__(self) -> None:
        self._low = float("inf")
        self._high = float("-inf")

    def observe_batch(self, batch: ValueBatch) -> None:
        """Adds samples. See `Observer.observe_batch`."""
        for piece in batch.pieces():
            self.widen(*piece.extremes())

    def merge(self, other: Self) -> None:
        """Adds what another observer has seen."""
        self.widen(other._low, other._high)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what `restore` makes an equal observer of."""
        return {"extremes": np.array([self._low, self._high])}

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes an observer from what `state` returned."""
        observer = cls()
        observer._low, observer._high = map(float, state["extremes"])
        return observer

    def range(self) -> ObservedRange:
        """Returns the observed extremes, or (0, 0) when nothing was seen; NaN stays, and is reported."""
        return ObservedRange(0.0, 0.0) if self._low > self._high else ObservedRange(self._low, self._high)

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinity was seen."""
        return self._low > self._high or (math.isfinite(self._low) and math.isfinite(self._high))

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value; (inf, -inf) when nothing was seen."""
        return self._low, self._high

    def widen(self, low: float, high: float) -> None:
        """Adds values of which these are the smallest and the largest, or NaN."""
        if low != low or high != high:
            low = high = math.nan  # one NaN for all: theirs have signs. Comparisons with it are false, so it stays
        self._low = low if low < self._low or low != low else self._low
        self._high = high if high > self._high or high != high else self._high


class FiniteExtremes(Extremes):
    """Remembers the smallest and the largest finite value: infinities and NaN are the same in every float format."""

    def observe_batch(self, batch: ValueBatch) -> None:
        """Adds samples. See `Observer.observe_batch`."""
        for piece in batch.pieces():
            low, high = piece.extremes()
            if math.isfinite(low) and math.isfinite(high):
                self.widen(low, high)
                continue
            finite = piece.values[np.isfinite(piece.values)]
            if finite.size:
                self.widen(float(finite.min()) + 0.0, float(finite.max()) + 0.0)


class MovingExtremes(Observer):
    """The exponential moving average of each sample's extremes, in the order of the samples' indices.

    The first sample counts in full, each later one moves the average by `MOMENTUM` of the difference. Only the `WINDOW`
    samples of highest index are remembered, so that the state is constant and merging is exact: whoever has seen
    which of them, the average is computed anew from all that are remembered.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}
        self._all = Extremes()

    def observe_batch(self, batch: ValueBatch) -> None:
        """Adds samples. See `Observer.observe_batch`."""
        for run in batch.runs:
            for sample, row in enumerate(run.rows(), run.first):
                own = Extremes()
                own.observe(row, sample)
                self._all.merge(own)
                self._seen[sample] = own.ends
                if len(self._seen) > WINDOW:
                    del self._seen[min(self._seen)]

    def merge(self, other: Self) -> None:
        """Adds what another observer has seen."""
        self._all.merge(other._all)
        union = self._seen | other._seen
        self._seen = {index: union[index] for index in sorted(union)[-WINDOW:]}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Returns what `restore` makes an equal observer of."""
        indices = sorted(self._seen)
        return {
            "indices": np.array(indices, np.int64),
            "ends": np.array([self._seen[i] for i in indices]).reshape(-1, 2),
            **self._all.state(),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes an observer from what `state` returned."""
        observer = cls()
        observer._all = Extremes.restore(state)
        ends = zip(state["indices"].tolist(), state["ends"].tolist(), strict=True)
        observer._seen = {index: (low, high) for index, (low, high) in ends}
        return observer

    def range(self) -> ObservedRange:
        """Returns the averages of the smallest and of the largest values; (0, 0) when nothing was seen.

        A NaN or infinity is reported however long ago it was.
        """
        if not self._seen or not self._all.range().finite:
            return self._all.range()
        indices = sorted(self._seen)
        low, high = self._seen[indices[0]]
        for index in indices[1:]:
            newest = self._seen[index]
            low += MOMENTUM * (newest[0] - low)
            high += MOMENTUM * (newest[1] - high)
        return ObservedRange(low, high)
