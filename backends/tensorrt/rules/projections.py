"""Packed projections: one product whose columns are the queries, keys and values of attention.

The builder of tensorrt-rtx 1.7 runs such a product in float, whatever stands around it, where all three equal parts
are laid out as heads. Three products side by side it runs in INT8, and joins them again. Two, four or unequal parts
it takes as they are (tests/backends/tensorrt/rows.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sardonyx import ir
from sardonyx.backends.tensorrt.findings import Severity
from sardonyx.backends.tensorrt.qdq import constant, input_of, only_user
from sardonyx.backends.tensorrt.rules.integers import sides
from sardonyx.backends.tensorrt.rules.rule import Hit, Rule, Scope, names

PARTS = 3
"""Queries, keys and values."""


@dataclass(frozen=True)
class Part:
    """A third of a packed projection.

    Attributes:
        index: Which third, counted from the first column.
        value: What holds it alone.
        keeps_axis: Whether the axis that was divided is still there.
    """

    index: int
    value: ir.Value
    keeps_axis: bool


@dataclass(frozen=True)
class PackedProjection:
    """A product with the nodes up to where its columns are divided.

    Attributes:
        product: The MatMul or Gemm.
        steps: What stands between it and the division, in order: Add, Reshape, Transpose.
        axis: The axis that is divided, of the last value.
        is_flat: Whether the columns lie along that axis; otherwise the parts do, of which it has three.
        columns: How many columns the product has.
        parts: The parts, in the order of the graph; at least one for each third.
    """

    product: ir.Node
    steps: tuple[ir.Node, ...]
    axis: int
    is_flat: bool
    columns: int
    parts: tuple[Part, ...]


def packed_projection(node: ir.Node) -> PackedProjection | None:
    """Returns the packed projection that a product is, or None."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    sizes = _sizes(node.outputs[0])
    if not sizes or sizes[-1] is None or sizes[-1] % PARTS:
        return None
    place = _Place(node.outputs[0], len(sizes) - 1, True)
    steps: list[ir.Node] = []
    while (reader := only_user(place.value)) is not None and reader.op_type in _STEPS and not reader.domain:
        following = _STEPS[reader.op_type](reader, place, sizes[-1])
        if following is None:
            break
        steps.append(reader)
        place = following
    parts = _parts(place, sizes[-1])
    return None if parts is None else PackedProjection(node, tuple(steps), *place.axes, sizes[-1], parts)


@dataclass(frozen=True)
class _Place:
    """Where the parts lie in a value: see PackedProjection."""

    value: ir.Value
    axis: int
    is_flat: bool

    @property
    def axes(self) -> tuple[int, bool]:
        return self.axis, self.is_flat


def _sizes(value: ir.Value | None) -> list[int | None]:
    """The sizes of a value, None for those that are dynamic; empty where the rank is unknown."""
    if value is None or value.shape is None:
        return []
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def _through_add(node: ir.Node, place: _Place, columns: int) -> _Place | None:
    """A bias for each column, or one for all."""
    other = next((value for value in node.inputs if value is not place.value), None)
    bias = constant(other)
    fits = bias is not None and bias.size in (1, columns) and bias.ndim <= len(_sizes(place.value))
    along_columns = bias is not None and (bias.size == 1 or bias.shape[-1] == columns)
    return _Place(node.outputs[0], place.axis, True) if fits and along_columns and place.is_flat else None


def _through_reshape(node: ir.Node, place: _Place, columns: int) -> _Place | None:
    """Rows laid out otherwise, or columns divided into an axis of three parts and what is within a part."""
    sizes, output = _sizes(node.outputs[0]), node.outputs[0]
    if not sizes or not place.is_flat:
        return None
    if sizes[-1] == columns:
        return _Place(output, len(sizes) - 1, True)
    for axis in range(len(sizes) - 1, -1, -1):
        within = [size for size in sizes[axis:] if size is not None]
        if len(within) < len(sizes) - axis or math.prod(within) > columns:
            return None
        if math.prod(within) == columns and sizes[axis] == PARTS:
            return _Place(output, axis, False)
    return None


