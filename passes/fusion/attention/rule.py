"""Rules whose result is an operator that not every target runs."""

from abc import ABC
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.capabilities import FusedSupport
from sardonyx.passes.rewriting.pattern import Match
from sardonyx.passes.rewriting.rule import Editor, Rule

Dim = int | ir.SymbolicDim
MICROSOFT = "com.microsoft"
WRITTEN_OPSET = 13
"""Split, Squeeze and Unsqueeze take sizes and axes as inputs from opset 13."""


class FusedRule(Rule, ABC):
    """A rule that makes one fused operator.

    Args:
        support: What the target says of the operator; None: nothing is known but the standard.

    Attributes:
        op_type: The operator it makes.
        domain: That operator's domain.
        since: First version of that domain that has it.
    """

    op_type: ClassVar[str]
    domain: ClassVar[str] = MICROSOFT
    since: ClassVar[int] = 1

    def __init__(self, support: FusedSupport | None = None) -> None:
        unknown = FusedSupport(self.op_type, self.domain, self.since, masked_rows_as_softmax=False)
        self.support = support or unknown

    def check(self, found: Match, opset: int) -> str | None:
        """Refuses opsets without the operator, then what the rule itself refuses."""
        if not self.domain and opset < self.support.opset_version:
            return f"{self.op_type} needs opset {self.support.opset_version}, the model has {opset}"
        if opset < WRITTEN_OPSET:
            return f"the nodes around {self.op_type} are written in opset {WRITTEN_OPSET}, the model has {opset}"
        return self.obstacle(found, opset)

    def obstacle(self, found: Match, opset: int) -> str | None:
        """Returns why a match must not be rewritten, as a sentence, or None."""
        return None

    def dtype_obstacle(self, *values: ir.Value) -> str | None:
        """Returns which of some values has a type that the operator does not take, or None."""
        for value in values:
            if value.dtype not in self.support.dtypes:
                known = " or ".join(sorted(dtype.name for dtype in self.support.dtypes))
                dtype = value.dtype.name if value.dtype is not None else "of unknown type"
                return f"{value.name} is {dtype}; {self.op_type} takes {known}"
        return None

    def make(
        self, editor: Editor, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr] = (), *, outputs: int = 1
    ) -> Sequence[ir.Value]:
        """Adds the fused node and returns its outputs."""
        return editor.node(self.op_type, inputs, attributes, outputs=outputs, domain=self.domain)


def dims(value: ir.Value, rank: int) -> tuple[Dim, ...] | None:
    """Returns a value's dimensions, or None where its rank is unknown or another."""
    return tuple(value.shape) if value.shape is not None and len(value.shape) == rank else None


def known_dims(value: ir.Value) -> tuple[Dim, ...]:
    """Returns a value's dimensions; none where its rank is unknown."""
    return () if value.shape is None else tuple(value.shape)


def permutation(node: ir.Node) -> tuple[int, ...]:
    """Returns the permutation of a Transpose; nothing where it is left to reverse all axes."""
    nothing: tuple[int, ...] = ()
    return ir.attribute(node, "perm", nothing)


def same(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are surely equal: the same number, or the same symbol."""
    if isinstance(a, int) or isinstance(b, int):
        return a == b
    return a.value is not None and a.value == b.value


def same_dims(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values surely have the same shape."""
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return False
    return all(same(m, n) for m, n in zip(a.shape, b.shape, strict=True))


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Returns the node that computes a value, if it is one of some standard operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and not node.domain else None


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number that a constant of one element holds, or None."""
    tensor = ir.constant_tensor(value) if value is not None else None
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns a constant of integers, flattened, or None."""
    tensor = ir.constant_tensor(value) if value is not None else None
    return None if tensor is None else tuple(int(item) for item in tensor.numpy().ravel())


def shaped(value: ir.Value, like: ir.Value, shape: Iterable[Dim]) -> ir.Value:
    """Sets the type and shape that the library does not infer for operators of other domains."""
    if like.dtype is not None:
        value.dtype = like.dtype
    value.shape = ir.Shape(shape)
    return value


def dimension(editor: Editor, value: ir.Value, axis: int) -> ir.Value:
    """Returns one dimension of a value as an INT64 tensor of shape [1]: a constant where it is known."""
    size = value.shape[axis] if value.shape is not None else None
    if isinstance(size, int):
        return editor.constant(f"{value.name}_dim", np.array([size], np.int64))
    shape = editor.op("Shape", [value])
    return editor.op("Gather", [shape, editor.constant(f"{value.name}_axis", np.array([axis], np.int64))])


def reshaped(editor: Editor, value: ir.Value, target: Sequence[int], shape: Iterable[Dim]) -> ir.Value:
    """Adds a Reshape to constant sizes (0 copies one), and states the shape that it gives."""
    constant = editor.constant(f"{value.name}_shape", np.array(target, np.int64))
    return shaped(editor.op("Reshape", [value, constant]), value, shape)


def transposed(editor: Editor, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    """Adds a Transpose, and states the shape that it gives."""
    result = editor.op("Transpose", [value], [ir.AttrInt64s("perm", tuple(perm))])
    return result if value.shape is None else shaped(result, value, [value.shape[axis] for axis in perm])
