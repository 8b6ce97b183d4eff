"""Which operators work as well on permuted values, and what changes about them: axes, axis lists, paddings, constants.

A value v is permuted by `perm` where v = Transpose(w, perm) and w is at hand instead. Axis i of v is axis perm[i] of w.
The operators are those of opset 13 and later.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.passes.fusion.facts import ONE, axis_of, integers, listed, normalized, operand, rank, sizes
from sardonyx.passes.fusion.reshapes import ELEMENTWISE

Perm = tuple[int, ...]
MAX_COPIED_BYTES = 1 << 16
"""Constants that other nodes use too are permuted into a copy up to this size."""

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos"),
    *("Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN"),
    *(
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
    ),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
)


def inverse(perm: Sequence[int]) -> Perm:
    """Returns the permutation that undoes another."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


@dataclass(frozen=True)
class Turn:
    """What becomes of a node that reads and makes permuted values.

    Attributes:
        operands: Indices of the inputs that are to be permuted.
        constants: Indices of constant inputs that broadcast with the operands and are permuted like them.
        numbers: New integer inputs, by index.
        attributes: New attributes.
        follows: Whether the outputs are permuted too; if not, they are the same as before.
    """

    operands: tuple[int, ...] = (0,)
    constants: tuple[int, ...] = ()
    numbers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    attributes: tuple[ir.Attr, ...] = ()
    follows: bool = True


def turn_of(node: ir.Node, perm: Perm) -> Turn | None:
    """Returns how a node works on values permuted by `perm`, or None where it does not, or that is not known."""
    find = _TURNS.get(node.op_type) if not node.domain else None
    if find is None or any(attr.is_ref() for attr in node.attributes.values()):
        return None
    if find is not _elementwise and rank(operand(node, 0)) != len(perm):
        return None
    turn = find(node, perm)
    if turn is None or any(rank(operand(node, index)) != len(perm) for index in turn.operands):
        return None
    if turn.follows and any(rank(output) not in (None, len(perm)) for output in node.outputs):
        return None
    return turn


def permuted(array: npt.NDArray[Any], perm: Perm) -> npt.NDArray[Any]:
    """Returns a constant that broadcasts with values permuted by `perm` as the given one did before."""
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return np.ascontiguousarray(full.transpose(inverse(perm)))


def _elementwise(node: ir.Node, perm: Perm) -> Turn | None:
    operands, constants = [], []
    for index, value in enumerate(node.inputs):
        tensor = ir.constant_tensor(value) if value is not None else None
        count, dims = rank(value), sizes(value)
        if value is None or (dims is not None and all(size == ONE for size in dims)):
            continue
        if tensor is None:
            operands.append(index)
        elif count is not None and count <= len(perm) and _may_copy(value, tensor):
            constants.append(index)
        else:
            return None
    return Turn(tuple(operands), tuple(constants)) if operands else None


def _may_copy(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    return len(value.uses()) == 1 or tensor.nbytes <= MAX_COPIED_BYTES


def _along_axis(default: int) -> Callable[[ir.Node, Perm], Turn | None]:
    def find(node: ir.Node, perm: Perm) -> Turn | None:
        axis = axis_of(node, default)
        return None if axis is None else Turn(attributes=(ir.AttrInt64("axis", perm[axis]),))

    return find


def _concat(node: ir.Node, perm: Perm) -> Turn | None:
    tensors = {index: ir.constant_tensor(value) for index, value in enumerate(node.inputs) if value is not None}
    axis = axis_of(node, 0)
    constants = tuple(index for index, tensor in tensors.items() if tensor is not None)
    values = [node.inputs[index] for index in constants]
    if axis is None or any(v is None or rank(v) != len(perm) or len(v.uses()) != 1 for v in values):
        return None
    operands = tuple(index for index in tensors if index not in constants)
    return Turn(operands, constants, attributes=(ir.AttrInt64("axis", perm[axis]),)) if operands else None


def _turned_axes(node: ir.Node, axes: Sequence[int], *, as_input: bool, follows: bool) -> Turn:
    """A turn that changes a list of axes, in the style of the node."""
    if as_input:
        return Turn(numbers={1: tuple(axes)}, follows=follows)
    return Turn(attributes=(ir.AttrInt64s("axes", axes),), follows=follows)


def _without(axes: Sequence[int], perm: Perm) -> bool:
    """Whether the axes that remain without some keep their order."""
    kept = [perm[axis] for axis in range(len(perm)) if axis not in axes]
    return kept == sorted(kept)


def _reduction(node: ir.Node, perm: Perm) -> Turn | None:
    axes = listed(node, "axes", 1)
    keeps = ir.attribute(node, "keepdims", 1) == 1
    axes = normalized(axes, len(perm)) if axes is not None else None
    if axes is None or (not axes and ir.attribute(node, "noop_with_empty_axes", 0)):
        return None
    if not axes:
        return Turn(follows=keeps)
    if not keeps and not _without(axes, perm):
        return None
    as_input = operand(node, 1) is not None
    return _turned_axes(node, [perm[axis] for axis in axes], as_input=as_input, follows=keeps)


def _arg_reduction(node: ir.Node, perm: Perm) -> Turn | None:
    axis, keeps = axis_of(node, 0), ir.attribute(node, "keepdims", 1) == 1
    if axis is None or (not keeps and not _without((axis,), perm)):
        return None
    return Turn(attributes=(ir.AttrInt64("axis", perm[axis]),), follows=keeps)


def _squeeze(node: ir.Node, perm: Perm) -> Turn | None:
    axes = listed(node, "axes", 1)
    axes = normalized(axes, len(perm)) if axes else None
    if not axes or not _without(axes, perm):
        return None
    as_input = operand(node, 1) is not None
    return _turned_axes(node, [perm[axis] for axis in axes], as_input=as_input, follows=False)


def _pad(node: ir.Node, perm: Perm) -> Turn | None:
    amounts, axes = integers(operand(node, 1)), integers(operand(node, 3))
    if amounts is None or (operand(node, 3) is not None and axes is None):
        return None
    if axes is not None:
        named = normalized(axes, len(perm))
        return None if named is None else Turn(numbers={3: tuple(perm[axis] for axis in named)})
    back = inverse(perm)
    ends = (amounts[: len(perm)], amounts[len(perm) :])
    return Turn(numbers={1: tuple(part[axis] for part in ends for axis in back)})


def _slice(node: ir.Node, perm: Perm) -> Turn | None:
    starts, axes = integers(operand(node, 1)), integers(operand(node, 3))
    if starts is None or any(operand(node, i) is not None and integers(operand(node, i)) is None for i in (2, 3, 4)):
        return None
    named = normalized(range(len(starts)) if axes is None else axes, len(perm))
    return None if named is None else Turn(numbers={3: tuple(perm[axis] for axis in named)})


def _quantize(node: ir.Node, perm: Perm) -> Turn | None:
    scale = operand(node, 1)
    if rank(scale) == 0:
        return Turn()
    if rank(scale) != 1 or ir.attribute(node, "block_size", 0):
        return None
    return _along_axis(1)(node, perm)


_TURNS: Mapping[str, Callable[[ir.Node, Perm], Turn | None]] = {
    **dict.fromkeys((*UNARY, *ELEMENTWISE), _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK"), _along_axis(-1)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    "Split": _along_axis(0),
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Squeeze": _squeeze,
}
