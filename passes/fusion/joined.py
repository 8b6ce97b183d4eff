"""Products of one value with several constant matrices, such as queries, keys and values, as one product."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.fusion.concats import SPLIT_INPUT_OPSET
from sardonyx.passes.fusion.linear import SHARED_BYTES
from sardonyx.passes.provenance import mark
from sardonyx.passes.rewriting.pattern import AnyOf, Const, Match, Op, Var
from sardonyx.passes.rewriting.rule import Editor, Rule


@dataclass(frozen=True)
class _Product:
    """A MatMul by a constant matrix, with the Add of its bias where it has one.

    Attributes:
        node: The MatMul.
        output: What it computes, bias included.
        weight: The matrix, of shape [rows, columns].
        bias: The bias, of shape [columns], or None.
    """

    node: ir.Node
    output: ir.Value
    weight: ir.TensorProtocol
    bias: ir.TensorProtocol | None

    @property
    def columns(self) -> int:
        """How many columns the matrix has."""
        return int(self.weight.shape.numpy()[1])

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The MatMul, and the Add behind it."""
        end = self.output.producer()
        return (self.node,) if end is None or end is self.node else (self.node, end)

    def fits_beside(self, other: "_Product") -> bool:
        """Whether both can be columns of one matrix: as many rows, one type, both with a bias or both without."""
        rows = self.weight.shape.numpy()[0] == other.weight.shape.numpy()[0]
        return rows and self.weight.dtype is other.weight.dtype and (self.bias is None) is (other.bias is None)


def _constant(value: ir.Value | None, rank: int) -> ir.TensorProtocol | None:
    tensor = None if value is None else ir.constant_tensor(value)
    return tensor if tensor is not None and len(tensor.shape) == rank else None


def _product(node: ir.Node | None) -> _Product | None:
    """Reads a MatMul and the Add behind it."""
    if node is None or node.op_type != "MatMul" or node.domain:
        return None
    weight = _constant(node.inputs[1], 2)
    if weight is None:
        return None
    product = _Product(node, node.outputs[0], weight, None)
    uses = tuple(product.output.uses())
    add = uses[0].node if len(uses) == 1 and not product.output.is_graph_output() else None
    if add is None or add.op_type != "Add" or add.domain or add.graph is not node.graph:
        return product
    bias = _constant(add.inputs[1 - uses[0].idx], 1)
    if bias is None or bias.shape.numpy() != (product.columns,) or bias.dtype is not weight.dtype:
        return product
    return _Product(node, add.outputs[0], weight, bias)


def _ending_at(root: ir.Node) -> _Product | None:
    """The product that a MatMul, or the Add of its bias, ends."""
    before = [value.producer() for value in root.inputs if value is not None] if root.op_type == "Add" else [root]
    products = [product for node in before if (product := _product(node)) is not None]
    return next((product for product in products if product.output is root.outputs[0]), None)


def _beside(root: ir.Node) -> Sequence[_Product]:
    """The products that can be one with that which ends at a node, in order of use, if that is the first of them."""
    first = _ending_at(root)
    x = None if first is None else first.node.inputs[0]
    if first is None or x is None:
        return ()
    readers = [use.node for use in x.uses() if use.idx == 0 and use.node.graph is root.graph]
    products = [product for reader in readers if (product := _product(reader)) is not None]
    fitting = [product for product in products if product.fits_beside(first)]
    return fitting if fitting[0].node is first.node else ()


def _is_alone(root: ir.Node) -> str | None:
    alone = len(_beside(root)) < 2
    return f"no other product by a constant matrix like that of {root.name} comes behind it" if alone else None


class JoinMatMuls(Rule):
    """x A, x B and x C are the columns of x [A B C]: the same sums, by one MatMul and a Split.

    A runtime reads x once for all, but the Split copies what it computed: on the CPU of ONNX Runtime 1.1 times as fast
    for few or narrow rows, up to 1.3 times slower for many.
    """

    name = "join-matmuls"
    summary = "MatMuls of one value by constant matrices, with their biases, become one MatMul and a Split"
    candidate = True
    pattern: ClassVar[AnyOf] = AnyOf(
        Op("Add", Op("MatMul", Var("x"), Const("weight")), Const("bias"), fits=_is_alone),
        Op("MatMul", Var("x"), Const("weight"), fits=_is_alone),
    )

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets in which a Split takes its parts otherwise, and matrices that others read too."""
        if opset < SPLIT_INPUT_OPSET:
            return f"Split needs opset {SPLIT_INPUT_OPSET}, the model has {opset}"
        joined = {product.node for product in _beside(found.root)}
        for product in _beside(found.root):
            weight = product.node.inputs[1]
            shared = weight is not None and any(use.node not in joined for use in weight.uses())
            if weight is not None and shared and product.weight.nbytes > SHARED_BYTES:
                return f"other nodes use {weight.name} too, and a copy would add {product.weight.nbytes} bytes"
        return None

    def rewrite(self, found: Match, editor: Editor) -> ir.Value:
        """Builds the nodes where x is made, before all of the products."""
        x, products = found.values["x"], _beside(found.root)
        first = products[0]
        columns = [product.columns for product in products]
        name = (first.node.inputs[1] or x).name or "weight"
        shape = (int(first.weight.shape.numpy()[0]), sum(columns))
        weights = [product.weight for product in products]
        weight = editor.lazy_constant(f"{name}_joined", first.weight.dtype, shape, partial(_side_by_side, weights))
        lengths = editor.constant(f"{name}_split", np.array(columns, np.int64))
        (joined,) = editor.node("MatMul", [x, weight], after=x)
        biases = [product.bias for product in products if product.bias is not None]
        behind = [joined]
        if biases:
            bias = editor.constant(f"{name}_joined_bias", _side_by_side(biases))
            behind += editor.node("Add", [joined, bias], after=joined)
        for value in behind:
            _widen(value, first.output, sum(columns))
        parts = editor.node(
            "Split", [behind[-1], lengths], [ir.AttrInt64("axis", -1)], outputs=len(products), after=behind[-1]
        )
        for node in editor.made:
            mark(node, self.name, *(each.name for product in products for each in product.nodes))
        for product, part in zip(products[1:], parts[1:], strict=True):
            editor.replace(product.output, part)
        return parts[0]


def _widen(value: ir.Value, like: ir.Value, columns: int) -> None:
    """Gives a value the type and shape of another, with another last axis."""
    value.type = like.type
    value.shape = None if like.shape is None else ir.Shape([*list(like.shape)[:-1], columns])


def _side_by_side(tensors: Sequence[ir.TensorProtocol]) -> "np.typing.NDArray[np.generic]":
    return np.concatenate([ir.read_array(tensor) for tensor in tensors], axis=-1)


RULES = (JoinMatMuls(),)
