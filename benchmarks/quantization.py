"""Which accuracy method helps which model, beside other quantizers, in one process.

    python -m benchmarks.quantization FOLDER [NAME ...] [--only TEXT] [--minutes 30] [--results results.jsonl]

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py` with `calib()` (feeds) and `evaluate(run)` (higher is better).
Every tool gets the same feeds. Per model and variant a JSON line goes to the results file and is not measured again
when the benchmark is run anew: the metric, its relative loss, the signal-to-noise ratio of the outputs in dB (power of
the original's outputs over that of the error, on the data of the metric, which are not those of calibration), the
median ratio of paired latencies against the original on one thread with its 95 % interval, the share of multiply-
accumulates of Conv, MatMul and Gemm whose operands are integers (at the sizes of the first feed), the share of the
elements of weights (LSTM and GRU included) that are integers, and the seconds that quantizing took. The markdown table
at the end is made of all lines.

The default variants are the schemes that `sardonyx compile` tries on a model of that kind; the first is what
`sardonyx quantize` takes.

ONNX Runtime's quantizers are used as an expert would: opset raised, preprocessed, per-channel weights; the dynamic one
on matrix products, since its convolutions are far slower than those in float. NNCF and ModelOpt take part where they
are installed: `pip install nncf "nvidia-modelopt[onnx]"` (then `onnxruntime` again: `onnxruntime-gpu` overwrites it).
"""

import argparse
import importlib.util
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.static_int8 import OPSET, Task, folder_tasks, quantize_with_onnxruntime
from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.measure import Session, describe_machine, load_samples, paired_latency
from sardonyx.passes.base import PassContext
from sardonyx.pipeline import PassManager, Recipe, Status, available_passes, default_schemes, parse_pipeline

SECONDS = 4.0
MOST_FEEDS = 64

CALIBRATORS = ("minmax", "moving-average", "percentile", "entropy", "mse", "cosine", "joint")
METHODS = (
    *("response-ranges", "mse-ranges", "mse-weights", "output-mse-weights"),
    *("bias-correction", "sequential-bias-correction", "gptq", "adaround"),
)
OURS: Mapping[str, str] = {
    **{f"calibrator {name}": f'quantize-static{{calibrator="{name}",methods=[]}}' for name in CALIBRATORS},
    "equalize": "equalize, quantize-static{methods=[]}",
    "smooth-quant": "smooth-quant, quantize-static{methods=[]}",
    "split-outliers": "split-outliers, quantize-static{methods=[]}",
    "convolutional default without bias-correction": 'equalize, smooth-quant, quantize-static{methods=["mse-ranges"]}',
    "convolutional default with gptq": "equalize, smooth-quant, "
    'quantize-static{methods=["mse-ranges","gptq","bias-correction"]}',
    **{name: f'quantize-static{{methods=["{name}"]}}' for name in METHODS},
    "all methods": 'equalize, smooth-quant, quantize-static{methods=["response-ranges","output-mse-weights","gptq",'
    '"bias-correction"]}',
}
"""Pipelines by name of the variant."""
DEFAULT_SCHEMES = 3
"""Most schemes that any kind of model has by default."""

Feeds = list[dict[str, Any]]
Run = Callable[[Mapping[str, Any]], list[Any]]
Quantizer = Callable[[Path, Feeds, Path], Path]
"""Takes a model's file, samples and a scratch folder, and returns the file that it wrote."""


class NotForThisModel(Exception):  # noqa: N818 - not an error
    """A variant that says nothing about this model."""


