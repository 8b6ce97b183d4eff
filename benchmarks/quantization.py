"""Which accuracy method helps which model, beside other quantizers, in one process.

    python -m benchmarks.quantization FOLDER [NAME ...] [--only TEXT] [--minutes 30] [--results results.jsonl]

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py` with `calib()` (feeds) and `evaluate(run)` (higher is better).
Every tool gets the same feeds. Per model and variant a JSON line goes to the results file and is not measured again
when the benchmark is run anew: the metric, its relative loss, the median ratio of paired latencies against the original
on one thread with its 95 % interval, the share of multiply-accumulates of Conv, MatMul and Gemm whose operands are
integers, and the seconds that quantizing took. The markdown table at the end is made of all lines.

ONNX Runtime's quantizers are used as an expert would: opset raised, preprocessed, per-channel weights; the dynamic one
on matrix products, since its convolutions are far slower than those in float. NNCF and ModelOpt take part where they
are installed: `pip install nncf "nvidia-modelopt[onnx]"`.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from benchmarks.static_int8 import Task, folder_tasks, quantize_with_onnxruntime
from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.measure import Session, describe_machine, load_samples, paired_latency
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, parse_pipeline

SECONDS = 4.0
MOST_FEEDS = 64

OURS: Mapping[str, str] = {
    "sardonyx: default": Recipe().quantize,
    "plain, percentile": "quantize-static{methods=[]}",
    "plain, minmax": 'quantize-static{calibrator="minmax",methods=[]}',
    "equalize": "equalize, quantize-static{methods=[]}",
    "smooth-quant": "smooth-quant, quantize-static{methods=[]}",
    **{
        name: f'quantize-static{{methods=["{name}"]}}'
        for name in (
            "response-ranges",
            "mse-ranges",
            "mse-weights",
            "output-mse-weights",
            "bias-correction",
            "gptq",
            "adaround",
        )
    },
    "all": 'equalize, smooth-quant, quantize-static{methods=["response-ranges","output-mse-weights","gptq",'
    '"bias-correction"]}',
}
"""Pipelines by name of the variant."""

Quantizer = Callable[[Task, Path], Path]


def with_sardonyx(pipeline: str) -> Quantizer:
    """Returns what optimizes and then runs a pipeline."""

    def quantize(task: Task, scratch: Path) -> Path:
        recipe = Recipe()
        known = available_passes()
        model = ir.load(str(task.path), opset=recipe.opset).model
        model = PassManager(parse_pipeline(recipe.optimize, known)).run(model).model
        capabilities = backend(recipe.target).capabilities(describe_machine())
        context = PassContext(capabilities, load_samples(task.feeds))
        result = PassManager(parse_pipeline(pipeline, known), context=context).run(model)
        undone = [record for record in result.records if record.status is Status.UNDONE]
        if undone:
            raise SystemExit(f"{undone[0].name} was undone: {undone[0].reason}")
        ir.save(result.model, scratch / "ours.onnx")
        return scratch / "ours.onnx"

    return quantize


def with_onnxruntime_dynamic(task: Task, scratch: Path) -> Path:
    """onnxruntime.quantization.quantize_dynamic."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = scratch / "dynamic.onnx"
    quantize_dynamic(
        str(task.path), str(written), ["MatMul", "Gemm", "LSTM"], per_channel=True, weight_type=QuantType.QInt8
    )
    return written


def with_nncf(task: Task, scratch: Path) -> Path:
    """nncf.quantize, with its defaults."""
    import nncf

    model = onnx.version_converter.convert_version(onnx.load(task.path), 17)
    quantized = nncf.quantize(model, nncf.Dataset(task.feeds), subset_size=len(task.feeds))
    onnx.save(quantized, scratch / "nncf.onnx")
    return scratch / "nncf.onnx"


def with_modelopt(task: Task, scratch: Path) -> Path:
    """modelopt.onnx.quantization.quantize, with its defaults."""
    import numpy as np
    from modelopt.onnx.quantization import quantize

    stacked = {name: np.concatenate([feed[name] for feed in task.feeds]) for name in task.feeds[0]}
    written = scratch / "modelopt.onnx"
    quantize(str(task.path), calibration_data=stacked, output_path=str(written), high_precision_dtype="fp32")
    return written


