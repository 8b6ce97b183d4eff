"""Quantizing without judging: a plan is made or read, and the model written as it says."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.backends import Backend, backend
from sardonyx.driver.choice import QUANTIZED
from sardonyx.driver.give_back import written_plan
from sardonyx.driver.output import replaced_folder, require_writable
from sardonyx.errors import PassError, SaveError, UsageError
from sardonyx.measure import Samples, describe_machine, load_samples, tool_versions
from sardonyx.passes.base import Pass, PassContext, Progress, no_progress
from sardonyx.passes.quantization.apply_plan import ApplyPlan, read_plan
from sardonyx.pipeline import (
    AUTO,
    CompileRecord,
    FileEntry,
    PassManager,
    PassRecord,
    Recipe,
    Status,
    available_passes,
    default_schemes,
    fitted_scheme,
    format_pipeline,
    parse_pipeline,
    with_selection,
)
from sardonyx.pipeline.record import PLAN_NAME, RECORD_NAME

NOT_JUDGED = "The model was quantized and not judged: `sardonyx compile` measures accuracy and speed."


@dataclass(frozen=True)
class Selection:
    """What is quantized, and how.

    Attributes:
        scheme: Name of a scheme, or `auto` for the one that suits the model.
        plan: A plan file to apply instead.
        exclude: Patterns of nodes to keep in float.
        include: Patterns of the only nodes to quantize.
    """

    scheme: str = AUTO
    plan: Path | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantizeJob:
    """What the user brings.

    Attributes:
        source: Anything `sardonyx.ir.load` takes.
        data: Anything `sardonyx.measure.load_samples` takes; None for no samples.
        selection: What is quantized, and how.
        recipe: The target, the exact passes that run before, and the threads; its `quantize` is not read.
        output: Folder to write; None to write none.
        plan_output: File to write the plan to; None to write it into the folder only.
        progress: Told how far the work has come.
    """

    source: Any
    data: Any = None
    selection: Selection = Selection()
    recipe: Recipe = field(default_factory=Recipe)
    output: Path | None = None
    plan_output: Path | None = None
    progress: Progress = no_progress


@dataclass(frozen=True)
class QuantizeResult:
    """The outcome.

    Attributes:
        model: The quantized model.
        plan: The plan, as JSON-able data.
        record: What was done.
        path: The written model, or None where no folder was given.
    """

    model: ir.Model
    plan: dict[str, Any]
    record: CompileRecord
    path: Path | None = None


def run_quantize(job: QuantizeJob) -> QuantizeResult:
    """Optimizes and quantizes a model, and writes it with its plan.

    Raises:
        UsageError: If the model, the samples, the scheme, the plan or an output cannot be used.
        PassError: If a pass could not do its work, or there was nothing to quantize.
        BackendError: If the target refuses the model.
    """
    source = Path(job.source) if isinstance(job.source, str | os.PathLike) else None
    if job.output is not None:
        require_writable(job.output, source)
    if job.plan_output is not None:
        _require_file(job.plan_output)
    return _Quantization(job, backend(job.recipe.target)).run()


class _Quantization:
    def __init__(self, job: QuantizeJob, target: Backend) -> None:
        self.job = job
        self.target = target
        machine = describe_machine()
        self.capabilities = target.capabilities(machine)
        self.record = CompileRecord(
            recipe=job.recipe,
            tools=tool_versions(),
            machine=asdict(machine),
            warnings=[*self.capabilities.warnings, NOT_JUDGED],
        )

    def run(self) -> QuantizeResult:
        self.job.progress(0, None, "load")
        loaded = ir.load(self.job.source, opset=self.job.recipe.opset)
        self.record.repairs = [repair.message for repair in loaded.repairs]
        self.record.source = FileEntry(digest=ir.digest(loaded.model), nbytes=ir.nbytes(loaded.model))
        if loaded.path is not None:
            self.record.source.path = str(loaded.path)
            self.record.source.sha256 = ir.file_sha256(loaded.path)
        samples = self._samples(loaded.model)
        exact = parse_pipeline(self.job.recipe.optimize, available_passes())
        optimized = self._apply(exact, loaded.model, None)[0]
        lossy = self._passes(optimized)
        self.record.pipeline = format_pipeline((*exact, *lossy))
        quantized, records = self._apply(lossy, ir.clone(optimized), samples)
        _require_done(records)
        plan = written_plan(optimized, records, self._context(samples)) or {}
        self.record.chosen, self.record.met_budget = QUANTIZED, True
        return QuantizeResult(quantized, plan, self.record, self._write(quantized, plan))

    def _passes(self, model: ir.Model) -> tuple[Pass, ...]:
        selection = self.job.selection
        if selection.plan is not None:
            if selection.exclude or selection.include or selection.scheme != AUTO:
                raise UsageError(
                    "A plan says what is quantized: --scheme, --exclude and --include do not go with it.",
                    remedy="Edit the plan, or make another one with --plan-out.",
                )
            plan = read_plan(selection.plan)
            before, behind = (parse_pipeline(text, available_passes()) for text in (plan.prepared, plan.finished))
            return (*before, ApplyPlan(str(selection.plan)), *behind)
        with_samples = self.job.data is not None
        if selection.scheme == AUTO:
            scheme = default_schemes(model, self.capabilities, samples=with_samples)[0]
        else:
            scheme = fitted_scheme(selection.scheme, model, self.capabilities)
        if scheme.samples and not with_samples:
            raise UsageError(
                f"The scheme {scheme.name!r} needs samples.", remedy="Pass --data, or use --scheme dynamic."
            )
        self.record.decide("scheme", scheme.name, scheme.summary)
        passes = parse_pipeline(scheme.pipeline, available_passes())
        return with_selection(passes, selection.exclude, selection.include)

    def _samples(self, model: ir.Model) -> Samples | None:
        if self.job.data is None:
            return None
        with ir.TemporaryFolder() as folder:
            path = folder / "model.onnx"
            ir.save(model, path)
            with self.target.load(path, threads=self.job.recipe.threads) as session:
                samples = load_samples(self.job.data).named_for(session.inputs).checked(session.inputs)
        self.record.samples = {"source": samples.what, "fingerprint": samples.fingerprint()}
        return samples

    def _apply(
        self, passes: tuple[Pass, ...], model: ir.Model, samples: Samples | None
    ) -> tuple[ir.Model, tuple[PassRecord, ...]]:
        done = PassManager(passes, context=self._context(samples)).run(model)
        self.record.note_passes(done.records)
        return done.model, done.records

    def _context(self, samples: Samples | None) -> PassContext:
        return PassContext(self.capabilities, samples, self.job.progress, self.job.recipe.threads)

    def _write(self, model: ir.Model, plan: dict[str, Any]) -> Path | None:
        legalized = self.target.legalize(model)
        for change in legalized.changes:
            self.record.decide("legalize", QUANTIZED, change)
        self.record.warnings.extend(legalized.refusals)
        text = json.dumps(plan, indent=1) + "\n"
        written: Path | None = None
        if self.job.output is not None:
            self.job.progress(0, None, "write")
            with replaced_folder(self.job.output) as folder:
                written = self.job.output / self.target.emit(model, folder).name
                (folder / PLAN_NAME).write_text(text, encoding="utf-8")
                self.record.outputs = [
                    FileEntry(path=file.name, sha256=ir.file_sha256(file), nbytes=file.stat().st_size)
                    for file in sorted(folder.iterdir())
                ]
                self.record.write(folder / RECORD_NAME)
        if self.job.plan_output is not None:
            self.job.plan_output.write_text(text, encoding="utf-8")
        return written


def _require_done(records: tuple[PassRecord, ...]) -> None:
    for record in records:
        if record.status is Status.UNDONE:
            raise PassError(f"The pass {record.spec} was undone: {record.reason}")
    if not any(record.status is Status.APPLIED for record in records):
        reasons = [refusal for record in records for refusal in record.refusals]
        first = f" For instance {reasons[0].nodes[0]}: {reasons[0].reason}." if reasons else ""
        raise PassError(
            f"Nothing in the model can be quantized this way.{first}",
            remedy="`sardonyx quantize --list-schemes` lists others; `sardonyx explain` says why for each node.",
        )


def _require_file(path: Path) -> None:
    """Refuses a plan's path that cannot be written, before the work begins."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"lies in {path.parent}, which does not exist"
        raise SaveError(f"{path} {what}.", remedy="--plan-out names a JSON file in an existing folder.")
