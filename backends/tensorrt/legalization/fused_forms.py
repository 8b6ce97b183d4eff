"""Fused operators of ONNX Runtime's domain become the standard operators that they fuse, equal but for rounding.

The formulas are those of the operators' definitions in ONNX Runtime's ContribOperators.md.
"""

from collections.abc import Callable, Mapping

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.legalization.editing import Editor, declared
from sardonyx.backends.tensorrt.qdq import input_of, rank_of
from sardonyx.ir import DataType

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_FIRST_GELU = 20
_FIRST_LAYER_NORM = 17
_FIRST_REDUCE_AXES_INPUT = 18

Rewrite = Callable[["_Chain"], "str | None"]


class _Chain:
    """Builds the replacement of one node."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor = editor
        self.node = node
        self.like = node.outputs[0]

    def input(self, index: int) -> ir.Value | None:
        """An input of the node."""
        return input_of(self.node, index)

    def op(self, op_type: str, *inputs: ir.Value | None, attributes: tuple[ir.Attr, ...] = ()) -> ir.Value:
        """Adds a node whose output has the type and shape of the replaced one's."""
        return self.editor.op(self.node, op_type, inputs, attributes, like=self.like)

    def number(self, value: float) -> ir.Value:
        """Adds a scalar of the type of the node's output."""
        return self.editor.constant(self.node, f"{self.node.name}_value", value, self.like.dtype or DataType.FLOAT)

    def finish(self, value: ir.Value, output: int = 0) -> None:
        """Lets a value take the place of an output."""
        self.editor.replace(self.node.outputs[output], value)

    def is_used(self, output: int) -> bool:
        """Whether an output is there and something takes it."""
        outputs = self.node.outputs
        return output < len(outputs) and bool(outputs[output].uses() or outputs[output].is_graph_output())


def _erf_gelu(chain: _Chain, x: ir.Value) -> ir.Value:
    """x/2 (1 + erf(x / sqrt 2))."""
    if chain.editor.opset >= _FIRST_GELU:
        return chain.op("Gelu", x)
    inner = chain.op("Erf", chain.op("Div", x, chain.number(float(np.sqrt(2.0)))))
    return chain.op("Mul", chain.op("Mul", x, chain.op("Add", inner, chain.number(1.0))), chain.number(0.5))


def _tanh_gelu(chain: _Chain, x: ir.Value) -> ir.Value:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if chain.editor.opset >= _FIRST_GELU:
        return chain.op("Gelu", x, attributes=(ir.AttrString("approximate", "tanh"),))
    cube = chain.op("Mul", chain.op("Mul", x, x), x)
    inner = chain.op("Add", x, chain.op("Mul", cube, chain.number(0.044715)))
    outer = chain.op("Tanh", chain.op("Mul", inner, chain.number(float(np.sqrt(2.0 / np.pi)))))
    return chain.op("Mul", chain.op("Mul", x, chain.op("Add", outer, chain.number(1.0))), chain.number(0.5))


def _gelu_of(form: Callable[[_Chain, ir.Value], ir.Value]) -> Rewrite:
    """A Gelu of the sum of the first input and, where there is one, a bias."""

    def rewrite(chain: _Chain) -> str | None:
        x, bias = chain.input(0), chain.input(1)
        if x is None:
            return "its input is left out"
        chain.finish(form(chain, x if bias is None else chain.op("Add", x, bias)))
        return None

    return rewrite


def _quick_gelu(chain: _Chain) -> str | None:
    x = chain.input(0)
    alpha = ir.attribute(chain.node, "alpha", 1.702)
    chain.finish(chain.op("Mul", x, chain.op("Sigmoid", chain.op("Mul", x, chain.number(alpha)))))
    return None


def _transposed(chain: _Chain, index: int, flag: str) -> ir.Value | None:
    """An input with its last two dimensions exchanged where the attribute says so."""
    value = chain.input(index)
    if value is None or not ir.attribute(chain.node, flag, 0):
        return value
    rank = rank_of(value)
    if rank is None or rank < 2:
        return None
    order = [*range(rank - 2), rank - 1, rank - 2]
    made = chain.op("Transpose", value, attributes=(ir.AttrInt64s("perm", order),))
    made.shape = None if value.shape is None else ir.Shape([value.shape[i] for i in order])
    return made


