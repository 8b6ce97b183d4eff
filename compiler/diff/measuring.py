"""Runs two models on the same samples, piece by piece, and accumulates the errors of their values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

import numpy as np

from sardonyx import ir
from sardonyx.diff.channel_factors import ChannelSums, Rescaling
from sardonyx.diff.checkpoints import Checkpoint
from sardonyx.diff.expectation import Extent
from sardonyx.diff.segments import cut_model
from sardonyx.errors import BackendError, DataError
from sardonyx.measure import Array, ErrorAccumulator, Feed, Samples, Session, SessionOptions
from sardonyx.passes.quantization.calibration.taps import group_values

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class DriftOptions:
    """How models are compared.

    Attributes:
        threads: Threads of the runtime within an operator.
        budget_bytes: Bytes of intermediate values held at a time; one sample's largest value may be more.
        progress: Called with the places done, their number, and what is going on.
    """

    threads: int = 1
    budget_bytes: int = 256 << 20
    progress: Progress | None = None


@dataclass
class Measured:
    """What is known of a checkpoint so far."""

    total: ErrorAccumulator
    local: ErrorAccumulator
    extent: Extent = field(default_factory=Extent)
    channels: ChannelSums = field(default_factory=ChannelSums)
    failed: str = ""

    @classmethod
    def at(cls, point: Checkpoint) -> Self:
        """Returns what is known of a checkpoint before anything ran."""
        return cls(ErrorAccumulator([point.after], top1=False), ErrorAccumulator([point.after], top1=False))

    def take_in(self, reference: Array, candidate: Array, *, ranged: bool) -> None:
        """Compares a value of both models for one sample; if `ranged`, notes the range of the first model's."""
        compare_arrays(self.total, reference, candidate)
        self.channels.update(*aligned(reference, candidate))
        if ranged:
            self.extent.update(reference)


Batch = list[tuple[Feed, Mapping[str, Array]]]
"""Samples, each with the first model's values that are needed."""

_NONE: Mapping[str, Rescaling] = MappingProxyType({})


class Measuring:
    """Measures the errors of one pair of models.

    Args:
        before: The first model.
        after: The second model.
        inputs: Name of the second model's input by that of the first's.
        options: How.
    """

    def __init__(self, before: ir.Model, after: ir.Model, inputs: Mapping[str, str], options: DriftOptions) -> None:
        self._before, self._after = before, after
        self._options = options
        self._inputs = inputs

    def measure(
        self,
        points: Sequence[Checkpoint],
        samples: Samples,
        rescaled: Mapping[str, Rescaling] = _NONE,
        *,
        local_only: bool = False,
    ) -> tuple[dict[str, Measured], int]:
        """Compares at some places.

        Args:
            points: The places.
            samples: Feeds of the first model.
            rescaled: What the first model's value is multiplied by before it is compared with the second model's value
                of a name, or given to its readers.
            local_only: Whether to measure only the errors that nodes make when they are given the first model's values.

        Returns:
            What was measured by the name of the second model's value, and the number of samples.
        """
        measured = {point.after: Measured.at(point) for point in points}
        first = next(iter(samples), None)
        if first is None:
            raise DataError(f"{samples.what}: there are no samples.", remedy="Provide at least one.")
        names = list(dict.fromkeys(p.before for p in points))
        count = done = 0
        for group in group_values(self._before, names, first, self._options.budget_bytes):
            wanted = frozenset(group)
            chunk = [p for p in points if p.before in wanted]
            count = 0
            for batch in self._batches(chunk, samples):
                count += len(batch)
                if not local_only:
                    self._total(chunk, batch, measured, rescaled)
                self._local(chunk, [known for _, known in batch], measured, rescaled)
            done += len(chunk)
            if self._options.progress is not None:
                self._options.progress(done, len(points), "drift")
        return measured, count or samples.count()

    def _total(
        self,
        chunk: Sequence[Checkpoint],
        batch: Batch,
        measured: Mapping[str, Measured],
        rescaled: Mapping[str, Rescaling],
    ) -> None:
        """Runs the second model from its inputs, and compares."""
        outputs = list(dict.fromkeys(p.after for p in chunk))
        part, _ = cut_model(self._after, outputs)
        with opened_part(part, self._options) as session:
            for feed, known in batch:
                given = {self._inputs.get(name, name): array for name, array in feed.items()}
                for point, array in zip(chunk, session.run(fitting(session, given), outputs), strict=True):
                    reference = _scaled(known[point.before], rescaled.get(point.after))
                    measured[point.after].take_in(reference, array, ranged=point.quantizer is not None)

    def _batches(self, chunk: Sequence[Checkpoint], samples: Samples) -> Iterator[Batch]:
        """Yields as many samples as fit, with the first model's values that a chunk needs."""
        inputs = {value.name for value in self._before.graph.inputs}
        needed = dict.fromkeys(name for p in chunk for name in (p.before, *p.before_reads))
        taps = [name for name in needed if name not in inputs]
        part = cut_model(self._before, taps)[0] if taps else None
        feeds = iter(samples)
        while True:
            batch: Batch = []
            used = 0
            with nullcontext() if part is None else opened_part(part, self._options) as session:
                for passing in feeds:
                    feed = {name: np.array(array) for name, array in passing.items()}  # its maker may fill it anew
                    arrays = [] if session is None else session.run(fitting(session, feed), taps)
                    batch.append((feed, {**feed, **dict(zip(taps, arrays, strict=True))}))
                    used += sum(array.nbytes for array in (*feed.values(), *arrays))
                    if used >= self._options.budget_bytes:
                        break
            if not batch:
                return
            yield batch

    def _local(
        self,
        chunk: Sequence[Checkpoint],
        batch: Sequence[Mapping[str, Array]],
        measured: Mapping[str, Measured],
        rescaled: Mapping[str, Rescaling],
    ) -> None:
        """Runs the second model's nodes on the first model's values; what the runtime refuses is narrowed down."""
        outputs = list(dict.fromkeys(p.after for p in chunk))
        reads = {after: before for p in chunk for after, before in zip(p.after_reads, p.before_reads, strict=True)}
        replaced = {(r.node, r.input): r for p in chunk for r in p.replacements}
        part, names = cut_model(self._after, outputs, list(reads), list(replaced.values()))
        done = 0
        try:
            with opened_part(part, self._options) as session:
                for known in batch:
                    given = {name: _scaled(known[old], rescaled.get(name)) for name, old in reads.items()}
                    feed = {inner: given[name] for name, inner in names.items() if name in given}
                    for point, array in zip(chunk, session.run(feed, outputs), strict=True):
                        reference = _scaled(known[point.before], rescaled.get(point.after))
                        compare_arrays(measured[point.after].local, reference, array)
                    done += 1
        except (BackendError, DataError) as error:
            if len(chunk) == 1:
                measured[chunk[0].after].failed = error.message
                return
            middle = len(chunk) // 2
            for half in (chunk[:middle], chunk[middle:]):
                self._local(half, batch[done:], measured, rescaled)


