"""The observers of all values, as one thing that observes, merges and can be stored."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sardonyx.passes.quantization.calibration.calibrators import OBSERVERS
from sardonyx.passes.quantization.calibration.extremes import Observer

BankState = dict[str, npt.NDArray[Any]]
"""Arrays by `value index/observer/field`."""


class ObserverBank:
    """One observer of each kind for each value.

    Args:
        values: Names of the values.
        kinds: Keys of `OBSERVERS`.
    """

    def __init__(self, values: Sequence[str], kinds: Sequence[str]) -> None:
        self.values = tuple(values)
        self.kinds = tuple(kinds)
        self.observers: dict[str, dict[str, Observer]] = {
            value: {kind: OBSERVERS[kind]() for kind in kinds} for value in values
        }

    def observe(self, batch: Sequence[tuple[int, Mapping[str, npt.NDArray[Any]]]]) -> None:
        """Shows samples to all observers, value after value, so that each one's counters stay in the cache.

        Args:
            batch: Each sample's index in the data, and its float arrays by name, at least of all values.
        """
        for value, observers in self.observers.items():
            for observer in observers.values():
                for sample, arrays in batch:
                    observer.observe(arrays[value], sample)

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

    @classmethod
    def restore(cls, values: Sequence[str], kinds: Sequence[str], state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Makes a bank that knows what `state` returned.

        Raises:
            KeyError: If the state is of other values or kinds.
        """
        bank = cls(values, kinds)
        fields: dict[tuple[int, str], BankState] = {}
        for key, array in state.items():
            number, kind, field = key.split("/")
            fields.setdefault((int(number), kind), {})[field] = array
        for index, value in enumerate(bank.values):
            bank.observers[value] = {kind: OBSERVERS[kind].restore(fields[index, kind]) for kind in kinds}
        return bank