def variants() -> Iterator[tuple[str, Quantizer]]:
    """Every variant that can be run here."""
    yield from ((name, with_sardonyx(pipeline)) for name, pipeline in OURS.items())
    yield "onnxruntime static", lambda task, scratch: quantize_with_onnxruntime(task.path, task.feeds, scratch)
    yield "onnxruntime dynamic", with_onnxruntime_dynamic
    if importlib.util.find_spec("nncf"):
        yield "nncf", with_nncf
    if importlib.util.find_spec("modelopt"):
        yield "modelopt", with_modelopt


def integer_share(path: Path) -> float:
    """Share of a quantized model's multiply-accumulates whose operands are integers."""
    model = ir.load(str(path)).model
    ir.ensure_shapes(model)
    total = integer = 0
    for graph in ir.all_graphs(model):
        for node in graph:
            macs = ir.node_macs(node) or 0
            total += macs
            integer += macs if _on_integers(node) else 0
    return integer / total if total else 0.0


def _on_integers(node: ir.Node) -> bool:
    if node.op_type.endswith("Integer"):
        return True
    producers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def measure(task: Task, quantizer: Quantizer, original: Session, reference: float) -> dict[str, Any]:
    """Quantizes a model and measures the result; a tool that fails is a result, too."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        try:
            path = quantizer(task, Path(scratch))
            seconds = time.monotonic() - start
            with Session(path) as session:
                value = float(task.evaluate(session.run))
                timing = paired_latency(original, session, task.feeds[0], seconds=SECONDS)
        except Exception as error:  # whatever the tools of others raise is what they did to this model
            return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
        return {
            "metric": round(value, 5),
            "drop": round((reference - value) / abs(reference), 5),
            "speedup": round(timing.ratio, 3),
            "interval": [round(timing.low, 3), round(timing.high, 3)],
            "int8_macs": round(integer_share(path), 4),
            "seconds": round(seconds, 1),
        }


def run(tasks: Iterator[Task], only: str, results: Path, deadline: float) -> None:
    """Measures what the results file does not have yet, until the deadline."""
    for task in tasks:
        task = Task(task.name, task.path, task.feeds[:MOST_FEEDS], task.evaluate)
        done = {(row["model"], row["variant"]) for row in read(results)}
        todo = [(name, each) for name, each in variants() if only in name and (task.name, name) not in done]
        if not todo:
            continue
        with Session(task.path) as original:
            reference = float(task.evaluate(original.run))
            for name, quantizer in todo:
                if time.monotonic() > deadline:
                    return
                row = {"model": task.name, "variant": name, "fp32": round(reference, 5)}
                row |= measure(task, quantizer, original, reference)
                with results.open("a", encoding="utf-8") as file:
                    print(json.dumps(row), file=file)
                print(json.dumps(row), flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """The rows measured so far."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict[str, Any]]) -> str:
    """Loss, speed-up and share of integer multiply-accumulates as a markdown table."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["variant"]): row for row in rows}
    lines = ["| variant | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        shown = [_cell(cells.get((model, variant))) for model in models]
        lines.append(f"| {variant} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "failed" in row:
        return "failed"
    return f"{row['drop']:.2%}, {row['speedup']:.2f}x, {row['int8_macs']:.0%}"


def main() -> None:
    """Measures, and prints the table of everything measured so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--only", default="", help="variants whose name contains this text")
    parser.add_argument("--minutes", type=float, default=30.0, help="no variant is begun after so long")
    parser.add_argument("--results", type=Path, default=Path("quantization.jsonl"))
    arguments = parser.parse_args()
    tasks = folder_tasks(arguments.folder.resolve(), arguments.names)
    run(tasks, arguments.only, arguments.results, time.monotonic() + 60 * arguments.minutes)
    print(table(read(arguments.results)))


if __name__ == "__main__":
    main()
