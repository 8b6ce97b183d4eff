"""Compares `sardonyx compile` with onnxruntime.quantization.quantize_static on labelled models, in one process.

    python -m benchmarks.static_int8                     the models that come with Sardonyx
    python -m benchmarks.static_int8 FOLDER [NAME ...]   models of one's own

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py`, which defines `calib()` (feeds) and `evaluate(run)` (a metric,
higher is better). Both tools get the same calibration samples. ONNX Runtime's quantizer is used as an expert would: the
model raised to opset 17, preprocessed, per-channel weights, UINT8 activations and INT8 weights, all operators.
Latencies come from interleaved runs on one thread; ratios are medians against the original.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static, shape_inference

from benchmarks.tasks import load_eval
from sardonyx import models
from sardonyx.driver import CompileJob, run_compile
from sardonyx.measure import Metric, Session, paired_latency

SECONDS = 4.0
OPSET = 17


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


@dataclass(frozen=True)
class Task:
    """A model with what it is calibrated and judged with."""

    name: str
    path: Path
    feeds: list[dict[str, Any]]
    evaluate: Metric


def shipped_tasks() -> Iterator[Task]:
    """The models that come with Sardonyx."""
    for name in models.names():
        if name.startswith("digits_"):
            entry = models.load(name)
            assert entry.metric is not None
            yield Task(name, entry.path, list(entry.samples), entry.metric)


def folder_tasks(folder: Path, names: list[str]) -> Iterator[Task]:
    """The models of a folder, all or the named ones."""
    for name in names or sorted(p.parent.name for p in folder.glob("*/model.onnx")):
        module = load_eval(folder / name)
        yield Task(name, folder / name / "model.onnx", module.calib(), module.evaluate)


def quantize_with_onnxruntime(source: Path, feeds: list[dict[str, Any]], scratch: Path) -> Path:
    """Runs ONNX Runtime's static quantizer and returns the written model."""
    model = onnx.load(source)
    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < OPSET:
        model = onnx.version_converter.convert_version(model, OPSET)
    raised, prepared, written = (scratch / f"{name}.onnx" for name in ("raised", "prepared", "ort"))
    onnx.save(model, raised)
    shape_inference.quant_pre_process(str(raised), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(written),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return written


def compare(task: Task, scratch: Path) -> dict[str, Any]:
    """Compiles one model with both tools and measures both against the original."""
    ours = run_compile(CompileJob(str(task.path), data=task.feeds, output=scratch / "sardonyx"))
    written = {"sardonyx": ours.path, "onnxruntime": quantize_with_onnxruntime(task.path, task.feeds, scratch)}
    with Session(task.path) as original:
        reference = task.evaluate(original.run)
        row: dict[str, Any] = {"model": task.name, "fp32": reference, "chosen": ours.record.chosen}
        for name, path in written.items():
            assert path is not None
            with Session(path) as session:
                value = task.evaluate(session.run)
                timing = paired_latency(original, session, task.feeds[0], seconds=SECONDS)
            row[name] = {
                "drop": round((reference - value) / abs(reference), 5),
                "speedup": round(timing.ratio, 3),
                "interval": [round(timing.low, 3), round(timing.high, 3)],
                "mb": round(path.stat().st_size / 1e6, 2),
            }
    row["share_of_peer_speedup"] = round(row["sardonyx"]["speedup"] / row["onnxruntime"]["speedup"], 3)
    return row


def main() -> None:
    """Prints one JSON object a model."""
    logging.getLogger().setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    folder: Path | None = arguments.folder
    for task in shipped_tasks() if folder is None else folder_tasks(folder.resolve(), arguments.names):
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(compare(task, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
