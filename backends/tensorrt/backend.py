"""The TensorRT backend."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from sardonyx import ir
from sardonyx.backends.base import Backend, LegalizeResult
from sardonyx.backends.engine import EngineReport, EngineRequest
from sardonyx.backends.tensorrt.artefacts import (
    FILES,
    MODEL_NAME,
    engine_name,
    write_commands,
    write_information,
    write_sidecar,
)
from sardonyx.backends.tensorrt.build import BuildResult, build, find_builders
from sardonyx.backends.tensorrt.commands import build_commands
from sardonyx.backends.tensorrt.findings import Finding, Severity
from sardonyx.backends.tensorrt.inspector import Inspection, inspect_engine, shown_layers
from sardonyx.backends.tensorrt.legalization import legalize
from sardonyx.backends.tensorrt.preflight import preflight
from sardonyx.backends.tensorrt.profiles import make_profile
from sardonyx.backends.tensorrt.proof import prove
from sardonyx.backends.tensorrt.settings import TIMEOUT_SECONDS, BuildSettings, ShapeRange, parse_bytes
from sardonyx.backends.tensorrt.table import capabilities
from sardonyx.capabilities import Capabilities
from sardonyx.errors import SaveError, UsageError
from sardonyx.measure import Machine, Samples, Session, SessionOptions

NO_BUILDER = "no TensorRT builder is usable here"
NO_TABLE = "The builder gave no table of its layers, so that nothing is known of what runs in which type."
INSTALL = (
    "install sardonyx[tensorrt-rtx], which builds without a GPU, or sardonyx[tensorrt] on a machine with one; or run "
    "a command of build-commands.txt where TensorRT is"
)


@dataclass(frozen=True)
class TensorRTBackend(Backend):
    """Engines of TensorRT, from graphs with explicit Q/DQ; judged as ONNX graphs on the CPU.

    Attributes:
        sm: Compute capabilities to build for without their GPUs, such as `8.6`; empty: the builder's default.
        shapes: Ranges of shapes of dynamic inputs, as `name=min:opt:max`; the others are those of the samples.
        workspace: Most memory that a layer may use besides its tensors, such as `2GiB`.
        timing_cache: File of tactic timings that the full builder reads and updates.
        require_int8: Least share of the planned products that must run as INT8 in the engine, 0 to 1.
        timeout: Seconds after which the builder is stopped.
    """

    sm: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    workspace: str | None = None
    timing_cache: str | None = None
    require_int8: float = 0.0
    timeout: float = TIMEOUT_SECONDS

    name = "tensorrt"
    summary = "NVIDIA TensorRT: engines from ONNX models with Q/DQ, built with or without a GPU"
    files = FILES
    untimed = "latency was not measured, because engines run on GPUs and candidates are judged on the CPU"
    refusals_are_final = True

    def __post_init__(self) -> None:
        """Checks the options.

        Raises:
            UsageError: If one cannot be used.
        """
        if not 0 <= self.require_int8 <= 1:
            raise UsageError(f"require_int8 is {self.require_int8}.", remedy="Give a share such as 95% or 0.95.")
        if self.timeout <= 0:
            raise UsageError(f"timeout is {self.timeout}.", remedy="Give seconds, for instance 600.")
        _ = self.settings

    @cached_property
    def settings(self) -> BuildSettings:
        """How engines are built."""
        return BuildSettings(
            compute_capabilities=tuple(str(each) for each in self.sm),
            profile=tuple(ShapeRange.parse(text) for text in self.shapes),
            workspace_bytes=None if self.workspace is None else parse_bytes(str(self.workspace)),
            timing_cache=None if self.timing_cache is None else Path(self.timing_cache),
            timeout_seconds=self.timeout,
        )

    def prepared(self, model: ir.Model, samples: Samples | None) -> Self:
        """Returns the backend with a range of shapes for each dynamic input."""
        profile = make_profile(model, self.settings.profile, samples)
        return dataclasses.replace(self, shapes=tuple(str(each) for each in profile))

    def status(self) -> tuple[str, ...]:
        """Tries the builders, each in a process of its own."""
        return tuple(_status(module, probe) for module, probe in find_builders().items())

    def capabilities(self, machine: Machine) -> Capabilities:
        """Returns the table; it does not depend on the machine that compiles."""
        return capabilities(machine)

    def legalize(self, model: ir.Model) -> LegalizeResult:
        """Rewrites a model in place to what TensorRT takes, and names what it will not take."""
        settings = self.settings
        return legalize(model, profile=settings.profile or None, compute_capabilities=settings.compute_capabilities)

    def preflight(self, model: ir.Model) -> tuple[str, ...]:
        """Returns what TensorRT would refuse, change or run in float, in order."""
        return tuple(f"{each.severity}: {each}" for each in self._findings(model, legalizes=True))

    def load(self, source: str | os.PathLike[str] | bytes, *, threads: int = 1) -> Session:
        """Loads a model in ONNX Runtime, with Q/DQ computed as written.

        Fused integer kernels of the CPU would round products to the output's scale, which an engine does not.
        """
        return Session(source, options=SessionOptions(threads=threads, optimization="basic"))

    def emit(self, model: ir.Model, folder: Path, *, check: bool = True) -> Path:
        """Writes `model.trt.onnx` (with `model.trt.onnx.data` beside it over 2 GB) and loads it back."""
        path = folder / MODEL_NAME
        ir.save(model, path)
        if check:
            self.load(path)
        return path

    def build_engine(self, model: ir.Model, path: Path, request: EngineRequest) -> EngineReport:
        """Builds the engine in a child process and writes it beside the model, with a sidecar file.

        Where a GPU is here that the engine runs on, it is loaded, and what its inspector tells is written, too. Where
        no builder is usable, the command lines that build it elsewhere are written instead.
        """
        staged = path.with_name("model.engine")
        result = build(path, self.settings, engine=staged, progress=request.progress)
        if not result.done:
            report = self._report(model, path, result, request)
            write_commands(path.parent, report)
            return report
        engine = path.with_name(engine_name(result.module, result.version, self.settings.compute_capabilities))
        try:
            os.replace(staged, engine)
            report = self._report(model, path, result, request, self._inspected(engine, result, request))
            write_sidecar(engine, path, report)
        except OSError as error:
            raise SaveError(
                f"{engine} cannot be written: {error.strerror or error}.", remedy="Free some disk space."
            ) from error
        return report

    def _inspected(self, engine: Path, result: BuildResult, request: EngineRequest) -> Inspection:
        request.progress(0, None, "tensorrt: look into the engine")
        inspection = inspect_engine(engine, result.module)
        if inspection.text:
            write_information(engine, inspection.text)
        return inspection

    def _report(
        self,
        model: ir.Model,
        path: Path,
        result: BuildResult,
        request: EngineRequest,
        inspection: Inspection | None = None,
    ) -> EngineReport:
        settings = self.settings
        targets = settings.compute_capabilities
        findings = self._findings(model, legalizes=False)
        reasons = {each.node: str(each) for each in findings if each.severity is Severity.SILENT_FLOAT}
        logged = result.layers or (inspection.layers if inspection else ())
        shown, source = shown_layers(result.layers, inspection)
        report = EngineReport(
            stage=result.stage,
            file=engine_name(result.module, result.version, targets) if result.done else "",
            builder=result.module,
            version=result.version,
            targets=targets,
            shapes=tuple(str(each) for each in settings.profile),
            nbytes=result.engine_bytes,
            weights_bytes=result.weights_bytes,
            seconds=result.parse_seconds + result.build_seconds,
            peak_rss_bytes=result.peak_rss_bytes,
            proof=prove(model, logged, request.planned, reasons) if logged else None,
            problems=_problems(result),
            warnings=(*result.warnings, *(_notes(settings, proven=bool(logged)) if result.done else ())),
            commands=build_commands(path.name, settings),
            layers=shown,
            layers_source=source,
        )
        return dataclasses.replace(report, unmet=self._unmet(report))

    def _findings(self, model: ir.Model, *, legalizes: bool) -> tuple[Finding, ...]:
        settings = self.settings
        return preflight(
            model,
            profile=settings.profile or None,
            compute_capabilities=settings.compute_capabilities,
            legalizes=legalizes,
        )

    def _unmet(self, report: EngineReport) -> str:
        if not self.require_int8:
            return ""
        proof = report.proof
        if proof is None:
            why = NO_TABLE if report.built else "There is no engine."
            return f"That {self.require_int8:.0%} run as INT8 is not proven. {why}"
        if not proof.planned:
            return f"No product was meant to run as INT8, and {self.require_int8:.0%} are required to."
        if proof.share >= self.require_int8:
            return ""
        return (
            f"{proof.integer} of {proof.planned} products that were meant to run as INT8 do in the engine, and "
            f"{self.require_int8:.0%} are required."
        )


def _notes(settings: BuildSettings, *, proven: bool) -> Iterator[str]:
    """Yields what to know of an engine."""
    for each in settings.profile:
        if each.least == each.most:
            shape = "x".join(map(str, each.best))
            yield (
                f"The engine takes {each.name} as {shape} only, which the model leaves open: samples of several shapes "
                f"or --shape {each.name}=MIN:OPT:MAX let it take others."
            )
    if not proven:
        yield NO_TABLE


def _status(module: str, probe: BuildResult) -> str:
    if probe.done:
        return f"builder {module} {probe.version}: usable"
    return f"builder {module}: not usable: {probe.why().removeprefix(f'{module}: ')}"


def _problems(result: BuildResult) -> tuple[str, ...]:
    if result.done:
        return ()
    if result.stage == "start":
        return (f"{NO_BUILDER} ({result.why()}): {INSTALL}.",)
    return tuple(dict.fromkeys(str(error) for error in result.errors))
