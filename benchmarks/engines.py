"""Compiles labelled models to TensorRT engines: what runs as INT8, how large, how long, and what it costs.

    python -m benchmarks.engines                     the models that come with Sardonyx
    python -m benchmarks.engines FOLDER [NAME ...]   models of one's own
    python -m benchmarks.engines --resnet50          a ResNet-50 with random weights

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py`, which defines `calib()` (feeds) and `evaluate(run)` (a metric,
higher is better). Each model is compiled with agreement on the calibration samples as the metric, or with `--metric`
by `evaluate`, then rated by `evaluate`: the legalized Q/DQ graph under ONNX Runtime against the original. The FP32
engine it is compared with is built from the same model by the exact passes alone. What an engine holds besides its
weights is `kernels_mb`; `sources` counts the kernels that it carries as CUDA source, each with the same 130 kB of
declarations, so that engines are compared compressed (zlib), too: `packed_mb`. Nothing is timed on a GPU; seconds and
memory are the builder's.
"""

import argparse
import json
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.resnet import resnet50_task
from benchmarks.static_int8 import Task, folder_tasks, shipped_tasks
from sardonyx.backends import EngineReport
from sardonyx.backends.tensorrt import TensorRTBackend
from sardonyx.backends.tensorrt.artefacts import MODEL_NAME
from sardonyx.driver import CompileJob, CompileResult, run_compile
from sardonyx.errors import SardonyxError
from sardonyx.measure import Session
from sardonyx.pipeline import Recipe

SOURCE = b"__global__"
"""What each kernel that an engine carries as CUDA source has once."""


@dataclass(frozen=True)
class Setting:
    """How models are compiled.

    Attributes:
        targets: Compute capabilities to build for.
        by_metric: Whether candidates are judged by the task's metric; otherwise by agreement with the original.
    """

    targets: tuple[str, ...]
    by_metric: bool


def compile_to(task: Task, folder: Path, setting: Setting, quantize: str) -> CompileResult:
    """Compiles a model with the default recipe for the target, or with the exact passes alone."""
    recipe = Recipe(target=TensorRTBackend.name, quantize=quantize, target_options={"sm": setting.targets})
    metric = task.evaluate if setting.by_metric else None
    return run_compile(CompileJob(str(task.path), data=task.feeds, metric=metric, recipe=recipe, output=folder))


def row(task: Task, scratch: Path, setting: Setting) -> dict[str, Any]:
    """Measures one model."""
    try:
        result = compile_to(task, scratch / "int8", setting, "auto")
        plain = compile_to(task, scratch / "fp32", setting, "").record.engine
    except SardonyxError as error:
        return {"model": task.name, "refused": str(error)}
    engine = result.record.engine
    assert engine is not None
    assert plain is not None
    with Session(task.path) as original, TensorRTBackend().load(scratch / "int8" / MODEL_NAME) as legalized:
        reference, value = task.evaluate(original.run), task.evaluate(legalized.run)
    return {
        "model": task.name,
        "chosen": result.record.chosen,
        "fp32": round(reference, 4),
        "engine": round(value, 4),
        "drop": round((reference - value) / abs(reference), 5),
        **_engine_facts(engine, plain),
        **_packed_facts(*(scratch / name / report.file for name, report in (("int8", engine), ("fp32", plain)))),
    }


def _engine_facts(engine: EngineReport, plain: EngineReport) -> dict[str, Any]:
    if engine.proof is None:
        return {"stage": engine.stage, "problems": engine.problems[:1]}
    return {
        "int8": f"{engine.proof.integer}/{engine.proof.planned}",
        "nodes": engine.proof.nodes,
        "mb": round(engine.nbytes / 1e6, 2),
        "of_fp32": round(engine.nbytes / plain.nbytes, 3) if plain.nbytes else plain.problems[:1],
        "kernels_mb": round((engine.nbytes - engine.weights_bytes) / 1e6, 2),
        "weights_of_fp32": round(engine.weights_bytes / plain.weights_bytes, 3) if plain.weights_bytes else None,
        "seconds": round(engine.seconds, 2),
        "peak_rss_mb": round(engine.peak_rss_bytes / 1e6),
    }


def _packed_facts(engine: Path, plain: Path) -> dict[str, Any]:
    if not (engine.is_file() and plain.is_file()):
        return {}
    plans = [path.read_bytes() for path in (engine, plain)]
    packed, packed_plain = (len(zlib.compress(plan)) for plan in plans)
    return {
        "sources": [plan.count(SOURCE) for plan in plans],
        "packed_mb": round(packed / 1e6, 2),
        "packed_of_fp32": round(packed / packed_plain, 3),
    }


def main() -> None:
    """Prints one JSON object a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--sm", default="8.6", help="compute capabilities, separated by commas")
    parser.add_argument("--metric", action="store_true", help="judge by the metric instead of by agreement")
    parser.add_argument(
        "--resnet50", action="store_true", help="measure a ResNet-50 with random weights, by its metric"
    )
    arguments = parser.parse_args()
    setting = Setting(tuple(arguments.sm.split(",")), by_metric=arguments.metric or arguments.resnet50)
    with tempfile.TemporaryDirectory() as shared:
        for task in _tasks(arguments, Path(shared)):
            with tempfile.TemporaryDirectory() as scratch:
                print(json.dumps(row(task, Path(scratch), setting)), flush=True)


def _tasks(arguments: argparse.Namespace, scratch: Path) -> Iterable[Task]:
    if arguments.resnet50:
        return [resnet50_task(scratch)]
    folder: Path | None = arguments.folder
    return shipped_tasks() if folder is None else folder_tasks(folder.resolve(), arguments.names)


if __name__ == "__main__":
    main()
