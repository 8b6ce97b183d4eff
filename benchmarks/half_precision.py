"""Compares FP16 conversions on a folder of models.

    pip install onnxconverter-common
    python -m benchmarks.half_precision FOLDER [NAME ...]

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py` with `calib()` (feeds). Per tool and model: whether the result
loads in ONNX Runtime and its outputs are finite, Casts and tensor bytes afterwards, seconds, the signal-to-noise ratio
of the worst output against FP32 on feeds that were not calibrated with, and the median ratio of paired latencies.

ONNX Runtime's CPU provider computes in FP32 and drops Casts between its own operators, and with them the overflow
that a device with 16-bit kernels shows. So `overflows` counts the FLOAT16 values of the result that reach beyond 65504
in the original, on the calibration feeds; masks (beyond 1e30) do not count.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks.tasks import load_eval
from sardonyx import ir
from sardonyx.measure import ErrorAccumulator, Feed, Session, load_samples, paired_latency
from sardonyx.passes.base import PassContext
from sardonyx.passes.quantization.calibration import calibrate
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

CALIBRATION, JUDGED, SECONDS = 8, 8, 2.0
LARGEST, MASK = 65504.0, 1e30


@dataclass(frozen=True)
class Job:
    """One model: where it is, where to write, and the feeds to calibrate with."""

    source: Path
    written: Path
    feeds: Sequence[Feed]


def _sardonyx(job: Job, pipeline: str, *, measured: bool) -> None:
    context = PassContext(samples=load_samples(list(job.feeds)) if measured else None)
    passes = parse_pipeline(pipeline, available_passes())
    result = PassManager(passes, context=context).run(ir.load(job.source).model)
    ir.save(result.model, job.written)


def with_sardonyx(job: Job) -> None:
    """The pass alone, with samples."""
    _sardonyx(job, "convert-float", measured=True)


def with_sardonyx_unmeasured(job: Job) -> None:
    """The pass alone, without samples."""
    _sardonyx(job, "convert-float", measured=False)


def with_sardonyx_after_exact_passes(job: Job) -> None:
    """The exact passes first, so that normalizations are one operator."""
    _sardonyx(job, f"{Recipe().optimize}, convert-float", measured=True)


def with_onnxconverter_common(job: Job) -> None:
    """onnxconverter_common.float16."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(job.source), keep_io_types=True), job.written)


def with_onnxruntime_transformers(job: Job) -> None:
    """onnxruntime.transformers.float16."""
    from onnxruntime.transformers import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(job.source), keep_io_types=True), job.written)


TOOLS: dict[str, Callable[[Job], None]] = {
    "sardonyx": with_sardonyx,
    "sardonyx, no samples": with_sardonyx_unmeasured,
    "sardonyx, exact passes first": with_sardonyx_after_exact_passes,
    "onnxconverter-common": with_onnxconverter_common,
    "onnxruntime.transformers": with_onnxruntime_transformers,
}


def feeds_of(folder: Path) -> list[Feed]:
    """The first feeds of a model's `eval.py`."""
    return list(load_eval(folder).calib()[: CALIBRATION + JUDGED])


def large_values(source: Path, feeds: Sequence[Feed]) -> set[str]:
    """Names of the values of the original that reach beyond FP16 on some feed, masks apart."""
    model = ir.load(source).model
    ir.infer_shapes(model)
    names = [v.name for node in model.graph for v in node.outputs if v.name and v.dtype == ir.DataType.FLOAT]
    context = PassContext(samples=load_samples(list(feeds)))
    observers = calibrate(model, names, ["finite-minmax"], context).observers
    seen = {name: observer.range() for name, kinds in observers.items() for observer in kinds.values()}
    return {name for name, span in seen.items() if LARGEST < max(-span.low, span.high) < MASK}


def named(model: ir.Model, names: set[str]) -> Iterator[ir.Value]:
    """The values of a model's main graph that have one of the names."""
    yield from (value for node in model.graph for value in node.outputs if value.name in names)


def measure(tool: Callable[[Job], None], source: Path, feeds: Sequence[Feed], large: set[str]) -> dict[str, Any]:
    """Runs one tool on one model and measures the result; `large` are the original's values beyond FP16."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(source, Path(folder) / "model.onnx", feeds[:CALIBRATION])
        start = time.perf_counter()
        tool(job)
        seconds = time.perf_counter() - start
        model = ir.load(job.written).model
        ir.infer_shapes(model)
        row: dict[str, Any] = {
            "casts": ir.operator_counts(model).get("Cast", 0),
            "mb": round(ir.nbytes(model) / 1e6, 2),
            "seconds": round(seconds, 2),
            "overflows": sum(value.dtype == ir.DataType.FLOAT16 for value in named(model, large)),
        }
        with Session(source) as original, Session(job.written) as converted:
            errors = ErrorAccumulator([output.name for output in original.outputs])
            for feed in feeds[CALIBRATION:] or feeds:
                errors.update(original.run(feed), converted.run(feed))
            timing = paired_latency(original, converted, feeds[0], seconds=SECONDS)
        worst = errors.result()
        row |= {
            "finite": all(error.finite for error in worst),
            "sqnr_db": min(round(min(error.sqnr_db, 999.0), 1) for error in worst),
            "speedup": round(timing.ratio, 2),
        }
        return row


def main() -> None:
    """Prints one JSON object a model and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    warnings.simplefilter("ignore")  # the peers warn of each constant that they truncate
    for name in arguments.names or sorted(p.parent.name for p in folder.glob("*/model.onnx")):
        source = folder / name / "model.onnx"
        feeds = feeds_of(folder / name)
        model = ir.load(source).model
        large = large_values(source, feeds[:CALIBRATION])
        original = {"casts": ir.operator_counts(model).get("Cast", 0), "mb": round(ir.nbytes(model) / 1e6, 2)}
        print(json.dumps({"model": name, "tool": "original"} | original), flush=True)
        for tool, function in TOOLS.items():
            try:
                row = measure(function, source, feeds, large)
            except Exception as error:  # a tool that fails is a result of this benchmark
                row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"}
            print(json.dumps({"model": name, "tool": tool} | row), flush=True)


if __name__ == "__main__":
    main()
