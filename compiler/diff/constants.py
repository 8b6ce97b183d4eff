"""Constants of a model: what they hold, known by a hash, and what else can be computed from them without running."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sardonyx import ir

FOLDED_ELEMENTS = 1 << 22
"""Constants above this size are not computed with: a node that reads one is known by its operands alone."""

KEPT_ELEMENTS = 1 << 16
"""Computed constants above this size are forgotten but for their key, so that memory does not grow with weights."""


@dataclass(frozen=True)
class Constant:
    """A value that no input changes.

    Attributes:
        key: Equal for constants of equal dtype, shape and content.
        dtype: Type of its elements.
        shape: Its shape.
        tensor: The tensor, or None where the value is computed from constants too large to compute with.
    """

    key: str
    dtype: ir.DataType | None
    shape: tuple[int, ...] | None
    tensor: ir.TensorProtocol | None

    @property
    def size(self) -> int:
        """Number of elements; 0 where the shape is unknown."""
        return math.prod(self.shape) if self.shape is not None else 0


def tensor_key(tensor: ir.TensorProtocol) -> str:
    """Returns a text that is equal for tensors of equal dtype, shape and bytes; external ones are read in pieces.

    Raises:
        LoadError: If external data can no longer be read.
    """
    digest = hashlib.sha256()
    for chunk in ir.read_chunks(tensor):
        digest.update(chunk)
    return f"{tensor.dtype.name}{list(tensor.shape)}:{digest.hexdigest()[:32]}"


def text_key(text: str) -> str:
    """Returns a key of bounded length for what a constant is computed with."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def held(tensor: ir.TensorProtocol) -> Constant:
    """Returns the constant of a tensor."""
    return Constant(tensor_key(tensor), tensor.dtype, tuple(tensor.shape.numpy()), tensor)


class Folder:
    """Computes what a node makes of constants, or of a shape that is known.

    Args:
        opset_imports: Opset version by domain, as the model imports them.
    """

    def __init__(self, opset_imports: Mapping[str, int]) -> None:
        self._opsets = opset_imports

    def fold(self, node: ir.Node, inputs: list[Constant | None]) -> list[Constant] | None:
        """Returns a constant for each output, or None where the node cannot be computed here.

        Args:
            node: The node.
            inputs: What it reads; None for an operand left out.
        """
        if not self._small(node, inputs):
            return None
        arrays = [None if c is None or c.tensor is None else ir.read_array(c.tensor) for c in inputs]
        try:
            results = ir.evaluate_node(node, arrays, opset_imports=self._opsets)
        except ir.EvaluationError:
            return None  # known by its operands instead
        if len(results) != len(node.outputs):
            return None
        return [_kept(held(ir.tensor(np.asarray(result)))) for result in results]

    def _small(self, node: ir.Node, inputs: list[Constant | None]) -> bool:
        """Whether all operands are at hand and few, and the operator's results are not much larger."""
        if node.domain or node.op_type in _LEFT or any(c is not None and c.tensor is None for c in inputs):
            return False
        if node.op_type in _GROWING and not all(_is_small(output.shape) for output in node.outputs):
            return False
        return sum(c.size for c in inputs if c is not None) <= FOLDED_ELEMENTS

    @staticmethod
    def fold_shape(node: ir.Node) -> list[Constant] | None:
        """Returns the constant that a Shape or Size of a fully known shape is, or None."""
        if node.domain or node.op_type not in ("Shape", "Size") or node.inputs[0] is None:
            return None
        shape = node.inputs[0].shape
        if shape is None or not shape.is_static():
            return None
        dims = shape.numpy()
        if node.op_type == "Size":
            return [held(ir.tensor(np.asarray(int(np.prod(dims, dtype=np.int64)))))]
        start, end = ir.attribute(node, "start", 0), ir.attribute(node, "end", len(dims))
        return [held(ir.tensor(np.asarray(dims[start:end], np.int64)))]


def _kept(constant: Constant) -> Constant:
    """Lets go of a large computed tensor: its key says enough."""
    return constant if constant.size <= KEPT_ELEMENTS else replace(constant, tensor=None)


def _is_small(shape: ir.Shape | None) -> bool:
    """Whether a shape is known and of few elements."""
    return shape is not None and shape.is_static() and int(np.prod(shape.numpy(), dtype=np.int64)) <= KEPT_ELEMENTS


_GROWING = frozenset({
    "ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "Pad", "OneHot", "Resize", "NonZero", "Upsample",
})  # fmt: skip
"""Operators whose result may be larger than their operands: computed where it is known to be small."""

_LEFT = frozenset({
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
    "DequantizeLinear",
})  # fmt: skip
"""Operators whose result is not the same every time, and the one whose integers are looked at instead."""
