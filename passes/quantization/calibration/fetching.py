"""Fetching the values of samples into memory that is used again and again.

Where successive samples agree in shape, the runtime writes their values next to one another into arrays that were made
once: nothing is allocated, no page is new, nothing is copied, and observers look at several samples at once. There are
two such sets of arrays: one is filled while the other is observed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx.errors import BackendError
from sardonyx.measure import Array, Feed, Session
from sardonyx.passes.quantization.calibration.bank import SampleRun

BATCH_BYTES = 4 << 20
"""Small samples are observed together, as soon as they take so much: what it costs to begin is then paid once."""
BATCH_SAMPLES = 32
"""Samples that are observed together at most."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shapes of a sample's inputs."""


@dataclass(frozen=True)
class Batch:
    """Samples to observe.

    Attributes:
        samples: Their indices in the data.
        runs: Their values.
    """

    samples: tuple[int, ...]
    runs: tuple[SampleRun, ...]


class _Slots:
    """Arrays for some samples of the same shapes, and what runs the model into each.

    Args:
        session: The tapped model.
        tapped: Values that are its outputs; others are inputs.
        like: One sample's arrays by name.
        count: How many samples.
    """

    def __init__(self, session: Session, tapped: Sequence[str], like: dict[str, Array], count: int) -> None:
        self.first = self.filled = 0
        self.arrays = {name: np.empty((count, *array.shape), array.dtype) for name, array in like.items()}
        self._inputs = [name for name in like if name not in tapped]
        self._writers: list[Callable[[Feed], None] | None] = [
            session.writer({name: self.arrays[name][slot] for name in tapped}) for slot in range(count)
        ]

    @property
    def usable(self) -> bool:
        """Whether the runtime can write into the arrays."""
        return None not in self._writers

    def accepts(self, sample: int) -> bool:
        """Whether there is room, and the sample follows those that are here."""
        return self.filled < len(self._writers) and (not self.filled or sample == self.first + self.filled)

    def fill(self, sample: int, feed: Feed) -> None:
        """Fetches a sample.

        Raises:
            BackendError: If its values have other shapes, or the runtime fails otherwise.
        """
        write = self._writers[self.filled]
        assert write is not None, "asked before"
        write(feed)
        for name in self._inputs:
            self.arrays[name][self.filled] = feed[name]
        self.first = sample if not self.filled else self.first
        self.filled += 1

    def run(self) -> SampleRun:
        """Returns what is here."""
        return SampleRun(self.first, {name: array[: self.filled] for name, array in self.arrays.items()})


class Fetcher:
    """Runs samples and gathers their values until they are enough to be observed.

    Args:
        session: The tapped model.
        tapped: Values that are its outputs.
        values: All values to observe; those that are not tapped are inputs.
        most: Samples in a batch at most.
    """

    def __init__(self, session: Session, tapped: Sequence[str], values: Sequence[str], most: int) -> None:
        self._session, self._tapped, self._values, self._most = session, list(tapped), values, most
        self._shapes: Shapes = ()
        self._like: dict[str, Array] | None = None
        self._sets: list[_Slots] = []
        self._binds = True
        self._samples: list[int] = []
        self._runs: list[SampleRun] = []
        self._nbytes = 0

    @property
    def full(self) -> bool:
        """Whether what was fetched should be observed."""
        return self._nbytes >= BATCH_BYTES or len(self._samples) >= self._most

    def fetch(self, sample: int, feed: Feed) -> None:
        """Runs a sample.

        Raises:
            DataError: If it does not fit the model.
            BackendError: If the runtime fails.
        """
        if not self._into_slots(sample, feed):
            self._anew(sample, feed)
        self._samples.append(sample)

    def take(self) -> Batch:
        """Returns what was fetched, and begins anew. It may be observed until the batch after it is taken."""
        self._close_slots()
        batch = Batch(tuple(self._samples), tuple(self._runs))
        self._samples, self._runs, self._nbytes = [], [], 0
        return batch

    def _into_slots(self, sample: int, feed: Feed) -> bool:
        """Fetches a sample of the same shapes as the one before it; returns whether that was possible."""
        shapes = tuple((name, np.shape(value)) for name, value in feed.items())
        if shapes != self._shapes:
            self._close_slots()
            self._shapes, self._like, self._sets = shapes, None, []
        if not self._binds or self._like is None:
            return False
        if not self._sets:
            nbytes = sum(array.nbytes for array in self._like.values())
            count = max(1, min(self._most, -(-BATCH_BYTES // max(1, nbytes))))
            self._sets = [_Slots(self._session, self._tapped, self._like, count) for _ in range(2)]
        slots = self._sets[0]
        if not slots.usable or not slots.accepts(sample):
            return False
        try:
            slots.fill(sample, feed)
        except BackendError:  # values whose shape is not a matter of the inputs' shapes: run as usual
            self._binds = False
            return False
        self._nbytes += sum(array[0].nbytes for array in slots.arrays.values())
        return True

    def _anew(self, sample: int, feed: Feed) -> None:
        """Fetches a sample into new arrays. Inputs are copied: whoever made the feed may fill its arrays anew."""
        fetched = dict(zip(self._tapped, self._session.run(feed, self._tapped), strict=True)) if self._tapped else {}
        arrays = {name: fetched[name] if name in fetched else np.array(feed[name]) for name in self._values}
        self._like = arrays
        self._runs.append(SampleRun(sample, {name: array[None] for name, array in arrays.items()}))
        self._nbytes += sum(array.nbytes for array in arrays.values())

    def _close_slots(self) -> None:
        """Puts the slots that were filled among the runs, and the other set in their place."""
        if self._sets and self._sets[0].filled:
            self._runs.append(self._sets[0].run())
            self._sets.reverse()
            self._sets[0].filled = 0
