"""Gelu, residual and embedding normalization, rotary embedding: golden cases, function, refusals."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from sardonyx.capabilities import FusedSupport
from tests import models_for_tests as build
from tests.passes.fusion_attention import graphs
from tests.passes.fusion_attention.graphs import HEADS, SIZE, WIDTH, Writer, assert_same_function, fused

X: dict[str, Sequence[int | str]] = {"x": ["N", "S", WIDTH]}
HEAD_INPUT: dict[str, Sequence[int | str]] = {"x": ["N", HEADS, "S", SIZE]}


def gelu(order: str, kind: str = "erf", *, bias: bool = False, opset: int = 18) -> onnx.ModelProto:
    w = Writer()
    x = w.op("Add", "x", w.weight(WIDTH)) if bias else "x"
    one, half = w.const(1), w.const(0.5)
    if kind == "erf":
        inner = w.op("Erf", w.op("Div", x, w.const(math.sqrt(2))))
    elif kind == "erf by product":
        inner = w.op("Erf", w.op("Mul", x, w.const(math.sqrt(0.5))))
    else:
        cube = w.op("Pow", x, w.const(3)) if kind == "tanh" else w.op("Mul", x, w.op("Mul", x, x))
        cubic = w.op("Add", x, w.op("Mul", w.const(0.044715), cube))
        inner = w.op("Tanh", w.op("Mul", w.const(math.sqrt(2 / math.pi)), cubic))
    gate = w.op("Add", inner, one)
    product = {
        "x times half gate": lambda: w.op("Mul", x, w.op("Mul", half, gate)),
        "half of x times gate": lambda: w.op("Mul", w.op("Mul", x, gate), half),
        "half x times gate": lambda: w.op("Mul", w.op("Mul", half, x), gate),
        "x over two times gate": lambda: w.op("Mul", w.op("Div", x, w.const(2)), gate),
        "quarter": lambda: w.op("Mul", half, w.op("Mul", half, gate)),
        "square": lambda: w.op("Mul", x, w.op("Mul", x, gate)),
    }[order]()
    return w.model(X, product, opset=opset)


def quick_gelu(alpha: float | None) -> onnx.ModelProto:
    w = Writer()
    inner = "x" if alpha is None else w.op("Mul", w.const(alpha), "x")
    return w.model(X, w.op("Mul", w.op("Sigmoid", inner), "x"))


def standard_gelu(approximate: str) -> onnx.ModelProto:
    w = Writer()
    return w.model(X, w.op("Gelu", w.op("Add", "x", w.weight(WIDTH)), approximate=approximate), opset=20)


def skip(*, shared: bool, kind: str = "layer") -> onnx.ModelProto:
    w = Writer()
    total = w.op("Add", "x", w.op("MatMul", "x", w.weight(WIDTH, WIDTH)))
    before = w.op("Neg", total) if shared else ""
    scale = w.weight(WIDTH)
    if kind == "layer":
        norm = w.op("LayerNormalization", total, scale, w.weight(WIDTH), epsilon=1e-3)
    elif kind == "rms":
        norm = w.op("RMSNormalization", total, scale, epsilon=1e-3)
    else:
        square = w.op("Pow", total, w.const(2)) if kind != "div" else w.op("Mul", total, total)
        mean = w.op("ReduceMean", square, w.ints(-1) if kind != "other axis" else w.ints(1))
        root = w.op("Sqrt", w.op("Add", mean, w.const(1e-3)))
        unit = w.op("Div", total, root) if kind == "div" else w.op("Mul", total, w.op("Reciprocal", root))
        norm = w.op("Mul", scale, unit)
    result = w.op("Add", w.op("Add", norm, total), before) if shared else norm
    return w.model(X, result, opset=23 if kind == "rms" else 18)


def embeddings(*, segments: bool) -> onnx.ModelProto:
    w = Writer()
    ids = w.op("Cast", w.op("Abs", w.op("Mul", "x", w.const(5))), to=onnx.TensorProto.INT64)
    length = w.op("Squeeze", w.op("Gather", w.op("Shape", "x"), w.ints(1)))
    steps = w.op("Range", w.const(0, np.int64), length, w.const(1, np.int64))
    positions = w.op("Gather", w.weight(16, WIDTH), w.op("Unsqueeze", steps, w.ints(0)))
    w.known(positions, 1, "S", WIDTH)
    total = w.op("Gather", w.weight(40, WIDTH), ids)
    if segments:
        kinds = w.op("Cast", w.op("Greater", "x", w.const(0)), to=onnx.TensorProto.INT32)
        total = w.op("Add", total, w.op("Gather", w.weight(2, WIDTH), kinds))
    norm = w.op("LayerNormalization", w.op("Add", total, positions), w.weight(WIDTH), w.weight(WIDTH), epsilon=1e-6)
    return w.model({"x": ["N", "S"]}, norm)


def rotary(form: str, *, batched: bool = False, table: str = "computed", opset: int = 18) -> onnx.ModelProto:
    w = Writer()
    inputs: dict[str, Sequence[int | str]] = dict(HEAD_INPUT)
    half = SIZE // 2
    if table == "constant":
        rows = build.weights(8, half, seed=3, scale=1.0)
        inputs["x"] = ["N", HEADS, 8, SIZE]
        wide = rows if form != "rotate half" else np.concatenate([rows, rows], -1)
        cos, sin = (w.const(part[None, None]) for part in (np.cos(wide), np.sin(wide)))
    else:
        inputs["angles"] = ["N" if batched else 1, "S", half]
        angles = "angles" if form != "rotate half" else w.op("Concat", "angles", "angles", axis=-1)
        cos, sin = (w.op("Unsqueeze", w.op(op, angles), w.ints(1)) for op in ("Cos", "Sin"))
    if form == "rotate half":
        first = w.op("Slice", "x", w.ints(0), w.ints(half), w.ints(3), w.ints(1))
        second = w.op("Slice", "x", w.ints(half), w.ints(2**63 - 1), w.ints(-1), w.ints(1))
        turned = w.op("Concat", w.op("Neg", second), first, axis=-1)
        return w.model(inputs, w.op("Add", w.op("Mul", "x", cos), w.op("Mul", turned, sin)), opset=opset)
    if form == "halves":
        a = w.op("Split", "x", w.ints(half, half), axis=-1, outputs=2)
        b = f"{a[:-1]}1"
    else:
        a, b = (w.op("Slice", "x", w.ints(i), w.ints(SIZE), w.ints(3), w.ints(2)) for i in (0, 1))
    one = w.op("Sub", w.op("Mul", a, cos), w.op("Mul", b, sin))
    other = w.op("Add", w.op("Mul", a, sin), w.op("Mul", b, cos))
    if form == "halves":
        return w.model(inputs, w.op("Concat", one, other, axis=-1), opset=opset)
    pairs = w.op("Concat", w.op("Unsqueeze", one, w.ints(-1)), w.op("Unsqueeze", other, w.ints(-1)), axis=-1)
    joined = w.op("Reshape", pairs, w.ints(0, 0, 0, SIZE) if form == "interleaved" else w.ints(0, 0, 0, -1))
    return w.model(inputs, joined, opset=opset)


GOLDEN: dict[str, tuple[onnx.ModelProto, tuple[str, ...], str]] = {
    **{
        f"gelu: {order}": (gelu(order), ("gelu",), "Gelu")
        for order in ("x times half gate", "half of x times gate", "half x times gate", "x over two times gate")
    },
    "gelu: root by product": (gelu("half of x times gate", "erf by product"), ("gelu",), "Gelu"),
    "gelu with bias": (gelu("x times half gate", bias=True), ("gelu", "bias-gelu"), "BiasGelu"),
    "gelu of opset 20 with bias": (standard_gelu("none"), ("bias-standard-gelu",), "BiasGelu"),
    "tanh": (gelu("half x times gate", "tanh"), ("fast-gelu",), "FastGelu"),
    "tanh, cube by products": (gelu("x times half gate", "tanh by products"), ("fast-gelu",), "FastGelu"),
    "tanh with bias": (gelu("half x times gate", "tanh", bias=True), ("fast-gelu", "bias-fast-gelu"), "FastGelu"),
    "quick gelu": (quick_gelu(1.702), ("quick-gelu",), "QuickGelu"),
    "silu": (quick_gelu(None), ("quick-gelu",), "QuickGelu"),
    "skip": (skip(shared=False), ("skip-layer-norm",), "SkipLayerNormalization"),
    "skip, sum is read": (skip(shared=True), ("skip-layer-norm",), "SkipLayerNormalization"),
    "skip, rms": (skip(shared=True, kind="rms"), ("skip-rms-norm",), "SkipSimplifiedLayerNormalization"),
    **{
        f"skip, decomposed rms by {kind}": (
            skip(shared=True, kind=kind),
            ("skip-decomposed-rms-norm",),
            "SkipSimplifiedLayerNormalization",
        )
        for kind in ("reciprocal", "div")
    },
    "embeddings": (embeddings(segments=False), ("embed-layer-norm",), "EmbedLayerNormalization"),
    "embeddings of segments": (embeddings(segments=True), ("embed-layer-norm",), "EmbedLayerNormalization"),
    "rotate half": (rotary("rotate half"), ("rotary-embedding",), "RotaryEmbedding"),
    "rotate half, each its angles": (rotary("rotate half", batched=True), ("rotary-embedding",), "RotaryEmbedding"),
    "rotate half, table": (rotary("rotate half", table="constant"), ("rotary-embedding",), "RotaryEmbedding"),
    "halves": (rotary("halves"), ("rotary-embedding-of-halves",), "RotaryEmbedding"),
    "halves, each its angles": (rotary("halves", batched=True), ("rotary-embedding-of-halves",), "RotaryEmbedding"),
    "interleaved": (rotary("interleaved"), ("rotary-embedding-interleaved",), "RotaryEmbedding"),
    "standard, rotate half": (
        rotary("rotate half", opset=23),
        ("standard-rotary-embedding",),
        "RotaryEmbedding",
    ),
    "standard, halves": (
        rotary("halves", batched=True, opset=23),
        ("standard-rotary-embedding-of-halves",),
        "RotaryEmbedding",
    ),
    "standard, interleaved": (
        rotary("interleaved", opset=23, table="constant"),
        ("standard-rotary-embedding-interleaved",),
        "RotaryEmbedding",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_what_becomes_what(case: str) -> None:
    source, rules, operator = GOLDEN[case]
    model, result = fused(source, *rules)
    assert result.stats == dict.fromkeys(rules, 1)
    assert build.operators(model).count(operator) == 1
    assert_same_function(source, model)


@pytest.mark.parametrize(
    "make", [lambda: gelu("quarter"), lambda: gelu("square")], ids=["half times half", "x times x"]
)
def test_products_that_are_not_gelu_are_left_alone(make: Callable[[], onnx.ModelProto]) -> None:
    source = make()
    model, result = fused(source, "gelu", "bias-gelu")
    assert not result.modified
    assert "Erf" in build.operators(model)


def _no_kernel() -> onnx.ModelProto:
    source = quick_gelu(None)
    source.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    source.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return source


def _broadcast_sum() -> onnx.ModelProto:
    w = Writer()
    norm = w.op("LayerNormalization", w.op("Add", "x", "y"), w.weight(WIDTH), w.weight(WIDTH))
    return w.model({**X, "y": [1, "S", WIDTH]}, norm)


def _different_halves() -> onnx.ModelProto:
    source = rotary("rotate half", table="constant")
    table = next(t for t in source.graph.initializer if len(t.dims) == 4)
    array = onnx.numpy_helper.to_array(table).copy()
    array[..., -1] += 1
    table.CopyFrom(onnx.numpy_helper.from_array(array, table.name))
    return source


def _no_rotation() -> onnx.ModelProto:
    """(a cos - b sin, a cos + b sin): the last two products have their factors exchanged."""
    source = rotary("halves")
    sine, cosine = (node for node in source.graph.node if node.op_type == "Mul" and node.name >= "mul_7")
    sine.input[1], cosine.input[1] = cosine.input[1], sine.input[1]
    return source


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "opset with Gelu": (lambda: gelu("x times half gate", opset=20), "gelu", "is a standard operator from opset 20"),
    "double": (_no_kernel, "quick-gelu", "x is DOUBLE; QuickGelu takes FLOAT"),
    "gelu by tanh": (lambda: standard_gelu("tanh"), "bias-standard-gelu", "is the approximation by tanh"),
    "broadcast sum": (_broadcast_sum, "skip-layer-norm", "is not known to add two values of one shape"),
    "another axis": (lambda: skip(shared=False, kind="other axis"), "skip-decomposed-rms-norm", "last axis alone"),
    "different halves": (_different_halves, "rotary-embedding", "are not known to be equal"),
    "no rotation": (_no_rotation, "rotary-embedding-of-halves", "does not join a cos - b sin and b cos + a sin"),
    "old opset": (lambda: rotary("halves"), "standard-rotary-embedding-of-halves", "needs opset 23, the model has 18"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_why(case: str) -> None:
    make, rule, reason = REFUSED[case]
    _, result = fused(make(), rule)
    assert rule not in result.stats
    assert any(refusal.rule == rule and reason in refusal.reason for refusal in result.refusals)


def test_every_small_operator_is_in_the_table_of_the_runtime() -> None:
    rows: dict[tuple[str, str], FusedSupport] = dict(graphs.capabilities().fused)
    made = {operator for _, _, operator in GOLDEN.values()}
    assert made | {"Attention", "MultiHeadAttention", "GroupQueryAttention", "Gelu"} == {op for _, op in rows}
