"""Weight-only quantization of a language model, beside ONNX Runtime's own quantizers.

    python benchmarks/weight_only.py FOLDER [--chunks N] [--only NAME ...]

FOLDER holds `model.onnx` beside `eval.py` with `calib()` (feeds) and `perplexity(run, limit=N)`. For each variant, made
in a process of its own: seconds and peak memory of quantizing, bytes written, perplexity (on N chunks of the test text;
all by default) and its change, and the median ratio of paired latencies against FP32, above 1 where the variant is
faster, for one token and for a whole sample. ONNX Runtime's HQQ needs torch and is left out without it.
"""

import argparse
import os
import sys
import tempfile
import time
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

SECONDS = 4.0
BLOCK = 32
VARIANTS = {
    "int4 rtn": "method=rtn",
    "int4 hqq": "method=hqq",
    "int4 gptq": "",
    "int4 rtn, offsets": "method=rtn,offsets=true",
    "int4 hqq, offsets": "method=hqq,offsets=true",
    "int4 gptq, offsets": "offsets=true",
    "int4 gptq, offsets, float activations": "offsets=true,activations=float",
    "int8 rtn": "bits=8,symmetric=true,method=rtn",
    "int8 gptq": "bits=8,symmetric=true",
    "int8 gptq, float activations": "bits=8,symmetric=true,activations=float",
}
THEIRS = {
    "onnxruntime int4 rtn, symmetric": {"bits": 4, "is_symmetric": True, "accuracy_level": 4},
    "onnxruntime int4 rtn": {"bits": 4, "is_symmetric": False, "accuracy_level": 4},
    "onnxruntime int4 hqq": {"hqq": True},
    "onnxruntime int8 rtn": {"bits": 8, "is_symmetric": True, "accuracy_level": 4},
}


def load_eval(folder: str) -> Any:
    """Imports the folder's eval.py."""
    spec = spec_from_file_location("evaluation", Path(folder) / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def quantize_ours(folder: str, options: str, written: str) -> None:
    """Quantizes with the pass."""
    from sardonyx import ir
    from sardonyx.backends import backend
    from sardonyx.measure import describe_machine, load_samples
    from sardonyx.passes.base import PassContext
    from sardonyx.pipeline import PassManager, available_passes, parse_pipeline

    context = PassContext(
        backend("onnxruntime").capabilities(describe_machine()), load_samples(load_eval(folder).calib)
    )
    passes = parse_pipeline(f"quantize-weights{{block={BLOCK}{options and ','}{options}}}", available_passes())
    result = PassManager(passes, context=context).run(ir.load(Path(folder) / "model.onnx").model)
    assert result.records[-1].status == "applied", result.records[-1].reason
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


def measure(name: str, folder: str, path: Path, chunks: int | None, fp32: float | None) -> float:
    """Prints a variant's perplexity, size and speed; returns the perplexity."""
    from sardonyx.measure import Session, paired_latency

    evaluation = load_eval(folder)
    feed = evaluation.calib()[0]
    with Session(path) as session:
        perplexity: float = evaluation.perplexity(session.run, limit=chunks)
        ratios = []
        if fp32 is not None:
            with Session(Path(folder) / "model.onnx") as original:
                for length in (1, None):
                    cut = {key: value[:, :length] for key, value in feed.items()}
                    ratios.append(paired_latency(original, session, cut, seconds=SECONDS).ratio)
    nbytes = sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith("model.onnx"))
    change = "" if fp32 is None else f"{perplexity / fp32 - 1:+.2%}"
    speed = "  ".join(f"{ratio:.2f}x" for ratio in ratios)
    print(f"{name:40} {nbytes / 1e6:6.1f} MB  {perplexity:8.4f} {change:>8}  {speed}", end="", flush=True)
    return perplexity


def main() -> None:
    """Prints the table."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # inherited by the processes that quantize
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    from sardonyx.measure import measure_peak

    fp32 = measure("fp32", arguments.folder, Path(arguments.folder) / "model.onnx", arguments.chunks, None)
    print()
    jobs: list[tuple[str, Any, Any]] = [(name, quantize_theirs, options) for name, options in THEIRS.items()]
    jobs += [(name, quantize_ours, options) for name, options in VARIANTS.items()]
    for name, function, options in jobs:
        if arguments.only and name not in arguments.only:
            continue
        if "hqq" in options and function is quantize_theirs and find_spec("torch") is None:
            print(f"{name:40} left out: torch is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            start = time.monotonic()
            peak = measure_peak(function, arguments.folder, options, str(path))
            seconds = time.monotonic() - start
            measure(name, arguments.folder, path, arguments.chunks, fp32)
            print(f"  quantized in {seconds:.0f} s, {peak / 1e6:.0f} MB at most", flush=True)


if __name__ == "__main__":
    sys.exit(main())
