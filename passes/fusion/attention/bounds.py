"""Bounds of a value that hold whatever the model is fed: interval arithmetic over masks.

A mask made of finite constants can never mask a whole row with -inf, so that Softmax never gives NaN for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from sardonyx import ir

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)
DEPTH = 32
"""Masks are made of fewer nodes in a row than this; beyond, nothing is claimed."""

_SELECTING = frozenset(
    {"Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators whose output holds nothing but elements of their first input."""


def bounds(value: ir.Value | None, depth: int = DEPTH) -> Interval:
    """Returns (low, high) between which all elements of a value lie; infinite where nothing is known.

    Elements that are NaN are not thought of: a constant that holds one has infinite bounds.
    """
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is not None:
        return _constant_bounds(tensor)
    if value is not None and value.dtype is ir.DataType.BOOL:
        return (0.0, 1.0)
    node = value.producer() if value is not None else None
    if node is None or node.domain or not depth:
        return EVERYTHING
    if node.op_type in _SELECTING:
        return bounds(node.inputs[0], depth - 1)
    rule = _ARITHMETIC.get(node.op_type)
    return EVERYTHING if rule is None else rule([bounds(item, depth - 1) for item in node.inputs])


def _constant_bounds(tensor: ir.TensorProtocol) -> Interval:
    if not tensor.size or tensor.dtype is ir.DataType.STRING:
        return EVERYTHING
    array = tensor.numpy()
    low, high = float(array.min()), float(array.max())
    return EVERYTHING if math.isnan(low) or math.isnan(high) else (low, high)


def _add(items: Sequence[Interval]) -> Interval:
    return _ordered([items[0][0] + items[1][0], items[0][1] + items[1][1]])


def _sub(items: Sequence[Interval]) -> Interval:
    return _ordered([items[0][0] - items[1][1], items[0][1] - items[1][0]])


def _mul(items: Sequence[Interval]) -> Interval:
    return _ordered([a * b for a in items[0] for b in items[1]])


def _where(items: Sequence[Interval]) -> Interval:
    return (min(items[1][0], items[2][0]), max(items[1][1], items[2][1]))


def _cast(items: Sequence[Interval]) -> Interval:
    """Casts round towards a value inside the interval only where its ends are exact in the new type."""
    low, high = items[0]
    return (low, high) if low.is_integer() and high.is_integer() and low >= -256 and high <= 256 else EVERYTHING


def _ordered(ends: Sequence[float]) -> Interval:
    """The interval of some ends; inf - inf and 0 * inf prove nothing."""
    return EVERYTHING if any(math.isnan(end) for end in ends) else (min(ends), max(ends))


_ARITHMETIC: Mapping[str, Callable[[Sequence[Interval]], Interval]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Where": _where,
    "Cast": _cast,
}
