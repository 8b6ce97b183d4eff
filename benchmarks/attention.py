"""Are the fused operators of transformers faster than what they replace, on ONNX Runtime's CPU provider?

    python -m benchmarks.attention                       every form at every shape
    python -m benchmarks.attention --forms gelu --json   some forms; rows as JSON

Each row is one small block, as an exporter writes it and with one form fused, both loaded with all of the runtime's own
optimizations, so that a form is compared with whatever the runtime fuses by itself. Runs are interleaved on one thread;
the ratio is time before / time after: above 1 the fused form is faster. A form is a default of the backend's table only
where its ratio is at least 0.98 at every shape.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sardonyx import ir
from sardonyx.backends import backend
from sardonyx.capabilities import Capabilities
from sardonyx.measure import Session, describe_machine, paired_latency
from sardonyx.passes.base import PassContext
from sardonyx.passes.cleanup.cleanup import Cleanup
from sardonyx.passes.fusion.attention.fuse import FuseTransformer
from sardonyx.passes.fusion.fuse import Fuse

HARMLESS = 0.98
HEAD_SIZE = 64
SEQUENCES = (16, 128, 512)
HEADS = (6, 12)
PASTS = (128, 512)

Array = NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True)
class Shape:
    """What a block is run on: S new positions after P earlier ones, N heads."""

    heads: int
    sequence: int
    past: int = 0

    @property
    def width(self) -> int:
        """Elements of one position."""
        return self.heads * HEAD_SIZE


@dataclass(frozen=True)
class Row:
    """One measurement."""

    form: str
    heads: int
    sequence: int
    past: int
    milliseconds: float
    ratio: float
    low: float
    high: float


@dataclass
class Block:
    """Writes nodes one after the other."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    feed: Feed = field(default_factory=dict)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def const(self, array: Any, dtype: type = np.float32) -> str:
        """Adds a constant."""
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        """Adds a weight."""
        array = np.random.default_rng(len(self.tensors)).standard_normal(shape) / math.sqrt(shape[0])
        return self.const(array)

    def input(self, name: str, shape: Sequence[int | str], actual: Sequence[int]) -> str:
        """Adds an input with dynamic dimensions."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.feed[name] = np.random.default_rng(len(self.feed)).standard_normal(actual).astype(np.float32)
        return name

    def linear(self, x: str, width_in: int, width_out: int) -> str:
        """Adds x W + b."""
        return self.op("Add", self.op("MatMul", x, self.weight(width_in, width_out)), self.weight(width_out))

    def model(self, opset: int, *outputs: str) -> onnx.ModelProto:
        """Closes the graph."""
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "block", self.inputs, values, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _x(block: Block, shape: Shape) -> str:
    return block.input("x", ["N", "S", shape.width], (1, shape.sequence, shape.width))


def _attend(block: Block, query: str, key: str, value: str, shape: Shape, mask: str = "") -> str:
    """Scaled dot product attention of heads, merged again and projected."""
    score = block.op("MatMul", query, block.op("Transpose", key, perm=[0, 1, 3, 2]))
    score = block.op("Div", score, block.const(math.sqrt(HEAD_SIZE)))
    score = block.op("Add", score, mask) if mask else score
    heads = block.op("MatMul", block.op("Softmax", score, axis=-1), value)
    merged = block.op("Transpose", heads, perm=[0, 2, 1, 3])
    return block.linear(
        block.op("Reshape", merged, block.const([0, 0, shape.width], np.int64)), shape.width, shape.width
    )


def _heads(block: Block, x: str, shape: Shape, count: int = 0) -> str:
    count = count or shape.heads
    parts = block.op(
        "Reshape", block.linear(x, shape.width, count * HEAD_SIZE), block.const([0, 0, count, HEAD_SIZE], np.int64)
    )
    return block.op("Transpose", parts, perm=[0, 2, 1, 3])


def _self_attention(shape: Shape, *, mask: bool = False, opset: int = 18) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    x = _x(block, shape)
    name = block.input("mask", ["N", 1, "S", "S"], (1, 1, shape.sequence, shape.sequence)) if mask else ""
    query, key, value = (_heads(block, x, shape) for _ in range(3))
    return block.model(opset, _attend(block, query, key, value, shape, name)), block.feed


def _cached(shape: Shape, opset: int = 18) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    x = _x(block, shape)
    query, *new = (_heads(block, x, shape) for _ in range(3))
    full = []
    for name, part in zip(("past_k", "past_v"), new, strict=True):
        size = (1, shape.heads, shape.past, HEAD_SIZE)
        past = block.input(name, ["N", shape.heads, "P", HEAD_SIZE], size)
        full.append(block.op("Concat", past, part, axis=2))
    return block.model(opset, _attend(block, query, *full, shape), *full), block.feed


def _grouped(shape: Shape) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    x = _x(block, shape)
    few, groups = shape.heads // 3, 3
    query = _heads(block, x, shape)
    size = block.op("Gather", block.op("Shape", x), block.const([1], np.int64))
    batch = block.op("Gather", block.op("Shape", x), block.const([0], np.int64))
    last, count = block.const([HEAD_SIZE], np.int64), block.const([shape.heads], np.int64)
    wide = block.op("Concat", batch, block.const([few, groups], np.int64), size, last, axis=0)
    flat = block.op("Concat", batch, count, size, last, axis=0)
    repeated = []
    for _ in range(2):
        part = block.op("Unsqueeze", _heads(block, x, shape, few), block.const([2], np.int64))
        repeated.append(block.op("Reshape", block.op("Expand", part, wide), flat))
    return block.model(18, _attend(block, query, *repeated, shape)), block.feed


def _gelu(shape: Shape, kind: str, *, bias: bool = False, late: bool = False) -> tuple[onnx.ModelProto, Feed]:
    """A wide layer's activation; `late`: the gate is halved, as newer exporters write it, instead of x."""
    block = Block()
    x = _x(block, shape)
    wide = block.op("MatMul", x, block.weight(shape.width, 4 * shape.width))
    wide = block.op("Add", wide, block.weight(4 * shape.width)) if bias else wide
    if kind == "quick":
        gate = block.op("Sigmoid", block.op("Mul", wide, block.const(1.702)))
        product = block.op("Mul", wide, gate)
    else:
        if kind == "erf":
            inner = block.op("Erf", block.op("Div", wide, block.const(math.sqrt(2))))
        else:
            cubic = block.op("Mul", block.op("Pow", wide, block.const(3)), block.const(0.044715))
            inner = block.op("Mul", block.op("Add", wide, cubic), block.const(math.sqrt(2 / math.pi)))
            inner = block.op("Tanh", inner)
        gate = block.op("Add", inner, block.const(1))
        half = block.const(0.5)
        if late:
            product = block.op("Mul", wide, block.op("Mul", half, gate))
        else:
            product = block.op("Mul", block.op("Mul", wide, half), gate)
    return block.model(18, block.op("MatMul", product, block.weight(4 * shape.width, shape.width))), block.feed


