"""Weight-only quantization of a language model, beside ONNX Runtime's own quantizers.

    python -m benchmarks.weight_only FOLDER [--chunks N] [--only NAME ...] [--work FOLDER]

FOLDER holds `model.onnx`, logits (N, T, V) of `input_ids` (N, T), beside `eval.py` with `calib()` (feeds) and
`perplexity(run, limit=N)`. For each variant, made in a process of its own:

- how activations are multiplied: rounded to INT8 by the kernel, or in float; only rows of one kind compare directly
- bytes written, perplexity (on N chunks of the test text; all by default), its change with the standard error of that
  change over chunks, and the divergence KL(FP32 || variant) a token in nats. A change within its error says nothing,
  and its sign can be luck; the divergence is never below zero and tells small losses apart
- the median ratio of paired latencies against FP32, above 1 where the variant is faster, for one token and for a sample
- seconds and peak memory of quantizing

With `--work`, the original's distributions (4 T V bytes a chunk) and a line of JSON for each variant are kept there: a
run that was interrupted goes on, and other variants are added later, with the same `--chunks`.

ONNX Runtime's HQQ needs torch and is left out without it. Its kernel has float zero points, for which the runtime
computes in float whatever accuracy level is asked for, and it leaves a product with a tied table in float.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tasks import load_eval

Floats = npt.NDArray[np.float32]
Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]

SECONDS = 4.0
BLOCK = 32
PASS = "quantize-weights"
FP32 = "fp32"
ROWS = "rows.jsonl"
VARIANTS = {
    "int4 rtn, offsets": "method=rtn,offsets=true",
    "int4 hqq, offsets": "method=hqq,offsets=true",
    "int4 rtn, offsets, auto activations": "method=rtn,offsets=true,activations=auto",
    "int4 rtn, offsets, float activations": "method=rtn,offsets=true,activations=float",
    "int8 rtn": "bits=8,symmetric=true,method=rtn",
    "int8 rtn, smoothed": "smooth bits=8,method=rtn",
    "int8 rtn, float activations": "bits=8,symmetric=true,method=rtn,activations=float",
    "int4 rtn": "method=rtn",
    "int4 hqq": "method=hqq",
    "int4 gptq, offsets": "offsets=true",
    "int4 gptq": "",
    "int4 gptq-hqq, offsets": "method=gptq-hqq,offsets=true",
    "int4 gptq-hqq": "method=gptq-hqq",
    "int8 gptq, smoothed": "smooth bits=8",
}
"""Options of `quantize-weights`; after `smooth`, `smooth-quant` runs before."""
THEIRS = {
    "onnxruntime int4 hqq": {"hqq": True},
    "onnxruntime int4 rtn": {"bits": 4, "is_symmetric": False, "accuracy_level": 4},
    "onnxruntime int4 rtn, float activations": {"bits": 4, "is_symmetric": False, "accuracy_level": 0},
    "onnxruntime int4 rtn, symmetric": {"bits": 4, "is_symmetric": True, "accuracy_level": 4},
    "onnxruntime int8 rtn": {"bits": 8, "is_symmetric": True, "accuracy_level": 4},
}


def quantize_ours(folder: str, options: str, written: str) -> None:
    """Quantizes with the pass."""
    from sardonyx import ir
    from sardonyx.backends import backend
    from sardonyx.measure import describe_machine, load_samples
    from sardonyx.passes.base import PassContext
    from sardonyx.pipeline import PassManager, available_passes, parse_pipeline

    context = PassContext(
        backend("onnxruntime").capabilities(describe_machine()), load_samples(load_eval(Path(folder)).calib)
    )
    text = f"{PASS}{{block={BLOCK}{options and ','}{options.removeprefix('smooth ')}}}"
    if options.startswith("smooth "):
        text = f"smooth-quant, {text}"
    passes = parse_pipeline(text, available_passes())
    result = PassManager(passes, context=context).run(ir.load(Path(folder) / "model.onnx").model)
    for record in result.records:
        assert record.status == "applied", record.reason
    ir.save(result.model, written, external_data=True)


def quantize_theirs(folder: str, options: dict[str, Any], written: str) -> None:
    """Quantizes with onnxruntime.quantization.matmul_nbits_quantizer."""
    import logging

    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.disable(logging.INFO)
    model = onnx.load(Path(folder) / "model.onnx")
    if "hqq" in options:
        options = {"algo_config": HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4)}
    quantizer = MatMulNBitsQuantizer(model, block_size=BLOCK, **options)
    quantizer.process()
    quantizer.model.save_model_to_file(written, True)


class Comparison:
    """Compares next-token distributions with those of the original, which are kept in a folder.

    Args:
        folder: Where to keep them: float32, 4 T V bytes a chunk of text.
        known: Whether they are there already; else the first model that is compared is the original.
    """

    def __init__(self, folder: Path, known: bool) -> None:
        self._folder = folder
        self._known = known

    def loss(self, evaluation: Any, run: Run, chunks: int | None) -> "Loss":
        """Evaluates a model."""
        changes: list[Floats] = []
        divergences: list[Floats] = []
        calls = count()

        def observe(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs = run(feed)
            path = self._folder / f"{next(calls)}.npy"
            mine = _log_softmax(outputs[0])
            if not self._known:
                np.save(path, mine)
            original = np.load(path, mmap_mode="r")
            token = np.asarray(feed["input_ids"])[:, 1:, None]
            taken, before = (np.take_along_axis(each[:, :-1], token, -1) for each in (mine, original))
            changes.append((before - taken).mean(axis=(1, 2)))
            divergences.append((np.exp(original) * (original - mine)).sum(axis=-1).mean(axis=-1))
            return outputs

        value = evaluation.perplexity(observe, limit=chunks)
        self._known = True
        change, divergence = np.concatenate(changes), np.concatenate(divergences)
        error = float(change.std(ddof=1) / len(change) ** 0.5) if len(change) > 1 else float("nan")
        return Loss(value, float(np.expm1(change.mean())), error, float(divergence.mean()))


@dataclass(frozen=True)
class Loss:
    """What a variant loses: perplexity, its relative change and the change's standard error, divergence in nats."""

    perplexity: float
    change: float
    error: float
    divergence: float


