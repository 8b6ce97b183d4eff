"""What became of the initializers of a model."""

from collections.abc import Iterator, Mapping

import numpy as np

from sardonyx import ir
from sardonyx.diff.constants import Constant
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.quantizers import Quantizer, quantizers, stored_values
from sardonyx.diff.schema import InitializerChange, TensorChange
from sardonyx.diff.tensors import Array, Distance, distance, elements
from sardonyx.diff.view import FLOATS, View

WHOLE = 1 << 24
"""Tensors of more elements are compared element by element in order only: not transposed, not dequantized."""


def compare_initializers(pairs: Pairs, matched: Mapping[str, str]) -> tuple[int, list[InitializerChange]]:
    """Compares the initializers of the main graphs.

    Args:
        pairs: The matched models.
        matched: Initializers that took the place of one another, by name.

    Returns:
        How many are the same by name and content, and what became of the others. Scales and zero points that only
        Q/DQ nodes read are left out: they belong to the quantizers.

    Raises:
        LoadError: If external data can no longer be read.
    """
    ours, theirs = _of(pairs.before), _of(pairs.after)
    compare = _Comparison(pairs.before, pairs.after)
    equal, found = 0, []
    for name, (value, constant) in ours.items():
        other = matched.get(name)
        if other is None or other not in theirs:
            if not _is_grid(pairs.before, value):
                found.append(_alone(name, constant, "removed"))
            continue
        partner, second = theirs[other]
        if constant.key == second.key and name == other:
            equal += 1
        elif not (_is_grid(pairs.before, value) and _is_grid(pairs.after, partner)):
            found.append(compare.change((name, value, constant), (other, partner, second)))
    taken = set(matched.values())
    for name, (value, constant) in theirs.items():
        if name not in taken and not _is_grid(pairs.after, value):
            found.append(_alone(name, constant, "added"))
    return equal, found


def _of(view: View) -> dict[str, tuple[int, Constant]]:
    main = view.model.graph.initializers
    return {
        value.name: (number, constant)
        for number, constant in view.constants.items()
        if (value := view.values[number]).name and main.get(value.name) is value
    }


def _is_grid(view: View, value: int) -> bool:
    """Whether only quantizers read a value, as scale or zero point."""
    readers = view.consumers[value]
    return bool(readers) and all(
        operand > 0 and view.nodes[position].node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for position, operand in readers
    )


def _alone(name: str, constant: Constant, how: TensorChange) -> InitializerChange:
    dtype = None if constant.dtype is None else constant.dtype.name
    if how == "removed":
        return InitializerChange(before=name, after=None, how=how, dtype_before=dtype, shape_before=constant.shape)
    return InitializerChange(before=None, after=name, how=how, dtype_after=dtype, shape_after=constant.shape)


_Entry = tuple[str, int, Constant]


class _Comparison:
    """Compares initializers, with what quantizes them at hand."""

    def __init__(self, before: View, after: View) -> None:
        self._views = before, after
        self._quantizers = quantizers(before), quantizers(after)

    def change(self, first: _Entry, second: _Entry) -> InitializerChange:
        how, apart = self._kind(first, second)
        return InitializerChange(
            before=first[0],
            after=second[0],
            how=how,
            dtype_before=None if first[2].dtype is None else first[2].dtype.name,
            dtype_after=None if second[2].dtype is None else second[2].dtype.name,
            shape_before=first[2].shape,
            shape_after=second[2].shape,
            max_abs=None if apart is None else apart.max_abs,
            max_rel=None if apart is None else apart.max_rel,
            sqnr_db=None if apart is None else apart.sqnr_db,
            elements=None if apart is None else apart.elements,
        )

    def _kind(self, first: _Entry, second: _Entry) -> tuple[TensorChange, Distance | None]:
        a, b = first[2], second[2]
        if a.key == b.key:
            return "renamed", Distance(0.0, 0.0, None, 0)
        if a.tensor is None or b.tensor is None:
            return "values", None
        grids = self._quantizers[0].get(first[1]), self._quantizers[1].get(second[1])
        if (grids[0] is None) != (grids[1] is None):
            return "quantized" if grids[0] is None else "dequantized", self._through_grid(first, second, grids)
        if (a.dtype in FLOATS) != (b.dtype in FLOATS) and a.size > 1 < b.size:  # an operator of its own restores them
            return "quantized" if a.dtype in FLOATS else "dequantized", None
        if a.shape != b.shape:
            return _reshaped(a.tensor, b.tensor)
        apart = distance(elements(a.tensor), elements(b.tensor))
        if (
            a.dtype != b.dtype
            and apart is not None
            and (apart.max_rel <= _rounding(a, b) or _rounded(a.tensor, b.tensor))
        ):
            return "type", apart
        return "values", apart

    def _through_grid(
        self, first: _Entry, second: _Entry, grids: tuple[Quantizer | None, Quantizer | None]
    ) -> Distance | None:
        """Distance of the values that integers and scales stand for from floats."""
        if max(first[2].size, second[2].size) > WHOLE:
            return None
        arrays = [
            _floats(entry[2]) if grid is None else stored_values(view, grid)
            for view, entry, grid in zip(self._views, (first, second), grids, strict=True)
        ]
        if arrays[0] is None or arrays[1] is None:
            return None
        for other in _forms(arrays[1]):
            if other.shape == arrays[0].shape:
                return distance([arrays[0]], [other])
        return None


def _floats(constant: Constant) -> Array | None:
    return None if constant.tensor is None else ir.read_array(constant.tensor)


def _forms(array: Array) -> Iterator[Array]:
    """An array as it is, and transposed."""
    yield array
    if array.ndim == 2:
        yield array.T


def _reshaped(first: ir.TensorProtocol, second: ir.TensorProtocol) -> tuple[TensorChange, Distance | None]:
    """Tells whether tensors of different shapes have the same elements, in the same order or transposed."""
    if first.size != second.size:
        return "values", None
    apart = distance(elements(first), elements(second))
    if apart is not None and not apart.elements:
        return "shape", apart
    if first.size <= WHOLE and len(first.shape) == len(second.shape) == 2:
        turned = ir.read_array(second).T
        one = ir.read_array(first)
        if one.shape == turned.shape and np.array_equal(one, turned):
            return "shape", Distance(0.0, 0.0, None, 0)
    return "values", None


def _rounding(first: Constant, second: Constant) -> float:
    """Relative rounding error of the narrower of two types of floats; 0 for others."""
    bits = [_SIGNIFICAND.get(constant.dtype) for constant in (first, second) if constant.dtype is not None]
    known = [count for count in bits if count is not None]
    return float(2.0 ** -min(known)) if len(known) == 2 else 0.0


def _rounded(first: ir.TensorProtocol, second: ir.TensorProtocol) -> bool:
    """Whether one tensor of floats is the other rounded to its type, which may underflow there."""
    if first.dtype not in FLOATS or second.dtype not in FLOATS:
        return False
    wide, narrow = (first, second) if first.dtype.bitwidth > second.dtype.bitwidth else (second, first)
    dtype = narrow.dtype.numpy()
    with np.errstate(over="ignore"):
        apart = distance((part.astype(dtype) for part in elements(wide)), elements(narrow))
    return apart is not None and not apart.elements


_SIGNIFICAND = {ir.DataType.FLOAT16: 11, ir.DataType.BFLOAT16: 8, ir.DataType.FLOAT: 24, ir.DataType.DOUBLE: 53}
"""Bits of the significand, the implied one included: rounding to nearest errs by at most half of the last."""
