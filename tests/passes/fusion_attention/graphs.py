"""Graphs of transformers as exporters write them, small and with dynamic batch and length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.capabilities import Capabilities
from sardonyx.measure import describe_machine
from sardonyx.passes.base import PassContext, PassResult
from sardonyx.passes.fusion.attention.fuse import FuseTransformer
from tests import models_for_tests as build

WIDTH, HEADS, SIZE = 32, 4, 8
SIZES = ((1, 1), (2, 5), (3, 8))
"""Batch and length at which functions are compared."""
RTOL = 1e-4
"""Of the largest output: kernels sum products in another order, and scale queries instead of scores."""


def capabilities() -> Capabilities:
    return backend("onnxruntime").capabilities(describe_machine())


@dataclass
class Writer:
    """Collects nodes and constants."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Sequence[int | str]] = field(default_factory=dict)

    def op(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names[0]

    def const(self, array: Any, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(array, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = build.weights(*shape, seed=len(self.constants))
        return name

    def linear(self, x: str, width_in: int = WIDTH, width_out: int = WIDTH) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(width_in, width_out)), self.weight(width_out))

    def split_heads(self, x: str, heads: int = HEADS, size: int = SIZE) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])

    def merge_heads(self, x: str, width: int = WIDTH) -> str:
        return self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, width))

    def model(self, inputs: Mapping[str, Sequence[int | str]], *outputs: str, opset: int = 18) -> onnx.ModelProto:
        renamed = [self.op("Identity", value) for value in outputs[:1]]
        declared = {name: self.shapes.pop(name, None) for name in (*renamed, *outputs[1:])}
        made = build.proto(self.nodes, inputs, declared, self.constants, opset)
        kind = onnx.TensorProto.FLOAT
        made.graph.value_info.extend(helper.make_tensor_value_info(n, kind, s) for n, s in self.shapes.items())
        return made

    def known(self, value: str, *shape: int | str) -> str:
        """States a shape, as exporters do that know what inference does not find."""
        self.shapes[value] = shape
        return value


def scores(w: Writer, query: str, key: str, *, scale: str = "div", factor: float = SIZE**-0.5) -> str:
    """Queries [N, H, S, D] times keys [N, H, T, D], scaled in one of the places where exporters scale."""
    if scale == "query":
        query = w.op("Mul", query, w.const(factor))
    if scale == "key":
        key = w.op("Div", key, w.const(1 / factor))
    transposed = w.op("Transpose", key, perm=[0, 1, 3, 2])
    if scale == "both":
        root = w.const(factor**0.5)
        query, transposed = w.op("Mul", query, root), w.op("Mul", root, transposed)
    product = w.op("MatMul", query, transposed)
    if scale == "div":
        return w.op("Div", product, w.const(1 / factor))
    return w.op("Mul", w.const(factor), product) if scale == "mul" else product


def self_attention(
    *,
    scale: str = "div",
    mask: str = "",
    guard: bool = False,
    packed: str = "",
    opset: int = 18,
    groups: int = 1,
    size: int = SIZE,
) -> onnx.ModelProto:
    """Self-attention of x [N, S, 32]; see the branches for what the options mean."""
    w = Writer()
    query, key, value = _heads(w, packed, groups, size)
    if groups > 1:
        key, value = (_repeated(w, part, groups, size) for part in (key, value))
    score = scores(w, query, key, scale=scale)
    inputs: dict[str, Sequence[int | str]] = {"x": ["N", "S", WIDTH]}
    if mask:
        score, shape = _masked(w, score, mask)
        if shape:
            inputs["mask"] = shape
    probabilities = w.op("Softmax", score, axis=-1)
    if guard:
        probabilities = w.op("Where", w.op("IsNaN", probabilities), w.const(0), probabilities)
    merged = w.merge_heads(w.op("MatMul", probabilities, value), HEADS * size)
    return w.model(inputs, w.linear(merged, HEADS * size), opset=opset)


def _heads(w: Writer, packed: str, groups: int, size: int) -> tuple[str, str, str]:
    if not packed:
        few = HEADS // groups
        return (
            w.split_heads(w.linear("x", WIDTH, HEADS * size), HEADS, size),
            *(w.split_heads(w.linear("x", WIDTH, few * size), few, size) for _ in range(2)),
        )  # type: ignore[return-value]
    whole = w.linear("x", WIDTH, 3 * WIDTH)
    if packed == "split":
        first = w.op("Split", whole, w.ints(WIDTH, WIDTH, WIDTH), axis=2, outputs=3)
        return tuple(w.split_heads(f"{first[:-1]}{i}") for i in range(3))  # type: ignore[return-value]
    parts = w.op("Reshape", whole, w.ints(0, 0, 3, HEADS, SIZE))
    parts = w.op("Transpose", parts, perm=[2, 0, 3, 1, 4])
    if packed == "gather":
        return tuple(w.op("Gather", parts, w.const(i, np.int64), axis=0) for i in range(3))  # type: ignore[return-value]
    cuts = [w.op("Slice", parts, w.ints(i), w.ints(i + 1), w.ints(0)) for i in range(3)]
    return tuple(w.op("Squeeze", cut, w.ints(0)) for cut in cuts)  # type: ignore[return-value]


def _repeated(w: Writer, heads: str, groups: int, size: int) -> str:
    few = HEADS // groups
    length = w.op("Gather", w.op("Shape", "x"), w.ints(1))
    batch = w.op("Gather", w.op("Shape", "x"), w.ints(0))
    wide = w.op("Concat", batch, w.ints(few), w.ints(groups), length, w.ints(size), axis=0)
    flat = w.op("Concat", batch, w.ints(HEADS), length, w.ints(size), axis=0)
    return w.op("Reshape", w.op("Expand", w.op("Unsqueeze", heads, w.ints(2)), wide), flat)


