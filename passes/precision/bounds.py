"""How large the values of a model get: measured on samples, or proven from the graph."""

from collections.abc import Iterable, Mapping

import numpy as np

from sardonyx import ir
from sardonyx.passes.precision.operators import BOUNDED, MOVEMENT, POINTWISE

Interval = tuple[float, float]

SMALL_CONSTANT = 4096
"""Constants of at most this many elements take part in proofs, and may be tables of frequencies or positions."""

LARGE_FILLING = 2048.0
"""A shape filled with a number beyond this becomes a mask, not an initial state."""

_SMALL_INTEGERS: Mapping[ir.DataType, Interval] = {
    ir.DataType.BOOL: (0.0, 1.0),
    ir.DataType.INT8: (-128.0, 127.0),
    ir.DataType.UINT8: (0.0, 255.0),
}
"""What these types can hold, such as images."""

_INTEGERS = frozenset(
    ir.DataType[name] for name in ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
)


def proven_intervals(graphs: Iterable[ir.Graph]) -> dict[ir.Value, Interval]:
    """Returns intervals that hold the finite values of a model whatever its inputs, where they follow from operators.

    Args:
        graphs: Graphs, outer before inner.
    """
    known: dict[ir.Value, Interval] = {}
    for graph in graphs:
        for node in graph:
            interval = _interval(node, known)
            if interval is not None and len(node.outputs) == 1:
                known[node.outputs[0]] = interval
    return known


def _restored(node: ir.Node) -> Interval | None:
    """What integers of 8 bits and fewer stand for, whose zero point and scales are constant."""
    stored, scale = node.inputs[:2]
    scales = None if scale is None else ir.constant_tensor(scale)
    if stored is None or stored.dtype not in _SMALL_INTEGERS or scales is None:
        return None
    reach = 255.0 * float(np.abs(scales.numpy()).max(initial=0.0))
    return (-reach, reach)


def _interval(node: ir.Node, known: Mapping[ir.Value, Interval]) -> Interval | None:
    if node.domain:
        return None
    if node.op_type in BOUNDED:
        return BOUNDED[node.op_type]
    if node.op_type == "ConstantOfShape":
        return (_filling(node), _filling(node))
    if node.op_type == "DequantizeLinear":
        return _restored(node)
    source = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    if node.op_type == "Cast" and source is not None and source in _SMALL_INTEGERS:
        return _SMALL_INTEGERS[source]
    if ir.attribute(node, "reduction", "none") != "none":
        return None
    operands = [_operand(value, known) for value in _carried(node)]
    given = [interval for interval in operands if interval is not None]
    if not given or len(given) < len(operands):
        return None
    if node.op_type in MOVEMENT:
        low, high = min(i[0] for i in given), max(i[1] for i in given)
        return (min(low, 0.0), max(high, 0.0)) if node.op_type in ("Pad", "CenterCropPad", "Trilu") else (low, high)
    return _arithmetic(node.op_type, given)


def _filling(node: ir.Node) -> float:
    """The number that a ConstantOfShape repeats: 0 where it is not given."""
    given = node.attributes.get("value")
    return 0.0 if given is None else float(given.as_tensor().numpy().item())


def _carried(node: ir.Node) -> list[ir.Value | None]:
    """The inputs from which an operator's result takes its values."""
    several: Mapping[str, slice] = {
        "Concat": slice(None),
        "Where": slice(1, 3),
        "Pad": slice(0, 3, 2),
        "ScatterElements": slice(0, 3, 2),
        "ScatterND": slice(0, 3, 2),
    }
    if node.op_type in MOVEMENT:
        return list(node.inputs[several.get(node.op_type, slice(0, 1))])
    return list(node.inputs)


def _operand(value: ir.Value | None, known: Mapping[ir.Value, Interval]) -> Interval | None:
    if value is None:
        return None
    tensor = ir.constant_tensor(value)
    if tensor is None:
        return known.get(value)
    if tensor.dtype != ir.DataType.FLOAT or not 0 < tensor.size <= SMALL_CONSTANT:
        return None
    values = tensor.numpy()
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _arithmetic(op_type: str, given: list[Interval]) -> Interval | None:
    (low, high), (other_low, other_high) = given[0], given[-1]
    if op_type == "Add" and len(given) == 2:
        return (low + other_low, high + other_high)
    if op_type == "Sub" and len(given) == 2:
        return (low - other_high, high - other_low)
    if op_type == "Mul" and len(given) == 2:
        corners = [a * b for a in given[0] for b in given[1]]
        return (min(corners), max(corners))
    if op_type == "Div" and len(given) == 2 and other_low * other_high > 0:
        corners = [a / b for a in given[0] for b in given[1]]
        return (min(corners), max(corners))
    if op_type == "Neg":
        return (-high, -low)
    return None


def from_integers(graphs: Iterable[ir.Graph]) -> set[ir.Value]:
    """Returns the FLOAT values that are computed from integers and constants alone: positions, lengths, masks.

    They need not be small, and the integers above 2048 among them are not representable in FP16. The search ends at
    operators with large weights, behind which values are ordinary activations.

    Args:
        graphs: Graphs, outer before inner.
    """
    found: set[ir.Value] = set()
    for graph in graphs:
        for node in graph:
            if not node.domain and _computes_from_integers(node, found):
                found.update(value for value in node.outputs if value.dtype == ir.DataType.FLOAT)
    return found


def _computes_from_integers(node: ir.Node, found: set[ir.Value]) -> bool:
    first = node.inputs[0] if node.inputs else None
    if node.op_type == "Cast":
        return first is not None and (first.dtype in _INTEGERS or first in found)
    if node.op_type == "Range":
        return True
    if node.op_type == "ConstantOfShape":
        return abs(_filling(node)) > LARGE_FILLING
    if node.op_type not in MOVEMENT | POINTWISE | {"MatMul"}:
        return False
    floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
    tensors = [ir.constant_tensor(value) for value in floats]
    computed = [value for value, tensor in zip(floats, tensors, strict=True) if tensor is None]
    if any(tensor is not None and tensor.size > SMALL_CONSTANT for tensor in tensors):
        return False
    return bool(computed) and all(value in found for value in computed)
