"""Between which numbers a value is known to lie."""

from math import inf

import numpy as np

from sardonyx import ir

Interval = tuple[float, float]
EVERYTHING: Interval = (-inf, inf)
LARGEST = float(np.finfo(np.float32).max)
"""What a Clip of FLOAT without bounds holds values to: it makes an infinity the largest number."""

RANGES: dict[str, Interval] = {
    **dict.fromkeys(("Abs", "Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Softplus", "Sqrt"), (0.0, inf)),
    **dict.fromkeys(("HardSigmoid", "Sigmoid", "Softmax"), (0.0, 1.0)),
    **dict.fromkeys(("Cos", "Erf", "Sin", "Softsign", "Tanh"), (-1.0, 1.0)),
}
"""What an operator computes lies within, whatever its inputs."""

BOUNDING = frozenset({"Clip", "Max", "Min", "Relu"})
"""Operators that hold their first input to bounds, where the others are constants of one element."""

MOVEMENT = frozenset({"Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose output holds only elements of their first input."""


def bounds(node: ir.Node) -> Interval | str:
    """Returns the bounds to which a Relu, Clip, Max or Min holds its first input, or why they are not known.

    The bounds of a Clip are attributes before opset 11; it has `LARGEST` where they are missing. Max and Min count with
    two inputs, the other of which is a constant of one element.
    """
    if node.op_type == "Relu":
        return (0.0, inf)
    if node.op_type == "Clip":
        low, high = (_number(node, index) for index in (1, 2))
        if low is None or high is None:
            return f"the bounds of {node.name} are not constant"
        return max(low, ir.attribute(node, "min", -LARGEST)), min(high, ir.attribute(node, "max", LARGEST))
    number = next((n for n in (_number(node, 0), _number(node, 1)) if n is not None), None)
    if number is None or len(node.inputs) != 2:
        return f"the other input of {node.name} is not a constant of one element"
    return (number, inf) if node.op_type == "Max" else (-inf, number)


def known_range(value: ir.Value) -> Interval:
    """Returns the bounds between which a value is known to lie: at the least, minus to plus infinity."""
    node = value.producer()
    while node is not None and node.op_type in MOVEMENT and not node.domain and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.domain:
        return EVERYTHING
    if node.op_type in BOUNDING:
        held = bounds(node)
        return EVERYTHING if isinstance(held, str) or held[0] > held[1] else held
    return RANGES.get(node.op_type, EVERYTHING)


def _number(node: ir.Node, index: int) -> float | None:
    """The constant of one element at an input; its default where a Clip has none, None for another value."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return {1: -LARGEST, 2: LARGEST}[index] if node.op_type == "Clip" else None
    tensor = ir.constant_tensor(value)
    return None if tensor is None or tensor.size != 1 else float(tensor.numpy().item())
