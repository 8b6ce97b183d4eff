"""Is a model faster or slower under ONNX Runtime with types and shapes of its computed values declared in the file?

    python -m benchmarks.declarations MODEL.onnx [MODEL.onnx ...] [--seconds 3]

Each model is written with and without them, as it is and after the exact passes, and timed in interleaved runs on
random input: a ratio above 1 means that it is faster without.
"""

import argparse
import tempfile
from pathlib import Path

from sardonyx import ir
from sardonyx.errors import SardonyxError
from sardonyx.measure import Session, paired_latency, synthetic_samples
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline


def compare(model: ir.Model, seconds: float) -> str:
    """Returns the ratio of latencies with and without declarations."""
    with tempfile.TemporaryDirectory() as folder:
        declared, bare = Path(folder) / "declared.onnx", Path(folder) / "bare.onnx"
        ir.save(model, declared)
        ir.save(model, bare, declare=False)
        with Session(declared) as a, Session(bare) as b:
            feed = next(iter(synthetic_samples(a.inputs)))
            try:
                timing = paired_latency(a, b, feed, seconds=seconds)
            except SardonyxError as error:
                return f"does not run on random input: {error.message[:60]}"
    return f"{timing.ratio:.3f} ({timing.low:.3f} to {timing.high:.3f})"


def main() -> None:
    """Prints one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    passes = parse_pipeline(Recipe().optimize, available_passes())
    for path in arguments.models:
        as_is = compare(ir.load(path).model, arguments.seconds)
        optimized = compare(PassManager(passes).run(ir.load(path).model).model, arguments.seconds)
        print(f"{path}: as it is {as_is}, optimized {optimized}", flush=True)


if __name__ == "__main__":
    main()
