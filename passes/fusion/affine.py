"""Affine maps with constants: y = scale * x + shift, one factor and offset per channel or one for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sardonyx import ir

Float64Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Types whose constants are folded: in half precision, rounding a product again would show in the results."""

NO_PERM: tuple[int, ...] = ()

LARGEST_FACTOR = 2.0**60
"""A larger factor could take a weight out of the range of FLOAT, which reaches 2^128."""

MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""Operators that only move elements: a map per channel may pass them where the channels stay together."""


@dataclass(frozen=True)
class Affine:
    """The map scale * x + shift.

    Attributes:
        scale: Factors, of shape [n]; n is 1 where there is one for all.
        shift: Offsets, of shape [n].
        axis: The axis of x that the n factors run over, from the front; None where n is 1.
    """

    scale: Float64Array
    shift: Float64Array
    axis: int | None


def float64(value: ir.Value | None) -> Float64Array:
    """Returns a constant in float64.

    Raises:
        ValueError: If the value is not constant; the check of a rule makes sure that it is.
    """
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None:
        raise ValueError("the rule's check makes sure that the operand is a constant")
    return ir.read_array(tensor).astype(np.float64)


def constant_obstacle(value: ir.Value | None, dtype: ir.DataType | None = None) -> str | None:
    """Why an operand is no FLOAT or DOUBLE constant (of that dtype, if given), or None; an absent one is constant."""
    if value is None:
        return None
    tensor = ir.constant_tensor(value)
    wanted = FLOATS if dtype is None else (dtype,)
    if tensor is None:
        return f"{value.name} is not constant"
    if tensor.dtype not in wanted:
        return f"the constant {value.name} is {tensor.dtype.name}, not {' or '.join(d.name for d in wanted)}"
    return None


def affine_of(node: ir.Node, constant: ir.Value | None) -> Affine | str:
    """Reads a node as an affine map of its other input, or says why it is none.

    Args:
        node: A BatchNormalization, or an Add, Sub, Mul or Div; a Div divides by the constant.
        constant: The constant operand; None for a BatchNormalization.
    """
    if constant is None:
        return _batch_norm(node)
    reason = constant_obstacle(constant)
    if reason is not None:
        return reason
    tensor = ir.constant_tensor(constant)
    dims = () if tensor is None else tuple(tensor.shape.numpy())
    operand = node.inputs[0] if node.inputs[1] is constant else node.inputs[1]
    if operand is None or operand.shape is None:
        return f"the rank of {operand.name if operand is not None else 'the operand'} is unknown"
    wide = [position for position, dim in enumerate(dims) if dim != 1]
    if len(wide) > 1 or len(dims) > len(operand.shape):
        return f"the constant {constant.name} of shape {list(dims)} is not one per channel"
    values = float64(constant).ravel()
    scale, shift = _ELEMENTWISE[node.op_type](values, node.inputs[1] is constant)
    axis = wide[0] - len(dims) + len(operand.shape) if wide else None
    return _bounded(Affine(scale, shift, axis), constant.name)


def _bounded(affine: Affine, name: str | None) -> Affine | str:
    if not (np.all(np.isfinite(affine.scale)) and np.all(np.isfinite(affine.shift))):
        return f"{name} is not finite or divides by zero"
    if np.any(np.abs(affine.scale) > LARGEST_FACTOR):
        return f"{name} scales by more than 2^60"
    return affine


def _batch_norm(node: ir.Node) -> Affine | str:
    """With s = gamma / sqrt(variance + epsilon): BatchNormalization(x) = s x + (beta - s mean).

    See Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    if ir.attribute(node, "training_mode", 0):
        return f"the BatchNormalization {node.name} is in training mode"
    for value in node.inputs[1:]:
        reason = constant_obstacle(value)
        if reason is not None:
            return reason
    gamma, beta, mean, variance = (float64(value) for value in node.inputs[1:5])
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused
        scale = gamma / np.sqrt(variance + ir.attribute(node, "epsilon", 1e-5))
    return _bounded(Affine(scale, beta - scale * mean, 1), node.name)


