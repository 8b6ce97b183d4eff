"""Compares the exact passes with other optimizers on a folder of models, each in a process of its own.

    pip install onnxsim onnxslim onnxscript
    python benchmarks/optimizer.py FOLDER [NAME ...]

FOLDER holds `NAME/model.onnx` beside `NAME/eval.py` with `calib()` (feeds). Per tool and model: nodes afterwards (those
of other domains than the standard one in brackets), seconds (best of three, import left out), peak memory, the median
ratio of paired latencies against the original under ONNX Runtime, and the signal-to-noise ratio of the outputs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import onnx

from sardonyx import ir
from sardonyx.measure import ErrorAccumulator, Session, measure_peak, paired_latency
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

ROUNDS, SECONDS, FEEDS = 3, 3.0, 3


def with_sardonyx(source: str, written: str) -> None:
    """The default exact passes."""
    result = PassManager(parse_pipeline(Recipe().optimize, available_passes())).run(ir.load(source).model)
    ir.save(result.model, written)


def with_onnxsim(source: str, written: str) -> None:
    """onnxsim.simplify."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], written)


def with_onnxslim(source: str, written: str) -> None:
    """onnxslim.slim."""
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), written)


def with_onnxscript(source: str, written: str) -> None:
    """onnxscript.optimizer.optimize."""
    from onnxscript import optimizer

    onnx.save(optimizer.optimize(onnx.load(source)), written)


def with_onnxruntime(source: str, written: str) -> None:
    """ONNX Runtime's own EXTENDED level, written offline."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = written
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


TOOLS: dict[str, Callable[[str, str], None]] = {
    "sardonyx": with_sardonyx,
    "onnxsim": with_onnxsim,
    "onnxslim": with_onnxslim,
    "onnxscript": with_onnxscript,
    "onnxruntime": with_onnxruntime,
}


def feeds_of(folder: Path) -> list[dict[str, Any]]:
    """The first feeds of a model's `eval.py`."""
    spec = spec_from_file_location(f"task_{folder.name}", folder / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.calib()[:FEEDS])


def count(path: Path) -> str:
    """Nodes of a model, with those outside the standard domain in brackets."""
    model = ir.load(path).model
    nodes = [node for graph in ir.all_graphs(model) for node in graph if node.op_type != "Constant"]
    foreign = sum(bool(node.domain) for node in nodes)
    return f"{len(nodes)} ({foreign})" if foreign else str(len(nodes))


def measure(tool: Callable[[str, str], None], source: Path, feeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs one tool on one model and measures the result."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            tool(str(source), str(written))
            times.append(time.perf_counter() - start)
        peak = measure_peak(tool, str(source), str(written))
        with Session(source) as original, Session(written) as optimized:
            errors = ErrorAccumulator([output.name for output in original.outputs])
            for feed in feeds:
                errors.update(original.run(feed), optimized.run(feed))
            timing = paired_latency(original, optimized, feeds[0], seconds=SECONDS)
        return {
            "nodes": count(written),
            "seconds": round(min(times), 3),
            "peak_mib": peak >> 20,
            "speedup": [round(v, 3) for v in (timing.ratio, timing.low, timing.high)],
            "sqnr_db": min(round(min(e.sqnr_db, 999.0)) for e in errors.result()),
        }


def main() -> None:
    """Prints one JSON object a model and tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    sys.path.insert(0, str(folder))
    for name in arguments.names or sorted(p.parent.name for p in folder.glob("*/model.onnx")):
        source = folder / name / "model.onnx"
        feeds = feeds_of(folder / name)
        print(json.dumps({"model": name, "tool": "original", "nodes": count(source)}), flush=True)
        for tool, function in TOOLS.items():
            try:
                row = measure(function, source, feeds)
            except Exception as error:  # a tool that fails is a result of this benchmark
                row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
            print(json.dumps({"model": name, "tool": tool} | row), flush=True)


if __name__ == "__main__":
    main()
