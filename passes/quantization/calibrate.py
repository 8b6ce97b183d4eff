"""Calibration: runs the float model on samples and lets observers watch the values to be quantized.

Memory does not depend on the number of samples: one sample's values are alive at a time, and each observer
keeps a fixed amount of state. Samples may differ in shape from one another.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sardonyx import ir
from sardonyx.errors import DataError, PassError
from sardonyx.measure import Session, SessionOptions
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.observers import MinMaxObserver, ObservedRange, Observer, PercentileObserver
from sardonyx.passes.quantization.taps import tap

CALIBRATORS: Mapping[str, Callable[[float], Observer]] = {
    "minmax": lambda percentile: MinMaxObserver(),
    "percentile": PercentileObserver,
}


@dataclass(frozen=True)
class CalibrationResult:
    """What was observed.

    Attributes:
        ranges: Range to represent, by value name; not finite where the float model itself is not.
        samples: Number of samples that were run.
    """

    ranges: Mapping[str, ObservedRange]
    samples: int


def calibrate(
    model: ir.Model, values: Sequence[str], new_observer: Callable[[], Observer], context: PassContext
) -> CalibrationResult:
    """Observes values of a model over the context's samples.

    Args:
        model: The float model; it is not changed.
        values: Names of float values of the main graph and of bodies.
        new_observer: Makes the observer of one value.
        context: Samples, threads and progress.

    Raises:
        PassError: If the context has no samples.
        DataError: If there are zero samples.
    """
    if context.samples is None:
        raise PassError("Static quantization needs samples to observe.", remedy="Pass --data, or data=samples.")
    observers = {name: new_observer() for name in values}
    inputs = {value.name for value in model.graph.inputs}
    tapped = [name for name in values if name not in inputs]
    with tempfile.TemporaryDirectory(prefix="sardonyx-") as folder:
        path = Path(folder) / "tapped.onnx"
        taps = tap(model, tapped)
        ir.save(taps.model, path)
        with Session(path, options=SessionOptions(threads=context.threads, arena=False)) as session:
            done = _observe(session, taps.outputs, observers, context)
    if not done:
        raise DataError("There are zero calibration samples.", remedy="Give at least one; 30 to 300 are usual.")
    return CalibrationResult({name: observer.range() for name, observer in observers.items()}, done)


def _observe(
    session: Session, outputs: Mapping[str, str], observers: Mapping[str, Observer], context: PassContext
) -> int:
    """Runs all samples past the observers and returns their number."""
    samples = context.samples or ()
    total = context.samples.len_hint if context.samples is not None else 0
    done = 0
    for feed in samples:
        fetched = session.run(feed, list(outputs.values())) if outputs else []
        results = dict(zip(outputs, fetched, strict=True))
        for name, observer in observers.items():
            observer.observe(results.pop(name) if name in results else feed[name])
        done += 1
        context.progress(done, total, "calibrate")
    return done