def _skip(shape: Shape, kind: str) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    x = _x(block, shape)
    total = block.op("Add", x, block.op("MatMul", x, block.weight(shape.width, shape.width)))
    scale = block.const(np.ones(shape.width))
    if kind == "layer":
        norm = block.op("LayerNormalization", total, scale, block.const(np.zeros(shape.width)))
    elif kind == "rms":
        norm = block.op("RMSNormalization", total, scale)
    else:
        mean = block.op("ReduceMean", block.op("Pow", total, block.const(2)), block.const([-1], np.int64))
        root = block.op("Sqrt", block.op("Add", mean, block.const(1e-5)))
        norm = block.op("Mul", scale, block.op("Mul", total, block.op("Reciprocal", root)))
    product = block.op("MatMul", norm, block.weight(shape.width, shape.width))
    return block.model(23 if kind == "rms" else 18, block.op("Add", product, total)), block.feed


def _embeddings(shape: Shape) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    block.input("x", ["N", "S"], (1, shape.sequence))
    block.feed["x"] = np.abs(block.feed["x"] * 100)
    ids = block.op("Cast", "x", to=TensorProto.INT64)
    rows = block.op("Gather", block.weight(2000, shape.width), ids)
    steps = block.const(np.arange(shape.sequence)[None], np.int64)
    places = block.op("Gather", block.weight(512, shape.width), steps)
    block.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", shape.sequence])
    total = block.op("Add", rows, places)
    scale, bias = block.const(np.ones(shape.width)), block.const(np.zeros(shape.width))
    return block.model(18, block.op("LayerNormalization", total, scale, bias)), block.feed


def _rotary(shape: Shape, opset: int = 18) -> tuple[onnx.ModelProto, Feed]:
    block = Block()
    size = (1, shape.heads, shape.sequence, HEAD_SIZE)
    x = block.input("x", ["N", shape.heads, "S", HEAD_SIZE], size)
    half = HEAD_SIZE // 2
    angles = block.input("angles", [1, "S", half], (1, shape.sequence, half))
    twice = block.op("Concat", angles, angles, axis=-1)
    one = block.const([1], np.int64)
    cos, sin = (block.op("Unsqueeze", block.op(name, twice), one) for name in ("Cos", "Sin"))
    cuts = [block.const([cut], np.int64) for cut in (0, half, HEAD_SIZE)]
    axis = block.const([3], np.int64)
    first, second = (block.op("Slice", x, cuts[i], cuts[i + 1], axis) for i in (0, 1))
    turned = block.op("Concat", block.op("Neg", second), first, axis=-1)
    return block.model(opset, block.op("Add", block.op("Mul", x, cos), block.op("Mul", turned, sin))), block.feed


