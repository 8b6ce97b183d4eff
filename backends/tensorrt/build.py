"""Building engines in a child process, which may hang or die without harm."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sardonyx.backends.tensorrt import worker
from sardonyx.backends.tensorrt.layers import Layer, parse_layers
from sardonyx.backends.tensorrt.settings import ALONE, TARGETS, BuildSettings, ShapeRange
from sardonyx.errors import SaveError
from sardonyx.measure import peak_rss

Progress = Callable[[int, int | None, str], None]
"""Called as progress(done, total, what) while the builder works."""

START_SECONDS = 120.0
"""Longest time for a module to be imported and its builder made: a cold CUDA driver takes seconds."""

_POLL_SECONDS = 0.2
_LAST_WORDS = 400
"""Characters of the child's standard error that are quoted when it died."""


class Stage(StrEnum):
    """How far a build came."""

    START = "start"
    """No builder is usable."""
    PARSE = "parse"
    """The parser refused the model."""
    PROFILE = "profile"
    """The shapes or the targets do not fit."""
    BUILD = "build"
    """The builder refused the network."""
    CRASH = "crash"
    """The child process died."""
    TIMEOUT = "timeout"
    """The builder took too long and was stopped."""
    CANCELLED = "cancelled"
    """The caller wanted it no longer."""
    DONE = "done"
    """The engine is built."""


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
    child: _Child | None = None
    try:
        for job in jobs:
            child = child if child is not None and child.alive else _Child()
            with _staged(job.engine) as staged:
                watch = _Watch(job.settings.timeout_seconds, progress, cancel)
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
        child = _Child()
        try:
            job = {"modules": [module], "model": None}
            probes[module] = _result(child.ask(job, _Watch(START_SECONDS, None, None)), child)
        finally:
            child.stop()
    return probes


def _message(job: BuildJob, staged: Path | None) -> dict[str, Any]:
    settings = job.settings
    return {
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


def _result(answer: dict[str, Any], child: "_Child") -> BuildResult:
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


@dataclass(frozen=True)
class _Watch:
    """How long to wait for a child, and whom to tell."""

    seconds: float
    progress: Progress | None
    cancel: threading.Event | None

    def stop_reason(self, started: float) -> tuple[Stage, str] | None:
        """Why to wait no longer, if so."""
        if self.cancel is not None and self.cancel.is_set():
            return Stage.CANCELLED, "The build was cancelled."
        if time.monotonic() - started > self.seconds:
            return Stage.TIMEOUT, f"The builder did not finish within {self.seconds:g} s and was stopped."
        return None


class _Child:
    """A running worker."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            start_new_session=True,  # a Ctrl-C in the terminal reaches the parent alone, which then stops the child
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.peak_rss_bytes = 0

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def ask(self, job: dict[str, Any], watch: _Watch) -> dict[str, Any]:
        """Gives it a job and returns its answer; a child that dies, hangs or is cancelled has one too."""
        started = time.monotonic()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except OSError:  # it died before it read the job
            return _failed(Stage.CRASH, self._last_words())
        while True:
            reason = watch.stop_reason(started)
            if reason is not None:
                self.stop()
                return _failed(*reason)
            try:
                line = self._lines.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if line is None:
                return _failed(Stage.CRASH, self._last_words())
            message = json.loads(line)
            if "result" in message:
                self.peak_rss_bytes = peak_rss(self._process.pid)
                answer: dict[str, Any] = message["result"]
                return answer
            if watch.progress is not None:
                done, total, what = message["progress"]
                watch.progress(done, total or None, f"tensorrt: {what}")

    def stop(self) -> None:
        """Ends it, whatever it is doing, and waits until it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._errors.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # a job that it did not read any more
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        """How it died: by which signal or with which exit code, and what it printed last."""
        code = self._process.wait()
        how = f"with exit code {code}"
        if code < 0:
            how = f"with {signal.Signals(-code).name}"
        self._errors.seek(0)
        said = " ".join(self._errors.read().decode("utf-8", "replace").split())
        return f"The builder died {how}." + (f" Its last words: {said[-_LAST_WORDS:]}" if said else "")


def _failed(stage: Stage, message: str) -> dict[str, Any]:
    return {"stage": stage, "errors": [{"message": message}]}