def with_sardonyx(pipeline: Callable[[ir.Model], str]) -> Quantizer:
    """Returns what optimizes and then runs a pipeline, which may depend on the model."""

    def quantize(source: Path, feeds: Feeds, scratch: Path) -> Path:
        recipe = Recipe()
        known = available_passes()
        model = ir.load(str(source), opset=recipe.opset).model
        model = PassManager(parse_pipeline(recipe.optimize, known)).run(model).model
        capabilities = backend(recipe.target).capabilities(describe_machine())
        context = PassContext(capabilities, load_samples(feeds))
        result = PassManager(parse_pipeline(pipeline(model), known), context=context).run(model)
        undone = [record for record in result.records if record.status is Status.UNDONE]
        if undone:
            raise RuntimeError(f"{undone[0].name} was undone: {undone[0].reason}")
        ir.save(result.model, scratch / "ours.onnx")
        return scratch / "ours.onnx"

    return quantize


def default_scheme(index: int) -> Callable[[ir.Model], str]:
    """Returns what picks the index-th scheme that is tried by default on a model of that kind."""

    def pipeline(model: ir.Model) -> str:
        schemes = default_schemes(model, backend(Recipe().target).capabilities(describe_machine()), samples=True)
        if index >= len(schemes):
            raise NotForThisModel
        return schemes[index].pipeline

    return pipeline


def raised(source: Path, scratch: Path) -> Path:
    """Raises a model's opset as an expert would before other quantizers."""
    ir.save(ir.load(str(source), opset=OPSET).model, scratch / "raised.onnx", declare=False)
    return scratch / "raised.onnx"


def with_onnxruntime_static(source: Path, feeds: Feeds, scratch: Path) -> Path:
    """onnxruntime.quantization.quantize_static, all operators."""
    return quantize_with_onnxruntime(raised(source, scratch), feeds, scratch)


def with_onnxruntime_dynamic(source: Path, feeds: Feeds, scratch: Path) -> Path:
    """onnxruntime.quantization.quantize_dynamic."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = scratch / "dynamic.onnx"
    operators = ["MatMul", "Gemm", "LSTM"]
    quantize_dynamic(
        str(raised(source, scratch)), str(written), operators, per_channel=True, weight_type=QuantType.QInt8
    )
    return written


def with_nncf(source: Path, feeds: Feeds, scratch: Path) -> Path:
    """nncf.quantize, with its defaults."""
    import nncf
    import onnx

    quantized = nncf.quantize(onnx.load(raised(source, scratch)), nncf.Dataset(feeds), subset_size=len(feeds))
    onnx.save(quantized, scratch / "nncf.onnx")
    return scratch / "nncf.onnx"


def with_modelopt(source: Path, feeds: Feeds, scratch: Path) -> Path:
    """modelopt.onnx.quantization.quantize, with its defaults."""
    from modelopt.onnx.quantization import quantize

    stacked = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    written = scratch / "modelopt.onnx"
    quantize(str(source), calibration_data=stacked, output_path=str(written), high_precision_dtype="fp32")
    return written


def apart(quantizer: Quantizer) -> Quantizer:
    """Runs a tool of others in a process of its own: some of them change the libraries that they import."""

    def quantize(source: Path, feeds: Feeds, scratch: Path) -> Path:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(quantizer, source, feeds, scratch).result()

    return quantize


def variants() -> Iterator[tuple[str, Quantizer]]:
    """Every variant that can be run here."""
    yield from ((f"default {i + 1}", with_sardonyx(default_scheme(i))) for i in range(DEFAULT_SCHEMES))
    yield from ((name, with_sardonyx(lambda _, text=text: text)) for name, text in OURS.items())
    yield "onnxruntime static", apart(with_onnxruntime_static)
    yield "onnxruntime dynamic", apart(with_onnxruntime_dynamic)
    if importlib.util.find_spec("nncf"):
        yield "nncf", apart(with_nncf)
    if importlib.util.find_spec("modelopt"):
        yield "modelopt", apart(with_modelopt)


PRODUCTS = frozenset({"Conv", "MatMul", "Gemm", "LSTM", "GRU", "ConvInteger", "MatMulInteger", "MatMulNBits"})


def integer_shares(path: Path, feed: Mapping[str, Any]) -> tuple[float, float]:
    """Shares of the multiply-accumulates whose operands are integers, and of the weights' elements that are."""
    model = ir.load(str(path)).model
    for value in model.graph.inputs:
        if value.name in feed:
            value.shape = ir.Shape(feed[value.name].shape)
    ir.infer_shapes(model)
    macs, weights = [0, 0], [0, 0]
    for graph in ir.all_graphs(model):
        for node in graph:
            integers = _on_integers(node)
            macs[integers] += ir.node_macs(node) or 0
            weights[integers] += _weight_elements(node)
    return tuple(part[1] / sum(part) if sum(part) else 0.0 for part in (macs, weights))


