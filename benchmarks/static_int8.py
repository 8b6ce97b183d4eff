"""Compares `sardonyx compile` with onnxruntime.quantization.quantize_static on labelled models, in one process.

    python benchmarks/static_int8.py ZOO [NAME ...]

ZOO is a folder of models, each `NAME/model.onnx` with `NAME/eval.py` that defines `calib()` (feeds) and `evaluate(run)`
(a metric, higher is better). Both tools get the same calibration samples. ONNX Runtime's quantizer is used as an
expert would: the model raised to opset 17, preprocessed, per-channel weights, UINT8 activations and INT8 weights, all
operators.
Latencies come from interleaved runs on one thread; ratios are medians against the original.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static, shape_inference

from sardonyx.driver import CompileJob, run_compile
from sardonyx.measure import Session, paired_latency

SECONDS = 4.0
OPSET = 17


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def load_task(folder: Path) -> ModuleType:
    """Imports the `eval.py` of a model's folder."""
    spec = importlib.util.spec_from_file_location(f"task_{folder.name}", folder / "eval.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{folder / 'eval.py'} is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def compare(folder: Path, scratch: Path) -> dict[str, Any]:
    """Compiles one model with both tools and measures both against the original."""
    task, source = load_task(folder), folder / "model.onnx"
    feeds = task.calib()
    ours = run_compile(CompileJob(str(source), data=feeds, output=scratch / "sardonyx"))
    models = {"sardonyx": ours.path, "onnxruntime": quantize_with_onnxruntime(source, feeds, scratch)}
    with Session(source) as original:
        reference = task.evaluate(original.run)
        row: dict[str, Any] = {"model": folder.name, "fp32": reference, "chosen": ours.record.chosen}
        for name, path in models.items():
            assert path is not None
            with Session(path) as session:
                value = task.evaluate(session.run)
                timing = paired_latency(original, session, feeds[0], seconds=SECONDS)
            row[name] = {
                "drop": (reference - value) / abs(reference),
                "speedup": round(timing.ratio, 3),
                "interval": [round(timing.low, 3), round(timing.high, 3)],
                "mb": round(path.stat().st_size / 1e6, 2),
            }
    row["share_of_peer_speedup"] = round(row["sardonyx"]["speedup"] / row["onnxruntime"]["speedup"], 3)
    return row


def main() -> None:
    """Prints one JSON object a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    zoo: Path = arguments.zoo.resolve()
    sys.path.insert(0, str(zoo))
    names = arguments.names or sorted(p.parent.name for p in zoo.glob("*/model.onnx"))
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(compare(zoo / name, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
