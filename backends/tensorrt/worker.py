"""The child process that runs TensorRT: one job a line on standard input, one message a line on standard output.

TensorRT's parser and builder can die by a signal on models that the ONNX checker accepts, so they never run in the
caller's process. This file is run by its path and imports nothing of the package, so that a child starts in a tenth
of a second. Standard error takes everything that native code prints. The process ends when standard input does, also
where the parent was killed.
"""

import importlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = ("tensorrt", "tensorrt_rtx")
"""Builders in order of preference: the full one, which needs a GPU, and the one that builds ahead of time."""

NOISE = ("catchCudaError", "cudaError 35", "CUDA initialization failure", "has Int64 binding")
"""Every message about wrong usage is followed by one about the missing driver, which is no cause of anything; and that
an INT64 input of the model is INT64 surprises nobody."""

MALFORMED_ENGINE = 32
"""The bit of `Runtime.get_engine_validity` that says that a plan cannot be read at all."""

_PROGRESS_SECONDS = 0.05
"""Shortest time between two messages of progress."""

Send = Callable[[Mapping[str, Any]], None]


class _JobError(Exception):
    """A job that failed at a stage, with what the builder said about it."""

    def __init__(self, stage: str, errors: list[dict[str, str]]) -> None:
        super().__init__(stage)
        self.stage = stage
        self.errors = errors


def main() -> None:
    """Answers jobs until standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)  # native code prints to standard output too

        def send(message: Mapping[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(jobs,), daemon=True).start()
        while True:
            send({"result": _answer(json.loads(jobs.get()), send)})


def _read(jobs: "queue.SimpleQueue[str]") -> None:
    """Passes jobs on; the end of the input ends the process at once, in the midst of a build too."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)


def _answer(job: dict[str, Any], send: Send) -> dict[str, Any]:
    answer: dict[str, Any] = {"module": "", "version": "", "skipped": {}, "warnings": []}
    try:
        task = _Task(*_open(job["modules"], answer), job, send)
        WORK[job["work"]](task, answer)
        answer["stage"] = "done"
    except _JobError as failure:
        answer |= {"stage": failure.stage, "errors": failure.errors}
    return answer


