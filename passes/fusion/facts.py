"""What is known of a value before the model runs: integers, ranks, sizes, and sizes as products of symbols.

A symbol stands for one size wherever it stands in a model, as ONNX defines it. A dimension without a name is a symbol
of its own, equal to itself only.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sardonyx import ir

NO_INTS: tuple[int, ...] = ()
INT64_MAX = 2**63 - 1
ENDLESS = 2**31 - 1
"""Exporters write this or more for "to the end"; no axis of a tensor that fits a machine is longer."""
MAX_COMPARED = 1 << 20
"""Constants with more elements are not read to see whether they are all the same."""


@dataclass(frozen=True)
class Size:
    """A dimension, or a number of elements: a factor times symbols.

    Attributes:
        factor: The number.
        symbols: Names, sorted, each as often as it is a factor.
    """

    factor: int = 1
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: "Size") -> "Size":
        return Size(self.factor * other.factor, tuple(sorted((*self.symbols, *other.symbols))))

    def over(self, other: "Size") -> "Size | None":
        """Returns the quotient, or None where it is not known to be whole."""
        rest = Counter(self.symbols)
        rest.subtract(other.symbols)
        if not other.factor or self.factor % other.factor or any(n < 0 for n in rest.values()):
            return None
        return Size(self.factor // other.factor, tuple(sorted(rest.elements())))

    @property
    def fixed(self) -> int | None:
        """The number, where there is no symbol."""
        return None if self.symbols else self.factor


ONE = Size()


def product(sizes: Sequence[Size]) -> Size:
    """Returns the product of sizes; 1 for none."""
    return math.prod(sizes, start=ONE)


def sizes(value: ir.Value | None) -> tuple[Size, ...] | None:
    """Returns the dimensions of a value, or None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(
        Size(dim) if isinstance(dim, int) else Size(1, (dim.value or f"{value.name}[{axis}]",))
        for axis, dim in enumerate(value.shape)
    )


def rank(value: ir.Value | None) -> int | None:
    """Returns the rank of a value, or None."""
    return None if value is None or value.shape is None else len(value.shape)


def fixed_size(value: ir.Value | None, axis: int) -> int | None:
    """Returns the size of an axis where it is fixed and known."""
    known = sizes(value)
    return known[axis].fixed if known is not None and -len(known) <= axis < len(known) else None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Returns an input of a node, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns the elements of a constant of integers, or None where the value is absent or not constant."""
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None or not tensor.dtype.is_integer():
        return None
    return tuple(int(i) for i in tensor.numpy().ravel())


def listed(node: ir.Node, name: str, index: int) -> tuple[int, ...] | None:
    """Returns integers that an operator takes as an attribute in old opsets and as an input in newer ones.

    Returns:
        The integers, () where neither is given, None where the input is not constant.
    """
    if operand(node, index) is not None:
        return integers(operand(node, index))
    return tuple(ir.attribute(node, name, NO_INTS))


def normalized(axes: Sequence[int], count: int | None) -> tuple[int, ...] | None:
    """Returns axes counted from the front, or None where one counts from the back of an unknown rank."""
    if count is None:
        return None if any(axis < 0 for axis in axes) else tuple(axes)
    return tuple(axis % count for axis in axes) if all(-count <= axis < count for axis in axes) else None


def axis_of(node: ir.Node, default: int) -> int | None:
    """Returns the attribute `axis`, counted from the front of the first input; None where that is not known."""
    axes = normalized((ir.attribute(node, "axis", default),), rank(operand(node, 0)))
    return axes[0] if axes is not None else None


def same_sizes(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Whether two values are known to have the same shape."""
    known = sizes(first)
    return known is not None and known == sizes(second)


def all_equal_to(value: ir.Value | None, number: float) -> bool:
    """Whether a value is a constant of at least one element, all equal to a number, sign of zero included."""
    tensor = ir.constant_tensor(value) if value is not None else None
    if tensor is None or not 0 < tensor.size <= MAX_COMPARED:
        return False
    floating = tensor.dtype.is_floating_point()
    if not (floating or tensor.dtype.is_integer() or tensor.dtype is ir.DataType.BOOL):
        return False
    array = tensor.numpy()
    if float(array.flat[0]) != number:
        return False  # most constants: one element tells
    if not floating:
        return bool(np.all(array.astype(np.int64) == number))
    array = array.astype(np.float64)
    return bool(np.all(array == number) and np.all(np.signbit(array) == np.signbit(number)))


def ends_form(value: ir.Value | None) -> bool:
    """Whether the next constant factor or term of a value belongs to a form that runtimes compute as a whole.

    That is a written-out normalization, x / sqrt(...) perhaps times a constant, or a Gelu, x (1 + erf(...)): what is
    added or multiplied behind them is how they are known.
    """
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Mul":
        computed = [v for v in node.inputs if v is not None and ir.constant_tensor(v) is None]
        if len(computed) == 1:
            node = computed[0].producer()
    if node is None or node.domain or node.op_type not in ("Div", "Mul"):
        return False
    return any(_is_root_or_gate(v.producer()) for v in node.inputs if v is not None)


def _is_root_or_gate(node: ir.Node | None) -> bool:
    """Whether a node is a Sqrt, the Reciprocal of one, or 1 + Erf or 1 + Tanh."""
    if node is None:
        return False
    inner = [v.producer() for v in node.inputs if v is not None]
    behind = {"Reciprocal": ("Sqrt",), "Add": ("Erf", "Tanh")}.get(node.op_type, ())
    return node.op_type == "Sqrt" or any(each is not None and each.op_type in behind for each in inner)