@dataclass(frozen=True)
class Row:
    """What was measured of a variant.

    Attributes:
        name: Its name.
        activations: How activations are multiplied.
        nbytes: Size on disk.
        loss: What it loses.
        speed: FP32's latency over its own, for one token and for a sample; empty for FP32.
        seconds: Seconds of quantizing; None for FP32.
        peak: Peak memory of quantizing in bytes; None for FP32.
    """

    name: str
    activations: str
    nbytes: int
    loss: Loss
    speed: tuple[float, ...] = ()
    seconds: float | None = None
    peak: int | None = None

    @classmethod
    def of_json(cls, line: str) -> "Row":
        """Reads what `json.dumps(asdict(row))` wrote."""
        values = json.loads(line)
        return cls(**values | {"loss": Loss(**values["loss"]), "speed": tuple(values["speed"])})

    def __str__(self) -> str:
        loss, speed = self.loss, "  ".join(f"{ratio:.2f}x" for ratio in self.speed)
        quantized = f"  quantized in {self.seconds:.0f} s, {self.peak / 1e6:.0f} MB at most" if self.peak else ""
        return (
            f"{self.name:40} {self.activations:5} {self.nbytes / 1e6:6.1f} MB  {loss.perplexity:8.4f} "
            f"{loss.change:+.2%} ± {loss.error:.2%}  KL {loss.divergence:.5f}  {speed}{quantized}"
        )


def _log_softmax(logits: Floats) -> Floats:
    shifted = np.asarray(logits, np.float32) - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def activations_of(path: Path) -> str:
    """How a model's products of integers treat activations: `int8`, or `float`, as with zero points of floats too."""
    from sardonyx import ir

    rounded = [
        ir.attribute(node, "accuracy_level", 0) == 4
        and not (len(node.inputs) > 3 and node.inputs[3] is not None and node.inputs[3].dtype is ir.DataType.FLOAT)
        for node in ir.load(path).model.graph
        if node.op_type == "MatMulNBits"
    ]
    return "int8" if any(rounded) else "float"


def measure(name: str, path: Path, arguments: argparse.Namespace, comparison: Comparison) -> Row:
    """Measures a variant's size, loss and speed."""
    from sardonyx.measure import Session, paired_latency

    evaluation = load_eval(Path(arguments.folder))
    original = Path(arguments.folder) / "model.onnx"
    ratios = []
    with Session(path) as session:
        loss = comparison.loss(evaluation, session.run, arguments.chunks)
        if path != original:
            feed = evaluation.calib()[0]
            with Session(original) as beside:
                for length in (1, None):
                    cut = {key: value[:, :length] for key, value in feed.items()}
                    ratios.append(paired_latency(beside, session, cut, seconds=SECONDS).ratio)
    nbytes = sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith("model.onnx"))
    return Row(name, activations_of(path), nbytes, loss, tuple(ratios))


def main() -> None:
    """Prints the table."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # inherited by the processes that quantize
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        compare_all(arguments, arguments.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare_all(arguments, Path(folder))


def known_rows(work: Path, chunks: int | None) -> dict[str, Row]:
    """Reads the rows of an earlier run; the first line of the file says of how many chunks they are."""
    path = work / ROWS
    if not path.exists():
        path.write_text(json.dumps({"chunks": chunks}) + "\n")
    first, *lines = path.read_text().splitlines()
    if json.loads(first)["chunks"] != chunks:
        raise SystemExit(f"{path} is of --chunks {json.loads(first)['chunks']}: use the same, or another folder.")
    return {row.name: row for row in map(Row.of_json, lines)}


def compare_all(arguments: argparse.Namespace, work: Path) -> None:
    """Prints a line for each variant, and keeps it in a folder."""
    known = known_rows(work, arguments.chunks)
    comparison = Comparison(work, FP32 in known)
    jobs: list[tuple[str, Any, Any]] = [(FP32, None, {})]
    jobs += [(name, quantize_theirs, options) for name, options in THEIRS.items()]
    jobs += [(name, quantize_ours, options) for name, options in VARIANTS.items()]
    for name, function, options in jobs:
        if arguments.only and name not in (FP32, *arguments.only):
            continue
        if "hqq" in options and function is quantize_theirs and find_spec("torch") is None:
            print(f"{name:40} left out: torch is not installed")
            continue
        row = known.get(name) or quantize_and_measure(name, function, options, arguments, comparison)
        if name not in known:
            with (work / ROWS).open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        print(row, flush=True)


def quantize_and_measure(
    name: str, function: Any, options: Any, arguments: argparse.Namespace, comparison: Comparison
) -> Row:
    """Quantizes in a process of its own, where there is something to do, and measures the result."""
    from sardonyx.measure import measure_peak

    if function is None:
        return measure(name, Path(arguments.folder) / "model.onnx", arguments, comparison)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        start = time.monotonic()
        peak = measure_peak(function, arguments.folder, options, str(path))
        seconds = time.monotonic() - start
        return replace(measure(name, path, arguments, comparison), seconds=seconds, peak=peak)


if __name__ == "__main__":
    main()