Maker = Callable[[Shape], tuple[onnx.ModelProto, Feed]]
MHA = "multi-head-attention"
FORMS: dict[str, tuple[Maker, tuple[str, ...]]] = {
    "multi-head-attention": (_self_attention, (MHA,)),
    "multi-head-attention, mask": (lambda s: _self_attention(s, mask=True), (MHA,)),
    "multi-head-attention, cache": (_cached, (MHA,)),
    "packed-attention": (_self_attention, (MHA, "packed-attention")),
    "group-query-attention": (_grouped, ("group-query-attention",)),
    "attention": (lambda s: _self_attention(s, opset=23), ("attention",)),
    "attention, cache": (lambda s: _cached(s, opset=23), ("attention",)),
    "rotary-embedding": (_rotary, ("rotary-embedding",)),
    "standard-rotary-embedding": (lambda s: _rotary(s, opset=23), ("standard-rotary-embedding",)),
    "gelu": (lambda s: _gelu(s, "erf"), ("gelu",)),
    "gelu, bias": (lambda s: _gelu(s, "erf", bias=True), ("gelu", "bias-gelu")),
    "gelu, gate halved": (lambda s: _gelu(s, "erf", bias=True, late=True), ("gelu", "bias-gelu")),
    "fast-gelu": (lambda s: _gelu(s, "tanh"), ("fast-gelu",)),
    "fast-gelu, bias": (lambda s: _gelu(s, "tanh", bias=True), ("fast-gelu", "bias-fast-gelu")),
    "quick-gelu": (lambda s: _gelu(s, "quick"), ("quick-gelu",)),
    "skip-layer-norm": (lambda s: _skip(s, "layer"), ("skip-layer-norm",)),
    "skip-rms-norm": (lambda s: _skip(s, "rms"), ("skip-rms-norm",)),
    "skip-decomposed-rms-norm": (lambda s: _skip(s, "decomposed"), ("skip-decomposed-rms-norm",)),
    "embed-layer-norm": (_embeddings, ("embed-layer-norm",)),
}


def _shapes(form: str) -> Iterator[Shape]:
    for heads in HEADS:
        if "cache" in form:
            yield from (Shape(heads, 1, past) for past in PASTS)
        else:
            yield from (Shape(heads, sequence) for sequence in SEQUENCES)


def measure(form: str, shape: Shape, target: Capabilities, seconds: float) -> Row:
    """Times one form at one shape, after checking that it is made and computes the same."""
    make, rules = FORMS[form]
    source, feed = make(shape)
    plain, fused = ir.load(source).model, ir.load(source).model
    result = FuseTransformer(enable=rules).apply(fused, PassContext(target))
    if set(result.stats) != set(rules):
        raise SystemExit(f"{form}: made {result.stats}; {[refusal.reason for refusal in result.refusals]}")
    for step in (Fuse(), Cleanup()):
        for model in (plain, fused):
            step.apply(model, PassContext(target))
    with Session(ir.serialize(plain)) as a, Session(ir.serialize(fused)) as b:
        for before, after in zip(a.run(feed), b.run(feed), strict=True):
            np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * max(1.0, float(np.abs(before).max())))
        timed = paired_latency(a, b, feed, seconds=seconds)
    return Row(
        form,
        shape.heads,
        shape.sequence,
        shape.past,
        round(timed.a_seconds * 1e3, 4),
        round(timed.ratio, 3),
        round(timed.low, 3),
        round(timed.high, 3),
    )


def main() -> None:
    """Measures and prints a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=list(FORMS), default=list(FORMS), metavar="FORM")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timing for each row")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    target = backend("onnxruntime").capabilities(describe_machine())
    rows = []
    for form in options.forms:
        for shape in _shapes(form):
            row = measure(form, shape, target, options.seconds)
            rows.append(row)
            print(
                f"{form:28} heads {row.heads:2} sequence {row.sequence:3} past {row.past:3} "
                f"{row.milliseconds:9.3f} ms  {row.ratio:.3f} [{row.low:.3f}, {row.high:.3f}]",
                file=sys.stderr if options.json else sys.stdout,
                flush=True,
            )
    worst = {form: min(row.ratio for row in rows if row.form == form) for form in options.forms}
    if options.json:
        machine = asdict(describe_machine())
        print(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows], "worst": worst}, indent=1))
    else:
        for form, ratio in worst.items():
            print(f"{form:28} worst {ratio:.3f} {'harmless' if ratio >= HARMLESS else 'a choice'}")


if __name__ == "__main__":
    main()
