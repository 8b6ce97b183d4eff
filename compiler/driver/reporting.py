"""The page of a compile: what is measured for it, within a time, and where it is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.diff import compare, match
from sardonyx.diff.drift import drift
from sardonyx.diff.drift_schema import Drift
from sardonyx.diff.measuring import DriftOptions
from sardonyx.diff.timing import Times, node_times
from sardonyx.driver.choice import ORIGINAL
from sardonyx.driver.output import file_entry, original_file
from sardonyx.errors import SardonyxError, UsageError
from sardonyx.measure import Samples, TensorSpec, load_samples
from sardonyx.passes.base import Progress, no_progress
from sardonyx.pipeline import CompileRecord
from sardonyx.pipeline.record import RECORD_NAME, REPORT_NAME
from sardonyx.report import Comparison, Evidence, compile_report, write

DRIFT_SAMPLES = 4
"""Samples on which values inside the models are compared."""
DRIFT_SECONDS = 20.0
"""Wall time after which that is given up."""
DRIFT_BYTES = 1 << 30
"""Bytes of tensors of both models together beyond which it is not begun."""
DRIFT_CHUNK = 64 << 20
"""Bytes of values compared at a time: between, the time is looked at."""
TIMED_RUNS = 20
"""Runs of each model in which nodes are timed."""
TIMES_SECONDS = 5.0
"""Wall time for these runs: of slow models there are fewer."""
TIMED_TARGET = "onnxruntime"
COMPARED_NODES = 50_000
"""Nodes of both models together beyond which they are not compared."""


class _OutOfTimeError(SardonyxError):
    """Measuring for the page took too long; never leaves this module."""


@dataclass(frozen=True)
class ReportSource:
    """What a page is made of, besides the record.

    Attributes:
        original: The model that was compiled.
        chosen: The model that was written.
        samples: Samples to compare values inside the models on; None for none.
        progress: Told what is being measured.
    """

    original: ir.Model
    chosen: ir.Model
    samples: Samples | None = None
    progress: Progress = no_progress


def write_report(record: CompileRecord, source: ReportSource, path: Path) -> Path:
    """Measures what the page of a compile shows, writes it and returns its path.

    Raises:
        SaveError: If it cannot be written.
        LoadError: If external weights can no longer be read.
    """
    return write(compile_report(record, _evidence(record, source)), path)


def try_report(record: CompileRecord, source: ReportSource, path: Path) -> None:
    """Writes the page and adds it to the record's files; where that fails, the record says why instead."""
    source.progress(0, None, "report")
    try:
        record.outputs.append(file_entry(write_report(record, source, path)))
    except Exception as error:  # the model is worth more than the page: the cause becomes a warning
        path.unlink(missing_ok=True)
        record.warnings.append(f"The report could not be made: {type(error).__name__}: {error}")


def report_again(folder: Path, data: str | None, output: Path | None, progress: Progress) -> Path:
    """Makes the page of an earlier compile anew, from its record and its models.

    Args:
        folder: A compile's output folder.
        data: Samples to compare values inside the models on, as `sardonyx.measure.load_samples` takes them.
        output: File to write; None for the page in the folder.
        progress: Told what is being measured.

    Raises:
        UsageError: If the folder holds no compile, or what it was compiled from is gone or has changed.
        SaveError: If the page cannot be written.
    """
    record = CompileRecord.read(folder / RECORD_NAME)
    original = ir.load(original_file(record, folder), opset=record.recipe.opset).model
    written = next((file.path for file in record.outputs if file.path and file.path.endswith(".onnx")), None)
    if written is None:
        raise UsageError(f"The record of {folder} names no model.", remedy="Compile it again.")
    chosen = ir.load(folder / written).model
    specs = [TensorSpec(value.name or "", None, ()) for value in original.graph.inputs]
    samples = None if data is None else load_samples(data).named_for(specs)
    return write_report(record, ReportSource(original, chosen, samples, progress), output or folder / REPORT_NAME)


def _evidence(record: CompileRecord, source: ReportSource) -> Evidence:
    nodes = ir.num_nodes(source.original) + ir.num_nodes(source.chosen)
    if record.chosen == ORIGINAL:
        return Evidence(no_comparison="The original itself was written: there is nothing to compare.")
    if nodes > COMPARED_NODES:
        return Evidence(no_comparison=f"The models were not compared: together they have {nodes:,} nodes.")
    source.progress(0, None, "compare the models")
    before, after = ir.clone(source.original), ir.clone(source.chosen)
    for model in (before, after):
        ir.ensure_shapes(model)
    matching = match(before, after)
    difference = compare(before, after, matching)
    comparison = Comparison(before, after, matching, difference, (ORIGINAL, record.chosen))
    drifted, no_drift = _drift(comparison, source)
    timed, no_times = _times(comparison, source, record)
    return Evidence(comparison=comparison, drift=drifted, no_drift=no_drift, times=timed, no_times=no_times)


def _drift(comparison: Comparison, source: ReportSource) -> tuple[Drift | None, str]:
    """The drift, or why there is none."""
    samples = source.samples
    if samples is None:
        return None, "Not measured: there were no samples."
    nbytes = ir.nbytes(comparison.before) + ir.nbytes(comparison.after)
    if nbytes > DRIFT_BYTES:
        return None, f"Not measured: the models together have {nbytes / 1e9:.1f} GB of tensors."
    few = Samples(lambda: islice(samples, DRIFT_SAMPLES), samples.what)
    options = DriftOptions(budget_bytes=DRIFT_CHUNK, progress=_deadline(source.progress))
    try:
        return drift(comparison.before, comparison.after, comparison.matching, few, options), ""
    except _OutOfTimeError:
        return None, f"Not measured: it would have taken longer than {DRIFT_SECONDS:.0f} s."
    except SardonyxError as error:
        return None, f"Not measured: {error.message}"


def _times(comparison: Comparison, source: ReportSource, record: CompileRecord) -> tuple[Times | None, str]:
    """The time by node, or why there is none."""
    candidate = record.candidate(record.chosen)
    feed = None if source.samples is None else next(iter(source.samples), None)
    if feed is None or candidate is None or candidate.latency is None:
        return None, "Not measured: the models were not timed."
    if record.recipe.target != TIMED_TARGET:
        return None, f"Not measured: only {TIMED_TARGET} tells the time of nodes."
    seconds = (candidate.latency.original_ms + candidate.latency.candidate_ms) / 1e3
    runs = min(int(TIMES_SECONDS / seconds), TIMED_RUNS)
    if runs < 1:
        return None, f"Not measured: a run of both models takes {seconds:.1f} s."
    source.progress(0, None, "time the nodes")
    target = backend(record.recipe.target)
    with ir.TemporaryFolder() as scratch:
        folders = scratch / "before", scratch / "after"
        for folder in folders:
            folder.mkdir()
        first, second = (
            target.emit(model, folder, check=False)
            for model, folder in zip((source.original, source.chosen), folders, strict=True)
        )
        try:
            models = comparison.before, comparison.after
            return node_times((first, second), models, comparison.matching, feed, runs=runs), ""
        except SardonyxError as error:
            return None, f"Not measured: {error.message}"


def _deadline(progress: Progress) -> Callable[[int, int | None, str], None]:
    end = time.monotonic() + DRIFT_SECONDS

    def told(done: int, total: int | None, what: str) -> None:
        progress(done, total, what)
        if time.monotonic() > end:
            raise _OutOfTimeError("out of time")

    return told
