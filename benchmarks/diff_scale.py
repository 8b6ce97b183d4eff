"""How matching scales: seconds and peak memory for large graphs and for large weights.

python -m benchmarks.diff_scale [NODES]          # a graph against itself with other names, fused in part
python -m benchmarks.diff_scale --weights 3000   # two models of that many megabytes, one weight changed
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.diff_editors import renamed
from benchmarks.ir_scale import build
from sardonyx import ir
from sardonyx.diff import compare, match
from sardonyx.measure import measure_peak
from sardonyx.passes.base import PassContext
from sardonyx.passes.fusion.fuse import Fuse


def blocks(count: int) -> ir.Model:
    """Blocks of Conv, BatchNormalization, Relu and a sum, with weights of their own: 5 nodes each."""
    generator = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(count):
        shapes = {"w": (4, 4, 1, 1), "s": (4,), "b": (4,), "m": (4,), "v": (4,)}
        for name, shape in shapes.items():
            weights.append(numpy_helper.from_array(generator.uniform(0.5, 1, shape).astype(np.float32), f"{name}{i}"))
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], name=f"conv{i}"),
            helper.make_node("BatchNormalization", [f"c{i}", *(f"{k}{i}" for k in "sbmv")], [f"n{i}"], name=f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], name=f"relu{i}"),
            helper.make_node("Sigmoid", [f"r{i}"], [f"g{i}"], name=f"sigmoid{i}"),
            helper.make_node("Add", [f"g{i}", last], [f"a{i}"], name=f"add{i}"),
        ]
        last = f"a{i}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 8, 8]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "blocks", ends[:1], ends[1:], weights)
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model


def graphs(nodes: int) -> None:
    """Matches and compares large graphs."""
    chain = ir.load(build(nodes)).model
    model = blocks(nodes // 5)
    fused = ir.clone(model)
    Fuse().apply(fused, PassContext())
    ir.ensure_shapes(fused)
    cases = {
        "chain, equal weights, renamed": (chain, renamed(chain)[0]),
        "blocks, renamed": (model, renamed(model)[0]),
        "blocks, BatchNormalization fused": (model, fused),
        "blocks, fused and renamed": (model, renamed(fused)[0]),
    }
    for name, (before, after) in cases.items():
        start = time.perf_counter()
        matching = match(before, after)
        matched = time.perf_counter()
        compare(before, after, matching)
        done = time.perf_counter()
        counts = f"{ir.num_nodes(before)} against {ir.num_nodes(after)} nodes, {len(matching.values)} values matched"
        print(f"{name:34s} match {matched - start:6.2f} s, compare {done - matched:6.2f} s; {counts}", flush=True)


def large_pair(folder: Path, megabytes: int) -> tuple[Path, Path]:
    """Writes two models whose weights lie in files of their own; one weight differs."""
    size, paths = 4096, []
    count = max(1, megabytes * 1_000_000 // (size * size * 4))
    for name in ("a", "b"):
        generator = np.random.default_rng(0)
        (folder / name).mkdir()
        with open(folder / name / "weights.bin", "wb") as file:
            for i in range(count):
                weight = generator.standard_normal((size, size), np.float32)
                if name == "b" and i == count // 2:
                    weight += 1e-3
                file.write(weight.tobytes())
        path = folder / name / "model.onnx"
        path.write_bytes(_large(count, size).SerializeToString())
        paths.append(path)
    return paths[0], paths[1]


def _large(count: int, size: int) -> ModelProto:
    weights = []
    for i in range(count):
        tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[size, size])
        tensor.data_location = TensorProto.EXTERNAL
        length = size * size * 4
        for key, value in (("location", "weights.bin"), ("offset", i * length), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"matmul{i}") for i in range(count)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def diff_files(first: str, second: str) -> None:
    """Loads, matches and compares two files."""
    before, after = ir.load(first).model, ir.load(second).model
    diff = compare(before, after, match(before, after))
    assert [change.how for change in diff.initializers] == ["values"], diff.initializers


def main() -> None:
    """Prints a line a case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nodes", nargs="?", type=int, default=10_000)
    parser.add_argument("--weights", type=int, help="megabytes of each of two models")
    arguments = parser.parse_args()
    if arguments.weights is None:
        graphs(arguments.nodes)
        return
    with tempfile.TemporaryDirectory() as folder:
        first, second = large_pair(Path(folder), arguments.weights)
        start = time.perf_counter()
        peak = measure_peak(diff_files, str(first), str(second))
        seconds = time.perf_counter() - start
        print(f"{arguments.weights} MB each: {seconds:.1f} s with the process's start, peak RSS {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
