"""The rule that takes the projections of queries, keys and values into attention: one product instead of three."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.attention.rule import MICROSOFT, FusedRule, dims, known_dims, producer, same, shaped
from sardonyx.passes.rewriting.pattern import Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor

MASK_INPUT = 5
"""Index of the additive mask, in MultiHeadAttention and in Attention."""


@dataclass(frozen=True)
class Projection:
    """x W + b.

    Attributes:
        source: x, of shape [B, S, C].
        weight: W, a constant; of shape [C, D], or [D, C] where `transposed`.
        bias: b, a constant of shape [D], or None.
        transposed: Whether the weight is used transposed.
    """

    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    transposed: bool = False

    def arrays(self) -> "tuple[np.typing.NDArray[np.float32], np.typing.NDArray[np.float32]]":
        """Returns W [C, D] and b [D]."""
        tensor = ir.constant_tensor(self.weight)
        assert tensor is not None, "reading makes sure of constants"
        weight = tensor.numpy().T if self.transposed else tensor.numpy()
        offset = ir.constant_tensor(self.bias) if self.bias is not None else None
        bias = np.zeros(weight.shape[1], weight.dtype) if offset is None else offset.numpy().reshape(-1)
        return weight, bias


class PackedAttention(FusedRule):
    """Attention on x itself, its weight the three projections' side by side: [C, 3 N H]."""

    name = "packed-attention"
    summary = "MultiHeadAttention of three projections of one value becomes com.microsoft Attention"
    op_type = "Attention"
    pattern: ClassVar[Op] = Op(
        "MultiHeadAttention", Var("query"), Var("key"), Var("value"), open_inputs=True, domain=MICROSOFT
    )

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Refuses caches, and inputs that are not three equal projections of one value by constants."""
        rest = found.root.inputs[3:]
        if any(value is not None for index, value in enumerate(rest, 3) if index != MASK_INPUT):
            return f"{found.root.name} has a cache or a padding mask"
        read = _projections(found)
        return read if isinstance(read, str) else self.dtype_obstacle(read[0].source, read[0].weight)

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds com.microsoft Attention."""
        read = _projections(found)
        assert not isinstance(read, str), "the check refuses other inputs"
        weights, biases = zip(*(projection.arrays() for projection in read), strict=True)
        root = found.root
        weight = editor.constant(f"{root.name}_weight", np.concatenate(weights, axis=1))
        bias = editor.constant(f"{root.name}_bias", np.concatenate(biases))
        mask = root.inputs[MASK_INPUT] if len(root.inputs) > MASK_INPUT else None
        kept = [a for name, a in root.attributes.items() if name in ("num_heads", "scale")]
        inputs = [read[0].source, weight, bias, *([None, None, mask] if mask is not None else [])]
        result = self.make(editor, inputs, kept)[0]
        return shaped(result, root.outputs[0], known_dims(root.outputs[0]))


def _projections(found: Match) -> tuple[Projection, ...] | str:
    """The projections that queries, keys and values are, or the packed one alone; or why they are none."""
    values = [found.values[name] for name in ("query", "key", "value")]
    widths = [shape[2] if (shape := dims(value, 3)) is not None else None for value in values]
    if len({*widths}) != 1 or not isinstance(widths[0], int):
        return "queries, keys and values are not known to be of one width"
    split = producer(values[0], "Split")
    if split is not None and list(split.outputs) == values and ir.attribute(split, "axis", 0) in (-1, 2):
        values = [value for value in split.inputs[:1] if value is not None]
        used = [len(tuple(output.uses())) for output in split.outputs]
        if used != [1, 1, 1]:
            return f"the thirds of {values[0].name} are used elsewhere too"
    read = [_projection(value) for value in values]
    for projection in read:
        if isinstance(projection, str):
            return projection
    done = tuple(projection for projection in read if isinstance(projection, Projection))
    if any(projection.source is not done[0].source for projection in done):
        return "queries, keys and values are projections of different values"
    return done


def _projection(value: ir.Value) -> Projection | str:
    """Reads x W + b as MatMul and Add, or as a Gemm between two Reshapes."""
    if len(tuple(value.uses())) != 1 or value.is_graph_output():
        return f"{value.name} is used elsewhere too"
    reshape = producer(value, "Reshape")
    if reshape is not None:
        return _gemm(value, reshape)
    add = producer(value, "Add")
    product: ir.Value | None = value
    bias: ir.Value | None = None
    if add is not None:
        left, right = add.inputs
        product, bias = (left, right) if producer(left, "MatMul") is not None else (right, left)
    node = producer(product, "MatMul")
    constant = bias is None or _constant(bias, 1)
    if node is None or not _constant(node.inputs[1], 2) or not constant:
        return f"{value.name} is not a product with a constant, plus a constant"
    if len(tuple(node.outputs[0].uses())) != 1:
        return f"{node.outputs[0].name} is used elsewhere too"
    source, weight = node.inputs
    assert source is not None, "MatMul has two inputs"
    assert weight is not None, "MatMul has two inputs"
    if dims(source, 3) is None:
        return f"{source.name} is not known to have rank 3"
    return Projection(source, weight, bias)


def _gemm(value: ir.Value, reshape: ir.Node) -> Projection | str:
    """Reads [B, S, C] -> [B S, C], Gemm, [B S, D] -> [B, S, D]."""
    gemm = producer(reshape.inputs[0], "Gemm")
    first = producer(gemm.inputs[0], "Reshape") if gemm is not None else None
    if gemm is None or first is None or first.inputs[0] is None or gemm.inputs[1] is None:
        return f"{value.name} is not a product with a constant, plus a constant"
    plain = all(ir.attribute(gemm, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if not plain or ir.attribute(gemm, "transA", 0) or not _constant(gemm.inputs[1], 2):
        return f"{gemm.name} is not a plain product with a constant"
    if bias is not None and not _constant(bias, 1):
        return f"the bias of {gemm.name} is not a constant of rank 1"
    source, result, inner = first.inputs[0], dims(value, 3), dims(first.outputs[0], 2)
    shape = dims(source, 3)
    if shape is None or result is None or inner is None:
        return f"the shapes around {gemm.name} are not known"
    if not (same(shape[2], inner[1]) and all(map(same, shape[:2], result[:2]))):
        return f"the Reshapes around {gemm.name} are not known to merge and part batch and sequence"
    if len(tuple(gemm.outputs[0].uses())) != 1:
        return f"{gemm.outputs[0].name} is used elsewhere too"
    return Projection(source, gemm.inputs[1], bias, bool(ir.attribute(gemm, "transB", 0)))


def _constant(value: ir.Value | None, rank: int) -> bool:
    tensor = ir.constant_tensor(value) if value is not None else None
    return tensor is not None and len(tensor.shape) == rank


RULES = (PackedAttention,)
