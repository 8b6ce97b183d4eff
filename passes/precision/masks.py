"""Large negative constants that switch attention scores off: what they may be clamped to.

Exporters add -3.4e38 to the scores that must not count. That overflows FP16, and a row of -inf alone makes Softmax
return NaN. Where such a value reaches nothing but the input of a Softmax, any number far below all other scores means
the same: exp(mask - max) is 0 in FP32 and in FP16.
"""

from sardonyx import ir
from sardonyx.passes.precision.formats import Format

CARRIES = frozenset(
    {"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Trilu"}
    | {"Unsqueeze"}
)
"""Operators whose first input is handed on; Concat hands on all."""

_BOUNDS = frozenset({"Clip", "Max", "Min"})


def mask_limit(form: Format) -> float:
    """Returns the magnitude that masks are clamped to.

    Half of the largest value leaves the other half to the scores that are added to it.
    """
    return form.largest / 2


def only_scores(value: ir.Value) -> bool:
    """Whether all that is computed from a value are scores that enter a Softmax.

    The value may be moved, chosen by a Where and added to the scores on its way there.
    """
    pending, seen = [value], set[ir.Value]()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.is_graph_output() or not current.uses():
            return False
        for node, index in current.uses():
            if node.domain or not _keeps_mask(node, index):
                return False
            if node.op_type != "Softmax":
                pending.extend(node.outputs)
    return True


def _keeps_mask(node: ir.Node, index: int) -> bool:
    if node.op_type == "Where":
        return index > 0
    if node.op_type == "Concat":
        return True
    if node.op_type == "Cast":
        return node.outputs[0].dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return node.op_type in ("Add", "Softmax") or (node.op_type in CARRIES and index == 0)


def is_bound(node: ir.Node, index: int) -> bool:
    """Whether an input limits the other input of a Clip, Max or Min: beyond the format's range it limits nothing."""
    return not node.domain and node.op_type in _BOUNDS and (node.op_type != "Clip" or index > 0)