def _through_transpose(node: ir.Node, place: _Place, columns: int) -> _Place | None:
    order = tuple(ir.attribute(node, "perm", ())) or tuple(reversed(range(len(_sizes(place.value)))))
    return None if place.is_flat or place.axis not in order else _Place(node.outputs[0], order.index(place.axis), False)


_STEPS: Mapping[str, Callable[[ir.Node, _Place, int], _Place | None]] = MappingProxyType(
    {"Add": _through_add, "Reshape": _through_reshape, "Transpose": _through_transpose}
)


def _parts(place: _Place, columns: int) -> tuple[Part, ...] | None:
    """The parts that the readers of a value take, if they take all three, each as heads, and nothing else."""
    if place.value.is_graph_output():
        return None
    found: list[Part] = []
    for reader in dict.fromkeys(use.node for use in place.value.uses()):
        read = _READERS.get(reader.op_type) if not reader.domain else None
        taken = None if read is None else read(reader, place, columns if place.is_flat else PARTS)
        if taken is None:
            return None
        found += taken
    whole = {part.index for part in found} == set(range(PARTS))
    heads = not place.is_flat or all(_becomes_heads(part.value) for part in found)
    return tuple(found) if whole and heads else None


def _becomes_heads(value: ir.Value) -> bool:
    return any(use.node.op_type == "Reshape" for use in value.uses())


def _split(node: ir.Node, place: _Place, size: int) -> list[Part] | None:
    if _axis(ir.attribute(node, "axis", 0), place) != place.axis or len(node.outputs) != PARTS:
        return None
    equal = (size // PARTS,) * PARTS
    given = constant(input_of(node, 1))
    written = equal if given is None else tuple(int(each) for each in given.ravel())
    if (given is None and input_of(node, 1) is not None) or ir.attribute(node, "split", written) != equal:
        return None
    return [Part(index, output, True) for index, output in enumerate(node.outputs)]


def _gather(node: ir.Node, place: _Place, size: int) -> list[Part] | None:
    index = constant(input_of(node, 1))
    here = input_of(node, 0) is place.value and _axis(ir.attribute(node, "axis", 0), place) == place.axis
    if index is None or index.ndim or not here or size != PARTS:
        return None
    return [Part(int(index) % PARTS, node.outputs[0], False)]


def _slice(node: ir.Node, place: _Place, size: int) -> list[Part] | None:
    bounds = [constant(input_of(node, index)) for index in (1, 2, 3)]
    stride = np.ones(1, np.int64) if input_of(node, 4) is None else constant(input_of(node, 4))
    given = [each for each in (*bounds, stride) if each is not None and each.size == 1]
    if len(given) < 4 or input_of(node, 0) is not place.value:
        return None
    start, end, axis, by = (int(each.ravel()[0]) for each in given)
    first, last, step = slice(start, end, by).indices(size) if by else (0, 0, 0)
    width = size // PARTS
    if _axis(axis, place) != place.axis or step != 1 or last - first != width or first % width:
        return None
    return [Part(first // width, node.outputs[0], True)]


_READERS: Mapping[str, Callable[[ir.Node, _Place, int], list[Part] | None]] = MappingProxyType(
    {"Split": _split, "Gather": _gather, "Slice": _slice}
)


def _axis(axis: int, place: _Place) -> int:
    return axis % max(1, len(_sizes(place.value)))


def _check(node: ir.Node, scope: Scope) -> Hit | None:
    seen = sides(node)
    integers = seen.data is not None and seen.weight is not None and seen.constant
    packed = packed_projection(node) if integers else None
    return None if packed is None else Hit(packed.parts[0].value.name or "")


RULES = (
    Rule(
        "packed-projection",
        Severity.SILENT_FLOAT,
        "{op} {node} makes queries, keys and values at once ({tensor} is a third of it), which TensorRT runs in float.",
        "Write a product for each of the three, as legalization does; the builder joins them again, in INT8.",
        _check,
        names("MatMul Gemm"),
    ),
)
"""What TensorRT runs in float because of how its result is divided."""