def _fused_matmul(chain: _Chain) -> str | None:
    if any(ir.attribute(chain.node, flag, 0) for flag in ("transBatchA", "transBatchB")):
        return "it transposes batches (transBatchA, transBatchB)"
    if any(
        ir.attribute(chain.node, f, 0) and rank_of(chain.input(i)) in (None, 1)
        for i, f in ((0, "transA"), (1, "transB"))
    ):
        return "the rank of an input that it transposes is unknown or 1"
    product = chain.op("MatMul", _transposed(chain, 0, "transA"), _transposed(chain, 1, "transB"))
    alpha = ir.attribute(chain.node, "alpha", 1.0)
    chain.finish(product if alpha == 1.0 else chain.op("Mul", product, chain.number(alpha)))
    return None


_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


def _activated(chain: _Chain, value: ir.Value, activation: str, parameters: tuple[float, ...]) -> ir.Value:
    if not activation:
        return value
    if activation == "Clip":
        low, high = parameters
        return chain.editor.clip(chain.node, value, low, high)
    names = _ACTIVATIONS[activation]
    given = tuple(ir.AttrFloat32(name, each) for name, each in zip(names, parameters, strict=False))
    return chain.op(activation, value, attributes=given)


def _fused_conv(chain: _Chain) -> str | None:
    node = chain.node
    activation = ir.attribute(node, "activation", "")
    parameters: tuple[float, ...] = tuple(ir.attribute(node, "activation_params", ()))
    if activation and activation != "Clip" and activation not in _ACTIVATIONS:
        return f"its activation {activation!r} is not known"
    kept = tuple(node.attributes[name] for name in _WINDOW if name in node.attributes)
    bias = [chain.input(2)] if chain.input(2) is not None else []
    value = chain.op("Conv", chain.input(0), chain.input(1), *bias, attributes=kept)
    added = chain.input(3)
    value = value if added is None else chain.op("Add", value, added)
    chain.finish(_activated(chain, value, activation, parameters))
    return None


def _fused_gemm(chain: _Chain) -> str | None:
    node = chain.node
    activation = ir.attribute(node, "activation", "")
    if activation and activation not in _ACTIVATIONS:
        return f"its activation {activation!r} is not known"
    names = ("activation_alpha", "activation_beta")
    parameters = tuple(ir.attribute(node, name, 0.0) for name in names if name in node.attributes)
    kept = tuple(node.attributes[name] for name in ("alpha", "beta", "transA", "transB") if name in node.attributes)
    value = chain.op("Gemm", *(each for each in node.inputs if each is not None), attributes=kept)
    chain.finish(_activated(chain, value, activation, parameters))
    return None


def _layer_norm(chain: _Chain, x: ir.Value, gamma: ir.Value | None, beta: ir.Value | None) -> ir.Value:
    epsilon = ir.AttrFloat32("epsilon", ir.attribute(chain.node, "epsilon", 1e-12))
    inputs = [x, gamma] if beta is None else [x, gamma, beta]
    return chain.op("LayerNormalization", *inputs, attributes=(ir.AttrInt64("axis", -1), epsilon))


def _rms_norm(chain: _Chain, x: ir.Value, gamma: ir.Value | None, epsilon: float) -> ir.Value:
    """X / sqrt(mean(x^2) + epsilon) * gamma over the last dimension."""
    squares = chain.op("Mul", x, x)
    if chain.editor.opset >= _FIRST_REDUCE_AXES_INPUT:
        axes = chain.editor.constant(chain.node, f"{chain.node.name}_axes", [-1], DataType.INT64)
        mean = chain.editor.op(chain.node, "ReduceMean", [squares, axes])
    else:
        mean = chain.editor.op(chain.node, "ReduceMean", [squares], [ir.AttrInt64s("axes", [-1])])
    declared(mean, x.dtype, None)
    root = chain.editor.op(chain.node, "Sqrt", [chain.editor.op(chain.node, "Add", [mean, chain.number(epsilon)])])
    return chain.op("Mul", chain.op("Div", x, root), gamma)


def _sum(chain: _Chain, *indices: int) -> ir.Value | None:
    """The sum of the inputs that are there."""
    total: ir.Value | None = None
    for index in indices:
        value = chain.input(index)
        if value is not None:
            total = value if total is None else chain.op("Add", total, value)
    return total