def _masked(w: Writer, score: str, mask: str) -> tuple[str, Sequence[int | str]]:
    if mask in MASK_SHAPES:
        return w.op("Add", score, "mask"), MASK_SHAPES[mask]
    if mask == "causal":  # as of PyTorch: a comparison of positions, -10000 where the key is later
        size = w.op("Squeeze", w.op("Gather", w.op("Shape", "x"), w.ints(1)))
        steps = w.op("Range", w.const(0, np.int64), size, w.const(1, np.int64))
        later = w.op("Greater", w.op("Unsqueeze", steps, w.ints(0)), w.op("Unsqueeze", steps, w.ints(1)))
        return w.op("Add", score, w.known(w.op("Where", later, w.const(-1e4), w.const(0)), "S", "S")), ()
    condition = w.op("Greater", "mask", w.const(0))
    lowest = w.const(np.finfo(np.float32).min)
    if mask == "finite":
        return w.op("Add", score, w.op("Where", condition, w.const(0), lowest)), ["N", 1, "S", "S"]
    fill = w.const(-np.inf) if mask == "where" else w.const(-1e4) if mask == "weak" else lowest
    operands = (condition, score, fill) if mask != "where not" else (condition, fill, score)
    return w.op("Where", *operands), ["N", 1, 1, "S"]


MASK_SHAPES: Mapping[str, Sequence[int | str]] = {
    "full": ["N", HEADS, "S", "S"],
    "bias": [1, HEADS, "S", "S"],
    "square": ["S", "S"],
    "padding": ["N", 1, 1, "S"],
    "keys": ["S"],
    "strange": ["M", 1, 1, "S"],
}


def cross_attention(opset: int = 18) -> onnx.ModelProto:
    """Queries from x [N, S, 32], keys and values from y [N, T, 32], values of another size."""
    w = Writer()
    query, key = w.split_heads(w.linear("x")), w.split_heads(w.linear("y"))
    value = w.split_heads(w.linear("y", WIDTH, 24), HEADS, 6)
    probabilities = w.op("Softmax", scores(w, query, key))
    merged = w.merge_heads(w.op("MatMul", probabilities, value), 24)
    return w.model({"x": ["N", "S", WIDTH], "y": ["N", "T", WIDTH]}, w.linear(merged, 24), opset=opset)


def cached_attention(
    *, shared: bool = False, batch: int | str = "N", groups: int = 1, opset: int = 18
) -> onnx.ModelProto:
    """A decoder's step: keys and values of P earlier steps are inputs, those of P + S outputs."""
    w = Writer()
    few = HEADS // groups
    query = w.split_heads(w.linear("x"))
    key, value = (w.split_heads(w.linear("x", WIDTH, few * SIZE), few) for _ in range(2))
    keys = w.op("Concat", "past_k", key, axis=2)
    values = w.op("Concat", "past_v", value, axis=-2)
    outputs = (keys, values, w.op("Neg", keys)) if shared else (keys, values)
    used = (keys, values)
    if groups > 1:
        w.known(keys, batch, few, "P + S", SIZE)
        w.known(values, batch, few, "P + S", SIZE)
        used = tuple(_repeated_cache(w, part, groups) for part in used)  # type: ignore[assignment]
    probabilities = w.op("Softmax", scores(w, query, used[0]))
    merged = w.merge_heads(w.op("MatMul", probabilities, used[1]))
    past = [batch, few, "P", SIZE]
    inputs = {"x": [batch, "S", WIDTH], "past_k": past, "past_v": past}
    return w.model(inputs, w.linear(merged), *outputs, opset=opset)


def _repeated_cache(w: Writer, heads: str, groups: int) -> str:
    batch, few, length, size = w.shapes[heads]
    wide = w.op("Expand", w.op("Unsqueeze", heads, w.ints(2)), w.ints(1, 1, groups, 1, 1))
    w.known(wide, batch, few, groups, length, size)
    return w.known(w.op("Reshape", wide, w.ints(0, HEADS, -1, SIZE)), batch, HEADS, length, size)


def feed(source: onnx.ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed inputs; masks are 0 and 1."""
    generator = np.random.default_rng(seed)
    made = {}
    for value in source.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [d.dim_value if d.HasField("dim_value") else sizes[d.dim_param] for d in dims]
        made[value.name] = generator.standard_normal(shape).astype(np.float32)
    if "mask" in made:
        made["mask"] = (made["mask"] < 0.5).astype(np.float32)
    return made


def fused(source: onnx.ModelProto, *enable: str, target: Capabilities | None = None) -> tuple[ir.Model, PassResult]:
    model = ir.load(source).model
    result = FuseTransformer(enable=enable).apply(model, PassContext(target or capabilities()))
    return model, result


def assert_same_function(source: onnx.ModelProto, model: ir.Model, *, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    assert ir.verify(model) == ()
    for batch, length in sizes:
        arrays = feed(source, {"N": batch, "S": length, "T": 2 * length, "P": 3, "M": batch})
        assert_same_outputs(source, model, arrays)


def assert_same_outputs(source: onnx.ModelProto, model: ir.Model, arrays: dict[str, np.ndarray]) -> None:
    for before, after in zip(build.run(source, arrays), build.run(model, arrays), strict=True):
        scale = max(1.0, float(np.nanmax(np.abs(before)))) if np.isfinite(before).any() else 1.0
        np.testing.assert_allclose(after, before, rtol=0, atol=RTOL * scale)