def _on_integers(node: ir.Node) -> bool:
    if node.op_type.endswith(("Integer", "DynamicQuantizeLSTM")):
        return True
    producers = [value.producer() if value is not None else None for value in node.inputs[:2]]
    return all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers)


def _weight_elements(node: ir.Node) -> int:
    """Elements of a product's constant operands, seen through DequantizeLinear; scales and biases are not counted."""
    if node.op_type not in PRODUCTS and node.op_type != "DynamicQuantizeLSTM":
        return 0
    total = 0
    for value in node.inputs[1:3]:
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            value = producer.inputs[0]
        tensor = None if value is None else ir.constant_tensor(value)
        total += tensor.size if tensor is not None and len(tensor.shape) > 1 else 0
    return total


class Noise:
    """The error of a model's outputs against another's, over all runs.

    Attributes:
        signal: Sum of squares of the other's outputs.
        noise: Sum of squares of the errors.
    """

    def __init__(self, run: Run, reference: Run) -> None:
        self._run, self._reference = run, reference
        self.signal = self.noise = 0.0

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        """Runs both models and returns what the first one puts out."""
        outputs = self._run(feed)
        for got, wanted in zip(outputs, self._reference(feed), strict=True):
            self.signal += float(np.sum(np.square(wanted, dtype=np.float64)))
            self.noise += float(np.sum(np.square(np.subtract(got, wanted, dtype=np.float64))))
        return outputs

    @property
    def decibels(self) -> float | None:
        """Signal over noise; None where there is no noise or no signal."""
        return 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else None


def measure(task: Task, quantizer: Quantizer, original: Session, reference: float) -> dict[str, Any]:
    """Quantizes a model and measures the result; a tool that fails is a result, too."""
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        try:
            path = quantizer(task.path, task.feeds, Path(scratch))
            seconds = time.monotonic() - start
            with Session(path) as session:
                noise = Noise(session.run, original.run)
                value = float(task.evaluate(noise.run))
                timing = paired_latency(original, session, task.feeds[0], seconds=SECONDS)
        except NotForThisModel:
            return {"skipped": True}
        except Exception as error:  # whatever the tools of others raise is what they did to this model
            return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]}
        macs, weights = integer_shares(path, task.feeds[0])
        return {
            "metric": round(value, 5),
            "drop": round((reference - value) / abs(reference), 5),
            "snr_db": None if noise.decibels is None else round(noise.decibels, 1),
            "speedup": round(timing.ratio, 3),
            "interval": [round(timing.low, 3), round(timing.high, 3)],
            "int8_macs": round(macs, 4),
            "int8_weights": round(weights, 4),
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
    """Loss, noise, speed-up and shares of integer multiply-accumulates and weights as a markdown table."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    cells = {(row["model"], row["variant"]): row for row in rows}
    lines = ["| variant | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        shown = [_cell(cells.get((model, variant))) for model in models]
        lines.append(f"| {variant} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or "skipped" in row:
        return ""
    if "failed" in row:
        return "failed"
    noise = "exact" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB"
    shares = f"{row['int8_macs']:.0%} / {row['int8_weights']:.0%}"
    return f"{row['drop']:.2%}, {noise}, {row['speedup']:.2f}x, {shares}"


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
