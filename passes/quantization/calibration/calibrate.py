"""Calibration: runs the float model on samples and lets observers watch the values to be quantized.

Memory does not depend on the number of samples: the values of at most two samples, or of two small batches, are alive
at a time, and each observer keeps a fixed amount of state. Samples may differ in shape from one another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sardonyx import ir
from sardonyx.errors import DataError, PassError, SpecError
from sardonyx.measure import Feed, Samples, Session, SessionOptions
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration.bank import ObserverBank
from sardonyx.passes.quantization.calibration.calibrators import calibrator
from sardonyx.passes.quantization.calibration.coverage import Coverage, IndexRange
from sardonyx.passes.quantization.calibration.extremes import ObservedRange, Observer
from sardonyx.passes.quantization.calibration.fetching import BATCH_SAMPLES
from sardonyx.passes.quantization.calibration.storage import Identity, StateFolder
from sardonyx.passes.quantization.calibration.taps import (
    group_values,
    observe_samples,
    tapped_model,
)
from sardonyx.passes.quantization.calibration.workers import Job, observe_shares
from sardonyx.passes.quantization.scheme import Scheme

LARGEST_MESSAGE = 3 << 29
"""Bytes of weights up to which a model is sent to workers; protobuf ends at 2 GiB. A larger one they read from disk."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How calibration is carried out; of it, `thinning` alone changes the result.

    Attributes:
        thinning: One element in so many is counted in histograms, of values that have many; 1 counts all, which takes
            longer on small convolutional networks, but sees what is rare. See `batch`.
        workers: Processes to split the samples over; see `sardonyx.passes.quantization.calibration.workers`.
        state: Folder that keeps the state, so that a calibration which was interrupted goes on; None to keep none. The
            samples are then read once more beforehand, to know them by their fingerprint.
        every: Samples after which the state is saved.
        tap_bytes: One sample's values that are fetched together, in bytes. A model that has more is run several times
            over the samples, for a group of values each time.
    """

    workers: int = 1
    state: Path | None = None
    every: int = 32
    tap_bytes: int = 256 << 20
    thinning: int = 1

    def __post_init__(self) -> None:
        for name in ("workers", "every", "tap_bytes", "thinning"):
            if getattr(self, name) < 1:
                raise SpecError(f"Calibration with {name}={getattr(self, name)} cannot work.", remedy="Use 1 or more.")


@dataclass(frozen=True)
class CalibrationResult:
    """What was observed.

    Attributes:
        observers: Observers by kind, by value name.
        samples: Number of samples that were run.
    """

    observers: Mapping[str, Mapping[str, Observer]]
    samples: int

    def ranges(self, method: str, scheme: Scheme, percentile: float = 99.99) -> dict[str, ObservedRange]:
        """Returns the range to represent of each value; not finite where the float model itself is not.

        Args:
            method: A calibrator that `calibrate` was given, or another that needs the same observer.
            scheme: The numbers to represent the values with.
            percentile: Share of values to represent, in percent, for `percentile`.

        Raises:
            SpecError: If there is no such calibrator.
            PassError: If its observer did not run.
        """
        chosen = calibrator(method)
        if any(chosen.observer not in kinds for kinds in self.observers.values()):
            raise PassError(f"The calibrator {method} was not asked for.", remedy="Name it when calibrating.")
        return {
            name: chosen.range(kinds[chosen.observer], scheme, percentile) for name, kinds in self.observers.items()
        }


def calibrate(
    model: ir.Model,
    values: Sequence[str],
    methods: Sequence[str],
    context: PassContext,
    options: CalibrationOptions = CalibrationOptions(),
) -> CalibrationResult:
    """Observes values of a model over the context's samples.

    Args:
        model: The float model; it is not changed.
        values: Names of float values of the main graph and of bodies.
        methods: Names of calibrators; all are served by one look at the data.
        context: Samples, threads and progress.
        options: How to go about it.

    Raises:
        PassError: If the context has no samples.
        SpecError: If there is no such calibrator.
        DataError: If there are zero samples, they do not fit, or the stored state belongs to others.
        SaveError: If the state cannot be written.
        BackendError: If the runtime fails, or workers die again and again.
    """
    if context.samples is None:
        raise PassError("Calibration needs samples to observe.", remedy="Pass --data, or data=samples.")
    kinds = tuple(dict.fromkeys(calibrator(method).observer for method in methods))
    first = next(iter(context.samples), None)
    if first is None:
        raise DataError("There are zero calibration samples.", remedy="Give at least one; 30 to 300 are usual.")
    run = _Run(model, context.samples, context, options)
    observers: dict[str, Mapping[str, Observer]] = {}
    samples = 0
    for group in group_values(model, values, first, options.tap_bytes):
        bank, samples = run.observe(group, kinds)
        observers |= bank.observers
    return CalibrationResult(observers, samples)


class _Run:
    """One calibration: what its groups of values have in common."""

    def __init__(self, model: ir.Model, samples: Samples, context: PassContext, options: CalibrationOptions) -> None:
        self._model = model
        self._samples = samples
        self._context = context
        self._options = options
        self._session_options = SessionOptions(threads=context.threads, arena=False)
        self._state: StateFolder | None = None
        if options.state is not None:
            self._state = StateFolder(options.state, Identity(ir.digest(model), samples.fingerprint()))

    def observe(self, values: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[ObserverBank, int]:
        """Observes a group of values over all samples and returns the observers and the number of samples."""
        new = ObserverBank(values, kinds, self._options.thinning)
        bank, done = self._state.load(new) if self._state is not None else (new, Coverage())
        inputs = {value.name for value in self._model.graph.inputs}
        tapped = tuple(name for name in values if name not in inputs)
        with ir.TemporaryFolder() as folder:
            progress = _Progress(bank, done, self._state, self._options.every)
            observe = self._alone if self._options.workers == 1 else self._split
            observe(tapped_model(self._model, tapped), tapped, progress, folder)
        progress.save()
        return bank, len(progress.done)

    def _alone(self, tap: ir.Model, tapped: tuple[str, ...], progress: "_Progress", folder: Path) -> None:
        path = folder / "tapped.onnx"
        ir.save(tap, path, external_data=True)  # weights inside the file would be in memory twice
        with Session(path, options=self._session_options) as session:

            def on_done(indices: Sequence[int]) -> None:
                for count, _ in enumerate(indices, len(progress.done) + 1):
                    self._context.progress(count, self._samples.len_hint, "calibrate")
                progress.add((index, index + 1) for index in indices)

            most = min(self._options.every, BATCH_SAMPLES)
            observe_samples(session, progress.bank, tapped, self._missing(progress.done), on_done, most)

    def _split(self, tap: ir.Model, tapped: tuple[str, ...], progress: "_Progress", folder: Path) -> None:
        total = self._samples.count()
        bank = progress.bank
        message = _message(tap, folder)
        job = Job(message, self._session_options, self._samples, bank.values, tapped, bank.kinds, bank.thinning)

        def on_result(share: IndexRange, seen: ObserverBank) -> None:
            bank.merge(seen)
            progress.add([share])
            self._context.progress(len(progress.done), total, "calibrate")

        waiting = max(total - len(progress.done), 1)
        longest = -(-waiting // self._options.workers)
        if self._state is not None:
            longest = min(longest, self._options.every)
        observe_shares(job, progress.done.missing(total, longest), self._options.workers, on_result)

    def _missing(self, done: Coverage) -> Iterator[tuple[int, Feed]]:
        return ((index, feed) for index, feed in enumerate(self._samples) if index not in done)


def _message(tap: ir.Model, folder: Path) -> bytes | str:
    """The model as workers get it: its bytes, or where those are too many the path it is written to."""
    if sum(v.const_value.nbytes for v in tap.graph.initializers.values() if v.const_value) < LARGEST_MESSAGE:
        return ir.serialize(tap)
    path = folder / "tapped.onnx"
    ir.save(tap, path)
    return str(path)


class _Progress:
    """The observers of a group, which samples they have seen, and when that was last saved."""

    def __init__(self, bank: ObserverBank, done: Coverage, state: StateFolder | None, every: int) -> None:
        self.bank = bank
        self.done = done
        self._saved = len(done)
        self._state = state
        self._every = every

    def add(self, ranges: Iterable[IndexRange]) -> None:
        """Notes all samples that the bank has seen since, and saves when enough are new."""
        self.done = self.done.with_ranges(ranges)
        if len(self.done) - self._saved >= self._every:
            self.save()

    def save(self) -> None:
        """Saves what is not saved yet, where a folder was given."""
        if self._state is not None and len(self.done) > self._saved:
            self._state.save(self.bank, self.done)
            self._saved = len(self.done)
