"""What was folded into weights: which values around two convolutions or products are the same, told by arithmetic.

A map by channel, y = a x + c, before or behind a convolution or product can be part of its weight and bias instead, and
a Pad of its `pads`. Where one model has such neighbours and the other has not, the two weights say which of the values
around the one are what the other reads and computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sardonyx import ir
from sardonyx.diff.pairs import Pairs
from sardonyx.diff.view import ABSENT, NodeView, View

STEPS = 6
"""Maps on either side of a weighted node that are looked at."""
SAMPLED = 4096
"""Elements of a weight that are compared."""
LARGEST = 1 << 24
"""Weights of more elements are not read again."""
NEAR = 1e-3
"""Largest difference of weights that are the same but for rounding, relative to the largest magnitude."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Map:
    """A map by channel.

    Attributes:
        value: Number of the value that it leads to, away from the weighted node.
        factor: Factors, of shape [channels] or [1].
        shift: What is added, of shape [channels] or [1].
        pads: Zeros padded on the way, at the starts of the spatial axes, then at their ends; empty for none.
    """

    value: int
    factor: Floats
    shift: Floats
    pads: tuple[int, ...] = ()

    def before(self, other: "_Map") -> "_Map":
        """Returns another map and then this one, as one map that leads where the other does."""
        pads = tuple(map(sum, zip(self.pads, other.pads, strict=True))) if self.pads and other.pads else ()
        factor, shift = self.factor * other.factor, self.factor * other.shift + self.shift
        return _Map(other.value, factor, shift, pads or self.pads or other.pads)


@dataclass(frozen=True, eq=False)
class _Linear:
    """A Conv, MatMul or Gemm of data with a constant weight.

    Attributes:
        view: The model.
        node: The node.
        operand: Number of the value that it reads.
        weight: Its weight, outputs first: of shape [outputs, inputs of a group, *kernel].
        bias: Its bias, of shape [outputs] or [1].
        groups: Groups of channels.
        pads: Zeros padded at the starts of the spatial axes, then at their ends; empty for a product.
        rest: What else its attributes say.
    """

    view: View
    node: NodeView
    operand: int
    weight: NDArray[np.generic]
    bias: Floats
    groups: int = 1
    pads: tuple[int, ...] = ()
    rest: tuple[object, ...] = ()

    @property
    def channel_axis(self) -> int:
        """Axis of the channels of what it reads and computes, counted from the end."""
        return 1 - self.weight.ndim if self.node.kind[1] == "Conv" else -1


def match_folded(pairs: Pairs, before: NodeView, after: NodeView) -> int | None:
    """Matches what two weighted nodes read and compute where one has neighbours that are part of the other's weight.

    Args:
        pairs: What is matched; more is added to it.
        before: A node of the first model.
        after: A node of the second that may do the same.

    Returns:
        How many values were matched; None where the weights do not tell.
    """
    if before.outputs[0] in pairs.forward and before.inputs[0] in pairs.forward:
        return None
    first, second = _linear(pairs.before, before), _linear(pairs.after, after)
    if first is None or second is None or first.weight.shape != second.weight.shape or first.rest != second.rest:
        return None
    for block, plain, swapped in ((first, second, False), (second, first, True)):
        ends = _ends(block, plain)
        if ends is not None:
            sides = zip(ends, (plain.operand, plain.node.outputs[0]), ("read", "computed"), strict=True)
            evidence = "{} with a weight into which what stood beside it was folded"
            return sum(
                pairs.add(*((other, value) if swapped else (value, other)), evidence.format(what))
                for value, other, what in sides
            )
    return None