def _open(modules: list[str], answer: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Imports the first module that has a working builder."""
    for name in modules:
        try:
            trt = importlib.import_module(name)
            logger = _logger(trt)
            builder = trt.Builder(logger)
        except (ImportError, OSError, AttributeError, TypeError, RuntimeError) as error:
            # without a driver the full builder's factory returns nothing, which pybind11 reports as a TypeError
            answer["skipped"][name] = _one_line(error)
            continue
        answer |= {"module": name, "version": str(trt.__version__)}
        return trt, logger, builder
    errors = [_error(f"{name}: {reason}") for name, reason in answer["skipped"].items()]
    raise _JobError("start", errors)


@dataclass(frozen=True)
class _Task:
    """Everything that one build needs."""

    trt: Any
    logger: Any
    builder: Any
    job: dict[str, Any]
    send: Send


def _build(task: _Task, answer: dict[str, Any]) -> None:
    """Parses and builds a model; fills in the answer as far as it comes."""
    started = time.monotonic()
    network, parser = _parse(task)
    answer["parse_seconds"] = time.monotonic() - started
    config = task.builder.create_builder_config()
    cache = _configure(task, config)
    _add_profile(task, network, config)
    started = time.monotonic()
    task.logger.forget()
    plan = task.builder.build_serialized_network(network, config)
    answer["build_seconds"] = time.monotonic() - started
    answer |= {"warnings": task.logger.warnings, "layers": task.logger.layers, "weights": task.logger.weights}
    if plan is None:
        raise _JobError("build", task.logger.errors or [_error("The builder returned nothing and did not say why.")])
    _check_plan(task, plan)
    answer["nbytes"] = plan.nbytes
    try:
        if task.job["engine"] is not None:
            with open(task.job["engine"], "xb") as file:
                file.write(plan)
        if cache is not None:
            _replace(task.job["timing_cache"], cache.serialize())
    except OSError as error:
        raise _JobError("build", [_error(f"{error.filename} cannot be written: {error.strerror}.")]) from error
    del plan, config, cache, parser, network  # in this order: a network that outlives its builder crashes


def _replace(path: str, content: Any) -> None:
    """Writes a file beside and renames it into place: a process that is stopped meanwhile leaves the old one."""
    staged = Path(f"{path}.{os.getpid()}.tmp")
    try:
        staged.write_bytes(content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _parse(task: _Task) -> tuple[Any, Any]:
    """Returns the parsed network, and the parser, which must live as long."""
    trt = task.trt
    network = task.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise _JobError("parse", task.logger.errors or [_error("The builder made no strongly typed network.")])
    parser = trt.OnnxParser(network, task.logger)
    parsed = parser.parse_from_file(task.job["model"])
    errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
    if errors or not parsed:
        raise _JobError("parse", errors or task.logger.errors or [_error("The parser failed and did not say why.")])
    return network, parser


def _parser_error(error: Any) -> dict[str, str]:
    """Describes an error of the parser; texts that are not UTF-8 raise when they are read."""

    def text(read: Callable[[], Any]) -> str:
        try:
            return _one_line(read())
        except UnicodeDecodeError:
            return ""

    code = text(error.code).rpartition(".")[2]
    return {
        "message": text(error.desc),
        "code": code,
        "node": text(error.node_name),
        "operator": text(error.node_operator),
    }


def _configure(task: _Task, config: Any) -> Any:
    """Applies the settings; returns the timing cache, which must live as long as the build takes, or None."""
    trt, job = task.trt, task.job
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, task.send)
    if job["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace"])
    targets = job["compute_capabilities"]
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            member = getattr(trt.ComputeCapability, name, None)
            if member is None or not config.set_compute_capability(member, index):
                raise _JobError("profile", [_error(f"The builder has no target {name}.")])
    return _timing_cache(task, config) if job["timing_cache"] is not None and _is_full(trt) else None


def _timing_cache(task: _Task, config: Any) -> Any:
    """Attaches the timings of earlier builds; those of another GPU or version are refused rather than overwritten."""
    path = task.job["timing_cache"]
    try:
        known = Path(path).read_bytes() if Path(path).exists() else b""
    except OSError as error:
        raise _JobError("build", [_error(f"{path} cannot be read: {error.strerror}.")]) from error
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        text = f"{path} holds no timings of this GPU and this version of TensorRT: name another file."
        raise _JobError("build", [_error(text), *task.logger.errors])
    return cache


def _is_full(trt: Any) -> bool:
    """Whether a GPU is there on which tactics are timed; the ahead-of-time builder can crash with a timing cache."""
    return not hasattr(trt, "ComputeCapability")


def _add_profile(task: _Task, network: Any, config: Any) -> None:
    """Adds one optimization profile with the shapes of all dynamic inputs."""
    shapes: dict[str, list[list[int]]] = task.job["profile"]
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dynamic = {each.name: tuple(each.shape) for each in inputs if -1 in tuple(each.shape)}
    missing = [name for name in dynamic if name not in shapes]
    if missing:
        texts = (f"The input {name} is {_shape(dynamic[name])}, and no shapes are given for it." for name in missing)
        raise _JobError("profile", [_error(text) for text in texts])
    if not shapes:
        return
    task.logger.forget()
    profile = task.builder.create_optimization_profile()
    for name, (least, best, most) in shapes.items():
        profile.set_shape(name, least, best, most)
    if config.add_optimization_profile(profile) < 0 or task.logger.errors:
        raise _JobError("profile", task.logger.errors or [_error("The builder refused the profile.")])


def _shape(dims: tuple[int, ...]) -> str:
    return "x".join("?" if dim < 0 else str(dim) for dim in dims)


def _check_plan(task: _Task, plan: Any) -> None:
    """Asks the runtime whether a plan can be read, where it can tell without a GPU."""
    runtime = task.trt.Runtime(task.logger)
    validity = getattr(runtime, "get_engine_validity", None)
    if validity is None:
        return
    diagnostics = validity(plan)[1]
    if int(diagnostics) & MALFORMED_ENGINE:
        raise _JobError("build", [_error("The runtime cannot read the plan that the builder wrote.")])


def _inspect(task: _Task, answer: dict[str, Any]) -> None:
    """Loads an engine, which takes the GPU that it was built for, and asks its inspector for all its layers."""
    trt = task.trt
    runtime = trt.Runtime(task.logger)
    engine = runtime.deserialize_cuda_engine(Path(task.job["engine"]).read_bytes())
    if engine is None:
        raise _JobError("load", task.logger.errors)
    inspector = engine.create_engine_inspector()
    context = _best_context(engine)
    if context is not None:
        inspector.execution_context = context
    try:
        answer["information"] = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    except UnicodeDecodeError as error:
        raise _JobError("load", [_error(f"The names of its layers are not UTF-8: {error}.")]) from error
    del inspector, context, engine, runtime  # in this order: each belongs to the next


def _best_context(engine: Any) -> Any:
    """A context in which all inputs have the shapes that the engine is optimized for, or None where they cannot.

    Without one, an inspector does not know the formats of dynamic values.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    dynamic = [name for name in names if -1 in tuple(engine.get_tensor_shape(name))]
    context = engine.create_execution_context()
    if context is None or any(engine.is_shape_inference_io(name) for name in names):
        return None
    for name in dynamic:
        if str(engine.get_tensor_mode(name)).endswith("INPUT"):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    return context if context.all_binding_shapes_specified else None


def _probe(task: _Task, answer: dict[str, Any]) -> None:
    """Nothing more than to find a builder."""


WORK = {"probe": _probe, "build": _build, "inspect": _inspect}
"""What a job may ask for, by its name."""


def _logger(trt: Any) -> Any:
    """Makes the logger that keeps errors, warnings and the layer table."""
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
    warning = trt.ILogger.Severity.WARNING

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[dict[str, str]] = []
            self.warnings: list[str] = []
            self.layers = ""
            self.weights = 0

        def forget(self) -> None:
            """Forgets the errors so far: those that follow have another cause."""
            self.errors = []

        def log(self, severity: Any, message: str) -> None:
            if any(noise in message for noise in NOISE):
                return
            if severity in severe:
                self.errors.append(_error(message))
            elif severity == warning:
                self.warnings.append(_one_line(message))
            elif message.startswith("Layers:\n"):
                self.layers = message
            elif message.startswith("Total Weights Memory: "):
                self.weights = int(message.split()[3])

    return Logger()


def _monitor(trt: Any, send: Send) -> Any:
    """Makes the progress monitor that tells the parent about the phase that runs."""
    last = 0.0

    def tell(done: int, total: int, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_SECONDS:
            last = now
            send({"progress": [done, total, what]})

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            tell(0, num_steps, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(step + 1, self.steps.get(phase_name, 0), phase_name)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _error(message: str) -> dict[str, str]:
    return {"message": _one_line(message), "code": "", "node": "", "operator": ""}


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


if __name__ == "__main__":
    main()
