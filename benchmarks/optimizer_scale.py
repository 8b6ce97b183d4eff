"""How the exact passes scale: generated models of many nodes, against onnxsim in the same run.

    pip install onnxsim==0.8.1
    python -m benchmarks.optimizer_scale [NODES ...] [--tools sardonyx]     default: 25000 50000 100000

The model is a mix of what real exports are made of: residual blocks (Conv, BatchNormalization, Relu, Add), attention
blocks whose heads are cut out by computed sizes (Shape, Gather, Unsqueeze, Concat, Reshape, Transpose), written-out
LayerNormalization and Gelu. The weights are small and shared, as it is nodes that are to be counted. Both tools work
from file to file in processes of their own, in turns, three times; the least counts, importing left out. The ratios are
those of CPU seconds, which other work on the machine disturbs least.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.measure import peak_rss
from sardonyx.pipeline import PassManager, Recipe, available_passes, parse_pipeline

ROUNDS = 3
WIDTH, HEADS, OPSET = 16, 2, 17


@dataclass
class Network:
    """A model under construction: nodes and shared initializers."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        """Adds an initializer once and returns its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Adds random weights once and returns their name."""
        generator = np.random.default_rng(len(self.constants))
        return self.constant(name, generator.standard_normal(shape) * 0.1)

    def integers(self, *values: int) -> str:
        """Adds a vector of int64 once and returns its name."""
        return self.constant("i" + "_".join(map(str, values)), values, np.int64)


def residual_block(net: Network, x: str) -> str:
    """[n, WIDTH, h, w] to the same: 7 nodes."""
    y = x
    for part in "ab":
        y = net.op("Conv", y, net.weight(f"conv_{part}", WIDTH, WIDTH, 3, 3), pads=[1, 1, 1, 1])
        statistics = [net.constant(f"bn_{what}", np.full(WIDTH, 0.9)) for what in ("scale", "bias", "mean", "var")]
        y = net.op("BatchNormalization", y, *statistics)
        y = net.op("Relu", y) if part == "a" else y
    return net.op("Relu", net.op("Add", y, x))


def attention_block(net: Network, x: str) -> str:
    """[n, l, WIDTH] to the same, sizes computed as exporters write them: about 70 nodes."""
    y = layer_norm(net, x)
    parts = []
    for name in ("q", "k", "v"):
        product = net.op("MatMul", y, net.weight(f"w_{name}", WIDTH, WIDTH))
        product = net.op("Add", product, net.weight(f"b_{name}", WIDTH))
        apart = net.op("Reshape", product, sizes(net, product, HEADS, WIDTH // HEADS))
        parts.append(net.op("Transpose", apart, perm=[0, 2, 1, 3] if name != "k" else [0, 2, 3, 1]))
    scores = net.op("Div", net.op("MatMul", parts[0], parts[1]), net.constant("root", (WIDTH / HEADS) ** 0.5))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), parts[2]), perm=[0, 2, 1, 3])
    joined = net.op("Reshape", mixed, sizes(net, mixed, WIDTH))
    x = net.op("Add", net.op("MatMul", joined, net.weight("w_out", WIDTH, WIDTH)), x)
    wide = net.op("MatMul", layer_norm(net, x), net.weight("w_wide", WIDTH, WIDTH))
    return net.op("Add", net.op("MatMul", gelu(net, wide), net.weight("w_narrow", WIDTH, WIDTH)), x)


def sizes(net: Network, x: str, *last: int) -> str:
    """The shape [batch, length, *last], from the sizes of a value."""
    parts = []
    for axis in (0, 1):
        size = net.op("Gather", net.op("Shape", x), net.constant(f"axis{axis}", axis, np.int64))
        parts.append(net.op("Unsqueeze", size, net.integers(0)))
    return net.op("Concat", *parts, *(net.integers(size) for size in last), axis=0)


def layer_norm(net: Network, x: str) -> str:
    """Written out: 9 nodes."""
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.constant("two", 2.0)), axes=[-1])
    root = net.op("Sqrt", net.op("Add", variance, net.constant("epsilon", 1e-5)))
    scaled = net.op("Mul", net.op("Div", centred, root), net.weight("norm_scale", WIDTH))
    return net.op("Add", scaled, net.weight("norm_bias", WIDTH))


def gelu(net: Network, x: str) -> str:
    """The erf form, written out: 5 nodes."""
    erf = net.op("Erf", net.op("Div", x, net.constant("root_two", 2**0.5)))
    product = net.op("Mul", x, net.op("Add", erf, net.constant("one", 1.0)))
    return net.op("Mul", product, net.constant("half", 0.5))


def generate(nodes: int) -> onnx.ModelProto:
    """Builds a model of about `nodes` nodes: half of them in residual, half in attention blocks."""
    net = Network()
    x = "image"
    while len(net.nodes) < nodes // 2:
        x = residual_block(net, x)
    rows = net.op("Reshape", x, net.integers(0, WIDTH, -1))
    x = net.op("Transpose", rows, perm=[0, 2, 1])
    while len(net.nodes) < nodes:
        x = attention_block(net, x)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        net.nodes,
        "mix",
        [info("image", TensorProto.FLOAT, ["n", WIDTH, 8, 8])],
        [info(x, TensorProto.FLOAT, ["n", "l", WIDTH])],
        list(net.constants.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def with_sardonyx(source: str, written: str) -> None:
    """The default exact passes."""
    passes = parse_pipeline(Recipe().optimize, available_passes())
    ir.save(PassManager(passes).run(ir.load(source).model).model, written)


def with_onnxsim(source: str, written: str) -> None:
    """onnxsim.simplify."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], written)