def _linear(view: View, node: NodeView) -> _Linear | None:
    """A node as a linear map of data; None for what is none or whose weight is not at hand."""
    operator = node.kind[1] if not node.kind[0] else ""
    if operator not in ("Conv", "MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    data, weight = node.inputs[0], _array(view, node.inputs[1])
    bias = np.zeros(1) if len(node.inputs) < 3 or node.inputs[2] == ABSENT else _array(view, node.inputs[2])
    if data == ABSENT or data in view.constants or weight is None or bias is None:
        return None
    made = _Linear(view, node, data, weight, np.asarray(bias, np.float64).reshape(-1))
    if operator == "Conv":
        outer = 2 * (weight.ndim - 2)
        said = dict(node.attributes)
        pads = tuple(ir.attribute(node.node, "pads", [0] * outer))
        rest = tuple(item for item in said.items() if item[0] != "pads")
        return replace(made, groups=ir.attribute(node.node, "group", 1), pads=pads, rest=rest)
    turned = operator == "Gemm" and ir.attribute(node.node, "transB", 0)
    if weight.ndim != 2 or (dict(node.attributes).keys() - {"transB"}):
        return None
    return replace(made, weight=weight if turned else weight.T)


def _array(view: View, value: int) -> NDArray[np.generic] | None:
    """A constant of floats; None where a value is none or too large."""
    constant = view.constants.get(value)
    if constant is None or constant.tensor is None or constant.size > LARGEST:
        return None
    return ir.read_array(constant.tensor) if constant.tensor.dtype.is_floating_point() else None


def _ends(block: _Linear, plain: _Linear) -> tuple[int, int] | None:
    """Of the values around one node, those that another without neighbours reads and computes; None if none are."""
    places = np.unique(np.linspace(0, plain.weight.size - 1, min(SAMPLED, plain.weight.size)).astype(np.int64))
    wanted = plain.weight.reshape(-1)[places].astype(np.float64)
    ours = block.weight.reshape(-1)[places].astype(np.float64)
    rows, columns = np.unravel_index(places, plain.weight.shape)[:2]
    scale = np.abs(wanted).max(initial=0.0)
    best: tuple[float, tuple[int, int]] | None = None
    behind = list(_behind(block))
    for above in _above(block):
        taken = _by_input(block, above.factor)
        if taken is None or (above.pads or block.pads) != plain.pads or not np.isfinite(scale):
            continue
        scaled = ours * taken[rows, columns]
        for below in behind:
            apart = np.abs(scaled * np.broadcast_to(below.factor, len(block.weight))[rows] - wanted).max(initial=0.0)
            if apart > NEAR * scale or (best is not None and best[0] <= apart):
                continue
            if _same_bias(block, plain, above, below):
                best = apart, (above.value, below.value)
    return None if best is None else best[1]


def _by_input(node: _Linear, channels: Floats) -> Floats | None:
    """What belongs to input channels, at each output and input of its group; None where the count is another."""
    outputs, inputs = node.weight.shape[:2]
    if channels.size not in (1, inputs * node.groups):
        return None
    grouped = np.broadcast_to(channels, inputs * node.groups).reshape(node.groups, inputs)
    return np.repeat(grouped, outputs // node.groups, axis=0)


def _same_bias(block: _Linear, plain: _Linear, above: _Map, below: _Map) -> bool:
    shift = np.zeros(1)
    if above.shift.any():
        entered = _by_input(block, above.shift)
        if entered is None:
            return False
        kernel = block.weight.reshape(*block.weight.shape[:2], -1).sum(-1, dtype=np.float64)
        shift = (kernel * entered).sum(-1)
    bias = below.factor * (shift + block.bias) + below.shift
    scale = max(np.abs(part).max(initial=0.0) for part in (bias, plain.bias, below.factor * shift, below.shift))
    return bool(np.abs(bias - plain.bias).max(initial=0.0) <= NEAR * scale)


def _above(node: _Linear) -> Iterator[_Map]:
    """Yields maps from values further and further above a node to what it reads, the identity first."""
    found = _Map(node.operand, np.ones(1), np.zeros(1), node.pads)
    for _ in range(STEPS):
        yield found
        maker = node.view.maker(found.value)
        step = None if maker is None else _map(node, maker)
        if step is None or maker is None:
            return
        _, source = next(node.view.data(maker))
        found = found.before(replace(step, value=source))
        if any(found.pads) and found.shift.any():
            return  # zeros are padded behind the shift: no bias does the same


def _behind(node: _Linear) -> Iterator[_Map]:
    """Yields maps from what a node computes to values further and further behind, the identity first."""
    found = _Map(node.node.outputs[0], np.ones(1), np.zeros(1))
    for _ in range(STEPS):
        yield found
        readers = {position for position, _ in node.view.consumers[found.value]}
        users = [user for user in map(node.view.nodes.__getitem__, readers) if not user.transparent]
        step = _map(node, users[0]) if len(users) == 1 else None
        if step is None or step.pads:
            return
        found = replace(step.before(found), value=step.value)


def _map(node: _Linear, step: NodeView) -> _Map | None:
    """A node beside a weighted one as a map by channel that leads to what it computes; None for any other."""
    view, operator = node.view, step.kind[1] if not step.kind[0] else ""
    data = list(view.data(step))
    if len(data) != 1 or not step.outputs:
        return None
    if operator == "Pad":
        return _padding(node, step)
    arrays = [_array(view, value) for value in step.inputs if value in view.constants]
    constants = [np.asarray(array, np.float64) for array in arrays if array is not None]
    if len(constants) != len(arrays):
        return None
    if operator == "BatchNormalization" and node.node.kind[1] == "Conv" and len(constants) == 4:
        scale, shift, mean, variance = constants
        factor = scale / np.sqrt(variance + ir.attribute(step.node, "epsilon", 1e-5))
        return _Map(step.outputs[0], factor, shift - mean * factor)
    channels = _by_channel(constants[0], node.channel_axis) if len(constants) == 1 else None
    if channels is None or operator not in ("Add", "Sub", "Mul", "Div") or (operator == "Div" and data[0][0]):
        return None
    first = data[0][0] == 0
    factor, shift = {
        "Add": (np.ones(1), channels),
        "Sub": (np.ones(1), -channels) if first else (-np.ones(1), channels),
        "Mul": (channels, np.zeros(1)),
        "Div": (np.divide(1.0, channels, where=channels != 0, out=np.full_like(channels, np.inf)), np.zeros(1)),
    }[operator]
    return _Map(step.outputs[0], factor, shift)


def _by_channel(constant: Floats, axis: int) -> Floats | None:
    """A constant of one element, or of one for each channel; None for any other."""
    if constant.size == 1:
        return constant.reshape(1)
    return constant.reshape(-1) if constant.ndim >= -axis and constant.shape[axis] == constant.size else None


def _padding(node: _Linear, step: NodeView) -> _Map | None:
    """A Pad with zeros of spatial axes, whose pads are those of a convolution behind it."""
    spatial = node.weight.ndim - 2
    pads = node.view.constants.get(step.inputs[1]) if len(step.inputs) > 1 else None
    filled = _array(node.view, step.inputs[2]) if len(step.inputs) > 2 and step.inputs[2] != ABSENT else np.zeros(1)
    if node.node.kind[1] != "Conv" or len(step.inputs) > 3 or ir.attribute(step.node, "mode", "constant") != "constant":
        return None
    if pads is None or pads.tensor is None or filled is None or filled.any() or pads.size != 2 * (spatial + 2):
        return None
    starts, ends = ir.read_array(pads.tensor).reshape(2, spatial + 2).tolist()
    if any((*starts[:2], *ends[:2])):
        return None
    return _Map(step.outputs[0], np.ones(1), np.zeros(1), (*starts[2:], *ends[2:]))