def _skip_layer_norm(chain: _Chain) -> str | None:
    if chain.editor.opset < _FIRST_LAYER_NORM:
        return f"LayerNormalization needs opset {_FIRST_LAYER_NORM}"
    if chain.is_used(1) or chain.is_used(2):
        return "its mean or its deviation is used"
    total = _sum(chain, 0, 1, 4)
    assert total is not None, "the first two inputs are required"
    chain.finish(_layer_norm(chain, total, chain.input(2), chain.input(3)))
    if chain.is_used(3):
        chain.finish(total, 3)
    return None


def _skip_rms_norm(chain: _Chain) -> str | None:
    if chain.is_used(1) or chain.is_used(2):
        return "its mean or its deviation is used"
    total = _sum(chain, 0, 1, 3)
    assert total is not None, "the first two inputs are required"
    chain.finish(_rms_norm(chain, total, chain.input(2), ir.attribute(chain.node, "epsilon", 1e-5)))
    if chain.is_used(3):
        chain.finish(total, 3)
    return None


def _simplified_layer_norm(chain: _Chain) -> str | None:
    x, rank = chain.input(0), rank_of(chain.input(0))
    if x is None or ir.attribute(chain.node, "axis", -1) not in (-1, (rank or 0) - 1):
        return "it normalizes over more than the last dimension"
    if chain.is_used(1):
        return "its deviation is used"
    chain.finish(_rms_norm(chain, x, chain.input(1), ir.attribute(chain.node, "epsilon", 1e-5)))
    return None


def _embed_layer_norm(chain: _Chain) -> str | None:
    """LayerNormalization of word + position + segment embeddings; positions count from 0 where none are given."""
    if chain.editor.opset < _FIRST_LAYER_NORM:
        return f"LayerNormalization needs opset {_FIRST_LAYER_NORM}"
    if chain.is_used(1):
        return "the count of its mask is used"
    parts = [chain.op("Gather", chain.input(2), chain.input(0))]
    positions = chain.input(8)
    if positions is None:
        parts.append(_first_positions(chain))
    else:
        parts.append(chain.op("Gather", chain.input(3), positions))
    if chain.input(4) is not None and chain.input(1) is not None:
        parts.append(chain.op("Gather", chain.input(4), chain.input(1)))
    total = parts[0]
    for part in parts[1:]:
        total = chain.op("Add", total, part)
    chain.finish(_layer_norm(chain, total, chain.input(5), chain.input(6)))
    if chain.is_used(2):
        chain.finish(total, 2)
    return None


def _first_positions(chain: _Chain) -> ir.Value:
    """The first rows of the position table, as many as the second dimension of the ids: [sequence, hidden]."""
    make = chain.editor.op
    near = chain.node
    numbers = [chain.editor.constant(near, f"{near.name}_index", [index], DataType.INT64) for index in (0, 1, 2)]
    shape = make(near, "Shape", [chain.input(0)])
    length = make(near, "Slice", [shape, numbers[1], numbers[2], numbers[0]])
    return make(near, "Slice", [chain.input(3), numbers[0], length, numbers[0]])


def _to_standard(chain: _Chain) -> str | None:
    chain.node.domain = ""
    return None


REWRITES: Mapping[str, Rewrite] = {
    "Gelu": _gelu_of(_erf_gelu),
    "BiasGelu": _gelu_of(_erf_gelu),
    "FastGelu": _gelu_of(_tanh_gelu),
    "QuickGelu": _quick_gelu,
    "FusedMatMul": _fused_matmul,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "SimplifiedLayerNormalization": _simplified_layer_norm,
    "EmbedLayerNormalization": _embed_layer_norm,
    "LayerNormalization": _to_standard,
}
"""What rewrites a fused operator; it returns why it does not."""

_IN_STANDARD_DOMAIN = frozenset(("SimplifiedLayerNormalization",))
"""Operators that ONNX Runtime defines in the standard domain, where ONNX does not have them."""


def write_standard(editor: Editor) -> None:
    """Rewrites all fused operators of a model."""
    for graph in ir.all_graphs(editor.model):
        for node in tuple(graph):
            rewrite = REWRITES.get(node.op_type)
            if rewrite is None or (not node.domain and node.op_type not in _IN_STANDARD_DOMAIN):
                continue
            reason = rewrite(_Chain(editor, node))
            if reason:
                editor.keep(node, reason)
                continue
            editor.report(node, f"{node.op_type} became the standard operators that it fuses, equal but for rounding")
            ir.remove_unused([node])
