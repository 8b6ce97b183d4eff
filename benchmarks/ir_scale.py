"""How the IR room scales: seconds for a large graph, against onnx's own checker where there is one.

    python -m benchmarks.ir_scale [NODES]

Each step runs three times; the least time is printed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir


def build(nodes: int) -> onnx.ModelProto:
    """A chain of Add and Relu with a weight at every Add and declared shapes throughout."""
    body, weights, infos, last = [], [], [], "x"
    for i in range(nodes // 2):
        weights.append(numpy_helper.from_array(np.ones(64, np.float32), f"w{i}"))
        body.append(helper.make_node("Add", [last, f"w{i}"], [f"a{i}"], name=f"add{i}"))
        body.append(helper.make_node("Relu", [f"a{i}"], [f"r{i}"], name=f"relu{i}"))
        infos += [helper.make_tensor_value_info(f"{p}{i}", TensorProto.FLOAT, ["N", 64]) for p in "ar"]
        last = f"r{i}"
    graph = helper.make_graph(
        body,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", 64])],
        weights,
        value_info=infos[:-1],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def least(step: Callable[[], object]) -> float:
    """Returns the least of three times in seconds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints one line a step."""
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        proto = build(nodes)
        path.write_bytes(proto.SerializeToString())
        model = ir.load(path).model
        steps: dict[str, Callable[[], object]] = {
            "load": lambda: ir.load(path),
            "verify": lambda: ir.verify(model),
            "onnx.checker": lambda: onnx.checker.check_model(proto),
            "infer_shapes": lambda: ir.infer_shapes(model),
            "clone": lambda: ir.clone(model),
            "sort": model.graph.sort,
            "digest": lambda: ir.digest(model),
            "save": lambda: ir.save(model, path.with_name("out.onnx")),
        }
        print(f"{nodes} nodes, {nodes // 2} initializers, {path.stat().st_size / 1e6:.1f} MB")
        for name, step in steps.items():
            print(f"{name:14s} {least(step):7.3f} s")


if __name__ == "__main__":
    main()
