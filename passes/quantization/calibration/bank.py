"""The observers of all values, as one thing that observes, merges and can be stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.batch import FloatArray, Run, ValueBatch
from sardonyx.passes.quantization.calibration.calibrators import OBSERVERS
from sardonyx.passes.quantization.calibration.extremes import Observer

BankState = dict[str, npt.NDArray[Any]]
"""Arrays by `value index/observer/field`."""


@dataclass(frozen=True)
class SampleRun:
    """Values of successive samples.

    Attributes:
        first: Index of the first sample in the data.
        arrays: Float arrays by name of the value, at least of all that are observed, (samples, ...) each.
    """

    first: int
    arrays: Mapping[str, FloatArray]


class ObserverBank:
    """One observer of each kind for each value.

    Args:
        values: Names of the values.
        kinds: Keys of `OBSERVERS`.
        thinning: One element in so many is counted in histograms, 1 for all; see `batch`.
    """

    def __init__(self, values: Sequence[str], kinds: Sequence[str], thinning: int = 1) -> None:
        self.values = tuple(values)
        self.kinds = tuple(kinds)
        self.thinning = thinning
        self.observers: dict[str, dict[str, Observer]] = {
            value: {kind: OBSERVERS[kind]() for kind in kinds} for value in values
        }

    def observe(self, runs: Sequence[SampleRun]) -> None:
        """Shows samples to all observers, value after value, so that each one's counters stay in the cache."""
        for value, observers in self.observers.items():
            batch = ValueBatch(tuple(Run(run.first, run.arrays[value]) for run in runs), self.thinning)
            for observer in observers.values():
                observer.observe_batch(batch)

    def merge(self, other: Self) -> None:
        """Adds what a bank of the same values and kinds has seen of other samples."""
        for value, observers in self.observers.items():
            for kind, observer in observers.items():
                observer.merge(other.observers[value][kind])

    def state(self) -> BankState:
        """Returns all that is known, as arrays."""
        return {
            f"{index}/{kind}/{field}": np.asarray(array)
            for index, value in enumerate(self.values)
            for kind, observer in self.observers[value].items()
            for field, array in observer.state().items()
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes a bank of the same values and kinds that knows what `state` returned.

        Raises:
            KeyError: If the state is of other values or kinds.
        """
        bank = type(self)(self.values, self.kinds, self.thinning)
        fields: dict[tuple[int, str], BankState] = {}
        for key, array in state.items():
            number, kind, field = key.split("/")
            fields.setdefault((int(number), kind), {})[field] = array
        for index, value in enumerate(bank.values):
            bank.observers[value] = {kind: OBSERVERS[kind].restore(fields[index, kind]) for kind in self.kinds}
        return bank
