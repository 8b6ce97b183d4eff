"""Statistics of the channels of activations, streamed over samples or derived from weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.methods.stream import stream

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStats:
    """What was seen of a value's channels; each array has shape (channels,) and dtype float64.

    Attributes:
        low: Smallest values.
        high: Largest values.
        mean: Means.
        square: Means of squares.
    """

    low: FloatArray
    high: FloatArray
    mean: FloatArray
    square: FloatArray

    @property
    def reach(self) -> FloatArray:
        """Largest absolute values."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())


class ChannelSums:
    """Accumulates the statistics of one value's channels over samples.

    Args:
        axis: The axis of channels.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.low, self.high, self.sum, self.squares = (np.zeros(0),) * 4

    def add(self, array: npt.NDArray[np.floating]) -> None:
        """Adds one sample; the array is not kept."""
        rows = np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])
        if not rows.size:
            return
        seen = (rows.min(axis=0), rows.max(axis=0), rows.sum(axis=0, dtype=np.float64), _squares(rows))
        if self.count:
            self.low, self.high = np.minimum(self.low, seen[0]), np.maximum(self.high, seen[1])
            self.sum, self.squares = self.sum + seen[2], self.squares + seen[3]
        else:
            self.low, self.high = seen[0].astype(np.float64), seen[1].astype(np.float64)
            self.sum, self.squares = seen[2], seen[3]
        self.count += len(rows)

    def stats(self) -> ChannelStats:
        """Returns what was seen; empty arrays where nothing was."""
        count = max(self.count, 1)
        return ChannelStats(self.low, self.high, self.sum / count, self.squares / count)


def _squares(rows: npt.NDArray[np.floating]) -> FloatArray:
    squares: FloatArray = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    return squares


def observe_channels(model: ir.Model, axes: Mapping[str, int], context: PassContext) -> dict[str, ChannelStats]:
    """Streams samples past the channels of values.

    Args:
        model: The float model; it is not changed.
        axes: The axis of channels by value name.
        context: Samples, threads and progress.

    Returns:
        Statistics by value name; with empty arrays for a value that never had an element.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
    """
    sums = {name: ChannelSums(axis) for name, axis in axes.items()}

    def look(arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
        for name, array in arrays.items():
            sums[name].add(array)

    stream(model, list(axes), look, context)
    return {name: each.stats() for name, each in sums.items()}
