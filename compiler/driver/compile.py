"""The compile: load, optimize, quantize, legalize, judge, choose, emit, record."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sardonyx import ir
from sardonyx.backends import Backend, EngineReport, EngineRequest, backend
from sardonyx.driver.choice import (
    MIXED,
    OPTIMIZED,
    ORIGINAL,
    QUANTIZED,
    REWRITTEN,
    Choice,
    choose,
    is_lossy,
    keeps_budget,
    lost_by,
    overtaken,
    to_repair,
    vain_repair,
)
from sardonyx.driver.engine import is_met, note_engine, take_along
from sardonyx.driver.give_back import Quantizer, Variant
from sardonyx.driver.judge import Judge, inexact_output, metric_name
from sardonyx.driver.output import file_entry, replaced_folder, require_writable
from sardonyx.driver.repair import Repair
from sardonyx.driver.reporting import ReportSource, try_report, write_report
from sardonyx.errors import BackendError, DataError
from sardonyx.measure import (
    Feed,
    Metric,
    Samples,
    Session,
    Split,
    describe_machine,
    load_metric,
    load_samples,
    synthetic_samples,
    tool_versions,
)
from sardonyx.passes.base import Pass, PassContext, Progress, no_progress
from sardonyx.pipeline import (
    AUTO,
    Candidate,
    CompileRecord,
    FileEntry,
    PassManager,
    Recipe,
    available_passes,
    format_pipeline,
    parse_pipeline,
    pipeline_text,
    recipe_schemes,
    with_half_precision,
    with_selection,
)
from sardonyx.pipeline.record import PLAN_NAME, RECORD_NAME, REPORT_NAME


@dataclass(frozen=True)
class CompileResult:
    """The outcome of a compile.

    Attributes:
        model: The chosen model.
        record: What was done, measured and decided.
        path: The written model, or the engine built of it; None where no output folder was given.
        source: What `report` makes the page of.
    """

    model: ir.Model
    record: CompileRecord
    path: Path | None = None
    source: ReportSource | None = field(default=None, repr=False, compare=False)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page of this compile to a file and returns its path.

        Raises:
            SaveError: If it cannot be written.
        """
        source = self.source or ReportSource(self.model, self.model)
        return write_report(self.record, source, Path(path))


@dataclass(frozen=True)
class CompileJob:
    """What the user brings.

    Attributes:
        source: Anything `sardonyx.ir.load` takes.
        data: Anything `sardonyx.measure.load_samples` takes; None for no samples.
        metric: `package.module:function` or a function of `run`, higher is better; None for agreement.
        recipe: How to compile.
        output: Folder to write; None to write nothing.
        progress: Told how far the compile has come.
    """

    source: Any
    data: Any = None
    metric: str | Metric | None = None
    recipe: Recipe = field(default_factory=Recipe)
    output: str | os.PathLike[str] | None = None
    progress: Progress = no_progress


def run_compile(job: CompileJob) -> CompileResult:
    """Runs a compile.

    Raises:
        UsageError: If the model, the samples, the metric, the recipe or the output folder cannot be used.
        BackendError: If the target fails in a way that leaves nothing to return.
    """
    output = None if job.output is None else Path(job.output)
    source_path = Path(job.source) if isinstance(job.source, str | os.PathLike) else None
    if output is not None:
        require_writable(output, source_path)
    with ir.TemporaryFolder() as scratch:
        return _Compiler(job, output, scratch).run()