@contextmanager
def opened_part(part: ir.Model, options: DriftOptions) -> Iterator[Session]:
    """Yields a part of a model, loaded as it is written; its file goes when the session has ended.

    Raises:
        BackendError: If the runtime refuses it.
    """
    settings = SessionOptions(threads=options.threads, optimization="disabled", arena=False)
    with ir.TemporaryFolder() as folder:
        path = folder / "part.onnx"
        ir.save(part, path, external_data=True)
        with Session(path, options=settings) as session:
            yield session


def fitting(session: Session, feed: Feed) -> Feed:
    """Returns what of a feed a part of its model takes.

    Raises:
        DataError: If something of that is missing.
    """
    missing = [spec for spec in session.inputs if spec.name not in feed]
    if missing:
        raise DataError(
            f"A sample has no input {missing[0].name!r}, which the model needs.",
            remedy=f"Provide an array for {missing[0]}.",
        )
    return {spec.name: feed[spec.name] for spec in session.inputs}


def compare_arrays(errors: ErrorAccumulator, reference: Array, candidate: Array) -> None:
    """Compares in the wider type: what was matched is one quantity, in whatever type it travels."""
    reference, candidate = aligned(reference, candidate)
    errors.update([reference], [candidate])


def aligned(reference: Array, candidate: Array) -> tuple[Array, Array]:
    """Returns two arrays in the wider of their types, and in one shape where they differ in dimensions of 1."""
    if reference.dtype != candidate.dtype and {reference.dtype.kind, candidate.dtype.kind} <= set("fiub"):
        common = np.promote_types(reference.dtype, candidate.dtype)
        reference, candidate = reference.astype(common), candidate.astype(common)
    if reference.shape != candidate.shape and _squeezed(reference) == _squeezed(candidate):
        candidate = candidate.reshape(reference.shape)
    return reference, candidate


def _scaled(array: Array, rescaling: Rescaling | None) -> Array:
    return array if rescaling is None else rescaling.of(array)


def _squeezed(array: Array) -> tuple[int, ...]:
    return tuple(size for size in array.shape if size != 1)