def _divided(values: Float64Array, right: bool) -> tuple[Float64Array, Float64Array]:
    with np.errstate(divide="ignore"):  # an infinite factor is refused
        return 1.0 / values, np.zeros_like(values)


_ELEMENTWISE: Mapping[str, Callable[[Float64Array, bool], tuple[Float64Array, Float64Array]]] = {
    "Add": lambda values, right: (np.ones_like(values), values),
    "Sub": lambda values, right: (np.ones_like(values), -values) if right else (-np.ones_like(values), values),
    "Mul": lambda values, right: (values, np.zeros_like(values)),
    "Div": _divided,
}
"""Scale and shift from the constant operand, and whether it is the right one."""


def axis_before(move: ir.Node, axis: int) -> int | str:
    """The axis of a move's input whose elements are those of `axis` of its output, or why there is none.

    A reshape keeps the channels together where input and output have as many elements behind them.
    """
    if move.op_type == "Transpose":
        perm = ir.attribute(move, "perm", NO_PERM)
        return int(perm[axis]) if perm else f"the Transpose {move.name} has no perm"
    before, after = _shape(move.inputs[0]), _shape(move.outputs[0])
    if before is None or after is None:
        return f"the rank before or behind {move.name} is unknown"
    if move.op_type in ("Squeeze", "Unsqueeze"):
        return _axis_before_squeeze(move, axis, before, after)
    size, behind = after[axis], _elements(after[axis + 1 :])
    found = [i for i, dim in enumerate(before) if dim == size and _elements(before[i + 1 :]) == behind]
    if not isinstance(size, int) or behind is None or not found:
        return f"{move.name} does not keep the channels together, or a dimension is unknown"
    return found[0]


def channels_behind(move: ir.Node, affine: Affine, axis: int) -> Indices | str:
    """For each element along `axis` of a move's output, the channel of its input; or why it depends on more.

    A flattened channel becomes a run of as many equal entries as it has elements.
    """
    if move.op_type not in ("Reshape", "Flatten"):
        source = axis_before(move, axis)
        if isinstance(source, str):
            return source
        return (
            np.arange(affine.scale.size, dtype=np.int64)
            if source == affine.axis
            else f"{move.name} moves the channels elsewhere"
        )
    before, after = _shape(move.inputs[0]), _shape(move.outputs[0])
    if before is None or after is None or affine.axis is None:
        return f"the rank before or behind {move.name} is unknown"
    size, channels = after[axis], affine.scale.size
    run, inner = _elements(before[affine.axis + 1 :]), _elements(after[axis + 1 :])
    if not isinstance(size, int) or not isinstance(run, int) or not isinstance(inner, int) or run * inner == 0:
        return f"a dimension before or behind {move.name} is not static"
    if run % inner or (size * inner) % (channels * run):
        return f"{move.name} does not keep the channels together"
    return (np.arange(size, dtype=np.int64) // (run // inner)) % channels


def _axis_before_squeeze(move: ir.Node, axis: int, before: list[object], after: list[object]) -> int | str:
    value = move.inputs[1] if len(move.inputs) > 1 else None
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None:
        return f"the axes of {move.name} are not constant"
    squeezes = move.op_type == "Squeeze"
    longer = before if squeezes else after
    kept = [a for a in range(len(longer)) if a not in {int(x) % len(longer) for x in tensor.numpy().ravel()}]
    if squeezes:
        return kept[axis]
    return kept.index(axis) if axis in kept else f"{move.name} inserts the axis of the constant"


def _shape(value: ir.Value | None) -> list[object] | None:
    """Dimensions: ints, names of symbols, or None where nothing is known."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _elements(dims: list[object]) -> int | tuple[int, tuple[str, ...]] | None:
    """The product of dimensions, comparable where some are symbols; None where one is unknown."""
    if any(dim is None for dim in dims):
        return None
    static = int(np.prod([dim for dim in dims if isinstance(dim, int)], dtype=np.int64))
    symbols = tuple(sorted(dim for dim in dims if isinstance(dim, str)))
    return (static, symbols) if symbols else static