class _Compiler:
    def __init__(self, job: CompileJob, output: Path | None, scratch: Path) -> None:
        self.job = job
        self.recipe = job.recipe
        self.output = output
        self.scratch = scratch
        self.backend: Backend = backend(job.recipe.target).configured(job.recipe.target_options)
        self.machine = describe_machine()
        self.capabilities = self.backend.capabilities(self.machine)
        self.record = CompileRecord(
            recipe=job.recipe,
            tools=tool_versions(),
            machine=asdict(self.machine),
            warnings=list(self.capabilities.warnings),
        )
        passes = available_passes()
        self.exact_passes = parse_pipeline(self.recipe.optimize, passes)
        if self.recipe.quantize != AUTO:  # a mistake in it is better known at once
            self._lossy_passes(pipeline_text(self.recipe.quantize))
        self.metric = None if job.metric is None else load_metric(job.metric)
        self.models: dict[str, ir.Model] = {}
        self.lossy: dict[str, Variant] = {}
        self.quantizers: dict[str, Quantizer] = {}
        self.legalized: set[str] = set()
        self.judged_on: Samples | None = None

    def run(self) -> CompileResult:
        self._load()
        original = self._open_original()
        if original is None:
            return self._unproven()
        with original:
            split = self._split(original)
            self._make_candidates(split)
            judge = self._judge(original, split)
            for name in list(self.models)[1:]:
                self._measure(judge, name)
            if split is not None:
                self._repair(judge, split)
        choice = self._choose()
        self._note_lossy(choice.name)
        self.record.decide("choose", choice.name, choice.reason)
        self.record.chosen = choice.name
        self.record.met_budget = choice.met_budget and is_met(self.record.engine)
        return self._finish()

    def _choose(self) -> Choice:
        """Chooses, and builds the engine of the choice where the target has one; what the builder refuses is out."""
        while True:
            choice = choose(self.record.candidates, self.recipe, self.backend.untimed)
            report = self._build(choice.name)
            candidate = self.record.candidate(choice.name)
            if report is None or not report.failed or candidate is None:
                return choice
            candidate.rejected = f"the builder does not take it: {'; '.join(report.problems)}"

    def _build(self, name: str) -> EngineReport | None:
        planned = self.lossy[name].integer_nodes if name in self.lossy else ()
        if name == ORIGINAL:  # judged as its owner has it
            self.models[name] = ir.clone(self.models[name])
            self._legalize(name)
        path = self._write(name, self.models[name])
        report = self.backend.build_engine(self.models[name], path, EngineRequest(planned, self.job.progress))
        if report is not None:
            note_engine(self.record, name, report)
        return report

    def _measure(self, judge: Judge, name: str) -> Candidate:
        candidate = judge.measure(name, self.models[name], self._write(name, self.models[name]))
        candidate.integer_nodes = len(self.lossy[name].integer_nodes) if name in self.lossy else 0
        candidate.legalized = name in self.legalized and inexact_output(candidate) is not None
        if candidate.legalized and not is_lossy(name):
            self.record.warnings.append(REWRITTEN.format(self.backend.name))
        self.record.candidates.append(candidate)
        return candidate

    def _note_lossy(self, chosen: str) -> None:
        """Records the passes and the pipeline of the chosen quantized model, or of the first that was tried."""
        name = chosen if chosen in self.lossy else QUANTIZED
        records = self.lossy[name].records if name in self.lossy else ()
        self.record.note_passes(records)
        self.record.pipeline = ", ".join((format_pipeline(self.exact_passes), *(record.spec for record in records)))

    def _lossy_passes(self, text: str) -> tuple[Pass, ...]:
        if self.recipe.fallback == "fp16":
            text = with_half_precision(text, self.capabilities)
        passes = parse_pipeline(text, available_passes())
        return with_selection(passes, self.recipe.exclude, self.recipe.include) if passes else passes

    def _schemes(self, model: ir.Model) -> dict[str, tuple[Pass, ...]]:
        """The passes of each quantized candidate, by its name."""
        schemes = recipe_schemes(self.recipe.quantize, model, self.capabilities)
        if not schemes:
            passes = self._lossy_passes(self.recipe.quantize)
            return {QUANTIZED: passes} if passes else {}
        first, *others = schemes
        self.record.decide("scheme", first.name, first.summary)
        for other in others:
            self.record.decide("scheme", other.name, f"also tried: {other.summary}")
        named = {QUANTIZED: first} | {f"{QUANTIZED}-{other.name}": other for other in others}
        return {name: self._lossy_passes(scheme.pipeline) for name, scheme in named.items()}

    def _repair(self, judge: Judge, split: Split) -> None:
        """Where the fastest quantized model loses too much, gives back its nodes until it fits or is not faster."""
        worst = to_repair(self.record.candidates, self.recipe, self.backend.untimed)
        if worst is None:
            return
        vain = None if self.backend.untimed else vain_repair(worst, self.record.candidates)
        if vain is not None:
            self.record.decide("give-back", "nothing", vain)
            return
        repair = Repair(
            self.quantizers[worst.name],
            self.lossy[worst.name],
            judge,
            split.calibration,
            self._load_variant,
            self.record,
        )

        def attempt(variant: Variant) -> float | None:
            self.models[MIXED], self.lossy[MIXED] = variant.model, variant
            self._legalize(MIXED)
            self.record.candidates[:] = [c for c in self.record.candidates if c.name != MIXED]
            mixed = self._measure(judge, MIXED)
            late = overtaken(mixed, self.record.candidates, self.recipe)
            if late is not None:
                self.record.decide("give-back", "nothing", late)
            return None if late is not None or keeps_budget(mixed, self.recipe) else lost_by(mixed)

        repair.run(lost_by(worst), attempt)

    def _load_variant(self, model: ir.Model) -> Session:
        self.backend.legalize(model)
        return self.backend.load(self._write("variant", model), threads=self.recipe.threads)

    def _load(self) -> None:
        self.job.progress(0, None, "load")
        loaded = ir.load(self.job.source, opset=self.recipe.opset)
        self.models[ORIGINAL] = loaded.model
        self.record.repairs = [repair.message for repair in loaded.repairs]
        self.record.source = FileEntry(digest=ir.digest(loaded.model), nbytes=ir.nbytes(loaded.model))
        if loaded.path is not None:
            self.record.source.path = str(loaded.path)
            self.record.source.sha256 = ir.file_sha256(loaded.path)

    def _open_original(self) -> Session | None:
        """Loads the original in the runtime, as the user has it; repaired, where it does not load otherwise."""
        path = self.record.source.path
        if path is not None:
            try:
                return self.backend.load(path, threads=self.recipe.threads)
            except BackendError as error:
                self.record.decide("load", "repaired original", f"the original does not load: {error.message}")
        try:
            return self.backend.load(self._write(ORIGINAL, self.models[ORIGINAL]), threads=self.recipe.threads)
        except BackendError as error:
            self.record.decide("load", "unproven", error.message)
            return None

    def _write(self, name: str, model: ir.Model) -> Path:
        """Writes a candidate as it would be emitted, so that what is judged is what is written."""
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        return self.backend.emit(model, folder, check=False)

    def _split(self, original: Session) -> Split | None:
        if self.job.data is None:
            if self.recipe.quantize:
                reason = "there are no samples to calibrate and judge with: pass --data for INT8"
                self.record.decide("quantize", "nothing", reason)
            self.backend = self.backend.prepared(self.models[ORIGINAL], None)
            return None
        samples = load_samples(self.job.data).named_for(original.inputs).checked(original.inputs)
        self.backend = self.backend.prepared(self.models[ORIGINAL], samples)
        split = samples.split(self.recipe.held_out)
        calibration, held_out = split.calibration.count(), split.held_out.count()
        self.record.samples = {
            "source": samples.what,
            "fingerprint": samples.fingerprint(),
            "calibration": calibration,
            "held_out": held_out,
            "overlap": split.overlap,
        }
        if split.overlap:
            self.record.warnings.append(
                "There is only one sample, so that the model is judged on what it was calibrated with; give more."
            )
        return split

    def _context(self, samples: Samples | None) -> PassContext:
        return PassContext(self.capabilities, samples, self.job.progress, self.recipe.threads)

    def _make_candidates(self, split: Split | None) -> None:
        context = self._context(None if split is None else split.calibration)
        optimized = PassManager(self.exact_passes, context=context).run(ir.clone(self.models[ORIGINAL]))
        self.record.note_passes(optimized.records)
        self.models[OPTIMIZED] = optimized.model
        self._require_expressible(optimized.model)
        unlegalized = ir.clone(optimized.model)
        for name, passes in ({} if split is None else self._schemes(optimized.model)).items():
            self.quantizers[name] = Quantizer(unlegalized, passes, context)
            self.lossy[name] = self.quantizers[name].variant()
            if self.lossy[name].changed:
                self.models[name] = self.lossy[name].model
        for name in list(self.models)[1:]:
            self._legalize(name)

    def _legalize(self, name: str) -> None:
        legalized = self.backend.legalize(self.models[name])
        if not legalized.exact:
            self.legalized.add(name)
        for change in legalized.changes:
            self.record.decide("legalize", name, change)
        self.record.warnings.extend(w for w in legalized.refusals if w not in self.record.warnings)

    def _require_expressible(self, model: ir.Model) -> None:
        """Refuses a model that the target will not take, before time is spent on it."""
        if not self.backend.refusals_are_final:
            return
        refusals = self.backend.legalize(ir.clone(model)).refusals
        if refusals:
            others = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
            raise BackendError(f"The target {self.backend.name} does not take the model{others}: {refusals[0]}")

    def _judge(self, original: Session, split: Split | None) -> Judge:
        if self.metric is not None:
            self.job.progress(0, None, "evaluate the original")
        synthetic = self._synthetic(original) if split is None else None
        self.judged_on = synthetic if split is None else split.held_out
        return Judge(
            backend=self.backend,
            original=original,
            metric=self.metric,
            metric_name=metric_name(self.job.metric),
            original_metric=1.0 if self.metric is None else self.metric(original.run),
            held_out=self.judged_on,
            calibration=None if split is None else split.calibration,
            feed=self._timed_feed(synthetic if split is None else split.calibration),
            recipe=self.recipe,
            progress=self.job.progress,
        )

    def _timed_feed(self, samples: Samples | None) -> Feed | None:
        if self.backend.untimed or samples is None:
            return None
        return next(iter(samples))

    def _synthetic(self, original: Session) -> Samples | None:
        """Random inputs, which show whether exact passes were exact; None where the original does not run on them."""
        samples = synthetic_samples(original.inputs)
        try:
            for feed in samples:
                original.run(feed)
        except (DataError, BackendError) as error:
            self.record.warnings.append(f"Exactness was not checked, for want of samples: {error.message}")
            return None
        self.record.samples = {"source": samples.what, "held_out": samples.count()}
        return samples

    def _unproven(self) -> CompileResult:
        """The target cannot run the original at all: exact passes only, and the record says that nothing was proven."""
        self.backend = self.backend.prepared(self.models[ORIGINAL], None)
        self._make_candidates(None)
        self._build(OPTIMIZED)
        cause = next(d.reason for d in reversed(self.record.decisions) if d.choice == "unproven")
        reason = f"the target cannot run the original, so that nothing could be calibrated, judged or timed: {cause}"
        self.record.decide("choose", OPTIMIZED, "only exact passes were applied: the target cannot run the original")
        self.record.chosen, self.record.met_budget = OPTIMIZED, False
        self.record.warnings.append(f"Unproven: {reason}")
        self.record.pipeline = format_pipeline(self.exact_passes)
        return self._finish(proven=False)

    def _finish(self, *, proven: bool = True) -> CompileResult:
        model = self.models[self.record.chosen]
        source = ReportSource(self.models[ORIGINAL], model, self.judged_on, self.job.progress)
        if self.output is None:
            return CompileResult(model, self.record, None, source)
        self.job.progress(0, None, "write")
        with replaced_folder(self.output) as folder:
            written = self.backend.emit(model, folder, check=proven)
            if self.record.engine is not None:
                take_along(self.scratch / self.record.chosen, folder)
            lossy = self.lossy.get(self.record.chosen)
            plan = None if lossy is None else self.quantizers[QUANTIZED].written_plan(lossy)
            if plan is not None:
                (folder / PLAN_NAME).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
            self.record.outputs = [file_entry(file) for file in sorted(folder.iterdir())]
            if self.recipe.report:
                try_report(self.record, source, folder / REPORT_NAME)
            self.record.write(folder / RECORD_NAME)
        engine = self.record.engine
        path = self.output / (engine.file if engine and engine.built else written.name)
        return CompileResult(model, self.record, path, source)
