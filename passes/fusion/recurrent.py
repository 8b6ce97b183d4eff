"""Rules for recurrent operators."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from sardonyx import ir
from sardonyx.passes.rewriting.pattern import Match, Op
from sardonyx.passes.rewriting.rule import Editor, Rule

STATES: Mapping[str, tuple[int, ...]] = {"RNN": (5,), "GRU": (5,), "LSTM": (5, 6)}
"""Inputs that hold initial states; ONNX takes absent ones for zero."""
MOVES = frozenset(
    ("Identity", "Reshape", "Slice", "Split", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Tile", "Gather")
)
"""Operators whose first output has no elements but those of their first input."""
MAX_BYTES = 1 << 20


def is_zero(value: ir.Value | None) -> bool:
    """Whether all elements of a value are zero, whatever its size: a constant, a filling, or moved from one."""
    if value is None:
        return False
    tensor = ir.constant_tensor(value)
    if tensor is not None:
        return tensor.nbytes <= MAX_BYTES and not np.any(tensor.numpy())
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "ConstantOfShape":
        filling = ir.attribute(node, "value", None)
        return filling is None or not np.any(filling.numpy())
    return node.op_type in MOVES and is_zero(node.inputs[0])


def _zero_states(node: ir.Node) -> tuple[int, ...]:
    return tuple(i for i in STATES[node.op_type] if i < len(node.inputs) and is_zero(node.inputs[i]))


def _starts_elsewhere(node: ir.Node) -> str | None:
    return None if _zero_states(node) else f"no initial state of {node.name} is known to be zero"


class RemoveZeroState(Rule):
    """An initial state of zeros is the default of LSTM, GRU and RNN."""

    name = "remove-zero-state"
    summary = "initial states of zeros of LSTM, GRU and RNN go, and what computes them"
    pattern: ClassVar[Op] = Op(tuple(STATES), open_inputs=True, fits=_starts_elsewhere)

    def rewrite(self, found: Match, editor: Editor) -> tuple[ir.Value, ...]:
        """Builds the operator without the states that are zero."""
        root = found.root
        zero = _zero_states(root)
        inputs = [None if index in zero else value for index, value in enumerate(root.inputs)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        attributes = list(root.attributes.values())
        outputs = tuple(editor.node(root.op_type, inputs, attributes, outputs=len(root.outputs)))
        for old, new in zip(root.outputs, outputs, strict=True):
            new.name = new.name if old.name else ""  # ONNX's way to leave an output out
        return outputs


RULES = (RemoveZeroState(),)
