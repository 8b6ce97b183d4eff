"""Building engines in a child process, which may hang or die without harm."""

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sardonyx.backends.tensorrt import worker
from sardonyx.backends.tensorrt.child import Child, Progress, Stage, Watch
from sardonyx.backends.tensorrt.layers import Layer, parse_layers
from sardonyx.backends.tensorrt.settings import ALONE, TARGETS, BuildSettings, ShapeRange
from sardonyx.errors import SaveError

START_SECONDS = 120.0
"""Longest time for a module to be imported and its builder made: a cold CUDA driver takes seconds."""


@dataclass(frozen=True)
class BuildError:
    """Something that the parser or the builder said.

    Attributes:
        message: What it said.
        node: The ONNX node concerned, where it named one.
        operator: That node's operator.
        code: The parser's code, for instance UNSUPPORTED_NODE.
    """

    message: str
    node: str = ""
    operator: str = ""
    code: str = ""

    def __str__(self) -> str:
        """Returns the message with the node in front."""
        where = f"{self.node} ({self.operator}): " if self.node and self.operator else self.node and f"{self.node}: "
        return f"{where}{self.message}"


@dataclass(frozen=True)
class BuildResult:
    """What became of a build.

    Attributes:
        stage: How far it came.
        errors: What was wrong, in the order in which it was said.
        warnings: What the builder warned of.
        module: The Python module that built, such as `tensorrt_rtx`; empty where none was usable.
        version: Its version.
        skipped: Modules that were not usable, with the reason.
        layers: The layer table.
        engine_bytes: Bytes of the engine.
        weights_bytes: Bytes of its weights, as the builder states them.
        parse_seconds: Wall time of parsing.
        build_seconds: Wall time of building.
        peak_rss_bytes: Largest resident set size of the child process so far, in bytes.
    """

    stage: Stage
    errors: tuple[BuildError, ...] = ()
    warnings: tuple[str, ...] = ()
    module: str = ""
    version: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    engine_bytes: int = 0
    weights_bytes: int = 0
    parse_seconds: float = 0.0
    build_seconds: float = 0.0
    peak_rss_bytes: int = 0

    @property
    def done(self) -> bool:
        """Whether the engine was built."""
        return self.stage is Stage.DONE

    def why(self) -> str:
        """Returns the errors as one text."""
        return "; ".join(dict.fromkeys(str(error) for error in self.errors))


@dataclass(frozen=True)
class BuildJob:
    """One engine to build.

    Attributes:
        model: The ONNX file.
        settings: How to build it.
        engine: Where to write the engine; None to write none.
    """

    model: Path
    settings: BuildSettings = field(default_factory=BuildSettings)
    engine: Path | None = None


def build(
    onnx_path: str | os.PathLike[str],
    settings: BuildSettings | None = None,
    *,
    engine: Path | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> BuildResult:
    """Builds an engine in a child process.

    Args:
        onnx_path: The model; external data lies beside it.
        settings: How to build; None for the defaults.
        engine: Where to write the engine, replaced only by a whole one; None to write none.
        progress: Told about the builder's phases.
        cancel: Stops the build when set. An exception, Ctrl-C included, stops it too.

    Returns:
        What became of it; failures of the model or the builder are results, no exceptions.

    Raises:
        SaveError: If the engine cannot be written.
    """
    job = BuildJob(Path(onnx_path), settings or BuildSettings(), engine)
    return build_all([job], progress=progress, cancel=cancel)[0]


def build_all(
    jobs: Sequence[BuildJob], *, progress: Progress | None = None, cancel: threading.Event | None = None
) -> tuple[BuildResult, ...]:
    """Builds several engines one after the other in one child process; where it dies, a new one goes on.

    A build for compute capability 7.5 is followed by a new child, too: once tensorrt-rtx 1.7 has refused one, the next
    build in the same process runs in float what it ran in INT8, for whatever target.

    Raises:
        SaveError: If an engine cannot be written.
    """
    results = []
    child: Child | None = None
    try:
        for job in jobs:
            child = child if child is not None and child.alive else Child()
            with _staged(job.engine) as staged:
                watch = Watch(job.settings.timeout_seconds, progress, cancel)
                result = _result(child.ask(_message(job, staged), watch), child)
                if staged is not None and result.done:
                    os.replace(staged, job.engine or staged)
            results.append(result)
            if ALONE in job.settings.compute_capabilities:  # what a refused build leaves behind costs the next its INT8
                child.stop()
                child = None
    finally:
        if child is not None:
            child.stop()
    return tuple(results)


def find_builders(modules: Sequence[str] = worker.MODULES) -> dict[str, BuildResult]:
    """Tries each module's builder in a child process, without a model.

    Returns:
        By module, a result with its version, or with the reason for which it is not usable here.
    """
    probes = {}
    for module in modules:
        child = Child()
        try:
            job = {"work": "probe", "modules": [module]}
            probes[module] = _result(child.ask(job, Watch(START_SECONDS)), child)
        finally:
            child.stop()
    return probes


def _message(job: BuildJob, staged: Path | None) -> dict[str, Any]:
    settings = job.settings
    return {
        "work": "build",
        "modules": settings.modules,
        "model": str(job.model),
        "engine": None if staged is None else str(staged),
        "compute_capabilities": [TARGETS[each] for each in settings.compute_capabilities],
        "profile": {each.name: _dims(each) for each in settings.profile},
        "workspace": settings.workspace_bytes,
        "timing_cache": None if settings.timing_cache is None else str(settings.timing_cache),
    }


def _dims(shapes: ShapeRange) -> list[list[int]]:
    return [list(shapes.least), list(shapes.best), list(shapes.most)]


@contextmanager
def _staged(engine: Path | None) -> Iterator[Path | None]:
    """Yields a file beside the engine to write it to; what is left of it in the end is removed."""
    if engine is None:
        yield None
        return
    try:
        with tempfile.TemporaryDirectory(dir=engine.parent, prefix=f".{engine.name}.", suffix=".tmp") as folder:
            yield Path(folder) / engine.name
    except OSError as error:
        raise SaveError(
            f"{engine} cannot be written: {error.strerror or error}.",
            remedy="Choose a folder that you may write to, on a disk with free space.",
        ) from error


def _result(answer: dict[str, Any], child: Child) -> BuildResult:
    return BuildResult(
        stage=Stage(answer["stage"]),
        errors=tuple(BuildError(**error) for error in answer.get("errors", ())),
        warnings=tuple(dict.fromkeys(answer.get("warnings", ()))),
        module=answer.get("module", ""),
        version=answer.get("version", ""),
        skipped=answer.get("skipped", {}),
        layers=parse_layers(answer.get("layers", "")),
        engine_bytes=answer.get("nbytes", 0),
        weights_bytes=answer.get("weights", 0),
        parse_seconds=answer.get("parse_seconds", 0.0),
        build_seconds=answer.get("build_seconds", 0.0),
        peak_rss_bytes=child.peak_rss_bytes,
    )
