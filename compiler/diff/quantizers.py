"""Where two models quantize, and on which grids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sardonyx import ir
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.schema import Grid, QuantizerChange
from sardonyx.diff.tensors import dequantized
from sardonyx.diff.view import ABSENT, NodeView, View

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear with constant scales.

    Attributes:
        value: Number of the value that it carries on, or of the constant that it dequantizes.
        node: The node.
        scale: Its scales.
        zero_point: Its zero points; None where left out.
        axis: Axis of the scales, None per tensor.
        dtype: Integer type of the grid; None where unknown.
    """

    value: int
    node: NodeView
    scale: Array
    zero_point: Array | None
    axis: int | None
    dtype: ir.DataType | None

    def grid(self) -> Grid:
        """Returns the grid in a few numbers."""
        points = None if self.zero_point is None or not self.zero_point.size else self.zero_point.astype(np.int64)
        return Grid(
            dtype="?" if self.dtype is None else self.dtype.name,
            axis=self.axis,
            scales=int(self.scale.size),
            scale_min=float(self.scale.min(initial=np.inf)),
            scale_max=float(self.scale.max(initial=-np.inf)),
            zero_points=None if points is None else (int(points.min()), int(points.max())),
        )

    def same_grid(self, other: "Quantizer") -> bool:
        """Whether two quantizers have the same grid."""
        first, second = (np.zeros(1) if q.zero_point is None else q.zero_point for q in (self, other))
        return (
            (self.dtype, self.axis) == (other.dtype, other.axis)
            and np.array_equal(self.scale, other.scale)
            and (np.array_equal(first, second) or not (first.any() or second.any()))
        )


def quantizers(view: View) -> dict[int, Quantizer]:
    """Returns the first quantizer of each quantized value, by its number."""
    found: dict[int, Quantizer] = {}
    for quantizer in _all(view):
        found.setdefault(quantizer.value, quantizer)
    return found


def _all(view: View) -> Iterator[Quantizer]:
    for node in view.nodes:
        if node.node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 2:
            continue
        scale = view.constants.get(node.inputs[1])
        if scale is None or scale.tensor is None or node.inputs[0] == ABSENT:
            continue
        point = view.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
        steps = ir.read_array(scale.tensor)
        integers = node.node.inputs[0] if node.node.op_type == "DequantizeLinear" else node.node.outputs[0]
        yield Quantizer(
            node.inputs[0],
            node,
            steps,
            None if point is None or point.tensor is None else ir.read_array(point.tensor),
            ir.attribute(node.node, "axis", 1) if steps.size > 1 else None,
            None if integers is None else integers.dtype or (None if point is None else point.dtype),
        )


def stored_values(view: View, quantizer: Quantizer) -> Array | None:
    """Returns the values that a quantized constant stands for, in float64; None where that cannot be told."""
    constant = view.constants.get(quantizer.value)
    if constant is None or constant.tensor is None:
        return None
    axis = 1 if quantizer.axis is None else quantizer.axis
    return dequantized(constant.tensor, quantizer.scale, quantizer.zero_point, axis)


def compare_quantizers(pairs: Pairs, constants: Mapping[str, str]) -> Iterator[QuantizerChange]:
    """Yields the quantized values whose grid differs, or that one model alone quantizes.

    Args:
        pairs: The matched models.
        constants: Constants of the second model by those of the first whose place they took, by name: initializers, and
            what Constant nodes hold.
    """
    ours, theirs = quantizers(pairs.before), quantizers(pairs.after)
    names = {pairs.after.name(value): value for value in theirs}
    for value, quantizer in ours.items():
        name = pairs.before.name(value)
        partner = pairs.forward.get(value)
        if partner is None and value in pairs.before.constants:
            partner = names.get(constants.get(name, ""))
        other = None if partner is None else theirs.pop(partner, None)
        if other is None:
            yield QuantizerChange(value=name, before=quantizer.grid(), after=None)
        elif not quantizer.same_grid(other):
            yield QuantizerChange(value=name, before=quantizer.grid(), after=other.grid())
    original = {new: old for old, new in constants.items()}
    for value, quantizer in theirs.items():
        name = pairs.after.name(value)
        before = pairs.backward.get(value)
        shown = original.get(name, name) if before is None else pairs.before.name(before)
        yield QuantizerChange(value=shown, before=None, after=quantizer.grid())
