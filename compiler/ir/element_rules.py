"""How operators compute elements that are made of sizes, as expressions. See `sardonyx.ir.symbolic`.

Elements are arrays of objects: an int or a `Polynomial` where known, None where not; bools are 0 and 1. Operators that
only move elements need no rule: the kernels of `sardonyx.ir.kernels` move objects too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as oir

from sardonyx.ir.dims import (
    Dim,
    add,
    at_least,
    compare,
    divide,
    larger,
    multiply,
    product,
    remainder,
    smaller,
    subtract,
)
from sardonyx.ir.graphs import attribute
from sardonyx.ir.rule_inputs import MAX_ELEMENTS, Elements, Sizes, input_dims, input_elements, known_ints

ElementRule = Callable[[oir.Node, Sizes], Elements | None]

_INTEGERS = frozenset((oir.DataType.INT64, oir.DataType.INT32))


def _as_elements(result: Any) -> Elements:
    items = np.empty(np.shape(result), object)
    items[...] = result
    return items


def _binary(function: Callable[[Dim, Dim], Dim | bool | None]) -> ElementRule:
    def checked(a: Dim | None, b: Dim | None) -> Dim | None:
        return None if a is None or b is None else function(a, b)

    vectorized = np.frompyfunc(checked, 2, 1)

    def run(node: oir.Node, sizes: Sizes) -> Elements | None:
        result: Elements | None = None
        for index in range(len(node.inputs)):
            items = input_elements(node, sizes, index)
            if items is None or "axis" in node.attributes:
                return None
            result = items if result is None else _as_elements(vectorized(result, items))
        return result

    return run


def _equal(a: Dim, b: Dim) -> Dim | None:
    order = compare(a, b)
    return None if order is None else int(order == 0)


def _ordered(strict: bool, swapped: bool) -> Callable[[Dim, Dim], Dim | None]:
    """Tests a < b (strict) or a <= b, or the same with the operands swapped."""

    def test(a: Dim, b: Dim) -> Dim | None:
        small, big = (b, a) if swapped else (a, b)
        gap = 1 if strict else 0
        bound, opposite = add(small, gap), add(big, 1 - gap)
        if bound is not None and at_least(big, bound):
            return 1
        return 0 if opposite is not None and at_least(small, opposite) else None

    return test


def _logic(function: Callable[[int, int], int]) -> Callable[[Dim, Dim], Dim | None]:
    return lambda a, b: function(a, b) if isinstance(a, int) and isinstance(b, int) else None


def _negated(node: oir.Node, sizes: Sizes) -> Elements | None:
    items = input_elements(node, sizes, 0)
    return None if items is None else _as_elements(_NEGATE(items))


def _inverted(node: oir.Node, sizes: Sizes) -> Elements | None:
    items = input_elements(node, sizes, 0)
    return None if items is None else _as_elements(_INVERT(items))


def _is_positive(a: Dim | None) -> bool:
    return a is not None and at_least(a, 1)


_NEGATE = np.frompyfunc(lambda a: None if a is None else multiply(a, -1), 1, 1)
_INVERT = np.frompyfunc(lambda a: 1 - a if isinstance(a, int) else None, 1, 1)
_TRUTH = np.frompyfunc(lambda a: int(a != 0) if isinstance(a, int) else 1 if _is_positive(a) else None, 1, 1)
_CHOOSE = np.frompyfunc(lambda c, a, b: (a if c else b) if isinstance(c, int) else a if a == b else None, 3, 1)


def _cast(node: oir.Node, sizes: Sizes) -> Elements | None:
    items = input_elements(node, sizes, 0)
    target = oir.DataType(attribute(node, "to", 0))
    if items is None:
        return None
    if target == oir.DataType.BOOL:
        return _as_elements(_TRUTH(items))
    if target == oir.DataType.INT32 and any(isinstance(i, int) and not -(2**31) <= i < 2**31 for i in items.flat):
        return None
    return items if target in _INTEGERS else None


def _where(node: oir.Node, sizes: Sizes) -> Elements | None:
    parts = [input_elements(node, sizes, index) for index in range(3)]
    return None if any(part is None for part in parts) else _as_elements(_CHOOSE(*parts))


def _shape(node: oir.Node, sizes: Sizes) -> Elements | None:
    dims = input_dims(node, sizes)
    if dims is None:
        return None
    dims = dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]
    items = np.empty(len(dims), object)
    items[:] = dims
    return items


def _size(node: oir.Node, sizes: Sizes) -> Elements | None:
    dims = input_dims(node, sizes)
    return None if dims is None else _as_elements(product(dims))


def _reduce(function: Callable[[Dim, Dim], Dim | None]) -> ElementRule:
    """Reduction of a vector to one element, which is what exporters write to count elements."""

    def run(node: oir.Node, sizes: Sizes) -> Elements | None:
        items = input_elements(node, sizes, 0)
        axes = known_ints(node, sizes, 1, "axes") or [0]
        if items is None or items.ndim != 1 or axes not in ([0], [-1]) or not items.size:
            return None
        if attribute(node, "noop_with_empty_axes", 0) and "axes" not in node.attributes and len(node.inputs) < 2:
            return None
        total: Dim | None = items[0]
        for item in items[1:]:
            total = None if total is None or item is None else function(total, item)
        result = np.empty((1,) if attribute(node, "keepdims", 1) else (), object)
        result[...] = total
        return result

    return run


def _constant_of_shape(node: oir.Node, sizes: Sizes) -> Elements | None:
    shape = known_ints(node, sizes, 0, "")
    if shape is None or "value" not in node.attributes or min(shape, default=0) < 0:
        return None
    fill = node.attributes["value"].as_tensor()
    if fill.dtype not in _INTEGERS or np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        return None
    return np.full(shape, int(fill.numpy().ravel()[0]), object)


def _range(node: oir.Node, sizes: Sizes) -> Elements | None:
    parts = [known_ints(node, sizes, index, "") for index in range(3)]
    if any(part is None or len(part) != 1 for part in parts):
        return None
    start, limit, delta = (part[0] for part in parts if part is not None)
    if delta == 0 or len(range(start, limit, delta)) > MAX_ELEMENTS:
        return None
    return np.array(range(start, limit, delta), object)


ELEMENT_RULES: Mapping[str, ElementRule] = {
    "Shape": _shape,
    "Size": _size,
    "Cast": _cast,
    "Where": _where,
    "Neg": _negated,
    "Not": _inverted,
    "Add": _binary(add),
    "Sub": _binary(subtract),
    "Mul": _binary(multiply),
    "Div": _binary(divide),
    "Mod": _binary(remainder),
    "Max": _binary(larger),
    "Min": _binary(smaller),
    "Equal": _binary(_equal),
    "Less": _binary(_ordered(strict=True, swapped=False)),
    "LessOrEqual": _binary(_ordered(strict=False, swapped=False)),
    "Greater": _binary(_ordered(strict=True, swapped=True)),
    "GreaterOrEqual": _binary(_ordered(strict=False, swapped=True)),
    "And": _binary(_logic(lambda a, b: a and b)),
    "Or": _binary(_logic(lambda a, b: a or b)),
    "ReduceProd": _reduce(multiply),
    "ReduceSum": _reduce(add),
    "ReduceMax": _reduce(larger),
    "ReduceMin": _reduce(smaller),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
}
"""Rules by operator of the standard domain."""
