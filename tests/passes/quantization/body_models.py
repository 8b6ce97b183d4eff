"""Models whose products stand inside bodies: If, Loop, Scan, one in another, and a local function.

They subtract instead of adding: ONNX Runtime makes a Gemm of MatMul and Add before it looks at the pairs around them.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import models_for_tests as build

node = helper.make_node
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
SIZE = 16
Feeds = list[dict[str, np.ndarray]]


def value(name: str, dtype: int = FLOAT, shape: object = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, array: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions or [])


def feeds(count: int = 6, rows: int = 3, **more: object) -> Feeds:
    return [
        {"x": build.weights(rows, SIZE, seed=seed, scale=1.0), **{k: np.asarray(v) for k, v in more.items()}}
        for seed in range(count)
    ]


def branch(scale: float, seed: int, weight: str | None = None) -> onnx.GraphProto:
    """x W followed by Relu; both branches use the same names, and the weight may be one of the main graph."""
    nodes = [node("MatMul", ["x", weight or "w"], ["h"], name=f"product{seed}"), node("Relu", ["h"], ["r"])]
    weights = [] if weight else [constant("w", build.weights(SIZE, SIZE, seed=seed, scale=scale))]
    return helper.make_graph(nodes, "branch", [], [value("r")], weights)


def branches() -> onnx.ModelProto:
    """If with a product in either branch, one with its own weight, one with a weight of the main graph."""
    choice = node(
        "If", ["c"], ["y"], name="choice", then_branch=branch(0.3, 1), else_branch=branch(0.3, 2, weight="outer")
    )
    return model(
        [choice],
        [value("x", shape=["N", SIZE]), value("c", BOOL, [])],
        [value("y", shape=["N", SIZE])],
        [constant("outer", build.weights(SIZE, SIZE, seed=3, scale=0.3))],
    )


def loop(*, inner_branch: bool = False) -> onnx.ModelProto:
    """Loop over n: h <- tanh(h W - x); with `inner_branch` the product stands in an If that runs every other time."""
    weights = [constant("w", build.weights(SIZE, SIZE, seed=1))]
    product = node("MatMul", ["h", "w"], ["p"], name="product")
    if inner_branch:
        run = helper.make_graph([product], "run", [], [value("p")])
        skip = helper.make_graph([node("Identity", ["h"], ["q"])], "skip", [], [value("q")])
        odd = [
            node("Mod", ["i", "two"], ["m"]),
            node("Cast", ["m"], ["odd"], to=BOOL),
            node("If", ["odd"], ["p"], name="inner", then_branch=run, else_branch=skip),
        ]
        weights.append(constant("two", np.int64(2)))
    nodes = [
        *(odd if inner_branch else [product]),
        node("Sub", ["p", "x"], ["a"]),
        node("Tanh", ["a"], ["h_next"]),
        node("Identity", ["go"], ["go_on"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("h", FLOAT, ["N", SIZE])],
        [value("go_on", BOOL, []), value("h_next", FLOAT, ["N", SIZE])],
    )
    return model(
        [node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
        [value("x", shape=["N", SIZE]), value("n", INT64, [])],
        [value("y", shape=["N", SIZE])],
        weights,
    )


def scan() -> onnx.ModelProto:
    """Scan over the rows of x: h <- tanh(row W - h), every h collected in reverse."""
    body = helper.make_graph(
        [
            node("MatMul", ["row", "w"], ["p"], name="product"),
            node("Sub", ["p", "h"], ["a"]),
            node("Tanh", ["a"], ["h_next"]),
            node("Identity", ["h_next"], ["seen"]),
        ],
        "body",
        [value("h", FLOAT, [SIZE]), value("row", FLOAT, [SIZE])],
        [value("h_next", FLOAT, [SIZE]), value("seen", FLOAT, [SIZE])],
    )
    step = node(
        "Scan", ["h0", "x"], ["last", "y"], name="scan", body=body, num_scan_inputs=1, scan_output_directions=[1]
    )
    return model(
        [step],
        [value("x", shape=["N", SIZE])],
        [value("y", shape=["N", SIZE])],
        [constant("w", build.weights(SIZE, SIZE, seed=1)), constant("h0", np.zeros(SIZE, np.float32))],
    )


def function() -> onnx.ModelProto:
    """A local function that multiplies, called twice."""
    imports = [helper.make_opsetid("", 17)]
    body = [node("MatMul", ["a", "b"], ["p"], name="product"), node("Relu", ["p"], ["c"])]
    layer = helper.make_function("local", "Layer", ["a", "b"], ["c"], body, imports)
    return model(
        [
            node("Layer", ["x", "w1"], ["h"], name="first", domain="local"),
            node("Layer", ["h", "w2"], ["y"], name="second", domain="local"),
        ],
        [value("x", shape=["N", SIZE])],
        [value("y", shape=["N", SIZE])],
        [constant("w1", build.weights(SIZE, SIZE, seed=1)), constant("w2", build.weights(SIZE, SIZE, seed=2))],
        [layer],
    )