Tool = Callable[[str, str], None]
TOOLS: dict[str, Tool] = {"sardonyx": with_sardonyx, "onnxsim": with_onnxsim}


@dataclass(frozen=True)
class Cost:
    """What one run took: CPU seconds of all threads, seconds, and the process's peak memory in bytes."""

    cpu: float
    wall: float
    peak: int


def _timed(sender: Connection, tool: Tool, small: str, source: str, written: str) -> None:
    tool(small, written)  # imports and whatever else is done once
    wall, cpu = time.perf_counter(), time.process_time()
    tool(source, written)
    sender.send(Cost(time.process_time() - cpu, time.perf_counter() - wall, peak_rss()))


def timed(tool: Tool, small: Path, source: Path, written: Path) -> Cost:
    """Runs a tool in a fresh process; imports are left out of its seconds."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_timed, args=(sender, tool, str(small), str(source), str(written)))
    process.start()
    sender.close()
    try:
        cost: Cost = receiver.recv()
    except EOFError:
        process.join()
        sys.exit(f"{tool.__name__} ended with exit code {process.exitcode}")
    process.join()
    return cost


def _show(nodes: int, tool: str, taken: Sequence[Cost], written: Path) -> None:
    left = len(onnx.load(written).graph.node)
    cpu, wall = min(cost.cpu for cost in taken), min(cost.wall for cost in taken)
    peak = max(cost.peak for cost in taken) >> 20
    print(
        f"{nodes:7d} nodes  {tool:9s} {cpu:7.2f} s of CPU, {wall:7.2f} s, {peak:5d} MiB, {left} nodes left", flush=True
    )


def main() -> None:
    """Prints a line a tool and size, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="*", type=int, default=[25_000, 50_000, 100_000])
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    least: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = folder / "small.onnx"
        onnx.save(generate(200), small)
        for nodes in arguments.nodes:
            source = folder / f"{nodes}.onnx"
            onnx.save(generate(nodes), source)
            runs: dict[str, list[Cost]] = {tool: [] for tool in arguments.tools}
            for _ in range(arguments.rounds):
                for tool, taken in runs.items():
                    taken.append(timed(TOOLS[tool], small, source, folder / f"{tool}.onnx"))
            for tool, taken in runs.items():
                least[tool, nodes] = min(cost.cpu for cost in taken)
                _show(nodes, tool, taken, folder / f"{tool}.onnx")
    for tool in arguments.tools:
        for before, after in zip(arguments.nodes, arguments.nodes[1:], strict=False):
            print(f"{tool}: {before} to {after} nodes costs {least[tool, after] / least[tool, before]:.2f} times")
    if set(arguments.tools) == set(TOOLS):
        for nodes in arguments.nodes:
            print(f"{nodes} nodes: {least['sardonyx', nodes] / least['onnxsim', nodes]:.2f} of onnxsim's time")


if __name__ == "__main__":
    main()
